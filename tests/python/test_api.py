"""The Python package: the same results as the command, for every way to name a table."""
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from enum import Enum
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

import pilum
from helpers import (create_index, index_files, index_named, make_vectors, nearest, pilum_ok, table_of, tree_state,
                     usable_rows, write)

DIM, ROWS = 32, 4_000


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("original") / "t.lance"
    vectors = make_vectors(ROWS, DIM)
    vectors[7] = np.nan
    write(path, vectors, max_rows_per_file=1_000)
    lance.dataset(str(path)).delete("id in (5, 1005, 1006)")
    return path


@pytest.fixture
def table(original, tmp_path):
    path = tmp_path / "t.lance"
    shutil.copytree(original, path)
    return path


def copy_of(original, tmp_path, name):
    path = tmp_path / name
    shutil.copytree(original, path)
    return path


# ---- the same as the command ---------------------------------------------------------


@pytest.mark.parametrize("index_type", ["IVF_FLAT", "IVF_SQ", "PQ8", "PQ4"])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_same_bytes_as_the_command(original, tmp_path, index_type, metric):
    ours, theirs = copy_of(original, tmp_path, "a.lance"), copy_of(original, tmp_path, "b.lance")
    options = {"metric": metric, "num_partitions": 6, "seed": 9}
    if index_type.startswith("PQ"):
        options["num_bits"] = int(index_type[2:])
    pilum.create_index(ours, "vec", "IVF_PQ" if index_type.startswith("PQ") else index_type, **options)
    create_index(theirs, "vec", index_type, metric=metric, partitions=6, seed=9)
    assert index_files(ours) == index_files(theirs)


def test_every_option_reaches_the_core(original, tmp_path):
    ours, theirs = copy_of(original, tmp_path, "a.lance"), copy_of(original, tmp_path, "b.lance")
    pilum.create_index(ours, "vec", "ivf_pq", "mine", metric="DOT", num_partitions=5, num_sub_vectors=8, num_bits=4,
                       sample_rate=100, max_iters=3, seed=2**63 + 5, fragments=[2, 0], threads=1,
                       memory_budget="1GiB", work_dir=tmp_path / "work", verify="full", report=tmp_path / "r.json")
    create_index(theirs, "vec", "IVF_PQ", metric="dot", partitions=5, name="mine", num_sub_vectors=8, num_bits=4,
                 sample_rate=100, max_iters=3, seed=2**63 + 5, fragments="0,2")
    assert index_files(ours, "mine") == index_files(theirs, "mine")
    report = json.loads((tmp_path / "r.json").read_text())
    assert report == pilum.last_report()
    assert report["resources"]["threads"] == 1
    assert report["resources"]["memory_budget_bytes"] == 1 << 30
    assert report["index"] | {"uuid": None} == {"name": "mine", "uuid": None, "type": "IVF_PQ", "metric": "dot",
                                               "num_partitions": 5, "num_sub_vectors": 8, "num_bits": 4}


def test_plan_is_what_the_command_plans(table):
    before = tree_state(table)
    plan = pilum.plan_index(table, "vec", "IVF_SQ", num_partitions=7)
    said = pilum_ok("plan", table, "--column", "vec", "--type", "IVF_SQ", "--num-partitions", 7, "--json").json
    decided = ("memory_budget_bytes", "threads", "kernels", "bytes_read", "bytes_written", "requests")
    assert set(plan["plan"]) == set(said["plan"]), "times and the process's memory differ from run to run"
    assert {k: plan["plan"][k] for k in decided} == {k: said["plan"][k] for k in decided}
    assert {k: v for k, v in plan.items() if k != "plan"} == {k: v for k, v in said.items() if k != "plan"}
    assert plan.index["num_partitions"] == 7 and plan["rows"]["live"] == ROWS - 3
    assert tree_state(table) == before


def test_stock_lance_searches_it(table):
    dataset = pilum.create_index(str(table), "vec", "IVF_FLAT", num_partitions=4)
    rows = usable_rows(dataset)
    query = rows.vectors[11].astype(np.float32)
    found, _ = nearest(dataset, "vec", query, nprobes=4)
    assert found[0] == rows.ids[11]
    assert pilum.last_report().rows["indexed"] == len(rows.ids) == ROWS - 4


# ---- how a table is named --------------------------------------------------------------


