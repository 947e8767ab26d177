"""Tables nobody thought of: everything about a table and its index is drawn from one number.

`draw(seed)` settles what there is to settle (so that a failure can be repeated and read), `make` writes the table
with stock pylance. Sizes are kept small; the variety is in the shapes.
"""
import random
from dataclasses import dataclass, field

import lance
import numpy as np
import pyarrow as pa

from helpers import ARROW_TYPE, NUMPY_TYPE

VALUES_MAX = 260_000  # rows x dimensions
DIMS = (1, 2, 3, 4, 5, 7, 8, 11, 16, 17, 24, 31, 32, 63, 64, 65, 96, 127, 128, 160, 257, 384, 509, 768, 1024, 2048, 4095,
        4096)
ROWS = (1, 2, 3, 17, 64, 255, 256, 257, 400, 777, 1_000, 1_025, 2_000, 4_096, 5_000)
CONTENTS = ("clustered", "gaussian", "equal", "few", "grid", "one_hot", "far", "large", "small", "sorted", "skewed", "huge",
            "denormal")
BAD = ("null", "element", "nan", "inf", "zero")
BESIDE = ("text", "dictionary", "wide", "list", "second", "compressed")
NAMES = ("t.lance", "with space.lance", "ünï-Ж.lance", "100%25 a%20b.lance", "a#b&c=d+e.lance", "plain")
FORMS = ("absolute", "relative", "slash", "symlink", "uri")
CHANGES = ("append", "append_one", "append_nothing", "append_nulls", "delete_mod", "delete_fragment", "delete_all_but_one",
           "update", "merge_insert", "compact", "add_column", "drop_column", "rewrite_vectors", "config", "tag")


@dataclass
class Case:
    seed: int
    element: str
    dim: int
    rows: int
    version: str
    stable: bool
    per_file: int
    content: str
    bad: dict  # kind -> share of rows
    nested: bool
    beside: list
    changes: list
    name: str
    form: str
    kind: str
    metric: str
    partitions: int
    sub_vectors: int
    options: dict = field(default_factory=dict)

    @property
    def column(self):
        return "s.vec" if self.nested else "vec"


def draw(seed):
    r = random.Random(seed)
    dim = r.choice(DIMS) if r.random() < 0.85 else r.randint(1, 4096)
    kind = r.choice(("FLAT", "FLAT", "SQ", "PQ8", "PQ8", "PQ4"))
    rows = min(r.choice(ROWS) if r.random() < 0.7 else r.randint(1, 3_000), max(1, VALUES_MAX // dim))
    divisors = [m for m in range(1, dim + 1) if dim % m == 0 and (kind != "PQ4" or m % 2 == 0)]
    if not divisors:  # four bits want an even number of sub-vectors
        kind, divisors = "PQ8", [m for m in range(1, dim + 1) if dim % m == 0]
    options = {"threads": r.choice((1, 2, 3, 5)), "seed": r.randint(0, 1 << 40)}
    if r.random() < 0.3:
        options["sample_rate"] = r.choice((2, 16, 64))
    if r.random() < 0.3:
        options["max_iters"] = r.choice((1, 3, 10))
    nested = r.random() < 0.15
    changes = [r.choice(CHANGES) for _ in range(r.choice((0, 0, 1, 2, 3, 5)))]
    version = r.choice(("2.0", "2.1", "2.2"))
    if nested:
        changes = [c for c in changes if c != "rewrite_vectors" and (version, c) != ("2.0", "append_nulls")]
    return Case(
        seed=seed, element=r.choice(("f32", "f32", "f16", "f64")), dim=dim, rows=rows, version=version,
        stable=r.random() < 0.3,
        per_file=r.choice((1 << 20, 1 << 20, 1_000, 333, 64)) if rows > 100 else r.choice((1 << 20, 7)),
        content=r.choice(CONTENTS), bad={bad: r.choice((0.01, 0.3)) for bad in BAD if r.random() < 0.2},
        nested=nested, beside=[other for other in BESIDE if r.random() < 0.25], changes=changes, name=r.choice(NAMES),
        form=r.choice(FORMS), kind=kind, metric=r.choice(("l2", "cosine", "dot")),
        partitions=r.choice((1, 2, 3, 8, 17, 40)), sub_vectors=r.choice(divisors), options=options)


# ---- rows --------------------------------------------------------------------------------


def vectors_like(content, n, dim, rng):
    if content == "clustered":
        return (rng.normal(size=(12, dim))[rng.integers(0, 12, n)] + 0.3 * rng.normal(size=(n, dim)))
    if content == "equal":
        return np.tile(np.linspace(0.5, 1.5, dim), (n, 1))
    if content == "few":
        return np.random.default_rng(5).normal(size=(5, dim))[rng.integers(0, 5, n)]
    if content == "grid":
        return rng.integers(-2, 3, size=(n, dim)).astype(float)
    if content == "one_hot":
        made = np.zeros((n, dim))
        made[np.arange(n), rng.integers(0, dim, n)] = 1
        return made
    gaussian = rng.normal(size=(n, dim))
    if content == "far":
        return 50 + 0.01 * gaussian
    if content == "large":
        return 100 * gaussian
    if content == "small":
        return 1e-3 * gaussian
    if content == "huge":  # squares that leave float32's range
        return rng.choice((1e4, 1e18)) * gaussian
    if content == "denormal":
        return 1e-40 * gaussian
    if content == "sorted":
        return np.sort(gaussian, axis=0)
    if content == "skewed":
        gaussian[: n * 9 // 10] *= 0.01
    return gaussian


def column_of(case, n, rng):
    """The vectors of n new rows, some of them spoilt in the ways of the case."""
    with np.errstate(over="ignore"):
        vectors = vectors_like(case.content, n, case.dim, rng).astype(NUMPY_TYPE[case.element])
    holes = np.zeros((n, case.dim), dtype=bool)
    null = np.zeros(n, dtype=bool)
    for bad, share in case.bad.items():
        hit = rng.random(n) < share
        where = (hit, rng.integers(0, case.dim))
        if bad == "null":
            null = hit
        elif bad == "element":
            holes[where] = True
        elif bad == "zero":
            vectors[hit] = 0
        else:
            vectors[where] = np.nan if bad == "nan" else rng.choice((-np.inf, np.inf))
    values = pa.array(vectors.reshape(-1), type=ARROW_TYPE[case.element], mask=holes.reshape(-1) if holes.any() else None)
    return pa.FixedSizeListArray.from_arrays(values, case.dim, mask=pa.array(null) if null.any() else None)


def rows_of(case, n, first, rng):
    columns = {"id": pa.array(np.arange(first, first + n))}
    if "text" in case.beside:
        columns["text"] = [None if i % 7 == 3 else f"row {i}" * (i % 4) for i in range(n)]
    if "dictionary" in case.beside:
        columns["dictionary"] = pa.array([f"kind {i % 3}" for i in range(n)]).dictionary_encode()
    if "wide" in case.beside:
        columns["wide"] = pa.array([bytes([i % 256]) * 700 for i in range(n)])
    vectors = column_of(case, n, rng)
    if case.nested:
        inner = pa.StructArray.from_arrays([pa.array(np.arange(n)), vectors], ["a", "vec"])
        columns["s"] = inner
    else:
        columns["vec"] = vectors
    if "list" in case.beside:
        columns["list"] = pa.array([[i] * (i % 3) for i in range(n)], type=pa.list_(pa.int64()))
    if "second" in case.beside:
        columns["second"] = pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=3 * n).astype("f4")), 3)
    table = pa.table(columns)
    if "compressed" in case.beside and not case.nested:
        at = table.schema.get_field_index("vec")
        meta = {"lance-encoding:compression": "zstd"} if case.version != "2.0" else {}
        table = table.set_column(at, table.schema.field(at).with_metadata(meta), table.column(at))
    return table


