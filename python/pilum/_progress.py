"""Progress of a call: a bar made with rich, or the user's own function."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any, Optional, Union

from pilum._errors import ArgumentError, ArgumentTypeError


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a call stands; a callback gets one about ten times a second, on the thread that made the call."""

    phase: str  #: "plan", "train", "encode", "merge", "verify" or "commit"
    detail: str  #: such as "iteration 3 of 10", or ""
    done: int
    total: int  #: 0: unknown
    unit: str  #: of done and total: "rows", "bytes", "steps", ...
    bytes_read: int  #: since the call began
    bytes_written: int
    seconds: float  #: since the phase began

    @property
    def fraction(self) -> Optional[float]:
        """Part of the phase that is done, 0 to 1; None where the total is unknown."""
        return min(self.done / self.total, 1.0) if self.total else None

    @property
    def seconds_left(self) -> Optional[float]:
        """Estimate for the phase, from its speed so far."""
        if not self.done or not self.total:
            return None
        return self.seconds * max(self.total - self.done, 0) / self.done


#: "auto", "bar", "plain", "json", "none", True (bar), False or None (none), or a function.
ProgressLike = Union[str, bool, None, Callable[[Progress], Any]]

_STYLES = ("auto", "bar", "plain", "json", "none")


class Display:
    """Shows the progress of one call; a context manager. ``on_progress`` is what the core calls."""

    def __init__(self, wanted: ProgressLike = "auto") -> None:
        self._callback = wanted if callable(wanted) else None
        self._style = "none" if callable(wanted) else style_of(wanted, elsewhere="none")
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}
        self._told = ("", 0.0)

    @property
    def is_wanted(self) -> bool:
        return self._callback is not None or self._style != "none"

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def on_progress(self, *facts: Any) -> None:
        progress = Progress(*facts)
        if self._callback is not None:
            self._callback(progress)
        elif self._style == "bar":
            self._show_bar(progress)
        else:
            self._show_line(progress)

    def _show_bar(self, p: Progress) -> None:
        if self._bar is None:
            self._bar = _make_bar()
            self._bar.start()
        if p.phase not in self._tasks:
            self._tasks[p.phase] = self._bar.add_task(p.phase, total=None, facts="")
        facts = _amount(p) + (f"  {p.detail}" if p.detail else "")
        self._bar.update(self._tasks[p.phase], completed=p.done, total=p.total or None, facts=facts)

    def _show_line(self, p: Progress) -> None:
        phase, told = self._told
        is_done = bool(p.total) and p.done >= p.total
        every = 10.0 if self._style == "plain" else 1.0
        if p.phase == phase and not is_done and p.seconds - told < every:
            return
        self._told = (p.phase, p.seconds)
        if self._style == "json":
            import json

            print(json.dumps(dataclasses.asdict(p)), file=sys.stderr, flush=True)
        else:
            print(f"{p.phase}: {_amount(p)}{', ' + p.detail if p.detail else ''}", file=sys.stderr, flush=True)


def style_of(wanted: Any, elsewhere: str) -> str:
    """One of the styles but ``auto``, which is a bar where somebody looks and ``elsewhere`` elsewhere."""
    if wanted is None or wanted is False:
        return "none"
    if wanted is True:
        return "bar"
    if not isinstance(wanted, str):
        raise ArgumentTypeError(f"progress is a {type(wanted).__name__}, expected a str, a bool or a function")
    if wanted not in _STYLES:
        raise ArgumentError(f"progress is {wanted!r}, expected one of {', '.join(_STYLES)}")
    if wanted != "auto":
        return wanted
    return "bar" if _is_interactive() else elsewhere


def _is_interactive() -> bool:
    """A terminal, or a notebook."""
    from rich.console import Console

    console = Console(stderr=True)
    return console.is_jupyter or (console.is_terminal and not console.is_dumb_terminal)


def _make_bar() -> Any:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description:<7}"),
        progress.BarColumn(bar_width=30),
        progress.TaskProgressColumn(),
        progress.TextColumn("{task.fields[facts]}"),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _amount(p: Progress) -> str:
    total = f" of {_short(p.total)}" if p.total else ""
    rate = f", {_short(p.done / p.seconds)}/s" if p.seconds > 0.2 and p.unit != "steps" else ""
    return f"{_short(p.done)}{total} {p.unit}{rate}"


def _short(number: float) -> str:
    """1234567 -> "1.2M"."""
    for unit in ("", "k", "M", "G", "T"):
        if number < 9999.5 or unit == "T":
            break
        number /= 1000
    return f"{number:.1f}{unit}" if unit and number < 99.95 else f"{number:.0f}{unit}"
