#!/usr/bin/env python3
"""Training beside FAISS and SuperKMeans: the same rows, threads and number of centroids or sub-vectors, in turn.

    .venv/bin/python bench/train_bench.py                   the bars: 128,116 x 2,048, K 1,000 and M 128
    .venv/bin/python bench/train_bench.py --rows-file X.npy --k 250 --m 24
    .venv/bin/python bench/train_bench.py --k 65536 --rows 200000 --dim 32 --peers none --skip-pq

One JSON line per run, then one per bar with medians. Rows lie in memory before any clock starts, for everyone.
IVF: faiss.Kmeans with ten iterations, superkmeans as it comes and flat over all rows. loss: mean squared distance of
all rows to the nearest centroid, found after training. PQ: faiss.ProductQuantizer with 25 iterations, on rows as they
are; error: mean squared distance of all rows to what their codes stand for.
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import bench_data

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "bench"
PROGRAM = ROOT / "build" / "train_bench"
PQ_ROWS = 65_536
SLACK = 1.01  # of the peer's loss


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def timed(call):
    """What a call gives, its seconds and processor seconds."""
    began, cpu = time.monotonic(), cpu_seconds()
    result = call()
    return result, {"seconds": round(time.monotonic() - began, 3), "cpu_seconds": round(cpu_seconds() - cpu, 3)}


# ---- the tools ------------------------------------------------------------------------------


def pilum(what, args, path, n, dim, number):
    command = [PROGRAM, what, path, number, "--threads", args.threads, "--rows", n, "--dim", dim, "--seed", args.seed]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def quality_of(rows, centroids):
    import faiss

    index = faiss.IndexFlatL2(rows.shape[1])
    index.add(np.ascontiguousarray(centroids))
    distances, ids = index.search(rows, 1)
    sizes = np.bincount(ids[:, 0], minlength=len(centroids))
    return {"loss": float(distances.mean(dtype=np.float64)), "cv": round(float(sizes.std() / sizes.mean()), 4)}


def faiss_ivf(args, rows):
    import faiss

    kmeans = faiss.Kmeans(rows.shape[1], args.k, niter=10, seed=args.seed, verbose=False)
    _, times = timed(lambda: kmeans.train(rows))
    return {**times, **quality_of(rows, kmeans.centroids)}


def superkmeans_ivf(args, rows, **options):
    from superkmeans import SuperKMeans

    model = SuperKMeans(args.k, rows.shape[1], n_threads=args.threads, seed=args.seed, **options)
    centroids, times = timed(lambda: model.train(rows))
    return {**times, **quality_of(rows, np.asarray(centroids))}


def faiss_pq(args, rows):
    import faiss

    pq = faiss.ProductQuantizer(rows.shape[1], args.m, 8)
    pq.cp.niter, pq.cp.seed = 25, args.seed
    _, times = timed(lambda: pq.train(rows))
    error = 0.0
    for first in range(0, len(rows), 8192):
        part = rows[first : first + 8192]
        error += float(((part - pq.decode(pq.compute_codes(part))) ** 2).sum(dtype=np.float64))
    return {**times, "error": error / len(rows)}


# ---- runs -----------------------------------------------------------------------------------


def say(what, tool, run, shape, result):
    line = {"part": what, "tool": tool, "run": run, **shape, **result}
    print(json.dumps(line), flush=True)
    return line


def bar(name, measure, lines, shape):
    """Medians of pilum and FAISS in one line."""
    groups = {tool: [line for line in lines if line["tool"] == tool] for tool in ("pilum", "faiss")}
    if not all(groups.values()):
        return
    mine, peer = (statistics.median(line["seconds"] for line in groups[tool]) for tool in ("pilum", "faiss"))
    ours, theirs = (statistics.median(line[measure] for line in groups[tool]) for tool in ("pilum", "faiss"))
    print(json.dumps({"bar": name, **shape, "seconds": mine, "peer_seconds": peer, "ratio": round(peer / mine, 2),
                      "spread": [min(line["seconds"] for line in groups["pilum"]), max(line["seconds"] for line in groups["pilum"])],
                      "quality": f"{measure} {ours / theirs - 1:+.2%} against FAISS", "good": ours <= SLACK * theirs}), flush=True)


def run_ivf(args, path, rows):
    n, dim = rows.shape
    shape = {"rows": n, "dim": dim, "k": args.k}
    tools = [("pilum", lambda: pilum("ivf", args, path, n, dim, args.k), args.runs)]
    if "faiss" in args.peers:
        tools.append(("faiss", lambda: faiss_ivf(args, rows), args.peer_runs))
    if "superkmeans" in args.peers:
        tools.append(("superkmeans", lambda: superkmeans_ivf(args, rows), args.peer_runs))
        tools.append(("superkmeans-flat", lambda: superkmeans_ivf(args, rows, hierarchical=False, sampling_fraction=1.0), args.peer_runs))
    lines = [say("ivf_train", tool, run, shape, call()) for run in range(max(args.runs, args.peer_runs))
             for tool, call, runs in tools if run < runs]
    bar("ivf_train", "loss", lines, shape)


def run_pq(args, path, rows):
    rows = rows[:PQ_ROWS]
    n, dim = rows.shape
    shape = {"rows": n, "dim": dim, "m": args.m}
    tools = [("pilum", lambda: pilum("pq", args, path, n, dim, args.m), args.runs)]
    if "faiss" in args.peers:
        tools.append(("faiss", lambda: faiss_pq(args, rows), args.peer_runs))
    lines = [say("pq_train", tool, run, shape, call()) for run in range(max(args.runs, args.peer_runs))
             for tool, call, runs in tools if run < runs]
    bar("pq_train", "error", lines, shape)


def load(args):
    """The file the program maps, and its rows in this process's memory."""
    if args.rows_file:
        return args.rows_file, np.ascontiguousarray(np.load(args.rows_file), dtype=np.float32)
    shape = bench_data.Shape("latent", args.rows, args.dim, 8, raw=True)
    made = bench_data.make(shape, WORK / "data")
    if not made.raw.exists():  # the table was made without it
        with open(made.raw, "wb") as raw:
            for _, rows in bench_data.blocks(shape):
                rows.tofile(raw)
    return made.raw, np.fromfile(made.raw, dtype=np.float32).reshape(-1, args.dim)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=128_116)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--rows-file", help=".npy of float32 [rows][dim] in place of rows made here")
    parser.add_argument("--k", type=int, default=1000)
    parser.add_argument("--m", type=int, default=128)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peer-runs", type=int, default=1)
    parser.add_argument("--peers", default="faiss,superkmeans")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--skip-ivf", action="store_true")
    parser.add_argument("--skip-pq", action="store_true")
    args = parser.parse_args()
    if not PROGRAM.exists():
        raise SystemExit(f"{PROGRAM} is missing: tools/build.sh release")
    if "faiss" in args.peers:
        import faiss

        faiss.omp_set_num_threads(args.threads)
    path, rows = load(args)
    if not args.skip_ivf:
        run_ivf(args, path, rows)
    if not args.skip_pq:
        run_pq(args, path, rows)


if __name__ == "__main__":
    sys.exit(main())
