#!/usr/bin/env python3
"""How long does an index take, what does it need, and how good is it: pilum beside pylance and FAISS.

    make bench                                 the bars: 128,116 x 2,048 against pylance and FAISS, other data,
                                               kernels and training; about 20 minutes on two quiet cores
    make bench BENCH_ARGS=--quick              two or three minutes
    make bench BENCH_ARGS=--budget             1 GB of vectors within 256 MiB
    make bench BENCH_ARGS=--growth             rows, dimensions and partitions grow (pilum alone)
    make bench BENCH_ARGS=--seed-shape         1,281,167 x 2,048 in 253 fragments (10.5 GB; checks the disk first)
    make bench BENCH_ARGS="--all --faiss-last --minutes 60 --report"      all of it, and docs/performance.md
    make bench BENCH_ARGS="--rows 200000 --dim 512 --data latent --runs 5 --types IVF_PQ"

All tools build the same type over the same table with the same partitions, sub-vectors, sample rate and threads,
in turn (pilum, pylance, pilum, ...), so that a busy moment hits all. Quality stands beside speed: recall@10 where
the same share of the rows is scanned. Every run is one JSON line in build/bench/results.jsonl, written when it
ends: a benchmark that was interrupted goes on with what is missing (--fresh begins anew). bench/report.py turns
the file into docs/performance.md.
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

import bench_cases
import bench_data
import bench_quality
import bench_tools
from bench_bars import bars_of, print_bars

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "bench"
RESULTS = WORK / "results.jsonl"
# Benchmarks of parts, with their arguments; every line of JSON that they print is kept.
PROGRAMS = {"kernel_bench.py": ("--runs", "3", "--peer-runs", "2"), "train_bench.py": ()}
PROGRAM_SECONDS = 900


# ---- where it ran ---------------------------------------------------------------------------------


def cpu_model():
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def git(*words):
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def setting():
    import faiss
    import lance

    kernels = json.loads(subprocess.run([bench_tools.PILUM, "version", "--json"], capture_output=True, text=True, check=True).stdout)
    sources = ("src", "include", "CMakeLists.txt")  # results stay good when only a page was changed
    commit = git("log", "-1", "--format=%h", "--", *sources) + ("+" if git("status", "--porcelain", "-uno", "--", *sources) else "")
    return {"cpu": cpu_model(), "cores": os.cpu_count(), "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "kernels": kernels["kernels"], "commit": commit,
            "pylance": lance.__version__, "faiss": faiss.__version__}


# ---- results ------------------------------------------------------------------------------------------


def read_results():
    if not RESULTS.exists():
        return []
    lines = []
    for text in RESULTS.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue  # cut off when a benchmark was killed
    return lines


def keep(line):
    with open(RESULTS, "a") as out:
        out.write(json.dumps(line) + "\n")
    shown = {key: value for key, value in line.items() if key not in ("setting", "plan", "own_recall", "requests", "shape", "recall")}
    print(json.dumps(shown), flush=True)


class Session:
    """Which runs are there already, and whether there is time for another."""

    def __init__(self, args):
        self.args, self.setting = args, setting()
        self.began = time.monotonic()
        self.done = {self.key(line): line for line in read_results()
                     if line.get("setting", {}).get("cpu") == self.setting["cpu"] and self.is_same_build(line)}

    def is_same_build(self, line):
        if line.get("tool") in ("pylance", "faiss") and self.args.keep_peers:
            return True
        return line.get("setting", {}).get("commit") == self.setting["commit"]

    @staticmethod
    def key(line):
        return line.get("case"), line.get("tool"), line.get("type"), line.get("run")

    def find(self, case, tool, kind, run):
        line = self.done.get((case, tool, kind, run))
        return line if line and "failed" not in line else None

    def has_time(self):
        return time.monotonic() - self.began < self.args.minutes * 60

    def add(self, line):
        line = {**line, "setting": self.setting, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "load": round(os.getloadavg()[0], 2)}
        self.done[self.key(line)] = line
        keep(line)


# ---- cases -----------------------------------------------------------------------------------------------


def remove_index(made):
    """The index and the versions of the table that had it, so that no disk fills up."""
    import lance

    dataset = lance.dataset(str(made.table))
    for index in {description.name for description in dataset.describe_indices()}:
        dataset.drop_index(index)
    shutil.rmtree(made.table / "_indices", ignore_errors=True)
    shutil.rmtree(made.table / "_pilum", ignore_errors=True)


def disk_needed(case, kind):
    """Runs and the index, both about as large as the column at most, and some room."""
    per_row = {"IVF_FLAT": 4 * case.shape.dim, "IVF_SQ": case.shape.dim, "IVF_PQ": case.sub_vectors}[kind] + 8
    return 2.2 * case.shape.rows * per_row + (1 << 30)


def read_table(table):
    """Into the page cache, where all tools find it: what other builds and the system have pushed out comes back."""
    for file in sorted((table / "data").iterdir()):
        with open(file, "rb", buffering=0) as data:
            while data.read(16 << 20):
                pass


def run_once(session, case, made, tool, kind, run):
    line = {"case": case.name, "what": case.what, "tool": tool, "type": kind, "run": run, "rows": case.shape.rows,
            "dim": case.shape.dim, "data": case.shape.kind, "fragments": case.shape.fragments, "vector_bytes": case.shape.vector_bytes,
            "payload_bytes": case.shape.payload_bytes, "num_partitions": case.partitions, "num_sub_vectors": case.sub_vectors,
            "budget": case.budget, "threads": case.threads}
    if bench_data.free_bytes(WORK) < disk_needed(case, kind):
        line["failed"] = f"{disk_needed(case, kind) / 1e9:.1f} GB of disk are needed"
    else:
        read_table(made.table)
        os.sync()  # else a tool that syncs waits for what others wrote: the table, or an index before
        line.update(bench_tools.TOOLS[tool](made, kind, case))
    if "failed" not in line and case.quality and run == 0 and "recall" not in line:
        line["recall"], line["partitions"] = bench_quality.measure(made.table, bench_tools.INDEX, kind, made.queries, made.truth)
    session.add(line)
    if tool != "faiss":
        remove_index(made)


def todo_of(session, case, tools):
    """(type, run, tool) in the order they are run: the tools in turn."""
    wanted = [(kind, run, tool) for kind in case.types for run in range(max(case.runs_of(tool, kind) for tool in case.runs))
              for tool in tools if run < case.runs_of(tool, kind)]
    return [(kind, run, tool) for kind, run, tool in wanted if not session.find(case.name, tool, kind, run)]


def run_case(session, case, tools):
    todo = todo_of(session, case, tools)
    if not todo:
        return
    began = time.monotonic()
    try:
        made = bench_data.make(case.shape, WORK / "data")
    except SystemExit as error:
        print(f"{case.name}: {error}", flush=True)
        return
    print(f"# {case.name}: {case.what}; table ready in {time.monotonic() - began:.0f} s", flush=True)
    remove_index(made)
    for kind, run, tool in todo:
        if not session.has_time():
            print(f"# out of time: {case.name} {kind} {tool} and what follows is left for the next call", flush=True)
            return
        run_once(session, case, made, tool, kind, run)


def run_programs(session):
    """Benchmarks of parts in programs of their own."""
    for name, arguments in PROGRAMS.items():
        script = Path(__file__).with_name(name)
        if not script.exists() or not session.has_time() or session.find(script.stem, "program", None, None):
            continue
        print(f"# {script.stem}", flush=True)
        done, why = bench_tools.run_bounded([sys.executable, script, *arguments], PROGRAM_SECONDS)
        if done is None or done.returncode != 0:
            session.add({"case": script.stem, "tool": "program", "failed": why or bench_tools.last_words(done)})
            continue
        records = [json.loads(text) for text in done.stdout.splitlines() if text.startswith("{")]
        session.add({"case": script.stem, "tool": "program", "records": records})


# ---- the table at the end ------------------------------------------------------------------------------------


def print_table(lines):
    print(f"\n{'case':<14} {'type':<9} {'tool':<8} {'runs':>4} {'seconds':>8}  {'spread':>15}  {'peak MiB':>8}  {'read MB':>8}"
          + "".join(f"  {f'recall@{share:.0%}':>9}" for share in bench_quality.SHARES) + "  planned")
    groups = {}
    for line in lines:
        if "seconds" in line:
            groups.setdefault((line["case"], line["type"], line["tool"]), []).append(line)
    for (case, kind, tool), runs in groups.items():
        seconds = [run["seconds"] for run in runs]
        measured = next((run for run in runs if "recall" in run), None)
        recalls = [bench_quality.recall_at(measured["recall"], share * measured["rows"]) if measured else None
                   for share in bench_quality.SHARES]
        read = f"{runs[-1]['bytes_read'] / 1e6:.0f}" if "bytes_read" in runs[-1] else "-"
        planned = f"{runs[-1]['plan']['total']:.1f} s" if "plan" in runs[-1] else ""
        print(f"{case:<14} {kind:<9} {tool:<8} {len(runs):>4} {statistics.median(seconds):>8.2f}  {min(seconds):>6.2f} - {max(seconds):<6.2f}"
              f"  {max(run['peak_rss_bytes'] for run in runs) / 2**20:>8.0f}  {read:>8}"
              + "".join(f"  {'-' if value is None else format(value, '.4f'):>9}" for value in recalls) + f"  {planned}")
    for line in lines:
        if "failed" in line:
            print(f"{line['case']:<14} {line.get('type') or '':<9} {line['tool']:<8} failed: {line['failed']}")
        elif line.get("hangs"):
            print(f"{line['case']:<14} {line['type']:<9} {line['tool']:<8} hung {len(line['hangs'])} times before")


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_argument_group("what (default: the bars)")
    which.add_argument("--quick", action="store_true")
    which.add_argument("--budget", action="store_true")
    which.add_argument("--growth", action="store_true")
    which.add_argument("--seed-shape", action="store_true")
    which.add_argument("--payload", type=int, default=0, help="bytes of a second column, not to be read")
    which.add_argument("--all", action="store_true")
    own = parser.add_argument_group("a table of your own")
    own.add_argument("--rows", type=int)
    own.add_argument("--dim", type=int, default=512)
    own.add_argument("--data", choices=bench_data.KINDS, default="latent")
    own.add_argument("--fragments", type=int, default=4)
    own.add_argument("--partitions", type=int, help="default: root of the rows")
    own.add_argument("--sub-vectors", type=int, help="default: dimension / 16")
    own.add_argument("--types", nargs="+", choices=bench_cases.TYPES)
    own.add_argument("--tools", nargs="+", choices=bench_tools.TOOLS, default=["pilum", "pylance"])
    own.add_argument("--runs", type=int, default=3)
    own.add_argument("--verify", choices=("none", "sample", "full"), default="sample")
    own.add_argument("--budget-mib", type=int, default=0)
    own.add_argument("--timeout", type=float, default=300, help="seconds for one build")
    parser.add_argument("--minutes", type=float, default=60, help="no run is begun after that time")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument("--keep-peers", action="store_true", help="peers' results of earlier commits count")
    parser.add_argument("--faiss-last", action="store_true", help="FAISS after all others, because no bar asks for its builds")
    parser.add_argument("--only", nargs="+", help="cases by name")
    parser.add_argument("--report", action="store_true", help="write docs/performance.md at the end")
    return parser.parse_args()


def main():
    args = parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was started is ended, too
    WORK.mkdir(parents=True, exist_ok=True)
    if args.fresh:
        RESULTS.unlink(missing_ok=True)
    session = Session(args)
    cases = [case for case in bench_cases.chosen(args) if not args.only or case.name in args.only]
    try:
        for tools in [("pilum", "pylance"), ("faiss",)] if args.faiss_last else [("pilum", "pylance", "faiss")]:
            for case in cases:
                run_case(session, case, tools)
                if case.name == "bars":
                    run_programs(session)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", flush=True)
        raise SystemExit(130) from None
    finally:
        names = {case.name for case in cases} | {Path(name).stem for name in PROGRAMS}
        lines = [line for line in session.done.values() if line["case"] in names]
        print_table(lines)
        print_bars(bars_of(lines))
        if args.report:
            subprocess.run([sys.executable, Path(__file__).with_name("report.py")], check=True)


if __name__ == "__main__":
    main()
