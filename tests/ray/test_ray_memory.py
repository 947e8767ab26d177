"""The memory budget is each worker's: its process grows by no more, messages of Ray aside."""
import shutil

import pytest
from ray_helpers import Growth, index_bytes, vectors, write_table

import pilum.ray

MIB = 1 << 20
BUDGET = 36 * MIB
BESIDE = 8 * MIB  # what Ray and Python hold of messages, and code of theirs that comes into use


@pytest.fixture(scope="module")
def tall(tmp_path_factory):
    """146 MiB of vectors."""
    return write_table(tmp_path_factory.mktemp("tall") / "t.lance", vectors(150_000, 256, seed=8), fragments=8)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("index_type", ["IVF_FLAT", "IVF_SQ", "IVF_PQ"])
def test_workers_stay_within_the_budget(tall, monkeypatch, index_type):
    """And would not, were it larger; what is built is the same."""
    growth, made = Growth(monkeypatch), []
    for budget in (BUDGET, 1 << 30):
        shutil.rmtree(f"{tall}/_indices", ignore_errors=True)
        pilum.ray.create_index(tall, "vec", index_type, num_workers=2, num_partitions=64, num_sub_vectors=16, threads=1,
                               memory_budget=budget, progress="none")
        made.append((growth.worst(), index_bytes(tall)))
    (small, bytes_of_small), (large, bytes_of_large) = made
    limit = BUDGET * 1.05 + BESIDE
    assert small <= limit < large, f"{small / MIB:.1f} and {large / MIB:.1f} MiB, limit {limit / MIB:.1f}"
    assert bytes_of_small == bytes_of_large


@pytest.mark.usefixtures("cluster")
def test_a_budget_too_small_for_a_worker_is_refused_before_any_work(tall):
    with pytest.raises(pilum.MemoryBudgetError, match="the smallest that would do"):
        pilum.ray.create_index(tall, "vec", "IVF_SQ", num_workers=2, num_partitions=64, memory_budget=4 * MIB,
                               progress="none")
