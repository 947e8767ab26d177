"""Matrices among the options: arrays while they travel, addresses for the core.

Workers import this module: it must not import lance, which takes a second of every worker's start. Nor
numpy, which comes with the arrays, where there are any.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclasses.dataclass
class Matrices:
    """Options of the core, and the arrays that they point into."""

    options: dict[str, Any]
    arrays: list[np.ndarray]


def with_matrices(options: dict[str, Any]) -> Matrices:
    """Options that travelled with their arrays: addresses in this process instead."""
    result, arrays = dict(options), []
    for name in ("ivf_centroids", "pq_codebook"):
        array = result.get(name)
        if array is not None and not isinstance(array, tuple):
            arrays.append(array)
            result[name] = (array.ctypes.data, array.itemsize, array.shape)
    return Matrices(result, arrays)
