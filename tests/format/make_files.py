"""Lance files of every shape that stock pylance writes, with what a reader must find in them.

As a program it writes the small selection that is kept in good/files/:
    NAME.lance     the file
    NAME.npy       bytes: for each of its columns the values (zero where null), then one byte a row:
                   null itself, below a null struct, or with a null element
    manifest.txt   a line per column: NAME NUMBER ITEMS BITS IS_LIST ROWS, in the order of NAME.npy
As a module it serves tests/peer/test_read_matrix.py.
"""
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from lance.file import LanceFileWriter

VERSIONS = ("2.0", "2.1", "2.2")
DIMS = (1, 3, 7, 8, 16, 33, 63, 64, 128)
ELEMENTS = (np.float16, np.float32, np.float64, np.uint8)
STRUCTURAL = "lance-encoding:structural-encoding"


@dataclass
class Column:
    """A leaf: its dotted path, column number in the file, shape, and expected content."""

    path: str
    number: int
    items: int
    bits: int
    is_list: bool
    values: np.ndarray
    nulls: np.ndarray


# ---- arrays --------------------------------------------------------------------------


def mask(rng, n, kind):
    """Nulls by kind: none, one, few, many, runs (long ones), all."""
    if kind == "none":
        return np.zeros(n, bool)
    if kind == "one":
        return np.arange(n) == n // 2
    if kind == "runs":
        return np.arange(n) // max(1, n // 5) % 2 == 1
    return rng.random(n) < {"few": 0.01, "many": 0.4, "all": 1.1}[kind]


def vectors(rng, n, dim, element, rows="none", elements="none"):
    """An FSL array of n vectors with null rows and null elements."""
    if element == np.uint8:
        flat = rng.integers(0, 256, n * dim).astype(np.uint8)
    else:
        flat = rng.standard_normal(n * dim).astype(element)
    element_nulls = mask(rng, n * dim, elements)
    items = pa.array(flat, mask=element_nulls if element_nulls.any() else None)
    row_nulls = mask(rng, n, rows)
    return pa.FixedSizeListArray.from_arrays(
        items, dim, mask=pa.array(row_nulls) if row_nulls.any() else None
    )


def struct_of(rng, arrays, rows="none"):
    nulls = mask(rng, len(next(iter(arrays.values()))), rows)
    return pa.StructArray.from_arrays(
        list(arrays.values()),
        names=list(arrays),
        mask=pa.array(nulls) if nulls.any() else None,
    )


# ---- what a reader must find ---------------------------------------------------------


def leaf(array, nulls):
    """Values and nulls of one leaf array; nulls are those of the structs above it."""
    nulls = nulls | np.asarray(array.is_null())
    if not pa.types.is_fixed_size_list(array.type):
        return np.asarray(array.fill_null(0)).reshape(-1, 1), nulls
    dim = array.type.list_size
    items = array.values.slice(array.offset * dim, len(array) * dim)
    nulls = nulls | np.asarray(items.is_null()).reshape(-1, dim).any(axis=1)
    return np.asarray(items.fill_null(0)).reshape(-1, dim), nulls


def walk(array, path, nulls, version, number):
    """Leaves below `array`, depth first; in 2.0 a struct has a column of its own."""
    if not pa.types.is_struct(array.type):
        values, nulls = leaf(array, nulls)
        values = np.where(nulls[:, None], values.dtype.type(0), values)
        is_list = pa.types.is_fixed_size_list(array.type)
        found = Column(path, number, values.shape[1], 8 * values.itemsize, is_list, values, nulls)
        return [found], number + 1
    nulls = nulls | np.asarray(array.is_null())
    number += version == "2.0"
    found = []
    for i, field in enumerate(array.type):
        below, number = walk(array.field(i), f"{path}.{field.name}", nulls, version, number)
        found += below
    return found, number


def columns(table, version):
    found, number = [], 0
    for name in table.column_names:
        array = table[name].combine_chunks()
        if isinstance(array, pa.ChunkedArray):
            array = array.chunk(0) if array.num_chunks else pa.array([], array.type)
        below, number = walk(array, name, np.zeros(len(array), bool), version, number)
        found += below
    return found


def write(path, table, version, batch_rows=None, metadata=None, cache_bytes=None):
    """metadata: {column: {key: value}} for the top-level fields."""
    fields = [
        f.with_metadata(metadata[f.name]) if metadata and f.name in metadata else f
        for f in table.schema
    ]
    schema = pa.schema(fields)
    with LanceFileWriter(
        str(path), schema, version=version, data_cache_bytes=cache_bytes
    ) as writer:
        for batch in table.to_batches(max_chunksize=batch_rows):
            writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))


