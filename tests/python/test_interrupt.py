"""Ctrl-C and kills: the call ends soon with KeyboardInterrupt, the table is as it was, the same call carries on."""
import os
import shutil
import signal
import subprocess
import sys
import time

import lance
import pytest

import pilum
from helpers import index_files, make_vectors, tree_state, write

DIM = 64
OPTIONS = {"num_partitions": 64, "num_sub_vectors": 16}

# A shell that starts the tests in the background has SIGINT ignored, and children inherit that.
SCRIPT = """
import signal, sys, pilum
signal.signal(signal.SIGINT, signal.default_int_handler)
def tell(p):
    print(p.phase, flush=True)
try:
    pilum.create_index(sys.argv[1], "vec", "IVF_PQ", progress=tell if sys.argv[2] == "callback" else None, **{options})
except KeyboardInterrupt:
    print("interrupted", flush=True)
    raise
print("done", flush=True)
""".replace("{options}", repr(OPTIONS))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("interrupt") / "t.lance"
    write(path, make_vectors(24_000, DIM), max_rows_per_file=6_000)
    return path


def start(table, mode="callback"):
    """The slow kernels make sure that the signal comes in time."""
    env = {**os.environ, "PILUM_SIMD": "scalar"}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(table), mode], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env=env)


def wait_for(process, phase):
    for line in process.stdout:
        if line.strip() == phase:
            return
    raise AssertionError(f"{phase} did not come: {process.stderr.read()}")


def carried_on(table, monkeypatch):
    monkeypatch.setenv("PILUM_SIMD", "scalar")
    dataset = pilum.create_index(table, "vec", "IVF_PQ", **OPTIONS)
    assert pilum.last_report()["resumed"] is True
    return dataset


@pytest.fixture(scope="module")
def expected(original, tmp_path_factory):
    path = tmp_path_factory.mktemp("expected") / "t.lance"
    shutil.copytree(original, path)
    os.environ["PILUM_SIMD"] = "scalar"
    try:
        pilum.create_index(path, "vec", "IVF_PQ", **OPTIONS)
    finally:
        del os.environ["PILUM_SIMD"]
    return index_files(path)


@pytest.mark.parametrize("phase", ["train", "encode"])
def test_ctrl_c(original, expected, tmp_path, monkeypatch, phase):
    table = tmp_path / "t.lance"
    shutil.copytree(original, table)
    with start(table) as process:
        wait_for(process, phase)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert time.monotonic() - began < 5
    assert out.splitlines()[-1] == "interrupted" and "KeyboardInterrupt" in err
    assert process.returncode == -signal.SIGINT, "as every Python program that Ctrl-C ends"
    state = {path: data for path, data in tree_state(table).items() if not path.startswith("_pilum/")}
    assert state == tree_state(original)
    assert carried_on(table, monkeypatch).version == 2
    assert index_files(table) == expected


def test_ctrl_c_without_a_callback(original, tmp_path):
    """Signals are seen although nothing of Python runs meanwhile."""
    table = tmp_path / "t.lance"
    shutil.copytree(original, table)
    with start(table, "quiet") as process:
        deadline = time.monotonic() + 30
        while not list(table.glob("_pilum/*/plan.json")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert out.split() == ["interrupted"] and "KeyboardInterrupt" in err
    assert lance.dataset(str(table)).describe_indices() == []


def test_kill_and_carry_on(original, expected, tmp_path, monkeypatch):
    table = tmp_path / "t.lance"
    shutil.copytree(original, table)
    with start(table) as process:
        wait_for(process, "encode")
        process.kill()
        process.communicate(timeout=30)
    assert lance.dataset(str(table)).describe_indices() == []
    carried_on(table, monkeypatch)
    assert index_files(table) == expected


def test_restart_throws_away(original, tmp_path):
    table = tmp_path / "t.lance"
    shutil.copytree(original, table)

    def stop(progress):
        if progress.phase == "encode":
            raise InterruptedError

    with pytest.raises(InterruptedError):
        pilum.create_index(table, "vec", "IVF_PQ", progress=stop, **OPTIONS)
    pilum.create_index(table, "vec", "IVF_PQ", restart=True, **OPTIONS)
    assert pilum.last_report()["resumed"] is False


def test_another_signal_handler_runs_during_the_call(original, tmp_path):
    """Not only Ctrl-C: handlers run on time, and the call goes on when they return."""
    table = tmp_path / "t.lance"
    shutil.copytree(original, table)
    heard = []
    before = signal.signal(signal.SIGALRM, lambda *_: heard.append(time.monotonic()))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        pilum.create_index(table, "vec", "IVF_PQ", **OPTIONS)
        ended = time.monotonic()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(heard) == 1 and heard[0] < ended
    assert pilum.last_report()["version_committed"] == 2


def test_cancel_from_another_thread(original, tmp_path):
    import threading

    from pilum import _core

    table = tmp_path / "t.lance"
    shutil.copytree(original, table)
    context = _core.Context()
    threading.Timer(0.1, context.cancel).start()
    with pytest.raises(pilum.CancelledError):
        _core.create_index(context, (str(table).encode(), 0, None, ()),
                           {"column": b"vec", "type": b"IVF_PQ", **OPTIONS})
    assert lance.dataset(str(table)).describe_indices() == []
