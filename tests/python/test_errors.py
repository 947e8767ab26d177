"""Exceptions: one class for each code, and the ones that lance_ray raises for the same wrong arguments."""
import pickle

import lance
import numpy as np
import pyarrow as pa
import pytest

import pilum
from helpers import make_vectors, table_of, tree_state
from pilum import _core, _errors

DIM = 16


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("errors") / "t.lance"
    columns = table_of(make_vectors(600, DIM))
    n = len(columns)
    columns = columns.append_column("text", pa.array(["x"] * n))
    bytes_ = pa.array(np.zeros(n * DIM, np.uint8))
    columns = columns.append_column("u8", pa.FixedSizeListArray.from_arrays(bytes_, DIM))
    lance.write_dataset(columns, str(path), max_rows_per_file=200)
    pilum.create_index(path, "vec", "IVF_SQ", num_partitions=2)
    return path


# ---- classes ----------------------------------------------------------------------------


def test_every_code_has_a_class():
    names = {number: name for name, (number, _) in _core.CODES.items() if name != "OK"}
    assert {number: cls.code for number, cls in _errors._CLASSES.items()} == names
    for number in names:
        error = _errors.error_from_core(number, "what, where", 5, 503)
        assert isinstance(error, pilum.Error)
        assert (error.number, error.message, str(error)) == (number, "what, where", "what, where")
        assert (error.sys_errno, error.http_status) == (5, 503)


@pytest.mark.parametrize("cls", sorted({*_errors._CLASSES.values(), pilum.ArgumentTypeError, pilum.ColumnNotFoundError,
                                        pilum.ColumnTypeError, pilum.IndexExistsError}, key=lambda c: c.__name__))
def test_errors_travel(cls):
    error = pickle.loads(pickle.dumps(cls("a message", 2, 404)))
    assert type(error) is cls
    assert (str(error), error.sys_errno, error.http_status) == ("a message", 2, 404)
    assert getattr(pilum, cls.__name__) is cls


@pytest.mark.parametrize("cls, bases", [
    (pilum.ArgumentError, (ValueError,)), (pilum.ColumnNotFoundError, (ValueError, KeyError)),
    (pilum.ColumnTypeError, (ValueError, TypeError)), (pilum.IndexExistsError, (ValueError,)),
    (pilum.UnsupportedError, (NotImplementedError,)), (pilum.AccessDeniedError, (PermissionError,)),
    (pilum.StorageError, (OSError,)), (pilum.MemoryBudgetError, (MemoryError,)),
])
def test_errors_are_pythons_own_too(cls, bases):
    assert issubclass(cls, (pilum.Error,)) and all(issubclass(cls, base) for base in bases)


# ---- what the core finds -----------------------------------------------------------------


CORE = [
    ({"column": "nope"}, pilum.ColumnNotFoundError, "no column 'nope'; there are: id, vec"),
    ({"column": "text"}, pilum.ColumnTypeError, "column 'text' is string"),
    ({"column": "id"}, pilum.ColumnTypeError, "column 'id' is int64"),
    ({"column": "u8"}, pilum.UnsupportedError, "uint8"),
    ({"fragments": [0, 77]}, pilum.NotFoundError, "fragment 77"),
    ({"memory_budget": 4096}, pilum.MemoryBudgetError, "smallest that would do"),
    ({"replace": False}, pilum.IndexExistsError, "already exists"),
    ({"index_type": "IVF_PQ", "num_sub_vectors": 5}, pilum.DataError, "not divisible by 5"),
    ({"ivf_centroids": np.zeros((2, DIM + 1), np.float32)}, pilum.Error, str(DIM + 1)),
]


@pytest.mark.parametrize("changes, cls, words", CORE)
@pytest.mark.parametrize("call", [pilum.create_index, pilum.plan_index])
def test_what_the_core_refuses(table, call, changes, cls, words):
    before = tree_state(table)
    with pytest.raises(cls, match=words):
        call(table, **{"column": "vec", "index_type": "IVF_FLAT", "num_partitions": 2, **changes})
    assert tree_state(table) == before


@pytest.mark.parametrize("report, cls", [("no/such/r.json", FileNotFoundError), (".", IsADirectoryError)])
def test_a_report_that_cannot_be_written_is_told_at_once(table, monkeypatch, tmp_path, report, cls):
    monkeypatch.chdir(tmp_path)
    before = tree_state(table)
    for call in (pilum.create_index, pilum.plan_index):
        with pytest.raises(cls, match="report"):
            call(table, "vec", "IVF_FLAT", num_partitions=2, report=report)
    assert tree_state(table) == before


