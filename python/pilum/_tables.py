"""Tables by path or as an open dataset, in the core's terms and back."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Optional, Union

import lance

from pilum import _core
from pilum._errors import ArgumentError, ArgumentTypeError

TableLike = Union[str, "os.PathLike[str]", lance.LanceDataset]

_MANIFEST_BRANCH = 20  # field number of the branch's name in a manifest; absent on main


@dataclasses.dataclass(frozen=True)
class Table:
    """How the core and pylance reach a table."""

    root: str
    branch: Optional[str]
    version: int  #: 0: the latest
    storage_options: dict[str, str]
    dataset: Optional[lance.LanceDataset]  #: as it was given

    def reference(self) -> _core.Table:
        """The table as the extension takes it."""
        options: list[bytes] = []
        for key, value in self.storage_options.items():
            options += [str(key).encode(), str(value).encode()]
        return os.fsencode(self.root), self.version, self.branch, tuple(options)

    @property
    def is_managed(self) -> bool:
        """Does a namespace manage the versions of this table? Then pylance commits there."""
        return bool(getattr(self.dataset, "_namespace_client_managed_versioning", False))

    def pinned(self, version: int) -> Table:
        """The same table at a version."""
        return dataclasses.replace(self, version=version)

    def open(self) -> lance.LanceDataset:
        """The dataset as pylance opens it: the version that was named, else the latest."""
        if self.dataset is not None:
            return self.dataset
        return lance.dataset(self.root, storage_options=self.storage_options or None)

    def at(self, version: Optional[int]) -> lance.LanceDataset:
        """The dataset at a version, None: the latest; sessions and settings of a given dataset are kept."""
        if self.dataset is not None:
            dataset = copy.copy(self.dataset)
            if getattr(dataset, "_namespace_client_managed_versioning", False):
                return lance.dataset(namespace_client=dataset._namespace_client, table_id=dataset._table_id,
                                     version=version, storage_options=dataset._storage_options)
            dataset._ds = dataset._ds.checkout_version((self.branch, version))
            return dataset
        return lance.dataset(self.root, version=version, storage_options=self.storage_options or None)


def open_table(table: TableLike, storage_options: Optional[dict[str, str]] = None) -> Table:
    """The table that a user named: by a path or URI, or by an open dataset with its version and branch."""
    storage_options = _checked(storage_options)
    if isinstance(table, lance.LanceDataset):
        return _from_dataset(table, table.version, storage_options)
    try:
        uri = os.fspath(table)
    except TypeError:
        kind = type(table).__name__
        hint = " (its to_lance() is one)" if hasattr(table, "to_lance") else ""
        raise ArgumentTypeError(f"table is a {kind}, expected a path, a URI or a lance.LanceDataset{hint}") from None
    if not isinstance(uri, str) or not uri or "\0" in uri:
        raise ArgumentError(f"table is {uri!r}, expected a path or a URI")
    if "/tree/" in uri:  # perhaps a branch; lance knows
        dataset = lance.dataset(uri, storage_options=storage_options)
        if branch_of(dataset) is not None:
            return _from_dataset(dataset, 0, storage_options)
    return Table(uri, None, 0, dict(storage_options or {}), None)


def _checked(storage_options: Any) -> Optional[dict[str, str]]:
    """Before anything is built: lance would refuse them when the new version is opened."""
    if storage_options is None:
        return None
    if not isinstance(storage_options, Mapping):
        raise ArgumentTypeError(f"storage_options is a {type(storage_options).__name__}, expected a dict of texts")
    for key, value in storage_options.items():
        if not isinstance(key, str) or not isinstance(value, str):
            wrong = key if not isinstance(key, str) else value
            raise ArgumentTypeError(f"storage_options has {key!r} with a {type(wrong).__name__}, expected texts")
        text(key, "a key of storage_options")
        text(value, f"storage option {key!r}")
    return dict(storage_options)


def branch_of(dataset: lance.LanceDataset) -> Optional[str]:
    """The branch that a dataset is on. Its URI does not tell after ``checkout_version``; its manifest does."""
    name = _proto_field(dataset._ds.serialized_manifest(), _MANIFEST_BRANCH)
    return None if name is None else name.decode()


def _from_dataset(dataset: lance.LanceDataset, version: int, storage_options: Optional[dict[str, str]]) -> Table:
    branch = branch_of(dataset)
    root = dataset.uri.rstrip("/") or "/"
    if branch is not None and root.endswith(f"/tree/{branch}"):
        root = root[: -len(f"/tree/{branch}")]
    return Table(root, branch, version, _options_of(dataset, storage_options), dataset)


def _options_of(dataset: lance.LanceDataset, given: Optional[dict[str, str]]) -> dict[str, str]:
    """Given options; else the dataset's own, fresh from its namespace where there is one."""
    if given:
        return dict(given)
    if getattr(dataset, "_namespace_client", None) is not None:
        native: Any = dataset._ds
        latest = native.latest_storage_options()
        if latest:
            return dict(latest)
    return dict(getattr(dataset, "_storage_options", None) or {})


def _proto_field(message: bytes, number: int) -> Optional[bytes]:
    """The last length-delimited field of a protobuf message with this number."""
    at, found = 0, None

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = varint()
        kind = key & 7
        if kind == 0:
            varint()
            continue
        size = 8 if kind == 1 else 4 if kind == 5 else varint() if kind == 2 else None
        if size is None:
            return found  # groups: not in manifests
        if kind == 2 and key >> 3 == number:
            found = bytes(message[at : at + size])
        at += size
    return found


def text(value: Any, name: str) -> Optional[bytes]:
    """A text option for the core; None stays None. Messages do not repeat it: it may be a secret."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise ArgumentTypeError(f"{name} is a {type(value).__name__}, expected a str")
    if "\0" in value:
        raise ArgumentError(f"{name} holds a NUL character")
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise ArgumentError(f"{name} holds half a surrogate pair, which is no text") from None
