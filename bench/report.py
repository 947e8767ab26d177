#!/usr/bin/env python3
"""docs/performance.md and its pictures from build/bench/results.jsonl: python bench/report.py [--results FILE] [--out DIR]

The newest run of each (case, tool, type, run) counts. Words come from performance_template.md, numbers from the
results; where there are none yet the page says so.
"""
import argparse
import json
import statistics
from pathlib import Path
from string import Template

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams.update({"svg.hashsalt": "pilum", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
                            "svg.fonttype": "none"})

import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

import bench_quality
from bench_bars import bars_of, met_text

ROOT = Path(__file__).resolve().parent.parent
GROWTH = ("rows-", "dim-", "k-")
PHASES = ("plan", "train", "encode", "merge", "verify", "commit")
COLOURS = {"plan": "#9aa5b1", "train": "#2f6db5", "encode": "#e07b39", "merge": "#4f9d69", "verify": "#8d6cab", "commit": "#444444"}
TYPES = {"IVF_FLAT": "#4f9d69", "IVF_SQ": "#e07b39", "IVF_PQ": "#2f6db5"}
TITLES = {"bars": "128,116 x 2,048, K 500, M 128", "real": "real texts, 100,000 x 384, K 316", "gaussian": "Gaussian, 50,000 x 768, K 1,000",
          "budget": "128,116 x 2,048 within 256 MiB", "seed": "1,281,167 x 2,048, 253 fragments, within 4 GiB",
          "seed-wide": "the same with a wide second column", "wide": "20,000 x 256 with a wide second column"}


# ---- reading -----------------------------------------------------------------------------------------


def read_lines(path):
    newest = {}
    if path.exists():
        for text in path.read_text().splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            newest[line.get("case"), line.get("tool"), line.get("type"), line.get("run")] = line
    return list(newest.values())


def runs_of(lines, case, tool, kind):
    return [line for line in lines if (line["case"], line["tool"], line.get("type")) == (case, tool, kind) and "seconds" in line]


def middle_run(runs):
    return sorted(runs, key=lambda run: run["seconds"])[(len(runs) - 1) // 2]


def table(header, rows):
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in [header, ["---"] * len(header), *rows])


# ---- words ----------------------------------------------------------------------------------------------


def machine_text(lines):
    settings = {json.dumps(line["setting"], sort_keys=True) for line in lines}
    texts = []
    for setting in map(json.loads, sorted(settings)):
        setting.pop("commit")
        text = (f"{setting['cpu']}, {setting['cores']} cores, {setting['memory_gib']:.0f} GiB, kernels `{setting['kernels']}`; "
                f"pylance {setting['pylance']}, FAISS {setting['faiss']}")
        if text not in texts:
            texts.append(text)
    commits = sorted({line["setting"]["commit"] for line in lines})
    days = sorted({line["at"][:10] for line in lines})
    loads = [line["load"] for line in lines if "load" in line]
    return ("Measured on: " + "; ".join(texts) + f". Commit {', '.join(commits)}, {' to '.join(dict.fromkeys((days[0], days[-1])))}. "
            f"The load of the machine after each run was {statistics.median(loads):.1f} in the middle.")


def number(value, digits=2):
    return "" if value is None else f"{value:,.{digits}f}"


def bars_text(lines):
    rows = []
    for row in bars_of(lines):
        limits = ["" if row[key] is None else f"{row[key]:.3g}x" for key in ("least", "aim")]
        ratio = "" if row["ratio"] is None else f"**{row['ratio']:.1f}x**"
        rows.append([row["work"], row["against"], number(row["peer"]), number(row["mine"]), ratio, *limits, met_text(row), row["quality"] or ""])
    return table(["work", "against", "peer s", "pilum s", "ratio", "bar", "aim", "", "quality"], rows)