def test_a_work_directory_that_cannot_be_made_leaves_nothing(table):
    before = tree_state(table)
    with pytest.raises(pilum.Error, match="/proc/no"):
        pilum.create_index(table, "vec", "IVF_FLAT", num_partitions=2, work_dir="/proc/no")
    assert tree_state(table) == before


def test_no_such_table(tmp_path):
    for call in (lambda: pilum.create_index(tmp_path / "no.lance", "vec", "IVF_SQ"),
                 lambda: pilum.verify_index(tmp_path / "no.lance", "vec_idx"),
                 lambda: pilum.search(tmp_path / "no.lance", "vec", [0.0]),
                 lambda: pilum.inspect(tmp_path / "no.lance")):
        with pytest.raises(pilum.NotFoundError, match="no.lance"):
            call()


def test_no_such_index(table):
    with pytest.raises(pilum.NotFoundError, match="no_idx"):
        pilum.verify_index(table, "no_idx")
    with pytest.raises(pilum.NotFoundError, match="no_idx"):
        pilum.inspect(table, "no_idx")


def test_empty_table(tmp_path):
    lance.write_dataset(table_of(make_vectors(3, DIM)).slice(0, 0), str(tmp_path / "e.lance"))
    with pytest.raises(pilum.DataError, match="nothing to index"):
        pilum.create_index(tmp_path / "e.lance", "vec", "IVF_FLAT")


def test_damage_is_told_with_its_place(tmp_path):
    path = tmp_path / "t.lance"
    lance.write_dataset(table_of(make_vectors(600, DIM)), str(path))
    (data,) = (path / "data").iterdir()
    data.write_bytes(data.read_bytes()[:-20])
    with pytest.raises(pilum.CorruptError, match=data.name):
        pilum.create_index(path, "vec", "IVF_FLAT", num_partitions=2)


def test_a_store_without_driver():
    with pytest.raises(NotImplementedError, match="gs://"):
        pilum.create_index("gs://bucket/t.lance", "vec", "IVF_FLAT")


# ---- what no table can make right ----------------------------------------------------------------


ARGUMENTS = [
    ({"column": ""}, ValueError, "column"),
    ({"column": 3}, TypeError, "column"),
    ({"column": "a\0b"}, ValueError, "NUL"),
    ({"index_type": 3}, TypeError, "index_type"),
    ({"index_type": "IVF_XX"}, ValueError, "IVF_XX"),
    ({"index_type": "IVF_RQ"}, NotImplementedError, "IVF_RQ"),
    ({"index_type": "ivf_hnsw_pq"}, NotImplementedError, "IVF_HNSW_PQ"),
    ({"metric": 3}, TypeError, "metric"),
    ({"metric": "manhattan"}, ValueError, "manhattan"),
    ({"metric": "hamming"}, NotImplementedError, "hamming"),
    ({"num_partitions": 0}, ValueError, "num_partitions is 0"),
    ({"num_partitions": 2.5}, TypeError, "num_partitions"),
    ({"num_partitions": True}, TypeError, "num_partitions"),
    ({"num_partitions": 2**40}, ValueError, "num_partitions"),
    ({"num_sub_vectors": -1}, ValueError, "num_sub_vectors"),
    ({"num_bits": 5}, ValueError, "num_bits"),
    ({"sample_rate": 0}, ValueError, "sample_rate"),
    ({"max_iters": 0}, ValueError, "max_iters"),
    ({"seed": -1}, ValueError, "seed"),
    ({"num_segments": 0}, ValueError, "num_segments"),
    ({"fragments": []}, ValueError, "fragments"),
    ({"fragments": "0,1"}, TypeError, "fragments"),
    ({"fragments": [-1]}, ValueError, "fragments"),
    ({"verify": "some"}, ValueError, "verify"),
    ({"verify": True}, TypeError, "verify"),
    ({"fragments": 5}, TypeError, "fragments"),
    ({"replace": "no"}, TypeError, "replace is a str"),
    ({"work_dir": 5}, TypeError, "work_dir"),
    ({"work_dir": ""}, ValueError, "work_dir"),
    ({"report": 5}, TypeError, "report"),
    ({"storage_options": "x"}, TypeError, "storage_options"),
    ({"storage_options": {"allow_http": True}}, TypeError, "'allow_http' with a bool"),
    ({"storage_options": {1: "x"}}, TypeError, "1 with a int"),
    ({"threads": 0}, ValueError, "threads"),
    ({"memory_budget": 0}, ValueError, "memory_budget"),
    ({"memory_budget": "4 parsecs"}, ValueError, "memory_budget"),
    ({"progress": "loud"}, ValueError, "progress"),
    ({"progress": 3}, TypeError, "progress"),
    ({"ivf_centroids": np.zeros(DIM, np.float32)}, ValueError, "ivf_centroids"),
    ({"ivf_centroids": np.zeros((2, DIM), np.int32)}, ValueError, "ivf_centroids"),
    ({"ivf_centroids": pa.array([[1.0] * DIM, None], pa.list_(pa.float32(), DIM))}, ValueError, "nulls"),
    ({"pq_codebook": np.zeros((7, 3), np.float32)}, ValueError, "pq_codebook"),
    ({"uri": 3}, TypeError, "table"),
    ({"uri": ""}, ValueError, "table"),
    ({"uri": "t\0.lance"}, ValueError, "table"),
    ({"uri": "\udcff.lance"}, ValueError, "UTF-8"),
    ({"name": "\udcff"}, ValueError, "name holds half a surrogate"),
    ({"storage_options": {"a": "se\0cret"}}, ValueError, "storage option 'a' holds a NUL"),
    ({"threads": 1025}, ValueError, "expected 1..1024"),
    ({"ivf_centroids": np.full((2, DIM), np.nan, np.float32)}, ValueError, "not a finite"),
    ({"no_such_option": 1}, TypeError, "no_such_option"),
    ({"storage_options": {"aws_region": None}}, TypeError, "aws_region"),
    ({"storage_options": {1: "a"}}, TypeError, "storage_options"),
]


