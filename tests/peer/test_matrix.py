"""The main promise: what pilum builds, stock pylance lists, plans with and searches.

Every table history x file version x index type x metric x element type. The short matrix
takes each history with two builds and each pair of the other axes on a plain table; the
whole product has the marker `full`.
"""
import itertools
import zlib

import lance
import pytest

from helpers import (create_index, index_named, mean_recall, nearest, queries_of, usable_rows, uses_index)
from histories import CATALOGUE

VERSIONS = ("2.0", "2.1", "2.2")
TYPES = ("FLAT", "SQ", "PQ8", "PQ4")
METRICS = ("l2", "cosine", "dot")
ELEMENTS = ("f32", "f16", "f64")
DIM = 32
PARTITIONS = 8
PRODUCT = list(itertools.product(VERSIONS, TYPES, METRICS, ELEMENTS))

# recall@10 with every partition probed. Refined results are exact distances, so codes only
# have to bring the right rows among the first k * refine_factor.
FLOORS = {"FLAT": (1.0, {}), "SQ": (0.97, {}), "PQ8": (0.90, {"refine_factor": 10}), "PQ4": (0.90, {"refine_factor": 20})}


def short_cases():
    """(history, version, type, metric, element): repeatable, spread over the axes."""
    for name in CATALOGUE:
        at = zlib.crc32(name.encode())
        yield (name, VERSIONS[at % 3], "FLAT", METRICS[at // 3 % 3], ELEMENTS[at // 9 % 3])
        yield (name, VERSIONS[at // 27 % 3], TYPES[1 + at // 81 % 3], METRICS[at // 243 % 3], ELEMENTS[at // 729 % 3])
    for at, (kind, metric, element) in enumerate(itertools.product(TYPES, METRICS, ELEMENTS)):
        yield ("many_fragments", VERSIONS[at % 3], kind, metric, element)


SHORT = sorted(set(short_cases()))
FULL = sorted({(name, *rest) for name in CATALOGUE for rest in PRODUCT} - set(SHORT))


def check_report(report, dataset, rows):
    dropped = report["rows"]["dropped"]
    physical = sum(fragment.physical_rows for fragment in dataset.get_fragments())
    assert report["rows"]["indexed"] == len(rows.ids)
    assert {key: dropped[key] for key in rows.dropped} == rows.dropped
    assert dropped["deleted"] == physical - dataset.count_rows()
    assert report["rows"]["total"] == report["rows"]["indexed"] + sum(dropped.values())
    assert sum(report["partitions"]["sizes"]) == len(rows.ids)
    assert report["version_committed"] == dataset.version


def check_build(path, name, version, kind, metric, element):
    entry = CATALOGUE[name]
    before = entry.make(path, element, DIM, version).version
    report = create_index(path, entry.argument, kind, metric=metric, partitions=PARTITIONS, name="by_pilum",
                          **({"num_sub_vectors": 8} if kind.startswith("PQ") else {}))

    dataset = lance.dataset(str(path))
    assert dataset.version == before + 1
    assert report["version_read"] == before
    listed = index_named(dataset, "by_pilum")
    assert listed is not None, "stock pylance does not list the index"
    assert listed.index_type == ("IVF_PQ" if kind.startswith("PQ") else f"IVF_{kind}")
    assert listed.details["metric_type"].lower() == metric
    rows = usable_rows(dataset, entry.column, metric)
    check_report(report, dataset, rows)

    queries = queries_of(rows)
    assert uses_index(dataset, entry.column, queries[0], nprobes=PARTITIONS)
    floor, options = FLOORS[kind]
    assert mean_recall(dataset, entry.column, rows, metric, nprobes=PARTITIONS, **options) >= floor
    if kind == "FLAT":
        check_distances(dataset, entry.column, rows, metric, queries[0])


def check_distances(dataset, column, rows, metric, query):
    """FLAT with every partition probed is the exact answer, distances included."""
    found, distances = nearest(dataset, column, query, nprobes=PARTITIONS)
    exact = dict(zip(rows.ids.tolist(), rows.distances(query, metric)))
    for row, distance in zip(found.tolist(), distances):
        assert distance == pytest.approx(exact[row], rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("case", SHORT, ids="-".join)
def test_index_is_found_and_right(tmp_path, case):
    check_build(tmp_path / "t.lance", *case)


@pytest.mark.full
@pytest.mark.parametrize("case", FULL, ids="-".join)
def test_index_is_found_and_right_full(tmp_path, case):
    check_build(tmp_path / "t.lance", *case)
