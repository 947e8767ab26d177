"""Rarer troubles: memory that runs out, processors that differ, drivers that meet, answers that are lost."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import lance
import pytest
import ray
from ray_helpers import PILUM, index_bytes

import pilum
import pilum.ray
from pilum.ray import _build, _pool
from pilum.ray._pool import Pool


@pytest.fixture
def own_cluster():
    """start(...) -> a Ray of this test's own."""
    ray.shutdown()
    clusters = []

    def start(nodes, **system):
        from ray.cluster_utils import Cluster

        cluster = Cluster()
        clusters.append(cluster)
        for i, node in enumerate(nodes):
            head = {"include_dashboard": False, "_system_config": system or None} if i == 0 else {}
            cluster.add_node(object_store_memory=80 << 20, **head, **node)
        ray.init(address=cluster.address, logging_level="error", log_to_driver=False)
        return cluster

    yield start
    ray.shutdown()
    for cluster in clusters:
        cluster.shutdown()


# ---- memory ---------------------------------------------------------------------------------------


@pytest.mark.full
def test_killed_for_memory_again_and_again(own_cluster, table, threads_engine):
    """Ray's memory monitor kills every worker that it sees: the build ends, says why, and can be carried on."""
    path = table("large")
    own_cluster([{"num_cpus": 2}], memory_usage_threshold=0.01, memory_monitor_refresh_ms=200)
    with pytest.raises(_pool.WorkersLost, match="lost its worker 20 times|no worker could be started") as caught:
        pilum.ray.create_index(path, "vec", "IVF_SQ", num_workers=2, num_partitions=32, threads=1, progress="none")
    assert "memory" in str(caught.value).lower()
    assert lance.dataset(path).describe_indices() == []
    ray.shutdown()
    own_cluster([{"num_cpus": 2}])
    pilum.ray.create_index(path, "vec", "IVF_SQ", num_workers=2, num_partitions=32, threads=1, progress="none")
    assert index_bytes(path) == threads_engine("large", "IVF_SQ", "--num-partitions", 32)


def test_a_kill_for_memory_is_a_lost_worker():
    from ray import exceptions as rex

    assert _pool._is_lost(rex.OutOfMemoryError("a worker was killed: the node ran low on memory"))
    assert _pool._is_lost(rex.WorkerCrashedError()) and _pool._is_lost(rex.NodeDiedError("gone"))
    assert not _pool._is_lost(ValueError("a task's own"))


# ---- processors -------------------------------------------------------------------------------------


def test_workers_with_different_kernels(own_cluster, table, tmp_path):
    """The job pins the best table that all have; the files are those of this table alone."""
    path, alone = table(), table()
    own_cluster([{"num_cpus": 1, "env_vars": {"PILUM_SIMD": "avx2"}}, {"num_cpus": 1}])
    pilum.ray.create_index(path, "vec", "IVF_PQ", num_workers=2, num_partitions=20, progress="none",
                           report=tmp_path / "r.json")
    report = json.load(open(tmp_path / "r.json"))
    assert report["resources"]["kernels"] == "avx2" and len(report["ray"]["workers"]) == 2
    subprocess.run([PILUM, "create-index", alone, "--column", "vec", "--type", "IVF_PQ", "--num-partitions", "20",
                    "--progress", "none"], check=True, capture_output=True, env={**os.environ, "PILUM_SIMD": "avx2"})
    assert index_bytes(path) == index_bytes(alone)


def test_a_build_begun_with_better_kernels_waits_for_a_worker_that_has_them(own_cluster, table, threads_engine):
    """Carried on where one of two nodes lacks them: that node's worker stays idle."""
    if "avx512" not in pilum.ray._worker.usable_kernels():
        return  # nothing better than what both have
    path = table()

    def stop(event):
        if event["phase"] == "encode":
            raise KeyboardInterrupt

    own_cluster([{"num_cpus": 2}])
    with pytest.raises(KeyboardInterrupt):
        pilum.ray.create_index(path, "vec", "IVF_SQ", num_workers=2, num_partitions=20, progress=stop)
    ray.shutdown()
    own_cluster([{"num_cpus": 1, "env_vars": {"PILUM_SIMD": "avx2"}}, {"num_cpus": 1}])
    pilum.ray.create_index(path, "vec", "IVF_SQ", num_workers=2, num_partitions=20, progress="none")
    assert pilum.last_report()["resources"]["kernels"] == "avx512"
    assert index_bytes(path) == threads_engine("small", "IVF_SQ", "--num-partitions", 20)


