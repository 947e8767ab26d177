"""A catalogue of table histories, each made by stock pylance.

A history is a function (path, dtype, dim, version) -> dataset. They all have the vector
column of their catalogue entry and between a few hundred and two thousand rows. Row ids in
the table column `id` are unique unless a history says otherwise.
"""
import os
from dataclasses import dataclass
from typing import Callable

import lance
import numpy as np
import pyarrow as pa

from helpers import make_vectors, table_of, vector_array, write

ROWS = 1_200


@dataclass
class History:
    make: Callable
    column: str = "vec"  # as pylance's `nearest` wants it
    argument: str = "vec"  # as pilum's --column wants it


CATALOGUE = {}


def history(make=None, **names):
    def enter(function):
        CATALOGUE[function.__name__] = History(function, **names)
        return function

    return enter(make) if make else enter


def rows(n=ROWS, dim=16, seed=1):
    return make_vectors(n, dim, seed)


# ---- fragments ------------------------------------------------------------------------


@history
def one_fragment(path, dtype, dim, version):
    return write(path, rows(dim=dim), dtype, version)


@history
def many_fragments(path, dtype, dim, version):
    return write(path, rows(dim=dim), dtype, version, max_rows_per_file=100)


@history
def one_row_fragments(path, dtype, dim, version):
    """A big fragment, then thirty of one row each."""
    dataset = write(path, rows(400, dim), dtype, version)
    for n in range(30):
        dataset = lance.write_dataset(table_of(rows(1, dim, 100 + n), dtype, 400 + n), dataset, mode="append")
    return dataset


@history
def appended_in_many_sizes(path, dtype, dim, version):
    dataset = write(path, rows(500, dim), dtype, version)
    for n, size in enumerate((1, 7, 64, 255, 300)):
        dataset = lance.write_dataset(table_of(rows(size, dim, 20 + n), dtype, 1_000 * (n + 1)), dataset, mode="append")
    return dataset


@history
def small_pages(path, dtype, dim, version):
    """Many pages in one column."""
    return write(path, rows(2_000, dim), dtype, version, max_page_bytes=4_096, data_cache_bytes=4_096,
                 max_rows_per_group=64)


# ---- unusable rows ----------------------------------------------------------------------


@history
def null_rows(path, dtype, dim, version):
    table = table_of(rows(dim=dim), dtype, null_rows=range(0, ROWS, 7))
    return lance.write_dataset(table, str(path), data_storage_version=version, max_rows_per_file=500)


@history
def null_elements(path, dtype, dim, version):
    """Vectors that are there, with an element that is not. The bytes below a null element are
    far away: stock pylance's exact scan reads them, an index does not hold such a row."""
    vectors = rows(dim=dim)
    values = vector_array(vectors, dtype).values.to_numpy().copy()
    holes = np.zeros(values.size, dtype=bool)
    holes[5 * dim :: 11 * dim + 1] = True
    values[holes] = 1_000
    array = pa.FixedSizeListArray.from_arrays(pa.array(values, mask=holes), dim)
    table = pa.table({"id": np.arange(ROWS), "vec": array})
    return lance.write_dataset(table, str(path), data_storage_version=version)


@history
def null_page(path, dtype, dim, version):
    """A whole fragment, hence a whole page, of nulls between good ones."""
    dataset = write(path, rows(500, dim), dtype, version)
    nothing = table_of(rows(300, dim, 2), dtype, 500, null_rows=range(300))
    dataset = lance.write_dataset(nothing, dataset, mode="append")
    return lance.write_dataset(table_of(rows(500, dim, 3), dtype, 800), dataset, mode="append")


