"""How many workers of which size: from the arguments and from what Ray has."""

from __future__ import annotations

import dataclasses
import logging
import sys
from typing import Any

import ray

logger = logging.getLogger("pilum.ray")

#: A Python worker process beside the memory that the budget counts: interpreter, Ray, libraries.
_PROCESS_BYTES = 256 << 20
_LEAST_BUDGET = 64 << 20


@dataclasses.dataclass(frozen=True)
class Size:
    """Of one worker."""

    threads: int
    memory_budget: int
    actor_options: dict[str, Any]
    may_shrink: bool  #: a worker that finds no place is started without its demand for CPUs


def _nodes() -> list[dict[str, Any]]:
    nodes = ray.nodes()  # type: ignore[no-untyped-call]  # Ray has no types for it
    return [node for node in nodes if node.get("Alive")]


def _threads(n_workers: int, asked: float | None) -> int:
    if asked is not None and asked > 0:
        return max(1, int(asked))
    cpus = [int(node["Resources"].get("CPU", 0)) for node in _nodes()]
    return max(1, min(max(cpus, default=1), sum(cpus) // n_workers))


def _budget(n_workers: int, asked: int | None, ray_memory: float | None) -> int:
    if asked:
        return asked
    if ray_memory:
        return max(_LEAST_BUDGET, int(ray_memory) - _PROCESS_BYTES)
    nodes = _nodes()
    least = min((int(node["Resources"].get("memory", 0)) for node in nodes), default=0)
    beside = -(-n_workers // max(1, len(nodes)))  # workers that may share a node
    return max(_LEAST_BUDGET, least // 2 // beside - _PROCESS_BYTES)


def worker_size(n_workers: int, ray_remote_args: dict[str, Any] | None, memory_budget: int | None,
                threads: int | None) -> Size:
    options = dict(ray_remote_args or {})
    asked_cpus = options.get("num_cpus")
    n_threads = threads or _threads(n_workers, asked_cpus)
    free = ray.available_resources().get("CPU", 0)  # type: ignore[no-untyped-call]  # Ray has no types for it
    if asked_cpus is None:
        options["num_cpus"] = n_threads if free >= n_workers * n_threads else 0
    options.setdefault("scheduling_strategy", "SPREAD")
    options.update(
        max_restarts=0,  # a lost worker is replaced by the pool, which knows what it did
        max_task_retries=0,
    )
    return Size(
        n_threads,
        _budget(n_workers, memory_budget, options.get("memory")),
        options,
        may_shrink=bool(options["num_cpus"]),
    )


def _size_of_pool(pool: Any) -> int | None:
    """Processes of a ray.util.multiprocessing.Pool, which has no public name for them."""
    for name in ("processes", "_processes", "_num_processes"):
        if isinstance(n := getattr(pool, name, None), int):
            return n
    actors = getattr(pool, "_actor_pool", None)
    return len(actors) if actors else None


def number_of_workers(asked: int) -> int:
    """A pool that lance_ray keeps for the whole process decides, as it does there."""
    module = sys.modules.get("lance_ray.pool")  # whoever made a pool has imported it, which takes seconds
    if module is None:
        return asked
    pool = module.get_global_pool()
    n = None if pool is None else _size_of_pool(pool)
    if n is None or n == asked:
        return asked
    logger.warning("lance_ray's global pool has %d processes: %d workers are started, not %d", n, n, asked)
    return n
