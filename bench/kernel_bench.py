#!/usr/bin/env python3
"""How fast are the kernels: by themselves, and as exact assignment and PQ encoding beside faiss.

Runs build/kernel_bench: every kernel of every table against scalar, with its share of the
processor's measured peak; then the nearest centroid of every row, and codes of every row, in turn
with faiss (ours, faiss, ours, ...) on the same arrays and threads. Where answers differ, distances in
float64 decide who is right: ours must be. Prints a JSON line per run and a table of medians; the
lines are also in build/bench/kernels.jsonl.

    python bench/kernel_bench.py [--quick] [--runs 5] [--peer-runs 2] [--threads 2] [--only assign]
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

import faiss
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "build" / "kernel_bench"
WORK = ROOT / "build" / "bench"


# ---- data ---------------------------------------------------------------------------------------


def low_rank(n, dim, rng):
    """Rows about 2,000 centres in 64 latent dimensions, rectified, with noise."""
    weights = rng.normal(size=(64, dim)).astype("f4") / 8
    centres = rng.normal(size=(2000, 64)).astype("f4")
    for first in range(0, n, 8192):
        size = min(8192, n - first)
        latent = centres[rng.integers(0, 2000, size)] + 0.5 * rng.standard_normal((size, 64), dtype="f4")
        yield np.maximum(latent @ weights, 0) + 0.05 * rng.standard_normal((size, dim), dtype="f4")


def isotropic(n, dim, rng):
    """The worst case: no direction and no group stands out."""
    for first in range(0, n, 8192):
        yield rng.standard_normal((min(8192, n - first), dim), dtype="f4")


def make_rows(kind, n, dim):
    """A file of rows, made a piece at a time, and a view of it."""
    path = WORK / f"{kind.__name__}-{n}x{dim}.f32"
    if not path.exists():
        with open(path, "wb") as file:
            for piece in kind(n, dim, np.random.default_rng(1)):
                piece.astype("f4").tofile(file)
    return path, np.memmap(path, dtype="f4", mode="r").reshape(n, dim)


def make_centroids(rows, k, steps=2):
    """k-means, roughly: centroids like those of an index."""
    rng = np.random.default_rng(2)
    sample = np.array(rows[: 16 * k])
    centroids = sample[rng.choice(len(sample), k, replace=False)].copy()
    for _ in range(steps):
        ids = np.argmin((centroids**2).sum(1) / 2 - sample @ centroids.T, axis=1)
        order = np.argsort(ids, kind="stable")
        counts = np.bincount(ids, minlength=k)
        used = counts > 0
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])[used]
        centroids[used] = np.add.reduceat(sample[order], starts, axis=0) / counts[used, None]
    return centroids.astype("f4")


# ---- runs ---------------------------------------------------------------------------------------


def clocked(call):
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    result = call()
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(seconds, 4), "cpu_seconds": round(cpu, 4)}, result


def run_ours(arguments, simd, result_path, dtype):
    command = [str(PROGRAM), *map(str, arguments), str(result_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PILUM_SIMD": simd})
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}:\n{done.stderr}")
    return json.loads(done.stdout), np.fromfile(result_path, dtype=dtype)


def count_wrong(theirs, ours, distance):
    """(answers that differ, those of them where ours is not the float64 answer of the two)."""
    differing = np.flatnonzero(theirs != ours)
    wrong = 0
    for row in differing:
        a, b = distance(row, int(ours.flat[row])), distance(row, int(theirs.flat[row]))
        wrong += a > b or (a == b and ours.flat[row] > theirs.flat[row])
    return len(differing), wrong


def emit(line, setting, file):
    line = {**setting, **line}
    print(json.dumps(line), flush=True)
    file.write(json.dumps(line) + "\n")
    file.flush()
    return line


def compare(name, tables, arguments, dtype, by_faiss, distance, args, setting, file):
    """Interleaved runs -> {who: [lines]}."""
    results = {}
    theirs = None
    for run in range(max(args.runs, args.peer_runs)):
        if run < args.peer_runs:
            times, answers = clocked(by_faiss)
            theirs = answers.reshape(-1)
            line = {"bench": name, "by": "faiss", "version": faiss.__version__, **times}
            results.setdefault("faiss", []).append(emit(line, setting, file))
        if run >= args.runs:
            continue
        for table in tables:
            times, ours = run_ours(arguments, table, WORK / "answers.bin", dtype)
            differ, wrong = count_wrong(theirs, ours, distance) if run == 0 else (None, 0)
            if wrong:
                raise SystemExit(f"{name}, {table}: {wrong} wrong answers")
            line = {"bench": name, "by": f"pilum {times['table']}", **times, "differ": differ, "wrong": wrong}
            results.setdefault(line["by"], []).append(emit(line, setting, file))
    return results


def bench_assign(kind, n, dim, k, args, setting, file):
    path, rows = make_rows(kind, n, dim)
    centroids = make_centroids(rows, k)
    centroids_path = WORK / "centroids.f32"
    centroids.tofile(centroids_path)
    index = faiss.IndexFlatL2(dim)
    index.add(centroids)
    rows = np.array(rows)

    def distance(row, j):
        return float(((rows[row].astype("f8") - centroids[j].astype("f8")) ** 2).sum())

    return compare(
        f"assign {kind.__name__} {n} x {dim}, K {k}", args.simd.split(","),
        ["assign", path, centroids_path, dim, "l2", args.threads], "u4",
        lambda: index.search(rows, 1)[1].astype("u4"), distance, args, setting, file,
    )


def bench_encode(kind, n, dim, m, args, setting, file):
    path, rows = make_rows(kind, n, dim)
    rows, dsub = np.array(rows), dim // m
    picks = np.random.default_rng(3).choice(n, 256, replace=False)
    codebook = np.ascontiguousarray(rows[picks].reshape(256, m, dsub).transpose(1, 0, 2))
    codebook_path = WORK / "codebook.f32"
    codebook.tofile(codebook_path)
    quantizer = faiss.ProductQuantizer(dim, m, 8)
    faiss.copy_array_to_vector(codebook.ravel(), quantizer.centroids)

    def distance(place, code):
        row, j = divmod(int(place), m)
        part = rows[row, j * dsub : (j + 1) * dsub].astype("f8")
        return float(((part - codebook[j, code].astype("f8")) ** 2).sum())

    return compare(
        f"encode {n} x {dim}, M {m}", args.simd.split(","), ["encode", path, codebook_path, dim, m, args.threads],
        "u1", lambda: quantizer.compute_codes(rows), distance, args, setting, file,
    )


def bench_kernels(args, setting, file):
    done = subprocess.run([str(PROGRAM), "kernels", *(["--quick"] if args.quick else [])], capture_output=True, text=True)
    for line in done.stdout.splitlines():
        emit({"bench": "kernel", **json.loads(line)}, setting, file)
    if done.returncode != 0:
        raise SystemExit(f"a kernel disagrees with scalar, or:\n{done.stderr}")


def machine():
    model = "?"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return {"cpu": model, "cores": os.cpu_count(), "commit": commit}


def print_table(all_results):
    print("\n| work | by | wall s | cpu s | against faiss, wall | cpu | answers that differ |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for results in all_results:
        median = {
            by: [statistics.median(line[key] for line in lines) for key in ("seconds", "cpu_seconds")]
            for by, lines in results.items()
        }
        for by, lines in results.items():
            ratios = [f"{peer / own:.1f}x" for peer, own in zip(median["faiss"], median[by])]
            print(f"| {lines[0]['bench']} | {by} | {median[by][0]:.3f} | {median[by][1]:.3f} | {ratios[0]} | {ratios[1]} "
                  f"| {lines[0].get('differ', '')} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small data, one run: does it still work?")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peer-runs", type=int, help="of faiss; default: as many")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--simd", default="avx512,avx2", help="caps of the kernel table to compare")
    parser.add_argument("--only", choices=["kernels", "assign", "encode"])
    args = parser.parse_args()
    if args.quick:
        args.runs = 1
    args.peer_runs = max(1, args.peer_runs or args.runs)
    if not PROGRAM.exists():
        sys.exit(f"{PROGRAM} is not there: run tools/build.sh release")
    WORK.mkdir(parents=True, exist_ok=True)
    faiss.omp_set_num_threads(args.threads)
    setting = {**machine(), "threads": args.threads}
    big, worst = ((20_000, 256, 256), (10_000, 256, 256)) if args.quick else ((128_116, 2048, 1000), (50_000, 768, 1000))
    results = []
    with open(WORK / "kernels.jsonl", "w") as file:
        if args.only in (None, "kernels"):
            bench_kernels(args, setting, file)
        if args.only in (None, "assign"):
            results.append(bench_assign(low_rank, *big, args, setting, file))
            results.append(bench_assign(isotropic, *worst, args, setting, file))
        if args.only in (None, "encode"):
            results.append(bench_encode(low_rank, big[0], big[1], big[1] // 16, args, setting, file))
    print_table(results)


if __name__ == "__main__":
    main()
