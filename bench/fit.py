#!/usr/bin/env python3
"""Are the plans right? Compares what was planned with what builds took, and fits the weights of src/build/estimate.c.

    .venv/bin/python bench/fit.py                     compare: the runs in build/bench/results.jsonl (of make bench)
    .venv/bin/python bench/fit.py --run               build the tables below first, three times each; then fit
    .venv/bin/python bench/fit.py --last              fit again from the runs of the last --run
    .venv/bin/python bench/fit.py --run --apply       and write the weights into src/build/estimate.c

To refit: on a quiet machine (load below 0.2), with a release build (tools/build.sh release),

    .venv/bin/python bench/fit.py --run --apply && tools/build.sh release

takes about 6 minutes on two cores (--minutes 8 is the limit: what is left out then is said), the tables made
included; then commit src/build/estimate.c. On a busy machine `--cpu` compares the phases that compute with their
processor time instead of the clock (all runs keep both); it fits those alone, and is not for --apply.

A phase takes the sum of weight * work / rate over its parts; the weights are found by least squares of relative
errors, none negative, with little weight for outliers and for phases that are a small share of their build, and
drawn a little towards the present weights. Tables marked as held out are never fitted: their count says what the
weights are worth. "cross" leaves each fitted table out in turn and predicts it from the others.
"""
import argparse
import json
import os
import re
import time
from pathlib import Path

import numpy as np

import bench
import bench_cases
import bench_data
import bench_tools

PHASES = ("plan", "train", "encode", "merge", "verify", "commit", "total")
FITTED = PHASES[1:-1]
COMPUTING = ("train", "encode", "verify")
GOOD = 0.30
PULL = 1.0         # towards the present weight, beside 1 for all runs together: where they do not tell parts from each other, it decides
LEAST = 0.02       # weight
OUTLIER = 0.25     # logarithmic error from which a run counts less
SMALL = 0.03       # of its build: phases below that hardly count
ESTIMATE_C = Path(__file__).resolve().parent.parent / "src" / "build" / "estimate.c"
RUNS = bench.WORK / "fit.jsonl"


# ---- what is built -----------------------------------------------------------------------------------