@pytest.mark.parametrize("form", [str, Path, lambda p: f"file://{p}", lambda p: lance.dataset(str(p))])
def test_forms_of_a_table(table, form):
    dataset = pilum.create_index(form(table), "vec", "IVF_SQ", num_partitions=4)
    assert isinstance(dataset, lance.LanceDataset)
    assert dataset.version == pilum.last_report()["version_committed"] == dataset.latest_version == 3


def test_a_relative_path(table, monkeypatch):
    monkeypatch.chdir(table.parent)
    assert pilum.create_index("t.lance", "vec", "IVF_SQ", num_partitions=4).version == 3


def test_an_older_version_is_indexed_as_it_was(table):
    old = lance.dataset(str(table))
    lance.write_dataset(table_of(make_vectors(500, DIM, seed=3), first_id=ROWS), str(table), mode="append")
    assert (old.version, lance.dataset(str(table)).version) == (2, 3)
    dataset = pilum.create_index(old, "vec", "IVF_FLAT", num_partitions=4)
    report = pilum.last_report()
    assert (report.version_read, dataset.version, dataset.count_rows()) == (2, 4, ROWS + 500 - 3)
    assert report.rows["appended_since"] == 500
    assert report.rows["indexed"] == ROWS - 4
    assert old.version == 2, "the dataset that was given is as it was"


def test_a_tag_counts(table):
    dataset = lance.dataset(str(table))
    dataset.tags.create("first", 2)
    lance.write_dataset(table_of(make_vectors(100, DIM), first_id=ROWS), str(table), mode="append")
    pilum.create_index(lance.dataset(str(table), version="first"), "vec", "IVF_SQ", num_partitions=4)
    assert pilum.last_report()["version_read"] == 2


def branch_forms(main, branch):
    return {"created": branch, "path": branch.uri, "checked out": main.checkout_version(("dev", None))}


@pytest.mark.parametrize("form", ["created", "path", "checked out"])
def test_a_branch(table, form):
    main = lance.dataset(str(table))
    branch = main.create_branch("dev")
    branch = lance.write_dataset(table_of(make_vectors(300, DIM, seed=4), first_id=ROWS), branch, mode="append")
    dataset = pilum.create_index(branch_forms(main, branch)[form], "vec", "IVF_SQ", num_partitions=4)
    assert dataset.count_rows() == ROWS + 300 - 3
    assert pilum.last_report().rows["indexed"] == ROWS + 300 - 4
    assert lance.dataset(str(table)).describe_indices() == [], "main has no index"
    assert [i.name for i in lance.dataset(branch.uri).describe_indices()] == ["vec_idx"]
    hits = pilum.search(dataset, "vec", make_vectors(300, DIM, seed=4)[0], k=1, nprobes=4)
    assert hits["_distance"][0].as_py() < 0.1
    assert pilum.verify_index(dataset, "vec_idx")["problems"] == []


def test_storage_options_of_a_dataset_are_used(monkeypatch):
    """A dataset's options reach the core: seen by what the core says without a network."""
    from pilum import _tables

    class Fake(lance.LanceDataset):
        def __init__(self):
            self._uri, self._storage_options = "s3://bucket/t.lance", {"aws_region": "eu-west-1"}
            self._namespace_client, self._namespace_client_managed_versioning = None, False

        version = 5

    monkeypatch.setattr(_tables, "branch_of", lambda dataset: None)
    assert _tables.open_table(Fake()).reference() == (b"s3://bucket/t.lance", 5, None, (b"aws_region", b"eu-west-1"))
    assert _tables.open_table(Fake(), {"aws_region": "x"}).reference()[3] == (b"aws_region", b"x")


# ---- given models ------------------------------------------------------------------------