def build_rows(lines, case):
    rows = []
    for kind in TYPES:
        for tool in ("pilum", "pylance", "faiss"):
            runs = runs_of(lines, case, tool, kind)
            if not runs:
                continue
            seconds = [run["seconds"] for run in runs]
            measured = next((run for run in runs if "recall" in run), None)
            recalls = [bench_quality.recall_at(measured["recall"], share * measured["rows"]) if measured else None
                       for share in bench_quality.SHARES]
            read = number(runs[-1]["bytes_read"] / 1e6, 0) if "bytes_read" in runs[-1] else ""
            rows.append([kind, tool, number(statistics.median(seconds)), f"{min(seconds):.2f} - {max(seconds):.2f} ({len(runs)})",
                         number(max(run["peak_rss_bytes"] for run in runs) / 2**20, 0), read,
                         *["" if value is None else f"{value:.3f}" for value in recalls]])
    return rows


def builds_text(lines):
    header = ["type", "tool", "seconds", "spread (runs)", "peak MiB", "read MB"] + [f"recall at {share:.0%}" for share in bench_quality.SHARES]
    parts = []
    for case, title in TITLES.items():
        rows = build_rows(lines, case)
        if rows:
            parts.append(f"**{title}**\n\n{table(header, rows)}")
    return "\n\n".join(parts)


def failures_text(lines):
    told = []
    for line in lines:
        where = f"{line['tool']} {line.get('type') or ''} on {TITLES.get(line['case'], line['case'])}"
        if "failed" in line:
            told.append(f"* {where}: {line['failed']}")
        elif line.get("hangs"):
            told.append(f"* {where}: {len(line['hangs'])} earlier attempts were ended ({line['hangs'][-1]})")
    return "What did not come to its end:\n\n" + "\n".join(sorted(set(told))) if told else ""


def records_of(lines):
    return [record for line in lines for record in line.get("records", [])]


def kernels_text(lines):
    """One row for each kernel, a column for each table: billions of multiply-adds (or values) a second, share of peak."""
    records = [record for record in records_of(lines) if record.get("bench") == "kernel"]
    if not records:
        return "The kernels by themselves: `bench/kernel_bench.py`."
    tables = list(dict.fromkeys(record["table"] for record in records))
    cells = {}
    for record in records:
        share = f" ({record['of_peak']:.0%})" if record.get("of_peak") else ""
        share = f" ({record['gbytes_s']:.0f} GB/s)" if record.get("gbytes_s") else share
        cells.setdefault((record["kernel"], record["dim"]), {})[record["table"]] = f"{record['gops']:.1f}{share}"
    peaks = ", ".join(f"{table} {max(r['peak_gflops'] for r in records if r['table'] == table):.0f}" for table in tables
                      if any(r["table"] == table and r["peak_gflops"] for r in records))
    rows = [[f"`{kernel}`", dim, *(found.get(name, "") for name in tables)] for (kernel, dim), found in cells.items()]
    return (f"Billions of operations a second of one thread, and their share of the measured fp32 peak ({peaks} GFLOP/s) or what "
            f"they move. Every kernel was compared with scalar in the same run.\n\n" + table(["kernel", "dimensions", *tables], rows))


def parts_text(lines):
    """What is built of the kernels, beside the peers' programs for the same."""
    groups = {}
    for record in records_of(lines):
        if "seconds" in record and "by" in record:
            groups.setdefault((record["bench"], record["by"]), []).append(record)
        elif "seconds" in record and "part" in record:
            number_of = f"K {record['k']}" if "k" in record else f"M {record['m']}"
            groups.setdefault((f"{record['part']} {record['rows']} x {record['dim']}, {number_of}", record["tool"]), []).append(record)
    rows = []
    for (bench, by), runs in groups.items():
        seconds = [run["seconds"] for run in runs]
        quality = next((f"{key} {runs[0][key]:.6g}" for key in ("loss", "error") if key in runs[0]), "")
        if any(run.get("differ") is not None for run in runs):
            quality = f"{max(run.get('differ') or 0 for run in runs)} other answers, {sum(run.get('wrong') or 0 for run in runs)} wrong"
        rows.append([bench, by, number(statistics.median(seconds), 3), f"{min(seconds):.3f} - {max(seconds):.3f} ({len(runs)})", quality])
    return table(["work", "by", "seconds", "spread (runs)", "quality"], rows) if rows else ""


