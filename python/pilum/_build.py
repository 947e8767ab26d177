"""``create_index`` and ``plan_index``: the build with threads, in the C core."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any, Optional, Union

import lance

from pilum import _core
from pilum import _managed as managed
from pilum import _stream as stream
from pilum import _values as values
from pilum._call import run, warn
from pilum._errors import ArgumentError, StreamWarning, UnsupportedError
from pilum._progress import Display, ProgressLike
from pilum._report import Report, keep
from pilum._tables import Table, TableLike, open_table, text

_SEED_MAX = 2**64 - 1


class _Options:
    """Build options for the core, and the arrays that they point into."""

    def __init__(self, **given: Any) -> None:
        num_bits = values.count(given["num_bits"], "num_bits") or 8
        if num_bits not in (4, 8):
            raise ArgumentError(f"num_bits is {num_bits}, expected 4 or 8")
        if given["verify"] not in ("none", "sample", "full"):
            raise ArgumentError(f"verify is {given['verify']!r}, expected none, sample or full")
        if not given["column"]:
            raise ArgumentError("column is empty, expected the name of a column of vectors")
        sub_vectors = values.count(given["num_sub_vectors"], "num_sub_vectors")
        self.centroids = values.centroids(given["ivf_centroids"])
        self.codebook = values.codebook(given["pq_codebook"], sub_vectors, num_bits)
        self.core: dict[str, Any] = {
            "column": text(given["column"], "column"),
            "type": values.index_type_name(given["index_type"]).encode(),
            "name": text(given["name"], "name"),
            "metric": values.metric_name(given["metric"]).encode(),
            "num_partitions": values.count(given["num_partitions"], "num_partitions"),
            "num_sub_vectors": sub_vectors,
            "num_bits": num_bits,
            "sample_rate": values.count(given["sample_rate"], "sample_rate"),
            "max_iters": values.count(given["max_iters"], "max_iters"),
            "seed": values.count(given["seed"], "seed", 0, _SEED_MAX),
            "num_segments": values.count(given["num_segments"], "num_segments"),
            "fragments": values.fragment_ids(given["fragments"]),
            "replace": bool(given["replace"]),
            "restart": bool(given["restart"]),
            "verify": given["verify"].encode(),
            "work_dir": values.path_text(given["work_dir"], "work_dir"),
            "ivf_centroids": values.matrix_address(self.centroids),
            "pq_codebook": values.matrix_address(self.codebook),
        }


def create_index(
    uri: TableLike,
    column: str,
    index_type: Any,
    name: Optional[str] = None,
    *,
    replace: bool = True,
    metric: str = "l2",
    num_partitions: Optional[int] = None,
    num_sub_vectors: Optional[int] = None,
    num_bits: int = 8,
    sample_rate: int = 256,
    max_iters: int = 50,
    seed: int = 42,
    ivf_centroids: Any = None,
    pq_codebook: Any = None,
    fragments: Optional[Iterable[int]] = None,
    num_segments: Optional[int] = None,
    storage_options: Optional[dict[str, str]] = None,
    threads: Optional[int] = None,
    memory_budget: Union[int, str, None] = None,
    work_dir: Union[str, "os.PathLike[str]", None] = None,
    verify: str = "sample",
    restart: bool = False,
    progress: ProgressLike = "auto",
    report: Union[str, "os.PathLike[str]", None] = None,
) -> lance.LanceDataset:
    """Builds a vector index and commits it to the table.

    A build that was interrupted (Ctrl-C, a kill, a crash) is carried on by the same call. The table is
    never half-changed. The report of the build is at :func:`pilum.last_report`.

    Args:
        uri: Path or URI of the table, or an open dataset: its version, branch and storage options count.
        column: The column of vectors. ``s.vec`` names a nested one; a dot in a name goes into backticks.
        index_type: ``IVF_FLAT``, ``IVF_SQ`` or ``IVF_PQ``, as text in either case or as an enum.
        name: Of the index; ``<column>_idx`` by default.
        replace: ``False``: an index of that name is an error.
        metric: ``l2`` (or ``euclidean``), ``cosine`` or ``dot``, in any case.
        num_partitions: By default one for 4096 rows (FLAT) or 8192 rows (SQ, PQ).
        num_sub_vectors: PQ; by default dimension / 16 if that divides, else / 8.
        num_bits: PQ bits of a code: 8 or 4.
        sample_rate: Training rows for each partition.
        max_iters: Most passes of each k-means.
        seed: Same seed, same table, same options: same bytes.
        ivf_centroids: ``[K, D]``, used as given instead of being trained: numpy, or an Arrow array of
            fixed-size lists.
        pq_codebook: ``[M, 2^bits, D/M]``, used as given instead of being trained.
        fragments: Ids of the fragments to index; all by default.
        num_segments: Index segments to commit; one by default.
        storage_options: As for ``lance.dataset``; a dataset's own by default.
        threads: All processors by default.
        memory_budget: Bytes or a text such as ``"4GiB"``; half of what there is by default.
        work_dir: Folder for unfinished work; by default inside a local table, else the temporary folder.
        verify: ``none``, ``sample`` or ``full``: what is checked before the commit.
        restart: Throw an unfinished build of the same index away instead of carrying it on.
        progress: ``auto`` (a bar on terminals and in notebooks, else nothing), ``bar``, ``plain``, ``json``,
            ``none``, a bool, or a function that is given a :class:`pilum.Progress`. What such a function
            raises ends the call, which the same call then carries on.
        report: A file to write the report to, as JSON.

    Returns:
        The dataset at the version that has the index.

    Raises:
        ValueError, TypeError: Wrong arguments. No such column: an error that is both a ``ValueError`` and a
            ``KeyError``.
        NotImplementedError: Something that is not built; the message names it.
        pilum.Error: Anything else that the table, the storage or the machine decides. All of the above
            that the C library finds are of this class, too.
        KeyboardInterrupt: After Ctrl-C.
    """
    given = dict(locals())
    table = open_table(given.pop("uri"), given.pop("storage_options"))
    options = _Options(**given)
    is_managed = table.dataset is not None and managed.is_managed(table.dataset)
    options.core["leave_commit"] = is_managed
    try:
        result = _run_build(_core.create_index, table, options, threads, memory_budget, progress)
    except UnsupportedError as error:
        result = _run_streamed(error, table, options, threads, memory_budget, progress)
    if is_managed and "transaction" in result:
        assert table.dataset is not None
        managed.commit(table.dataset, result["transaction"])
        options.core["restart"] = False
        resumed = result["resumed"]
        result = _run_build(_core.create_index, table, options, threads, memory_budget, None)  # the core finds it in
        result["resumed"] = resumed
    kept = keep(result)
    if report is not None:
        kept.to_json(report)
    return table.at(result["version_committed"])


def plan_index(
    uri: TableLike,
    column: str,
    index_type: Any,
    name: Optional[str] = None,
    *,
    replace: bool = True,
    metric: str = "l2",
    num_partitions: Optional[int] = None,
    num_sub_vectors: Optional[int] = None,
    num_bits: int = 8,
    sample_rate: int = 256,
    max_iters: int = 50,
    seed: int = 42,
    ivf_centroids: Any = None,
    pq_codebook: Any = None,
    fragments: Optional[Iterable[int]] = None,
    num_segments: Optional[int] = None,
    storage_options: Optional[dict[str, str]] = None,
    threads: Optional[int] = None,
    memory_budget: Union[int, str, None] = None,
    work_dir: Union[str, "os.PathLike[str]", None] = None,
    verify: str = "sample",
    restart: bool = False,
    progress: ProgressLike = None,
    report: Union[str, "os.PathLike[str]", None] = None,
) -> Report:
    """What :func:`create_index` would do with the same arguments: time, memory, bytes, requests, and notes
    on what it would decide. Touches nothing."""
    given = dict(locals())
    table = open_table(given.pop("uri"), given.pop("storage_options"))
    options = _Options(**given)
    try:
        result = Report(_run_build(_core.plan_index, table, options, threads, memory_budget, progress))
    except UnsupportedError as error:
        result = Report(_plan_streamed(error, table, options, threads, memory_budget))
        warn(f"{error}: the column would be streamed through pylance", StreamWarning)
    if report is not None:
        result.to_json(report)
    return result


def _run_build(call: Any, table: Table, options: _Options, threads: Any, memory_budget: Any,
               progress: ProgressLike) -> dict[str, Any]:
    answer = run(call, table.reference(), options.core, threads=threads, memory_budget=memory_budget,
                 progress=progress)
    result: dict[str, Any] = json.loads(answer)
    return result


def _plan_streamed(error: UnsupportedError, table: Table, options: _Options, threads: Any,
                   memory_budget: Any) -> dict[str, Any]:
    """The plan with a column read by pylance; ``error`` again, where that is of no help."""
    if not stream.is_reachable(table.root) or not stream.can_be_streamed(table.open(), options.core["column"].decode()):
        raise error
    try:
        options.core["column_copy"] = b""
        return _run_build(_core.plan_index, table, options, threads, memory_budget, None)
    except UnsupportedError:
        raise error from None


def _run_streamed(error: UnsupportedError, table: Table, options: _Options, threads: Any, memory_budget: Any,
                  progress: ProgressLike) -> dict[str, Any]:
    """The build of a column that the core refused, with a copy of it that pylance makes."""
    column = options.core["column"].decode()
    _plan_streamed(error, table, options, threads, memory_budget)  # nothing is copied for a build that cannot be
    dataset = table.open()
    todo = stream.pieces(dataset, column, options.core["fragments"])
    source = stream.Source(table.root, dataset.version, table.branch, table.storage_options, column)
    work_dir = options.core["work_dir"]
    folder = stream.local_folder(source, work_dir and os.fsdecode(work_dir), stream.folder_name(source, options.core))
    warn(stream.warning_text(error, *stream.size_of(dataset, column, todo), folder), StreamWarning)
    with stream.held(folder):
        with Display(progress) as display:
            stream.copy_column(dataset, column, todo, folder, display.on_progress if display.is_wanted else None)
        options.core["column_copy"] = os.fsencode(folder)
        return _run_build(_core.create_index, table.pinned(dataset.version), options, threads, memory_budget, progress)


def optimize_indices(uri: TableLike, index: Optional[str] = None, **options: Any) -> lance.LanceDataset:
    """Would index the fragments that an index does not cover yet, with the index's own model. Not built yet.

    Until then ``lance.LanceDataset.optimize.optimize_indices()`` of stock Lance does it.
    """
    raise UnsupportedError(
        "optimize_indices is not built by pilum yet; dataset.optimize.optimize_indices() of Lance works on its indexes"
    )
