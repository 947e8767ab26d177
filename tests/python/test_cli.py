"""The command as a user meets it: help, statuses, wrong input, what goes to stdout."""
import fcntl
import json
import os
import re
import shutil
import struct
import subprocess
import termios

import lance
import numpy as np
import pyarrow as pa
import pytest

from helpers import PILUM, create_index, index_named, make_vectors, pilum, pilum_ok, table_of, tree_state, write

COMMANDS = ("create-index", "plan", "inspect", "search", "verify", "optimize", "gc", "version")
DIM = 24


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "t.lance"
    write(path, make_vectors(1_000, DIM), max_rows_per_file=400)
    return path


def build_words(path, **changes):
    """A create-index that would work, with some options changed; None leaves one out."""
    options = {"column": "vec", "type": "IVF_PQ", "num-partitions": 4, "num-sub-vectors": 6, **changes}
    words = ["create-index", path]
    for name, value in options.items():
        if value is not None:
            words += ["--" + name, value]
    return words


def assert_refused(run, status, *hints):
    """One line on stderr that names the trouble, nothing on stdout."""
    assert run.status == status, f"status {run.status}: {run.stderr}"
    assert run.stdout == ""
    lines = run.stderr.strip().splitlines()
    assert len(lines) == 1, run.stderr
    for hint in hints:
        assert hint.lower() in lines[0].lower(), f"'{hint}' is not in: {lines[0]}"


def documents(table, tmp_path):
    """What each command that makes a document prints with --json."""
    np.save(tmp_path / "q.npy", np.ones(DIM, np.float32))
    yield pilum_ok(*build_words(table), "--json")
    yield pilum_ok("plan", *build_words(table)[1:], "--json")
    yield pilum_ok("inspect", table, "--json")
    yield pilum_ok("search", table, "--column", "vec", "--vector", tmp_path / "q.npy", "--json")
    yield pilum_ok("verify", table, "--index", "vec_idx", "--json")
    yield pilum_ok("gc", table, "--json")
    yield pilum_ok("version", "--json")


def test_documents_are_indented_alike(table, tmp_path):
    for run in documents(table, tmp_path):
        assert run.stdout.startswith('{\n "') and run.stdout.endswith("\n}\n"), run.stdout[:40]


# ---- help and version ------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(command):
    run = pilum_ok(command, "--help")
    assert command in run.stdout
    assert run.stderr == ""


def test_help():
    run = pilum_ok("--help")
    for command in COMMANDS:
        assert command in run.stdout


def test_no_command_at_all():
    run = pilum()
    assert run.status == 2
    assert run.stdout == ""


def test_version():
    assert "0.1.0" in pilum_ok("version").stdout
    assert pilum_ok("version", "--json").json["pilum"] == "0.1.0"
    assert pilum_ok("version", "-v", "--json", env={"PILUM_SIMD": "scalar"}).json["kernels"] == "scalar"


# ---- wrong whatever the table holds: status 2 ---------------------------------------------


@pytest.mark.parametrize("changes, hint", [
    ({"num-partitions": 0}, "num-partitions"),
    ({"num-partitions": -3}, "num-partitions"),
    ({"num-partitions": "many"}, "num-partitions"),
    ({"num-partitions": "4x"}, "num-partitions"),
    ({"num-partitions": "99999999999999999999999"}, "num-partitions"),
    ({"metric": "manhattan"}, "manhattan"),
    ({"type": "IVF_HNSW_PQ"}, "IVF_HNSW_PQ"),
    ({"type": None}, "type"),
    ({"column": None}, "column"),
    ({"num-bits": 7}, "num-bits"),
    ({"num-bits": ""}, "num-bits"),
    ({"memory-budget": "lots"}, "memory-budget"),
    ({"memory-budget": "4 QiB"}, "memory-budget"),
    ({"fragments": "3-"}, "fragments"),
    ({"fragments": "5-2"}, "fragments"),
    ({"verify": "maybe"}, "verify"),
    ({"progress": "loud"}, "progress"),
    ({"colour": "red"}, "colour"),
    ({"seed": "x"}, "seed"),
    ({"threads": -1}, "threads"),
    ({"threads": 1025}, "from 1 to 1024"),
    ({"name": b"\xff"}, "utf-8"),
    ({"z": 1}, "unknown option --z; see"),
    ({"storage-option": "novalue"}, "storage-option"),
], ids=str)
def test_wrong_in_itself(table, changes, hint):
    before = tree_state(table)
    assert_refused(pilum(*build_words(table, **changes)), 2, hint)
    assert_refused(pilum(*build_words(table, **changes), "--json"), 2, hint)
    assert tree_state(table) == before