def growth_runs(lines, prefix):
    """The median run of each build of the cases that begin with this."""
    builds = dict.fromkeys((line["case"], line.get("type")) for line in lines if line["case"].startswith(prefix))
    found = [runs_of(lines, case, "pilum", kind) for case, kind in builds]
    return [middle_run(runs) for runs in found if runs]


def growth_text(lines):
    rows = []
    for run in growth_runs(lines, GROWTH):
        rows.append([f"{run['rows']:,}", run["dim"], run["num_partitions"], run["type"], number(run["seconds"]),
                     *(number(run["phases"][phase]) for phase in ("train", "encode", "merge", "verify"))])
    return table(["rows", "dimensions", "partitions", "type", "seconds", "train", "encode", "merge", "verify"], rows) if rows else ""


def busy_text(run, phase):
    """How much of the threads' time in a phase was processor time, or nothing where that was not measured."""
    cpu = (run.get("cpu_phases") or {}).get(phase)
    return "" if cpu is None else f"{min(1.0, cpu / run['phases'][phase] / run['threads']):.0%}"


def rate_text(run, phase, peak):
    """What goes through a phase in a second: of the column, or of the index; the arithmetic of encoding over the peak."""
    if phase == "merge":
        return f"{index_bytes(run) / run['phases'][phase] / 1e9:.2f} GB/s of the index"
    if phase != "encode":
        return ""
    said = f"{run['vector_bytes'] / run['phases'][phase] / 1e9:.2f} GB/s of the column"
    compared = run["num_partitions"] + (256 if run["type"] == "IVF_PQ" else 0)
    share = 2 * run["rows"] * run["dim"] * compared / run["phases"][phase] / (run["threads"] * peak * 1e9) if peak else None
    return said + (f", plain arithmetic {share:.0%} of peak" if share else "")


def index_bytes(run):
    row = {"IVF_FLAT": run["vector_bytes"] / run["rows"], "IVF_SQ": run["dim"], "IVF_PQ": run["num_sub_vectors"]}[run["type"]]
    return run["rows"] * (row + 8)


def limits_text(lines):
    """Where the time of the big builds goes: phases that take a twentieth of their build at least."""
    rows, peak = [], max((record.get("peak_gflops") or 0 for record in records_of(lines)), default=0)
    for case in ("bars", "seed"):
        for kind in TYPES:
            runs = runs_of(lines, case, "pilum", kind)
            if not runs:
                continue
            run = middle_run(runs)
            for phase in PHASES:
                seconds = run["phases"][phase]
                if seconds >= 0.05 * run["phases"]["total"]:
                    rows.append([f"{run['rows']:,} {kind}", phase, number(seconds), f"{seconds / run['phases']['total']:.0%}", busy_text(run, phase),
                                 rate_text(run, phase, peak)])
    return table(["build", "phase", "seconds", "of the build", "threads busy", "moved"], rows) if rows else ""


def plan_pairs(lines):
    """[(type, planned, actual)] of what is planned in seconds, the median run of each build."""
    pairs = []
    for case in dict.fromkeys(line["case"] for line in lines):
        for kind in TYPES:
            runs = runs_of(lines, case, "pilum", kind)
            if runs and "plan" in runs[0]:
                run = middle_run(runs)
                pairs.append((kind, run["plan"]["total"], run["phases"]["total"], run))
    return pairs


