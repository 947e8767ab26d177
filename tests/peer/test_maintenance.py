"""After our commit the table lives on in other hands: stock pylance and LanceDB append,
optimize, delete, compact, re-create, drop and clean up, and searches stay right."""
from datetime import timedelta

import lance
import lancedb
import pytest

from helpers import (create_index, index_named, make_vectors, mean_recall, nearest, queries_of, stock, stock_create_index,
                     table_of, usable_rows, uses_index, write)

DIM = 32
PARTITIONS = 8
# Appended rows are scored exactly, so the codes' part is compared after refinement.
FLOORS = {"FLAT": 1.0, "SQ": 0.97, "PQ8": 0.90}


@pytest.fixture(params=FLOORS)
def built(request, tmp_path):
    """(path, type) of a table in three fragments with our index."""
    path = tmp_path / "t.lance"
    write(path, make_vectors(1_500, DIM), max_rows_per_file=500)
    create_index(path, "vec", request.param, metric="cosine", partitions=PARTITIONS)
    return path, request.param


def check(path, kind):
    dataset = lance.dataset(str(path))
    rows = usable_rows(dataset, metric="cosine")
    assert mean_recall(dataset, "vec", rows, "cosine", nprobes=PARTITIONS, refine_factor=10) >= FLOORS[kind]
    return dataset, rows


def append(path, n=300, seed=50):
    return lance.write_dataset(table_of(make_vectors(n, DIM, seed), first_id=10_000), str(path), mode="append")


def optimize(path, **options):
    stock(f"lance.dataset(sys.argv[1]).optimize.optimize_indices(**{options!r})", path)


def covered(dataset, name="vec_idx"):
    return {f for segment in index_named(dataset, name).segments for f in segment.fragment_ids}


def test_append(built):
    path, kind = built
    append(path)
    dataset, rows = check(path, kind)
    assert len(rows.ids) == 1_800
    assert covered(dataset) == {0, 1, 2}
    new = rows.vectors[-1]
    assert nearest(dataset, "vec", new.astype("f4"), k=1)[0][0] == rows.ids[-1]


@pytest.mark.parametrize("merge", [0, 1], ids=["delta", "merged"])
def test_append_then_optimize(built, merge):
    path, kind = built
    append(path)
    optimize(path, num_indices_to_merge=merge)
    dataset, _ = check(path, kind)
    assert covered(dataset) == {0, 1, 2, 3}
    assert len(index_named(dataset, "vec_idx").segments) == 2 - merge


def test_delete(built):
    path, kind = built
    lance.dataset(str(path)).delete("id % 4 = 1")
    _, rows = check(path, kind)
    assert len(rows.ids) == 1_125


def test_delete_a_fragment(built):
    path, kind = built
    lance.dataset(str(path)).delete("id < 500")
    _, rows = check(path, kind)
    assert len(rows.ids) == 1_000


def test_update(built):
    path, kind = built
    lance.dataset(str(path)).update({"id": "id + 5000"}, where="id % 10 = 0")
    _, rows = check(path, kind)
    assert len(rows.ids) == 1_500


def test_compact(built):
    """The index is remapped to the new row addresses and still covers the rows."""
    path, kind = built
    lance.dataset(str(path)).delete("id % 4 = 1")
    lance.dataset(str(path)).optimize.compact_files(target_rows_per_fragment=10_000)
    dataset, rows = check(path, kind)
    assert len(dataset.get_fragments()) == 1
    assert covered(dataset) == set(dataset.fragment_ids())
    assert uses_index(dataset, "vec", queries_of(rows, 1)[0])


def test_replaced_by_us(built):
    path, kind = built
    append(path)
    create_index(path, "vec", kind, metric="cosine", partitions=4)
    dataset, _ = check(path, kind)
    assert [index.name for index in dataset.describe_indices()] == ["vec_idx"]
    assert covered(dataset) == {0, 1, 2, 3}


def test_replaced_by_pylance(built):
    path, kind = built
    stock_create_index(path, "vec", "IVF_FLAT", metric="cosine", num_partitions=4, replace=True)
    dataset, _ = check(path, "FLAT")
    assert [index.name for index in dataset.describe_indices()] == ["vec_idx"]


def test_second_index_by_pylance(built):
    path, kind = built
    lance.dataset(str(path)).create_scalar_index("id", "BTREE")
    dataset, _ = check(path, kind)
    assert {index.name for index in dataset.describe_indices()} == {"vec_idx", "id_idx"}


def test_drop(built):
    path, _ = built
    lance.dataset(str(path)).drop_index("vec_idx")
    dataset = lance.dataset(str(path))
    rows = usable_rows(dataset, metric="cosine")
    assert index_named(dataset, "vec_idx") is None
    assert not uses_index(dataset, "vec", queries_of(rows, 1)[0])
    assert mean_recall(dataset, "vec", rows, "cosine", metric_asked="cosine") == 1.0


def test_cleanup(built):
    """Old versions go, the files of the live index stay; a replaced index goes with them."""
    path, kind = built
    create_index(path, "vec", kind, metric="cosine", partitions=4)
    lance.dataset(str(path)).cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)
    dataset, rows = check(path, kind)
    assert uses_index(dataset, "vec", queries_of(rows, 1)[0])
    uuids = {str(segment.uuid) for segment in index_named(dataset, "vec_idx").segments}
    assert {folder.name for folder in (path / "_indices").iterdir() if any(folder.iterdir())} == uuids


def test_validate_and_prewarm(built):
    path, kind = built
    dataset = lance.dataset(str(path))
    dataset.validate()
    dataset.prewarm_index("vec_idx")
    check(path, kind)


def test_lancedb(built):
    """LanceDB lists, searches, appends, optimizes and drops."""
    path, kind = built
    table = lancedb.connect(str(path.parent)).open_table("t")
    (index,) = table.list_indices()
    assert (index.name, index.columns) == ("vec_idx", ["vec"])
    stats = table.index_stats("vec_idx")
    assert (stats.num_indexed_rows, stats.num_unindexed_rows, stats.distance_type) == (1_500, 0, "cosine")

    rows = usable_rows(lance.dataset(str(path)), metric="cosine")
    query = queries_of(rows, 1)[0]
    hits = table.search(query).distance_type("cosine").nprobes(PARTITIONS).refine_factor(10).limit(10).to_arrow()
    exact = rows.distances(query, "cosine")
    assert set(hits["id"].to_pylist()[:3]) <= set(exact.argsort()[:10].tolist())

    table.add(table_of(make_vectors(200, DIM, 60), first_id=20_000))
    stock("import lancedb; lancedb.connect(sys.argv[1]).open_table('t').optimize()", path.parent)
    check(path, kind)
    table.checkout_latest()
    assert table.index_stats("vec_idx").num_unindexed_rows == 0
    table.drop_index("vec_idx")
    assert table.list_indices() == []
