"""What the peer tests share: running pilum, making vectors, exact answers, recall."""
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa

ROOT = Path(__file__).resolve().parents[2]
PILUM = Path(os.environ.get("PILUM", ROOT / "build" / "pilum"))
NUMPY_TYPE = {"f16": np.float16, "f32": np.float32, "f64": np.float64}
ARROW_TYPE = {"f16": pa.float16(), "f32": pa.float32(), "f64": pa.float64()}

# ---- running the command ---------------------------------------------------------


@dataclass
class Run:
    """One finished call of the command."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self):
        return json.loads(self.stdout)


def pilum(*args, timeout=120, env=None, cwd=None):
    """Run the command; never waits longer than `timeout` seconds."""
    words = [arg if isinstance(arg, bytes) else str(arg) for arg in args]
    done = subprocess.run([str(PILUM), *words], capture_output=True, text=True, errors="backslashreplace", timeout=timeout,
                          env={**os.environ, **(env or {})}, cwd=cwd)
    return Run(done.returncode, done.stdout, done.stderr)


def pilum_ok(*args, **kwargs):
    run = pilum(*args, **kwargs)
    assert run.status == 0, f"pilum {' '.join(map(str, args))}: status {run.status}\n{run.stderr}"
    return run


class Running:
    """The command running beside the test: stop it, let it go on, interrupt it.

    Used as a context it never outlives the test.
    """

    def __init__(self, *args, env=None):
        self.process = subprocess.Popen([str(PILUM), *map(str, args)], stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, bufsize=1, env={**os.environ, **(env or {})})
        self.lines = []

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=30)
        self.process.stdout.close()
        self.process.stderr.close()

    def wait_for_phase(self, phase):
        """Until `--progress json` names the phase on stderr; its line as a dict.

        None when the command ended without it. The callers wrap tests in a timeout.
        """
        for line in self.process.stderr:
            self.lines.append(line)
            try:
                seen = json.loads(line)
            except ValueError:
                continue
            if isinstance(seen, dict) and seen.get("phase") == phase:
                return seen
        return None

    def signal(self, number):
        os.kill(self.process.pid, number)

    def stop(self):
        """SIGSTOP; returns once the process has stopped."""
        self.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self):
        self.signal(signal.SIGCONT)

    def finish(self, timeout=120):
        stdout, stderr = self.process.communicate(timeout=timeout)
        return Run(self.process.returncode, stdout, "".join(self.lines) + stderr)


def create_index(uri, column, index_type, *, metric="l2", partitions=8, env=None, **options):
    """pilum create-index; returns the report. Options are those of the command line."""
    bits = {"PQ8": 8, "PQ4": 4}.get(index_type)
    words = ["create-index", uri, "--column", column, "--metric", metric, "--json", "--progress", "none",
             "--type", "IVF_PQ" if bits else index_type if index_type.startswith("IVF") else f"IVF_{index_type}"]
    if partitions is not None:
        words += ["--num-partitions", partitions]
    if bits:
        options.setdefault("num_bits", bits)
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        words += [flag] if value is True else [flag, value]
    return pilum_ok(*words, env=env).json


def stock(code, *args, timeout=60, tries=3):
    """Run a few lines of stock pylance in a process of its own; `args` are in sys.argv[1:].

    Its create_index and optimize_indices can hang for good on a machine with few cores: then
    it is killed and tried again. A commit is all or nothing, so trying again is safe.
    """
    for _ in range(tries):
        try:
            done = subprocess.run([sys.executable, "-c", "import sys, lance\n" + code, *map(str, args)],
                                  capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            continue
        assert done.returncode == 0, f"stock pylance failed:\n{done.stderr}"
        return done.stdout
    raise AssertionError(f"stock pylance hung {tries} times for {timeout} s")


def stock_create_index(uri, column, index_type, **options):
    """create_index by stock pylance, as a peer or as another writer."""
    stock("import json; lance.dataset(sys.argv[1]).create_index(sys.argv[2], sys.argv[3], **json.loads(sys.argv[4]))",
          uri, column, index_type, json.dumps(options))


def index_files(uri, name="vec_idx"):
    """{file name: bytes} of the one segment of an index."""
    (segment,) = index_named(lance.dataset(str(uri)), name).segments
    return {file.name: file.read_bytes() for file in (Path(uri) / "_indices" / str(segment.uuid)).iterdir()}


def tree_state(root):
    """{path: bytes} of everything below a folder, to see that nothing was written."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(Path(root).rglob("*")) if path.is_file()}


# ---- vectors and tables -----------------------------------------------------------


def make_vectors(n, dim, seed=1, scale=1.0):
    """Clustered, like embeddings: a few dozen centres with noise around them. float32."""
    centres = np.random.default_rng(99).normal(size=(24, dim))
    rng = np.random.default_rng(seed)
    rows = centres[rng.integers(0, len(centres), n)] + 0.5 * rng.normal(size=(n, dim))
    return (scale * rows).astype(np.float32)