def plans_text(lines):
    pairs = plan_pairs(lines)
    if not pairs:
        return ""
    good = sum(abs(planned / actual - 1) <= 0.3 for _, planned, actual, _ in pairs)
    said = [f"Of {len(pairs)} builds here, {good} took within 30 % of the planned seconds"]
    for name, key in (("bytes read", "bytes_read"), ("bytes written", "bytes_written"), ("peak memory", "peak_rss_bytes")):
        near = sum(abs(run["plan"][key] / run[key] - 1) <= 0.3 for *_, run in pairs)
        said.append(f"{near} of the planned {name}")
    phases = []
    for phase in ("train", "encode", "merge", "verify"):
        ratios = [run["plan"].get(phase, 0) / run["phases"][phase] for *_, run in pairs if run["phases"][phase] >= 0.05 * run["phases"]["total"]]
        phases.append(f"{phase} {sum(abs(ratio - 1) <= 0.3 for ratio in ratios)} of {len(ratios)}")
    return ", ".join(said) + ". By phase, where it takes a twentieth of its build at least: " + ", ".join(phases) + "."


# ---- pictures ------------------------------------------------------------------------------------------------


def save(figure, path):
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    plt.close(figure)


def plain_axis(axis, ticks):
    """Numbers as they are read, at these places."""
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def ticks_between(low, high, steps=(1, 2, 5)):
    return [value for power in range(-4, 8) for value in (step * 10.0**power for step in steps) if low <= value <= high]


def draw_bars(lines, path):
    rows = [row for row in bars_of(lines) if row["ratio"] is not None]
    if not rows:
        return False
    figure, axes = plt.subplots(figsize=(8, 0.38 * len(rows) + 1.0))
    at = range(len(rows) - 1, -1, -1)
    most = max(max(row["ratio"], row["aim"]) for row in rows)
    axes.barh(at, [row["ratio"] - 0.7 for row in rows], left=0.7, height=0.6, color=["#2f6db5" if row["met"] else "#c0504d" for row in rows])
    for y, row in zip(at, rows):
        axes.plot([row["least"]] * 2, [y - 0.4, y + 0.4], color="black", linewidth=1.8, label="bar" if y == 0 else None)
        axes.plot([row["aim"]] * 2, [y - 0.4, y + 0.4], color="black", linewidth=1.4, linestyle=":", label="aim" if y == 0 else None)
        axes.text(most * 1.15, y, f"{row['ratio']:.1f}x", va="center", ha="left", fontweight="bold")
    axes.set_yticks(list(at), [row["work"] for row in rows])
    axes.set(xscale="log", xlim=(0.7, most * 1.1))
    plain_axis(axes.xaxis, ticks_between(1, most * 1.1))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e8ebef", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel("times as fast as the peer")
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1, 1.0))
    save(figure, path)
    return True


def draw_phases(lines, path):
    cases = [case for case in ("bars", "seed", "budget") if any(runs_of(lines, case, "pilum", kind) for kind in TYPES)]
    if not cases:
        return False
    figure, all_axes = plt.subplots(len(cases), 1, figsize=(8, 1.5 * len(cases) + 0.6), squeeze=False, layout="constrained")
    for axes, case in zip(all_axes[:, 0], cases):
        kinds = [kind for kind in TYPES if runs_of(lines, case, "pilum", kind)]
        longest = max(middle_run(runs_of(lines, case, "pilum", kind))["phases"]["total"] for kind in kinds)
        for y, kind in enumerate(reversed(kinds)):
            run, left = middle_run(runs_of(lines, case, "pilum", kind)), 0.0
            for phase in PHASES:
                seconds = run["phases"][phase]
                axes.barh(y, seconds, left=left, height=0.65, color=COLOURS[phase], label=phase if y == 0 else None)
                if seconds > 0.05 * longest:
                    axes.text(left + seconds / 2, y, f"{seconds:.1f}", va="center", ha="center", color="white", fontsize=8)
                left += seconds
            axes.text(left + 0.01 * longest, y, f"{left:.1f} s", va="center", fontweight="bold")
        axes.set_xlim(0, 1.08 * longest)
        axes.tick_params(axis="y", length=0)
        axes.set_yticks(range(len(kinds)), list(reversed(kinds)))
        axes.set_title(TITLES[case], loc="left", fontsize=9)
    all_axes[-1, 0].set_xlabel("seconds")
    all_axes[0, 0].legend(ncols=6, frameon=False, loc="lower right", bbox_to_anchor=(1, 1.0), fontsize=8)
    save(figure, path)
    return True


