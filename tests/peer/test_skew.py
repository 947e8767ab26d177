"""Fragments of very different value ranges: SQ bounds must come from the whole table.

Bounds of one fragment alone clip the others and leave an index that looks fine and finds
the wrong rows.
"""
import lance
import numpy as np
import pytest

from helpers import create_index, make_vectors, mean_recall, table_of, usable_rows

DIM = 32
RANGES = (50, 1, 5, 20)


@pytest.mark.parametrize("order", [RANGES, RANGES[::-1], (1, 5, 20, 50)], ids=str)
def test_recall_of_skewed_fragments(tmp_path, order):
    path = tmp_path / "t.lance"
    for n, scale in enumerate(order):
        vectors = make_vectors(500, DIM, seed=n) * np.float32(scale / 4)
        lance.write_dataset(table_of(vectors, first_id=500 * n), str(path), mode="append" if n else "create")
    report = create_index(path, "vec", "SQ", partitions=8)
    assert report["rows"]["indexed"] == 2_000
    dataset = lance.dataset(str(path))
    rows = usable_rows(dataset)
    assert mean_recall(dataset, "vec", rows, "l2", nprobes=8, refine_factor=10) >= 0.97
