#!/usr/bin/env python3
"""How long does a whole job on Ray take: pilum.ray beside lance_ray, with the same workers on the same machine.

    python bench/ray_bench.py                        128,116 x 2,048, K 500, two workers, all three types
    python bench/ray_bench.py --rows 20000 --dim 128 --partitions 64 --sub-vectors 16 --runs 1       a minute or two

Every build is a process of its own that starts Ray first; what counts is the wall time of the one call, from
argument to committed index. The engines take turns. A build that fails is noted and tried again, --tries times in all;
one that takes longer than --timeout (lance_ray: --peer-timeout) is ended, noted, and that engine not asked again
for this type. Every build is a JSON line in build/bench/ray.jsonl and on the terminal; recall@10
is measured through stock pylance and compared where the same share of the rows is scanned.
"""
import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import bench_data  # noqa: E402
import bench_quality  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "build" / "bench" / "ray.jsonl"
INDEX = "bench"
ENGINES = ("pilum.ray", "lance_ray")
BARS = {"IVF_SQ": 5, "IVF_PQ": 15}  # times faster than lance_ray

BUILD = """
import json, os, resource, sys, time
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
engine, table, job = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
import lance, ray
if engine == "pilum.ray":
    import pilum.ray as module
    job["options"]["progress"] = "none"
else:
    import lance_ray as module
ray.init(num_cpus=job["workers"], include_dashboard=False, logging_level="error", log_to_driver=False,
         object_store_memory=512 << 20)
@ray.remote
def warm():
    time.sleep(0.5)
ray.get([warm.remote() for _ in range(job["workers"])])
began = time.monotonic()
module.create_index(table, "vec", job["type"], job["name"], num_workers=job["workers"], **job["options"])
seconds = time.monotonic() - began
answer = {"seconds": seconds, "driver_cpu_seconds": round(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]), 3)}
if engine == "pilum.ray":
    import pilum
    report = pilum.last_report()
    answer["phases"] = report["seconds"]
    answer["ray"] = {key: value for key, value in report["ray"].items() if not isinstance(value, list)}
print("RESULT " + json.dumps(answer), flush=True)
"""


def build(engine, table, job, timeout):
    """One build: what it tells, or {"failed": why}. Ray ends with the process that started it."""
    process = subprocess.Popen([sys.executable, "-c", BUILD, engine, str(table), json.dumps(job)],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        out, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        time.sleep(5)
        process.kill()
        process.communicate()
        return {"failed": f"no end after {timeout:.0f} s", "too_long": True}
    line = next((line for line in out.splitlines() if line.startswith("RESULT ")), None)
    if process.returncode != 0 or line is None:
        return {"failed": (errors.strip().splitlines() or ["no result"])[-1][:300]}
    return json.loads(line.removeprefix("RESULT "))


def tell(line):
    print(json.dumps(line), flush=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")


def remove_index(table):
    import lance

    dataset = lance.dataset(str(table))
    if any(index.name == INDEX for index in dataset.describe_indices()):
        dataset.drop_index(INDEX)


def measured_build(engine, made, job, args, facts, with_recall):
    """Builds, again if need be; one line for each try. The last of them."""
    for attempt in range(args.tries):
        remove_index(made.table)
        result = build(engine, made.table, job, args.peer_timeout if engine == "lance_ray" else args.timeout)
        line = {"engine": engine, "type": job["type"], "attempt": attempt, **facts, **result}
        if "seconds" not in result:
            tell(line)
            if "too_long" in result:
                break
            continue
        if with_recall:
            line["recall"], line["sizes"] = bench_quality.measure(
                made.table, INDEX, job["type"], made.queries, made.truth)
        tell(line)
        break
    return line


def summary(kind, lines, rows):
    """One row of the table."""
    seconds = {e: [line["seconds"] for line in lines if line["engine"] == e] for e in ENGINES}
    recall = {e: next((line["recall"] for line in lines if line["engine"] == e and "recall" in line), None) for e in ENGINES}
    cells = [kind]
    for engine in ENGINES:
        s = seconds[engine]
        cells.append(f"{statistics.median(s):.1f} s ({min(s):.1f} to {max(s):.1f}, {len(s)} runs)" if s else "none ended")
    if all(seconds.values()):
        ratio = statistics.median(seconds["lance_ray"]) / statistics.median(seconds["pilum.ray"])
        cells.append(f"{ratio:.1f}x" + (f" (bar: {BARS[kind]}x)" if kind in BARS else ""))
    else:
        cells.append("-")
    gap = bench_quality.worst_gap(recall["pilum.ray"], recall["lance_ray"], rows) if all(recall.values()) else None
    cells.append("not compared" if gap is None else f"{gap:+.3f}")
    share = [line["ray"]["coordinator_cpu_share"] for line in lines if "ray" in line]
    cells.append(f"{100 * statistics.median(share):.1f} %" if share else "-")
    return "| " + " | ".join(cells) + " |"


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=128_116)
    parser.add_argument("--dim", type=int, default=2_048)
    parser.add_argument("--fragments", type=int, default=8)
    parser.add_argument("--partitions", type=int, default=500)
    parser.add_argument("--sub-vectors", type=int, default=128)
    parser.add_argument("--types", default="IVF_SQ,IVF_PQ,IVF_FLAT")
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=600, help="seconds, of one build")
    parser.add_argument("--peer-timeout", type=float, default=900, help="the same for lance_ray")
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--data", default="latent", choices=("latent", "real", "gaussian"))
    args = parser.parse_args()
    unknown = set(args.engines.split(",")) - set(ENGINES)
    if unknown:
        parser.error(f"--engines: {', '.join(sorted(unknown))}; known: {', '.join(ENGINES)}")
    return args


def main():
    args = parse()
    shape = bench_data.Shape(args.data, args.rows, args.dim, args.fragments)
    (ROOT / "build" / "bench" / "data").mkdir(parents=True, exist_ok=True)
    made = bench_data.make(shape, ROOT / "build" / "bench" / "data")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    facts = {"rows": args.rows, "dim": args.dim, "data": args.data, "partitions": args.partitions,
             "workers": args.workers, "cores": os.cpu_count(), "commit": commit}
    table = []
    for kind in args.types.split(","):
        options = {"num_partitions": args.partitions, "sample_rate": 256, "metric": "l2"}
        if kind == "IVF_PQ":
            options["num_sub_vectors"] = args.sub_vectors
        job = {"type": kind, "name": INDEX, "workers": args.workers, "options": options}
        lines, engines = [], args.engines.split(",")
        for run in range(args.runs):
            for engine in list(engines):
                line = measured_build(engine, made, job, args, {**facts, "run": run}, with_recall=run == 0)
                if "too_long" in line:
                    engines.remove(engine)
                lines += [line] if "seconds" in line else []
        table.append(summary(kind, lines, args.rows))
    print("\n| type | pilum.ray | lance_ray | faster | recall, least difference | coordinator's share of CPU |")
    print("| --- | --- | --- | --- | --- | --- |")
    print("\n".join(table))


if __name__ == "__main__":
    main()
