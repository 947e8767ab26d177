"""The memory budget holds: the command's peak resident memory stays within 105 % of it.

The peak is ru_maxrss as a small parent sees it (tests/tools/peak_rss.c): the kernel's own count, mapped pages
included. Tables are small, so budgets are, too: what does not shrink with the table shows the sooner.
"""
import json
import json
import os
import re
import shutil
import subprocess
import sys

import lance
import numpy as np
import pyarrow as pa
import pytest
from lance.file import LanceFileReader

from helpers import PILUM, ROOT, index_named, pilum

PEAK_RSS = os.environ.get("PILUM_PEAK_RSS", str(ROOT / "build" / "tests" / "peak_rss"))
SMALL_MACHINE = str(ROOT / "build" / "tests" / "small_machine.so")
MIB = 1 << 20
TYPES = ("IVF_FLAT", "IVF_SQ", "IVF_PQ")
ELEMENTS = {"f16": np.float16, "f32": np.float32, "f64": np.float64}


def make_table(path, rows, dim, fragments=2, element="f32", heavy=False, nulls=False, stable=False, deleted=False):
    """Clusters of vectors, written in pieces; heavy: nine rows in ten are one and the same."""
    rng = np.random.default_rng(7)
    axes = rng.normal(size=(12, dim)).astype(np.float32)
    per_file = -(-rows // fragments)
    schema = pa.schema([("id", pa.int64()), ("vec", pa.list_(pa.from_numpy_dtype(ELEMENTS[element]), dim))])

    def batches():
        at = 0
        while at < rows:
            n = min(per_file, rows - at, 8192)
            x = rng.normal(size=(n, 12)).astype(np.float32) @ axes
            if heavy:
                x[rng.random(n) < 0.9] = axes[0]
            values = pa.array(x.astype(ELEMENTS[element]).reshape(-1))
            mask = pa.array(rng.random(n) < 0.1) if nulls else None
            yield pa.record_batch([pa.array(np.arange(at, at + n)),
                                   pa.FixedSizeListArray.from_arrays(values, dim, mask=mask)], schema=schema)
            at += n

    dataset = lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches()), str(path),
                                  max_rows_per_file=per_file, enable_stable_row_ids=stable)
    if deleted:
        dataset.delete("id % 3 = 1")
    return path


def build(path, kind, budget_mib, *more, files=None):
    """Status, stderr and peak in MiB of one build."""
    peak = str(path) + ".peak"
    words = [PEAK_RSS, peak, PILUM, "create-index", path, "--column", "vec", "--type", kind, "--progress", "none",
             "--memory-budget", f"{budget_mib}MiB", *more]
    shell = ["sh", "-c", f"ulimit -n {files}; exec \"$@\"", "sh"] if files else []
    done = subprocess.run([*shell, *map(str, words)], capture_output=True, text=True, timeout=900)
    with open(peak) as f:
        return done.returncode, done.stderr, int(f.read()) / 1024


def check_build(path, kind, budget_mib, *more, files=None):
    status, stderr, peak = build(path, kind, budget_mib, *more, files=files)
    assert status == 0, stderr
    assert peak <= 1.05 * budget_mib, f"{kind} {more}: peak {peak:.1f} MiB, budget {budget_mib} MiB"
    dataset = lance.dataset(str(path))
    assert index_named(dataset, "vec_idx")
    dim = dataset.schema.field("vec").type.list_size
    found = dataset.to_table(columns=["id"], nearest={"column": "vec", "q": np.ones(dim, np.float32), "k": 5,
                                                     "nprobes": 16})
    assert len(found) == 5


def smallest(path, kind, *more):
    """The smallest budget, as the refusal of a tiny one names it; nothing is done then."""
    run = pilum("create-index", path, "--column", "vec", "--type", kind, "--memory-budget", "1MiB", *more)
    named = re.search(r"(\d+) MiB is the smallest", run.stderr)
    assert run.status == 1 and named, run.stderr
    assert not os.path.exists(os.path.join(path, "_indices"))
    return int(named.group(1))


# ---- the short matrix ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
def test_smallest_budget_is_enough(tmp_path, kind):
    path = make_table(tmp_path / "t.lance", 40_000, 96)
    least = smallest(path, kind, "--num-partitions", 60)
    assert least < 48
    status, stderr, _ = build(path, kind, least - 3, "--num-partitions", 60)
    assert status == 1 and "smallest" in stderr
    check_build(path, kind, least, "--num-partitions", 60)


