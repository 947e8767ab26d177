"""Writes the small tables under tests/format/good/ with stock pylance.

    .venv/bin/python tests/format/make_good.py [DIRECTORY]

They are committed, so that the C tests need no Python; run this again only to follow a new
Lance. Every file name and uuid differs from run to run: the tests look at what a table means,
never at its names.
"""
import os
import shutil
import sys

import lance
import numpy as np
import pyarrow as pa

rng = np.random.default_rng(5)


def vectors(n, dim, kind=np.float32):
    values = rng.standard_normal(n * dim).astype(kind)
    return pa.FixedSizeListArray.from_arrays(pa.array(values), dim)


def integers(n, dim, kind):
    return pa.FixedSizeListArray.from_arrays(pa.array(np.arange(n * dim) % 100, kind), dim)


def plain(path):
    """Three fragments, a deletion file, two vector indexes and a scalar one, a tag."""
    table = pa.table({"id": pa.array(range(60), pa.int64()), "vec": vectors(60, 4)})
    ds = lance.write_dataset(table, path, max_rows_per_file=20)
    ds.create_index("vec", "IVF_FLAT", num_partitions=2, metric="cosine")
    ds.create_scalar_index("id", "BTREE")
    ds.delete("id = 7")
    ds.create_index("vec", "IVF_PQ", name="other", num_partitions=1, num_sub_vectors=2, num_bits=4)
    ds.tags.create("first", 1)


def types(path):
    """One column of every kind that must be told apart."""
    from lance.arrow import bfloat16_array

    n = 4
    struct = pa.struct([pa.field("a", pa.int32()), pa.field("vec", pa.list_(pa.float32(), 4))])
    rows = pa.StructArray.from_arrays([pa.array([1] * n, pa.int32()), vectors(n, 4)],
                                      fields=list(struct))
    deep = pa.StructArray.from_arrays([rows], names=["in"])
    arrays = {
        "id": pa.array(range(n), pa.int64()),
        "f16": vectors(n, 8, np.float16),
        "f32": vectors(n, 5),
        "f64": vectors(n, 3, np.float64),
        "u8": integers(n, 4, pa.uint8()),
        "i8": integers(n, 4, pa.int8()),
        "i32": integers(n, 4, pa.int32()),
        "bf": pa.FixedSizeListArray.from_arrays(bfloat16_array([1.0] * 4 * n), 4),
        "multi": pa.ListArray.from_arrays(pa.array(range(n + 1), pa.int32()), vectors(n, 4)),
        "list": pa.array([[1.0]] * n, pa.list_(pa.float32())),
        "text": pa.array(["a"] * n),
        "rows": pa.array([[{"vec": [1.0, 2.0]}]] * n,
                         pa.list_(pa.struct([pa.field("vec", pa.list_(pa.float32(), 2))]))),
        "s": rows,
        "deep": deep,
        "packed": rows,
    }
    fields = [pa.field(k, v.type, metadata={"packed": "true"} if k == "packed" else None)
              for k, v in arrays.items()]
    lance.write_dataset(pa.table(list(arrays.values()), schema=pa.schema(fields)), path)


def old_names(path):
    """Manifests named 1.manifest, 2.manifest; files of version 2.0."""
    for start in (0, 10):
        table = pa.table({"id": pa.array(range(start, start + 10)), "vec": vectors(10, 4)})
        lance.write_dataset(table, path, mode="append" if start else "create",
                            data_storage_version="2.0", enable_v2_manifest_paths=False)


def stable_ids(path):
    """Stable row ids, rows moved by an update, files of version 2.1."""
    table = pa.table({"id": pa.array(range(20)), "vec": vectors(20, 4)})
    ds = lance.write_dataset(table, path, enable_stable_row_ids=True, data_storage_version="2.1")
    ds.update({"id": "id + 100"}, where="id < 3")


def bare(path):
    """Two fragments and nothing else: what the commit tests build on."""
    table = pa.table({"id": pa.array(range(20)), "vec": vectors(20, 4)})
    lance.write_dataset(table, path, max_rows_per_file=10)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "good")
    for make in (plain, types, old_names, stable_ids, bare):
        path = os.path.join(root, make.__name__)
        shutil.rmtree(path, ignore_errors=True)
        make(path)


if __name__ == "__main__":
    main()
