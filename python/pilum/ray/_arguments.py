"""The arguments of ``create_index``: checked as lance_ray checks them, and put into the core's terms."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from pilum._columns import names_of
from pilum._managed import is_managed

BUILT = ("IVF_FLAT", "IVF_SQ", "IVF_PQ")
KNOWN = (*BUILT, "IVF_RQ", "IVF_HNSW_FLAT", "IVF_HNSW_PQ", "IVF_HNSW_SQ")
METRICS = ("l2", "euclidean", "cosine", "dot", "hamming")


#: Options of Lance that change how it builds, not what.
TUNING = ("accelerator", "filter_nan", "index_cache_size", "one_pass_ivfpq", "precomputed_partition_dataset",
          "precomputed_shuffle_buffers", "shuffle_partition_batches", "shuffle_partition_concurrency",
          "skip_transpose", "train")

logger = logging.getLogger("pilum.ray")

# ---- what no table can make right -------------------------------------------------------------


def index_type_name(index_type: Any) -> str:
    """Text in either case, or an enum whose value is such a text."""
    name = getattr(index_type, "value", index_type)
    if not isinstance(name, str):
        raise TypeError(f"index_type is a {type(index_type).__name__}, expected a string or an enum of strings")
    name = name.upper()
    if name not in KNOWN:
        raise ValueError(f"index_type is {name!r}, expected one of {', '.join(KNOWN)}")
    if name not in BUILT:
        raise NotImplementedError(f"index type {name} is not built by pilum yet, only {', '.join(BUILT)}")
    return name


def metric_name(metric: Any) -> str:
    if not isinstance(metric, str):
        raise TypeError(f"metric is a {type(metric).__name__}, expected a string")
    name = metric.lower()
    if name not in METRICS:
        raise ValueError(f"metric {metric!r} is not supported, expected one of {', '.join(METRICS)}")
    if name == "hamming":
        raise NotImplementedError("metric 'hamming' is not built by pilum yet, only l2, cosine and dot")
    return name


def check_counts(num_workers: int, num_segments: int | None, sample_rate: int, block_size: int | None,
                 num_partitions: int | None) -> None:
    for name, value in (("num_workers", num_workers), ("num_segments", num_segments), ("block_size", block_size)):
        if value is not None and value <= 0:
            raise ValueError(f"{name} must be positive, got {value}")
    if not isinstance(sample_rate, int) or sample_rate < 2:
        raise ValueError(f"sample_rate must be an integer above 1, got {sample_rate}")
    if num_partitions is not None and not isinstance(num_partitions, int):
        raise TypeError(f"num_partitions must be an integer, got {type(num_partitions).__name__}")


def check_others(given: dict[str, Any]) -> None:
    """What lance_ray hands on to Lance and pilum has no use for."""
    for name, value in given.items():
        if name == "accelerator" and value is not None:
            raise NotImplementedError(f"accelerator {value!r} is not used by pilum, which computes on processors")
        if name not in TUNING:
            raise TypeError(f"create_index() got an unexpected keyword argument {name!r}")
        logger.info("%s is an option for how Lance builds an index: it has no effect here", name)


def check_table_arguments(uri: Any, namespace_impl: str | None, table_id: list[str] | None) -> None:
    named = namespace_impl is not None and table_id is not None
    if uri is not None and named:
        raise ValueError("give either 'uri' or 'namespace_impl' with 'table_id', not both")
    if uri is None and not named:
        raise ValueError("give either 'uri' or 'namespace_impl' with 'table_id'")


# ---- the table ------------------------------------------------------------------------------------


@dataclasses.dataclass
class Table:
    """An open table and how the core and pylance reach it."""

    dataset: lance.LanceDataset
    root: str
    branch: str | None
    version: int  #: 0: the latest
    storage_options: dict[str, str]
    open_arguments: dict[str, Any]

    def reference(self, version: int | None = None) -> tuple:
        options: list[bytes] = []
        for key, value in self.storage_options.items():
            options += [str(key).encode(), str(value).encode()]
        return (os.fsencode(self.root), self.version if version is None else version, self.branch, tuple(options))

    def reopen(self) -> lance.LanceDataset:
        return lance.LanceDataset(self.dataset.uri, **self.open_arguments)


def _branch_of(dataset: lance.LanceDataset) -> tuple[str, str | None]:
    """The root of the table, and the branch that the dataset is on."""
    uri = dataset.uri
    if "/tree/" not in uri:
        return uri, None
    for name in sorted(dataset.branches.list(), key=len, reverse=True):
        if uri.rstrip("/").endswith(f"/tree/{name}"):
            return uri.rstrip("/")[: -len(f"/tree/{name}")], name
    return uri, None


def _describe(namespace_impl: str, properties: dict[str, str] | None, table_id: list[str]) -> tuple[Any, Any]:
    import lance_namespace

    client = lance_namespace.connect(namespace_impl, properties or {})
    described = client.describe_table(lance_namespace.DescribeTableRequest(id=table_id))
    if described.location is None:
        raise ValueError(f"the namespace gives no location for table {table_id}")
    return client, described


def open_table(uri: str | os.PathLike[str] | lance.LanceDataset | None, storage_options: dict[str, str] | None,
               block_size: int | None, namespace_impl: str | None, namespace_properties: dict[str, str] | None,
               table_id: list[str] | None) -> Table:
    if uri is not None and not isinstance(uri, (str, os.PathLike)):
        options = dict(storage_options or getattr(uri, "_storage_options", None) or {})
        root, branch = _branch_of(uri)
        return Table(uri, _local(root), branch, uri.version, options, _open_arguments(options, block_size))
    check_table_arguments(uri, namespace_impl, table_id)
    options = dict(storage_options or {})
    extra: dict[str, Any] = {}
    if uri is None:
        client, described = _describe(namespace_impl, namespace_properties, table_id)
        uri = described.location
        options.update(described.storage_options or {})
        extra = {"namespace_client": client, "table_id": table_id,
                 "namespace_client_managed_versioning": getattr(described, "managed_versioning", None) is True}
    arguments = {**_open_arguments(options, block_size), **extra}
    dataset = lance.LanceDataset(os.fspath(uri), **arguments)
    root, branch = _branch_of(dataset)
    version = dataset.version if is_managed(dataset) else 0
    return Table(dataset, _local(root), branch, version, options, arguments)


def _open_arguments(options: dict[str, str], block_size: int | None) -> dict[str, Any]:
    arguments: dict[str, Any] = {"storage_options": options or None}
    if block_size is not None:
        arguments["block_size"] = block_size
    return arguments


def _local(root: str) -> str:
    """Workers have other working directories: a path is made absolute."""
    return root if "://" in root else os.path.abspath(root)


# ---- the column -------------------------------------------------------------------------------------


def find_field(schema: pa.Schema, column: str) -> pa.Field:
    names = names_of(column)
    fields: Any = list(schema)
    for depth, name in enumerate(names):
        field = next((f for f in fields if f.name == name), None)
        if field is None:
            raise ValueError(f"column {column!r} not found; the table has {[f.name for f in schema]}")
        if depth + 1 < len(names):
            fields = list(field.type) if pa.types.is_struct(field.type) else []
    return field


def dimension_of(field: pa.Field) -> int:
    kind = field.type
    if isinstance(kind, pa.FixedShapeTensorType) and len(kind.shape) == 1:
        return kind.shape[0]
    if not pa.types.is_fixed_size_list(kind):
        raise TypeError(f"column {field.name!r} is {kind}, expected a fixed-size list of numbers")
    value = kind.value_type
    if not pa.types.is_floating(value) and not pa.types.is_unsigned_integer(value):
        raise TypeError(f"column {field.name!r} has values of {value}, expected floating point")
    return kind.list_size


def check_sub_vectors(num_sub_vectors: Any, dimension: int) -> None:
    if num_sub_vectors is None:
        if dimension % 8:
            raise ValueError(f"dimension {dimension} is not divisible by 8: give num_sub_vectors")
        return
    if not isinstance(num_sub_vectors, int) or not 1 <= num_sub_vectors <= dimension:
        raise ValueError(f"num_sub_vectors must be an integer in 1..{dimension}, got {num_sub_vectors}")
    if dimension % num_sub_vectors:
        raise ValueError(f"dimension {dimension} is not divisible by num_sub_vectors {num_sub_vectors}")


def default_partitions(rows: int) -> int:
    return max(1, round(math.sqrt(rows)))


# ---- matrices ---------------------------------------------------------------------------------------------


def _flat(given: Any) -> np.ndarray:
    """Values of an Arrow array or of anything that numpy takes."""
    if isinstance(given, pa.ChunkedArray):
        given = given.combine_chunks()
    if isinstance(given, pa.ExtensionArray):
        given = given.storage
    if isinstance(given, pa.FixedSizeListArray):
        width = given.type.list_size
        return given.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    if isinstance(given, pa.Array):
        return given.to_numpy(zero_copy_only=False)
    return np.asarray(given)


def _floats(values: np.ndarray) -> np.ndarray:
    if values.dtype not in (np.float16, np.float32, np.float64):
        raise ValueError(f"values of {values.dtype}, expected floating point")
    return np.ascontiguousarray(values)


def centroids_matrix(given: Any, dimension: int) -> np.ndarray | None:
    if given is None:
        return None
    values = _floats(_flat(given))
    if values.ndim == 1 or values.shape[-1] != dimension:
        raise ValueError(f"ivf_centroids has shape {values.shape}, the column has dimension {dimension}")
    return values.reshape(-1, dimension)


def codebook_matrix(given: Any, dimension: int, num_sub_vectors: int | None, num_bits: int) -> np.ndarray | None:
    """[M, 2^bits, D/M]; an Arrow array of another width holds the same values in the same order."""
    if given is None:
        return None
    values, codes = _floats(_flat(given)), 1 << num_bits
    if values.size != dimension * codes:
        raise ValueError(f"pq_codebook has {values.size} values, expected {dimension} x {codes}")
    if values.ndim == 3 and values.shape[1] == codes:
        return values
    m = num_sub_vectors or (dimension // 16 if dimension % 16 == 0 else dimension // 8)
    return values.reshape(m, codes, dimension // m)
