#!/usr/bin/env python3
"""How does a build on Ray behave with 1, 2, 3, 4 workers? One JSON line per run, then a table.

    python bench/scaling.py [--rows N] [--dim D] [--partitions K] [--type IVF_SQ] [--workers 1,2,3,4] [--runs 3]

Workers are processes of this machine with one thread each, so more of them than processors only shows
what coordination costs. Runs are interleaved; the table has medians.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile

import lance
import numpy as np
import pyarrow as pa
import ray

import pilum.ray


def make_table(path: str, rows: int, dim: int) -> str:
    rng = np.random.default_rng(11)
    groups = rng.normal(size=(500, dim)).astype(np.float32)

    def batches():
        for first in range(0, rows, 50_000):
            n = min(50_000, rows - first)
            x = groups[rng.integers(0, 500, n)] + 0.5 * rng.standard_normal((n, dim), dtype=np.float32)
            yield pa.record_batch([pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), dim)], ["vec"])

    schema = pa.schema([("vec", pa.list_(pa.float32(), dim))])
    lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches()), path, max_rows_per_file=-(-rows // 16))
    return path


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def measure(table: str, args: argparse.Namespace, workers: int) -> dict:
    report_path = table + ".json"
    shutil.rmtree(os.path.join(table, "_indices"), ignore_errors=True)
    pilum.ray.create_index(
        table, "vec", args.type, num_workers=workers, num_partitions=args.partitions, threads=1,
        memory_budget="2GiB", progress="none", report=report_path, restart=True,
    )
    with open(report_path) as file:
        report = json.load(file)
    cluster, seconds = report["ray"], report["seconds"]
    worked = seconds["total"]
    return {
        "commit": commit(), "workers": workers, "rows": args.rows, "dim": args.dim, "type": args.type,
        "partitions": args.partitions, "kernels": report["resources"]["kernels"], "processors": os.cpu_count(),
        "wall_s": cluster["seconds"], "phases_s": round(worked, 3),
        **{f"{phase}_s": round(seconds[phase], 3) for phase in ("train", "encode", "merge", "verify")},
        "messages": cluster["messages"], "message_bytes": cluster["message_bytes"],
        "coordinator_cpu_s": cluster["coordinator_cpu_seconds"], "workers_cpu_s": cluster["workers_cpu_seconds"],
        "coordinator_share": cluster["coordinator_cpu_share"],
        "bytes_read": [w["bytes_read"] for w in cluster["workers"]],
        "bytes_written": [w["bytes_written"] for w in cluster["workers"]],
        "requests": [w["get"] + w["put"] + w["list"] for w in cluster["workers"]],
        "peak_rss_bytes": max(w["peak_rss_bytes"] for w in cluster["workers"]),
        "recall": report["quality"]["recall_at_10"][-1] if report["quality"]["recall_at_10"] else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--partitions", type=int, default=512)
    parser.add_argument("--type", default="IVF_SQ")
    parser.add_argument("--workers", default="1,2,3,4")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    counts = [int(n) for n in args.workers.split(",")]
    ray.init(num_cpus=max(counts), include_dashboard=False, logging_level="error", object_store_memory=200 << 20)
    results: dict[int, list[dict]] = {n: [] for n in counts}
    with tempfile.TemporaryDirectory() as home:
        table = make_table(os.path.join(home, "t.lance"), args.rows, args.dim)
        measure(table, args, counts[0])  # once without counting: processes, file cache
        for _ in range(args.runs):
            for n in counts:
                results[n].append(measure(table, args, n))
                print(json.dumps(results[n][-1]), flush=True)
    print("\n| workers | wall | train | encode | merge | verify | messages | message bytes | workers' CPU | coordinator's CPU | its share |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for n, runs in results.items():
        median = {key: statistics.median(run[key] for run in runs) for key in runs[0] if key.endswith("_s")}
        print(f"| {n} | {median['wall_s']:.2f} s | " + " | ".join(
            f"{median[phase + '_s']:.2f} s" for phase in ("train", "encode", "merge", "verify"))
            + f" | {runs[-1]['messages']} | {runs[-1]['message_bytes'] / 2**20:.1f} MiB"
            f" | {median['workers_cpu_s']:.1f} s | {median['coordinator_cpu_s']:.2f} s"
            f" | {100 * statistics.median(run['coordinator_share'] for run in runs):.1f} % |")


if __name__ == "__main__":
    main()
