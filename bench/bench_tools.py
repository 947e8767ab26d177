"""One build by each tool: pilum, pylance, FAISS. Every build is a process of its own.

A result is a dict: seconds, peak_rss_bytes, cpu_seconds and what else the tool tells; {"failed": why} when
there is none. pylance and FAISS give the seconds of their call; pilum those of its whole process, start included.
"""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PILUM = ROOT / "build" / "pilum"
INDEX = "bench"
IDLE_SECONDS = 25  # without any processor time: it hangs

# exec carries the parent's peak memory over to the child's ru_maxrss, and this process has held
# vectors: a small shell between the two keeps the figures clean.
SMALL_PARENT = ["sh", "-c", '"$@"; exit $?', "sh"]

PYLANCE_BUILD = """
import json, resource, sys, time, lance
path, kind, name, options = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
dataset = lance.dataset(path)
began = time.monotonic()
dataset.create_index("vec", kind, name=name, replace=True, **options)
seconds = time.monotonic() - began
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime,
                  "peak_rss_bytes": usage.ru_maxrss * 1024}))
"""


# ---- processes ----------------------------------------------------------------------------------


def group_cpu_seconds(group):
    """Processor time of all processes of a group so far, children that ended included."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def run_bounded(command, timeout, env=None):
    """(CompletedProcess, None), or (None, why): too long, or idle for IDLE_SECONDS. Its whole group is ended."""
    process = subprocess.Popen(SMALL_PARENT + [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, start_new_session=True, env=env)
    began = moved = time.monotonic()
    cpu = 0.0
    try:
        while True:
            try:
                stdout, stderr = process.communicate(timeout=1)
                return subprocess.CompletedProcess(command, process.returncode, stdout, stderr), None
            except subprocess.TimeoutExpired:
                now, used = time.monotonic(), group_cpu_seconds(process.pid)
            if used > cpu + 0.05:
                cpu, moved = used, now
            if now - moved > IDLE_SECONDS:
                return None, f"hung: no processor time for {IDLE_SECONDS} s after {cpu:.0f} s of it"
            if now - began > timeout:
                return None, f"not done in {timeout:.0f} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def last_words(done):
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
    return f"exit status {done.returncode}: {lines[-1][:300] if lines else ''}"


# ---- builds --------------------------------------------------------------------------------------


def pilum_command(made, kind, case):
    command = [PILUM, "create-index", made.table, "--column", "vec", "--type", kind, "--name", INDEX, "--num-partitions",
               str(case.partitions), "--sample-rate", "256", "--verify", case.verify, "--threads", str(case.threads),
               "--progress", "none", "--json"]
    if kind == "IVF_PQ":
        command += ["--num-sub-vectors", str(case.sub_vectors)]
    if case.budget:
        command += ["--memory-budget", str(case.budget)]
    return command


def by_pilum(made, kind, case):
    began = time.monotonic()
    before = os.times()
    done, why = run_bounded(pilum_command(made, kind, case), case.timeout)
    seconds, after = time.monotonic() - began, os.times()
    if done is None or done.returncode != 0:
        shutil.rmtree(made.table / "_pilum", ignore_errors=True)
        return {"failed": why or last_words(done)}
    report = json.loads(done.stdout)
    resources = report["resources"]
    return {"seconds": seconds, "cpu_seconds": after[2] + after[3] - before[2] - before[3],
            "peak_rss_bytes": resources["peak_rss_bytes"], "phases": report["seconds"], "plan": report["plan"],
            "kernels": resources["kernels"], "bytes_read": resources["bytes_read"],
            "bytes_written": resources["bytes_written"], "requests": resources["requests"],
            "sample_rows": report["training"]["sample_rows"], "own_recall": report["quality"]["recall_at_10"],
            "cv": report["partitions"]["cv"], "verify": case.verify,
            "cpu_phases": resources["cpu_seconds"]}


def by_pylance(made, kind, case):
    """It can hang for good on few cores: hangs are ended and counted, and the build is tried again."""
    options = {"metric": "l2", "num_partitions": case.partitions, "sample_rate": 256}
    if kind == "IVF_PQ":
        options["num_sub_vectors"] = case.sub_vectors
    env = {**os.environ, "LANCE_CPU_THREADS": str(case.threads), "RAYON_NUM_THREADS": str(case.threads), "LANCE_LOG": "error"}
    hangs = []
    for _ in range(case.tries):
        done, why = run_bounded([sys.executable, "-c", PYLANCE_BUILD, made.table, kind, INDEX, json.dumps(options)],
                                case.timeout, env)
        if done is None:
            hangs.append(why)
        elif done.returncode != 0:
            return {"failed": last_words(done), "hangs": hangs}
        else:
            return {**json.loads(done.stdout.splitlines()[-1]), "hangs": hangs}
    return {"failed": hangs[-1], "hangs": hangs}


def by_faiss(made, kind, case):
    """Trains, adds and writes from the mapped rows; it measures its own recall, being its own search engine."""
    if not made.raw.exists():
        return {"failed": "the rows are not there as a plain file"}
    env = {**os.environ, "OMP_NUM_THREADS": str(case.threads), "OPENBLAS_NUM_THREADS": str(case.threads)}
    script = Path(__file__).with_name("faiss_build.py")
    done, why = run_bounded([sys.executable, script, made.folder, kind, str(made.shape.dim), str(case.partitions),
                             str(case.sub_vectors), str(case.threads)], case.timeout, env)
    if done is None or done.returncode != 0:
        return {"failed": why or last_words(done)}
    return json.loads(done.stdout.splitlines()[-1])


TOOLS = {"pilum": by_pilum, "pylance": by_pylance, "faiss": by_faiss}
