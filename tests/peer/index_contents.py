"""An index as numpy sees it: its files are read by stock pylance's file reader, and every row's partition, code and
distance is computed again from the definitions in docs/format.md."""
import json
import re
from dataclasses import dataclass
from pathlib import Path

import lance
import numpy as np
from lance.file import LanceFileReader

from helpers import NUMPY_TYPE, index_named


@dataclass
class Contents:
    """Rows in the order of the file."""

    kind: str  # FLAT, SQ, PQ
    metric: str
    rowids: np.ndarray
    partitions: np.ndarray  # of each row
    codes: np.ndarray  # [n, width]; PQ not transposed, four bits unpacked
    centroids: np.ndarray  # [K, D], the column's type
    bounds: tuple = None
    codebook: np.ndarray = None  # [M, 2^bits, D/M]


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def message(data):
    """Fields of a protobuf message: number -> list of values."""
    fields, at = {}, 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        elif key & 7 == 1:
            value, at = data[at:at + 8], at + 8
        elif key & 7 == 2:
            size, at = varint(data, at)
            value, at = data[at:at + size], at + size
        else:
            raise AssertionError(f"wire type {key & 7}")
        fields.setdefault(key >> 3, []).append(value)
    return fields


def packed(values):
    numbers = []
    for value in values:
        if isinstance(value, int):
            numbers.append(value)
            continue
        at = 0
        while at < len(value):
            number, at = varint(value, at)
            numbers.append(number)
    return numbers


def tensor(data):
    fields = message(data)
    element = {1: "<f2", 2: "<f4", 3: "<f8"}[fields[1][0]]
    return np.frombuffer(fields[3][0], element).reshape(packed(fields[2]))


def untransposed(codes, lengths):
    parts, at = [], 0
    for length in lengths:
        block = codes[at:at + length]
        parts.append(block.reshape(-1).reshape(block.shape[1], length).T)
        at += length
    return np.concatenate(parts) if parts else codes


def contents(uri, name):
    """The one segment of an index."""
    dataset = lance.dataset(uri)
    index = index_named(dataset, name)
    (segment,) = index.segments
    root = re.sub("^file://", "", uri)
    folder = Path(root) / "_indices" / str(segment.uuid)
    main = LanceFileReader(str(folder / "index.idx"))
    aux = LanceFileReader(str(folder / "auxiliary.idx"))
    meta = {key.decode(): value.decode() for key, value in aux.metadata().schema.metadata.items()}
    model = message(bytes(main.read_global_buffer(int(main.metadata().schema.metadata[b"lance:ivf"]))))
    place = message(bytes(aux.read_global_buffer(int(meta["lance:ivf"]))))
    centroids = tensor(model[4][0])
    offsets, lengths = packed(place[2]), packed(place[3])
    assert len(lengths) == len(centroids)
    assert offsets == [0, *np.cumsum(lengths)[:-1].tolist()]
    table = aux.read_all(batch_size=1 << 20).to_table().combine_chunks()
    rowids = table["_rowid"].to_numpy()
    assert len(rowids) == sum(lengths) == aux.metadata().num_rows
    kind = {"flat": "FLAT", "__sq_code": "SQ", "__pq_code": "PQ"}[table.column_names[1]]
    column = table.column(1)
    width = column.type.list_size
    codes = column.combine_chunks().flatten().to_numpy().reshape(-1, width)
    made = Contents(kind, meta["distance_type"], rowids, np.repeat(np.arange(len(lengths)), lengths), codes, centroids)
    storage = json.loads(json.loads(meta["storage_metadata"])[0])
    if kind == "SQ":
        made.bounds = (storage["bounds"]["start"], storage["bounds"]["end"])
    if kind == "PQ":
        read_pq(made, storage, aux, lengths)
    return made


def read_pq(made, storage, aux, lengths):
    m, bits, dim = storage["num_sub_vectors"], storage["nbits"], storage["dimension"]
    raw = tensor(bytes(aux.read_global_buffer(storage["codebook_position"])))
    made.codebook = raw.reshape(m, 1 << bits, dim // m)
    codes = untransposed(made.codes, lengths) if storage["transposed"] else made.codes
    if bits == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=2).reshape(len(codes), m)
    made.codes = codes


