"""An IVF index by FAISS from mapped rows: python faiss_build.py FOLDER TYPE DIM K M THREADS; one JSON line."""
import json
import resource
import sys
import time
from pathlib import Path

import faiss
import numpy as np

PROBES = (1, 2, 4, 8, 16, 32, 64)
K, REFINE = 10, 10
ENOUGH = 0.06  # of the rows: no larger nprobes is measured
CHUNK = 1 << 16  # rows added at once


def make_index(kind, dim, partitions, sub_vectors):
    quantizer = faiss.IndexFlatL2(dim)
    if kind == "IVF_FLAT":
        index = faiss.IndexIVFFlat(quantizer, dim, partitions)
    elif kind == "IVF_SQ":
        index = faiss.IndexIVFScalarQuantizer(quantizer, dim, partitions, faiss.ScalarQuantizer.QT_8bit)
    else:
        index = faiss.IndexIVFPQ(quantizer, dim, partitions, sub_vectors, 8)
    index.own_fields = True
    quantizer.this.disown()
    return index


def build(index, rows, file):
    """Seconds of training, adding and writing."""
    marks = [time.monotonic()]
    index.train(rows)
    marks.append(time.monotonic())
    for first in range(0, len(rows), CHUNK):
        index.add(rows[first : first + CHUNK])
    marks.append(time.monotonic())
    faiss.write_index(index, str(file))
    marks.append(time.monotonic())
    return dict(zip(("train", "encode", "merge"), np.diff(marks).tolist()))


def recall(index, kind, rows, queries, truth):
    """[{nprobes, rows_scanned, recall}]; PQ is refined with exact distances, as pylance's search is."""
    lists = index.invlists
    sizes = np.array([lists.list_size(i) for i in range(index.nlist)])
    _, order = index.quantizer.search(queries, min(max(PROBES), index.nlist))
    points = []
    for nprobes in (n for n in PROBES if n <= index.nlist):
        index.nprobe = nprobes
        _, found = index.search(queries, K * REFINE if kind == "IVF_PQ" else K)
        good = 0
        for query, ids, best in zip(queries, found, truth):
            ids = ids[ids >= 0]
            if kind == "IVF_PQ":
                ids = np.sort(ids)
                ids = ids[np.argsort(((rows[ids] - query) ** 2).sum(axis=1))[:K]]
            good += len(set(ids.tolist()) & set(best.tolist()))
        points.append({"nprobes": nprobes, "rows_scanned": round(float(sizes[order[:, :nprobes]].sum(axis=1).mean()), 1),
                       "recall": round(good / truth.size, 4)})
        if len(points) > 1 and points[-1]["rows_scanned"] > ENOUGH * sizes.sum():
            break
    return points, {"max": int(sizes.max()), "cv": round(float(sizes.std() / sizes.mean()), 3)}


def main():
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    dim, partitions, sub_vectors, threads = map(int, sys.argv[3:7])
    faiss.omp_set_num_threads(threads)
    rows = np.memmap(folder / "rows.f32", dtype=np.float32, mode="r").reshape(-1, dim)
    index, file = make_index(kind, dim, partitions, sub_vectors), folder / "faiss.index"
    try:
        phases = build(index, rows, file)
    finally:
        file.unlink(missing_ok=True)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    points, sizes = recall(index, kind, rows, np.load(folder / "queries.npy"), np.load(folder / "truth.npy"))
    print(json.dumps({"seconds": sum(phases.values()), "cpu_seconds": usage.ru_utime + usage.ru_stime,
                      "peak_rss_bytes": usage.ru_maxrss * 1024, "phases": phases, "recall": points, "partitions": sizes,
                      "version": faiss.__version__}))


if __name__ == "__main__":
    main()