@pytest.mark.parametrize("threads", (1, 8))
@pytest.mark.parametrize("full", ([], ["--full"]), ids=("sample", "full"))
@pytest.mark.parametrize("kind", TYPES)
def test_smallest_budget_of_a_check(tmp_path, kind, full, threads):
    """It is named before any work, is enough, holds, and finds what a larger one finds."""
    path = make_table(tmp_path / "t.lance", 10_000, 96)
    assert pilum("create-index", path, "--column", "vec", "--type", kind, "--num-partitions", 60).status == 0
    words = ["verify", path, "--index", "vec_idx", *full, "--threads", threads]
    refused = pilum(*words, "--memory-budget", "1MiB")
    named = re.search(r"(\d+) MiB is the smallest that would do to check index \"vec_idx\"", refused.stderr)
    assert refused.status == 1 and refused.stdout == "" and named, refused.stderr
    peak = str(path) + ".peak"
    checked = subprocess.run([PEAK_RSS, peak, PILUM, *map(str, words), "--memory-budget", f"{named.group(1)}MiB"],
                             capture_output=True, text=True, timeout=300)
    assert checked.returncode == 0, checked.stderr
    assert int(open(peak).read()) / 1024 <= 1.05 * int(named.group(1))
    assert checked.stdout == pilum(*words).stdout


def test_exact_search_within_little(tmp_path):
    """Batches are made from what the budget leaves; the answer is the same."""
    path = make_table(tmp_path / "t.lance", 40_000, 96)
    peak = str(path) + ".peak"
    words = ["search", path, "--column", "vec", "--row", "5", "--exact", "--json", "--threads", "8"]
    run = subprocess.run([PEAK_RSS, peak, PILUM, *map(str, words), "--memory-budget", "14MiB"], capture_output=True,
                         text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert int(open(peak).read()) / 1024 <= 1.05 * 14
    assert json.loads(run.stdout)["rows"] == pilum(*words).json["rows"]


@pytest.mark.parametrize("kind", TYPES)
def test_many_threads(tmp_path, kind):
    path = make_table(tmp_path / "t.lance", 40_000, 128)
    check_build(path, kind, 48, "--num-partitions", 40, "--threads", 8)


def test_sample_beyond_the_budget(tmp_path):
    """The sample is the whole table, and larger than the budget: spilled, for the codebook, too."""
    path = make_table(tmp_path / "t.lance", 40_000, 256)
    least = smallest(path, "IVF_PQ", "--num-partitions", 160)
    assert least * MIB < 40_000 * 256 * 4
    check_build(path, "IVF_PQ", least, "--num-partitions", 160)


def test_projected_rows_beyond_the_budget(tmp_path):
    """Both the sample and its rows on the axes are larger than the budget; the index is the same."""
    path = make_table(tmp_path / "t.lance", 120_000, 128)
    twin = shutil.copytree(path, tmp_path / "u.lance")
    least = smallest(path, "IVF_SQ", "--num-partitions", 480)
    assert least * MIB < 120_000 * 64 * 4
    check_build(path, "IVF_SQ", least, "--num-partitions", 480)
    check_build(twin, "IVF_SQ", 1024, "--num-partitions", 480)
    files = [sorted((at.name, at.read_bytes()) for at in where.rglob("*.idx")) for where in (path, twin)]
    assert len(files[0]) == 2 and files[0] == files[1]


def test_sample_of_many_slices_beyond_the_budget(tmp_path):
    """A spilled sample of more than 10,000 pieces of the table, as many parts as an object on S3 may have."""
    path = make_table(tmp_path / "t.lance", 400_000, 32)
    least = smallest(path, "IVF_SQ", "--num-partitions", 742)
    assert least * MIB < 742 * 256 * 32 * 4 + (20 << 20)
    check_build(path, "IVF_SQ", least, "--num-partitions", 742)


def test_a_table_beyond_the_page_cache_is_not_read_again(tmp_path):
    """FLAT takes vectors from the table again while memory can hold it, and from runs where it cannot."""
    column = 60_000 * 256 * 4
    path, files, written = make_table(tmp_path / "t.lance", 60_000, 256), [], []
    for memory in (1000, 64):
        twin = shutil.copytree(path, tmp_path / f"{memory}.lance")
        report = tmp_path / f"{memory}.json"
        words = [PILUM, "create-index", twin, "--column", "vec", "--type", "IVF_FLAT", "--num-partitions", 20,
                 "--memory-budget", "56MiB", "--verify", "none", "--progress", "none", "--report", report]
        env = {**os.environ, "LD_PRELOAD": SMALL_MACHINE, "SMALL_MEMORY": str(memory)}
        done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=300, env=env)
        assert done.returncode == 0, done.stderr
        files.append(sorted((at.name, at.read_bytes()) for at in twin.rglob("*.idx")))
        written.append(json.loads(report.read_text())["resources"]["bytes_written"])
    assert written[1] - written[0] > 0.9 * column
    assert len(files[0]) == 2 and files[0] == files[1]


