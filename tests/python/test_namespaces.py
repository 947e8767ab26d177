"""Tables of a namespace: its versions stay its own."""
import lance
import lance_namespace
import numpy as np
import pyarrow as pa
import pytest

import pilum
from helpers import index_files, make_vectors

PROPERTIES = {"manifest_enabled": "true", "table_version_tracking_enabled": "true"}


def table(rows=3_000, dim=16):
    x = make_vectors(rows, dim)
    return pa.table({"id": np.arange(rows), "vec": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), dim)})


@pytest.fixture
def managed(tmp_path):
    namespace = lance_namespace.connect("dir", {"root": str(tmp_path / "root"), **PROPERTIES})
    dataset = lance.write_dataset(table(), namespace_client=namespace, table_id=["t"], mode="create",
                                  max_rows_per_file=1_000)
    assert dataset._namespace_client_managed_versioning
    return namespace, dataset


def versions(namespace):
    request = lance_namespace.ListTableVersionsRequest(id=["t"])
    return sorted(v.version for v in namespace.list_table_versions(request).versions)


def latest(namespace):
    return lance.dataset(namespace_client=namespace, table_id=["t"])


@pytest.mark.parametrize("index_type", ["IVF_FLAT", "IVF_SQ", "IVF_PQ"])
def test_the_namespace_knows_the_new_version(managed, tmp_path, index_type):
    namespace, dataset = managed
    ds = pilum.create_index(dataset, "vec", index_type, num_partitions=4, num_sub_vectors=4)
    assert ds.version == 2 and versions(namespace) == [1, 2]
    assert ds._namespace_client_managed_versioning
    (index,) = latest(namespace).describe_indices()
    assert index.name == "vec_idx" and index.num_rows_indexed == 3_000
    assert not pilum.last_report()["resumed"] and pilum.last_report()["version_committed"] == 2
    plain = lance.write_dataset(table(), str(tmp_path / "plain.lance"), max_rows_per_file=1_000)
    pilum.create_index(plain, "vec", index_type, num_partitions=4, num_sub_vectors=4)
    assert index_files(ds.uri) == index_files(plain.uri)
    assert index.type_url == plain.checkout_version(2).describe_indices()[0].type_url
    q = table()["vec"][7].as_py()
    assert ds.to_table(nearest={"column": "vec", "q": q, "k": 1, "nprobes": 4}, columns=["id"])["id"][0].as_py() == 7


def test_replacing_and_rows_that_came_since(managed):
    namespace, dataset = managed
    pilum.create_index(dataset, "vec", "IVF_FLAT", num_partitions=4)
    lance.write_dataset(table(100), namespace_client=namespace, table_id=["t"], mode="append")
    old = latest(namespace).checkout_version(2)
    pilum.create_index(old, "vec", "IVF_SQ", num_partitions=4)
    now = latest(namespace)
    assert versions(namespace) == [1, 2, 3, 4] and now.version == 4 and now.count_rows() == 3_100
    (index,) = now.describe_indices()
    assert index.index_type == "IVF_SQ" and index.num_rows_indexed == 3_000 and len(index.segments) == 1
    with pytest.raises(pilum.IndexExistsError):
        pilum.create_index(now, "vec", "IVF_SQ", replace=False)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_commit_that_was_interrupted_is_carried_on(managed, monkeypatch, when):
    from pilum import _managed

    namespace, dataset = managed
    real = _managed.commit

    def stop(*arguments):
        if when == "after":
            real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(_managed, "commit", stop)
    with pytest.raises(KeyboardInterrupt):
        pilum.create_index(dataset, "vec", "IVF_FLAT", num_partitions=4)
    monkeypatch.setattr(_managed, "commit", real)
    ds = pilum.create_index(dataset, "vec", "IVF_FLAT", num_partitions=4)
    assert ds.version == 2 and versions(namespace) == [1, 2] and pilum.last_report()["resumed"]
    assert pilum.gc(ds)["jobs"] == []


def test_a_conflict_is_told(managed):
    """Rows that the index covers were rewritten while it was built."""
    namespace, dataset = managed

    def rewrite(p):
        if p.phase == "encode" and latest(namespace).version == 1:
            lance.write_dataset(table(50), namespace_client=namespace, table_id=["t"], mode="overwrite")

    with pytest.raises(pilum.ConflictError):
        pilum.create_index(dataset, "vec", "IVF_FLAT", num_partitions=4, progress=rewrite)
    assert latest(namespace).describe_indices() == []
