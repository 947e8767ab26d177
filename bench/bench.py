#!/usr/bin/env python3
"""How long does an index take, and how good is it: pilum beside stock pylance.

Both build the same index types over the same table with the same partitions, sub-vectors,
sample rate and threads, in turn (pilum, pylance, pilum, ...), so that a busy moment hits
both. Prints one JSON line per run and a table of medians at the end; the lines are also in
build/bench/results.jsonl. Quality stands beside speed: recall@10 where both scan the same
share of the rows, because partitions of unequal size make equal nprobes unequal work.

    make bench BENCH_ARGS="--rows 200000 --runs 5 --types IVF_PQ"
"""
import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("LANCE_LOG", "error")
os.environ.setdefault("LANCE_INCLUDE_VECTOR_CENTROIDS", "false")

import lance
import numpy as np
import pyarrow as pa

ROOT = Path(__file__).resolve().parent.parent
PILUM = ROOT / "build" / "pilum"
WORK = ROOT / "build" / "bench"
TYPES = ("IVF_FLAT", "IVF_SQ", "IVF_PQ")
PROBES = (1, 2, 4, 8, 16, 32, 64)
SHARES = (0.01, 0.03, 0.10)  # of the rows, where recalls are compared
REFINE = {"IVF_PQ": {"refine_factor": 10}}
K = 10


# ---- data -------------------------------------------------------------------------------


