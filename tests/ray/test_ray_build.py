"""pilum.ray.create_index in the place of lance_ray.create_index: same call, same bytes as without Ray."""
import enum
import json
import re
import subprocess
import sys
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
import ray
from ray_helpers import index_bytes, neighbours, vectors, write_table

import pilum
import pilum.ray

TYPES = ("IVF_FLAT", "IVF_SQ", "IVF_PQ")
pytestmark = pytest.mark.usefixtures("cluster")


DEFAULT = {("IVF_FLAT", 1), ("IVF_FLAT", 3), ("IVF_SQ", 2), ("IVF_PQ", 1), ("IVF_PQ", 3)}


@pytest.mark.parametrize("index_type, workers", [
    pytest.param(t, n, marks=[] if (t, n) in DEFAULT else pytest.mark.full) for t in TYPES for n in (1, 2, 3)])
def test_same_bytes(table, threads_engine, index_type, workers):
    path = table()
    ds = pilum.ray.create_index(path, "vec", index_type, num_workers=workers, num_partitions=20, progress="none")
    assert ds.version == 2
    assert index_bytes(path) == threads_engine("small", index_type, "--num-partitions", 20)
    assert not (Path(path) / "_pilum").exists()


@pytest.mark.parametrize("index_type", TYPES)
def test_rows_without_vectors(table, threads_engine, index_type):
    """Four in ten rows are dropped: the sample takes more rounds to choose."""
    path = table("gaps")
    pilum.ray.create_index(path, "vec", index_type, num_workers=3, num_partitions=9, metric="Cosine",
                           sample_rate=64, verify="full", progress="none")
    assert index_bytes(path) == threads_engine("gaps", index_type, "--num-partitions", 9, "--metric", "cosine",
                                               "--sample-rate", 64)


def test_neighbours_are_found(table):
    path = table()
    ds = pilum.ray.create_index(path, "vec", "IVF_FLAT", num_workers=2, num_partitions=20, progress="none")
    q = ds.take([77], columns=["vec"])["vec"].to_pylist()[0]
    exact = ds.to_table(nearest={"column": "vec", "q": q, "k": 10, "use_index": False}, with_row_id=True)
    assert neighbours(ds, q) == exact["_rowid"].to_pylist()


def test_segments(table, threads_engine):
    path = table()
    ds = pilum.ray.create_index(path, "vec", "IVF_SQ", num_workers=2, num_segments=3, num_partitions=20,
                                progress="none")
    assert index_bytes(path) == threads_engine("small", "IVF_SQ", "--num-partitions", 20, "--num-segments", 3)
    assert sum(len(index.segments) for index in ds.describe_indices()) == 3


def test_one_segment_is_the_default_and_more_than_fragments_are_not_made(table):
    path = table()
    ds = pilum.ray.create_index(path, "vec", "IVF_FLAT", num_segments=99, num_partitions=5, progress="none")
    assert sum(len(index.segments) for index in ds.describe_indices()) == 4
    ds = pilum.ray.create_index(path, "vec", "IVF_FLAT", num_partitions=5, progress="none")
    assert sum(len(index.segments) for index in ds.describe_indices()) == 1


@pytest.mark.parametrize("num_sub_vectors", [4, None])
def test_given_models_are_used(table, threads_engine, tmp_path, num_sub_vectors):
    path = table()
    rng = np.random.default_rng(0)
    centroids = rng.normal(size=(7, 32)).astype(np.float32)
    codebook = rng.normal(size=(4, 256, 8)).astype(np.float32)
    np.save(tmp_path / "c.npy", centroids)
    np.save(tmp_path / "b.npy", codebook)
    pilum.ray.create_index(
        path, "vec", "ivf_pq", num_workers=2, num_sub_vectors=num_sub_vectors, progress="none",
        ivf_centroids=pa.FixedSizeListArray.from_arrays(pa.array(centroids.ravel()), 32),
        pq_codebook=pa.FixedSizeListArray.from_arrays(pa.array(codebook.ravel()), 32 if num_sub_vectors else 8))
    assert index_bytes(path) == threads_engine("small", "IVF_PQ", "--ivf-centroids", tmp_path / "c.npy",
                                               "--pq-codebook", tmp_path / "b.npy")


def test_enum_and_dataset_input(table):
    class Kind(enum.Enum):
        SQ = "ivf_sq"

    path = table()
    ds = pilum.ray.create_index(lance.dataset(path), "vec", Kind.SQ, "mine", num_workers=1, num_partitions=4,
                                progress="none")
    assert [index.name for index in ds.describe_indices()] == ["mine"]


@pytest.mark.parametrize("form", ["created", "checked out"])
def test_branch(table, form):
    path = table()
    branch = lance.dataset(path).create_branch("side/line")
    if form == "checked out":  # its URI is the root's
        branch = lance.dataset(path).checkout_version(("side/line", None))
    ds = pilum.ray.create_index(branch, "vec", "IVF_FLAT", num_workers=2, num_partitions=4, progress="none")
    assert [index.name for index in ds.describe_indices()] == ["vec_idx"]
    assert lance.dataset(path).describe_indices() == []


def test_default_partitions_are_the_root_of_the_rows(table):
    path = table()
    events = []
    pilum.ray.create_index(path, "vec", "IVF_FLAT", num_workers=2, progress=events.append, report=path + ".json")
    report = json.load(open(path + ".json"))
    assert report["index"]["num_partitions"] == 200
    assert (report["rows"]["total"], report["rows"]["indexed"]) == (40_000, 39_999)
    assert report["rows"]["dropped"] == {"deleted": 0, "null": 0, "nonfinite": 1, "zero": 0}
    assert {event["phase"] for event in events} >= {"plan", "train", "encode", "merge", "verify", "commit"}
    assert max(event["done"] for event in events if event["phase"] == "encode") == 40_000
    assert report["ray"]["num_workers"] == 2 and len(report["ray"]["workers"]) == 2
    assert report["seconds"]["encode"] > 0 and report["resources"]["bytes_read"] > 40_000 * 32 * 4


