#!/usr/bin/env python3
"""Training beside the peers: partitions against faiss.Kmeans and superkmeans, a codebook against faiss's.

    python bench/train_peers.py [--quick] [--runs 3] [--threads 2]

Same rows (in memory before any clock starts), same threads, in turn: ours before and after each peer. Prints a
JSON line for each run. loss: mean squared distance of all rows to their nearest centroid; error: mean squared
error of all training rows, coded with the codebook. Both are found after the clock stopped, the same way for all.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import faiss
import numpy as np
import superkmeans

import bench_data

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "build" / "train_bench"
DATA = ROOT / "build" / "bench" / "data"
PQ_ROWS = 65_536


def clocked(call):
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    result = call()
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(seconds, 3), "cpu_seconds": round(cpu, 3)}, result


def ours(what, path, wanted, dim, rows, threads):
    command = [PROGRAM, what, path, wanted, "--dim", dim, "--rows", rows, "--threads", threads]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"train_bench: {done.stderr}")
    said = json.loads(done.stdout)
    return {key: said[key] for key in ("seconds", "cpu_seconds", "loss", "cv", "error", "simd") if key in said}


# ---- peers --------------------------------------------------------------------------------------


def loss_of(centroids, rows):
    index = faiss.IndexFlatL2(rows.shape[1])
    index.add(np.ascontiguousarray(centroids, dtype=np.float32))
    distances, ids = index.search(rows, 1)
    sizes = np.bincount(ids.reshape(-1), minlength=len(centroids))
    return {"loss": float(distances.astype(np.float64).mean()), "cv": round(float(sizes.std() / sizes.mean()), 4)}


def by_faiss(rows, k, threads):
    trainer = faiss.Kmeans(rows.shape[1], k, niter=10, max_points_per_centroid=1 << 30)
    times, _ = clocked(lambda: trainer.train(rows))
    return {**times, **loss_of(trainer.centroids, rows), "version": faiss.__version__}


def by_superkmeans(rows, k, threads):
    trainer = superkmeans.SuperKMeans(k, rows.shape[1], sampling_fraction=1.0, iters=10, n_threads=threads)
    times, centroids = clocked(lambda: trainer.train(rows))
    return {**times, **loss_of(centroids, rows), "version": superkmeans.__version__}


def codebook_error(codebook, rows):
    """Mean over rows of the squared error; codebook [m][256][dsub]."""
    error = 0.0
    dsub = codebook.shape[2]
    for j, words in enumerate(codebook):
        part = rows[:, j * dsub : (j + 1) * dsub]
        values = (words**2).sum(axis=1) - 2 * (part @ words.T)
        error += float((values.min(axis=1).astype(np.float64) + (part.astype(np.float64) ** 2).sum(axis=1)).mean())
    return error


def codebook_by_faiss(rows, m):
    quantizer = faiss.ProductQuantizer(rows.shape[1], m, 8)
    times, _ = clocked(lambda: quantizer.train(rows))
    codebook = faiss.vector_to_array(quantizer.centroids).reshape(m, 256, -1)
    return {**times, "error": codebook_error(codebook, rows), "version": faiss.__version__}


# ---- all of it ------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small data: does it still work?")
    parser.add_argument("--runs", type=int, default=3, help="of ours; peers run once")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    if not PROGRAM.exists():
        sys.exit(f"{PROGRAM} is not there: run tools/build.sh release")
    faiss.omp_set_num_threads(args.threads)
    shape = bench_data.Shape("latent", 10_000, 256, 4, raw=True) if args.quick else bench_data.Shape("latent", 128_116, 2048, 8, raw=True)
    k, m, pq_rows = (100, 16, 8192) if args.quick else (1000, 128, PQ_ROWS)
    made = bench_data.make(shape, DATA)
    rows = np.fromfile(made.raw, dtype=np.float32).reshape(-1, shape.dim)

    def tell(bench, by, result):
        print(json.dumps({"bench": bench, "by": by, "threads": args.threads, **result}), flush=True)

    name = f"ivf {shape.kind} {shape.rows}x{shape.dim}".replace("x", " x ") + f", K {k}"
    peers = [("faiss.Kmeans", by_faiss), ("superkmeans", by_superkmeans)]
    for run in range(max(args.runs, len(peers))):
        if run < args.runs:
            tell(name, "pilum", ours("ivf", made.raw, k, shape.dim, shape.rows, args.threads))
        if run < len(peers):
            tell(name, peers[run][0], peers[run][1](rows, k, args.threads))
    name = f"pq {shape.kind} {pq_rows} x {shape.dim}, M {m}"
    for run in range(args.runs):
        tell(name, "pilum", ours("pq", made.raw, m, shape.dim, pq_rows, args.threads))
        if run == 0:
            tell(name, "faiss", codebook_by_faiss(np.ascontiguousarray(rows[:pq_rows]), m))


if __name__ == "__main__":
    main()