# ---- answers that are lost ------------------------------------------------------------------------------


def twice(monkeypatch, name):
    """The first tasks of this name are done, their answers are lost, and they are done again."""
    real, lost = Pool.run, []

    def run(self, tasks, done):
        tasks = list(tasks)
        if tasks and tasks[0].name == name and not lost:
            lost.append(name)
            real(self, [_pool.Task(t.name, t.numbers, t.messages, t.needs) for t in tasks], lambda *_: None)
        real(self, tasks, done)

    monkeypatch.setattr(Pool, "run", run)
    return lost


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("name", ["merge_finish", "merge_blocks", "encode", "pq_train", "shard_rows", "verify"])
def test_an_answer_that_is_lost(table, threads_engine, monkeypatch, name):
    path = table()
    lost = twice(monkeypatch, name)
    pilum.ray.create_index(path, "vec", "IVF_PQ", num_workers=2, num_partitions=20, progress="none", num_segments=2)
    assert lost == [name]
    assert index_bytes(path) == threads_engine("small", "IVF_PQ", "--num-partitions", 20, "--num-segments", 2)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("checkpoint_every", [0.0, 1e9])
def test_states_of_training_that_are_lost(table, threads_engine, monkeypatch, checkpoint_every):
    """One is made again from the one before it; when both are gone, from a checkpoint or the beginning."""
    path, real, steps = table(), Pool.run, []

    def run(self, tasks, done):
        tasks = list(tasks)
        if tasks and tasks[0].name == "train_next":
            steps.append(tasks[0].numbers[0])
            if len(steps) in (3, 9, 10, 11):
                raise _pool.AnswerLost(tasks[0])
        real(self, tasks, done)

    monkeypatch.setattr(_build, "CHECKPOINT_EVERY_S", checkpoint_every)
    monkeypatch.setattr(Pool, "run", run)
    pilum.ray.create_index(path, "vec", "IVF_SQ", num_workers=2, num_partitions=20, progress="none")
    assert len(steps) > 11 and any(steps) == (checkpoint_every == 0)
    assert index_bytes(path) == threads_engine("small", "IVF_SQ", "--num-partitions", 20)


@pytest.mark.usefixtures("cluster")
def test_a_segment_is_merged_again_when_its_parts_are_gone(table, threads_engine, monkeypatch):
    """The file that was being assembled vanishes before its end is written."""
    path, real, removed = table(), Pool.run, []

    def run(self, tasks, done):
        tasks = list(tasks)
        if tasks and tasks[0].name == "merge_finish" and not removed:
            for made in Path(path).glob("_pilum/*/????????-????-*"):
                shutil.rmtree(made)
                removed.append(made)
        real(self, tasks, done)

    monkeypatch.setattr(Pool, "run", run)
    pilum.ray.create_index(path, "vec", "IVF_SQ", num_workers=2, num_partitions=20, progress="none")
    assert removed
    assert index_bytes(path) == threads_engine("small", "IVF_SQ", "--num-partitions", 20)


# ---- the coordinator ---------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.usefixtures("cluster")
def test_the_coordinator_takes_a_small_share_of_the_processors(tmp_path):
    """Below 5 % where a job takes its time (docs/scaling.md); bounded generously here, as the job is short."""
    from ray_helpers import vectors, write_table

    path = write_table(tmp_path / "t.lance", vectors(150_000, 256), fragments=8)
    pilum.ray.create_index(path, "vec", "IVF_PQ", num_workers=2, num_partitions=256, threads=1, progress="none",
                           report=tmp_path / "r.json")
    told = json.load(open(tmp_path / "r.json"))["ray"]
    assert told["workers_cpu_seconds"] == pytest.approx(sum(w["cpu_seconds"] for w in told["workers"]), abs=0.01)
    assert 0 < told["coordinator_cpu_share"] < 0.1
