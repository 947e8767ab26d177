"""The benchmark's own arithmetic: its tables, its true neighbours, its bars, its page."""
import json
import subprocess
import sys
from pathlib import Path

import lance
import numpy as np
import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

import bench_bars
import bench_data
import bench_quality
import bench_tools
import fit


@pytest.mark.parametrize("kind,dim", [("latent", 48), ("real", 384), ("gaussian", 24)])
def test_tables_hold_their_rows_and_true_neighbours(tmp_path, kind, dim):
    shape = bench_data.Shape(kind, bench_data.BLOCK_ROWS + 500, dim, 3, payload_bytes=7, queries=5, raw=True)
    made = bench_data.make(shape, tmp_path)
    dataset = lance.dataset(str(made.table))
    rows = np.fromfile(made.raw, dtype=np.float32).reshape(-1, dim)
    stored = dataset.to_table()
    assert (stored.num_rows, len(dataset.get_fragments())) == (shape.rows, 3)
    assert np.array_equal(stored["vec"].combine_chunks().flatten().to_numpy(), rows.reshape(-1))
    assert {len(value) for value in stored["payload"].to_pylist()} == {7}
    for query, found in zip(made.queries, made.truth):
        assert set(np.argsort(((rows - query) ** 2).sum(axis=1))[: bench_data.K]) == set(found)
    stamp = made.raw.stat().st_mtime_ns
    assert bench_data.make(shape, tmp_path).raw.stat().st_mtime_ns == stamp


def test_recall_is_compared_at_equal_rows():
    mine = [{"nprobes": 1, "rows_scanned": 100, "recall": 0.5}, {"nprobes": 2, "rows_scanned": 1000, "recall": 0.9}]
    theirs = [{"nprobes": 1, "rows_scanned": 200, "recall": 0.4}, {"nprobes": 2, "rows_scanned": 2000, "recall": 0.9}]
    assert bench_quality.recall_at(mine, 100) == pytest.approx(0.5)
    assert bench_quality.recall_at(mine, 50) is None
    assert 0 < bench_quality.worst_gap(mine, theirs, 20_000) < 0.3


def line(case, tool, kind, seconds, **more):
    return {"case": case, "tool": tool, "type": kind, "run": 0, "rows": 128_116, "dim": 2048, "vector_bytes": 128_116 * 8192, "seconds": seconds,
            "peak_rss_bytes": 1 << 27, "budget": 1 << 28, "threads": 2, "num_partitions": 500, "num_sub_vectors": 128, "at": "2026-01-01T00:00:00Z", "load": 2.1,
            "setting": {"cpu": "a processor", "cores": 2, "memory_gib": 24.0, "kernels": "avx2", "commit": "abc", "pylance": "1", "faiss": "2"}, **more}


def results():
    phases = {phase: 1.0 for phase in ("plan", "train", "encode", "merge", "verify", "commit")} | {"total": 6.0}
    plan = {"total": 6.5, "bytes_read": 10, "bytes_written": 10, "peak_rss_bytes": 1 << 27}
    mine = {"phases": phases, "cpu_phases": {phase: 1.5 for phase in phases}, "plan": plan, "bytes_read": 10, "bytes_written": 10}
    lines = [line("bars", "pilum", "IVF_PQ", 10.0, **mine), line("bars", "pylance", "IVF_PQ", 200.0)]
    lines += [line("budget", "pilum", kind, 9.0, **mine) for kind in ("IVF_FLAT", "IVF_SQ", "IVF_PQ")]
    lines.append({**line("kernel_bench", "program", None, 1), "records": [
        {"bench": "kernel", "table": "avx2", "kernel": "nearest", "dim": 768, "gops": 70.5, "peak_gflops": 90.0, "of_peak": 0.78},
        {"bench": "encode 128116 x 2048, M 128", "by": "faiss", "seconds": 20.0},
        {"bench": "encode 128116 x 2048, M 128", "by": "pilum avx2", "seconds": 2.0, "wrong": 0, "differ": 3},
        {"part": "ivf_train", "tool": "pilum", "run": 0, "rows": 128116, "dim": 2048, "k": 1000, "seconds": 3.0, "loss": 50.5},
        {"bar": "ivf_train", "seconds": 3.0, "peer_seconds": 45.0, "quality": "loss +2.00% against FAISS", "good": False}]})
    return lines