def vector_array(vectors, dtype="f32", null_rows=None):
    """A fixed_size_list column of the vectors; rows in `null_rows` are null."""
    dim = vectors.shape[1]
    values = pa.array(vectors.astype(NUMPY_TYPE[dtype]).reshape(-1), type=ARROW_TYPE[dtype])
    mask = None
    if null_rows is not None:
        mask = np.zeros(len(vectors), dtype=bool)
        mask[list(null_rows)] = True
        mask = pa.array(mask)
    return pa.FixedSizeListArray.from_arrays(values, dim, mask=mask)


def table_of(vectors, dtype="f32", first_id=0, column="vec", null_rows=None):
    ids = pa.array(np.arange(first_id, first_id + len(vectors), dtype=np.int64))
    return pa.table({"id": ids, column: vector_array(vectors, dtype, null_rows)})


def write(path, vectors, dtype="f32", version="2.2", **options):
    return lance.write_dataset(table_of(vectors, dtype), str(path), data_storage_version=version, **options)


# ---- exact answers -----------------------------------------------------------------


@dataclass
class Rows:
    """The live rows of a table that an index can hold, and why others are left out."""

    ids: np.ndarray  # _rowid
    vectors: np.ndarray  # float64
    dropped: dict

    def distances(self, query, metric):
        query = np.asarray(query, dtype=np.float64)
        if metric == "l2":
            return ((self.vectors - query) ** 2).sum(axis=1)
        products = self.vectors @ query
        if metric == "dot":
            return 1 - products
        return 1 - products / (np.linalg.norm(self.vectors, axis=1) * np.linalg.norm(query))


def usable_rows(dataset, column="vec", metric="l2", fragments=None):
    """Read a column through stock pylance and sort the rows by fate."""
    if fragments is not None:
        fragments = [dataset.get_fragment(f) for f in fragments]
    quoted = ".".join(f"`{part}`" for part in column.replace("`", "").split("."))
    data = dataset.scanner(columns={"v": quoted}, with_row_id=True, fragments=fragments).to_table().combine_chunks()
    ids = data["_rowid"].to_numpy()
    dim = data.schema.field("v").type.list_size
    vectors = data["v"].chunk(0)
    elements = vectors.values.slice(vectors.offset * dim, data.num_rows * dim)
    null_elements = np.asarray(elements.is_null()).reshape(-1, dim)
    null = np.asarray(vectors.is_null()) | null_elements.any(axis=1)
    matrix = elements.to_numpy(zero_copy_only=False).astype(np.float64).reshape(-1, dim)
    matrix[null] = 0
    finite = np.isfinite(matrix).all(axis=1)
    zero = (metric == "cosine") & finite & ~null & ~matrix.any(axis=1)
    keep = ~null & finite & ~zero
    dropped = {"null": int(null.sum()), "nonfinite": int((~null & ~finite).sum()), "zero": int(zero.sum())}
    return Rows(ids[keep], matrix[keep], dropped)


def queries_of(rows, n=8, seed=5):
    """Queries near the data, but not on it."""
    rng = np.random.default_rng(seed)
    picked = rows.vectors[rng.integers(0, len(rows.vectors), n)]
    spread = rows.vectors.std() or 1.0
    return (picked + 0.1 * spread * rng.normal(size=picked.shape)).astype(np.float32)


# ---- searching through stock pylance --------------------------------------------------


def nearest(dataset, column, query, *, k=10, nprobes=8, metric_asked=None, **options):
    """(row ids, distances); nprobes is always stated, because its default is a heuristic.

    Without an index the metric is l2 unless it is asked for.
    """
    wanted = {"column": column, "q": query, "k": k, "nprobes": nprobes, **options}
    if metric_asked:
        wanted["metric"] = metric_asked
    hits = dataset.scanner(columns=["_rowid", "_distance"], nearest=wanted, with_row_id=True,
                           disable_scoring_autoprojection=True).to_table()
    return hits["_rowid"].to_numpy(), hits["_distance"].to_numpy()


def uses_index(dataset, column, query, *, k=10, nprobes=8):
    plan = dataset.scanner(columns=["_rowid"], nearest={"column": column, "q": query, "k": k, "nprobes": nprobes},
                           disable_scoring_autoprojection=True).explain_plan()
    return "ANNSubIndex" in plan


def recall(found, rows, query, metric, k=10):
    """Share of the k best that were found; rows that tie with the k-th count as found."""
    k = min(k, len(rows.ids))
    exact = rows.distances(query, metric)
    limit = np.partition(exact, k - 1)[k - 1]
    at = {int(row): n for n, row in enumerate(rows.ids)}
    good = 0
    for row in {int(row) for row in found}:
        assert row in at, f"row {row:#x} was found but is no usable row of the table"
        good += exact[at[row]] <= limit + 1e-5 * max(1.0, abs(limit))
    return min(good, k) / k


def mean_recall(dataset, column, rows, metric, *, k=10, nprobes=8, n_queries=32, **options):
    values = [recall(nearest(dataset, column, q, k=k, nprobes=nprobes, **options)[0], rows, q, metric, k)
              for q in queries_of(rows, n_queries)]
    return float(np.mean(values))


def index_named(dataset, name):
    """The description of an index by stock pylance, None when it lists none of that name."""
    for index in dataset.describe_indices():
        if index.name == name:
            return index
    return None
