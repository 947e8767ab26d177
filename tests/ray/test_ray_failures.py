"""Workers, nodes and drivers that die, hang or fail: the build ends right, with the same bytes."""
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import lance
import pytest
import ray
from ray_helpers import START, At, index_bytes, kill_one, vectors, worker_pids, write_table

import pilum.ray
from pilum.ray import _pool

K = 64


@pytest.fixture(scope="module")
def expected(originals, tmp_path_factory):
    """Hashes of the files that builds without any trouble make, by type."""
    from ray_helpers import PILUM

    hashes = {}

    def of(index_type):
        if index_type not in hashes:
            path = tmp_path_factory.mktemp("expected") / "t.lance"
            shutil.copytree(originals / "large", path)
            subprocess.run([PILUM, "create-index", str(path), "--column", "vec", "--type", index_type,
                            "--num-partitions", str(K), "--progress", "none"], check=True, capture_output=True)
            hashes[index_type] = index_bytes(path)
        return hashes[index_type]

    return of


def build(path, index_type, at, tmp_path, workers=2, **more):
    report = tmp_path / "report.json"
    pilum.ray.create_index(path, "vec", index_type, num_workers=workers, num_partitions=K, progress=at,
                           report=report, threads=1, **more)
    return json.load(open(report))


@pytest.mark.usefixtures("cluster")
class TestWorkers:
    @pytest.mark.parametrize("phase", ["train", "encode", "merge", pytest.param("verify", marks=pytest.mark.full)])
    def test_killed(self, table, expected, tmp_path, phase):
        at = At(phase, kill_one)
        path = table("large")
        report = build(path, "IVF_SQ", at, tmp_path)
        assert at.did and report["ray"]["workers_lost"] >= 1
        assert index_bytes(path) == expected("IVF_SQ")

    def test_killed_while_the_codebook_is_trained(self, table, expected, tmp_path):
        at = At("train", kill_one, unit="sub-vectors")
        path = table("large")
        report = build(path, "IVF_PQ", at, tmp_path)
        assert at.did and report["ray"]["workers_lost"] >= 1
        assert index_bytes(path) == expected("IVF_PQ")

    def test_all_killed_at_once(self, table, expected, tmp_path):
        def kill_all():
            for pid in worker_pids():
                os.kill(pid, signal.SIGKILL)

        at = At("encode", kill_all, workers=3)
        path = table("large")
        report = build(path, "IVF_SQ", at, tmp_path, workers=3)
        assert report["ray"]["workers_lost"] >= 3
        assert index_bytes(path) == expected("IVF_SQ")

    def test_a_slow_task_gets_a_twin(self, table, expected, tmp_path, monkeypatch):
        """A worker that hangs in the middle of a task: another one does it, too, and comes first."""
        monkeypatch.setattr(_pool, "TWIN_AFTER_S", 1.0)
        stopped = []

        def stop_one():
            stopped.append(worker_pids()[0])
            os.kill(stopped[0], signal.SIGSTOP)

        at = At("encode", stop_one)
        path = table("large")
        try:
            report = build(path, "IVF_SQ", at, tmp_path)
        finally:
            os.kill(stopped[0], signal.SIGKILL)
        assert report["ray"]["twins"] >= 1
        assert index_bytes(path) == expected("IVF_SQ")

    def test_a_task_that_fails_three_times_stops_the_build_resumably(self, table, expected, tmp_path):
        path = table("large")

        def damage():
            model = next(Path(path).glob("_pilum/*/model"))
            model.write_bytes(model.read_bytes()[:-100] + b"\0" * 100)

        with pytest.raises(Exception, match="model") as caught:
            build(path, "IVF_SQ", At("encode", damage), tmp_path)
        assert not isinstance(caught.value, _pool.WorkersLost)
        assert lance.dataset(path).describe_indices() == []
        report = build(path, "IVF_SQ", "none", tmp_path)
        assert report["resumed"]
        assert index_bytes(path) == expected("IVF_SQ")

    def test_an_exception_in_the_callback_ends_the_build_and_its_workers(self, table, tmp_path):
        def interrupt():
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            build(table("large"), "IVF_SQ", At("encode", interrupt), tmp_path)
        end = time.monotonic() + 20
        while worker_pids() and time.monotonic() < end:
            time.sleep(0.1)
        assert worker_pids() == []

    def test_storage_that_workers_do_not_share(self, table, tmp_path, monkeypatch):
        """As on a node without the driver's file system: the job's files are not there."""
        from pilum.ray import _create

        path = table("large")
        real = _pool.Pool.join

        def join(self, reference, options, plan, kernels):
            real(self, reference, options, plan + b" ", kernels)  # not what lies in the directory

        monkeypatch.setattr(_create.Pool, "join", join)
        with pytest.raises(Exception, match="file system that all nodes share"):
            build(path, "IVF_FLAT", "none", tmp_path)


SCRIPT = """
import sys, ray, pilum.ray
ray.init(address=sys.argv[2], logging_level="error", log_to_driver=False)
pilum.ray.create_index(sys.argv[1], "vec", sys.argv[3], num_workers=2, num_partitions=64, threads=1,
                       progress=lambda event: print(event["phase"], event["unit"], event["done"], flush=True))
"""


@pytest.mark.parametrize("index_type, until", [("IVF_SQ", "encode rows"), ("IVF_PQ", "train sub-vectors"),
                                               pytest.param("IVF_FLAT", "merge blocks", marks=pytest.mark.full)])
def test_killed_driver(cluster, table, expected, tmp_path, index_type, until):
    path = table("large")
    driver = subprocess.Popen([sys.executable, "-c", SCRIPT, path, cluster.address_info["address"], index_type],
                              stdout=subprocess.PIPE, text=True)
    guard = threading.Timer(60, driver.kill)
    guard.start()
    for line in driver.stdout:
        if line.startswith(until):
            break
    else:
        pytest.fail("the driver ended before it could be killed")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    guard.cancel()
    assert lance.dataset(path).describe_indices() == []
    report = build(path, index_type, "none", tmp_path)
    assert report["resumed"]
    assert index_bytes(path) == expected(index_type)


def test_removed_node(originals, table, expected, tmp_path):
    """Every node has a spill folder of its own, which goes with it."""
    from ray.cluster_utils import Cluster

    ray.shutdown()
    spill = [tmp_path / f"node-{i}" for i in range(3)]
    cluster = Cluster()
    try:
        memory = {"object_store_memory": 80 << 20}
        cluster.add_node(num_cpus=1, include_dashboard=False, env_vars={"PILUM_SPILL_DIR": str(spill[0])}, **memory)
        nodes = [cluster.add_node(num_cpus=1, env_vars={"PILUM_SPILL_DIR": str(folder)}, **memory)
                 for folder in spill[1:]]
        ray.init(address=cluster.address, logging_level="error", log_to_driver=False)

        def remove():
            assert any(spill[1].iterdir()), "the node has no worker"
            cluster.remove_node(nodes[0], allow_graceful=False)
            shutil.rmtree(spill[1])

        at = At("train", remove, workers=3)
        path = table("large")
        report = build(path, "IVF_SQ", at, tmp_path, workers=3)["ray"]
        assert at.did  # Ray may take longer to find that out than others take to do its worker's tasks
        assert report["workers_lost"] + report["twins"] + report["retries"] >= 1
        assert index_bytes(path) == expected("IVF_SQ")
        assert not spill[1].exists()
    finally:
        ray.shutdown()
        cluster.shutdown()
