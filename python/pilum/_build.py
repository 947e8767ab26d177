"""``create_index`` and ``plan_index``: the build with threads, in the C core."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from typing import Any, Optional, Union

import lance

from pilum import _core
from pilum import _managed as managed
from pilum import _stream as stream
from pilum._call import run, warn
from pilum._errors import StreamWarning, UnsupportedError
from pilum._options import BuildOptions, arguments_of
from pilum._progress import Display, ProgressLike
from pilum._report import Report, check_target, keep
from pilum._tables import Table, TableLike, open_table
from pilum._values import IndexType, MatrixLike, PathLike, build_options

def create_index(
    uri: TableLike,
    column: str,
    index_type: IndexType,
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
    ivf_centroids: Optional[MatrixLike] = None,
    pq_codebook: Optional[MatrixLike] = None,
    fragments: Optional[Iterable[int]] = None,
    num_segments: Optional[int] = None,
    storage_options: Optional[dict[str, str]] = None,
    threads: Optional[int] = None,
    memory_budget: Union[int, str, None] = None,
    work_dir: Optional[PathLike] = None,
    verify: str = "sample",
    restart: bool = False,
    progress: ProgressLike = "auto",
    report: Optional[PathLike] = None,
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
        num_partitions: By default one for 4096 rows (FLAT) or 8192 rows (SQ, PQ), at most 4096.
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
        ValueError: A wrong argument; one of a wrong type is a ``TypeError``, too, a missing column a
            ``KeyError``.
        NotImplementedError: Something that is not built; the message names it.
        OSError: The file for the report cannot be written; told before the build.
        pilum.Error: Anything else that the table, the storage or the machine decides. All of the above
            are of this class, too, but for unknown arguments and the report's file.
        KeyboardInterrupt: After Ctrl-C.
    """
    table, options, how = _parts(locals())
    if table.is_managed:
        options = dataclasses.replace(options, leave_commit=True)
    try:
        result = _run_build(_core.create_index, table, options, **how)
    except UnsupportedError as error:
        result = _run_streamed(error, table, options, **how)
    if "transaction" in result:
        assert table.dataset is not None
        managed.commit(table.dataset, result["transaction"])
        resumed = result["resumed"]
        again = dataclasses.replace(options, restart=False)  # the core finds the commit in
        result = _run_build(_core.create_index, table, again, **{**how, "progress": None})
        result["resumed"] = resumed
    kept = keep(result)
    if report is not None:
        kept.to_json(report)
    return table.at(result["version_committed"])


@arguments_of(create_index)
def plan_index(**given: Any) -> Report:
    """What :func:`create_index` would do with the same arguments, and how long that would take; touches nothing.

    Returns:
        The plan: ``plan`` (estimates of seconds, memory, bytes and requests, with the keys of a report),
        ``rows``, ``index``, ``tasks`` and ``notes`` on what was decided. ``report`` names a file for it, too.

    Raises:
        As ``create_index``, among them MemoryBudgetError, whose message has the smallest budget that would do.
    """
    table, options, how = _parts(given)
    try:
        result = Report(_run_build(_core.plan_index, table, options, **how))
    except UnsupportedError as error:
        result = Report(_plan_streamed(error, table, options, **how))
        warn(f"{error}: the column would be streamed through pylance", StreamWarning)
    if given["report"] is not None:
        result.to_json(given["report"])
    return result


def _parts(given: dict[str, Any]) -> tuple[Table, BuildOptions, dict[str, Any]]:
    """The arguments of a build by what they are about: the table, the index, how to go about it."""
    given = dict(given)
    check_target(given.pop("report"))
    how = {name: given.pop(name) for name in ("threads", "memory_budget", "progress")}
    uri, storage_options = given.pop("uri"), given.pop("storage_options")
    options = build_options(**given)
    return open_table(uri, storage_options), options, how


def _run_build(call: Any, table: Table, options: BuildOptions, **how: Any) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(run(call, table.reference(), options.core(), **how))
    return result


def _plan_streamed(error: UnsupportedError, table: Table, options: BuildOptions, **how: Any) -> dict[str, Any]:
    """The plan with a column read by pylance; ``error`` again, where that is of no help."""
    if not stream.is_reachable(table.root) or not stream.can_be_streamed(table.open(), options.column.decode()):
        raise error
    try:
        return _run_build(_core.plan_index, table, dataclasses.replace(options, column_copy=b""),
                          **{**how, "progress": None})
    except UnsupportedError:
        raise error from None


def _run_streamed(error: UnsupportedError, table: Table, options: BuildOptions, **how: Any) -> dict[str, Any]:
    """The build of a column that the core refused, with a copy of it that pylance makes."""
    column = options.column.decode()
    _plan_streamed(error, table, options, **how)  # nothing is copied for a build that cannot be
    dataset = table.open()
    todo = stream.pieces(dataset, column, options.fragments)
    source = stream.Source(table.root, dataset.version, table.branch, table.storage_options, column)
    work_dir = os.fsdecode(options.work_dir) if options.work_dir else None
    folder = stream.local_folder(source, work_dir, stream.folder_name(source, options))
    warn(stream.warning_text(error, *stream.size_of(dataset, column, todo), folder), StreamWarning)
    with stream.held(folder):
        with Display(how["progress"]) as display:
            stream.copy_column(dataset, column, todo, folder, display.on_progress if display.is_wanted else None)
        options = dataclasses.replace(options, column_copy=os.fsencode(folder))
        return _run_build(_core.create_index, table.pinned(dataset.version), options, **how)


def optimize_indices(uri: TableLike, index: Optional[str] = None, **options: Any) -> lance.LanceDataset:
    """Would index the fragments that an index does not cover yet, with the index's own model. Not built yet.

    Until then ``lance.LanceDataset.optimize.optimize_indices()`` of stock Lance does it.

    Args:
        uri: Path or URI of the table, or an open dataset.
        index: Name of the index; all by default.
    """
    raise UnsupportedError(
        "optimize_indices is not built by pilum yet; dataset.optimize.optimize_indices() of Lance works on its indexes"
    )
