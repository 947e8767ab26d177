"""Workers, and the tasks they are given: who does what next, and what happens when one dies.

A task is a pure function of the plan and its arguments. So a task whose worker was lost is given
to another one, a slow task gets a twin on an idle worker and the first answer counts, and a task
that fails by itself is tried again, three times in all.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import statistics
import struct
import time
from collections.abc import Callable, Iterable
from typing import Any

import ray
import ray.exceptions as rex

from pilum import _core
from pilum.ray._errors import WorkersLost, rebuild
from pilum.ray._resources import Size
from pilum.ray._worker import Worker

logger = logging.getLogger("pilum.ray")

TRIES = 3  #: of a task that fails by itself
LOSSES = 20  #: workers that a task may take with it
STARTS = 20  #: workers that may die before they were of use, one after another
PATIENCE_S = 10.0  #: until a worker without a place is started with fewer demands
TWIN_AFTER = 3.0  #: times the median of its kind
TWIN_AFTER_S = 5.0  #: and at least so long

_LOST = (rex.RayActorError, rex.ObjectLostError, rex.WorkerCrashedError, rex.NodeDiedError, rex.OutOfMemoryError)


@dataclasses.dataclass
class Task:
    name: str
    numbers: tuple[int, ...] = ()
    messages: tuple[Any, ...] = ()  #: bytes, or references to bytes
    needs: tuple[tuple[int, Any], ...] = ()  #: shards of the sample, with the reference that reads each
    rows: int = 0
    keep: bool = False  #: the answer is wanted as a reference
    head: bytes = b""  #: how a kept answer begins
    errors: int = 0
    losses: int = 0
    is_done: bool = False
    running: list[_Run] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class _Run:
    task: Task
    worker: _Handle
    status: Any
    answer: Any
    began: float


@dataclasses.dataclass(eq=False)
class _Handle:
    actor: Any
    began: float
    shrunk: bool
    hello: Any = None  #: reference, until it answered
    about: dict[str, Any] | None = None
    joining: Any = None
    joined: bool = False
    run: _Run | None = None
    asked: Any = None  #: reference to its progress
    now: tuple[int, int, int, int] = (0, 0, 0, 0)
    usage: bytes = b""
    shards: set[int] = dataclasses.field(default_factory=set)

    @property
    def idle(self) -> bool:
        return self.joined and self.run is None


def _short(error: BaseException) -> str:
    """Ray's errors go on for pages."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"


def _is_lost(error: BaseException) -> bool:
    """Did a process or node go, rather than the task fail?"""
    if isinstance(error, rex.RayTaskError):
        cause = getattr(error, "cause", None)
        return isinstance(cause, _LOST)
    return isinstance(error, _LOST)


