"""The options of a build, as they go to the core, whichever engine does the work.

Ray's workers import this module: it must not import lance, pyarrow or numpy.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Optional, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from typing_extensions import ParamSpec

    P = ParamSpec("P")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True)
class BuildOptions:
    """What ``struct plm_build_options`` has, by its names; None stands for the core's default.

    Made by :func:`pilum._values.build_options`, which checks what a user gives.
    """

    column: bytes
    type: bytes
    name: Optional[bytes]
    metric: bytes
    num_partitions: Optional[int]
    num_sub_vectors: Optional[int]
    num_bits: int
    sample_rate: Optional[int]
    max_iters: Optional[int]
    seed: Optional[int]
    num_segments: Optional[int]
    fragments: Optional[tuple[int, ...]]
    replace: bool
    restart: bool
    verify: bytes
    work_dir: Optional[bytes]
    ivf_centroids: Optional[np.ndarray]
    pq_codebook: Optional[np.ndarray]
    column_copy: Optional[bytes] = None
    leave_commit: bool = False

    def core(self) -> dict[str, Any]:
        """The options as the extension takes them: matrices by their addresses, alive as long as the dict is."""
        options: dict[str, Any] = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name in ("ivf_centroids", "pq_codebook"):
            array = options[name]
            if array is not None:
                options[name] = (array.ctypes.data, array.itemsize, array.shape)
                options[f"{name} (array)"] = array
        return options


# ---- one signature for two functions ---------------------------------------------------------------------


def arguments_of(other: Callable[P, Any]) -> Callable[[Callable[..., R]], Callable[P, R]]:
    """A decorator: the function takes the arguments of another one, as type checkers, ``help()`` and
    ``inspect.signature`` see it, and is given all of them by name, defaults included."""
    signature = inspect.signature(other)

    def decorate(function: Callable[..., R]) -> Callable[P, R]:
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{function.__name__}() {error}") from None
            bound.apply_defaults()
            return function(**bound.arguments)

        returned = function.__annotations__["return"]
        called.__name__, called.__qualname__ = function.__name__, function.__qualname__
        called.__module__, called.__doc__ = function.__module__, function.__doc__
        called.__annotations__ = {**other.__annotations__, "return": returned}
        called.__signature__ = signature.replace(return_annotation=returned)  # type: ignore[attr-defined]
        return called

    return decorate
