"""The arguments that are Ray's own, checked as lance_ray checks them; the others are :mod:`pilum._values`' matter."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from typing import Any

import lance
import pyarrow as pa

from pilum import _tables
from pilum._columns import names_of
from pilum._errors import (
    ArgumentError,
    ArgumentTypeError,
    ColumnNotFoundError,
    ColumnTypeError,
    DataError,
    IndexExistsError,
    NotFoundError,
    UnsupportedError,
)
from pilum._options import BuildOptions
from pilum._tables import Table
from pilum._values import count

#: Options of Lance that change how it builds, not what.
TUNING = ("accelerator", "filter_nan", "index_cache_size", "one_pass_ivfpq", "precomputed_partition_dataset",
          "precomputed_shuffle_buffers", "shuffle_partition_batches", "shuffle_partition_concurrency",
          "skip_transpose", "train")

logger = logging.getLogger("pilum.ray")

# ---- what no table can make right -------------------------------------------------------------


def check_others(given: dict[str, Any]) -> None:
    """What lance_ray hands on to Lance and pilum has no use for."""
    for name, value in given.items():
        if name == "accelerator" and value is not None:
            raise UnsupportedError(f"accelerator {value!r} is not used by pilum, which computes on processors")
        if name not in TUNING:
            raise TypeError(f"create_index() got an unexpected keyword argument {name!r}")
        logger.info("%s is an option for how Lance builds an index: it has no effect here", name)


def check_remote_args(given: Any) -> None:
    if given is not None and not isinstance(given, dict):
        raise ArgumentTypeError(f"ray_remote_args is a {type(given).__name__}, expected a dict")


# ---- the table ------------------------------------------------------------------------------------


def open_table(uri: Any, storage_options: dict[str, str] | None, block_size: int | None, namespace_impl: str | None,
               namespace_properties: dict[str, str] | None, table_id: list[str] | None) -> Table:
    """The table, open: by its URI, as a dataset, or by its name in a namespace."""
    named = namespace_impl is not None and table_id is not None
    if (uri is None) != named:
        which = "not both" if named else "one of them is needed"
        raise ArgumentError(f"give either 'uri' or 'namespace_impl' with 'table_id': {which}")
    settings: dict[str, Any] = {}
    if count(block_size, "block_size") is not None:
        settings["block_size"] = block_size
    if namespace_impl is not None and uri is None:
        import lance_namespace

        settings["namespace_client"] = lance_namespace.connect(namespace_impl, namespace_properties or {})
        settings["table_id"] = table_id
        dataset = lance.dataset(storage_options=storage_options, **settings)
        table = _tables.open_table(dataset)
        return _absolute(table if table.is_managed else table.pinned(0))
    table = _tables.open_table(uri, storage_options)
    if table.dataset is None:
        try:
            dataset = lance.dataset(table.root, storage_options=storage_options or None, **settings)
        except ValueError as error:
            if "not found" not in str(error):
                raise
            raise NotFoundError(f"{table.root}: no table: {error}") from None
        table = dataclasses.replace(table, dataset=dataset)
    return _absolute(table)


def _absolute(table: Table) -> Table:
    """Workers have other working directories."""
    return table if "://" in table.root else dataclasses.replace(table, root=os.path.abspath(table.root))


# ---- what the table tells, before workers are started ------------------------------------------------


def check_against(dataset: lance.LanceDataset, options: BuildOptions) -> None:
    """The errors that lance_ray has for a column, a name and sub-vectors that do not fit the table."""
    column = options.column.decode()
    dimension = _dimension_of(_field_of(dataset.schema, column))
    name = f"{column}_idx" if options.name is None else options.name.decode()
    if not options.replace and any(index.name == name for index in dataset.describe_indices()):
        raise IndexExistsError(f"an index named {name!r} exists; replace=True would replace it")
    if not dataset.get_fragments():
        raise DataError("nothing to index: the table has no fragments")
    if options.ivf_centroids is not None and options.ivf_centroids.shape[1] != dimension:
        shape = options.ivf_centroids.shape
        raise ArgumentError(f"ivf_centroids has shape {shape}, the column has dimension {dimension}")
    if options.type != b"IVF_PQ":
        return
    if options.pq_codebook is not None:
        shape = options.pq_codebook.shape
        if shape[0] * shape[2] != dimension or shape[1] != 1 << options.num_bits:
            raise ArgumentError(f"pq_codebook has shape {shape}, expected [sub-vectors, {1 << options.num_bits}, "
                                f"dimension / sub-vectors] for dimension {dimension}")
    elif options.num_sub_vectors is None and dimension % 8:
        raise ArgumentError(f"dimension {dimension} is not divisible by 8: give num_sub_vectors")
    elif options.num_sub_vectors is not None and dimension % options.num_sub_vectors:
        raise ArgumentError(f"dimension {dimension} is not divisible by num_sub_vectors {options.num_sub_vectors}")


def _field_of(schema: pa.Schema, column: str) -> pa.Field:
    names = names_of(column)
    fields: Any = list(schema)
    for depth, name in enumerate(names):
        field = next((f for f in fields if f.name == name), None)
        if field is None:
            raise ColumnNotFoundError(f"no column {column!r}; there are: {', '.join(f.name for f in schema)}")
        if depth + 1 < len(names):
            fields = list(field.type) if pa.types.is_struct(field.type) else []
    return field


def _dimension_of(field: pa.Field) -> int:
    kind = field.type
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if not pa.types.is_fixed_size_list(kind):
        raise ColumnTypeError(f"column {field.name!r} is {kind}, expected a fixed-size list of numbers")
    value = kind.value_type
    if not pa.types.is_floating(value) and not pa.types.is_integer(value):
        raise ColumnTypeError(f"column {field.name!r} has values of {value}, expected floating point")
    return int(kind.list_size)


def default_partitions(rows: int) -> int:
    """As many as lance_ray makes."""
    return max(1, round(math.sqrt(rows)))
