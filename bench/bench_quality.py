"""How good an index is: recall@10 where a given number of rows is scanned, through stock pylance.

Partitions of unequal size make equal nprobes unequal work, so recalls are compared at equal rows scanned.
"""
import os

os.environ.setdefault("LANCE_LOG", "error")
os.environ.setdefault("LANCE_INCLUDE_VECTOR_CENTROIDS", "false")

import lance
import numpy as np

from bench_data import K

PROBES = (1, 2, 4, 8, 16, 32, 64)
REFINE = {"IVF_PQ": {"refine_factor": 10}}
SHARES = (0.01, 0.02, 0.05)  # of the rows
ENOUGH = 0.06  # of the rows: no larger nprobes is measured


def scanned_rows(dataset, name, queries):
    """[query][nprobes - 1] rows scanned, and the sizes of all partitions."""
    centroids = np.asarray(dataset.get_ivf_model(name).centroids.to_pylist(), dtype=np.float32)
    sizes = sum(np.array([partition["size"] for partition in index["partitions"]])
                for index in dataset.index_statistics(name)["indices"])
    distance = (centroids**2).sum(axis=1) - 2 * (queries @ centroids.T)
    return np.cumsum(sizes[np.argsort(distance, axis=1)], axis=1), sizes


def measure(table, name, kind, queries, truth):
    """([{nprobes, rows_scanned, recall}], {max, cv}), whoever built the index."""
    dataset = lance.dataset(str(table))
    scanned, sizes = scanned_rows(dataset, name, queries)
    starts = {fragment.fragment_id: first for fragment, first in zip(
        dataset.get_fragments(), np.cumsum([0] + [fragment.count_rows() for fragment in dataset.get_fragments()]))}
    points = []
    for nprobes in (n for n in PROBES if n <= len(sizes)):
        good = 0
        for query, best in zip(queries, truth):
            wanted = {"column": "vec", "q": query, "k": K, "nprobes": nprobes, **REFINE.get(kind, {})}
            hits = dataset.scanner(columns=["_rowid"], nearest=wanted, disable_scoring_autoprojection=True).to_table()
            rows = {starts[row >> 32] + (row & 0xFFFFFFFF) for row in hits["_rowid"].to_pylist()}
            good += len(rows & set(best.tolist()))
        points.append({"nprobes": nprobes, "rows_scanned": round(float(scanned[:, nprobes - 1].mean()), 1),
                       "recall": round(good / truth.size, 4)})
        if len(points) > 1 and points[-1]["rows_scanned"] > ENOUGH * sizes.sum():
            break
    return points, {"max": int(sizes.max()), "cv": round(float(sizes.std() / sizes.mean()), 3)}


def recall_at(points, rows):
    """Recall where `rows` are scanned, between the measured points on a logarithmic axis; None outside them."""
    xs = [np.log(point["rows_scanned"]) for point in points]
    value = float(np.interp(np.log(rows), xs, [point["recall"] for point in points], left=np.nan, right=np.nan))
    return None if np.isnan(value) else value


def worst_gap(mine, theirs, rows):
    """The least (my recall - theirs) over SHARES of the rows; None when nothing can be compared."""
    pairs = [(recall_at(mine, share * rows), recall_at(theirs, share * rows)) for share in SHARES]
    gaps = [a - b for a, b in pairs if a is not None and b is not None]
    return min(gaps) if gaps else None
