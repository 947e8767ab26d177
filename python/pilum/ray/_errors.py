"""Errors of workers as plain data, and back."""

from __future__ import annotations

from typing import Any

from pilum._errors import error_from_core


class WorkersLost(RuntimeError):
    """A task took too many workers with it, or no worker could be started."""


def describe(error: BaseException) -> dict[str, Any]:
    """What another process needs to raise the same error."""
    return {
        "code": getattr(error, "number", None) or getattr(error, "code", None),
        "message": getattr(error, "message", None) or str(error),
        "errno": getattr(error, "sys_errno", 0) or 0,
        "http": getattr(error, "http_status", 0) or 0,
        "type": type(error).__name__,
    }


def rebuild(parts: dict[str, Any], where: str) -> BaseException:
    code = parts["code"]
    if isinstance(code, int):
        return error_from_core(code, parts["message"], parts["errno"], parts["http"])
    return RuntimeError(f"{where}: {parts['type']}: {parts['message']}")