# ---- the table ------------------------------------------------------------------------------


def make(case, path):
    """Write the table and change it; the dataset at its latest version."""
    rng = np.random.default_rng(case.seed)
    lance.write_dataset(rows_of(case, case.rows, 0, rng), path, data_storage_version=case.version,
                        max_rows_per_file=case.per_file, enable_stable_row_ids=case.stable)
    for n, change in enumerate(case.changes):
        apply(case, change, lance.dataset(path), 100_000 * (n + 1), rng)
    return lance.dataset(path)


def apply(case, change, dataset, first, rng):
    uri, n = dataset.uri, min(200, max(2, VALUES_MAX // 8 // case.dim))
    schema = dataset.schema

    def add(rows):
        for name in schema.names:
            if name not in rows.column_names:
                rows = rows.append_column(schema.field(name), pa.nulls(rows.num_rows, schema.field(name).type))
        rows = rows.select([name for name in schema.names])
        lance.write_dataset(rows, dataset, mode="append")

    if change == "append":
        add(rows_of(case, n, first, rng))
    elif change == "append_one":
        add(rows_of(case, 1, first, rng))
    elif change == "append_nothing":
        add(rows_of(case, 2, first, rng).slice(0, 0))
    elif change == "append_nulls":
        lance.write_dataset(pa.table({"id": np.arange(first, first + n)}), dataset, mode="append")
    elif change == "delete_mod":
        dataset.delete("id % 5 = 2")
    elif change == "delete_fragment":
        fragments = dataset.get_fragments()
        if len(fragments) > 1:
            ids = fragments[len(fragments) // 2].to_table(columns=["id"])["id"].to_pylist()
            dataset.delete(f"id >= {min(ids)} and id <= {max(ids)}" if ids else "false")
    elif change == "delete_all_but_one":
        fragment = dataset.get_fragments()[0]
        ids = fragment.to_table(columns=["id"])["id"].to_pylist()
        if len(ids) > 1 and len(dataset.get_fragments()) > 1:
            dataset.delete(f"id > {min(ids)} and id <= {max(ids)}")
    elif change == "update":
        dataset.update({"id": f"id + {first}"}, where="id % 7 = 1")
    elif change == "merge_insert":
        fresh = rows_of(case, n, max(0, case.rows - n // 2), rng)
        if set(fresh.column_names) == set(schema.names):
            dataset.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(fresh)
    elif change == "compact":
        dataset.optimize.compact_files(target_rows_per_fragment=2_000)
    elif change == "add_column":
        dataset.add_columns({f"more{first}": "id * 2"})
    elif change == "drop_column":
        extra = [name for name in schema.names if name not in ("id", "vec", "s")]
        if extra:
            dataset.drop_columns(extra[:1])
    elif change == "rewrite_vectors":
        rewrite_vectors(case, dataset, rng)
    elif change == "config":
        dataset.update_config({"step": str(first)})
    elif change == "tag":
        lance.dataset(uri).tags.create(f"tag{first}", dataset.version)


def rewrite_vectors(case, dataset, rng):
    """The column is dropped and comes back with other vectors, in files of its own."""
    n = dataset.count_rows()
    if n == 0:
        return
    dataset.drop_columns(["vec"])
    column = column_of(case, n, rng)
    given = [0]

    @lance.batch_udf(output_schema=pa.schema([("vec", column.type)]))
    def vectors(batch):
        part = column.slice(given[0], batch.num_rows)
        given[0] += batch.num_rows
        return pa.record_batch([part], names=["vec"])

    lance.dataset(dataset.uri).add_columns(vectors, read_columns=["id"])
