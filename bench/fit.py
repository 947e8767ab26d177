#!/usr/bin/env python3
"""Are the plans right? Compares `plan` with what builds took, and says how the weights of src/build/estimate.c
would have to be for them to fit.

    python bench/fit.py            from the runs in build/bench/results.jsonl
    python bench/fit.py --run      builds tables of 10,000 to 160,000 rows first, on a quiet machine (5 minutes);
                                   --runs N of each (3), of which the fastest of each phase counts

A weight is found for every term of a phase: actual = sum of weight * term, by least squares of the relative
errors, drawn a little towards the present weight so that terms which were never seen stay as they are.
"""
import argparse
import json
import re
from pathlib import Path

import numpy as np

import bench
import bench_cases
import bench_data
import bench_tools

PHASES = ("plan", "train", "encode", "merge", "verify", "commit", "total")
FITTED = PHASES[1:-1]
GOOD = 0.30
PULL = 0.05  # towards the present weight
ESTIMATE_C = Path(__file__).resolve().parent.parent / "src" / "build" / "estimate.c"


def fit_cases():
    latent = [(10_000, 256, 100), (40_000, 256, 200), (160_000, 256, 400), (40_000, 96, 200), (40_000, 768, 200), (40_000, 2048, 200),
              (40_000, 256, 16), (40_000, 256, 1024)]
    shapes = [(bench_data.Shape("latent", rows, dim, 4), k) for rows, dim, k in latent]
    shapes += [(bench_data.Shape("latent", 128_116, 2048, 8), 500), (bench_data.Shape("real", 100_000, 384, 4), 316),
               (bench_data.Shape("gaussian", 50_000, 768, 4), 500)]
    return [bench_cases.Case(f"fit-{shape.name}-k{k}", "", shape, k, shape.dim // 16) for shape, k in shapes]


def run_all(runs, only):
    lines = []
    for case in fit_cases():
        if only and not re.search(only, case.name):
            continue
        made = bench_data.make(case.shape, bench.WORK / "data")
        bench.remove_index(made)
        for kind in case.types:
            for run in range(runs):
                line = {"case": case.name, "tool": "pilum", "type": kind, "run": run, **bench_tools.by_pilum(made, kind, case)}
                bench.remove_index(made)
                lines.append(line)
                print(f"{case.name} {kind} {line.get('seconds', line.get('failed'))}", flush=True)
    (bench.WORK / "fit.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return lines


def calm(line):
    """The phases as if nobody else had used the processors: scaled to the processor time of the whole build."""
    share = min(1.0, line["cpu_seconds"] / line["plan"]["threads"] / line["phases"]["total"])
    return {**line, "phases": {phase: seconds * share for phase, seconds in line["phases"].items()}}


def best_of(lines, by_cpu):
    """One line for each build: the fastest of each phase, and the last plan."""
    groups = {}
    for line in lines:
        if line.get("tool") == "pilum" and "parts" in line.get("plan", {}):
            line = calm(line) if by_cpu else line
            groups.setdefault((line["case"], line["type"]), []).append(line)
    return {key: {"actual": {phase: min(run["phases"][phase] for run in runs) for phase in PHASES if phase in runs[0]["phases"]},
                  "plan": runs[-1]["plan"], "bytes_read": runs[-1]["bytes_read"], "bytes_written": runs[-1]["bytes_written"],
                  "peak_rss_bytes": max(run["peak_rss_bytes"] for run in runs)} for key, runs in groups.items()}


def print_comparison(builds):
    shown = [*PHASES, "peak_rss_bytes", "bytes_read", "bytes_written"]
    print(f"\nplanned / actual seconds; planned : actual for bytes\n{'build':<44}" + "".join(f"{name.removesuffix('_bytes'):>16}" for name in shown))
    good = {name: [] for name in shown}
    for (case, kind), build in builds.items():
        row = f"{case} {kind}"[:43].ljust(44)
        for name in shown:
            planned, actual = build["plan"][name], build["actual"].get(name, build.get(name))
            ratio = planned / actual if actual else float("nan")
            good[name].append(abs(ratio - 1) <= GOOD)
            text = f"{planned:.2f}/{actual:.2f}" if name in PHASES else ""
            row += f"{text + f' {ratio:.2f}':>16}"
        print(row)
    print("within 30 %".ljust(44) + "".join(f"{sum(values):>12}/{len(values):<3}" for values in good.values()))


def present_weights():
    found = re.findall(r'\{"(\w+)", "(\w+)", ([0-9.]+)\}', ESTIMATE_C.read_text())
    return {(phase, name): float(weight) for phase, name, weight in found}


def fit_phase(phase, builds, weights):
    """Factors by which the present weights of the phase are to be multiplied."""
    names = [name for where, name in weights if where == phase]
    rows = [(build["plan"]["parts"].get(phase, {}), build["actual"][phase]) for build in builds.values()
            if build["actual"].get(phase, 0) > 0]
    if not rows:
        return {}
    terms = np.array([[parts.get(name, 0.0) / actual for name in names] for parts, actual in rows])
    pull = PULL * np.sqrt(len(rows)) * np.eye(len(names))
    factors = np.ones(len(names))
    free = np.ones(len(names), dtype=bool)
    for _ in range(len(names)):  # those that would fall below a tenth stay there
        rest = 1 - terms[:, ~free] @ factors[~free]
        matrix, wanted = np.vstack([terms[:, free], pull[:, free]]), np.concatenate([rest, pull[:, free].sum(axis=1)])
        factors[free] = np.linalg.lstsq(matrix, wanted, rcond=None)[0]
        low = free & (factors < 0.1)
        if not low.any():
            break
        factors[low], free[low] = 0.1, False
    return dict(zip(names, factors))


def print_fit(builds):
    weights = present_weights()
    print("\nweights that would fit (src/build/estimate.c)")
    for phase in FITTED:
        for name, factor in fit_phase(phase, builds, weights).items():
            print(f"    {{\"{phase}\", \"{name}\", {weights[phase, name] * factor:.2f}}},  now {weights[phase, name]:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", help="tables whose name matches this")
    parser.add_argument("--last", action="store_true", help="from the runs of the last --run")
    parser.add_argument("--cpu", action="store_true", help="on a busy machine: scale times to processor time; phases that wait look too fast")
    args = parser.parse_args()
    bench.WORK.mkdir(parents=True, exist_ok=True)
    if args.run:
        lines = run_all(args.runs, args.only)
    elif args.last:
        lines = [json.loads(text) for text in (bench.WORK / "fit.jsonl").read_text().splitlines()]
    else:
        lines = bench.read_results()
    builds = best_of(lines, args.cpu)
    print_comparison(builds)
    print_fit(builds)


if __name__ == "__main__":
    main()