def test_bars_are_met_or_not():
    rows = {row["work"]: row for row in bench_bars.bars_of(results())}
    assert rows["IVF_PQ, 128,116 x 2,048, K 500, M 128"]["ratio"] == pytest.approx(20)
    assert rows["IVF_PQ, 128,116 x 2,048, K 500, M 128"]["met"] is True
    assert rows["PQ encoding, M 128"]["met"] is True
    assert rows["IVF training, 128,116 x 2,048, K 1,000"]["ratio"] == pytest.approx(15)
    assert rows["IVF training, 128,116 x 2,048, K 1,000"]["met"] is False  # its loss is too high
    assert rows["1 GB table within 256 MiB, all three types"]["met"] is True
    assert rows["IVF_SQ, 128,116 x 2,048, K 500"]["met"] is None


def test_the_page_is_written_from_results(tmp_path):
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in results()) + '{"cut off')
    run = [sys.executable, BENCH / "report.py", "--results", tmp_path / "results.jsonl", "--out", tmp_path]
    subprocess.run(run, check=True, capture_output=True)
    page = (tmp_path / "performance.md").read_text()
    assert "| `nearest` | 768 | 70.5 (78%) |" in page
    assert "| ivf_train 128116 x 2048, K 1000 | pilum | 3.000 |" in page
    assert "| 128,116 IVF_PQ | encode | 1.00 | 17% | 75% | 1.05 GB/s of the column" in page
    assert "a processor, 2 cores" in page and "**20.0x**" in page and "$" not in page
    assert (tmp_path / "performance-bars.svg").read_text().startswith("<?xml")
    first = (tmp_path / "performance-bars.svg").read_bytes()
    subprocess.run(run, check=True, capture_output=True)
    assert (tmp_path / "performance-bars.svg").read_bytes() == first


def test_a_process_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(bench_tools, "IDLE_SECONDS", 2)
    done, why = bench_tools.run_bounded(["sleep", "60"], 30)
    assert done is None and why.startswith("hung")
    done, why = bench_tools.run_bounded([sys.executable, "-c", "while True: pass"], 3)
    assert done is None and why == "not done in 3 s"


def test_weights_are_found_again():
    """Builds that took as long as the parts times other weights: these are found, and only those."""
    now = {key: 1.0 for key in fit.present_weights()}
    true = {key: 0.5 + index % 4 for index, key in enumerate(now)}
    rng = np.random.default_rng(3)
    runs = []
    for i in range(120):
        parts = {phase: {name: float(rng.lognormal(-3, 1)) for where, name in now if where == phase} for phase in fit.FITTED}
        actual = {phase: sum(seconds * true[phase, name] for name, seconds in parts[phase].items()) * rng.lognormal(0, 0.02) for phase in fit.FITTED}
        actual["total"] = sum(actual.values())
        runs.append({"plan": {"plan": 0.0, "parts": parts}, "actual": actual, "weights": {f"{phase} {name}": 1.0 for phase, name in now}})
    runs[7]["actual"] = {phase: 20 * seconds for phase, seconds in runs[7]["actual"].items()}  # somebody else used the machine
    fit_before, fit.PULL = fit.PULL, 1e-3
    try:
        found = fit.fit(runs, now, fit.FITTED)
    finally:
        fit.PULL = fit_before
    assert all(found[key] == pytest.approx(true[key], rel=0.15) for key in now), found
    assert fit.is_good(fit.planned_with(runs[0], found)["total"], runs[0]["actual"]["total"])
