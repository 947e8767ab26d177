"""Arguments checked for their form, and put into the core's terms, for every engine. What depends on the table,
the core checks."""

from __future__ import annotations

import enum
import operator
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, Optional, Union

import numpy as np
import pyarrow as pa

from pilum._errors import ArgumentError, ArgumentTypeError, UnsupportedError
from pilum._options import BuildOptions
from pilum._tables import text

#: Text, or an enum with such a text as value.
IndexType = Union[str, enum.Enum]
#: numpy, Arrow (one row is one vector), or nested lists.
MatrixLike = Union[np.ndarray, pa.Array, pa.ChunkedArray, Sequence[Any]]
PathLike = Union[str, "os.PathLike[str]"]

BUILT = ("IVF_FLAT", "IVF_SQ", "IVF_PQ")
PLANNED = ("IVF_RQ", "IVF_HNSW_FLAT", "IVF_HNSW_SQ", "IVF_HNSW_PQ")
METRICS = ("l2", "euclidean", "cosine", "dot")
VERIFY = ("none", "sample", "full")
_SEED_MAX = 2**64 - 1
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def build_options(
    *,
    column: Any,
    index_type: Any,
    name: Any,
    replace: Any,
    metric: Any,
    num_partitions: Any,
    num_sub_vectors: Any,
    num_bits: Any,
    sample_rate: Any,
    max_iters: Any,
    seed: Any,
    ivf_centroids: Any,
    pq_codebook: Any,
    fragments: Any,
    num_segments: Any,
    work_dir: Any,
    verify: Any,
    restart: Any,
) -> BuildOptions:
    """The arguments of ``create_index`` that shape a build, checked."""
    column_name = text(column, "column")
    if not column_name:
        raise ArgumentError("column is empty, expected the name of a column of vectors")
    bits = count(num_bits, "num_bits") or 8
    if bits not in (4, 8):
        raise ArgumentError(f"num_bits is {bits}, expected 4 or 8")
    sub_vectors = count(num_sub_vectors, "num_sub_vectors")
    type_name = index_type_name(index_type)
    return BuildOptions(
        column=column_name,
        type=type_name.encode(),
        name=text(name, "name"),
        metric=metric_name(metric).encode(),
        num_partitions=count(num_partitions, "num_partitions"),
        num_sub_vectors=sub_vectors,
        num_bits=bits,
        sample_rate=count(sample_rate, "sample_rate"),
        max_iters=count(max_iters, "max_iters"),
        seed=count(seed, "seed", 0, _SEED_MAX),
        num_segments=count(num_segments, "num_segments"),
        fragments=fragment_ids(fragments),
        replace=flag(replace, "replace"),
        restart=flag(restart, "restart"),
        verify=verify_depth(verify).encode(),
        work_dir=path_text(work_dir, "work_dir"),
        ivf_centroids=centroids(ivf_centroids),
        pq_codebook=codebook(pq_codebook, sub_vectors, bits),
    )


def index_type_name(index_type: Any) -> str:
    """``IVF_PQ`` in either case, or an enum with such a text as value."""
    name = getattr(index_type, "value", index_type)
    if not isinstance(name, str):
        raise ArgumentTypeError(f"index_type is a {type(index_type).__name__}, expected a str or an enum of texts")
    upper = name.upper()
    if upper in PLANNED:
        raise UnsupportedError(f"index type {upper} is not built by pilum yet, only {', '.join(BUILT)}")
    if upper not in BUILT:
        raise ArgumentError(f"index_type is {name!r}, expected one of {', '.join(BUILT)}")
    return upper


def metric_name(metric: Any) -> str:
    """A metric in any case."""
    if not isinstance(metric, str):
        raise ArgumentTypeError(f"metric is a {type(metric).__name__}, expected a str")
    if metric.lower() == "hamming":
        raise UnsupportedError("metric hamming is not built by pilum yet, only l2, cosine and dot")
    if metric.lower() not in METRICS:
        raise ArgumentError(f"metric is {metric!r}, expected one of {', '.join(METRICS)}")
    return metric.lower()


def count(value: Any, name: str, least: int = 1, most: int = 2**32 - 1) -> Optional[int]:
    """A whole number in a range; None stays None."""
    if value is None:
        return None
    try:
        number = operator.index(value)
    except TypeError:
        raise ArgumentTypeError(f"{name} is a {type(value).__name__}, expected an int") from None
    if isinstance(value, (bool, np.bool_)):
        raise ArgumentTypeError(f"{name} is a bool, expected an int")
    if not least <= number <= most:
        raise ArgumentError(f"{name} is {number}, expected {least}..{most}")
    return number


def flag(value: Any, name: str) -> bool:
    """True or False, or what counts as such; but not a text, of which ``"no"`` would count as True."""
    if isinstance(value, (str, bytes)):
        raise ArgumentTypeError(f"{name} is a {type(value).__name__}, expected a bool")
    return bool(value)


