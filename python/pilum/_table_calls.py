"""``search``, ``verify_index``, ``inspect`` and ``gc``: calls that read a table."""

from __future__ import annotations

import contextlib
import json
import os
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
from pilum._values import count, flag


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
        uri: Path or URI of the table, or an open dataset: its version, branch and storage options count.
        column: The column of vectors.
        q: The query vector; or ``None``, and ``rowid`` names the row whose vector is the query.
        k: Rows to return.
        nprobes: Partitions to look into.
        refine_factor: Fetch this times ``k`` rows and sort them by their exact distances.
        exact: Compare with every row, without an index.
        rowid: The row, by its row id.
        index: Name of the index; the column's by default.
        storage_options: As for ``lance.dataset``; a dataset's own by default.
        threads: All processors by default.
        memory_budget: Bytes or a text such as ``"4GiB"``; half of what there is by default.

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
        "exact": flag(exact, "exact"),
    }
    table = open_table(uri, storage_options)
    how: dict[str, Any] = {"threads": threads, "memory_budget": memory_budget}
    try:
        found = run(_core.search, table.reference(), options, **how)
    except UnsupportedError as error:
        with _copy_of(table, column, error) as (pinned, folder):
            found = run(_core.search, pinned.reference(), {**options, "column_copy": folder}, **how)
    rowids, distances, probed, scanned, seconds = found
    facts = {"nprobes": str(probed), "rows_scanned": str(scanned), "seconds": f"{seconds:.6f}"}
    return pa.table(
        [np.frombuffer(rowids or b"", np.uint64), np.frombuffer(distances or b"", np.float32)],
        schema=pa.schema([("_rowid", pa.uint64()), ("_distance", pa.float32())], metadata=facts),
    )


def _vector(q: Any) -> bytes:
    if isinstance(q, (pa.Array, pa.FixedSizeListScalar)):
        q = q.values if isinstance(q, pa.FixedSizeListScalar) else q
        q = q.to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):  # refused below, in words
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
        uri: Path or URI of the table, or an open dataset: its version, branch and storage options count.
        index: Name of the index.
        full: Every row, not a sample.
        queries: For the estimate of recall; 0: none.
        storage_options: As for ``lance.dataset``; a dataset's own by default.
        threads: All processors by default.
        memory_budget: Bytes or a text such as ``"4GiB"``; half of what there is by default.
        progress: As for :func:`pilum.create_index`.

    Returns:
        ``index``, ``checked_rows``, ``problems`` (each with ``kind``, ``rowid``, ``where``, ``seen`` and ``expected``; at
        most 100 of ``n_problems``), ``misfiled``, ``recall_at_10``.
    """
    name = text(index, "index")
    if not name:
        raise ArgumentError("index is empty, expected the name of an index")
    table = open_table(uri, storage_options)
    wanted = (name, flag(full, "full"), count(queries, "queries", 0))
    how: dict[str, Any] = {"threads": threads, "memory_budget": memory_budget, "progress": progress}
    try:
        answer, _ = run(_core.verify_index, table.reference(), *wanted, **how)
    except UnsupportedError as error:
        with _copy_of(table, _column_of(table, index, error), error) as (pinned, folder):
            answer, _ = run(_core.verify_index, pinned.reference(), *wanted, os.fsdecode(folder), **how)
    return Report(json.loads(answer))


def _column_of(table: Table, index: str, error: UnsupportedError) -> str:
    """The column that an index is on; ``error`` again where there is none."""
    if not stream.is_reachable(table.root):
        raise error
    columns = [d.field_names for d in table.open().describe_indices() if d.name == index]
    if not columns or len(columns[0]) != 1:
        raise error
    return columns[0][0]


@contextlib.contextmanager
def _copy_of(table: Table, column: str, error: UnsupportedError) -> Iterator[tuple[Table, bytes]]:
    """A copy of a column that the core refused to read; ``error`` again where there can be none."""
    if not stream.is_reachable(table.root) or not stream.can_be_streamed(table.open(), column):
        raise error
    dataset = table.open()
    todo = stream.pieces(dataset, column)
    with tempfile.TemporaryDirectory(prefix="pilum-column-") as folder:
        warn(stream.warning_text(error, *stream.size_of(dataset, column, todo), folder), StreamWarning)
        stream.copy_column(dataset, column, todo, folder, None)
        yield table.pinned(dataset.version), os.fsencode(folder)


def inspect(
    uri: TableLike, index: Optional[str] = None, *, storage_options: Optional[dict[str, str]] = None
) -> Report:
    """The table, its vector indexes, their segments and partition sizes.

    Args:
        uri: Path or URI of the table, or an open dataset: its version, branch and storage options count.
        index: Name of the only index to look at.
        storage_options: As for ``lance.dataset``; a dataset's own by default.

    Returns:
        ``table``, ``version``, ``rows``, ``fragments``, ``columns``, ``indexes``.
    """
    if text(index, "index") == b"":
        raise ArgumentError("index is empty, expected the name of an index, or None for all")
    return Report(json.loads(run(_core.inspect, open_table(uri, storage_options).reference(), index)))


def gc(uri: TableLike, *, remove: bool = False, storage_options: Optional[dict[str, str]] = None) -> Report:
    """Job folders of builds that no process works on.

    Args:
        uri: Path or URI of the table, or an open dataset.
        remove: Delete them, those of unfinished builds too.
        storage_options: As for ``lance.dataset``; a dataset's own by default.

    Returns:
        ``jobs``: what there is, or was until now.
    """
    removed = flag(remove, "remove")
    return Report(json.loads(run(_core.gc, open_table(uri, storage_options).reference(), removed)))
