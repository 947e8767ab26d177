"""``pilum.ray.create_index``."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from collections.abc import Callable, Iterable
from typing import Any, Optional, Union

import lance
import ray

from pilum import _core
from pilum._errors import (
    ConflictError,
    InternalError,
    NotFoundError,
    StorageBusyError,
    StorageError,
    UnsupportedError,
)
from pilum._managed import commit
from pilum._options import BuildOptions
from pilum._report import check_target, keep
from pilum._tables import Table, TableLike
from pilum._values import IndexType, MatrixLike, PathLike, build_options, byte_count, count
from pilum.ray import _arguments as arguments
from pilum.ray._build import Build, Driver
from pilum.ray._pool import Pool
from pilum.ray._progress import Event, View
from pilum.ray._resources import number_of_workers, worker_size
from pilum.ray._stream import copied_column

logger = logging.getLogger("pilum.ray")

#: Order of the kernel tables, lowest first; tables of different processors have only "scalar" in common.
_FAMILIES = (("scalar", "avx2", "avx512"), ("scalar", "neon"))


def create_index(
    uri: Optional[TableLike] = None,
    column: str = "",
    index_type: IndexType = "",
    name: Optional[str] = None,
    *,
    replace: bool = True,
    num_workers: int = 4,
    num_segments: Optional[int] = None,
    storage_options: Optional[dict[str, str]] = None,
    block_size: Optional[int] = None,
    namespace_impl: Optional[str] = None,
    namespace_properties: Optional[dict[str, str]] = None,
    table_id: Optional[list[str]] = None,
    ray_remote_args: Optional[dict[str, Any]] = None,
    metric: str = "l2",
    num_partitions: Optional[int] = None,
    num_sub_vectors: Optional[int] = None,
    sample_rate: int = 256,
    ivf_centroids: Optional[MatrixLike] = None,
    pq_codebook: Optional[MatrixLike] = None,
    rabitq_model: Optional[str] = None,
    num_bits: int = 8,
    max_iters: int = 50,
    seed: int = 42,
    fragments: Optional[Iterable[int]] = None,
    threads: Optional[int] = None,
    memory_budget: Union[int, str, None] = None,
    work_dir: Optional[PathLike] = None,
    verify: str = "sample",
    restart: bool = False,
    progress: Union[str, bool, None, Callable[[Event], Any]] = "auto",
    report: Optional[PathLike] = None,
    **kwargs: Any,
) -> lance.LanceDataset:
    """Builds a vector index with Ray workers and commits it.

    The arguments up to ``rabitq_model`` are those of ``lance_ray.create_index`` 0.5, in its order; the
    others are pilum's own, as :func:`pilum.create_index` has them. Differences: the index is one compact segment
    unless ``num_segments`` asks for more, given models are used, and a table with fewer rows than
    ``sample_rate * num_partitions`` is trained on all of them.

    A build that was interrupted is carried on by the same call. The report is at :func:`pilum.last_report`.

    Args:
        uri: Path or URI of the table, or an open dataset: its version, branch and storage options count.
            ``None``: ``namespace_impl`` and ``table_id`` name the table.
        column: The column of vectors. ``s.vec`` names a nested one; a dot in a name goes into backticks.
        index_type: ``IVF_FLAT``, ``IVF_SQ`` or ``IVF_PQ``, as text in either case or as an enum.
        name: Of the index; ``<column>_idx`` by default.
        replace: ``False``: an index of that name is an error.
        num_workers: Ray actors that do the work. With fewer free processors they share them.
        num_segments: Index segments to commit; one by default.
        storage_options: As for ``lance.dataset``; a dataset's own by default.
        block_size: Bytes that pylance reads at once on the driver.
        namespace_impl: Kind of the namespace that knows the table, such as ``dir`` or ``rest``.
        namespace_properties: What connects to it.
        table_id: Name of the table in it. A namespace that manages versions gets the commit, through pylance.
        ray_remote_args: Options of the actors; ``num_cpus`` is also the number of threads of each, and
            ``memory`` bounds its memory budget.
        metric: ``l2`` (or ``euclidean``), ``cosine`` or ``dot``, in any case.
        num_partitions: By default the root of the number of rows.
        num_sub_vectors: PQ; by default dimension / 16 if that divides, else / 8.
        sample_rate: Training rows for each partition.
        ivf_centroids: ``[K, D]``, used as given instead of being trained: numpy, or an Arrow array of
            fixed-size lists.
        pq_codebook: ``[M, 2^bits, D/M]``, used as given instead of being trained.
        rabitq_model: For IVF_RQ, which is not built yet.
        num_bits: PQ bits of a code: 8 or 4.
        max_iters: Most passes of each k-means.
        seed: Same seed, same table, same options: same bytes, whatever the workers.
        fragments: Ids of the fragments to index; all by default.
        threads: Of each worker; by default what ``num_cpus`` or Ray's resources give it.
        memory_budget: Of each worker: bytes or a text such as ``"4GiB"``; by default from Ray's resources.
        work_dir: A folder on the nodes' own disks, for samples that exceed the memory budget; by default
            ``$PILUM_SPILL_DIR`` or the temporary folder.
        verify: ``none``, ``sample`` or ``full``: what is checked before the commit.
        restart: Throw an unfinished build of the same index away instead of carrying it on.
        progress: ``auto`` (a bar on terminals and in notebooks, else JSON lines), ``bar``, ``plain``, ``json``,
            ``none``, a bool, or a function that is given each event, a dict. What it raises ends the call.
        report: A file to write the report to, as JSON.
        kwargs: Options that tune how Lance goes about it (``shuffle_partition_batches`` and the like) are taken
            and have no effect, which is logged.

    Returns:
        The dataset at its new version.

    Raises:
        ValueError: A wrong argument; one of a wrong type is a ``TypeError``, too, a missing column a
            ``KeyError``.
        NotImplementedError: Something that is not built yet; the message names it.
        OSError: The file for the report cannot be written; told before the build.
        RuntimeError: Workers cannot be started, are lost time after time, or run another version of pilum. The
            same call carries on.
        pilum.Error: Anything else that storage or table decide. The same call carries on. Wrong arguments and what
            is not built are of this class, too, but for unknown arguments.
    """
    n_workers = count(num_workers, "num_workers") or 1
    arguments.check_others(kwargs)
    arguments.check_remote_args(ray_remote_args)
    if rabitq_model is not None:
        raise UnsupportedError("rabitq_model is for IVF_RQ, which pilum does not build yet")
    count(sample_rate, "sample_rate", 2)  # as in lance_ray; one row a partition is no sample
    options = build_options(
        column=column, index_type=index_type, name=name, replace=replace, metric=metric,
        num_partitions=num_partitions, num_sub_vectors=num_sub_vectors, num_bits=num_bits, sample_rate=sample_rate,
        max_iters=max_iters, seed=seed, ivf_centroids=ivf_centroids, pq_codebook=pq_codebook, fragments=fragments,
        num_segments=num_segments, work_dir=work_dir, verify=verify, restart=restart,
    )
    engine = Engine(n_workers, ray_remote_args, count(threads, "threads", most=4096), byte_count(memory_budget) or None,
                    None if work_dir is None else os.fspath(work_dir), verify)
    check_target(report)
    view = View(progress)
    table = arguments.open_table(uri, storage_options, block_size, namespace_impl, namespace_properties, table_id)
    dataset = table.open()
    arguments.check_against(dataset, options)
    options = dataclasses.replace(
        options, work_dir=None,  # it is a folder of each worker's own
        num_sub_vectors=options.num_sub_vectors if options.type == b"IVF_PQ" else None,
        pq_codebook=options.pq_codebook if options.type == b"IVF_PQ" else None,
    )
    if options.num_partitions is None and options.ivf_centroids is None:
        options = dataclasses.replace(options, num_partitions=arguments.default_partitions(dataset.count_rows()))
    try:
        result = _run(table, options, view, engine)
    except UnsupportedError as error:
        options = copied_column(error, table, options, n_workers, view)
        result = _run(table.pinned(dataset.version), options, view, engine)
    kept = keep(result)
    if report is not None:
        kept.to_json(report)
    return table.at(None)


@dataclasses.dataclass(frozen=True)
class Engine:
    """How many workers of which size, as they were asked for."""

    num_workers: int
    ray_remote_args: dict[str, Any] | None
    threads: int | None
    memory_budget: int | None
    spill_dir: str | None
    verify: str


def _lowest_kernels(workers: list[dict[str, Any]]) -> str:
    """The best kernel table that every worker has."""
    common = set.intersection(*(set(w["kernels"]) for w in workers))
    return max((n for family in _FAMILIES for n in family if n in common), key=lambda n: _rank(n), default="scalar")


def _rank(kernels: str) -> int:
    return max(family.index(kernels) for family in _FAMILIES if kernels in family)


def _check_versions(workers: list[dict[str, Any]]) -> None:
    others = {w["version"] for w in workers} - {_core.__version__}
    if others:
        raise RuntimeError(f"workers run pilum {', '.join(sorted(others))}, the driver {_core.__version__}")


def _run(table: Table, options: BuildOptions, view: View, engine: Engine) -> dict[str, Any]:
    began, cpu = time.monotonic(), time.process_time()
    if not ray.is_initialized():
        ray.init()
    n = number_of_workers(engine.num_workers)
    size = worker_size(n, engine.ray_remote_args, engine.memory_budget, engine.threads)
    view.begin("plan", 0, "fragments", "starting workers")
    pool = Pool(n, size, engine.spill_dir, view.tick if view.is_wanted else None)
    try:
        workers = pool.first_hellos()
        _check_versions(workers)
        context = _core.Context(
            threads=size.threads,
            memory_budget=size.memory_budget,
            simd=_lowest_kernels(workers),
            warn=lambda text: logger.warning("%s", text),
        )
        dist, committed = _core.dist_open(context, table.reference(), options.core(), n)
        driver = Driver(dist)
        try:
            if committed:
                return driver.json("finish_committed")
            facts, plan = driver.json("facts"), driver("plan")
            worker_options = ray.put(dataclasses.replace(options, restart=False))
            pool.join(table.pinned(facts["version"]).reference(), worker_options, plan, facts["kernels"])
            end = "publish" if table.is_managed else "finish"
            result = Build(driver, pool, view).run(engine.verify, end)
        except (ConflictError, NotFoundError, StorageError, StorageBusyError) as error:
            _blame_the_first(table, json.loads(plan), error)
            raise
        finally:
            dist.close()
        if table.is_managed:
            result = _commit_by_namespace(table, context, options, n, result)
        result["ray"] = _ray_report(pool, size, time.monotonic() - began, time.process_time() - cpu)
        peaks = [w["peak_rss_bytes"] for w in result["ray"]["workers"]]
        result["resources"]["peak_rss_bytes"] = max([result["resources"]["peak_rss_bytes"], *peaks])
        return result
    finally:
        view.close()
        pool.close()


def _blame_the_first(table: Table, plan: dict[str, Any], error: Exception) -> None:
    """Two drivers may share a job in S3. The files of the one that is slower go when the other one is done."""
    if "://" not in table.root:
        return
    dataset = table.at(None)
    segments = {segment.uuid for index in dataset.describe_indices() for segment in index.segments}
    if segments & set(plan["segments"]):
        raise ConflictError(
            f"another driver was first with the same build: version {dataset.version} of {table.root} has the index"
        ) from error


def _commit_by_namespace(table: Table, context: Any, options: BuildOptions, n_workers: int,
                         published: dict[str, Any]) -> dict[str, Any]:
    """pylance commits; the core finds it in, and ends the job. The report."""
    commit(table.open(), published["transaction"])
    again = dataclasses.replace(options, restart=False)
    dist, committed = _core.dist_open(context, table.reference(), again.core(), n_workers)
    try:
        if not committed:
            raise InternalError("the commit through the namespace is not found in the table")
        result = Driver(dist).json("finish_committed")
    finally:
        dist.close()
    return {**result, "resumed": published["resumed"]}


def _ray_report(pool: Pool, size: Any, seconds: float, coordinator_cpu: float) -> dict[str, Any]:
    import struct

    names = ("bytes_read", "bytes_written", "get", "put", "list", "delete", "retried", "peak_rss_bytes")
    usages = [struct.unpack("<9Q", usage) for usage in pool.usages()]
    workers_cpu = sum(usage[8] for usage in usages) * 1e-6
    return {
        "num_workers": pool.n,
        "threads": size.threads,
        "memory_budget_bytes": size.memory_budget,
        "seconds": round(seconds, 3),
        "coordinator_cpu_seconds": round(coordinator_cpu, 3),
        "workers_cpu_seconds": round(workers_cpu, 3),
        "coordinator_cpu_share": round(coordinator_cpu / max(coordinator_cpu + workers_cpu, 1e-9), 4),
        "messages": pool.messages,
        "message_bytes": pool.message_bytes,
        "retries": pool.retries,
        "workers_lost": pool.lost,
        "twins": pool.twins,
        "workers": [{**dict(zip(names, u)), "cpu_seconds": round(u[8] * 1e-6, 3)} for u in usages],
    }
