"""The bars that pilum is to clear, and where it stands: one row each, from the lines of results.jsonl."""
import re
import statistics

import bench_quality

QUALITY_SLACK = 0.01  # recall by which two indexes of equal quality may differ: noise of 100 queries
MIB = 1 << 20


def median_seconds(lines, case, tool, kind):
    seconds = [line["seconds"] for line in lines
               if (line["case"], line["tool"], line["type"]) == (case, tool, kind) and "seconds" in line]
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


PARTS = [  # (what their lines' "bench" begins with, work, against, least, aim, key of what is to be small)
    (r"ivf .*128116 x 2048, K 1000", "IVF training, 128,116 x 2,048, K 1,000", "faiss.Kmeans, 10 iterations", 12, 20, "loss"),
    (r"pq .*M 128", "PQ training, M 128", "faiss ProductQuantizer.train, 25 iterations", 4, 8, "error"),
    (r"assign low_rank 128116 x 2048, K 1000", "exact assignment, 128,116 x 2,048, K 1,000", "faiss IndexFlatL2.search", 5, 8, "wrong"),
    (r"assign isotropic 50000 x 768, K 1000", "exact assignment, Gaussian 50,000 x 768, K 1,000", "faiss IndexFlatL2.search", 1.5, 3,
     "wrong"),
    (r"encode .*M 128", "PQ encoding, M 128", "faiss compute_codes", 4, 10, "wrong"),
]
LOSS_SLACK = 1.01


def records_of(lines, pattern, who):
    """Lines of the programs about one piece of work; who: what their "by" begins with."""
    return [record for line in lines for record in line.get("records", [])
            if re.match(pattern, record.get("bench", "")) and record.get("by", "").startswith(who) and "seconds" in record]


def part_quality(mine, peers, key):
    """(what is said, whether it is good enough)."""
    if key == "wrong":
        wrong = sum(record.get("wrong") or 0 for record in mine)
        differ = max((record.get("differ") or 0 for record in mine), default=0)
        return f"{wrong} wrong answers, {differ} other than the peer's", wrong == 0
    ours, theirs = ([record[key] for record in records if key in record] for records in (mine, peers))
    if not ours or not theirs:
        return None, True
    share = statistics.median(ours) / statistics.median(theirs)
    return f"{key} {share - 1:+.1%} of the peer's", share <= LOSS_SLACK


def part_bars(lines):
    found = []
    for pattern, work, against, least, aim, key in PARTS:
        peers = records_of(lines, pattern, "faiss")
        tables = {}
        for record in records_of(lines, pattern, "pilum"):
            tables.setdefault(record["by"], []).append(record)
        mine = min(tables.values(), key=lambda runs: statistics.median(run["seconds"] for run in runs), default=[])
        quality, good = part_quality(mine, peers, key)
        found.append(bar(work, against, least, aim, *(statistics.median(run["seconds"] for run in runs) if runs else None
                                                      for runs in (mine, peers)), quality if mine else None, good))
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
    for line in runs:
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