@pytest.mark.parametrize("dim", [8, 128])
def test_budgets_above_the_smallest(tmp_path, dim):
    """Each larger budget reads in larger pieces, of pages that are taken apart: chunks, and rows with nulls."""
    path = make_table(tmp_path / "t.lance", 60_000, dim, nulls=True)
    options = ("--num-partitions", 24, "--sample-rate", 64, "--max-iters", 2, "--replace")
    least = smallest(path, "IVF_SQ", *options)
    for more in (0, 2, 4, 5, 6, 8, 11):
        check_build(path, "IVF_SQ", least + more, *options)


def test_many_partitions(tmp_path):
    path = make_table(tmp_path / "t.lance", 30_000, 16)
    least = smallest(path, "IVF_SQ", "--num-partitions", 8192)
    check_build(path, "IVF_SQ", least, "--num-partitions", 8192)


@pytest.mark.parametrize("kind", TYPES)
def test_every_row_is_checked(tmp_path, kind):
    """A full check takes rows a chunk at a time, and what assigns them: both are in the plan."""
    path = make_table(tmp_path / "t.lance", 20_000, 96, element="f64")
    options = ("--num-partitions", 300, "--verify", "full", "--metric", "cosine", "--threads", 4)
    check_build(path, kind, smallest(path, kind, *options), *options)


def test_segments_are_read_back_together(tmp_path):
    """Verifying holds the model of every segment: a budget that counts one of them would end there."""
    path = make_table(tmp_path / "t.lance", 20_000, 256, fragments=12)
    one = smallest(path, "IVF_SQ", "--num-partitions", 2000)
    least = smallest(path, "IVF_SQ", "--num-partitions", 2000, "--num-segments", 12)
    assert least > one
    check_build(path, "IVF_SQ", least, "--num-partitions", 2000, "--num-segments", 12)


def test_many_fragments_and_few_files(tmp_path):
    path = make_table(tmp_path / "t.lance", 3_000, 16, fragments=600)
    least = smallest(path, "IVF_FLAT", "--num-partitions", 4)
    check_build(path, "IVF_FLAT", least + 2, "--num-partitions", 4, files=64)


def test_one_partition_with_nearly_all(tmp_path):
    path = make_table(tmp_path / "t.lance", 40_000, 64, heavy=True)
    least = smallest(path, "IVF_PQ", "--num-partitions", 20)
    check_build(path, "IVF_PQ", least, "--num-partitions", 20)


# ---- what is planned -----------------------------------------------------------------------


@pytest.mark.parametrize("budget", [0, 64])
@pytest.mark.parametrize("kind", TYPES)
def test_plans_of_memory_bytes_and_requests(tmp_path, kind, budget):
    """Within 30 % of what is counted: with a part of the table as the sample, which 64 MiB do not hold."""
    path, report = make_table(tmp_path / "t.lance", 160_000, 256), tmp_path / "r.json"
    options = ["--memory-budget", f"{budget}MiB"] if budget else []
    run = pilum("create-index", path, "--column", "vec", "--type", kind, "--num-partitions", 200, "--report", report, *options)
    assert run.status == 0, run.stderr
    planned, seen = (json.loads(report.read_text())[part] for part in ("plan", "resources"))
    for name in ("bytes_read", "bytes_written", *([] if budget else ["peak_rss_bytes"])):
        assert planned[name] == pytest.approx(seen[name], rel=0.3), name
    for name in ("get", "put"):
        assert planned["requests"][name] == pytest.approx(seen["requests"][name], rel=0.3), name


