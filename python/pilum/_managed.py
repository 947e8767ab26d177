"""Tables whose versions a namespace manages: pylance commits there what the core has built.

The transaction has the id that the core chose, so an interrupted call finds out that it is in.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timezone
from typing import Any

import lance
from lance.dataset import Index, IndexFile, LanceOperation

from pilum._errors import ConflictError, IndexExistsError

_DETAILS = "/lance.index.pb.VectorIndexDetails"


def commit(dataset: lance.LanceDataset, made: dict[str, Any]) -> lance.LanceDataset:
    """Commits what ``leave_commit`` left, on top of the latest version; the dataset at its new version."""
    latest = lance.dataset(namespace_client=dataset._namespace_client, table_id=dataset._table_id,
                           storage_options=dataset._storage_options)
    removed = [index for index in _indexes(latest) if index.name == made["name"]]
    if removed and not made["replace"]:
        raise IndexExistsError(f"index \"{made['name']}\" already exists (and replacing is off)")
    operation = LanceOperation.CreateIndex([_index(made, segment) for segment in made["segments"]], removed)
    transaction = lance.Transaction(made["read_version"], operation, str(uuid.UUID(made["uuid"])))
    try:
        return lance.LanceDataset.commit(
            dataset.uri, transaction, storage_options=dataset._storage_options,
            namespace_client=dataset._namespace_client, table_id=dataset._table_id,
            namespace_client_managed_versioning=True,
        )
    except OSError as error:
        if "conflict" in str(error).lower():
            raise ConflictError(f"the commit was refused: {error}") from error
        raise


def _indexes(dataset: lance.LanceDataset) -> list[Index]:
    """The segments of all indexes, in the form that a transaction names them."""
    return [
        Index(segment.uuid, index.name, list(index.fields), segment.dataset_version_at_last_update,
              set(segment.fragment_ids), segment.index_version)  # type: ignore[arg-type]
        for index in dataset.describe_indices()
        for segment in index.segments
    ]


def _index(made: dict[str, Any], segment: dict[str, Any]) -> Index:
    return Index(
        uuid=str(uuid.UUID(segment["uuid"])),
        name=made["name"],
        fields=[made["field"]],
        dataset_version=made["read_version"],
        fragment_ids=set(segment["fragments"]),  # type: ignore[arg-type]
        index_version=1,
        created_at=datetime.fromtimestamp(made["created_at_ms"] / 1000, timezone.utc),
        files=[IndexFile("auxiliary.idx", segment["auxiliary_bytes"]), IndexFile("index.idx", segment["index_bytes"])],
        index_details=(_DETAILS, bytes.fromhex(made["details"])),
    )
