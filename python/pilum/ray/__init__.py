"""Builds on a Ray cluster: ``pilum.ray.create_index`` takes the place of ``lance_ray.create_index``.

Ray starts the workers and carries small messages between them; the work is done by the same C core,
on the same tasks, as ``pilum.create_index``, so the index files have the same bytes whatever the
number of workers. Vectors and index files go from storage to a worker and back, never through Ray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pilum.ray._create import create_index

__all__ = ["create_index"]


if not TYPE_CHECKING:  # whose reader would take every name for one of this package

    def __getattr__(name: str) -> Any:
        """Loaded when it is asked for: workers import this package, too, and need less of it."""
        if name == "create_index":
            from pilum.ray._create import create_index

            return create_index
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