def draw_growth(lines, path):
    panels = [("rows-", "rows", "rows (x 256, K 256)"), ("dim-", "dim", "dimensions (40,000 rows, K 250)"),
              ("k-", "num_partitions", "partitions (160,000 x 256)")]
    runs = {prefix: growth_runs(lines, prefix) for prefix, *_ in panels}
    if not all(runs.values()):
        return False
    seconds = [run["seconds"] for found in runs.values() for run in found]
    figure, all_axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained", sharey=True)
    for axes, (prefix, key, label) in zip(all_axes, panels):
        for kind, colour in TYPES.items():
            points = sorted((run[key], run["seconds"]) for run in runs[prefix] if run["type"] == kind)
            axes.plot(*zip(*points), marker="o", markersize=4, color=colour, label=kind)
        ticks = sorted({run[key] for run in runs[prefix]})
        first = min(run["seconds"] for run in runs[prefix] if run[key] == ticks[0])
        axes.plot(ticks, [first * tick / ticks[0] for tick in ticks], color="#9aa5b1", linewidth=1, linestyle="--", label="in proportion")
        axes.set(xscale="log", yscale="log", xlabel=label, ylim=(0.8 * min(seconds), 1.3 * max(seconds)))
        plain_axis(axes.xaxis, ticks)
        axes.grid(color="#e8ebef", linewidth=0.8)
    plain_axis(all_axes[0].yaxis, ticks_between(0.8 * min(seconds), 1.3 * max(seconds)))
    all_axes[0].set_ylabel("seconds")
    all_axes[0].legend(frameon=False, fontsize=8)
    save(figure, path)
    return True


def draw_plans(lines, path):
    pairs = plan_pairs(lines)
    if not pairs:
        return False
    figure, axes = plt.subplots(figsize=(4.6, 4.0))
    low, high = min(min(p, a) for _, p, a, _ in pairs) * 0.7, max(max(p, a) for _, p, a, _ in pairs) * 1.4
    axes.fill_between([low, high], [0.7 * low, 0.7 * high], [1.3 * low, 1.3 * high], color="#e3e8ee", label="within 30 %", linewidth=0)
    axes.plot([low, high], [low, high], color="#9aa5b1", linewidth=0.8)
    for kind, colour in TYPES.items():
        points = [(actual, planned) for k, planned, actual, _ in pairs if k == kind]
        if points:
            axes.scatter(*zip(*points), s=16, color=colour, label=kind, zorder=3)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), xlabel="actual seconds", ylabel="planned seconds", aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        plain_axis(axis, ticks_between(low, high))
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    save(figure, path)
    return True


PICTURES = {"performance-bars.svg": draw_bars, "performance-phases.svg": draw_phases, "performance-growth.svg": draw_growth,
            "performance-plans.svg": draw_plans}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "bench" / "results.jsonl")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    args = parser.parse_args()
    lines = [line for line in read_lines(args.results) if line["case"] != "quick" and not line["case"].startswith("custom")]
    nothing = "No results yet: `make bench` makes them."
    words = {name: nothing for name in ("machine", "bars", "builds", "kernels", "growth", "plans", "limits")} | {"failures": "", "parts": ""}
    if lines:
        words = {"machine": machine_text(lines), "bars": bars_text(lines), "builds": builds_text(lines), "failures": failures_text(lines),
                 "kernels": kernels_text(lines), "parts": parts_text(lines), "growth": growth_text(lines), "plans": plans_text(lines),
                 "limits": limits_text(lines)}
    text = Template((Path(__file__).with_name("performance_template.md")).read_text()).substitute(words)
    for name, draw in PICTURES.items():
        if not (lines and draw(lines, args.out / name)):
            (args.out / name).unlink(missing_ok=True)
            text = "\n".join(row for row in text.split("\n") if f"({name})" not in row)
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    (args.out / "performance.md").write_text(text)
    print(f"{args.out / 'performance.md'}: from {len(lines)} results")


if __name__ == "__main__":
    main()
