"""Tables to measure with, made once, in bounded memory, and kept in build/bench/data.

Rows come in blocks, each a pure function of (kind, dim, seed, block number), so a table of any size is
made with a few hundred MB. While the rows pass by, the true neighbours of the queries are found.

    latent    64 latent dimensions, 2,000 clusters, ReLU, noise: like the features of an image network
    real      between the example vectors (real texts, 384 dimensions), with a little noise, unit norm
    gaussian  isotropic: nothing to be found in it, the worst case of every filter
"""
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa

ROOT = Path(__file__).resolve().parent.parent
BLOCK_ROWS = 8192
K = 10  # true neighbours of each query


@dataclass(frozen=True)
class Shape:
    """What a table holds; payload_bytes: of a second column that no index build may read."""

    kind: str
    rows: int
    dim: int
    fragments: int = 4
    payload_bytes: int = 0
    queries: int = 100
    raw: bool = False  # also as plain float32, which FAISS maps

    @property
    def name(self):
        return f"{self.kind}-{self.rows}x{self.dim}-f{self.fragments}" + (f"-p{self.payload_bytes}" if self.payload_bytes else "")

    @property
    def vector_bytes(self):
        return self.rows * self.dim * 4

    @property
    def disk_bytes(self):
        return self.vector_bytes * (2 if self.raw else 1) + self.rows * self.payload_bytes


# ---- rows ------------------------------------------------------------------------------------


class Latent:
    NOISE = 1 << 22  # normals drawn once; a row's noise begins anywhere in them

    def __init__(self, dim):
        rng = np.random.default_rng(1)
        self.dim = dim
        self.axes = (rng.standard_normal((64, dim)) / 8).astype(np.float32)
        self.centres = rng.standard_normal((2000, 64)).astype(np.float32)
        noise = 0.05 * rng.standard_normal(self.NOISE + dim, dtype=np.float32)
        self.noise = np.lib.stride_tricks.sliding_window_view(noise, dim)

    def block(self, n, rng):
        z = self.centres[rng.integers(0, len(self.centres), n)] + 0.5 * rng.standard_normal((n, 64), dtype=np.float32)
        rows = z @ self.axes
        np.maximum(rows, 0, out=rows)
        for i, at in enumerate(rng.integers(0, self.NOISE, n)):
            rows[i] += self.noise[at]
        return rows


class Real:
    def __init__(self, dim):
        if dim != 384:
            raise SystemExit(f"real vectors have 384 dimensions, not {dim}")
        self.base = np.fromfile(ROOT / "examples" / "packages-384.f16", dtype="<f2").reshape(-1, 384).astype(np.float32)

    def block(self, n, rng):
        rows = self.base[rng.integers(0, len(self.base), n)]
        rows += rng.uniform(0, 0.6, (n, 1)).astype(np.float32) * self.base[rng.integers(0, len(self.base), n)]
        rows += 0.01 * rng.standard_normal(rows.shape, dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Gaussian:
    def __init__(self, dim):
        self.dim = dim

    def block(self, n, rng):
        return rng.standard_normal((n, self.dim), dtype=np.float32)


KINDS = {"latent": Latent, "real": Real, "gaussian": Gaussian}


def blocks(shape, seed=11):
    """Blocks of rows in order. Block -1 of the same kind are the queries."""
    make = KINDS[shape.kind](shape.dim)
    for number, first in enumerate(range(0, shape.rows, BLOCK_ROWS)):
        yield first, make.block(min(BLOCK_ROWS, shape.rows - first), np.random.default_rng((seed, number)))


def queries_of(shape, seed=11):
    return KINDS[shape.kind](shape.dim).block(shape.queries, np.random.default_rng((seed, 1 << 40)))


# ---- true neighbours --------------------------------------------------------------------------


class Neighbours:
    """The K nearest rows (L2) of each query among all rows offered so far."""

    def __init__(self, queries):
        self.queries = queries
        self.distances = np.full((len(queries), 0), np.inf, dtype=np.float32)
        self.rows = np.zeros((len(queries), 0), dtype=np.int64)

    def offer(self, first, rows):
        values = np.einsum("ij,ij->i", rows, rows)[None, :] - 2 * (self.queries @ rows.T)
        distances = np.concatenate([self.distances, values], axis=1)
        numbers = np.concatenate([self.rows, np.broadcast_to(np.arange(first, first + len(rows)), values.shape)], axis=1)
        best = np.argpartition(distances, min(K, distances.shape[1]) - 1, axis=1)[:, :K]
        self.distances = np.take_along_axis(distances, best, axis=1)
        self.rows = np.take_along_axis(numbers, best, axis=1)


# ---- tables -------------------------------------------------------------------------------------


class Made:
    """A table on disk: table.lance, queries, their true neighbours and, where asked for, rows.f32."""

    def __init__(self, folder, shape):
        self.folder, self.shape = folder, shape
        self.table = folder / "table.lance"
        self.raw = folder / "rows.f32"
        self.queries_file, self.truth_file = folder / "queries.npy", folder / "truth.npy"

    @property
    def queries(self):
        return np.load(self.queries_file)

    @property
    def truth(self):
        return np.load(self.truth_file)


def free_bytes(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(folder).free


def is_made(made):
    meta = made.folder / "made.json"
    if not meta.exists() or not made.table.exists():
        return False
    kept = json.loads(meta.read_text())
    return kept == asdict(made.shape) or {**kept, "raw": False} == asdict(made.shape)


def make(shape, folder):
    """The table of this shape below `folder`, made now if it is not there."""
    made = Made(Path(folder) / shape.name, shape)
    if is_made(made):
        return made
    shutil.rmtree(made.folder, ignore_errors=True)
    if free_bytes(Path(folder)) < 1.1 * shape.disk_bytes:
        raise SystemExit(f"{shape.name} takes {shape.disk_bytes / 1e9:.1f} GB, {folder} has {free_bytes(Path(folder)) / 1e9:.1f} GB left")
    made.folder.mkdir(parents=True)
    queries = queries_of(shape)
    truth = Neighbours(queries)
    raw = open(made.raw, "wb") if shape.raw else None
    fields = [pa.field("vec", pa.list_(pa.float32(), shape.dim))]
    if shape.payload_bytes:
        fields.append(pa.field("payload", pa.binary()))
    schema = pa.schema(fields)

    def batches():
        for first, rows in blocks(shape):
            truth.offer(first, rows)
            if raw:
                rows.tofile(raw)
            columns = [pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), shape.dim)]
            if shape.payload_bytes:
                payload = np.random.default_rng(first).bytes(len(rows) * shape.payload_bytes)
                offsets = pa.array(np.arange(len(rows) + 1, dtype=np.int32) * np.int32(shape.payload_bytes))
                columns.append(pa.Array.from_buffers(pa.binary(), len(rows), [None, offsets.buffers()[1], pa.py_buffer(payload)]))
            yield pa.record_batch(columns, schema=schema)

    lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches()), str(made.table), schema=schema,
                        max_rows_per_file=-(-shape.rows // shape.fragments))
    if raw:
        raw.close()
    np.save(made.queries_file, queries)
    np.save(made.truth_file, truth.rows)
    (made.folder / "made.json").write_text(json.dumps(asdict(shape)))
    return made