def test_fewer_rows_than_the_sample_asks_for(tmp_path):
    path = write_table(tmp_path / "few.lance", vectors(300, 8))
    ds = pilum.ray.create_index(path, "vec", "IVF_PQ", num_workers=3, num_partitions=16, num_sub_vectors=2,
                                progress="none")
    assert ds.version == 2


def test_replacing(table):
    path = table()
    first = pilum.ray.create_index(path, "vec", "IVF_SQ", num_workers=2, num_partitions=8, progress="none")
    second = pilum.ray.create_index(path, "vec", "IVF_FLAT", num_workers=2, num_partitions=8, progress="none")
    assert second.version == first.version + 1
    assert [index.index_type for index in second.describe_indices()] == ["IVF_FLAT"]


def test_more_workers_than_processors(table, threads_engine):
    """They run beside each other, rather than wait for ever, even when others hold the processors."""
    @ray.remote(num_cpus=3)
    class Hog:
        def ready(self):
            return True

    hog = Hog.remote()
    assert ray.get(hog.ready.remote())
    try:
        path = table()
        pilum.ray.create_index(path, "vec", "IVF_SQ", num_workers=6, num_partitions=20, progress="none")
    finally:
        ray.kill(hog)
    assert index_bytes(path) == threads_engine("small", "IVF_SQ", "--num-partitions", 20)


def test_remote_arguments_set_threads_and_memory(table, tmp_path):
    path = table()
    pilum.ray.create_index(path, "vec", "IVF_FLAT", num_workers=1, num_partitions=8, progress="none",
                           ray_remote_args={"num_cpus": 2, "memory": 1 << 30}, report=tmp_path / "r.json")
    report = json.load(open(tmp_path / "r.json"))
    assert report["ray"]["threads"] == 2
    assert report["ray"]["memory_budget_bytes"] == (1 << 30) - (256 << 20)


def test_the_global_pool_of_lance_ray_decides_how_many(table, tmp_path):
    from lance_ray import pool

    pool.init_global_pool(2)
    try:
        path = table()
        pilum.ray.create_index(path, "vec", "IVF_FLAT", num_workers=4, num_partitions=8, progress="none",
                               report=tmp_path / "r.json")
    finally:
        pool.clear_global_pool(close=True)
    assert json.load(open(tmp_path / "r.json"))["ray"]["num_workers"] == 2


def test_directory_namespace(tmp_path):
    path = write_table(tmp_path / "named.lance", vectors(2000, 8))
    ds = pilum.ray.create_index(None, "vec", "IVF_FLAT", num_workers=1, num_partitions=4, progress="none",
                                namespace_impl="dir", namespace_properties={"root": str(tmp_path)},
                                table_id=["named"])
    assert lance.dataset(path).version == ds.version == 2


@pytest.mark.parametrize("index_type", [pytest.param("IVF_SQ", marks=pytest.mark.full), "IVF_PQ"])
def test_namespace_that_manages_versions(table, threads_engine, tmp_path, index_type):
    import lance_namespace

    properties = {"root": str(tmp_path / "root"), "manifest_enabled": "true", "table_version_tracking_enabled": "true"}
    namespace = lance_namespace.connect("dir", properties)
    source = lance.dataset(table())
    lance.write_dataset(source.to_table(), namespace_client=namespace, table_id=["t"], mode="create",
                        max_rows_per_file=10_000)
    ds = pilum.ray.create_index(None, "vec", index_type, num_workers=2, num_partitions=20, progress="none",
                                namespace_impl="dir", namespace_properties=properties, table_id=["t"])
    known = namespace.list_table_versions(lance_namespace.ListTableVersionsRequest(id=["t"])).versions
    assert ds.version == 2 and sorted(v.version for v in known) == [1, 2]
    assert index_bytes(ds.uri) == threads_engine("small", index_type, "--num-partitions", 20)
    assert not (Path(ds.uri) / "_pilum").exists()
    assert pilum.last_report()["ray"]["num_workers"] == 2 and not pilum.last_report()["resumed"]


def test_spilled_sample(table, threads_engine, tmp_path):
    """A budget that the sample exceeds: shards go to each worker's own folder, which is left empty."""
    path, spill = table("large"), tmp_path / "spill"

    def build(budget):
        pilum.ray.create_index(path, "vec", "IVF_FLAT", num_workers=2, num_partitions=600, memory_budget=budget,
                               threads=1, work_dir=spill, progress="none")

    with pytest.raises(Exception, match="too small: [0-9]+ MiB is the smallest") as refused:
        build("4MiB")
    build((int(re.search("([0-9]+) MiB is", str(refused.value))[1]) + 4) << 20)
    assert index_bytes(path) == threads_engine("large", "IVF_FLAT", "--num-partitions", 600)
    assert list(spill.iterdir()) == []


@pytest.mark.full
def test_ray_is_started_when_it_is_not_there(table):
    path = table()
    script = ("import pilum.ray, ray\n"
              f"pilum.ray.create_index({path!r}, 'vec', 'IVF_SQ', num_workers=2, num_partitions=8, progress='json')\n"
              "assert ray.is_initialized()\n")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert '"phase": "commit"' in done.stderr
