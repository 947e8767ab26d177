"""``search``, ``verify_index``, ``inspect`` and ``gc``: calls that read a table."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from typing import Any, Optional, Union

import numpy as np
import pyarrow as pa

from pilum import _core
from pilum import _stream as stream
from pilum._call import run, warn
from pilum._errors import ArgumentError, StreamWarning, UnsupportedError
from pilum._progress import ProgressLike
from pilum._report import Report
from pilum._tables import Table, TableLike, open_table, text
from pilum._values import count


def search(
    uri: TableLike,
    column: str,
    q: Any = None,
    k: int = 10,
    *,
    nprobes: int = 20,
    refine_factor: Optional[int] = None,
    exact: bool = False,
    rowid: Optional[int] = None,
    index: Optional[str] = None,
    storage_options: Optional[dict[str, str]] = None,
    threads: Optional[int] = None,
    memory_budget: Union[int, str, None] = None,
) -> pa.Table:
    """The rows nearest to a vector, as stock Lance finds them: ties by row id, rows without index included.

    For trying an index out; to fetch other columns, or for many queries, use ``dataset.to_table(nearest=...)``.

    Args:
        uri: Path or URI of the table, or an open dataset.
        column: The column of vectors.
        q: The query vector; or ``None``, and ``rowid`` names the row whose vector is the query.
        k: Rows to return.
        nprobes: Partitions to look into.
        refine_factor: Fetch this times ``k`` rows and sort them by their exact distances.
        exact: Compare with every row, without an index.
        index: Name of the index; the column's by default.

    Returns:
        Columns ``_rowid`` (uint64) and ``_distance`` (float32), nearest first; ``nprobes``, ``rows_scanned``
        and ``seconds`` are in the schema's metadata.
    """
    if (q is None) == (rowid is None):
        raise ArgumentError("give either q, the query vector, or rowid, a row of the table")
    options = {
        "column": text(column, "column"),
        "index": text(index, "index"),
        "vector": None if q is None else _vector(q),
        "rowid": count(rowid, "rowid", 0, 2**64 - 1),
        "k": count(k, "k"),
        "nprobes": count(nprobes, "nprobes"),
        "refine_factor": count(refine_factor, "refine_factor"),
        "exact": bool(exact),
    }
    rowids, distances, probed, scanned, seconds = run(
        _core.search, open_table(uri, storage_options).reference(), options, threads=threads,
        memory_budget=memory_budget,
    )
    facts = {"nprobes": str(probed), "rows_scanned": str(scanned), "seconds": f"{seconds:.6f}"}
    return pa.table(
        [np.frombuffer(rowids or b"", np.uint64), np.frombuffer(distances or b"", np.float32)],
        schema=pa.schema([("_rowid", pa.uint64()), ("_distance", pa.float32())], metadata=facts),
    )


def _vector(q: Any) -> bytes:
    if isinstance(q, (pa.Array, pa.FixedSizeListScalar)):
        q = q.values if isinstance(q, pa.FixedSizeListScalar) else q
        q = q.to_numpy(zero_copy_only=False)
    vector = np.asarray(q, dtype=np.float32)
    if vector.ndim != 1 or not len(vector):
        raise ArgumentError(f"q has shape {vector.shape}, expected one vector")
    return vector.tobytes()


def verify_index(
    uri: TableLike,
    index: str,
    *,
    full: bool = False,
    queries: int = 200,
    storage_options: Optional[dict[str, str]] = None,
    threads: Optional[int] = None,
    memory_budget: Union[int, str, None] = None,
    progress: ProgressLike = "auto",
) -> Report:
    """Checks a committed index against its table; what is wrong is in ``report["problems"]``, nothing is raised.

    Args:
        index: Its name.
        full: Every row, not a sample.
        queries: For the estimate of recall; 0: none.
    """
    name = text(index, "index")
    if not name:
        raise ArgumentError("index is empty, expected the name of an index")
    table = open_table(uri, storage_options)
    wanted = (name, bool(full), count(queries, "queries", 0))
    how = {"threads": threads, "memory_budget": memory_budget, "progress": progress}
    try:
        answer, _ = run(_core.verify_index, table.reference(), *wanted, **how)
    except UnsupportedError as error:
        with _copy_of(table, index, error) as (pinned, folder):
            answer, _ = run(_core.verify_index, pinned.reference(), *wanted, folder, **how)
    return Report(json.loads(answer))


@contextlib.contextmanager
def _copy_of(table: Table, index: str, error: UnsupportedError) -> Iterator[tuple[Table, str]]:
    """A copy of the column of an index that the core refused to read; ``error`` again where there can be none."""
    if not stream.is_reachable(table.root):
        raise error
    dataset = table.open()
    columns = [d.field_names for d in dataset.describe_indices() if d.name == index]
    if not columns or len(columns[0]) != 1 or not stream.can_be_streamed(dataset, columns[0][0]):
        raise error
    column = columns[0][0]
    todo = stream.pieces(dataset, column)
    with tempfile.TemporaryDirectory(prefix="pilum-column-") as folder:
        warn(stream.warning_text(error, *stream.size_of(dataset, column, todo), folder), StreamWarning)
        stream.copy_column(dataset, column, todo, folder, None)
        yield table.pinned(dataset.version), folder


def inspect(
    uri: TableLike, index: Optional[str] = None, *, storage_options: Optional[dict[str, str]] = None
) -> Report:
    """The table, its vector indexes, their segments and partition sizes; ``index`` picks one by name."""
    return Report(json.loads(run(_core.inspect, open_table(uri, storage_options).reference(), index)))


def gc(uri: TableLike, *, remove: bool = False, storage_options: Optional[dict[str, str]] = None) -> Report:
    """Job folders of builds that no process works on; with ``remove`` they are deleted, unfinished ones too."""
    return Report(json.loads(run(_core.gc, open_table(uri, storage_options).reference(), bool(remove))))
