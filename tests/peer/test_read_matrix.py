"""Every shape of column that stock pylance writes is read back bit by bit, and it reads ours.

Needs the test tools of a build: $PILUM_BUILD/tests/dump_column (default: build/).
"""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from lance.file import LanceFileReader

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("PILUM_BUILD", "build"))
TOOLS = (BUILD if BUILD.is_absolute() else ROOT / BUILD) / "tests"
sys.path.insert(0, str(ROOT / "tests" / "format"))
import make_files as files  # noqa: E402


class Dump:
    """The dump_column tool, kept running."""

    def __init__(self, folder):
        self.out = folder / "out"
        self.process = subprocess.Popen(
            [str(TOOLS / "dump_column")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, path, column, step):
        self.process.stdin.write(
            f"{path} {column.number} {column.items} {column.bits} {int(column.is_list)} {step} {self.out}\n"
        )
        self.process.stdin.flush()
        answer = self.process.stdout.readline().rstrip("\n")
        assert answer, f"dump_column died on {path} {column.path}"
        return answer

    def check(self, path, table, version):
        """All leaf columns, at once and in steps; the page kinds that were seen."""
        kinds = set()
        for column in files.columns(table, version):
            for step in (0, 777):
                answer = self.ask(path, column, step)
                assert answer.startswith("ok "), f"{path} {column.path}: {answer}"
                _, n_rows, n_pages, seen, n_gets = answer.split()
                assert int(n_rows) == len(column.nulls)
                if step == 0:  # at most table, values and two bitmaps of each (small) page
                    assert int(n_gets) <= 3 * int(n_pages), f"{column.path}: {answer}"
                kinds.update(seen.split("+"))
                nulls = np.fromfile(f"{self.out}.nulls", np.uint8)
                np.testing.assert_array_equal(nulls, column.nulls, err_msg=column.path)
                values = np.fromfile(f"{self.out}.values", column.values.dtype)
                values = values.reshape(column.values.shape)
                kept = ~column.nulls
                assert values[kept].tobytes() == column.values[kept].tobytes(), column.path
        return kinds


@pytest.fixture
def dump(tmp_path):
    made = Dump(tmp_path)
    yield made
    made.process.stdin.close()
    assert made.process.wait() == 0  # a sanitizer's complaint would show here


def rows_for(dim, element):
    """Row counts around the chunk and block sizes, not too many bytes."""
    sizes = (64, 1000, 1024, 1088, 2112, 4096, 5000)
    n = sizes[(3 * dim + np.dtype(element).itemsize) % len(sizes)]
    return min(n, 300_000 // dim)


# dims beyond a few only with `-m full`
dims = [pytest.param(d, marks=() if d in (1, 7, 64) else pytest.mark.full) for d in files.DIMS]
elements = pytest.mark.parametrize("element", files.ELEMENTS, ids=lambda e: np.dtype(e).name)
versions = pytest.mark.parametrize("version", files.VERSIONS)


@versions
@pytest.mark.parametrize("dim", dims)
@elements
def test_vectors(dump, tmp_path, version, dim, element):
    rng = np.random.default_rng(dim)
    table = files.vector_table(rng, rows_for(dim, element), dim, element, version)
    files.write(tmp_path / "f.lance", table, version)
    kinds = dump.check(tmp_path / "f.lance", table, version)
    assert "null" in kinds
    assert any(k.endswith("-items") for k in kinds)


@pytest.mark.parametrize("version", ["2.1", "2.2"])
@pytest.mark.parametrize("dim", dims)
@elements
def test_forced_structure(dump, tmp_path, version, dim, element):
    rng = np.random.default_rng(dim)
    table, metadata = files.forced_table(rng, rows_for(dim, element), dim, element)
    files.write(tmp_path / "f.lance", table, version, metadata=metadata)
    kinds = dump.check(tmp_path / "f.lance", table, version)
    assert {"plain", "zipped", "chunked-none-flat"} <= kinds, kinds


@versions
@pytest.mark.parametrize("dim", dims)
@elements
def test_pages_that_differ(dump, tmp_path, version, dim, element):
    rng = np.random.default_rng(dim)
    table = files.pages_table(rng, dim, element, version)
    files.write(tmp_path / "f.lance", table, version, cache_bytes=1)
    assert len(dump.check(tmp_path / "f.lance", table, version)) >= 3


@versions
@pytest.mark.parametrize("n", [1, 64, 1000, 1088, 5000, 200_000])
def test_scalars(dump, tmp_path, version, n):
    table = files.scalar_table(np.random.default_rng(n), n, version)
    files.write(tmp_path / "f.lance", table, version)
    dump.check(tmp_path / "f.lance", table, version)


@versions
def test_empty(dump, tmp_path, version):
    table = files.vector_table(np.random.default_rng(0), 1, 8, np.float32, version).slice(0, 0)
    files.write(tmp_path / "f.lance", table, version)
    assert dump.check(tmp_path / "f.lance", table, version) == {"-"}


def test_what_is_refused_is_named(dump, tmp_path):
    rng = np.random.default_rng(1)
    runs = pa.table({"r": np.repeat(np.arange(60, dtype=np.uint64), 50)})
    files.write(tmp_path / "f.lance", runs, "2.2")
    answer = dump.ask(tmp_path / "f.lance", files.columns(runs, "2.2")[0], 0)
    assert answer.startswith("error UNSUPPORTED") and "dictionary" in answer
    table = pa.table({"v": files.vectors(rng, 10, 4, np.float32)})
    files.write(tmp_path / "g.lance", table, "next")
    answer = dump.ask(tmp_path / "g.lance", files.columns(table, "2.2")[0], 0)
    assert answer.startswith("error UNSUPPORTED") and "2.3" in answer


def auxiliary(root):
    return max(root.glob("_indices/*/auxiliary.idx"), key=lambda p: p.stat().st_mtime_ns)


def check_index(dump, root, version):
    path = auxiliary(root)
    table = LanceFileReader(str(path)).read_all(batch_size=1 << 20).to_table()
    assert "_rowid" in table.column_names
    dump.check(path, table, version)


@versions
@pytest.mark.parametrize("kind", ["IVF_FLAT", "IVF_SQ", "IVF_PQ", "IVF_RQ"])
def test_the_peers_indexes(dump, tmp_path, version, kind):
    """Fresh, delta, merged and remapped by compaction."""
    rng = np.random.default_rng(3)

    def rows(n):
        ids = pa.array(rng.integers(0, 1 << 40, n))
        return pa.table({"id": ids, "v": files.vectors(rng, n, 32, np.float32, "few")})

    root = tmp_path / "table"
    table = lance.write_dataset(
        rows(6000), root, data_storage_version=version, max_rows_per_file=2000
    )
    more = {"num_sub_vectors": 8} if kind == "IVF_PQ" else {}
    table.create_index("v", kind, num_partitions=8, **more)
    check_index(dump, root, version)
    table = lance.write_dataset(rows(3000), root, mode="append")
    table.optimize.optimize_indices(num_indices_to_merge=0)
    check_index(dump, root, version)
    lance.dataset(root).optimize.optimize_indices(num_indices_to_merge=5)
    check_index(dump, root, version)
    table = lance.dataset(root)
    table.delete("id % 3 = 0")
    table.optimize.compact_files(target_rows_per_fragment=10**6)
    check_index(dump, root, version)


@pytest.mark.parametrize("minor", [0, 1, 2])
def test_the_peer_reads_our_files(tmp_path, minor):
    command = [str(TOOLS / "write_columns"), str(tmp_path), "own.lance", str(minor)]
    subprocess.run(command, check=True)
    reader = LanceFileReader(str(tmp_path / "own.lance"))
    assert reader.metadata().num_rows == 1000
    table = reader.read_all(batch_size=10_000).to_table()
    rows = np.arange(1000)
    np.testing.assert_array_equal(table["_rowid"].to_numpy(), rows.astype(np.uint64) ** 2)
    flat = table["flat"].combine_chunks().flatten().to_numpy()
    np.testing.assert_array_equal(flat, np.arange(5000, dtype=np.float32))
    codes = table["code"].combine_chunks().flatten().to_numpy().reshape(-1, 3)
    np.testing.assert_array_equal(codes, (rows[:, None] + np.arange(3)) & 255)
    assert table.schema.metadata == {b"lance:ivf": b"1", b"distance_type": b"l2"}
    assert table.schema.field("_rowid").nullable and not table.schema.field("flat").nullable
    assert bytes(reader.read_global_buffer(1)) == b"first"


def test_kept_files_are_what_the_generator_writes(tmp_path):
    """The expected values in tests/format/good/files still follow from the generator."""
    files.main(tmp_path)
    kept = ROOT / "tests" / "format" / "good" / "files"
    assert (tmp_path / "manifest.txt").read_text() == (kept / "manifest.txt").read_text()
    for path in sorted(tmp_path.glob("*.npy")):
        assert path.read_bytes() == (kept / path.name).read_bytes(), path.name
    shutil.rmtree(tmp_path)
