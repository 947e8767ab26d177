"""The index bytes depend on rows, ids and options, not on threads, budget, path or time."""
import os
import random
import shutil
import signal
import time

import lance
import pytest

from helpers import Running, create_index, index_files, make_vectors, pilum, pilum_ok, table_of, write

KINDS = ("FLAT", "SQ", "PQ8", "PQ4")


def built_bytes(source, path, kind, **options):
    shutil.copytree(source, path)
    create_index(path, "vec", kind, partitions=16, seed=7, **options)
    files = index_files(path)
    assert sorted(files) == ["auxiliary.idx", "index.idx"]
    return files


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_bytes(tmp_path, kind):
    source = tmp_path / "source.lance"
    write(source, make_vectors(6_000, 32), max_rows_per_file=1_300)
    one = built_bytes(source, tmp_path / "one.lance", kind, threads=1)
    for threads in (2, 4):
        assert built_bytes(source, tmp_path / f"{threads}.lance", kind, threads=threads) == one, f"{threads} threads"
    small = built_bytes(source, tmp_path / "small.lance", kind, threads=2, memory_budget="128MiB")
    assert small == one, "a smaller budget"
    again = built_bytes(source, tmp_path / "again" / "elsewhere.lance", kind)
    assert again == one, "another path"


@pytest.mark.parametrize("kind", KINDS)
def test_another_seed_other_bytes(tmp_path, kind):
    """So that the comparison above compares something."""
    path = tmp_path / "t.lance"
    write(path, make_vectors(3_000, 32))
    create_index(path, "vec", kind, partitions=16, seed=7)
    first = index_files(path)
    create_index(path, "vec", kind, partitions=16, seed=8)
    assert index_files(path) != first


def words(path, kind, *more):
    quantizer = ["--type", "IVF_PQ", "--num-sub-vectors", 8] if kind == "PQ" else ["--type", f"IVF_{kind}"]
    return ["create-index", path, "--column", "vec", *quantizer, "--num-partitions", 24, "--seed", 7, "--threads", 2,
            "--max-iters", 4, "--sample-rate", 64, *more]


@pytest.fixture(scope="module")
def holed(tmp_path_factory):
    """A table larger than the smallest budgets, with deleted and null rows."""
    path = tmp_path_factory.mktemp("holed") / "t.lance"
    table = table_of(make_vectors(60_000, 128), null_rows=range(100, 60_000, 1_777))
    lance.write_dataset(table, str(path), data_storage_version="2.2", max_rows_per_file=17_000)
    lance.dataset(str(path)).delete("id % 11 = 3 or (id > 20000 and id < 21000)")
    return path


def smallest_budget(path, kind):
    run = pilum("plan", path, *words(path, kind)[2:], "--memory-budget", "1MiB", "--json")
    assert run.status != 0
    return int(run.stderr.split(" MiB is the smallest")[0].split()[-1])


@pytest.mark.parametrize("kind", ["FLAT", "SQ", "PQ"])
def test_budgets_same_bytes(tmp_path, holed, kind):
    """From the least that will do (runs of codes, many) to plenty (FLAT: the table read again in one pass)."""
    least = smallest_budget(holed, kind)
    first = None
    for budget in (least, least + 4, least + 9, least + 20, 1000):
        path = tmp_path / f"{budget}.lance"
        shutil.copytree(holed, path)
        pilum_ok(*words(path, kind, "--memory-budget", f"{budget}MiB"))
        files = index_files(path)
        first = first or files
        assert files == first, f"{budget} MiB"
        shutil.rmtree(path)


@pytest.mark.parametrize("kind", ["FLAT", "SQ", "PQ"])
def test_killed_anywhere_same_bytes(tmp_path, holed, kind):
    """kill -9 after ever longer times, each time carried on, with another budget each time."""
    path, whole = tmp_path / "t.lance", tmp_path / "whole.lance"
    shutil.copytree(holed, path)
    shutil.copytree(holed, whole)
    began = time.monotonic()
    pilum_ok(*words(whole, kind))
    took = time.monotonic() - began
    least, numbers, kills = smallest_budget(holed, kind), random.Random(kind), 0
    for phase in ("train", "encode", "encode", "merge", "merge", "verify", "verify"):
        budget = f"{least + numbers.choice([0, 6, 500])}MiB"
        with Running(*words(path, kind, "--progress", "json", "--memory-budget", budget)) as running:
            if running.wait_for_phase(phase):
                time.sleep(numbers.random() * took / 20)
                os.kill(running.process.pid, signal.SIGKILL)
                running.process.wait()
                kills += running.process.returncode == -signal.SIGKILL
        if index_files_or_none(path):
            break
    assert kills > 0
    if not index_files_or_none(path):
        pilum_ok(*words(path, kind))
    assert index_files(path) == index_files(whole)
    assert not (path / "_pilum").exists()


def index_files_or_none(path):
    return index_files(path) if lance.dataset(str(path)).describe_indices() else None


@pytest.mark.full
def test_ways_of_flat_same_bytes(tmp_path):
    """Runs of codes; the table read again in several passes, and in two."""
    source, first, spilled, reads = tmp_path / "source.lance", None, [], []
    write(source, make_vectors(240_000, 512), max_rows_per_file=50_000)
    least = smallest_budget(source, "FLAT")
    for budget in (least, 150, 250, 2000):
        path = tmp_path / f"{budget}.lance"
        shutil.copytree(source, path, copy_function=os.link)
        run = pilum_ok(*words(path, "FLAT", "--memory-budget", f"{budget}MiB", "--json"))
        files = index_files(path)
        first = first or files
        assert files == first, f"{budget} MiB"
        spilled.append(run.json["resources"]["bytes_written"] > 1.5 * len(files["auxiliary.idx"]))
        reads.append(run.json["resources"]["bytes_read"])
        shutil.rmtree(path)
    assert spilled == [True, False, False, False]
    assert min(reads[1:]) > 2 * 240_000 * 512 * 4
