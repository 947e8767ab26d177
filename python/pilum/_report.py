"""Reports: what a call found and did, as a dict that shows itself."""

from __future__ import annotations

import errno
import html
import json
import os
import threading
from typing import Any, Optional, Union

from pilum._errors import ArgumentTypeError


class Report(dict[str, Any]):
    """A report of pilum: a dict with the keys of ``--json``, also as attributes, with a short text form
    and a page with pictures in notebooks.

    ``report.rows["indexed"]``, ``report["rows"]["indexed"]`` and ``report.to_html("r.html")`` all work.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the report has no {name!r}; it has {', '.join(self)}") from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self]

    def __repr__(self) -> str:
        return "\n".join(f"{name:<12} {value}" for name, value in summary(self)) or "empty report"

    def _repr_html_(self) -> str:
        try:
            from pilum.report import html_fragment

            return html_fragment(self)
        except ImportError:  # without matplotlib: the numbers alone
            rows = "".join(f"<tr><th>{html.escape(n)}</th><td>{html.escape(v)}</td></tr>" for n, v in summary(self))
            return f"<table>{rows}</table>"

    def to_json(self, path: Union[str, os.PathLike[str], None] = None) -> str:
        """The report as a JSON text, which is also written to ``path`` if one is given."""
        text = json.dumps(self, indent=1)
        if path is not None:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text + "\n")
        return text

    def to_html(self, path: Union[str, os.PathLike[str]]) -> None:
        """Writes one HTML file with pictures and no outside links. Needs matplotlib."""
        from pilum.report import html_page

        page = html_page(self)
        with open(path, "w", encoding="utf-8") as file:
            file.write(page)


_process: Optional[Report] = None
_thread = threading.local()


def keep(result: dict[str, Any]) -> Report:
    """Makes `result` the last report of this thread and of the process."""
    global _process
    _process = _thread.last = result if isinstance(result, Report) else Report(result)
    return _process


def check_target(path: Any) -> None:
    """Can a report be written there? Asked before a build, which may take hours."""
    if path is None:
        return
    try:
        target = os.fspath(path)
    except TypeError:
        raise ArgumentTypeError(f"report is a {type(path).__name__}, expected a path") from None
    folder = os.path.dirname(os.path.abspath(target))
    if os.path.isdir(target):
        raise IsADirectoryError(errno.EISDIR, "report: this is a directory", target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, "report: no such directory", folder)
    if not os.access(target if os.path.exists(target) else folder, os.W_OK):
        raise PermissionError(errno.EACCES, "report: cannot be written", target)


def last_report() -> Optional[Report]:
    """The report of the last ``create_index`` of this thread, else of the process; None if there was none."""
    return getattr(_thread, "last", None) or _process


# ---- the numbers in a few lines ---------------------------------------------------------------------------


def seconds_text(value: Any) -> str:
    if value is None:
        return "-"
    if value >= 120:
        return f"{int(value // 60)} min {value % 60:.0f} s"
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def bytes_text(value: Any) -> str:
    if value is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def _build_summary(r: dict[str, Any]) -> list[tuple[str, str]]:
    index, rows, parts = r["index"], r["rows"], r.get("partitions") or {}
    dropped = ", ".join(f"{n:,} {why}" for why, n in (rows.get("dropped") or {}).items() if n)
    lines = [("index", f"{index['name']}, {index['type']}, {index['metric']}")]
    lines.append(("rows", f"{rows['indexed']:,} indexed of {rows['total']:,}" + (f" ({dropped})" if dropped else "")))
    if parts.get("sizes"):
        lines.append(("partitions", f"{index['num_partitions']:,}: {parts['mean']:,.0f} rows on average, at most "
                      f"{parts['max']:,}, {parts['empty']:,} empty"))
    recall = (r.get("quality") or {}).get("recall_at_10") or []
    if recall:
        factor = recall[0].get("refine_factor") or 1
        said = ", ".join(f"{p['recall']:.3f} at nprobes {p['nprobes']}" for p in recall[-3:])
        lines.append(("recall@10", said if factor == 1 else f"{said}, refine factor {factor}"))
    total = (r.get("seconds") or {}).get("total")
    if total is not None:
        lines.append(("time", seconds_text(total)))
    peak = (r.get("resources") or {}).get("peak_rss_bytes")
    if peak:
        lines.append(("memory", f"{bytes_text(peak)} at most, budget "
                      f"{bytes_text(r['resources'].get('memory_budget_bytes'))}"))
    return lines


def summary(r: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and values that a person wants first, whatever kind of report it is."""
    if isinstance(r.get("index"), dict) and "indexed" in (r.get("rows") or {}):
        return _build_summary(r)
    lines = []
    for name, value in r.items():
        if isinstance(value, (dict, list)):
            text = json.dumps(value)
            value = text if len(text) <= 100 else text[:97] + "..."
        lines.append((name, str(value)))
    return lines