def test_unknown_command():
    assert_refused(pilum("make-index"), 2, "make-index")


def test_missing_table_argument():
    assert_refused(pilum("create-index", "--column", "vec", "--type", "IVF_PQ"), 2, "table")


def test_option_without_a_value(table):
    assert_refused(pilum("create-index", table, "--column"), 2, "column")


# ---- what the table or the machine decides: status 1 ----------------------------------------


@pytest.mark.parametrize("changes, hints", [
    ({"column": "nothing"}, ("nothing",)),
    ({"column": "id"}, ("id",)),
    ({"num-sub-vectors": 7}, ("7", "24")),
    ({"memory-budget": "1KiB"}, ("budget",)),
    ({"fragments": "99"}, ("99",)),
    ({"fragments": "0,1,99"}, ("99",)),
    ({"ivf-centroids": "absent.npy"}, ("absent.npy",)),
], ids=str)
def test_wrong_for_this_table(table, changes, hints):
    before = tree_state(table)
    assert_refused(pilum(*build_words(table, **changes)), 1, *hints)
    assert_refused(pilum(*build_words(table, **changes), "--json"), 1, *hints)
    assert tree_state(table) == before


@pytest.mark.parametrize("name, column", [
    ("text", pa.array(["a", "b"] * 50)),
    ("int8", pa.FixedSizeListArray.from_arrays(pa.array(np.ones(2_400, dtype=np.int8)), DIM)),
    ("uint8", pa.FixedSizeListArray.from_arrays(pa.array(np.ones(2_400, dtype=np.uint8)), DIM)),
    ("list", pa.array([[1.0] * DIM] * 100)),
], ids=["text", "int8", "uint8", "list"])
def test_column_types_that_cannot_be_indexed(tmp_path, name, column):
    path = tmp_path / "t.lance"
    lance.write_dataset(pa.table({"id": range(100), "vec": column}), str(path))
    before = tree_state(path)
    assert_refused(pilum(*build_words(path)), 1, "vec", {"text": "string"}.get(name, name))
    assert tree_state(path) == before


