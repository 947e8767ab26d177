"""Types of the extension; ``python/src`` has the contract of each call."""

from collections.abc import Callable
from typing import Any, Optional

__version__: str
CODES: dict[str, tuple[int, str]]

#: (uri, version or 0, branch or None, (key, value, ...)), texts but the branch as bytes.
Table = tuple[bytes, int, Optional[str], tuple[bytes, ...]]

class Context:
    def __init__(
        self,
        *,
        threads: int = 0,
        memory_budget: int = 0,
        simd: Optional[str] = None,
        progress: Optional[Callable[[str, str, int, int, str, int, int, float], object]] = None,
        warn: Optional[Callable[[str], object]] = None,
    ) -> None: ...
    def cancel(self) -> None: ...

def create_index(context: Context, table: Table, options: dict[str, Any], /) -> str: ...
def plan_index(context: Context, table: Table, options: dict[str, Any], /) -> str: ...
def inspect(context: Context, table: Table, index: Optional[str], /) -> str: ...
def verify_index(
    context: Context, table: Table, index: bytes, full: bool, queries: int, column_copy: Optional[str] = None, /
) -> tuple[str, int]: ...
def search(
    context: Context, table: Table, options: dict[str, Any], /
) -> tuple[Optional[bytes], Optional[bytes], int, int, float]: ...
def gc(context: Context, table: Table, remove: bool, /) -> str: ...
def version(context: Context, /) -> str: ...

class Dist:
    """A build that several processes share: ``build/dist.h``."""

    def call(self, name: str, numbers: tuple[int, ...], messages: tuple[bytes, ...], /) -> bytes: ...
    def close(self) -> None: ...

def dist_open(context: Context, table: Table, options: dict[str, Any], n_workers: int, /) -> tuple[Dist, bool]: ...
def dist_join(
    context: Context, table: Table, options: dict[str, Any], n_workers: int, plan: bytes, spill_dir: bytes, /
) -> Dist: ...
