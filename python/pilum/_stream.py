"""Columns in a form that the core does not read: pylance reads them, once, into a copy that it does.

The copy is a folder with one Lance file 2.0 for each data file of the table, under its name (see
``column_copy`` in ``pilum.h``). Data files never change, so what an interrupted call left is good for the
next one. The core removes the copy with the job that it was made for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Optional

import lance
import pyarrow as pa
from lance.file import LanceFileReader, LanceFileWriter

from pilum._columns import field_ids, names_of, values_of, vector_type
from pilum._errors import CorruptError, UnsupportedError
from pilum._options import BuildOptions
from pilum._report import bytes_text

_BATCH_BYTES = 4 << 20
_IO_BYTES = 32 << 20  #: what pylance may read ahead

#: Options that tell builds apart.
_SHAPING = ("column", "type", "name", "metric", "num_partitions", "num_sub_vectors", "num_bits", "sample_rate",
            "max_iters", "seed", "num_segments", "fragments")


@dataclasses.dataclass(frozen=True)
class Source:
    """A column of one version of a table: plain data, which other processes are given, too."""

    uri: str
    version: int
    branch: Optional[str]
    storage_options: dict[str, str]
    column: str

    def open(self) -> lance.LanceDataset:
        dataset = lance.dataset(self.uri, storage_options=self.storage_options or None)
        return dataset.checkout_version((self.branch, self.version))


@dataclasses.dataclass(frozen=True)
class Piece:
    """The column of one fragment, and the file for it."""

    fragment: int
    rows: int
    name: str


def can_be_streamed(dataset: lance.LanceDataset, column: str) -> bool:
    """Is it a column of vectors that pylance can read for us?"""
    return vector_type(dataset.schema, column) is not None


def is_reachable(uri: str) -> bool:
    """Can the core work in this storage? Otherwise the column is the least of the troubles."""
    return "://" not in uri or uri.startswith(("s3://", "file://"))


def pieces(dataset: lance.LanceDataset, column: str, fragments: Optional[tuple[int, ...]] = None) -> list[Piece]:
    ids = field_ids(dataset.lance_schema, column)
    found = []
    for fragment in dataset.get_fragments():
        if fragments is not None and fragment.fragment_id not in fragments:
            continue
        files = fragment.metadata.files
        path = next((file.path for i in ids for file in files if i in file.fields), None)
        if path is not None:  # else its rows have no value
            found.append(Piece(fragment.fragment_id, fragment.physical_rows, path))
    return found


def copy_piece(dataset: lance.LanceDataset, column: str, piece: Piece, folder: str,
               storage_options: Optional[dict[str, str]], on_rows: Callable[[int], None]) -> None:
    """Makes one file of the copy, unless it is there. It gets its name when it is complete."""
    target = f"{folder}/{piece.name}"
    if _rows_of(target, storage_options) == piece.rows:
        on_rows(piece.rows)
        return
    kind = vector_type(dataset.schema, column)
    assert kind is not None
    row_bytes = kind.list_size * kind.value_type.bit_width // 8
    names = names_of(column)
    # A part of a packed struct is misread by pylance (14.0, file version 2.0); the whole is not.
    whole = len(names) > 1 and _is_packed(dataset.schema, names)
    fragment = dataset.get_fragment(piece.fragment)
    if fragment is None:
        raise CorruptError(f"fragment {piece.fragment} is not in the table any more")
    scanner = dataset.scanner(
        columns=[names[0] if whole else column], fragments=[fragment], with_row_id=True,
        include_deleted_rows=True, scan_in_order=True, batch_size=max(1, min(8192, _BATCH_BYTES // row_bytes)),
        batch_readahead=2, fragment_readahead=1, io_buffer_size=_IO_BYTES,
    )
    partial = f"{target}.{uuid.uuid4().hex}" if _is_local(folder) else target
    schema = pa.schema([pa.field("vector", kind)])
    rows = 0
    try:
        with LanceFileWriter(partial, schema, version="2.0", data_cache_bytes=8 << 20,
                             storage_options=storage_options) as writer:
            for batch in scanner.to_batches():
                values = values_of(batch.column(0), names[1:] if whole else [])
                writer.write_batch(pa.record_batch([values], schema=schema))
                rows += len(values)
                on_rows(len(values))
        if rows != piece.rows:
            raise CorruptError(f"fragment {piece.fragment}: pylance gave {rows} rows, the manifest says {piece.rows}")
        if partial != target:
            os.replace(partial, target)
    finally:
        if partial != target and os.path.exists(partial):
            os.unlink(partial)


def _is_packed(schema: pa.Schema, names: list[str]) -> bool:
    fields: Any = list(schema)
    for name in names:
        field = next(f for f in fields if f.name == name)
        marks = field.metadata or {}
        if any(marks.get(key, b"").lower() == b"true" for key in (b"packed", b"lance-encoding:packed")):
            return True
        fields = list(field.type) if pa.types.is_struct(field.type) else []
    return False


def _rows_of(path: str, storage_options: Optional[dict[str, str]]) -> int:
    """Rows of a file that is complete; -1 for none."""
    if _is_local(path) and not os.path.exists(path):
        return -1
    try:
        return LanceFileReader(path, storage_options=storage_options).num_rows()
    except Exception:  # not there, or not whole: it is made anew
        return -1


def _is_local(path: str) -> bool:
    return "://" not in path


def folder_name(source: Source, options: BuildOptions) -> str:
    """One folder for each build: who shapes the index differently has a copy of his own."""
    text = repr((source.uri, source.branch, [getattr(options, name) for name in _SHAPING]))
    return "column-" + hashlib.sha256(text.encode()).hexdigest()[:32]


def local_folder(source: Source, work_dir: Optional[str], name: str) -> str:
    """Where a copy on this machine's disk lies: with the job's other unfinished work."""
    if work_dir:
        return os.path.join(os.path.abspath(work_dir), name)
    path = source.uri.removeprefix("file://")
    if _is_local(path):
        below = ["tree", source.branch] if source.branch else []
        return os.path.join(os.path.abspath(path), *below, "_pilum", name)
    return os.path.join(tempfile.gettempdir(), "pilum", name)


@contextlib.contextmanager
def held(folder: str) -> Iterator[None]:
    """While this is held, ``gc`` leaves the folder alone."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "lock"), "w", encoding="utf-8") as file:
        with contextlib.suppress(BlockingIOError):  # a twin of this call: the core tells them apart
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def warning_text(error: UnsupportedError, rows: int, n_bytes: int, folder: str) -> str:
    return (
        f"{error}: the column is streamed through pylance, once, into a copy of {rows} rows "
        f"({bytes_text(n_bytes)}) in {folder}, which is removed in the end"
    )


def copy_column(dataset: lance.LanceDataset, column: str, todo: list[Piece], folder: str,
                on_progress: Optional[Callable[..., None]]) -> None:
    """Makes the whole copy, here. ``on_progress`` is called as by the core."""
    began, done, total = time.monotonic(), 0, sum(piece.rows for piece in todo)

    def on_rows(n: int) -> None:
        nonlocal done
        done += n
        if on_progress is not None:
            on_progress("plan", "reading through pylance", done, total, "rows", 0, 0, time.monotonic() - began)

    for piece in todo:
        copy_piece(dataset, column, piece, folder, None, on_rows)


def size_of(dataset: lance.LanceDataset, column: str, todo: list[Piece]) -> tuple[int, int]:
    """Rows and bytes of a copy."""
    kind = vector_type(dataset.schema, column)
    assert kind is not None
    rows = sum(piece.rows for piece in todo)
    return rows, rows * kind.list_size * kind.value_type.bit_width // 8