class Pool:
    """``n`` workers of one build. ``tick`` is called twice a second with the live counts, if it is given."""

    def __init__(self, n: int, size: Size, spill_dir: str | None, tick: Callable[[Pool], None] | None) -> None:
        self.n = n
        self.size = size
        self.retries = 0
        self.lost = 0
        self.twins = 0
        self.messages = 0
        self.message_bytes = 0
        self.usage_of_gone: list[bytes] = []
        self.running_rows: Callable[[], int] = lambda: 0
        self._spill_dir = spill_dir
        self._tick = tick
        self._ticked = 0.0
        self._joining: tuple[_core.Table, Any, int, bytes] | None = None
        self._plan_kernels: str | None = None
        self._bad_starts = 0
        self._class: Any = _actor_class()
        self._handles: list[_Handle] = [self._start(False) for _ in range(n)]

    # ---- workers ------------------------------------------------------------------------

    def _start(self, shrunk: bool) -> _Handle:
        options = dict(self.size.actor_options)
        if shrunk:
            options["num_cpus"] = 0
        actor = self._class.options(**options).remote(self.size.threads, self.size.memory_budget, self._spill_dir)
        return _Handle(actor, time.monotonic(), shrunk, hello=actor.hello.remote())

    def _gone(self, handle: _Handle, why: BaseException) -> None:
        """A worker was lost: its task goes back, another worker takes its place."""
        if handle not in self._handles:
            return
        self._handles.remove(handle)
        self.lost += 1
        if handle.usage:
            self.usage_of_gone.append(handle.usage)
        _kill(handle.actor)
        if not handle.joined:
            self._bad_starts += 1
            if self._bad_starts >= STARTS and not any(h.joined for h in self._handles):
                raise WorkersLost(f"no worker could be started; the last one failed with: {_short(why)}") from why
        logger.warning("a worker was lost (%s); another one takes its place", type(why).__name__)
        self._handles.append(self._start(handle.shrunk))

    def first_hellos(self) -> list[dict[str, Any]]:
        """What the workers that are up can do; waits for all of them, with patience for late ones."""
        end = time.monotonic() + PATIENCE_S
        while True:
            self._look_after_starts()
            up = [h.about for h in self._handles if h.about]
            if up and (len(up) == self.n or time.monotonic() > end):
                return up
            late = [h.hello for h in self._handles if h.hello is not None]
            if not late:
                self._rest(0.1)  # those that were lost are started again
            elif not ray.wait(late, num_returns=1, timeout=0.5, fetch_local=False)[0]:
                self._rest(0)

    def join(self, table: _core.Table, options: Any, plan: bytes, kernels: str) -> None:
        """From now on every worker that is up joins the build."""
        self._joining = (table, options, self.n, plan)
        self._plan_kernels = kernels

    def _look_after_starts(self) -> None:
        for handle in list(self._handles):
            try:
                self._advance_start(handle)
            except (*_LOST, rex.RayTaskError) as error:
                if isinstance(error, rex.RayTaskError) and not _is_lost(error):
                    raise
                self._gone(handle, error)

    def _advance_start(self, handle: _Handle) -> None:
        if handle.hello is not None and _is_ready(handle.hello):
            handle.about = ray.get(handle.hello)
            handle.hello = None
        if handle.hello is not None and self.size.may_shrink and not handle.shrunk:
            if time.monotonic() - handle.began > PATIENCE_S:
                logger.warning("a worker found no %s free CPUs within %.0f s: it runs beside the others",
                               self.size.actor_options["num_cpus"], PATIENCE_S)
                _kill(handle.actor)
                self._handles[self._handles.index(handle)] = self._start(True)
                return
        about = handle.about
        if about is None:
            return
        if self._joining is not None and not handle.joined and handle.joining is None:
            if self._plan_kernels not in about["kernels"]:
                return  # this processor lacks what the build was begun with: it stays idle
            handle.joining = handle.actor.join.remote(*self._joining)
        if handle.joining is not None and _is_ready(handle.joining[0]):
            status = ray.get(handle.joining[0])
            handle.joining = None
            if not status["ok"]:
                raise rebuild(status["error"], f"worker {about['pid']} on node {about['node']}")
            handle.joined = True
            self._bad_starts = 0

    # ---- tasks ------------------------------------------------------------------------------

    def run(self, tasks: Iterable[Task], done: Callable[[Task, Any], object]) -> None:
        """Runs all tasks. ``done`` gets each task once, with its answer (or the reference to it)."""
        waiting = collections.deque(tasks)
        open_tasks = len(waiting)
        times: dict[str, list[float]] = collections.defaultdict(list)
        self.running_rows = lambda: sum(h.now[0] for h in self._handles if h.run and h.run.task.rows)
        while open_tasks:
            self._look_after_starts()
            self._give_out(waiting, times)
            for run in self._finished():
                open_tasks -= self._take(run, waiting, times, done)
            if self._tick is not None and time.monotonic() - self._ticked > 0.5:
                self._ticked = time.monotonic()
                self._ask_progress()
                self._tick(self)
        self.running_rows = lambda: 0

    def _give_out(self, waiting: collections.deque[Task], times: dict[str, list[float]]) -> None:
        idle = [h for h in self._handles if h.idle]
        for handle in list(idle):  # first those that hold what a task needs
            task = next((t for t in waiting if t.needs and all(s in handle.shards for s, _ in t.needs)), None)
            if task is not None:
                waiting.remove(task)
                idle.remove(handle)
                self._begin(task, handle)
        held = {s for h in self._handles if h.joined for s in h.shards}
        for handle in idle:
            task = next((t for t in waiting if not all(s in held for s, _ in t.needs) or not t.needs), None)
            if task is not None:
                waiting.remove(task)
                self._begin(task, handle)
            else:
                self._begin_twin(handle, waiting, times)

    def _begin_twin(self, handle: _Handle, waiting: collections.deque[Task], times: dict[str, list[float]]) -> None:
        """An idle worker repeats the slowest task, or does what waits for a slow worker."""
        runs = [h.run for h in self._handles if h.run and not h.run.task.is_done and len(h.run.task.running) < 2]
        slow = [r for r in runs if time.monotonic() - r.began > _twin_after(times[r.task.name])]
        if not slow:
            return
        run = min(slow, key=lambda r: r.began)
        stuck = next((t for t in waiting if any(s in run.worker.shards for s, _ in t.needs)), None)
        if stuck is not None:
            waiting.remove(stuck)
        else:
            self.twins += 1
        self._begin(stuck or run.task, handle)

    def _begin(self, task: Task, handle: _Handle) -> None:
        needs = [(shard, None if shard in handle.shards else [ref]) for shard, ref in task.needs]
        if task.keep:
            status, answer = handle.actor.keep.remote(task.name, task.numbers, needs, *task.messages)
        else:
            status, answer = handle.actor.call.remote(task.name, task.numbers, needs, *task.messages), None
        handle.run = _Run(task, handle, status, answer, time.monotonic())
        handle.now = (0, 0, *handle.now[2:])
        task.running.append(handle.run)
        self.messages += 1
        self.message_bytes += sum(len(m) for m in task.messages if isinstance(m, bytes))

    def _finished(self) -> list[_Run]:
        runs = {h.run.status: h.run for h in self._handles if h.run}
        pending = [h.hello for h in self._handles if h.hello is not None]
        pending += [h.joining[0] for h in self._handles if h.joining is not None]
        refs = list(runs) + pending
        if not refs:
            self._rest(0.1)
            return []
        ready, _ = ray.wait(refs, num_returns=1, timeout=0.5, fetch_local=False)
        if ready and runs:  # whatever else is ready by now
            ready, _ = ray.wait(list(runs), num_returns=len(runs), timeout=0, fetch_local=False)
        elif ready:
            self._rest(0.01)
        return [runs[r] for r in ready if r in runs]

    def _take(self, run: _Run, waiting: collections.deque[Task], times: dict[str, list[float]],
              done: Callable[[Task, Any], object]) -> int:
        """One run has ended. Returns 1 when its task is done by it."""
        task, handle = run.task, run.worker
        task.running.remove(run)
        handle.run = None
        try:
            status, answer = (ray.get(run.status), run.answer) if task.keep else ray.get(run.status)
        except Exception as error:
            if not _is_lost(error):
                raise
            self._lose(task, handle, waiting, error)
            return 0
        if not status["ok"]:
            handle.shards.clear()
            self._fail(task, waiting, rebuild(status["error"], f"task {task.name}{task.numbers}"))
            return 0
        handle.usage = status.get("usage", handle.usage)
        self._note_shards(task, handle)
        self.message_bytes += status["bytes"]
        if task.is_done:
            return 0
        task.is_done, task.head = True, status["head"]
        times[task.name].append(time.monotonic() - run.began)
        done(task, answer)
        return 1

    def _note_shards(self, task: Task, handle: _Handle) -> None:
        if task.name == "shard":
            handle.shards.add(task.numbers[0])
        elif task.needs:
            for other in self._handles:
                other.shards -= {s for s, _ in task.needs}
            handle.shards.update(s for s, _ in task.needs)
        elif task.name in ("encode", "merge_open", "merge_blocks", "verify"):
            handle.shards.clear()

    def _lose(self, task: Task, handle: _Handle, waiting: collections.deque[Task], error: BaseException) -> None:
        actor_is_dead = isinstance(error, rex.RayActorError) or isinstance(getattr(error, "cause", None), rex.RayActorError)
        if actor_is_dead or isinstance(error, (rex.WorkerCrashedError, rex.NodeDiedError, rex.OutOfMemoryError)):
            self._gone(handle, error)
        if task.is_done:
            return
        task.losses += 1
        self.retries += 1
        if task.losses >= LOSSES:
            raise WorkersLost(f"task {task.name}{task.numbers} lost its worker {LOSSES} times: {_short(error)}") from error
        if any(isinstance(m, ray.ObjectRef) for m in task.messages) and not actor_is_dead:
            raise AnswerLost(task) from error  # what it was to work on is gone, too
        if not task.running:
            waiting.appendleft(task)

    def _fail(self, task: Task, waiting: collections.deque[Task], error: BaseException) -> None:
        if task.is_done:
            return
        task.errors += 1
        if task.errors >= TRIES:
            raise error
        self.retries += 1
        logger.warning("task %s%s failed and is tried again: %s", task.name, task.numbers[:4], error)
        if not task.running:
            waiting.append(task)

    # ---- the rest -----------------------------------------------------------------------------

    def _ask_progress(self) -> None:
        for handle in self._handles:
            if handle.asked is not None and _is_ready(handle.asked):
                try:
                    handle.now = ray.get(handle.asked)
                except rex.RayError:
                    pass  # its task will tell
                handle.asked = None
            if handle.run is not None and handle.asked is None:
                handle.asked = handle.actor.progress.remote()

    def _rest(self, seconds: float) -> None:
        time.sleep(seconds)
        if self._tick is not None and time.monotonic() - self._ticked > 0.5:
            self._ticked = time.monotonic()
            self._tick(self)

    @property
    def n_joined(self) -> int:
        return sum(h.joined for h in self._handles)

    def traffic(self) -> tuple[int, int]:
        """Bytes read and written by the workers so far."""
        read = written = 0
        for handle in self._handles:
            known = struct.unpack("<2Q", handle.usage[:16]) if handle.usage else (0, 0)
            read += max(known[0], handle.now[2])
            written += max(known[1], handle.now[3])
        gone = [struct.unpack("<2Q", usage[:16]) for usage in self.usage_of_gone]
        return read + sum(g[0] for g in gone), written + sum(g[1] for g in gone)

    def usages(self) -> list[bytes]:
        return self.usage_of_gone + [h.usage for h in self._handles if h.usage]

    def close(self) -> None:
        """Ends all workers; those that are idle clean up first."""
        leaving = [h.actor.leave.remote() for h in self._handles if h.about and h.run is None]
        if leaving:
            ray.wait(leaving, num_returns=len(leaving), timeout=5)
        for handle in self._handles:
            _kill(handle.actor)
        self._handles = []


class AnswerLost(Exception):
    """An answer that was kept on a node went with the node; the step is done again."""

    def __init__(self, task: Task) -> None:
        self.task = task
        super().__init__(f"task {task.name} lost what it was to work on")


def _actor_class() -> Any:
    """The worker as Ray starts it: its work and the question how far it is, each on a thread of its own."""
    groups = {"work": 1, "control": 1}
    return ray.remote(concurrency_groups=groups)(Worker)  # type: ignore[call-overload]  # an option Ray's types lack


def _twin_after(times: list[float]) -> float:
    return max(TWIN_AFTER_S, TWIN_AFTER * statistics.median(times)) if times else 60.0


def _is_ready(ref: Any) -> bool:
    return bool(ray.wait([ref], timeout=0, fetch_local=False)[0])


def _kill(actor: Any) -> None:
    try:
        ray.kill(actor)
    except Exception:  # it is dead already
        pass
