"""The same exceptions for the same wrong arguments as lance_ray."""
import lance_ray
import pytest
from ray_helpers import vectors, write_table

import pilum.ray

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    home = tmp_path_factory.mktemp("arguments")
    return write_table(home / "t.lance", vectors(1000, 12), name=[str(i) for i in range(1000)])


WRONG = {
    "no column": {"column": ""},
    "another column": {"column": "nope"},
    "a column of text": {"column": "name"},
    "no type": {"index_type": ""},
    "another type": {"index_type": "IVF_XX"},
    "a type that is a number": {"index_type": 3},
    "no workers": {"num_workers": 0},
    "no segments": {"num_segments": 0},
    "no sample": {"sample_rate": 0},
    "a sample of one": {"sample_rate": 1},
    "no block": {"block_size": 0},
    "another metric": {"metric": "l3"},
    "a metric that is a number": {"metric": 2},
    "no table": {"uri": None},
    "a table twice": {"namespace_impl": "dir", "table_id": ["t"]},
    "a missing table": {"uri": "/nonexistent/t.lance"},
    "partitions as text": {"num_partitions": "many"},
    "sub-vectors that do not divide": {"index_type": "IVF_PQ", "num_sub_vectors": 5, "num_bits": 4,
                                       "sample_rate": 2},
    "too many sub-vectors": {"index_type": "IVF_PQ", "num_sub_vectors": 24, "num_bits": 4, "sample_rate": 2},
    "sub-vectors as text": {"index_type": "IVF_PQ", "num_sub_vectors": "2", "num_bits": 4, "sample_rate": 2},
    "dimension not divisible by 8": {"index_type": "IVF_PQ", "num_bits": 4, "sample_rate": 2},
}


def call(function, path, wrong):
    arguments = {"uri": path, "column": "vec", "index_type": "IVF_FLAT", "num_partitions": 2, "sample_rate": 16,
                 "num_workers": 1, **wrong}
    with pytest.raises(Exception) as caught:
        function(**arguments)
    return caught.value


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(path, name):
    theirs = call(lance_ray.create_index, path, WRONG[name])
    ours = call(pilum.ray.create_index, path, WRONG[name])
    kinds = [kind for kind in (KeyError, TypeError, ValueError, RuntimeError) if isinstance(theirs, kind)]
    assert kinds and isinstance(ours, kinds[0]), f"{theirs!r} there, {ours!r} here"


def test_an_index_of_this_name_exists(path):
    pilum.ray.create_index(path, "vec", "IVF_FLAT", num_workers=1, num_partitions=2, progress="none")
    assert isinstance(call(lance_ray.create_index, path, {"replace": False}), ValueError)
    assert isinstance(call(pilum.ray.create_index, path, {"replace": False}), ValueError)


@pytest.mark.parametrize("wrong", [{"index_type": "IVF_RQ"}, {"index_type": "IVF_HNSW_PQ"}, {"metric": "hamming"},
                                   {"rabitq_model": "{}"}], ids=str)
def test_what_is_not_built_says_so(path, wrong):
    error = call(pilum.ray.create_index, path, wrong)
    assert isinstance(error, NotImplementedError)
    assert str(next(iter(wrong.values()))).strip("{}").lower() in str(error).lower()


def test_order_of_the_parameters():
    import inspect

    theirs = list(inspect.signature(lance_ray.create_index).parameters.values())[:-1]
    ours = list(inspect.signature(pilum.ray.create_index).parameters.values())
    for mine, other in zip(ours, theirs):
        assert (mine.name, mine.kind, mine.default) == (other.name, other.kind, other.default)
