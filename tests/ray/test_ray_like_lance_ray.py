"""The same call of lance_ray.create_index and pilum.ray.create_index: the same kind of result."""
import json
import subprocess
import sys

import lance
import numpy as np
import pytest
from ray_helpers import neighbours, vectors, write_table

import pilum.ray

pytestmark = pytest.mark.usefixtures("cluster")

LIMIT_S = 400
#: lance_ray hangs at times: it runs in a process of its own, which may be ended and started again.
TRIES_S = (35, 100, 200)
THEIRS = """
import json, sys, lance_ray, lance, ray
ray.init(address=sys.argv[1], logging_level="error", log_to_driver=False)
ds = lance_ray.create_index(*json.loads(sys.argv[2]), **json.loads(sys.argv[3]))
print("RESULT", type(ds).__name__, ds.version)
"""


def theirs(address, positional, named):
    for limit in TRIES_S:
        try:
            done = subprocess.run([sys.executable, "-c", THEIRS, address, json.dumps(positional), json.dumps(named)],
                                  capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            continue
        if done.returncode == 0:
            return next(line for line in done.stdout.splitlines() if line.startswith("RESULT")).split()[1:]
    pytest.fail(f"lance_ray made no index in {len(TRIES_S)} tries")


TYPES = {"IVF_FLAT": {}, "IVF_SQ": {}, "IVF_PQ": {"num_sub_vectors": 4, "num_bits": 4}}


def described(path):
    dataset = lance.dataset(path)
    facts = []
    for index in dataset.describe_indices():
        stats = dataset.index_statistics(index.name)
        facts.append((index.name, index.index_type, index.field_names, index.num_rows_indexed, stats["index_type"],
                      {s["metric_type"] for s in stats["indices"]}, len(index.segments),
                      {s["num_partitions"] for s in stats["indices"]}))
    return facts


@pytest.mark.parametrize("index_type", TYPES)
def test_the_same_call(cluster, tmp_path, index_type):
    x = vectors(9_000, 16)
    a, b = (write_table(tmp_path / name, x) for name in ("theirs.lance", "ours.lance"))
    named = {"num_workers": 2, "num_segments": 2, "num_partitions": 16, "sample_rate": 64, "metric": "cosine",
             "ray_remote_args": {"num_cpus": 1}, "storage_options": {}, "max_iters": 10, **TYPES[index_type]}
    kind, version = theirs(cluster.address_info["address"], [a, "vec", index_type, "mine"], named)
    ours = pilum.ray.create_index(b, "vec", index_type, "mine", progress="none", **named)
    assert (type(ours).__name__, ours.version) == (kind, int(version))
    assert described(b) == described(a)
    found = [np.mean([neighbours(lance.dataset(p), q, nprobes=16)[0] == i for i, q in enumerate(x[:20])])
             for p in (a, b)]
    assert index_type == "IVF_PQ" or found == [1.0, 1.0]


def test_options_that_tune_lance_alone_are_taken_and_named(tmp_path, caplog):
    caplog.set_level("INFO", logger="pilum.ray")
    path = write_table(tmp_path / "t.lance", vectors(2_000, 8))
    pilum.ray.create_index(path, "vec", "IVF_FLAT", num_workers=1, num_partitions=4, progress="none",
                           shuffle_partition_batches=10, shuffle_partition_concurrency=2)
    assert "shuffle_partition_batches" in caplog.text
    with pytest.raises(TypeError, match="no_such_option"):
        pilum.ray.create_index(path, "vec", "IVF_FLAT", num_workers=1, no_such_option=1)
    with pytest.raises(NotImplementedError, match="accelerator"):
        pilum.ray.create_index(path, "vec", "IVF_FLAT", num_workers=1, accelerator="cuda")
