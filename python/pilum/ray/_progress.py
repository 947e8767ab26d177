"""One live view of all workers: a bar on a terminal, JSON lines elsewhere, a callback for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from pilum._progress import style_of

#: phase, done, total, unit, detail, rate, seconds_left, bytes_read, bytes_written, workers, retries, lost
Event = dict[str, Any]


class View:
    """What the driver shows: auto, bar, plain, json or none; or what it tells a function."""

    def __init__(self, wanted: str | bool | None | Callable[[Event], Any] = "auto") -> None:
        self._callback = wanted if callable(wanted) else None
        self._kind = "none" if callable(wanted) else style_of(wanted, elsewhere="json")
        self._phase = ""
        self._detail = ""
        self._unit = ""
        self._total = self._done = 0
        self._began = self._told = time.monotonic()
        self._pool: Any = None
        self._bar: Any = None
        self._bar_task: Any = None

    @property
    def is_wanted(self) -> bool:
        """Does anybody look? Otherwise workers need not be asked."""
        return self._callback is not None or self._kind != "none"

    # ---- from the build --------------------------------------------------------------------

    def begin(self, phase: str, total: int, unit: str, detail: str = "") -> None:
        is_new = (phase, unit) != (self._phase, self._unit)
        self._phase, self._total, self._unit, self._detail = phase, total, unit, detail
        if is_new:
            self._done = 0
            self._began = time.monotonic()
            self._show(force=True)

    def set(self, done: int) -> None:
        self._done = done
        self._show()

    def add(self, n: int) -> None:
        self.set(self._done + n)

    def end(self) -> None:
        self._done = self._total or self._done
        self._show(force=True)

    def tick(self, pool: Any) -> None:
        self._pool = pool
        self._show()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    # ---- to the user --------------------------------------------------------------------------

    def event(self) -> Event:
        running = self._pool.running_rows() if self._pool is not None and self._unit == "rows" else 0
        done = min(self._done + running, self._total) if self._total else self._done + running
        seconds = time.monotonic() - self._began
        rate = done / seconds if seconds > 0 else 0.0
        left = (self._total - done) / rate if rate and self._total else None
        pool = self._pool
        read, written = pool.traffic() if pool else (0, 0)
        return {
            "phase": self._phase,
            "detail": self._detail,
            "done": done,
            "total": self._total,
            "unit": self._unit,
            "rate": round(rate, 1),
            "seconds": round(seconds, 2),
            "seconds_left": None if left is None else round(left, 1),
            "bytes_read": read,
            "bytes_written": written,
            "workers": pool.n_joined if pool else 0,
            "retries": pool.retries if pool else 0,
            "workers_lost": pool.lost if pool else 0,
        }

    def _show(self, force: bool = False) -> None:
        now = time.monotonic()
        every = 0.1 if self._kind == "bar" or self._callback else 2.0
        if not force and now - self._told < every:
            return
        self._told = now
        event = self.event()
        if self._callback is not None:
            self._callback(event)
        if self._kind == "bar":
            self._show_bar(event)
        elif self._kind == "json":
            print(json.dumps(event), file=sys.stderr, flush=True)
        elif self._kind == "plain":
            print(_line(event), file=sys.stderr, flush=True)

    def _show_bar(self, event: Event) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description:>6}"),
                BarColumn(),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar_task = self._bar.add_task(event["phase"], text="")
            self._bar.start()
        self._bar.update(
            self._bar_task,
            description=event["phase"],
            completed=event["done"],
            total=event["total"] or None,
            text=_counts(event),
        )


def _counts(event: Event) -> str:
    text = f"{event['done']:,} of {event['total']:,} {event['unit']}" if event["total"] else event["detail"]
    text += f"  {event['rate']:,.0f}/s  {event['bytes_read'] / 2**20:,.0f} MiB read  {event['workers']} workers"
    if event["workers_lost"] or event["retries"]:
        text += f"  {event['workers_lost']} lost, {event['retries']} tried again"
    return text


def _line(event: Event) -> str:
    left = "" if event["seconds_left"] is None else f"  {event['seconds_left']:.0f} s left"
    return f"{event['phase']}: {_counts(event)}{left}"
