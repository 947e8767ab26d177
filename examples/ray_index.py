#!/usr/bin/env python3
"""An index built by Ray workers on this machine; the same script runs on a cluster.

    python examples/ray_index.py [TABLE]

makes a small table of random groups of vectors (unless TABLE names one with a column "vector"), builds an
IVF_PQ index with two workers and looks a row up in it with stock Lance.
"""

import os
import sys
import tempfile

import lance
import numpy as np
import pyarrow as pa

import pilum.ray


def make_table(path: str, rows: int = 50_000, dim: int = 64) -> str:
    rng = np.random.default_rng(7)
    groups = rng.normal(size=(100, dim)).astype(np.float32)
    vectors = groups[rng.integers(0, len(groups), rows)] + 0.4 * rng.normal(size=(rows, dim)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel().astype(np.float32)), dim)
    lance.write_dataset(pa.table({"id": np.arange(rows), "vector": column}), path, max_rows_per_file=rows // 8)
    return path


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        table = sys.argv[1] if len(sys.argv) > 1 else make_table(os.path.join(home, "vectors.lance"))
        report = os.path.join(home, "report.json")
        dataset = pilum.ray.create_index(table, "vector", "IVF_PQ", num_workers=2, num_partitions=64, report=report)
        query = dataset.take([0], columns=["vector"])["vector"].to_pylist()[0]
        hits = dataset.to_table(
            columns=["_distance"], with_row_id=True,
            nearest={"column": "vector", "q": query, "k": 5, "nprobes": 8, "refine_factor": 5},
        )
        print(f"version {dataset.version}: {[index.name for index in dataset.describe_indices()]}")
        print(f"nearest to row 0: {hits['_rowid'].to_pylist()} at {np.round(hits['_distance'].to_pylist(), 3).tolist()}")


if __name__ == "__main__":
    main()