# ---- tables --------------------------------------------------------------------------


def vector_table(rng, n, dim, element, version):
    """Every combination of nulls for one dimension and element type."""
    rows = ("none", "one", "few", "many", "runs", "all")
    made = {f"v_{r}": vectors(rng, n, dim, element, r) for r in rows}
    for r, e in (("none", "few"), ("many", "few"), ("none", "all"), ("many", "all")):
        made[f"e_{r}_{e}"] = vectors(rng, n, dim, element, r, e)
    below = "none" if version == "2.0" else "many"  # 2.0 cannot store null structs
    made["s"] = struct_of(
        rng, {"a": vectors(rng, n, dim, element), "b": vectors(rng, n, dim, element, "few")}, below
    )
    made["t"] = struct_of(
        rng,
        {"u": struct_of(rng, {"v": vectors(rng, n, dim, element, "many", "few")}, below)},
        "few" if below == "many" else "none",
    )
    return pa.table(made)


def forced_table(rng, n, dim, element):
    """For structural encodings asked for in the metadata."""
    made = {}
    for how in ("miniblock", "fullzip"):
        made[f"{how}_none"] = vectors(rng, n, dim, element)
        made[f"{how}_many"] = vectors(rng, n, dim, element, "many")
        made[f"{how}_items"] = vectors(rng, n, dim, element, "few", "few")
    # The peer's own writer panics on MiniBlock of null elements only.
    made["fullzip_nothing"] = vectors(rng, n, dim, element, "none", "all")
    return pa.table(made), {name: {STRUCTURAL: name.split("_")[0]} for name in made}


def scalar_table(rng, n, version):
    """Row ids, codes and floats as index files have them."""
    holes = pa.array(rng.permutation(n).astype(np.uint64), mask=mask(rng, n, "many"))
    made = {
        "ids": np.sort(rng.choice(40 * n + 1, n, replace=False)).astype(np.uint64),
        "shuffled": rng.permutation(np.arange(n, dtype=np.uint64) + (7 << 32)),
        "wild": rng.integers(0, 2**63, n).astype(np.uint64),
        "holes": holes,
        "nothing": pa.nulls(n, pa.uint64()),
        "zeros": np.zeros(n, np.uint64),
        "f": rng.standard_normal(n).astype(np.float32),
        "d": rng.standard_normal(n),
        "u32": rng.permutation(n).astype(np.uint32),
        "u8": rng.permutation(n).astype(np.uint8),
    }
    if version != "2.2":  # there long runs get a dictionary, which no index file has
        made["runs"] = np.repeat(np.arange(n // 50 + 1, dtype=np.uint64), 50)[:n]
    return pa.table(made)


def pages_table(rng, dim, element, version):
    """Pages of one column that differ: plain, all null, some null, null elements."""
    kinds = (("none", "none"), ("all", "none"), ("many", "none"), ("none", "few"), ("none", "all"))
    pieces = [vectors(rng, 700 + i, dim, element, r, e) for i, (r, e) in enumerate(kinds)]
    return pa.table({"v": pa.chunked_array(pieces)})


# ---- the kept selection --------------------------------------------------------------


def keep(folder, lines, name, table, version):
    write(folder / f"{name}.lance", table, version)
    parts = []
    for c in columns(table, version):
        parts += [c.values.tobytes(), c.nulls.astype(np.uint8).tobytes()]
        lines.append(f"{name} {c.number} {c.items} {c.bits} {int(c.is_list)} {len(c.nulls)}")
    np.save(folder / f"{name}.npy", np.frombuffer(b"".join(parts), np.uint8))


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for version in VERSIONS:
        tag = "v" + version.replace(".", "")
        rng = np.random.default_rng(7)
        small = vector_table(rng, 40, 3, np.float32, version)
        keep(folder, lines, f"{tag}_small", small, version)
        keep(folder, lines, f"{tag}_empty", small.slice(0, 0), version)
        half = {
            "a": vectors(rng, 20, 130, np.float16, "many"),
            "b": vectors(rng, 20, 130, np.float16, "none", "one"),
            "c": vectors(rng, 20, 130, np.float16),
        }
        keep(folder, lines, f"{tag}_half", pa.table(half), version)
        levels = {
            "rare": vectors(rng, 2112, 1, np.uint8, "one"),
            "half": vectors(rng, 2112, 1, np.uint8, "many"),
        }
        keep(folder, lines, f"{tag}_levels", pa.table(levels), version)
        keep(folder, lines, f"{tag}_scalars", scalar_table(rng, 150, version), version)
    (folder / "manifest.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "good" / "files")