def given_models():
    rng = np.random.default_rng(3)
    return make_vectors(5, DIM, seed=8), rng.normal(size=(4, 256, DIM // 4)).astype(np.float32)


def fixed_lists(matrix):
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[-1])


@pytest.mark.parametrize("form", ["numpy", "float64", "strided", "arrow", "lists", "tensor", "chunked"])
def test_given_models_in_every_form(original, tmp_path, form):
    centroids, codebook = given_models()
    np.save(tmp_path / "c.npy", centroids)
    np.save(tmp_path / "b.npy", codebook)
    ours, theirs = copy_of(original, tmp_path, "a.lance"), copy_of(original, tmp_path, "b.lance")
    forms = {
        "numpy": lambda m: m,
        "float64": lambda m: m.astype(np.float64),
        "strided": lambda m: np.repeat(m, 2, axis=0)[::2],
        "arrow": fixed_lists,
        "lists": lambda m: np.asarray(m.tolist()),
        "tensor": lambda m: pa.FixedShapeTensorArray.from_numpy_ndarray(m.reshape(-1, m.shape[-1])),
        "chunked": lambda m: pa.chunked_array([fixed_lists(m)]),
    }
    pilum.create_index(ours, "vec", "IVF_PQ", ivf_centroids=forms[form](centroids), pq_codebook=forms[form](codebook))
    create_index(theirs, "vec", "IVF_PQ", partitions=None, ivf_centroids=tmp_path / "c.npy",
                 pq_codebook=tmp_path / "b.npy")
    assert index_files(ours) == index_files(theirs)
    report = pilum.last_report()
    assert (report.index["num_partitions"], report.index["num_sub_vectors"]) == (5, 4)


def test_a_codebook_by_its_shape():
    """Rows of D / M values, rows of D values, and shapes that say nothing."""
    from pilum._values import codebook

    flat = np.arange(4 * 256 * 8, dtype=np.float32)
    assert codebook(fixed_lists(flat.reshape(4 * 256, 8)), None, 8).shape == (4, 256, 8)
    assert codebook(fixed_lists(flat.reshape(256, 32)), None, 8).shape == (2, 256, 16), "Lance's default: D / 16"
    assert codebook(fixed_lists(flat.reshape(256, 32)), 4, 8).shape == (4, 256, 8)
    for shape, m in (((256, 4 * 8 - 1), None), ((100, 8), None), ((256, 32), 3)):
        with pytest.raises(pilum.ArgumentError, match="pq_codebook"):
            codebook(np.zeros(shape, np.float32), m, 8)


def test_lance_models_are_taken_as_they_are(table):
    """What lance.indices trains can be handed over."""
    from lance.indices import IndicesBuilder

    builder = IndicesBuilder(lance.dataset(str(table)), "vec")
    ivf = builder.train_ivf(4, sample_rate=64)
    pq = builder.train_pq(ivf, 4, sample_rate=8)
    dataset = pilum.create_index(table, "vec", "IVF_PQ", ivf_centroids=ivf.centroids, pq_codebook=pq.codebook,
                                 num_sub_vectors=4)
    kept = np.asarray(dataset.get_ivf_model("vec_idx").centroids.flatten())
    assert np.array_equal(kept, np.asarray(ivf.centroids.flatten()))


# ---- search, verify, inspect, gc ------------------------------------------------------------


def test_search_is_what_the_command_finds(table, tmp_path):
    pilum.create_index(table, "vec", "IVF_PQ", num_partitions=4, num_sub_vectors=8)
    query = make_vectors(1, DIM, seed=21)[0]
    np.save(tmp_path / "q.npy", query)
    hits = pilum.search(table, "vec", query, k=7, nprobes=2, refine_factor=3)
    said = pilum_ok("search", table, "--column", "vec", "--vector", tmp_path / "q.npy", "-k", 7, "--nprobes", 2,
                    "--refine-factor", 3, "--json").json
    assert hits["_rowid"].to_pylist() == [row["rowid"] for row in said["rows"]]
    assert np.allclose(hits["_distance"], [row["distance"] for row in said["rows"]])
    assert hits.schema.names == ["_rowid", "_distance"]
    assert int(hits.schema.metadata[b"rows_scanned"]) == said["rows_scanned"]


def test_search_forms(table):
    query = make_vectors(1, DIM, seed=21)[0]
    expected = pilum.search(table, "vec", query, k=3, exact=True)
    column = fixed_lists(query.reshape(1, -1))
    for form in (query.tolist(), pa.array(query), column[0], query.astype(np.float64)):
        assert pilum.search(table, "vec", form, k=3, exact=True).equals(expected)
    own = pilum.search(table, "vec", rowid=11, k=1, exact=True)
    assert own.to_pydict() == {"_rowid": [11], "_distance": [0.0]}


def test_verify_finds_nothing_and_then_damage(table):
    dataset = pilum.create_index(table, "vec", "IVF_FLAT", num_partitions=4)
    assert pilum.verify_index(dataset, "vec_idx", full=True)["checked_rows"] == ROWS - 4
    (segment,) = index_named(dataset, "vec_idx").segments
    path = table / "_indices" / str(segment.uuid) / "auxiliary.idx"
    data = bytearray(path.read_bytes())
    at = data.find(np.asarray([11], np.uint64).tobytes())  # a row id becomes another one's
    data[at : at + 8] = np.asarray([12], np.uint64).tobytes()
    path.write_bytes(data)
    report = pilum.verify_index(dataset, "vec_idx", full=True, queries=0)
    assert len(report["problems"]) > 0 and report["n_problems"] > 0


def test_inspect_and_gc(table):
    pilum.create_index(table, "vec", "IVF_SQ", num_partitions=4, name="one")
    pilum.create_index(table, "vec", "IVF_FLAT", num_partitions=4, name="two")
    assert [i["name"] for i in pilum.inspect(table)["indexes"]] == ["one", "two"]
    assert [i["name"] for i in pilum.inspect(table, "two").indexes] == ["two"]
    with pytest.raises(RuntimeError, match="on purpose"):
        pilum.create_index(table, "vec", "IVF_SQ", num_partitions=9, progress=stop_in("encode"))
    assert len(pilum.gc(table)["jobs"]) == 1
    assert len(pilum.gc(table, remove=True)["jobs"]) == 1
    assert pilum.gc(table)["jobs"] == []


# ---- progress, warnings, threads ----------------------------------------------------------------


def stop_in(phase):
    def callback(progress):
        if progress.phase == phase:
            raise RuntimeError("on purpose")
    return callback


def test_progress_comes_on_the_callers_thread(table):
    seen, threads = [], set()

    def callback(progress):
        seen.append(progress)
        threads.add(threading.get_ident())

    pilum.create_index(table, "vec", "IVF_PQ", num_partitions=4, num_sub_vectors=8, progress=callback)
    assert threads == {threading.get_ident()}
    phases = list(dict.fromkeys(p.phase for p in seen))
    assert phases == ["plan", "train", "encode", "merge", "verify", "commit"]
    last = {p.phase: p for p in seen}
    assert last["encode"].unit == "rows" and last["encode"].done == last["encode"].total == ROWS - 3
    assert last["encode"].fraction == 1.0 and last["commit"].bytes_written > 0
    assert all(isinstance(p, pilum.Progress) for p in seen)


def test_an_exception_in_the_callback_ends_the_call_and_the_call_carries_on(original, tmp_path):
    ours, other = copy_of(original, tmp_path, "a.lance"), copy_of(original, tmp_path, "b.lance")
    with pytest.raises(RuntimeError, match="on purpose"):
        pilum.create_index(ours, "vec", "IVF_SQ", num_partitions=6, progress=stop_in("merge"))
    assert lance.dataset(str(ours)).describe_indices() == []
    pilum.create_index(ours, "vec", "IVF_SQ", num_partitions=6)
    assert pilum.last_report()["resumed"] is True
    pilum.create_index(other, "vec", "IVF_SQ", num_partitions=6)
    assert pilum.last_report()["resumed"] is False
    assert index_files(ours) == index_files(other)


@pytest.mark.parametrize("style, holds", [("plain", "encode:"), ("json", '"phase": "encode"'), ("bar", "encode"),
                                          ("auto", None), ("none", None), (False, None), (None, None), (True, "encode")])
def test_progress_styles(table, capfd, style, holds):
    pilum.create_index(table, "vec", "IVF_SQ", num_partitions=4, progress=style)
    out, err = capfd.readouterr()
    assert out == ""
    assert holds in err if holds else err == ""


def test_warnings_point_at_the_call(table):
    with pytest.warns(pilum.PilumWarning) as caught:
        pilum.create_index(table, "vec", "IVF_FLAT", num_partitions=ROWS - 3)
    assert [w.filename for w in caught] == [__file__]
    assert "no more usable rows" in str(caught[0].message)


def test_fewer_partitions_than_asked_for_are_said(table):
    with pytest.warns(pilum.PilumWarning, match="3997 partitions instead of 9000: the table has only 3997 rows"):
        pilum.create_index(table, "vec", "IVF_FLAT", num_partitions=9_000, sample_rate=1, max_iters=1)
    assert pilum.plan_index(table, "vec", "IVF_FLAT", num_partitions=9_000)["notes"][0].startswith("3997 partitions")


def test_two_threads_with_calls_of_their_own(original, tmp_path):
    tables = [copy_of(original, tmp_path, f"{n}.lance") for n in range(2)]
    reports = {}

    def build(n):
        pilum.create_index(tables[n], "vec", "IVF_PQ", num_partitions=4 + n, num_sub_vectors=8, threads=1)
        reports[n] = pilum.last_report()

    threads = [threading.Thread(target=build, args=(n,)) for n in range(2)]
    [t.start() for t in threads]
    [t.join(60) for t in threads]
    assert [reports[n]["index"]["num_partitions"] for n in range(2)] == [4, 5]
    alone = copy_of(original, tmp_path, "alone.lance")
    pilum.create_index(alone, "vec", "IVF_PQ", num_partitions=4, num_sub_vectors=8)
    assert index_files(tables[0]) == index_files(alone)


BUILD = {"column": b"vec", "type": b"IVF_PQ", "num_partitions": 16, "num_sub_vectors": 16}
CALLS = {
    "create_index": lambda core, context, table: core.create_index(context, table, BUILD),
    "plan_index": lambda core, context, table: core.plan_index(context, table, BUILD),
    "verify_index": lambda core, context, table: core.verify_index(context, table, b"vec_idx", True, 50),
    "search": lambda core, context, table: core.search(context, table, {"column": b"vec", "rowid": 11, "exact": True}),
    "inspect": lambda core, context, table: core.inspect(context, table, None),
    "gc": lambda core, context, table: core.gc(context, table, False),
    "dist_open": lambda core, context, table: core.dist_open(context, table, BUILD, 1)[0].close(),
}


@pytest.mark.parametrize("name", CALLS)
def test_other_python_threads_run_meanwhile(table, name):
    """Nobody asks for Python's lock while the switch interval is an hour: it is had only if the call lets go of it."""
    from pilum import _core

    pilum.create_index(table, "vec", "IVF_SQ", num_partitions=4)
    context, reference = _core.Context(), (str(table).encode(), 0, None, ())
    beats, stop, interval = [0], threading.Event(), sys.getswitchinterval()

    def beat():
        while not stop.is_set():
            beats[0] += 1
            time.sleep(0.0005)

    heart = threading.Thread(target=beat, daemon=True)
    sys.setswitchinterval(3600)
    try:
        heart.start()
        seen = 0
        for _ in range(100):
            before = beats[0]
            CALLS[name](_core, context, reference)
            seen += beats[0] - before
            if seen > 1:
                break
    finally:
        sys.setswitchinterval(interval)
        stop.set()
    heart.join()
    assert seen > 1


def test_calls_inside_the_callback_are_refused(table):
    from pilum import _core

    refused = []

    def callback(*facts):
        try:
            _core.version(context)
        except RuntimeError as error:
            refused.append(str(error))

    context = _core.Context(progress=callback)
    _core.create_index(context, (str(table).encode(), 0, None, ()), {"column": b"vec", "type": b"IVF_SQ"})
    assert refused and set(refused) == {"this Context is in use: one call at a time"}


# ---- the package -------------------------------------------------------------------------------------


class Kind(Enum):
    FLAT = "ivf_flat"


def test_an_enum_names_the_type(table):
    pilum.create_index(table, "vec", Kind.FLAT, num_partitions=4)
    assert pilum.last_report()["index"]["type"] == "IVF_FLAT"


def test_workers_need_little():
    """Ray's workers import the package: neither lance nor pyarrow nor numpy comes with it."""
    code = "import sys, pilum; print([m for m in ('lance', 'pyarrow', 'numpy', 'rich', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_name_is_there_and_documented():
    for name in pilum.__all__:
        value = getattr(pilum, name)
        assert name == "__version__" or value.__doc__, name
    assert set(pilum.__all__) <= set(dir(pilum))
    with pytest.raises(AttributeError, match="no_such"):
        pilum.no_such


def test_version_is_that_of_the_command():
    assert pilum_ok("version", "--json").json["pilum"] == pilum.__version__


def test_the_extension_is_for_every_python():
    from pilum import _core

    assert os.path.basename(_core.__file__) == "_core.abi3.so"