# ---- what should be in it ------------------------------------------------------------------------


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def placed_distances(vectors, made):
    """[n, K] of what assignment compares, in float64."""
    centroids = made.centroids.astype(np.float64)
    if made.metric == "dot":
        return 1 - vectors @ centroids.T
    if made.metric == "cosine":
        vectors = unit(vectors)
    return ((vectors ** 2).sum(1)[:, None] - 2 * vectors @ centroids.T + (centroids ** 2).sum(1)[None, :])


def check_contents(made, rows, element):
    """Every usable row once, in the nearest partition, with the code that its definition gives."""
    order = np.argsort(made.rowids, kind="stable")
    by_id = np.argsort(rows.ids, kind="stable")
    assert np.array_equal(made.rowids[order], rows.ids[by_id]), "row ids in the index are not those of the usable rows"
    vectors = np.empty_like(rows.vectors)
    vectors[order] = rows.vectors[by_id]  # in the order of the file
    if element == "f64" and made.metric != "cosine":  # whose length is computed first
        vectors = vectors.astype(np.float32).astype(np.float64)

    distances = placed_distances(vectors, made)
    own = distances[np.arange(len(vectors)), made.partitions]
    slack = 1e-4 if made.metric == "cosine" and element == "f16" else 2e-6
    scale = slack * (1 + (vectors ** 2).sum(1) + (made.centroids.astype(float) ** 2).sum(1).max(initial=0))
    assert (own <= distances.min(axis=1) + scale).all(), "a row is in another partition than the nearest"
    check_codes(made, vectors, element)
    return vectors


def check_codes(made, vectors, element):
    if made.metric == "cosine":
        vectors = unit(vectors)
    if made.kind == "FLAT":
        expected = vectors.astype(NUMPY_TYPE[element]).astype(float)
        assert np.allclose(made.codes.astype(float), expected, rtol=2e-3 if element == "f16" else 1e-6, atol=1e-7)
    elif made.kind == "SQ":
        lo, hi = made.bounds
        assert hi >= lo
        exact = (vectors - lo) * 255 / (hi - lo) if hi > lo else np.zeros_like(vectors)
        off = np.abs(np.clip(np.floor(exact), 0, 255) - made.codes)
        rounding = (2e-3 if element == "f16" else 1e-6) * np.abs(vectors).max(initial=0) * 255 / (hi - lo) if hi > lo else 1
        near = np.abs(exact - np.round(exact)) <= rounding
        assert (off[~near] == 0).all() and (off <= 1 + rounding).all(), "an SQ code is not that of its value"
    else:
        residuals = vectors - made.centroids.astype(float)[made.partitions] if made.metric != "dot" else vectors
        m, n_codes, width = made.codebook.shape
        parts = residuals.reshape(len(vectors), m, width)
        for j in range(m):
            book = made.codebook[j].astype(float)
            d = (parts[:, j] ** 2).sum(1)[:, None] - 2 * parts[:, j] @ book.T + (book ** 2).sum(1)[None, :]
            own = d[np.arange(len(d)), made.codes[:, j]]
            size = 1e-3 if element == "f16" else 1e-5
            slack = size * ((vectors.reshape(len(vectors), m, width)[:, j] ** 2).sum(1) + (book ** 2).sum(1).max() + 1e-12)
            assert (own <= d.min(axis=1) + slack).all(), f"sub-vector {j}: a code is not that of the nearest codeword"


def code_distances(made, query):
    """What a search that probes everything should say for each row of the index, in float64; SQ and PQ from the codes."""
    query = query.astype(np.float64)
    if made.metric == "cosine":
        query = query / np.linalg.norm(query)
    if made.kind == "FLAT":
        rows = made.codes.astype(float)
        return ((rows - query) ** 2).sum(1) if made.metric == "l2" else 1 - rows @ query
    if made.kind == "SQ":
        lo, hi = made.bounds
        step = (hi - lo) / 255
        if made.metric == "dot":
            return 1 - (lo + step * made.codes.astype(float)) @ query
        coded = np.clip(np.floor((query - lo) * 255 / (hi - lo)), 0, 255) if hi > lo else np.zeros(len(query))
        return ((made.codes.astype(float) - coded) ** 2).sum(1) * step * step
    m, _, width = made.codebook.shape
    rows = made.codebook.astype(float)[np.arange(m)[None, :], made.codes].reshape(len(made.codes), m * width)
    if made.metric == "dot":
        return 1 - rows @ query
    residual = query - made.centroids.astype(float)[made.partitions]
    distances = ((rows - residual) ** 2).sum(1)
    return distances
