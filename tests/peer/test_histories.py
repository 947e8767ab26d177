"""The catalogue itself: each history is what it says, read by stock pylance alone."""
import lance
import pytest

from helpers import mean_recall, usable_rows
from histories import CATALOGUE


@pytest.mark.parametrize("name", CATALOGUE)
def test_history_is_searchable_without_an_index(tmp_path, name):
    entry = CATALOGUE[name]
    entry.make(tmp_path / "t.lance", "f32", 16, "2.2")
    dataset = lance.dataset(str(tmp_path / "t.lance"))
    rows = usable_rows(dataset, entry.column)
    assert len(rows.ids) >= 200
    assert len(set(rows.ids.tolist())) == len(rows.ids)
    assert mean_recall(dataset, entry.column, rows, "l2", n_queries=2) == 1.0
