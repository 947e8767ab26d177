"""Columns that the C reader refuses, built by Ray: the same bytes as of a table that it reads."""
import shutil

import lance
import pytest
from ray_helpers import At, index_bytes, kill_one, vectors, write_table

import pilum
import pilum.ray

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A table of file version 2.3, which is refused, and the same in 2.2."""
    home = tmp_path_factory.mktemp("streamed")
    plain = lance.dataset(write_table(home / "source.lance", vectors(60_000, 32), fragments=6)).to_table()
    for version in ("2.2", "2.3"):
        dataset = lance.write_dataset(plain, str(home / version), data_storage_version=version,
                                      max_rows_per_file=10_000)
        dataset.delete("_rowid % 9 = 4")
    return home


@pytest.mark.parametrize("index_type", ["IVF_FLAT", pytest.param("IVF_SQ", marks=pytest.mark.full), "IVF_PQ"])
def test_same_bytes_with_a_killed_worker(tables, tmp_path, index_type):
    refused, plain = str(tmp_path / "refused.lance"), str(tmp_path / "plain.lance")
    shutil.copytree(tables / "2.3", refused)
    shutil.copytree(tables / "2.2", plain)
    at = At("encode", kill_one)
    with pytest.warns(pilum.StreamWarning, match="2.3 is not supported.*streamed through pylance"):
        ds = pilum.ray.create_index(refused, "vec", index_type, num_workers=2, num_partitions=12, progress=at)
    assert at.did and any(e["detail"] == "reading through pylance" and e["done"] for e in at.events)
    pilum.create_index(plain, "vec", index_type, num_partitions=12)
    assert index_bytes(refused) == index_bytes(plain)
    assert not (tmp_path / "refused.lance" / "_pilum").exists()
    assert ds.describe_indices()[0].num_rows_indexed == ds.count_rows()
