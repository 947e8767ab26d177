"""Indexes so large that they and their runs are written past the page cache: every byte is where it belongs."""
import lance
import numpy as np
import pyarrow as pa
import pytest

from helpers import create_index, index_files, pilum_ok
from index_contents import check_codes, contents

ROWS, DIM = 17_001, 4096  # SQ: 70 MB, FLAT: 139 MB


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(11)
    axes = rng.normal(size=(6, DIM)).astype(np.float32)
    return (rng.normal(size=(ROWS, 6)).astype(np.float32) @ axes + rng.normal(size=DIM)).astype(np.float16)


@pytest.fixture(scope="module")
def table(rows, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("large") / "t.lance")
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), DIM)
    lance.write_dataset(pa.table({"vec": vectors}), path)
    return path


@pytest.mark.parametrize("kind", ("FLAT", "SQ"))
@pytest.mark.parametrize("budget", ("1GiB", "96MiB"))
def test_every_row_is_in_it_whole(table, rows, kind, budget):
    create_index(table, "vec", kind, partitions=8, sample_rate=64, memory_budget=budget)
    assert sum(map(len, index_files(table).values())) > 64 << 20
    made = contents(table, "vec_idx")
    assert np.array_equal(np.sort(made.rowids), np.arange(ROWS))
    own = rows[made.rowids]
    if kind == "FLAT":
        assert np.array_equal(made.codes.view(np.uint16), own.view(np.uint16))
    else:
        made.codes, own = made.codes[::5], own[::5]
        check_codes(made, own.astype(np.float64), "f16")
    pilum_ok("verify", table, "--index", "vec_idx", "--full")
