"""Columns that the C reader refuses, on Ray: tasks read them through pylance into a copy beside the table."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import ray

from pilum import _core
from pilum import _stream as stream
from pilum._call import warn
from pilum._errors import StreamWarning, UnsupportedError
from pilum._options import BuildOptions
from pilum._tables import Table
from pilum.ray._progress import View

RETRIES = 20  #: processes that one piece may take with it


def _copy_piece(source: stream.Source, piece: stream.Piece, folder: str) -> int:
    """A task of Ray: one file of the copy."""
    stream.copy_piece(source.open(), source.column, piece, folder, source.storage_options or None, lambda _: None)
    return piece.rows


def copied_column(error: UnsupportedError, table: Table, options: BuildOptions, num_workers: int,
                  view: View) -> BuildOptions:
    """Options of a build that reads a copy, which is made here; ``error`` again where that is of no help."""
    column, dataset = options.column.decode(), table.open()
    if not stream.is_reachable(table.root) or not stream.can_be_streamed(dataset, column):
        raise error
    try:
        preview = dataclasses.replace(options, column_copy=b"")
        _core.plan_index(_core.Context(), table.reference(), preview.core())
    except UnsupportedError:
        raise error from None
    source = stream.Source(table.root, dataset.version, table.branch, table.storage_options, column)
    todo = stream.pieces(dataset, column, options.fragments)
    name = stream.folder_name(source, options)
    folder = _folder(source, name)
    rows, n_bytes = stream.size_of(dataset, column, todo)
    warn(stream.warning_text(error, rows, n_bytes, folder), StreamWarning)
    _copy(source, todo, folder, num_workers, view, rows)
    return dataclasses.replace(options, column_copy=os.fsencode(folder))


def _folder(source: stream.Source, name: str) -> str:
    if "://" not in source.uri.removeprefix("file://"):
        return stream.local_folder(source, None, name)
    below = f"/tree/{source.branch}" if source.branch else ""
    return f"{source.uri.rstrip('/')}{below}/_pilum/{name}"


def _copy(source: stream.Source, todo: list[stream.Piece], folder: str, at_once: int, view: View, rows: int) -> None:
    task = ray.remote(_copy_piece).options(num_cpus=0, max_retries=RETRIES, scheduling_strategy="SPREAD")
    view.begin("plan", rows, "rows", "reading through pylance")
    left = list(reversed(todo))
    running: list[Any] = []
    while left or running:
        while left and len(running) < at_once:
            running.append(task.remote(source, left.pop(), folder))
        ready, running = ray.wait(running, num_returns=1, timeout=1.0)
        for answer in ready:
            view.add(ray.get(answer))
