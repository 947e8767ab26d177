"""Reports as pages: ``python -m pilum.report x.json x.html`` writes one HTML file with pictures inside.

The page needs nothing from outside: no scripts, no style sheets, no links. Pictures are made with matplotlib.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, Optional

from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pilum._report import bytes_text, seconds_text, summary

_BLUE, _ORANGE, _GRAY, _INK = "#2f6db5", "#e07b39", "#b8bec7", "#24292f"
_PHASES = ("plan", "train", "encode", "merge", "verify", "commit")
_FEW = 40  # partitions that get a bar each

_STYLE = """
.pilum{font:15px/1.45 system-ui,-apple-system,"Segoe UI",sans-serif;color:#24292f;max-width:1080px}
.pilum h1{font-size:24px;margin:0 0 4px}.pilum p{margin:0 0 16px;color:#57606a}
.pilum .pictures{display:grid;grid-template-columns:repeat(auto-fit,minmax(430px,1fr));gap:16px}
.pilum figure{margin:0;border:1px solid #d8dee4;border-radius:8px;padding:10px;background:#fff}
.pilum img{width:100%;display:block}
.pilum table{border-collapse:collapse;margin:20px 0;background:#fff}
.pilum th,.pilum td{text-align:left;padding:4px 18px 4px 0;border-bottom:1px solid #e5e9ee;vertical-align:top}
.pilum th{font-weight:600;white-space:nowrap}.pilum td.n{text-align:right;font-variant-numeric:tabular-nums}
.pilum caption{text-align:left;font-weight:600;font-size:17px;padding:6px 0}
"""


# ---- pictures ---------------------------------------------------------------------------------------------


def _axes(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.2, 3.9), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=_INK)
    axes.set_xlabel(x, color=_INK)
    axes.set_ylabel(y, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=9)
    axes.grid(axis="y", color="#e8ebef", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _count_ticks(axis: Any) -> None:
    """1,500 or 1.5M instead of 1.5e6, and no fractions."""
    axis.set_major_locator(ticker.MaxNLocator(nbins=6, integer=True))
    axis.set_major_formatter(ticker.FuncFormatter(lambda n, _: _short(n)))


def _short(n: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(n) >= limit:
            return f"{n / (1e3 if unit == 'k' else limit):.3g}{unit}"
    return f"{n:,.0f}"


def partition_sizes(report: dict[str, Any]) -> Optional[Figure]:
    """Sorted bars for few partitions, a histogram for many."""
    parts = report.get("partitions") or {}
    sizes = parts.get("sizes") or []
    if not sizes:
        return None
    mean = sum(sizes) / len(sizes)
    if len(sizes) <= _FEW:
        figure, axes = _axes("Partition sizes", "partitions, largest first", "rows")
        axes.bar(range(1, len(sizes) + 1), sorted(sizes, reverse=True), color=_BLUE, width=0.8)
        axes.axhline(mean, color=_ORANGE, linewidth=1.6, label=f"mean {mean:,.0f} rows")
        axes.set_xlim(0.3, len(sizes) + 0.7)
        _count_ticks(axes.yaxis)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(nbins=10, integer=True))
    else:
        figure, axes = _axes("Partition sizes", "rows in a partition", "partitions")
        axes.hist(sizes, bins=min(60, max(12, len(sizes) // 12)), color=_BLUE)
        axes.axvline(mean, color=_ORANGE, linewidth=1.6, label=f"mean {mean:,.0f} rows")
        _count_ticks(axes.xaxis)
        _count_ticks(axes.yaxis)
    empty = sum(1 for n in sizes if n == 0)
    spread = parts.get("cv")
    title = f"{len(sizes):,} partitions, {empty:,} empty" + ("" if spread is None else f", spread {spread:.2f}")
    axes.legend(title=title, frameon=False, fontsize=9, title_fontsize=9, alignment="left")
    axes.margins(y=0.28)
    return figure


def training_loss(report: dict[str, Any]) -> Optional[Figure]:
    loss = (report.get("training") or {}).get("ivf_loss") or []
    if not loss:
        return None
    figure, axes = _axes("Loss of the partitions", "iteration", "mean squared distance to the centroid")
    axes.plot(range(1, len(loss) + 1), loss, "o-", color=_BLUE, linewidth=1.8, markersize=5)
    for i in {1, len(loss)}:
        axes.annotate(f"{loss[i - 1]:.4g}", (i, loss[i - 1]), xytext=(0, 7), textcoords="offset points",
                      ha="center", fontsize=9, color=_INK)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(nbins=10, integer=True))
    axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%.4g"))
    axes.margins(x=0.12, y=0.25)
    return figure


def pq_error(report: dict[str, Any]) -> Optional[Figure]:
    errors = (report.get("training") or {}).get("pq_error") or []
    if not errors:
        return None
    figure, axes = _axes("Error of the PQ codes", "sub-vector", "mean squared error")
    axes.bar(range(len(errors)), errors, color=_BLUE, width=0.8)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(nbins=10, integer=True))
    axes.set_xlim(-0.7, len(errors) - 0.3)
    return figure


def _recall_name(points: list[dict[str, Any]]) -> str:
    """Codes of PQ are told with the refine factor that they are meant to be searched with."""
    factor = points[0].get("refine_factor") or 1
    return "recall@10" if factor == 1 else f"recall@10, refine factor {factor}"


def recall(report: dict[str, Any]) -> Optional[Figure]:
    quality = report.get("quality") or report
    points = quality.get("recall_at_10") or []
    if not points:
        return None
    figure, axes = _axes("Recall against work", "rows scanned for one query", _recall_name(points))
    xs = [p["rows_scanned"] for p in points]
    ys = [p["recall"] for p in points]
    axes.plot(xs, ys, "o-", color=_BLUE, linewidth=1.8, markersize=5)
    if min(xs) > 0 and max(xs) / min(xs) > 5:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda n, _: _short(n)))
    else:
        _count_ticks(axes.xaxis)
    for i, p in enumerate(points):
        if 0 < i < len(points) - 1 and xs[i] * 1.7 > xs[-1]:
            continue  # no room beside the last one
        text = f"nprobes {p['nprobes']}" if i == 0 else str(p["nprobes"])
        axes.annotate(text, (xs[i], ys[i]), xytext=(0, -14), textcoords="offset points", ha="center", fontsize=8,
                      color="#57606a")
    axes.set_ylim(0, 1.05)
    axes.yaxis.set_major_locator(ticker.MultipleLocator(0.2))
    axes.margins(x=0.09)
    return figure


def time_by_phase(report: dict[str, Any]) -> Optional[Figure]:
    seconds, plan = report.get("seconds") or {}, report.get("plan") or {}
    phases = [p for p in _PHASES if seconds.get(p) is not None] if isinstance(seconds, dict) else []
    if not phases:
        return None
    figure, axes = _axes("Where the time went", "seconds", "")
    at = range(len(phases))
    taken = [seconds[p] for p in phases]
    axes.barh([y - 0.17 for y in at], taken, height=0.46, color=_BLUE, label="taken")
    estimates = [plan.get(p) or 0 for p in phases]
    if any(estimates):
        axes.barh([y + 0.24 for y in at], estimates, height=0.24, color=_GRAY, label="planned")
        axes.legend(frameon=False, fontsize=9, loc="lower right")
    for y, value in zip(at, taken):
        axes.annotate(seconds_text(value), (value, y - 0.17), xytext=(4, 0), textcoords="offset points", va="center",
                      fontsize=9, color=_INK)
    axes.set_yticks(list(at), phases)
    axes.invert_yaxis()
    axes.grid(False)
    axes.grid(axis="x", color="#e8ebef", linewidth=0.8)
    axes.margins(x=0.16)
    return figure


#: What a page shows, in order; a report without the numbers for one leaves it out.
PICTURES: tuple[Callable[[dict[str, Any]], Optional[Figure]], ...] = (
    recall,
    partition_sizes,
    time_by_phase,
    training_loss,
    pq_error,
)


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


# ---- the page ---------------------------------------------------------------------------------------------


def _table(caption: str, rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> str:
    head = "<tr>" + "".join(f"<th>{html.escape(c)}</th>" for c in header) + "</tr>" if header else ""
    body = ""
    for row in rows:
        cells = "".join(f'<td{" class=n" if header else ""}>{html.escape(c)}</td>' for c in row[1:])
        body += f"<tr><th>{html.escape(row[0])}</th>{cells}</tr>"
    return f"<table><caption>{html.escape(caption)}</caption>{head}{body}</table>"


def _facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    names = (
        ("table", "table"),
        ("version_read", "version read"),
        ("version_committed", "version committed"),
        ("resumed", "carried on after an interruption"),
    )
    facts = summary(report) if isinstance(report.get("index"), dict) else []
    for key, label in names:
        if report.get(key) is not None:
            value = report[key]
            facts.append((label, ("yes" if value else "no") if isinstance(value, bool) else str(value)))
    training, quality = report.get("training") or {}, report.get("quality") or {}
    if training.get("sample_rows") is not None:
        facts.append(("training rows", f"{training['sample_rows']:,}"))
    checked = quality.get("checked_rows", report.get("checked_rows"))
    if checked is not None:
        misfiled = quality.get("misfiled", report.get("misfiled"))
        facts.append(("checked rows", f"{checked:,}, of them misfiled: {misfiled or 0:,}"))
    if "problems" in report:
        facts.append(("problems", f"{report.get('n_problems', len(report['problems'])):,}"))
    kernels = (report.get("resources") or {}).get("kernels")
    if kernels:
        facts.append(("processor", f"{report['resources'].get('threads')} threads, {kernels} kernels"))
    return facts


def _resource_rows(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Taken against planned."""
    used, plan, seconds = report.get("resources") or {}, report.get("plan") or {}, report.get("seconds") or {}
    rows = []
    if isinstance(seconds, dict):
        rows = [(f"{p} time", seconds_text(seconds.get(p)), seconds_text(plan.get(p))) for p in (*_PHASES, "total")
                if seconds.get(p) is not None]
    for key, label in (("peak_rss_bytes", "peak memory"), ("bytes_read", "read"), ("bytes_written", "written")):
        if used.get(key) is not None:
            rows.append((label, bytes_text(used[key]), bytes_text(plan.get(key))))
    requests, planned = used.get("requests") or {}, plan.get("requests") or {}
    for key in requests:
        rows.append((f"{key} requests" if key != "retried" else "requests retried", f"{requests[key]:,}",
                     "-" if planned.get(key) is None else f"{planned[key]:,}"))
    return rows


def _recall_rows(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    points = (report.get("quality") or report).get("recall_at_10") or []
    return [(str(p["nprobes"]), f"{p['rows_scanned']:,.0f}", f"{p['recall']:.4f}") for p in points]


def _title(report: dict[str, Any]) -> str:
    index = report.get("index")
    if isinstance(index, dict):
        return f"{index.get('name')}: {index.get('type')}, {index.get('metric')}"
    return str(index or "report")


def html_fragment(report: dict[str, Any]) -> str:
    """The report as a piece of HTML that brings its own style; what notebooks show."""
    pictures = ""
    for picture in PICTURES:
        figure = picture(report)
        if figure is not None:
            data = base64.b64encode(_png(figure)).decode()
            title = figure.axes[0].get_title(loc="left")
            pictures += f'<figure><img alt="{html.escape(title)}" src="data:image/png;base64,{data}"></figure>'
    parts = [f"<style>{_STYLE}</style><div class=pilum><h1>{html.escape(_title(report))}</h1>",
             f"<p>Built by pilum {html.escape(str(report.get('pilum', '')))}</p>" if report.get("pilum") else "",
             f"<div class=pictures>{pictures}</div>" if pictures else "",
             _table("Facts", _facts(report))]
    if resources := _resource_rows(report):
        parts.append(_table("Time and resources", resources, ("", "taken", "planned")))
    if points := _recall_rows(report):
        name = _recall_name((report.get("quality") or report)["recall_at_10"])
        parts.append(_table("Recall", points, ("nprobes", "rows scanned", name)))
    return "".join(parts) + "</div>"


def html_page(report: dict[str, Any]) -> str:
    """The report as a whole HTML document."""
    title = html.escape(_title(report))
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>body{{margin:28px auto;max-width:1080px;padding:0 16px;background:#f6f8fa}}"
        f"</style></head><body>{html_fragment(report)}</body></html>\n"
    )


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """The command ``python -m pilum.report``."""
    parser = argparse.ArgumentParser(prog="python -m pilum.report", description="Turns a report of pilum into a page.")
    parser.add_argument("json", help="a report, as written by --report or --json")
    parser.add_argument("html", help="the HTML file to write")
    args = parser.parse_args(arguments)
    try:
        with open(args.json, encoding="utf-8") as file:
            report = json.load(file)
        if not isinstance(report, dict) or "index" not in report:
            raise ValueError("this is no report of pilum: it has no \"index\"")
        page = html_page(report)
        with open(args.html, "w", encoding="utf-8") as file:
            file.write(page)
    except (OSError, ValueError) as error:
        print(f"pilum.report: {args.json}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