def test_no_such_table(tmp_path):
    assert_refused(pilum(*build_words(tmp_path / "nowhere.lance")), 1, "nowhere.lance")
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_no_table(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    assert_refused(pilum(*build_words(tmp_path)), 1, str(tmp_path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]


def test_file_that_is_no_table(tmp_path):
    (tmp_path / "t.lance").write_text("hello")
    assert_refused(pilum(*build_words(tmp_path / "t.lance")), 1, "t.lance")


@pytest.mark.parametrize("command", [["inspect"], ["plan", "--column", "vec", "--type", "IVF_SQ"], ["gc"]], ids=str)
def test_location_that_lance_could_not_open(table, command):
    path = os.fsencode(table.parent) + b"/\xff.lance"
    os.rename(table, path)
    done = subprocess.run([PILUM, command[0], path, *command[1:]], capture_output=True, timeout=60)
    assert done.returncode == 2
    assert b"must be UTF-8" in done.stderr


@pytest.mark.parametrize("scheme", ["gs", "az", "ftp"])
def test_unknown_scheme(scheme):
    assert_refused(pilum(*build_words(f"{scheme}://bucket/t.lance")), 1, scheme)


@pytest.mark.parametrize("vectors", [np.zeros((0, DIM), np.float32), np.full((50, DIM), np.nan, np.float32)],
                         ids=["empty", "nan"])
def test_nothing_to_index(tmp_path, vectors):
    path = tmp_path / "t.lance"
    write(path, vectors)
    before = tree_state(path)
    assert_refused(pilum(*build_words(path), "--progress", "none"), 1, "nothing to index")
    assert tree_state(path) == before
    assert not (path / "_pilum").exists()


def test_optimize_says_that_it_is_not_built(table):
    create_index(table, "vec", "FLAT", partitions=4)
    assert_refused(pilum("optimize", table, "--index", "vec_idx"), 1, "not built")


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_no_such_index(table, command):
    assert_refused(pilum(command, table, "--index", "absent"), 1, "absent")


# ---- damaged files ------------------------------------------------------------------------


def data_file(path):
    return sorted((path / "data").glob("*.lance"))[0]


def flip(file, offset):
    content = bytearray(file.read_bytes())
    content[offset] ^= 0x40
    file.write_bytes(content)


def cut(file, n_bytes):
    os.truncate(file, n_bytes)


DAMAGE = {
    "empty": lambda file: cut(file, 0),
    "half": lambda file: cut(file, file.stat().st_size // 2),
    "one byte short": lambda file: cut(file, file.stat().st_size - 1),
    "magic": lambda file: flip(file, -1),
    "version": lambda file: flip(file, -6),
    "column count": lambda file: flip(file, -12),
    "table offset": lambda file: flip(file, -28),
    "metadata offset": lambda file: flip(file, -34),
    "missing": lambda file: file.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_data_file(table, damage):
    file = data_file(table)
    DAMAGE[damage](file)
    before = tree_state(table)
    assert_refused(pilum(*build_words(table)), 1, file.name)
    after = {path: content for path, content in tree_state(table).items() if not path.startswith("_pilum")}
    assert after == before


def test_data_file_that_is_shortened_while_it_is_read(tmp_path):
    """The sample may be pages of the table's files: one that is gone must not end the command by a signal."""
    path = tmp_path / "t.lance"
    write(path, make_vectors(40_000, 128))
    file = data_file(path)
    whole = file.read_bytes()
    words = ["create-index", path, "--column", "vec", "--type", "IVF_SQ", "--num-partitions", "1000", "--json"]
    running = subprocess.Popen([PILUM, *map(str, words), "--progress", "json"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    for line in running.stderr:
        if '"train"' in line:
            cut(file, 5_000)
            break
    last = running.communicate(timeout=60)[1].strip().splitlines()[-1]
    assert running.returncode == 1, last
    assert "shortened" in last or file.name in last
    file.write_bytes(whole)
    pilum_ok(*words)


@pytest.mark.parametrize("at", [-1, -9, -16, 5], ids=str)
def test_damaged_manifest(table, at):
    manifest = sorted((table / "_versions").glob("*.manifest"))[0]
    flip(manifest, at)
    before = tree_state(table)
    run = pilum(*build_words(table))
    if at == 5 and run.status == 0:
        return  # a flipped bit inside a value may still be a manifest
    assert_refused(run, 1, manifest.name)
    assert tree_state(table) == before


# ---- what comes back --------------------------------------------------------------------------

PHASES = ("plan", "train", "encode", "merge", "verify", "commit")
REPORT_KEYS = {"pilum", "table", "version_read", "version_committed", "index", "rows", "partitions", "training", "quality",
               "seconds", "resources", "plan", "resumed"}


def test_report_has_every_key(table, tmp_path):
    run = pilum_ok(*build_words(table), "--json", "--report", tmp_path / "r.json")
    report = run.json
    assert json.loads((tmp_path / "r.json").read_text()) == report
    assert set(report) == REPORT_KEYS
    assert set(report["index"]) == {"name", "uuid", "type", "metric", "num_partitions", "num_sub_vectors", "num_bits"}
    assert set(report["rows"]) >= {"total", "indexed", "dropped"}
    assert set(report["rows"]["dropped"]) == {"deleted", "null", "nonfinite", "zero"}
    assert set(report["partitions"]) == {"empty", "max", "mean", "cv", "sizes"}
    assert set(report["training"]) == {"sample_rows", "ivf_loss", "pq_error"}
    assert set(report["quality"]) == {"recall_at_10", "checked_rows", "misfiled"}
    assert set(report["seconds"]) == {"plan", "train", "encode", "merge", "verify", "commit", "total"}
    assert set(report["resources"]) == {"peak_rss_bytes", "cpu_seconds", "memory_budget_bytes", "threads", "kernels", "bytes_read",
                                        "bytes_written", "requests"}
    assert set(report["resources"]["cpu_seconds"]) == set(report["seconds"])
    assert set(report["resources"]["requests"]) == {"get", "put", "list", "delete", "retried"}
    assert report["index"]["name"] == "vec_idx"
    assert report["quality"]["misfiled"] == 0
    assert report["resources"]["peak_rss_bytes"] <= 1.05 * report["resources"]["memory_budget_bytes"]


def test_report_through_a_link_and_into_a_pipe(table, tmp_path):
    """A link stays a link; what is no regular file (for root that may be a device) is written to, never replaced."""
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    pilum_ok(*build_words(table), "--report", tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text())["version_committed"] == 2

    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    run = pilum_ok(*build_words(table), "--json", "--report", tmp_path / "pipe")
    assert json.loads(os.read(reader, 1 << 16)) == run.json
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
    assert_refused(pilum(*build_words(table), "--report", tmp_path), 1, "directory")


def test_closed_standard_error_is_no_file_of_ours(table, tmp_path):
    """The next file to be opened would take its number, and what is said there would be written into it."""
    words = [*build_words(table), "--progress", "plain", "--report", tmp_path / "r.json"]
    subprocess.run(["sh", "-c", 'exec "$0" "$@" 2>&- <&-', PILUM, *map(str, words)], stdout=subprocess.DEVNULL, timeout=60,
                   check=True)
    assert json.loads((tmp_path / "r.json").read_text())["version_committed"] == 2


def test_names_cannot_steer_the_terminal(tmp_path):
    path = tmp_path / "t.lance"
    lance.write_dataset(table_of(make_vectors(300, DIM), column="v\x1b[31mec\x9b\n"), str(path))
    pilum_ok("create-index", path, "--column", "v\x1b[31mec\x9b\n", "--type", "IVF_FLAT", "--name", "a\x1b]0;b\nc\x7f")
    seen = pilum_ok("inspect", path)
    assert not set("\x1b\x9b\x7f") & set(seen.stdout)
    assert "a?]0;b?c?" in seen.stdout and "v?[31mec??" in seen.stdout
    assert pilum_ok("inspect", path, "--json").json["indexes"][0]["name"] == "a\x1b]0;b\nc\x7f"
    assert not set("\x1b\x9b\x7f") & set(pilum("inspect", path, "--index", "a\x1b").stderr)


@pytest.mark.parametrize("progress", ["auto", "bar", "plain", "json", "none"])
def test_stdout_holds_the_document_alone(table, progress):
    run = pilum_ok(*build_words(table), "--json", "--progress", progress)
    assert run.json["rows"]["indexed"] == 1_000
    if progress == "none":
        assert run.stderr == ""
    if progress == "plain":
        assert [line.split(":")[0] for line in run.stderr.splitlines()] == list(PHASES)
    if progress == "json":
        assert all(isinstance(json.loads(line), dict) for line in run.stderr.splitlines())


@pytest.mark.parametrize("columns", [9, 20, 45, 100])
def test_the_bar_fits_the_terminal(table, columns):
    """No line is longer than the terminal is wide, and narrow ones show numbers rather than a bar."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    words = [str(PILUM), *map(str, build_words(table)), "--progress", "bar", "--json"]
    subprocess.run(words, stdout=subprocess.PIPE, stderr=theirs, timeout=60, check=True)
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 1 << 16)
        except OSError:  # the end
            break
    os.close(ours)
    stay = [line.rstrip("\r").split("\r")[-1] for line in shown.decode().split("\n")]
    assert [line.split()[0] for line in stay if line] == list(PHASES)
    lines = re.split("[\r\n]+", shown.decode())
    assert any(line.startswith("encode") for line in lines)
    assert max(map(len, lines)) < columns
    assert columns < 20 or any("100%" in line for line in lines)


def test_one_of_a_thing(tmp_path):
    path = tmp_path / "t.lance"
    write(path, make_vectors(1, DIM))
    assert "1 row, largest 1" in pilum_ok("create-index", path, "--column", "vec", "--type", "IVF_SQ").stdout
    seen = pilum_ok("inspect", path).stdout
    assert "1 row in 1 fragment\n" in seen and "1 fragment, 1 row in 1 partition (" in seen
    assert "1 row checked, 0 misfiled, 0 problems" in pilum_ok("verify", path, "--index", "vec_idx").stdout
    assert "1 row from 1 partition, 1 compared" in pilum_ok("search", path, "--column", "vec", "--row", 0).stdout


def test_gc_for_people(table):
    assert pilum_ok("gc", table).stdout == "nothing was left behind\n"
    (table / "_pilum" / ("0" * 32)).mkdir(parents=True)
    (table / "_pilum" / ("0" * 32) / "run-0").write_bytes(bytes(5_000))
    assert re.fullmatch("unfinished builds\n  0{32}, 4.9 KiB, [0-9] s old\n", pilum_ok("gc", table).stdout)
    assert "0 s old: removed\n" in re.sub("[0-9] s", "0 s", pilum_ok("gc", table, "--yes").stdout)
    assert not (table / "_pilum").exists()


def test_summary_for_people(table):
    run = pilum_ok(*build_words(table))
    assert "1,000" in run.stdout or "1000" in run.stdout
    assert "recall" in run.stdout.lower()


def test_plan_touches_nothing(table):
    before = tree_state(table)
    words = build_words(table)
    words[0] = "plan"
    plan = pilum_ok(*words, "--json").json
    assert set(plan) >= {"plan", "rows", "index", "tasks", "notes"}
    assert plan["rows"]["total"] == 1_000
    assert tree_state(table) == before


def test_inspect(table):
    create_index(table, "vec", "SQ", partitions=4)
    seen = pilum_ok("inspect", table, "--json").json
    assert set(seen) >= {"table", "version", "rows", "fragments", "columns", "indexes"}
    (index,) = seen["indexes"]
    assert (index["name"], index["type"], index["metric"], index["column"]) == ("vec_idx", "IVF_SQ", "l2", "vec")
    (segment,) = index["segments"]
    assert segment["rows"] == 1_000
    assert pilum_ok("inspect", table, "--index", "vec_idx").stdout


@pytest.mark.parametrize("words", [[], ["--full"], ["--queries", "20"]], ids=str)
@pytest.mark.parametrize("kind", ["FLAT", "SQ", "PQ8"])
def test_verify_a_good_index(table, kind, words):
    create_index(table, "vec", kind, partitions=4, **({"num_sub_vectors": 6} if kind == "PQ8" else {}))
    seen = pilum_ok("verify", table, "--index", "vec_idx", "--json", *words).json
    assert seen["problems"] == []
    assert seen["misfiled"] == 0
    assert seen["checked_rows"] > 0


def test_verify_finds_a_damaged_index(table):
    create_index(table, "vec", "FLAT", partitions=4)
    (segment,) = index_named(lance.dataset(str(table)), "vec_idx").segments
    file = table / "_indices" / str(segment.uuid) / "auxiliary.idx"
    content = bytearray(file.read_bytes())
    at = content.index(np.uint64(1 << 32).tobytes())  # the row id of fragment 1, offset 0
    content[at] ^= 0x08
    file.write_bytes(content)
    assert pilum("verify", table, "--index", "vec_idx", "--full").status == 1


def test_verify_finds_what_stock_lance_would_stumble_over(table):
    """Bytes behind the end, which only a reader that asks for the size meets; the description of a column without rows."""
    create_index(table, "vec", "SQ", partitions=4)
    (segment,) = index_named(lance.dataset(str(table)), "vec_idx").segments
    folder = table / "_indices" / str(segment.uuid)
    good = {name: (folder / name).read_bytes() for name in ("index.idx", "auxiliary.idx")}
    for name in good:
        (folder / name).write_bytes(good[name] + b"more")
        run = pilum("verify", table, "--index", "vec_idx", "--json")
        (problem,) = run.json["problems"]
        assert run.status == 1
        assert (problem["kind"], problem["where"], problem["expected"]) == ("size", name, len(good[name]))
        (folder / name).write_bytes(good[name])
    broken = bytearray(good["index.idx"])
    broken[good["index.idx"].rindex(b"ColumnEncoding")] ^= 1
    (folder / "index.idx").write_bytes(broken)
    assert pilum("verify", table, "--index", "vec_idx").status == 1


# ---- options that shape the result -----------------------------------------------------------------


def test_values_near_the_end_of_float32(tmp_path):
    path = tmp_path / "t.lance"
    write(path, np.random.default_rng(0).uniform(-3.4e38, 3.4e38, (500, DIM)).astype(np.float32))
    assert_refused(pilum(*build_words(path, progress="none")), 1, 'column "vec"', "beyond", "3.4e38", "IVF_SQ")
    pilum_ok(*build_words(path, type="IVF_SQ", **{"num-sub-vectors": None}))
    assert pilum_ok("search", path, "--column", "vec", "--row", 7, "-k", 3, "--nprobes", 4, "--json").json["rows"]
    rows = pilum_ok("search", path, "--column", "vec", "--row", 7, "-k", 3, "--exact", "--json").json["rows"]
    assert rows[0] == {"rowid": 7, "distance": 0.0} and rows[1]["distance"] is None  # beyond float32


def test_float64_rows_beyond_float32(tmp_path):
    """A cosine index takes them, so a search for one of them does."""
    path = tmp_path / "t.lance"
    vectors = np.random.default_rng(0).normal(size=(600, DIM)) * 1e100
    vectors[3], vectors[4] = 0, vectors[4] * 1e-100
    write(path, vectors, "f64")
    pilum_ok(*build_words(path, type="IVF_FLAT", metric="cosine", **{"num-sub-vectors": None}))
    unit = vectors / np.maximum(np.linalg.norm(vectors / 1e100, axis=1, keepdims=True) * 1e100, 1e-300)
    nearest = np.argsort(-unit @ unit[5])[:3].tolist()
    for words in ([], ["--refine-factor", "4"], ["--exact"]):
        rows = pilum_ok("search", path, "--column", "vec", "--row", 5, "-k", 3, "--nprobes", 4, "--json", *words).json["rows"]
        assert [row["rowid"] for row in rows] == nearest
    assert_refused(pilum("search", path, "--column", "vec", "--row", 3, "--exact"), 1, "zero")
    np.save(tmp_path / "q.npy", vectors[5])
    assert_refused(pilum("search", path, "--column", "vec", "--vector", tmp_path / "q.npy"), 2, "float32")


def test_fragments(table):
    report = create_index(table, "vec", "FLAT", partitions=4, fragments="0,2")
    assert report["rows"]["indexed"] == 600
    (segment,) = index_named(lance.dataset(str(table)), "vec_idx").segments
    assert set(segment.fragment_ids) == {0, 2}


def test_more_partitions_than_rows(tmp_path):
    path = tmp_path / "t.lance"
    write(path, make_vectors(10, DIM))
    report = create_index(path, "vec", "FLAT", partitions=64)
    assert report["index"]["num_partitions"] == 10


def test_no_replace(table):
    create_index(table, "vec", "FLAT", partitions=4)
    assert_refused(pilum(*build_words(table), "--no-replace"), 1, "vec_idx")
    assert pilum_ok(*build_words(table), "--replace").status == 0


def test_given_centroids_and_codebook(table, tmp_path):
    centroids = make_vectors(5, DIM, seed=3)
    codebook = np.random.default_rng(1).normal(size=(6, 256, 4)).astype(np.float32)
    np.save(tmp_path / "c.npy", centroids)
    np.save(tmp_path / "b.npy", codebook)
    changes = {"num-partitions": 5, "ivf-centroids": tmp_path / "c.npy", "pq-codebook": tmp_path / "b.npy"}
    pilum_ok(*build_words(table, **changes))
    model = lance.dataset(str(table)).get_ivf_model("vec_idx")
    assert np.array_equal(np.asarray(model.centroids.to_pylist(), dtype=np.float32), centroids)


def test_file_uri_and_relative_path(table, tmp_path):
    pilum_ok(*build_words(f"file://{table}"))
    shutil.rmtree(table / "_indices")
    pilum_ok(*build_words("t.lance"), cwd=tmp_path)


def test_tags(tmp_path):
    """A tag names a version, of a branch, too; what it names is not said twice."""
    path = tmp_path / "t.lance"
    dataset = write(path, make_vectors(300, DIM))
    dataset.tags.create("first", 1)
    lance.write_dataset(table_of(make_vectors(50, DIM), first_id=300), str(path), mode="append")
    assert pilum_ok("inspect", path, "--tag", "first", "--json").json["rows"] == 300
    built = pilum_ok(*build_words(path, type="IVF_FLAT", tag="first", **{"num-sub-vectors": None}), "--json").json
    assert (built["version_read"], built["version_committed"], built["rows"]["indexed"]) == (1, 3, 300)
    branch = lance.dataset(str(path)).create_branch("dev")
    branch.tags.create("ours", ("dev", None))
    seen = pilum_ok("inspect", path, "--tag", "ours", "--json").json
    assert (seen["branch"], seen["rows"]) == ("dev", 350)
    assert_refused(pilum("inspect", path, "--tag", "none"), 1, "has no tag 'none'")
    assert_refused(pilum("inspect", path, "--tag", "../x"), 2, "no tag name")
    assert_refused(pilum("inspect", path, "--tag", "first", "--at-version", 1), 2, "--at-version")


def test_appended_rows_count_for_a_later_build(table):
    create_index(table, "vec", "FLAT", partitions=4)
    lance.write_dataset(table_of(make_vectors(50, DIM, 2), first_id=9_000), str(table), mode="append")
    assert create_index(table, "vec", "FLAT", partitions=4)["rows"]["indexed"] == 1_050
