"""Real Ray on this machine, small tables, each test with a limit of time."""
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import ray

sys.path.insert(0, str(Path(__file__).resolve().parent))
from ray_helpers import PILUM, START, index_bytes, vectors, write_table  # noqa: E402

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
LIMIT_S = 240  # a module may say otherwise


@pytest.fixture(autouse=True)
def time_limit(request):
    """No test hangs for ever."""
    limit = getattr(request.module, "LIMIT_S", LIMIT_S)

    def too_long(*_):
        raise TimeoutError(f"the test took more than {limit} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(limit)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def cluster():
    ray.shutdown()
    yield ray.init(**START)
    ray.shutdown()


@pytest.fixture(scope="session")
def originals(tmp_path_factory):
    """Tables by name, written once; tests work on copies."""
    home = tmp_path_factory.mktemp("tables")
    small = vectors(40_000, 32)
    small[5] = np.nan
    write_table(home / "small", small)
    gaps = vectors(30_000, 16, seed=2)
    gaps[np.random.default_rng(3).random(len(gaps)) < 0.4] = np.nan
    write_table(home / "gaps", gaps, fragments=7)
    write_table(home / "large", vectors(200_000, 64, seed=4), fragments=8)
    write_table(home / "wide", vectors(40_000, 96, seed=5), id=np.arange(40_000))
    return home


@pytest.fixture
def table(originals, tmp_path):
    """table(name) -> path of a fresh copy."""
    def copy(name="small"):
        path = tmp_path / f"{name}-{time.monotonic_ns()}.lance"
        shutil.copytree(originals / name, path)
        return str(path)

    return copy


@pytest.fixture
def threads_engine(originals, tmp_path, request):
    """threads_engine(table name, type, options...) -> hash of the files that the command makes."""
    def build(name, index_type, *options):
        path = tmp_path / "reference.lance"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(originals / name, path)
        subprocess.run([PILUM, "create-index", str(path), "--column", "vec", "--type", index_type,
                        "--progress", "none", *map(str, options)], check=True, capture_output=True)
        return index_bytes(path)

    return build
