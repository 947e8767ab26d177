"""`pilum search` answers as stock pylance does: the same rows and the same distances."""
import lance
import numpy as np
import pytest

from helpers import (NUMPY_TYPE, create_index, make_vectors, nearest, pilum, pilum_ok, queries_of, stock_create_index, table_of,
                     usable_rows, write)

DIM = 32
PARTITIONS = 12
METRICS = ("l2", "cosine", "dot")
OPTIONS = {"codes": {}, "refined": {"refine_factor": 5}}


def build(path, kind, **options):
    """Enough sub-vectors that no two rows have the same codes: which of two equal candidates
    comes k-th is the peer's own affair."""
    if kind.startswith("PQ"):
        options["num_sub_vectors"] = 16
    return create_index(path, "vec", kind, partitions=PARTITIONS, **options)


def search(path, query, tmp_path, *words, column="vec", k=10, nprobes=4):
    np.save(tmp_path / "query.npy", query)
    answer = pilum_ok("search", path, "--column", column, "--vector", tmp_path / "query.npy", "-k", k, "--nprobes", nprobes,
                      "--json", *words).json
    return [hit["rowid"] for hit in answer["rows"]], [hit["distance"] for hit in answer["rows"]]


def assert_same_hits(ours, theirs):
    """Equal distances, and equal rows except among neighbours closer than rounding."""
    rows, distances = ours
    expected_rows, expected = theirs[0].tolist(), np.asarray(theirs[1], dtype=np.float64)
    scale = np.maximum(1.0, np.abs(expected))
    assert len(rows) == len(expected_rows)
    assert np.max(np.abs(np.asarray(distances) - expected) / scale) <= 1e-5
    for at, (row, other) in enumerate(zip(rows, expected_rows)):
        if row != other:
            gaps = np.abs(expected - expected[at])
            gaps[at] = np.inf
            assert gaps.min() <= 2e-5 * scale[at] or at == len(rows) - 1, f"place {at}: row {row}, expected {other}"


def check_queries(path, metric, tmp_path):
    dataset = lance.dataset(str(path))
    for query in queries_of(usable_rows(dataset, metric=metric), 4):
        for options in OPTIONS.values():
            words = ["--refine-factor", options["refine_factor"]] if options else []
            for nprobes in (1, 4, PARTITIONS):
                ours = search(path, query, tmp_path, *words, nprobes=nprobes)
                assert_same_hits(ours, nearest(dataset, "vec", query, nprobes=nprobes, **options))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ("FLAT", "SQ", "PQ8", "PQ4"))
def test_our_index(tmp_path, kind, metric):
    path = tmp_path / "t.lance"
    write(path, make_vectors(1_500, DIM), max_rows_per_file=600)
    build(path, kind, metric=metric)
    check_queries(path, metric, tmp_path)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ("IVF_FLAT", "IVF_SQ", "IVF_PQ"))
def test_their_index(tmp_path, kind, metric):
    path = tmp_path / "t.lance"
    write(path, make_vectors(1_500, DIM), max_rows_per_file=600)
    options = {"num_sub_vectors": 16} if kind == "IVF_PQ" else {}
    stock_create_index(path, "vec", kind, metric=metric, num_partitions=PARTITIONS, **options)
    check_queries(path, metric, tmp_path)


@pytest.mark.parametrize("kind", ("FLAT", "SQ", "PQ8"))
def test_unindexed_fragments_and_deletions(tmp_path, kind):
    path = tmp_path / "t.lance"
    write(path, make_vectors(1_200, DIM), max_rows_per_file=600)
    build(path, kind)
    lance.write_dataset(table_of(make_vectors(400, DIM, 9), first_id=5_000), str(path), mode="append")
    lance.dataset(str(path)).delete("id % 5 = 2")
    check_queries(path, "l2", tmp_path)


@pytest.mark.parametrize("element", ("f16", "f32", "f64"))
@pytest.mark.parametrize("metric", METRICS)
def test_exact(tmp_path, metric, element):
    path = tmp_path / "t.lance"
    write(path, make_vectors(1_000, DIM), element, max_rows_per_file=400)
    dataset = lance.dataset(str(path))
    rows = usable_rows(dataset, metric=metric)
    if metric != "l2":  # the metric of an exact search is that of the column's index, else l2
        create_index(path, "vec", "FLAT", metric=metric, partitions=4)
    for query in queries_of(rows, 3):
        query = query.astype(NUMPY_TYPE[element]).astype(np.float32)  # Lance asks in the column's own type
        found, distances = search(path, query, tmp_path, "--exact")
        exact = rows.distances(query, metric)
        order = np.argsort(exact, kind="stable")[:10]
        assert found == rows.ids[order].tolist()
        assert np.allclose(distances, exact[order], rtol=1e-4, atol=1e-4)


def test_row_asks_with_its_own_vector(tmp_path):
    path = tmp_path / "t.lance"
    write(path, make_vectors(1_000, DIM), max_rows_per_file=400)
    create_index(path, "vec", "FLAT", partitions=4)
    rows = usable_rows(lance.dataset(str(path)))
    answer = pilum_ok("search", path, "--column", "vec", "--row", rows.ids[777], "-k", 3, "--nprobes", 4, "--json").json
    assert answer["rows"][0]["rowid"] == rows.ids[777]
    assert answer["rows"][0]["distance"] == pytest.approx(0, abs=1e-6)


def test_rowid_that_is_not_there(tmp_path):
    path = tmp_path / "t.lance"
    write(path, make_vectors(300, DIM))
    run = pilum("search", path, "--column", "vec", "--row", 5 << 32, "--exact", "--json")
    assert (run.status, run.stdout) == (1, "")