def real_vectors(n, rng):
    """n unit rows with the spectrum of the example vectors: each lies between two of them."""
    base = np.fromfile(ROOT / "examples" / "packages-384.f16", dtype="<f2").reshape(-1, 384).astype(np.float32)
    rows = base[rng.integers(0, len(base), n)]
    rows += rng.uniform(0, 0.6, (n, 1)).astype(np.float32) * base[rng.integers(0, len(base), n)]
    rows += 0.01 * rng.standard_normal(rows.shape, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def clustered_vectors(n, rng, dim=256, clusters=500):
    """Gaussian clusters of unequal size."""
    centres = rng.standard_normal((clusters, dim), dtype=np.float32)
    weights = rng.pareto(1.5, clusters) + 0.1
    rows = centres[rng.choice(clusters, n, p=weights / weights.sum())]
    return rows + 0.6 * rng.standard_normal(rows.shape, dtype=np.float32)


DATA = {"real": real_vectors, "clustered": clustered_vectors}


def make_table(args):
    rng = np.random.default_rng(11)
    vectors = DATA[args.data](args.rows + args.queries, rng)
    rows, queries = vectors[: args.rows], vectors[args.rows :]
    path = WORK / "table.lance"
    shutil.rmtree(path, ignore_errors=True)
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
    lance.write_dataset(pa.table({"vec": column}), str(path), max_rows_per_file=max(1, args.rows // 4))
    return path, rows, queries


def exact_neighbours(rows, queries, metric):
    """Row numbers of the K nearest of each query."""
    best = []
    norms = (rows**2).sum(axis=1)
    for query in queries:
        products = rows @ query
        distance = norms - 2 * products if metric == "l2" else -products / np.sqrt(norms) if metric == "cosine" else -products
        best.append(np.argpartition(distance, K)[:K])
    return best


# ---- one build -----------------------------------------------------------------------------

# In a process of its own, because it can hang for good on a machine with few cores, and so
# that its peak memory is its own.
PYLANCE_BUILD = """
import json, resource, sys, time, lance
path, kind, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
dataset = lance.dataset(path)
began = time.monotonic()
dataset.create_index("vec", kind, name="bench", replace=True, **options)
print(json.dumps({"seconds": time.monotonic() - began,
                  "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""


# exec carries the parent's peak memory over to the child's ru_maxrss, and this process holds
# the vectors: a small shell between the two keeps the figures clean.
SMALL_PARENT = ["sh", "-c", '"$@"; exit $?', "sh"]


def run_bounded(command, timeout):
    """Run it with all its children in a group that can be ended; None when it took too long."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        stdout, stderr = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def build_by_pylance(path, kind, args):
    options = {"metric": args.metric, "num_partitions": args.partitions, "sample_rate": 256}
    if kind == "IVF_PQ":
        options["num_sub_vectors"] = args.sub_vectors
    command = [*SMALL_PARENT, sys.executable, "-c", PYLANCE_BUILD, str(path), kind, json.dumps(options)]
    for hangs in range(args.tries):
        done = run_bounded(command, args.timeout)
        if done is None:
            continue
        if done.returncode != 0:
            raise SystemExit(f"pylance failed:\n{done.stderr}")
        return {**json.loads(done.stdout.splitlines()[-1]), "hangs": hangs}
    return None


def build_by_pilum(path, kind, args):
    command = [*SMALL_PARENT, str(PILUM), "create-index", str(path), "--column", "vec", "--type", kind, "--name", "bench", "--metric",
               args.metric, "--num-partitions", str(args.partitions), "--sample-rate", "256", "--verify", args.verify,
               "--progress", "none", "--json"]
    if kind == "IVF_PQ":
        command += ["--num-sub-vectors", str(args.sub_vectors)]
    began = time.monotonic()
    done = run_bounded(command, args.timeout)
    seconds = time.monotonic() - began  # the whole process, start included
    if done is None:
        return None
    if done.returncode != 0:
        raise SystemExit(f"pilum failed:\n{done.stderr}")
    report = json.loads(done.stdout)
    return {"seconds": seconds, "peak_rss_bytes": report["resources"]["peak_rss_bytes"], "phases": report["seconds"],
            "kernels": report["resources"]["kernels"], "verify": args.verify}


BUILDERS = {"pilum": build_by_pilum, "pylance": build_by_pylance}


# ---- quality ----------------------------------------------------------------------------------


def scanned_rows(dataset, queries, metric, nprobes):
    """Mean rows in the partitions that each query probes."""
    centroids = np.asarray(dataset.get_ivf_model("bench").centroids.to_pylist(), dtype=np.float32)
    (index,) = dataset.index_statistics("bench")["indices"]
    sizes = np.array([partition["size"] for partition in index["partitions"]])
    if metric == "cosine":
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    products = queries @ centroids.T
    distance = -products if metric == "dot" else (centroids**2).sum(axis=1) - 2 * products
    return float(sizes[np.argsort(distance, axis=1)[:, :nprobes]].sum(axis=1).mean()), sizes


def measure_recall(path, kind, queries, exact, args):
    """[{nprobes, rows_scanned, recall}] through stock pylance, whoever built the index."""
    dataset = lance.dataset(str(path))
    row_of = {row: n for n, row in enumerate(dataset.to_table(columns=[], with_row_id=True)["_rowid"].to_pylist())}
    points = []
    for nprobes in (n for n in PROBES if n <= args.partitions):
        good = 0
        for query, best in zip(queries, exact):
            wanted = {"column": "vec", "q": query, "k": K, "nprobes": nprobes, **REFINE.get(kind, {})}
            hits = dataset.scanner(columns=["_rowid"], nearest=wanted, disable_scoring_autoprojection=True).to_table()
            good += len({row_of[row] for row in hits["_rowid"].to_pylist()} & set(best.tolist()))
        rows, sizes = scanned_rows(dataset, queries, args.metric, nprobes)
        points.append({"nprobes": nprobes, "rows_scanned": round(rows, 1), "recall": round(good / (K * len(queries)), 4)})
    return points, {"max": int(sizes.max()), "cv": round(float(sizes.std() / sizes.mean()), 3)}


def recall_at(points, rows):
    """Recall where `rows` are scanned, between the measured points on a logarithmic axis."""
    xs = [np.log(point["rows_scanned"]) for point in points]
    return float(np.interp(np.log(rows), xs, [point["recall"] for point in points], left=np.nan, right=np.nan))


# ---- the benchmark ------------------------------------------------------------------------------


def machine():
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return {"cpu": model, "cores": os.cpu_count(), "commit": commit, "pylance": lance.__version__}


def run_all(args):
    path, rows, queries = make_table(args)
    exact = exact_neighbours(rows, queries, args.metric)
    setting = {**machine(), "data": args.data, "rows": args.rows, "dim": rows.shape[1], "metric": args.metric,
               "num_partitions": args.partitions}
    lines = []
    with open(WORK / "results.jsonl", "w") as out:
        for kind in args.types:
            for run in range(args.runs):
                for tool, build in BUILDERS.items():
                    built = build(path, kind, args)
                    line = {"tool": tool, "type": kind, "run": run, **setting}
                    if built is None:
                        line["failed"] = f"not done in {args.timeout:.0f} s"
                    else:
                        line.update(built)
                        if run == 0:
                            line["recall"], line["partitions"] = measure_recall(path, kind, queries, exact, args)
                        lance.dataset(str(path)).drop_index("bench")
                    lines.append(line)
                    print(json.dumps(line), flush=True)
                    out.write(json.dumps(line) + "\n")
    return lines


def print_table(lines, args):
    shares = "".join(f"  {f'recall@{share:.0%}':>10}" for share in SHARES)
    print(f"\n{args.rows:,} rows, {args.partitions} partitions, {args.metric}; recall@10 where that share of the rows is scanned"
          + "".join(f"; {kind} refined x{options['refine_factor']}" for kind, options in REFINE.items()))
    print(f"{'type':<9} {'tool':<8} {'seconds':>8}  {'spread':>15}  {'peak MiB':>8}  {'cv':>5}{shares}")
    for kind in args.types:
        for tool in BUILDERS:
            runs = [line for line in lines if (line["type"], line["tool"]) == (kind, tool) and "seconds" in line]
            if not runs:
                print(f"{kind:<9} {tool:<8} {'failed':>8}")
                continue
            seconds = [line["seconds"] for line in runs]
            measured = next((line for line in runs if "recall" in line), None)
            recalls = "".join(f"  {recall_at(measured['recall'], share * args.rows):>10.4f}" if measured else f"  {'-':>10}"
                              for share in SHARES)
            peak = max(line["peak_rss_bytes"] for line in runs) / 2**20
            cv = measured["partitions"]["cv"] if measured else float("nan")
            print(f"{kind:<9} {tool:<8} {statistics.median(seconds):>8.2f}  {min(seconds):>6.2f} - {max(seconds):<6.2f}"
                  f"  {peak:>8.0f}  {cv:>5.2f}{recalls}")


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--data", choices=DATA, default="real")
    parser.add_argument("--types", nargs="+", choices=TYPES, default=list(TYPES))
    parser.add_argument("--metric", choices=("l2", "cosine", "dot"), default="l2")
    parser.add_argument("--partitions", type=int, help="default: round(sqrt(rows)), as lance_ray")
    parser.add_argument("--sub-vectors", type=int, help="default: dimension / 16")
    parser.add_argument("--verify", choices=("none", "sample", "full"), default="none", help="pilum's own check, inside its time")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one build")
    parser.add_argument("--tries", type=int, default=3, help="of pylance, which can hang")
    args = parser.parse_args()
    args.partitions = args.partitions or round(args.rows**0.5)
    args.sub_vectors = args.sub_vectors or {"real": 384, "clustered": 256}[args.data] // 16
    return args


if __name__ == "__main__":
    arguments = parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    try:
        print_table(run_all(arguments), arguments)
    except KeyboardInterrupt:
        sys.exit(130)
