"""Tables, workers to kill and hashes for the tests of the Ray engine."""
import hashlib
import os
import signal
import time
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa

ROOT = Path(__file__).resolve().parents[2]
PILUM = os.environ.get("PILUM", str(ROOT / "build" / "pilum"))
START = {"include_dashboard": False, "logging_level": "error", "log_to_driver": False,
         "object_store_memory": 100 << 20, "num_cpus": 4}


def vectors(n, dim, seed=1, groups=40):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(groups, dim)).astype(np.float32)
    return (centers[rng.integers(0, groups, n)] + 0.5 * rng.normal(size=(n, dim))).astype(np.float32)


def write_table(path, x, fragments=4, **columns):
    values = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
    table = pa.table({"vec": values, **columns})
    lance.write_dataset(table, str(path), max_rows_per_file=-(-len(x) // fragments), mode="overwrite")
    return str(path)


def index_bytes(path):
    """One hash of all index files of the table, whatever their uuids."""
    files = sorted(Path(path).glob("_indices/*/*"), key=lambda f: (f.name, f.read_bytes()))
    assert files, f"{path} has no index"
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def _parent_and_start(pid):
    """(parent, start time) of a process; (0, 0) when it is gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0, 0
    return int(words[1]), int(words[19])


def _is_ours(pid):
    """Is it below this process? Others on this machine may run Ray, too."""
    while pid > 1 and pid != os.getpid():
        pid = _parent_and_start(pid)[0]
    return pid == os.getpid()


def worker_pids():
    """Processes of the pool's actors, the youngest first."""
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if words.startswith(b"ray::Worker") and _is_ours(int(entry.name)):
                pids.append(int(entry.name))
    return sorted(pids, key=lambda pid: _parent_and_start(pid)[1], reverse=True)


class At:
    """A progress callback that acts once, in the middle of a phase, with so many workers at work.

    While there are fewer it gives them time: the driver waits for the callback, workers that start do not.
    """

    def __init__(self, phase, act, unit=None, workers=1):
        self.phase, self.act, self.unit, self.workers = phase, act, unit, workers
        self.did = False
        self.events = []

    def __call__(self, event):
        self.events.append(event)
        wanted = event["phase"] == self.phase and event["workers"] > 0 and (self.unit in (None, event["unit"]))
        if not wanted or self.did:
            return
        if event["workers"] < self.workers:
            time.sleep(1)
            return
        self.did = True
        self.act()


def kill_one():
    pids = worker_pids()
    assert pids, "no worker to kill"
    os.kill(pids[0], signal.SIGKILL)


def neighbours(dataset, q, k=10, nprobes=20):
    return dataset.to_table(nearest={"column": "vec", "q": q, "k": k, "nprobes": nprobes},
                            with_row_id=True)["_rowid"].to_pylist()



def _memory_of(pid, field):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) << 10
    raise AssertionError(f"process {pid} has no {field}")


class Growth:
    """How much the workers' resident memory grew at most while they had a build: worst, of all since the last look."""

    def __init__(self, monkeypatch):
        from pilum.ray._pool import Pool

        self._before, self._grown = {}, []
        hellos, close = Pool.first_hellos, Pool.close

        def first_hellos(pool):
            up = hellos(pool)
            self._before = {worker["pid"]: _memory_of(worker["pid"], "VmRSS") for worker in up}
            return up

        def close_pool(pool):
            self._grown += [_memory_of(pid, "VmHWM") - before for pid, before in self._before.items()]
            close(pool)

        monkeypatch.setattr(Pool, "first_hellos", first_hellos)
        monkeypatch.setattr(Pool, "close", close_pool)

    def worst(self):
        grown, self._grown = max(self._grown), []
        return grown
