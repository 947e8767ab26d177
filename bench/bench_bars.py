"""The bars that pilum is to clear, and where it stands: one row each, from the lines of results.jsonl."""
import statistics

import bench_quality

QUALITY_SLACK = 0.01  # recall by which two indexes of equal quality may differ: noise of 100 queries
MIB = 1 << 20


def median_seconds(lines, case, tool, kind):
    seconds = [line["seconds"] for line in lines
               if (line["case"], line["tool"], line.get("type")) == (case, tool, kind) and "seconds" in line]
    return (statistics.median(seconds), min(seconds), max(seconds), len(seconds)) if seconds else None


def recall_of(lines, case, tool, kind):
    return next((line["recall"] for line in lines if (line["case"], line["tool"], line.get("type")) == (case, tool, kind)
                 and "recall" in line), None)


def bar(work, against, least, aim, mine=None, peer=None, quality=None, good=True, unit="s"):
    """quality: what is said of it; good: not below the peer's."""
    ratio = peer / mine if mine and peer else None
    met = None if ratio is None else bool(ratio >= least and good)
    return {"work": work, "against": against, "least": least, "aim": aim, "mine": mine, "peer": peer, "ratio": ratio,
            "quality": quality, "met": met, "unit": unit}


# ---- builds against a peer ------------------------------------------------------------------------


def build_bar(lines, kind, least, aim, tool="pylance"):
    mine, peer = (median_seconds(lines, "bars", name, kind) for name in ("pilum", tool))
    a, b = (recall_of(lines, "bars", name, kind) for name in ("pilum", tool))
    rows = next((line["rows"] for line in lines if line["case"] == "bars" and "rows" in line), 0)
    gap = bench_quality.worst_gap(a, b, rows) if a and b else None
    quality = "recall not compared" if gap is None else f"recall at least {gap:+.3f} at equal rows scanned"
    return bar(f"{kind}, 128,116 x 2,048, K 500" + (", M 128" if kind == "IVF_PQ" else ""), tool, least, aim,
               mine and mine[0], peer and peer[0], quality, gap is None or gap >= -QUALITY_SLACK)


# ---- parts, from the programs that measure them ------------------------------------------------------


PARTS = [  # (name of a bar that a program prints, or what the "bench" of its runs begins with; work, against, least, aim)
    ("ivf_train", "IVF training, 128,116 x 2,048, K 1,000", "faiss.Kmeans, 10 iterations", 12, 20),
    ("pq_train", "PQ training, M 128", "faiss ProductQuantizer.train, 25 iterations", 4, 8),
    ("assign low_rank 128116 x 2048, K 1000", "exact assignment, 128,116 x 2,048, K 1,000", "faiss IndexFlatL2.search", 5, 8),
    ("assign isotropic 50000 x 768, K 1000", "exact assignment, Gaussian 50,000 x 768, K 1,000", "faiss IndexFlatL2.search", 1.5, 3),
    ("encode 128116 x 2048, M 128", "PQ encoding, M 128", "faiss compute_codes", 4, 10),
]


def medians_of(records, name, who):
    """{by: median seconds} of the runs of a piece of work; who: what their "by" begins with."""
    found = {}
    for record in records:
        if record.get("bench") == name and record.get("by", "").startswith(who) and "seconds" in record:
            found.setdefault(record["by"], []).append(record["seconds"])
    return {by: statistics.median(seconds) for by, seconds in found.items()}


def part_bars(lines):
    records = [record for line in lines for record in line.get("records", [])]
    found = []
    for name, work, against, least, aim in PARTS:
        told = next((record for record in records if record.get("bar") == name), None)
        if told:
            found.append(bar(work, against, least, aim, told["seconds"], told["peer_seconds"], told.get("quality"), told.get("good", True)))
            continue
        mine, peers = medians_of(records, name, "pilum"), medians_of(records, name, "faiss")
        runs = [record for record in records if record.get("bench") == name and record.get("by", "").startswith("pilum")]
        wrong, differ = (sum(run.get(key) or 0 for run in runs) for key in ("wrong", "differ"))
        found.append(bar(work, against, least, aim, min(mine.values(), default=None), min(peers.values(), default=None),
                         f"{wrong} wrong answers, {differ} other than the peer's" if runs else None, wrong == 0))
    return found


