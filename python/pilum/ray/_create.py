"""``pilum.ray.create_index``."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from collections.abc import Callable
from typing import Any

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
from pilum._managed import commit, is_managed
from pilum.ray import _arguments as arguments
from pilum.ray._build import Build, Driver
from pilum.ray._matrices import with_matrices
from pilum.ray._pool import Pool
from pilum.ray._progress import Event, View
from pilum.ray._resources import number_of_workers, worker_size
from pilum.ray._stream import copied_column

logger = logging.getLogger("pilum.ray")

#: Order of the kernel tables, lowest first; tables of different processors have only "scalar" in common.
_FAMILIES = (("scalar", "avx2", "avx512"), ("scalar", "neon"))


def create_index(
    uri: str | os.PathLike[str] | lance.LanceDataset | None = None,
    column: str = "",
    index_type: Any = "",
    name: str | None = None,
    *,
    replace: bool = True,
    num_workers: int = 4,
    num_segments: int | None = None,
    storage_options: dict[str, str] | None = None,
    block_size: int | None = None,
    namespace_impl: str | None = None,
    namespace_properties: dict[str, str] | None = None,
    table_id: list[str] | None = None,
    ray_remote_args: dict[str, Any] | None = None,
    metric: str = "l2",
    num_partitions: int | None = None,
    num_sub_vectors: int | None = None,
    sample_rate: int = 256,
    ivf_centroids: Any = None,
    pq_codebook: Any = None,
    rabitq_model: str | None = None,
    num_bits: int = 8,
    max_iters: int | None = 50,
    seed: int = 42,
    fragments: list[int] | None = None,
    threads: int | None = None,
    memory_budget: int | str | None = None,
    work_dir: str | os.PathLike[str] | None = None,
    verify: str = "sample",
    progress: str | Callable[[Event], None] = "auto",
    report: str | os.PathLike[str] | None = None,
    restart: bool = False,
    **kwargs: Any,
) -> lance.LanceDataset:
    """Builds a vector index with Ray workers and commits it.

    The arguments up to ``rabitq_model`` are those of ``lance_ray.create_index`` 0.5, in its order; the
    others are pilum's own. Differences: the index is one compact segment unless ``num_segments`` asks for
    more, and a table with fewer rows than ``sample_rate * num_partitions`` is trained on all of them.

    Args:
        uri: Path or URI of the table, or an open dataset (its version, branch and storage options count).
            ``None``: ``namespace_impl`` and ``table_id`` name the table.
        column: The vector column.
        index_type: ``IVF_FLAT``, ``IVF_SQ`` or ``IVF_PQ``, as text in any case or an enum.
        name: Of the index; ``<column>_idx`` by default.
        replace: ``False``: an index of this name is an error.
        num_workers: Ray actors that do the work. With fewer free processors they share them.
        ray_remote_args: Options of the actors; ``num_cpus`` is also the number of threads of each, and
            ``memory`` bounds its memory budget.
        ivf_centroids, pq_codebook: Used as they are instead of being trained.
        threads, memory_budget: Of each worker, where Ray's resources are not to decide.
        work_dir: A folder on the nodes' own disks, for samples that exceed the memory budget; by default
            ``$PILUM_SPILL_DIR`` or the temporary folder.
        verify: ``none``, ``sample`` or ``full``: what is checked before the commit.
        progress: ``auto``, ``bar``, ``plain``, ``json``, ``none``, or a function that is given each event.
        report: Where to write the report as JSON.
        restart: Throw an unfinished build of the same index away instead of carrying it on.
        kwargs: Options that tune how Lance goes about it (``shuffle_partition_batches`` and the like) are taken
            and have no effect, which is logged.

    Returns:
        The dataset at its new version.

    Raises:
        ValueError, TypeError: Wrong arguments.
        NotImplementedError: Something that is not built yet; the message names it.
        pilum.Error: Anything else that storage, table or workers decide. The same call carries on.
    """
    if not column:
        raise ValueError("column must not be empty")
    arguments.check_counts(num_workers, num_segments, sample_rate, block_size, num_partitions)
    type_name = arguments.index_type_name(index_type)
    metric_name = arguments.metric_name(metric)
    arguments.check_others(kwargs)
    if rabitq_model is not None:
        raise NotImplementedError("rabitq_model is for IVF_RQ, which pilum does not build yet")
    if verify not in ("none", "sample", "full"):
        raise ValueError(f"verify is {verify!r}, expected none, sample or full")
    table = arguments.open_table(uri, storage_options, block_size, namespace_impl, namespace_properties, table_id)
    dimension = arguments.dimension_of(arguments.find_field(table.dataset.schema, column))
    index_name = name if name is not None else f"{column}_idx"
    if not replace and any(index.name == index_name for index in table.dataset.describe_indices()):
        raise ValueError(f"an index named {index_name!r} exists; replace=True would replace it")
    if not table.dataset.get_fragments():
        raise ValueError("nothing to index: the table has no fragments")
    if type_name == "IVF_PQ" and pq_codebook is None:
        arguments.check_sub_vectors(num_sub_vectors, dimension)

    centroids = arguments.centroids_matrix(ivf_centroids, dimension)
    codebook = arguments.codebook_matrix(pq_codebook, dimension, num_sub_vectors, num_bits)
    if num_partitions is None and centroids is None:
        num_partitions = arguments.default_partitions(table.dataset.count_rows())
    options = {
        "column": column.encode(),
        "type": type_name.encode(),
        "name": None if name is None else name.encode(),
        "metric": metric_name.encode(),
        "num_partitions": num_partitions or 0,
        "num_sub_vectors": num_sub_vectors if type_name == "IVF_PQ" and num_sub_vectors else 0,
        "num_bits": num_bits,
        "sample_rate": sample_rate,
        "max_iters": 50 if max_iters is None else max_iters,
        "seed": seed,
        "num_segments": num_segments or 1,
        "replace": replace,
        "verify": verify.encode(),
        "restart": restart,
        "fragments": None if fragments is None else tuple(fragments),
        "ivf_centroids": centroids,
        "pq_codebook": codebook if type_name == "IVF_PQ" else None,
    }
    view = View("none", progress) if callable(progress) else View(progress)
    engine = (num_workers, ray_remote_args, threads, _bytes(memory_budget),
              None if work_dir is None else os.fspath(work_dir), verify)
    try:
        result = _run(table, options, view, *engine)
    except UnsupportedError as error:
        options = copied_column(error, table, options, num_workers, view)
        result = _run(dataclasses.replace(table, version=table.dataset.version), options, view, *engine)
    _keep_report(result, report)
    return table.reopen()


def _bytes(budget: int | str | None) -> int | None:
    """``4GiB``, ``512MB`` or a number of bytes."""
    if budget is None or isinstance(budget, int):
        return budget
    text = budget.strip().lower().removesuffix("ib").removesuffix("b")
    scale = {"k": 10, "m": 20, "g": 30, "t": 40}.get(text[-1:], 0)
    try:
        return int(float(text[:-1] if scale else text) * (1 << scale))
    except ValueError:
        raise ValueError(f"memory_budget is {budget!r}, expected bytes or a text like 4GiB") from None


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


def _run(table: arguments.Table, options: dict[str, Any], view: View, num_workers: int,
         ray_remote_args: dict[str, Any] | None, threads: int | None, memory_budget: int | None,
         work_dir: str | None, verify: str) -> dict[str, Any]:
    began, cpu = time.monotonic(), time.process_time()
    if not ray.is_initialized():
        ray.init()
    n = number_of_workers(num_workers)
    size = worker_size(n, ray_remote_args, memory_budget, threads)
    managed = is_managed(table.dataset)
    view.begin("plan", 0, "fragments", "starting workers")
    pool = Pool(n, size, work_dir, view.tick if view.is_wanted else None)
    try:
        workers = pool.first_hellos()
        _check_versions(workers)
        context = _core.Context(
            threads=size.threads,
            memory_budget=size.memory_budget,
            simd=_lowest_kernels(workers),
            warn=lambda text: logger.warning("%s", text),
        )
        own = with_matrices(options)
        dist, committed = _core.dist_open(context, table.reference(), own.options, n)
        driver = Driver(dist)
        try:
            if committed:
                return driver.json("finish_committed")
            facts, plan = driver.json("facts"), driver("plan")
            worker_options = ray.put({**options, "restart": False})
            pool.join(table.reference(facts["version"]), worker_options, plan, facts["kernels"])
            result = Build(driver, pool, view).run(verify, "publish" if managed else "finish")
        except (ConflictError, NotFoundError, StorageError, StorageBusyError) as error:
            _blame_the_first(table, json.loads(plan), error)
            raise
        finally:
            dist.close()
        if managed:
            result = _commit_by_namespace(table, context, own.options, n, result)
        result["ray"] = _ray_report(pool, size, time.monotonic() - began, time.process_time() - cpu)
        peaks = [w["peak_rss_bytes"] for w in result["ray"]["workers"]]
        result["resources"]["peak_rss_bytes"] = max([result["resources"]["peak_rss_bytes"], *peaks])
        return result
    finally:
        view.close()
        pool.close()


def _blame_the_first(table: arguments.Table, plan: dict[str, Any], error: Exception) -> None:
    """Two drivers may share a job in S3. The files of the one that is slower go when the other one is done."""
    if "://" not in table.root:
        return
    dataset = table.reopen()
    segments = {segment.uuid for index in dataset.describe_indices() for segment in index.segments}
    if segments & set(plan["segments"]):
        raise ConflictError(
            f"another driver was first with the same build: version {dataset.version} of {table.root} has the index"
        ) from error


def _commit_by_namespace(table: arguments.Table, context: Any, options: dict[str, Any], n_workers: int,
                         published: dict[str, Any]) -> dict[str, Any]:
    """pylance commits; the core finds it in, and ends the job. The report."""
    commit(table.dataset, published["transaction"])
    dist, committed = _core.dist_open(context, table.reference(), {**options, "restart": False}, n_workers)
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


def _keep_report(result: dict[str, Any], path: str | os.PathLike[str] | None) -> None:
    from pilum import _report

    _report.keep(result)
    if path is not None:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)
