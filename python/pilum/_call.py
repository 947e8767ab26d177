"""One call of the core: its context, its progress, its warnings."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any, Optional, Union

from pilum import _core
from pilum._errors import PilumWarning
from pilum._progress import Display, ProgressLike
from pilum._values import byte_count, count

#: Files between the user's code and a warning; the second one is on the way into a ``with`` block.
_INNER = (os.path.dirname(os.path.abspath(__file__)), os.path.abspath(contextlib.__file__))


def run(
    call: Callable[..., Any],
    *arguments: Any,
    threads: Optional[int] = None,
    memory_budget: Union[int, str, None] = None,
    progress: ProgressLike = None,
) -> Any:
    """``call(context, *arguments)`` with a context of its own."""
    with Display(progress) as display:
        context = _core.Context(
            threads=count(threads, "threads", most=1024) or 0,
            memory_budget=byte_count(memory_budget),
            progress=display.on_progress if display.is_wanted else None,
            warn=warn,
        )
        return call(context, *arguments)


def warn(message: str, kind: type[PilumWarning] = PilumWarning) -> None:
    """A warning of the library, shown at the line of the user's code that made the call."""
    level = 1
    frame: Optional[FrameType] = sys._getframe(1)
    while frame is not None and os.path.abspath(frame.f_code.co_filename).startswith(_INNER):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, kind, stacklevel=level + 1)