# ---- the big table and the small budget ----------------------------------------------------------------


def seed_bars(lines):
    """Published for 4 workers of 4 cores: minutes. The bar is a number of seconds on two cores."""
    found = []
    for kind, published, limit, aim in (("IVF_SQ", 37 * 60, 180, 60), ("IVF_FLAT", 36.5 * 60, 180, 60), ("IVF_PQ", 239 * 60, 240, 90)):
        mine = next((m for m in (median_seconds(lines, case, "pilum", kind) for case in ("seed", "seed-wide")) if m), None)
        peaks = [line["peak_rss_bytes"] / line["budget"] for line in lines
                 if line["case"] in ("seed", "seed-wide") and line.get("type") == kind and "seconds" in line]
        held = not peaks or max(peaks) <= 1.05
        quality = f"peak {max(peaks):.0%} of the budget of 4 GiB" if peaks else None
        found.append(bar(f"{kind}, 1,281,167 x 2,048, K 1,000, 4 GiB", f"published, 4 x 4 cores; bar {limit} s, aim {aim} s",
                         published / limit, published / aim, mine and mine[0], published, quality, held))
    return found


def budget_bar(lines):
    runs = [line for line in lines if line["case"] == "budget"]
    peaks = {line["type"]: line["peak_rss_bytes"] / line["budget"] for line in runs if "seconds" in line}
    row = bar("1 GB table within 256 MiB, all three types", "the budget", None, None)
    row["quality"] = ", ".join(f"{kind} {share:.0%}" for kind, share in sorted(peaks.items())) or None
    row["met"] = len(peaks) == 3 and max(peaks.values()) <= 1.05 if runs else None
    return row


def wide_bar(lines):
    """Bytes read: sample, one pass over the vectors, runs and index once, and a little."""
    runs = [line for line in lines if line["case"] in ("wide", "seed-wide") and "bytes_read" in line]
    row = bar("a wide second column is not read", "sample + one pass of the vector column", None, None)
    said, good = [], True
    most = {line["type"]: line for line in sorted(runs, key=lambda line: line["bytes_read"])}
    for line in most.values():
        row_bytes = line["vector_bytes"] / line["rows"]
        code = {"IVF_FLAT": row_bytes, "IVF_SQ": line["dim"], "IVF_PQ": line["num_sub_vectors"]}[line["type"]] + 8
        allowed = (line["rows"] + line["sample_rows"]) * row_bytes + 2 * line["rows"] * code
        good = good and line["bytes_read"] <= 1.02 * allowed + 8 * MIB
        said.append(f"{line['type']} {line['bytes_read'] / 1e6:.0f} MB of {allowed / 1e6:.0f} allowed")
    row["quality"] = "; ".join(said) or None
    row["met"] = good if runs else None
    return row


def bars_of(lines):
    rows = [build_bar(lines, "IVF_PQ", 16, 25), build_bar(lines, "IVF_SQ", 5, 8), build_bar(lines, "IVF_FLAT", 5, 8)]
    return rows + part_bars(lines) + seed_bars(lines) + [budget_bar(lines), wide_bar(lines)]


def met_text(row):
    return {None: "not measured", True: "met", False: "NOT met"}[row["met"]]


def print_bars(rows):
    print(f"\n{'bar':<52} {'peer s':>8} {'pilum s':>8} {'ratio':>7} {'bar':>6} {'aim':>6}  ")
    for row in rows:
        if row["met"] is None:
            continue
        numbers = [f"{row[key]:.2f}" if row[key] is not None else "-" for key in ("peer", "mine", "ratio")]
        limits = [f"{row[key]:.3g}" if row[key] is not None else "-" for key in ("least", "aim")]
        print(f"{row['work']:<52} {numbers[0]:>8} {numbers[1]:>8} {numbers[2]:>7} {limits[0]:>6} {limits[1]:>6}  {met_text(row)}"
              + (f"; {row['quality']}" if row["quality"] else ""))