@history
def nonfinite_rows(path, dtype, dim, version):
    vectors = rows(dim=dim)
    vectors[3::50, 0] = np.nan
    vectors[4::50, dim - 1] = np.inf
    vectors[5::50, dim // 2] = -np.inf
    return write(path, vectors, dtype, version, max_rows_per_file=700)


@history
def zero_rows(path, dtype, dim, version):
    """Usable for l2 and dot, not for cosine."""
    vectors = rows(dim=dim)
    vectors[::40] = 0
    return write(path, vectors, dtype, version, max_rows_per_file=700)


@history
def equal_rows(path, dtype, dim, version):
    """Three different vectors, again and again: fewer than there are partitions."""
    return write(path, np.tile(rows(3, dim), (200, 1)), dtype, version)


# ---- columns ------------------------------------------------------------------------------


@history
def column_added_later(path, dtype, dim, version):
    """The vectors are in a second data file of each fragment."""
    ids = pa.table({"id": np.arange(ROWS)})
    dataset = lance.write_dataset(ids, str(path), data_storage_version=version, max_rows_per_file=450)
    column = vector_array(rows(dim=dim), dtype)

    @lance.batch_udf(output_schema=pa.schema([("vec", column.type)]))
    def vectors_of(batch):
        return pa.record_batch([column.take(batch["id"])], names=["vec"])

    dataset.add_columns(vectors_of, read_columns=["id"])
    return lance.dataset(str(path))


@history
def column_missing_in_fragments(path, dtype, dim, version):
    """Some appends left the column out: null there."""
    dataset = write(path, rows(500, dim), dtype, version)
    dataset = lance.write_dataset(pa.table({"id": np.arange(500, 600)}), dataset, mode="append")
    return lance.write_dataset(table_of(rows(400, dim, 3), dtype, 600), dataset, mode="append")


@history
def columns_dropped_and_added(path, dtype, dim, version):
    """Field ids with gaps, tombstones in the data files."""
    dataset = write(path, rows(dim=dim), dtype, version, max_rows_per_file=500)
    dataset.add_columns({"double": "id * 2", "triple": "id * 3"})
    dataset.drop_columns(["double"])
    dataset.add_columns({"other": "id + 1"})
    return lance.dataset(str(path))


@history(column="embedding", argument="embedding")
def column_renamed(path, dtype, dim, version):
    dataset = write(path, rows(dim=dim), dtype, version, max_rows_per_file=500)
    dataset.alter_columns({"path": "vec", "name": "embedding"})
    return lance.dataset(str(path))


@history
def many_columns(path, dtype, dim, version):
    """Text, nested lists and another vector column around ours."""
    n = 600
    table = pa.table({
        "text": [f"row {i}" * (i % 5) for i in range(n)],
        "tags": [[str(i)] * (i % 4) for i in range(n)],
        "small": vector_array(rows(n, 3, 7), "f32"),
        "vec": vector_array(rows(n, dim), dtype),
        "late": pa.array([None if i % 3 else float(i) for i in range(n)]),
    })
    return lance.write_dataset(table, str(path), data_storage_version=version, max_rows_per_file=250)


@history(column="s.vec", argument="s.vec")
def nested_column(path, dtype, dim, version):
    inner = pa.StructArray.from_arrays([pa.array(np.arange(ROWS)), vector_array(rows(dim=dim), dtype)], ["a", "vec"])
    return lance.write_dataset(pa.table({"id": np.arange(ROWS), "s": inner}), str(path), data_storage_version=version,
                               max_rows_per_file=500)


def _named(path, dtype, dim, version, name):
    table = table_of(rows(dim=dim), dtype, column=name)
    return lance.write_dataset(table, str(path), data_storage_version=version, max_rows_per_file=500)


@history(column="my vec", argument="`my vec`")
def column_with_space(path, dtype, dim, version):
    return _named(path, dtype, dim, version, "my vec")


@history(column="véc-Ж", argument="véc-Ж")
def column_in_unicode(path, dtype, dim, version):
    return _named(path, dtype, dim, version, "véc-Ж")


# ---- deletions, updates, compaction -------------------------------------------------------


@history
def few_deletions(path, dtype, dim, version):
    """A sparse deletion vector: an Arrow file."""
    dataset = write(path, rows(dim=dim), dtype, version, max_rows_per_file=500)
    dataset.delete("id % 100 = 3")
    return dataset


@history
def many_deletions(path, dtype, dim, version):
    """A dense deletion vector: a Roaring bitmap."""
    dataset = write(path, rows(2_000, dim), dtype, version, max_rows_per_file=1_000)
    dataset.delete("id % 3 != 1 AND id % 1000 < 900")
    return dataset


@history
def deleted_twice(path, dtype, dim, version):
    dataset = write(path, rows(dim=dim), dtype, version, max_rows_per_file=500)
    dataset.delete("id % 10 = 0")
    dataset.delete("id % 10 = 1")
    return dataset


@history
def fragment_deleted(path, dtype, dim, version):
    dataset = write(path, rows(dim=dim), dtype, version, max_rows_per_file=300)
    dataset.delete("id >= 300 AND id < 600")
    return dataset


@history
def updated_rows(path, dtype, dim, version):
    """Rows moved to a new fragment, their old places deleted."""
    dataset = write(path, rows(dim=dim), dtype, version, max_rows_per_file=400)
    dataset.update({"id": "id + 100000"}, where="id % 9 = 2")
    return dataset


@history
def merge_inserted(path, dtype, dim, version):
    dataset = write(path, rows(dim=dim), dtype, version, max_rows_per_file=400)
    fresh = table_of(rows(400, dim, 8), dtype, ROWS - 200)
    dataset.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(fresh)
    return lance.dataset(str(path))


@history
def compacted(path, dtype, dim, version):
    dataset = write(path, rows(dim=dim), dtype, version, max_rows_per_file=100)
    dataset.delete("id % 20 = 7")
    dataset.optimize.compact_files(target_rows_per_fragment=500)
    return lance.dataset(str(path))


@history
def overwritten(path, dtype, dim, version):
    write(path, rows(200, dim, 3), dtype, version)
    return write(path, rows(dim=dim), dtype, version, mode="overwrite", max_rows_per_file=500)


@history
def restored(path, dtype, dim, version):
    dataset = write(path, rows(dim=dim), dtype, version, max_rows_per_file=500)
    dataset.delete("id > 100")
    old = dataset.checkout_version(1)
    old.restore()
    return lance.dataset(str(path))


# ---- stable row ids ------------------------------------------------------------------------


def _stable(path, dtype, dim, version):
    return write(path, rows(dim=dim), dtype, version, max_rows_per_file=400, enable_stable_row_ids=True)


@history
def stable_row_ids(path, dtype, dim, version):
    return _stable(path, dtype, dim, version)


@history
def stable_deleted(path, dtype, dim, version):
    dataset = _stable(path, dtype, dim, version)
    dataset.delete("id % 10 = 3")
    return dataset


@history
def stable_updated(path, dtype, dim, version):
    dataset = _stable(path, dtype, dim, version)
    dataset.update({"id": "id + 100000"}, where="id % 9 = 2")
    return dataset


@history
def stable_compacted(path, dtype, dim, version):
    """Deletes, updates, appends, then compaction: row ids out of order and with gaps."""
    dataset = _stable(path, dtype, dim, version)
    dataset.delete("id % 10 = 3")
    dataset.update({"id": "id + 100000"}, where="id % 9 = 2")
    dataset = lance.write_dataset(table_of(rows(150, dim, 4), dtype, 5_000), lance.dataset(str(path)), mode="append")
    dataset.optimize.compact_files(target_rows_per_fragment=2_000)
    return lance.dataset(str(path))


# ---- the table around the rows -----------------------------------------------------------------


@history
def v1_manifest_names(path, dtype, dim, version):
    dataset = write(path, rows(800, dim), dtype, version, enable_v2_manifest_paths=False)
    for n in range(9):  # version 10 sorts before version 2 as text
        dataset = lance.write_dataset(table_of(rows(20, dim, 30 + n), dtype, 1_000 * n), dataset, mode="append")
    return dataset


@history
def tagged(path, dtype, dim, version):
    dataset = write(path, rows(dim=dim), dtype, version)
    dataset.tags.create("first", 1)
    return lance.write_dataset(table_of(rows(100, dim, 2), dtype, 5_000), dataset, mode="append")


@history
def branched(path, dtype, dim, version):
    """A branch with rows of its own beside the main line, which is the one to index."""
    dataset = write(path, rows(dim=dim), dtype, version)
    branch = dataset.create_branch("side")
    lance.write_dataset(table_of(rows(70, dim, 2), dtype, 5_000), branch, mode="append")
    return lance.write_dataset(table_of(rows(100, dim, 3), dtype, 6_000), lance.dataset(str(path)), mode="append")


@history
def shallow_cloned(path, dtype, dim, version):
    """Data files under a base path: the table they came from."""
    source = write(f"{path}.source", rows(dim=dim), dtype, version, max_rows_per_file=500)
    source.delete("id % 50 = 1")
    source = lance.dataset(f"{path}.source")
    source.shallow_clone(str(path), source.version)
    return lance.write_dataset(table_of(rows(100, dim, 3), dtype, 6_000), lance.dataset(str(path)), mode="append")


@history
def second_base(path, dtype, dim, version):
    """Data files in a folder outside the table."""
    base = f"{path}.base"
    os.makedirs(base)
    return write(path, rows(dim=dim), dtype, version, max_rows_per_file=500, target_bases=["more"],
                 initial_bases=[lance.DatasetBasePath(base, name="more", is_dataset_root=False)])


@history
def scalar_index_present(path, dtype, dim, version):
    dataset = write(path, rows(dim=dim), dtype, version, max_rows_per_file=500)
    dataset.create_scalar_index("id", "BTREE")
    return lance.dataset(str(path))


@history
def config_and_metadata(path, dtype, dim, version):
    dataset = write(path, rows(dim=dim), dtype, version)
    dataset.update_config({"lance.auto_cleanup.interval": "1000", "team": "search"})
    dataset.update_schema_metadata({"made": "by the tests"})
    return lance.dataset(str(path))


@history
def many_versions(path, dtype, dim, version):
    dataset = write(path, rows(dim=dim), dtype, version)
    for n in range(25):
        dataset.update_config({"step": str(n)})
    return lance.dataset(str(path))
