#!/usr/bin/env python3
"""The demo: real vectors into a Lance table, an index by pilum, neighbours by stock pylance.

Run by `make demo`, which builds pilum first. Everything it makes is in build/demo/.
"""
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("LANCE_LOG", "error")

import lance
import numpy as np
import pyarrow as pa

ROOT = Path(__file__).resolve().parent.parent
PILUM = ROOT / "build" / "pilum"
OUT = ROOT / "build" / "demo"
TABLE = OUT / "packages.lance"
REPORT = OUT / "report.json"
DIM = 384
PARTITIONS = 64
FRAGMENT_ROWS = 2_500
ASKED = ["nginx", "postgresql", "gimp", "tmux", "stellarium"]


def step(number, text):
    print(f"\n{number}. {text}", flush=True)


def shown(path):
    """A path as the user would type it from the project's folder."""
    return path.relative_to(ROOT)


def run_pilum(*args, **kwargs):
    words = [str(shown(word)) if isinstance(word, Path) else str(word) for word in (PILUM, *args)]
    print("   $ " + " ".join(words), flush=True)
    return subprocess.run(words, check=True, text=True, cwd=ROOT, **kwargs)


def load():
    vectors = np.fromfile(ROOT / "examples" / "packages-384.f16", dtype="<f2").reshape(-1, DIM)
    names = (ROOT / "examples" / "packages-384.names").read_text().splitlines()
    assert len(names) == len(vectors)
    return vectors, names


def make_table(vectors, names):
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIM)
    table = pa.table({"name": names, "vec": values})
    dataset = lance.write_dataset(table, str(TABLE), max_rows_per_file=FRAGMENT_ROWS)
    print(f"   {dataset.count_rows():,} packages x {DIM} float16 in {len(dataset.get_fragments())} fragments: {shown(TABLE)}")


def nearest(dataset, query, k=10, **options):
    """Rows by stock pylance, always with a stated number of probes."""
    wanted = {"column": "vec", "q": query.astype(np.float32), "k": k, **options}
    return dataset.scanner(columns=["name", "_distance"], nearest=wanted, with_row_id=True,
                           disable_scoring_autoprojection=True).to_table()


def show_neighbours(dataset, vectors, names):
    width = max(map(len, ASKED))
    for name in ASKED:
        hits = nearest(dataset, vectors[names.index(name)], k=6, nprobes=16, refine_factor=10)
        pairs = zip(hits["name"].to_pylist(), hits["_distance"].to_pylist())
        near = ", ".join(f"{other} {distance:.2f}" for other, distance in pairs if other != name)
        print(f"   {name:>{width}}  {near}")


def show_recall(dataset, vectors):
    rng = np.random.default_rng(7)
    queries = rng.choice(len(vectors), 200, replace=False)
    exact_vectors = vectors.astype(np.float32)
    exact_vectors /= np.linalg.norm(exact_vectors, axis=1, keepdims=True)
    exact = np.argsort(-(exact_vectors[queries] @ exact_vectors.T), axis=1, kind="stable")[:, :10]
    row_ids = dataset.to_table(columns=[], with_row_id=True)["_rowid"].to_numpy()
    print(f"   recall@10 of {len(queries)} queries against brute force")
    print(f"   {'nprobes':>7}  {'codes alone':>11}  {'refined x10':>11}")
    for nprobes in (1, 4, 16, PARTITIONS):
        found = []
        for options in ({}, {"refine_factor": 10}):
            same = 0
            for query, best in zip(queries, exact):
                hits = nearest(dataset, vectors[query], nprobes=nprobes, **options)
                same += len(set(hits["_rowid"].to_pylist()) & set(row_ids[best].tolist()))
            found.append(same / (10 * len(queries)))
        print(f"   {nprobes:>7}  {found[0]:>11.3f}  {found[1]:>11.3f}")


def main():
    began = time.monotonic()
    print("pilum demo: an IVF_PQ index over the packages of Debian 12")

    step(1, "A Lance table, written by stock pylance")
    vectors, names = load()
    make_table(vectors, names)

    step(2, "The index, built by pilum")
    run_pilum("create-index", TABLE, "--column", "vec", "--type", "IVF_PQ", "--metric", "cosine",
              "--num-partitions", PARTITIONS, "--report", REPORT)

    step(3, "Opened by stock pylance " + lance.__version__)
    dataset = lance.dataset(str(TABLE))
    for index in dataset.describe_indices():
        print(f"   {index.name}: {index.index_type} on {', '.join(index.field_names)}, version {dataset.version} of the table")
    plan = dataset.scanner(nearest={"column": "vec", "q": vectors[0].astype(np.float32), "k": 10, "nprobes": 4}).explain_plan()
    if "ANNSubIndex" not in plan:
        sys.exit("the query plan does not use the index:\n" + plan)
    print("   its query plan uses the index; nearest packages by description, with cosine distance:")
    show_neighbours(dataset, vectors, names)

    step(4, "How good is it?")
    show_recall(dataset, vectors)

    step(5, "The same question to pilum itself")
    row_of = dict(zip(*(dataset.to_table(columns=["name"], with_row_id=True)[c].to_pylist() for c in ("name", "_rowid"))))
    name_of = {row: name for name, row in row_of.items()}
    answer = run_pilum("search", TABLE, "--column", "vec", "--row", row_of["nginx"], "-k", "6", "--nprobes", "16",
                       "--refine-factor", "10", "--json", stdout=subprocess.PIPE)
    hits = json.loads(answer.stdout)["rows"]
    print("   " + ", ".join(f"{name_of[hit['rowid']]} {hit['distance']:.2f}" for hit in hits))

    report = json.loads(REPORT.read_text())
    print(f"\nDone in {time.monotonic() - began:.1f} s, {report['seconds']['total']:.1f} s of it the index."
          f" The report of the build: {shown(REPORT)}")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"demo: `{Path(error.cmd[0]).name} {error.cmd[1]}` ended with status {error.returncode}")
    except KeyboardInterrupt:
        sys.exit(130)
