"""From Python the budget covers what pilum adds to a process that has memory of its own.

A process takes 500 MiB, sets the kernel's high-water mark back to what is resident, builds, and looks at the mark.
"""
import json
import re
import subprocess
import sys

import lance
import numpy as np
import pyarrow as pa
import pytest

OWN_MIB = 500
TYPES = ("IVF_FLAT", "IVF_SQ", "IVF_PQ")

SCRIPT = """
import json, re, sys
import numpy as np
import pilum, lance

def resident(name):
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(name)) / 1024

given = json.loads(sys.argv[2])
greed, budget = given.pop("greed"), given.pop("budget")
own = np.ones(%d << 17)
how = {"uri": sys.argv[1], "column": "vec", **given}
if budget is None:
    try:
        pilum.create_index(memory_budget=1, **how)
    except pilum.MemoryBudgetError as error:
        budget = int(re.search(r"(\\d+) MiB is the smallest", str(error))[1])
lance.dataset(sys.argv[1])
taken = []
def tell(progress):
    if progress.phase == "encode" and not taken:
        taken.append(np.ones(greed << 17))
with open("/proc/self/clear_refs", "w") as f:
    f.write("5")
before = resident("VmHWM:")
pilum.create_index(memory_budget=f"{budget}MiB", progress=tell, **how)
report = pilum.last_report()["resources"]
print(json.dumps({"before": before, "added": resident("VmHWM:") - before, "budget": budget,
                  "said": report["peak_rss_bytes"] >> 20, "budget_said": report["memory_budget_bytes"] >> 20}))
""" % OWN_MIB


def make_table(path, rows, dim):
    rng = np.random.default_rng(7)
    axes = rng.normal(size=(12, dim)).astype(np.float32)
    schema = pa.schema([("vec", pa.list_(pa.float32(), dim))])

    def batches():
        for at in range(0, rows, 8192):
            x = rng.normal(size=(min(8192, rows - at), 12)).astype(np.float32) @ axes
            yield pa.record_batch([pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), dim)], schema=schema)

    lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches()), str(path), max_rows_per_file=rows // 3)
    return path


def build(path, index_type, budget, greed=0, **options):
    given = {"index_type": index_type, "budget": budget, "greed": greed, **options}
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(path), json.dumps(given)], capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, done.stderr
    peak = json.loads(done.stdout)
    assert peak["before"] > OWN_MIB and peak["budget"] == peak["budget_said"]
    return peak


@pytest.mark.parametrize("index_type", TYPES)
def test_a_table_larger_than_the_budget(tmp_path, index_type):
    """480 MiB of vectors, a sample of 240 MiB, 256 MiB to work with."""
    path = make_table(tmp_path / "t.lance", 120_000, 1_024)
    peak = build(path, index_type, 256, num_partitions=240)
    assert 48 < peak["added"] <= 1.05 * 256, peak
    assert peak["said"] > OWN_MIB, "a report tells of the whole process"


@pytest.mark.parametrize("threads", [2, 8])
@pytest.mark.parametrize("index_type", TYPES)
def test_the_smallest_budget(tmp_path, index_type, threads):
    path = make_table(tmp_path / "t.lance", 40_000, 96)
    peak = build(path, index_type, None, num_partitions=60, threads=threads)
    assert peak["budget"] < 48 and peak["added"] <= 1.05 * peak["budget"], peak


def test_the_measure_sees_what_is_too_much(tmp_path):
    path = make_table(tmp_path / "t.lance", 40_000, 96)
    assert build(path, "IVF_SQ", 64, greed=96, num_partitions=60)["added"] > 1.05 * 64


def test_too_small_is_refused_whatever_the_process_has(tmp_path):
    """The process's own memory is not counted: what it adds is what is refused."""
    import pilum

    path = make_table(tmp_path / "t.lance", 40_000, 96)
    with pytest.raises(pilum.MemoryBudgetError) as refused:
        pilum.create_index(path, "vec", "IVF_SQ", num_partitions=60, memory_budget="1MiB")
    assert int(re.search(r"(\d+) MiB is the smallest", str(refused.value))[1]) < 48
