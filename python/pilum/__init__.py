"""Vector indexes for Lance tables, built within a memory budget: IVF_FLAT, IVF_SQ, IVF_PQ.

    import pilum

    ds = pilum.create_index("t.lance", "vec", "IVF_PQ", metric="cosine")

Stock Lance and LanceDB open and search the result. ``pilum.ray.create_index`` does the same on a Ray
cluster. Names are loaded when they are first used: Ray's workers import this package too, and need
neither lance nor pyarrow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pilum._core import __version__
from pilum._errors import (
    AccessDeniedError,
    ArgumentError,
    ArgumentTypeError,
    CancelledError,
    ColumnNotFoundError,
    ColumnTypeError,
    ConflictError,
    CorruptError,
    DataError,
    Error,
    IndexExistsError,
    InternalError,
    MemoryBudgetError,
    NotFoundError,
    OutOfMemoryError,
    PilumWarning,
    StorageBusyError,
    StorageError,
    StreamWarning,
    UnsupportedError,
)

if TYPE_CHECKING:
    from pilum import ray as ray
    from pilum import report as report
    from pilum._build import create_index, optimize_indices, plan_index
    from pilum._progress import Progress
    from pilum._report import Report, last_report
    from pilum._table_calls import gc, inspect, search, verify_index

_WHERE = {
    "create_index": "_build",
    "plan_index": "_build",
    "optimize_indices": "_build",
    "verify_index": "_table_calls",
    "search": "_table_calls",
    "inspect": "_table_calls",
    "gc": "_table_calls",
    "Progress": "_progress",
    "Report": "_report",
    "last_report": "_report",
}

__all__ = [
    "AccessDeniedError",
    "ArgumentError",
    "ArgumentTypeError",
    "CancelledError",
    "ColumnNotFoundError",
    "ColumnTypeError",
    "ConflictError",
    "CorruptError",
    "DataError",
    "Error",
    "IndexExistsError",
    "InternalError",
    "MemoryBudgetError",
    "NotFoundError",
    "OutOfMemoryError",
    "PilumWarning",
    "Progress",
    "Report",
    "StorageBusyError",
    "StorageError",
    "StreamWarning",
    "UnsupportedError",
    "__version__",
    "create_index",
    "gc",
    "inspect",
    "last_report",
    "optimize_indices",
    "plan_index",
    "search",
    "verify_index",
]


if not TYPE_CHECKING:  # whose reader would take every name for one of this package

    def __getattr__(name: str) -> Any:
        if name in _WHERE:
            value = getattr(import_module(f"pilum.{_WHERE[name]}"), name)
            globals()[name] = value
            return value
        if name in ("ray", "report"):
            return import_module(f"pilum.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