def verify_depth(verify: Any) -> str:
    """What is checked before a commit."""
    if not isinstance(verify, str):
        raise ArgumentTypeError(f"verify is a {type(verify).__name__}, expected a str")
    if verify not in VERIFY:
        raise ArgumentError(f"verify is {verify!r}, expected {', '.join(VERIFY[:-1])} or {VERIFY[-1]}")
    return verify


def byte_count(value: Union[int, str, None], name: str = "memory_budget") -> int:
    """``"4GiB"``, ``"4g"``, ``"512MB"`` or a number of bytes; 0 for None. As for the command, only ``kB`` and the like
    are powers of 1000."""
    if value is None:
        return 0
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?\s*", value.lower())
        if not match:
            raise ArgumentError(f"{name} is {value!r}, expected bytes or a text such as '4GiB'")
        value = int(float(match[1]) * (1000 if match[3] == "b" else 1024) ** _POWERS[match[2]])
    return count(value, name, most=2**63 - 1) or 0


def fragment_ids(fragments: Optional[Iterable[int]]) -> Optional[tuple[int, ...]]:
    """Ids in ascending order, each once."""
    if fragments is None:
        return None
    if isinstance(fragments, (str, bytes)) or not isinstance(fragments, Iterable):
        raise ArgumentTypeError(f"fragments is a {type(fragments).__name__}, expected ids")
    ids = sorted({count(f, "fragments", 0) or 0 for f in fragments})
    if not ids:
        raise ArgumentError("fragments is empty, expected ids or None for all")
    return tuple(ids)


# ---- matrices ---------------------------------------------------------------------------------------------


def _values(given: Any, name: str) -> np.ndarray:
    """Values of an Arrow array (one row of it is one vector) or of anything that numpy takes."""
    if isinstance(given, pa.ChunkedArray):
        given = given.combine_chunks()
    if isinstance(given, pa.ExtensionArray):  # FixedShapeTensorArray
        given = given.storage
    if isinstance(given, pa.Array) and (given.null_count or _has_null_items(given)):
        raise ArgumentError(f"{name} has nulls")
    if isinstance(given, pa.FixedSizeListArray):
        width = given.type.list_size
        values = given.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    elif isinstance(given, pa.Array):
        values = given.to_numpy(zero_copy_only=False)
    else:
        values = np.asarray(given)
    if values.dtype not in (np.float16, np.float32, np.float64):
        raise ArgumentError(f"{name} has values of {values.dtype}, expected floating point")
    return np.ascontiguousarray(values)


def _has_null_items(array: pa.Array) -> bool:
    return isinstance(array, pa.FixedSizeListArray) and array.flatten().null_count > 0


def centroids(given: Any) -> Optional[np.ndarray]:
    """IVF centroids, [K, D]."""
    if given is None:
        return None
    values = _values(given, "ivf_centroids")
    if values.ndim != 2:
        raise ArgumentError(f"ivf_centroids has shape {values.shape}, expected [partitions, dimension]")
    return values


def codebook(given: Any, num_sub_vectors: Optional[int], num_bits: int) -> Optional[np.ndarray]:
    """A PQ codebook, [M, 2^bits, D/M]. An Arrow array holds the same values in the same order as rows of D/M
    values (as ``lance.indices.PqModel`` has them) or as 2^bits rows of D values."""
    if given is None:
        return None
    values, codes = _values(given, "pq_codebook"), 1 << num_bits
    if values.ndim == 3:
        return values
    rows = values.shape[0]
    if values.ndim == 2 and rows == codes and not num_sub_vectors:  # rows of D values: Lance's default M
        num_sub_vectors = next((values.shape[1] // n for n in (16, 8) if values.shape[1] % n == 0), None)
    if values.ndim == 2 and num_sub_vectors and values.size % (num_sub_vectors * codes) == 0:
        return values.reshape(num_sub_vectors, codes, -1)
    if values.ndim == 2 and rows > codes and rows % codes == 0 and not num_sub_vectors:
        return values.reshape(rows // codes, codes, -1)
    raise ArgumentError(
        f"pq_codebook has shape {values.shape}, expected [sub-vectors, {codes}, dimension / sub-vectors]"
        + ("" if num_sub_vectors else "; give num_sub_vectors for values in another shape")
    )


def path_text(value: Any, name: str) -> Optional[bytes]:
    """A path option for the core."""
    if value is None:
        return None
    try:
        path = os.fspath(value)
    except TypeError:
        raise ArgumentTypeError(f"{name} is a {type(value).__name__}, expected a path") from None
    if b"\0" in (encoded := os.fsencode(path)) or not encoded:
        raise ArgumentError(f"{name} is {path!r}, expected a path")
    return encoded