@pytest.mark.parametrize("changes, cls, words", ARGUMENTS)
def test_wrong_arguments(table, changes, cls, words):
    before = tree_state(table)
    with pytest.raises(cls, match=words) as caught:
        pilum.create_index(**{"uri": table, "column": "vec", "index_type": "IVF_PQ", "num_partitions": 2, **changes})
    mine = pilum.ArgumentTypeError if cls is TypeError else pilum.UnsupportedError if cls is NotImplementedError \
        else pilum.ArgumentError
    assert type(caught.value) is (TypeError if "no_such_option" in changes else mine)
    assert tree_state(table) == before


@pytest.mark.parametrize("changes, cls, words", [
    ({}, ValueError, "either q"), ({"q": [1.0], "rowid": 1}, ValueError, "either q"),
    ({"q": [[1.0]]}, ValueError, "shape"), ({"q": [1.0] * (DIM + 1)}, ValueError, str(DIM)),
    ({"rowid": 2**50}, pilum.NotFoundError, "row id"), ({"q": [1.0] * DIM, "k": 0}, ValueError, "k is 0"),
    ({"q": [1.0] * DIM, "nprobes": 0}, ValueError, "nprobes"), ({"q": ["x"] * DIM}, ValueError, "convert"),
])
def test_wrong_searches(table, changes, cls, words):
    with pytest.raises(cls, match=words):
        pilum.search(table, "vec", **changes)


def test_optimize_is_not_built(table):
    with pytest.raises(NotImplementedError, match="optimize_indices"):
        pilum.optimize_indices(table)


@pytest.mark.parametrize("text, bytes_", [("4GiB", 4 << 30), ("512MB", 512_000_000), ("1.5 g", 3 << 29), ("100k", 102400), ("2kb", 2000),
                                          (12345, 12345), ("7", 7), (np.int64(9), 9), (None, 0)])
def test_memory_budgets(text, bytes_):
    from pilum._values import byte_count

    assert byte_count(text) == bytes_


LANCE_RAY = [
    {"column": "nope"}, {"column": ""}, {"index_type": "XX"}, {"index_type": 3}, {"metric": 3}, {"metric": "x"},
    {"sample_rate": 0}, {"num_partitions": 0}, {"replace": False}, {"column": "text"},
]


@pytest.mark.parametrize("changes", LANCE_RAY, ids=str)
def test_the_same_exceptions_as_lance_ray(table, changes):
    """Whoever catches lance_ray's exception catches ours."""
    import lance_ray

    call = {"uri": str(table), "column": "vec", "index_type": "IVF_FLAT", "num_partitions": 2, "sample_rate": 256,
            **changes}
    with pytest.raises(Exception) as theirs:
        lance_ray.create_index(**call)
    with pytest.raises(type(theirs.value)):
        pilum.create_index(**call)