# ---- room on the disk ----------------------------------------------------------------------


def test_too_little_room_for_work(tmp_path):
    path = make_table(tmp_path / "t.lance", 40_000, 64)
    work = tmp_path / "work"
    work.mkdir()
    words = [PILUM, "create-index", path, "--column", "vec", "--type", "IVF_SQ", "--num-partitions", 10,
             "--work-dir", work, "--progress", "none"]
    env = {**os.environ, "LD_PRELOAD": SMALL_MACHINE, "SMALL_DISK": str(tmp_path)}
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 1, done.stderr
    assert str(tmp_path) in done.stderr and "2097152 are free" in done.stderr, done.stderr
    assert not lance.dataset(str(path)).describe_indices()
    run = pilum(*words[1:])
    assert run.status == 0, run.stderr


# ---- the long matrix --------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("threads", [1, 8])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", ["f16", "f64", "heavy", "nulls", "stable", "deleted", "wide", "partitions"])
def test_smallest_budget_of_each_shape(tmp_path, shape, kind, threads):
    more = {"element": shape} if shape in ELEMENTS else {shape: True} if shape in ("heavy", "nulls", "stable", "deleted") \
        else {}
    rows, dim, k = {"wide": (20_000, 2048, 40), "partitions": (200_000, 16, 65_536)}.get(shape, (150_000, 128, 100))
    path = make_table(tmp_path / "t.lance", rows, dim, fragments=4, **more)
    options = ("--num-partitions", k, "--threads", threads)
    least = smallest(path, kind, *options)
    check_build(path, kind, least, *options)
    check_build(path, kind, 2 * least, *options)


@pytest.mark.full
@pytest.mark.parametrize("kind", TYPES)
def test_a_gigabyte_in_256_mib(tmp_path, kind):
    path = make_table(tmp_path / "t.lance", 128_000, 2048, fragments=12)
    check_build(path, kind, 256, "--num-partitions", 500)


@pytest.mark.full
def test_centroids_of_half_a_gigabyte(tmp_path):
    """65,536 x 2,048: every phase keeps one copy and what it must have beside it."""
    path = make_table(tmp_path / "t.lance", 80_000, 2048, fragments=4)
    least = smallest(path, "IVF_SQ", "--num-partitions", 65_536)
    assert least < 1800
    check_build(path, "IVF_SQ", least, "--num-partitions", 65_536)


@pytest.mark.full
def test_three_thousand_fragments(tmp_path):
    path = make_table(tmp_path / "t.lance", 60_000, 64, fragments=3_000)
    least = smallest(path, "IVF_PQ", "--num-partitions", 16)
    check_build(path, "IVF_PQ", least + 2, "--num-partitions", 16, files=256)


# In a process of its own, because Lance reads the setting once.
ONE_PAGE = """
import os, sys
os.environ["LANCE_FILE_WRITER_MAX_PAGE_BYTES"] = str(3 << 30)
import lance, numpy as np, pyarrow as pa
rows, dim = 270_000, 2048
rng = np.random.default_rng(5)
x = np.empty((rows, dim), np.float32)
for at in range(0, rows, 10_000):
    x[at:at + 10_000] = rng.standard_normal((10_000, 8), dtype=np.float32) @ rng.standard_normal((8, dim), dtype=np.float32)
vec = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), dim)
lance.write_dataset(pa.table({"id": pa.array(np.arange(rows)), "vec": vec}), sys.argv[1], max_rows_per_file=10**9,
                    max_rows_per_group=10**9)
"""


@pytest.mark.full
def test_a_page_of_two_gigabytes(tmp_path):
    path = tmp_path / "t.lance"
    subprocess.run([sys.executable, "-c", ONE_PAGE, str(path)], check=True, timeout=600)
    (name,) = (path / "data").iterdir()
    column = LanceFileReader(str(name)).metadata().columns[1]
    assert [sum(buffer.size for buffer in page.buffers) for page in column.pages] == [270_000 * 2048 * 4]
    for kind in TYPES:
        check_build(path, kind, 256, "--num-partitions", "64")
