"""Columns by their path, as the core and Lance write it."""

from __future__ import annotations

from typing import Any, Optional

import pyarrow as pa

from pilum._errors import ArgumentError


def names_of(path: str) -> list[str]:
    """The names of a path: dots separate, backticks hold odd names, two of them stand for one."""
    names, i = [], 0
    while i <= len(path):
        name = ""
        if path[i : i + 1] == "`":
            i += 1
            while i < len(path) and (path[i] != "`" or path[i : i + 2] == "``"):
                i += 2 if path[i : i + 2] == "``" else 1
                name += path[i - 1]
            i += 1
        else:
            end = path.find(".", i)
            name, i = path[i : end if end >= 0 else None], end if end >= 0 else len(path)
        if not name or (i < len(path) and path[i] != "."):
            raise ArgumentError(f"column {path!r} is no path of names")
        names.append(name)
        i += 1
    return names


def field_ids(schema: Any, path: str) -> list[int]:
    """Ids of the fields along a path of a ``lance`` schema, the column itself first; [] when there is none."""
    ids: list[int] = []
    fields = schema.fields()
    for name in names_of(path):
        field = next((f for f in fields if f.name() == name), None)
        if field is None:
            return []
        ids.insert(0, field.id())
        fields = field.children()
    return ids


def values_of(array: pa.Array, names: list[str]) -> pa.Array:
    """The column at the end of a path of structs; null where a struct is null."""
    for name in names:
        array = array.flatten()[array.type.get_field_index(name)]
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def vector_type(schema: pa.Schema, path: str) -> Optional[pa.DataType]:
    """The storage type of a column of float vectors; None for any other column, and for none."""
    fields: Any = list(schema)
    kind: Any = None
    for name in names_of(path):
        kind = next((f.type for f in fields if f.name == name), None)
        fields = list(kind) if kind is not None and pa.types.is_struct(kind) else []
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if kind is not None and pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type):
        return kind
    return None
