"""The process that does the work: one Ray actor, one handle of the C core."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import ray

from pilum import _core
from pilum._options import BuildOptions

#: Status of a call: ``ok``, then either usage or the parts of an error.
Status = dict[str, Any]
#: A shard, and the (unresolved) message that reads it; none where this worker should hold it.
Need = tuple[int, list["ray.ObjectRef[bytes]"] | None]
HEAD_BYTES = 96  #: of an answer, beside its status: the driver may not see the rest

_KERNELS = ("scalar", "neon", "avx2", "avx512")
_SPILL_PREFIX = "pilum-worker-"


def usable_kernels() -> list[str]:
    """Names of the kernel tables that this processor can run, up to what $PILUM_SIMD allows."""
    import json

    best = json.loads(_core.version(_core.Context(threads=1)))["kernels"]
    names = []
    for name in _KERNELS[: _KERNELS.index(best) + 1]:
        try:
            chosen = json.loads(_core.version(_core.Context(threads=1, simd=name)))["kernels"]
        except Exception:  # a name that this build of the library does not know
            continue
        if chosen == name:
            names.append(name)
    return names


def _remove_leftovers(parent: str) -> None:
    """Spill folders of workers on this machine that are gone (killed without a chance to clean up)."""
    for name in os.listdir(parent):
        pid = name[len(_SPILL_PREFIX) :].split("-")[0]
        if not name.startswith(_SPILL_PREFIX) or not pid.isdigit():
            continue
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            shutil.rmtree(os.path.join(parent, name), ignore_errors=True)
        except OSError:
            continue


class Worker:
    """Joins one build and answers its calls, one at a time.

    ``progress`` runs beside them, in a concurrency group of its own.
    """

    def __init__(self, threads: int, memory_budget: int, spill_dir: str | None) -> None:
        self._now = (0, 0, 0, 0)  # done, total, bytes read, bytes written
        self._dist: _core.Dist | None = None
        self._shards: set[int] = set()
        self._context = _core.Context(threads=threads, memory_budget=memory_budget, progress=self._on_progress)
        parent = spill_dir or os.environ.get("PILUM_SPILL_DIR") or tempfile.gettempdir()
        os.makedirs(parent, exist_ok=True)
        _remove_leftovers(parent)
        self._spill_dir = tempfile.mkdtemp(prefix=f"{_SPILL_PREFIX}{os.getpid()}-", dir=parent)

    def _on_progress(self, phase: str, detail: str, done: int, total: int, unit: str, bytes_read: int,
                     bytes_written: int, seconds: float) -> None:
        self._now = (done, total, bytes_read, bytes_written)

    @ray.method(concurrency_group="control")
    def progress(self) -> tuple[int, int, int, int]:
        return self._now

    @ray.method(concurrency_group="work")
    def hello(self) -> dict[str, Any]:
        return {
            "kernels": usable_kernels(),
            "version": _core.__version__,
            "pid": os.getpid(),
            "node": ray.get_runtime_context().get_node_id(),
            "spill_dir": self._spill_dir,
        }

    @ray.method(concurrency_group="work", num_returns=2)
    def join(self, table: _core.Table, options: BuildOptions, n_workers: int, plan: bytes) -> tuple[Status, bytes]:
        def run() -> bytes:
            spill_dir = os.fsencode(self._spill_dir)
            self._dist = _core.dist_join(self._context, table, options.core(), n_workers, plan, spill_dir)
            return b""

        return self._guard(run)

    @ray.method(concurrency_group="work")
    def call(self, name: str, numbers: tuple[int, ...], needs: list[Need], *messages: bytes) -> tuple[Status, bytes]:
        """One call of ``build/dist.h``. ``needs``: shards of the sample that it works on."""
        return self._guard(lambda: self._call(name, numbers, needs, messages))

    @ray.method(concurrency_group="work", num_returns=2)
    def keep(self, name: str, numbers: tuple[int, ...], needs: list[Need], *messages: bytes) -> tuple[Status, bytes]:
        """The same, with an answer that stays where it is until another worker wants it."""
        return self._guard(lambda: self._call(name, numbers, needs, messages))

    def _call(self, name: str, numbers: tuple[int, ...], needs: list[Need], messages: tuple[bytes, ...]) -> bytes:
        if self._dist is None:
            raise RuntimeError("this worker has joined no build")
        for number, message in needs:
            if number not in self._shards:
                if message is None:
                    raise RuntimeError(f"shard {number} is not here any more")
                self._dist.call("shard", (number,), (ray.get(message[0]),))
                self._shards.add(number)
        self._now = (0, 0, *self._now[2:])
        answer = self._dist.call(name, numbers, messages)
        if name == "shard":
            self._shards.add(numbers[0])
        if name in ("encode", "merge_open", "merge_blocks", "verify"):
            self._shards.clear()  # the core has let go of them
        return answer

    def _guard(self, run: Callable[[], bytes]) -> tuple[Status, bytes]:
        """Errors travel as plain data: an exception of the core may not be importable elsewhere."""
        try:
            answer = run()
        except Exception as error:
            from pilum.ray._errors import describe

            self._shards.clear()
            return {"ok": False, "error": describe(error)}, b""
        status: Status = {"ok": True, "bytes": len(answer), "head": answer[:HEAD_BYTES]}
        if self._dist is not None:
            status["usage"] = self._dist.call("usage", (), ())
        return status, answer

    @ray.method(concurrency_group="work")
    def leave(self) -> None:
        """Lets go of files and memory before the process ends."""
        if self._dist is not None:
            self._dist.close()
            self._dist = None
        shutil.rmtree(self._spill_dir, ignore_errors=True)
