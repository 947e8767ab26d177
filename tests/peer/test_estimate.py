"""What `plan` says of a build: its sums, what it leaves untouched, and how near it comes in bytes.

Seconds are compared on a quiet machine only (bench/fit.py); here they only have to make sense.
"""
import os

import lance
import numpy as np
import pyarrow as pa
import pytest

from helpers import pilum_ok

PHASES = ("plan", "train", "encode", "merge", "verify", "commit")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("estimate") / "t.lance"
    rng = np.random.default_rng(5)
    rows = (rng.standard_normal((50, 64))[rng.integers(0, 50, 12_000)] + 0.3 * rng.standard_normal((12_000, 64))).astype(np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), 64)
    lance.write_dataset(pa.table({"vec": vectors}), str(path), max_rows_per_file=3_000)
    return path


def words(table, kind, *more):
    return (table, "--column", "vec", "--type", kind, "--num-partitions", 96, "--json", *more)


@pytest.mark.parametrize("kind", ["IVF_FLAT", "IVF_SQ", "IVF_PQ"])
def test_plan_is_the_sum_of_its_parts(table, kind):
    plan = pilum_ok("plan", *words(table, kind)).json["plan"]
    for phase, parts in plan["parts"].items():
        assert phase in PHASES
        assert sum(parts.values()) == pytest.approx(plan[phase], rel=1e-6)
        assert all(seconds > 0 for seconds in parts.values())
    assert sum(plan[phase] for phase in PHASES) == pytest.approx(plan["total"], rel=1e-6)
    assert ("codebook" in plan["parts"]["train"]) == (kind == "IVF_PQ")
    assert 0 < plan["total"] < 300


@pytest.mark.parametrize("verify, less_or_more", [("none", -1), ("sample", 0), ("full", 1)])
def test_plan_knows_how_much_is_verified(table, verify, less_or_more):
    usual = pilum_ok("plan", *words(table, "IVF_SQ")).json["plan"]
    plan = pilum_ok("plan", *words(table, "IVF_SQ", "--verify", verify)).json["plan"]
    assert ("verify" in plan["parts"]) == (verify != "none") and (plan["verify"] > 0) == (verify != "none")
    assert np.sign(plan["bytes_read"] - usual["bytes_read"]) == less_or_more


def test_calibration_is_of_this_table_and_machine(table):
    measured = pilum_ok("plan", *words(table, "IVF_PQ")).json["plan"]["calibration"]
    assert measured["multiply_adds_per_s"] > 1e8 and measured["codeword_multiply_adds_per_s"] > 1e8
    assert measured["double_multiply_adds_per_s"] > 1e8 and measured["touch_bytes_per_s"] > 1e8
    assert measured["copy_bytes_per_s"] > 1e8 and measured["read_bytes_per_s"] > 1e5
    assert 10 < measured["spread_dimensions"] < 65


def test_what_is_read_twice_waits_for_its_device_once(tmp_path):
    """The plan for a table that is not in memory: encoding and merging read again what the sample, or encoding, has read."""
    path = tmp_path / "t.lance"
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.random.default_rng(1).standard_normal(40_000 * 64, dtype=np.float32)), 64)
    lance.write_dataset(pa.table({"vec": vectors}), str(path), max_rows_per_file=10_000)
    os.sync()

    def plan(cold):
        for file in path.glob("data/*"):
            with open(file, "rb") as data:
                os.posix_fadvise(data.fileno(), 0, 0, os.POSIX_FADV_DONTNEED if cold else os.POSIX_FADV_WILLNEED)
                if not cold:
                    data.read()
        return pilum_ok("plan", *words(path, "IVF_FLAT")).json["plan"]

    warm, cold = plan(False), plan(True)
    rates = cold["calibration"]
    assert rates["read_again_bytes_per_s"] > warm["calibration"]["read_again_bytes_per_s"] / 20
    seconds = 40_000 * 64 * 4 / rates["read_again_bytes_per_s"] + 2 * 40_000 * 264 / rates["copy_bytes_per_s"]
    assert cold["parts"]["merge"]["gather"] < 10 * seconds
    if rates["read_bytes_per_s"] < rates["read_again_bytes_per_s"] / 50:  # a slow device: seen in reading what is new
        assert cold["train"] + cold["encode"] > warm["train"] + warm["encode"]


def test_plan_touches_nothing(table):
    before = sorted((path, path.stat().st_mtime_ns) for path in table.rglob("*"))
    pilum_ok("plan", *words(table, "IVF_SQ"))
    assert sorted((path, path.stat().st_mtime_ns) for path in table.rglob("*")) == before


@pytest.mark.parametrize("kind", ["IVF_FLAT", "IVF_SQ", "IVF_PQ"])
def test_bytes_are_near(table, kind):
    report = pilum_ok("create-index", *words(table, kind)).json
    for name in ("bytes_read", "bytes_written"):
        assert report["plan"][name] == pytest.approx(report["resources"][name], rel=0.3), name


def test_processor_time_is_reported_by_phase(table):
    resources = pilum_ok("create-index", *words(table, "IVF_PQ", "--threads", 1)).json["resources"]
    cpu = resources["cpu_seconds"]
    assert set(cpu) == {*PHASES, "total"} and cpu["train"] > 0
    assert cpu["total"] == pytest.approx(sum(cpu[phase] for phase in PHASES), rel=1e-6)


def test_a_plan_does_not_shape_the_index(table):
    """Calibration reads at other places and in other sizes on each run; the losses stay to the last bit."""
    losses = {tuple(pilum_ok("create-index", *words(table, "IVF_SQ", "--threads", threads)).json["training"]["ivf_loss"])
              for threads in (1, 2, 2)}
    assert len(losses) == 1
