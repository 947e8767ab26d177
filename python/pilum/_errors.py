"""Exceptions: one class for each code of the C library."""

from __future__ import annotations

import re
from typing import Any


class Error(Exception):
    """What the library refuses or cannot do; the message says what, where, what was seen and expected.

    Attributes:
        code: The code of the C library, such as ``"CORRUPT"``.
        number: Its number.
        message: One line of text.
        sys_errno: ``errno`` of the failing system call, 0 if there is none.
        http_status: Status of the failing request, 0 if there is none.
    """

    code: str = "BUG"
    number: int = 13
    sys_errno: int = 0
    http_status: int = 0

    def __init__(self, message: str = "", sys_errno: int = 0, http_status: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.sys_errno = sys_errno
        self.http_status = http_status

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.sys_errno, self.http_status)


class ArgumentError(Error, ValueError):
    """A wrong argument, whatever the table holds."""

    code, number = "ARG", 1


class ArgumentTypeError(ArgumentError, TypeError):
    """An argument of a wrong type. A ``ValueError`` too, which lance_ray raises for some of them."""


class OutOfMemoryError(Error, MemoryError):
    """The machine has no memory left."""

    code, number = "NOMEM", 2


class MemoryBudgetError(Error, MemoryError):
    """The memory budget is too small; the message names the smallest one that would do."""

    code, number = "LIMIT", 3


class NotFoundError(Error, ValueError):
    """No such table, version, index, row or fragment. A ``ValueError``, as in lance."""

    code, number = "NOT_FOUND", 4


class ColumnNotFoundError(NotFoundError, KeyError):
    """No such column. A ``ValueError`` as in lance_ray and a ``KeyError`` as in lance."""


class AccessDeniedError(Error, PermissionError):
    """The storage refuses access."""

    code, number = "DENIED", 5


class StorageError(Error, OSError):
    """Reading or writing failed."""

    code, number = "IO", 6


class StorageBusyError(Error, OSError):
    """The storage was busy beyond patience, or the outcome is unknown. The same call carries on."""

    code, number = "RETRY", 7


class ConflictError(Error):
    """Another writer changed what the index covers, or holds the job."""

    code, number = "CONFLICT", 8


class IndexExistsError(ConflictError, ValueError):
    """There is an index of that name, and ``replace`` is off. A ``ValueError``, as in lance_ray."""


class DataError(Error, ValueError):
    """The table holds nothing to index, or the column is no column of vectors."""

    code, number = "DATA", 9


class ColumnTypeError(DataError, TypeError):
    """The column holds no vectors. A ``TypeError``, as in lance_ray."""


class CorruptError(Error):
    """A file is damaged; the message has file and offset."""

    code, number = "CORRUPT", 10


class UnsupportedError(Error, NotImplementedError):
    """Something that is not built (yet); the message names it."""

    code, number = "UNSUPPORTED", 11


class CancelledError(Error):
    """The call was cancelled. The same call carries on where this one ended."""

    code, number = "CANCELLED", 12


class InternalError(Error, RuntimeError):
    """A mistake of pilum: please report it."""

    code, number = "BUG", 13


class PilumWarning(UserWarning):
    """What the library wants to be known although the call goes on."""


class StreamWarning(PilumWarning):
    """The column has a form that the C reader refuses: pylance reads it, which takes time and disk."""


_CLASSES = {
    cls.number: cls
    for cls in (
        ArgumentError,
        OutOfMemoryError,
        MemoryBudgetError,
        NotFoundError,
        AccessDeniedError,
        StorageError,
        StorageBusyError,
        ConflictError,
        DataError,
        CorruptError,
        UnsupportedError,
        CancelledError,
        InternalError,
    )
}


#: Errors that lance and lance_ray have other classes for, by what the library says.
_NO_COLUMN = re.compile(r"(^|: )no column '")
_NO_VECTORS = re.compile(r"(^|: )column '.*' is .*, not a vector column")
_IS_THERE = re.compile(r"already exists \(and replacing is off\)$")


def error_from_core(code: int, message: str, sys_errno: int = 0, http_status: int = 0) -> Error:
    """The exception for an error of the C library; the extension calls this."""
    cls = _CLASSES.get(code, InternalError)
    if cls is NotFoundError and _NO_COLUMN.search(message):
        cls = ColumnNotFoundError
    elif cls is DataError and _NO_VECTORS.search(message):
        cls = ColumnTypeError
    elif cls is ConflictError and _IS_THERE.search(message):
        cls = IndexExistsError
    return cls(message, sys_errno, http_status)