def fit_cases():
    """(case, held out?): cheap ones first, so that a limit of time cuts the most expensive."""
    fitted = [("latent", 10_000, 256, 100), ("latent", 10_000, 64, 256), ("latent", 40_000, 96, 200), ("latent", 40_000, 256, 16), ("latent", 40_000, 256, 200),
              ("latent", 160_000, 256, 64), ("latent", 40_000, 768, 200), ("latent", 160_000, 256, 400), ("latent", 40_000, 256, 1024),
              ("gaussian", 50_000, 768, 500), ("real", 100_000, 384, 316), ("latent", 40_000, 2048, 200), ("latent", 640_000, 256, 256),
              ("latent", 160_000, 256, 5000), ("latent", 128_116, 2048, 500)]
    held = [("latent", 20_000, 384, 150), ("latent", 80_000, 128, 512), ("gaussian", 20_000, 256, 256), ("real", 40_000, 384, 200),
            ("latent", 80_000, 1024, 300), ("latent", 320_000, 128, 1024)]
    shapes = [(shape, False) for shape in fitted] + [(shape, True) for shape in held]
    cases = []
    for (kind, rows, dim, k), is_held in sorted(shapes, key=lambda item: item[0][1] * item[0][2] * (1 + item[0][3] / 1000)):
        shape = bench_data.Shape(kind, rows, dim, 8 if dim == 2048 and rows > 100_000 else 4, raw=rows == 128_116)
        cases.append((bench_cases.Case(f"fit-{shape.name}-k{k}", "", shape, k, dim // 16), is_held))
    return cases


def run_all(args):
    began, lines, weights, left_out = time.monotonic(), [], present_weights(), []
    for case, is_held in fit_cases():
        if args.only and not re.search(args.only, case.name):
            continue
        if time.monotonic() - began > 60 * args.minutes:
            left_out.append(case.name)
            continue
        made = bench_data.make(case.shape, bench.WORK / "data")
        bench.remove_index(made)
        for run in range(args.runs):
            for kind in case.types:
                os.sync()
                result = bench_tools.by_pilum(made, kind, case)
                bench.remove_index(made)
                lines.append({"case": case.name, "tool": "pilum", "type": kind, "run": run, "held": is_held,
                              "weights": {f"{phase} {name}": weight for (phase, name), weight in weights.items()}, **result})
        seconds = [line.get("seconds", line.get("failed")) for line in lines[-3 * args.runs:]]
        print(f"{time.monotonic() - began:5.0f} s  {case.name}: {seconds}", flush=True)
    if left_out:
        print(f"left out for want of time: {', '.join(left_out)}")
    RUNS.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return lines


# ---- planned and actual --------------------------------------------------------------------------------


def actual_of(line, by_cpu):
    """Seconds of the phases; by_cpu: processor time over threads for those that compute."""
    seconds = dict(line["phases"])
    if by_cpu:
        for phase in COMPUTING:
            seconds[phase] = line["cpu_phases"][phase] / line["plan"]["threads"]
        seconds["total"] = sum(seconds[phase] for phase in PHASES[:-1])
    return seconds


def builds_of(lines, by_cpu):
    """{(case, type): runs}; the median run first, by its total."""
    groups = {}
    for line in lines:
        if line.get("tool") == "pilum" and "parts" in line.get("plan", {}) and (not by_cpu or line.get("cpu_phases")):
            run = {"actual": actual_of(line, by_cpu), "plan": line["plan"], "weights": line.get("weights"), "held": line.get("held", False),
                   "case": line["case"], **{key: line[key] for key in ("bytes_read", "bytes_written", "peak_rss_bytes")}}
            groups.setdefault((line["case"], line["type"]), []).append(run)
    for runs in groups.values():
        runs.sort(key=lambda run: run["actual"]["total"])
        runs.insert(0, runs.pop((len(runs) - 1) // 2))
    return groups


def is_good(planned, actual):
    return actual > 0 and abs(planned / actual - 1) <= GOOD


def print_comparison(builds):
    shown = [*PHASES, "peak_rss_bytes", "bytes_read", "bytes_written"]
    print(f"\nplanned/actual seconds and their ratio; for bytes the ratio\n{'build':<36}" + "".join(f"{name.removesuffix('_bytes'):>16}" for name in shown))
    good = {name: [] for name in shown}
    for (case, kind), runs in builds.items():
        run = runs[0]
        row = f"{case} {kind}"[-35:].ljust(36)
        for name in shown:
            planned, actual = run["plan"][name], run["actual"].get(name, run.get(name))
            ratio = planned / actual if actual else float("nan")
            good[name].append(is_good(planned, actual))
            text = f"{planned:.2f}/{actual:.2f}" if name in PHASES else ""
            row += f"{text + f' {ratio:.2f}':>16}"
        print(row)
    print("within 30 %".ljust(36) + "".join(f"{sum(values):>12}/{len(values):<3}" for values in good.values()))


# ---- weights ----------------------------------------------------------------------------------------------


def present_weights():
    found = re.findall(r'\{"(\w+)", "(\w+)", ([0-9.]+)\}', ESTIMATE_C.read_text())
    return {(phase, name): float(weight) for phase, name, weight in found}


def bounded_least_squares(rows, wanted, start):
    """The x >= LEAST of least |rows x - wanted|, from `start`, one coordinate after the other."""
    x, normal, right = start.copy(), rows.T @ rows, rows.T @ wanted
    for _ in range(3000):
        before = x.copy()
        for i in np.flatnonzero(np.diag(normal) > 0):
            x[i] = max(LEAST, x[i] + (right[i] - normal[i] @ x) / normal[i, i])
        if np.abs(x - before).max() < 1e-6:
            break
    return x


def fit_phase(phase, runs, weights):
    """{name: weight} for the parts of a phase."""
    names = [name for where, name in weights if where == phase]
    now = np.array([weights[phase, name] for name in names])
    runs = [run for run in runs if run["actual"].get(phase, 0) > 0 and run["plan"]["parts"].get(phase)]
    if not runs:
        return dict(zip(names, now))
    work = np.array([[run["plan"]["parts"][phase].get(name, 0.0) / run["weights"][f"{phase} {name}"] for name in names] for run in runs])
    actual = np.array([run["actual"][phase] for run in runs])
    share = actual / np.array([run["actual"]["total"] for run in runs])
    found = now
    for _ in range(12):  # relative to planned and actual alike, so that too much and too little weigh the same
        planned = np.maximum(work @ found, 1e-6)
        error = np.abs(np.log(planned / actual))
        trust = np.sqrt(share / (share + SMALL) * np.minimum(1, OUTLIER / np.maximum(error, 1e-9))) / np.sqrt(planned * actual)
        rows = work * trust[:, None]
        pull = PULL * np.sqrt((rows**2).sum(axis=0) + 1e-12)
        found = bounded_least_squares(np.vstack([rows, np.diag(pull)]), np.concatenate([actual * trust, pull * now]), found)
    return dict(zip(names, found))


def fit(runs, weights, phases):
    fitted = dict(weights)
    for phase in phases:
        fitted.update({(phase, name): weight for name, weight in fit_phase(phase, runs, weights).items()})
    return fitted


def planned_with(run, weights):
    """Phases of the run's plan as these weights would have made it."""
    phases = {"plan": run["plan"]["plan"]}
    for phase in FITTED:
        parts = run["plan"]["parts"].get(phase, {})
        phases[phase] = sum(seconds / run["weights"][f"{phase} {name}"] * weights[phase, name] for name, seconds in parts.items())
    return {**phases, "total": sum(phases.values())}


def count_good(builds, weights_of):
    """Of the phases and the totals, over the median runs; phases below SMALL of their build are not counted."""
    good = {phase: [] for phase in PHASES[1:]}
    for runs in builds.values():
        planned, actual = planned_with(runs[0], weights_of(runs[0])), runs[0]["actual"]
        for phase in good:
            if actual[phase] >= SMALL * actual["total"]:
                good[phase].append(is_good(planned[phase], actual[phase]))
    return "".join(f"{phase:>9} {sum(values):>3}/{len(values):<3}" for phase, values in good.items())


def print_fit(builds, phases):
    """The new weights."""
    weights = present_weights()
    fitted_builds = {key: runs for key, runs in builds.items() if not runs[0]["held"]}
    held_builds = {key: runs for key, runs in builds.items() if runs[0]["held"]}
    train = [run for runs in fitted_builds.values() for run in runs]
    found = fit(train, weights, phases)
    without = {case: fit([run for run in train if run["case"] != case], weights, phases) for case in {run["case"] for run in train}}
    print(f"\nwithin 30 % (phases that are at least {SMALL:.0%} of their build)")
    for name, chosen, weights_of in (("present weights, all tables", builds, lambda run: weights), ("new weights, fitted tables", fitted_builds, lambda run: found),
                                     ("new weights, cross", fitted_builds, lambda run: without[run["case"]]), ("new weights, held out", held_builds, lambda run: found)):
        print(f"{name:<30}{count_good(chosen, weights_of)}")
    print("\nworst totals with the new weights")
    ratios = {key: planned_with(runs[0], found)["total"] / runs[0]["actual"]["total"] for key, runs in builds.items()}
    for key in sorted(ratios, key=lambda key: -abs(np.log(ratios[key])))[:8]:
        planned = planned_with(builds[key][0], found)
        print(f"{' '.join(key):<50} {ratios[key]:.2f}  " + ", ".join(f"{phase} {planned[phase]:.3f}/{builds[key][0]['actual'][phase]:.3f}" for phase in PHASES))
    print("\nweights (src/build/estimate.c)")
    for (phase, name), weight in found.items():
        print(f"    {{\"{phase}\", \"{name}\", {weight:.2f}}},  now {weights[phase, name]:.2f}")
    return found


def apply(weights):
    text = ESTIMATE_C.read_text()
    for (phase, name), weight in weights.items():
        text = re.sub(rf'(\{{"{phase}", "{name}", )[0-9.]+\}}', rf"\g<1>{weight:.3g}}}", text)
    ESTIMATE_C.write_text(text)
    print(f"\nwritten: {ESTIMATE_C}; build, look at the difference, and commit it")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=8, help="no table is begun after that time")
    parser.add_argument("--only", help="tables whose name matches this")
    parser.add_argument("--last", action="store_true", help="from the runs of the last --run")
    parser.add_argument("--cpu", action="store_true", help="on a busy machine: processor time of the phases that compute")
    parser.add_argument("--apply", action="store_true", help="write the weights that were found")
    args = parser.parse_args()
    if args.apply and (args.cpu or args.only or not (args.run or args.last)):
        parser.error("--apply is for --run or --last of all tables, by the clock")
    bench.WORK.mkdir(parents=True, exist_ok=True)
    if args.run:
        lines = run_all(args)
    else:
        lines = [json.loads(text) for text in RUNS.read_text().splitlines()] if args.last else bench.read_results()
    builds = builds_of(lines, args.cpu)
    print_comparison(builds)
    if args.run or args.last:
        found = print_fit(builds, COMPUTING if args.cpu else FITTED)
        if args.apply:
            apply(found)


if __name__ == "__main__":
    main()
