"""The index bytes depend on rows, ids and options, not on threads, budget, path or time."""
import shutil

import pytest

from helpers import create_index, index_files, make_vectors, write

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
