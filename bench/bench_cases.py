"""What is measured: tables, settings, tools and how often, most important first."""
import os
from dataclasses import dataclass, field

from bench_data import Shape

TYPES = ("IVF_FLAT", "IVF_SQ", "IVF_PQ")
MIB, GIB = 1 << 20, 1 << 30


@dataclass(frozen=True)
class Case:
    name: str
    what: str
    shape: Shape
    partitions: int
    sub_vectors: int
    types: tuple = TYPES
    runs: dict = field(default_factory=lambda: {"pilum": 1})  # tool -> runs of each type
    type_runs: dict = field(default_factory=dict)             # (tool, type) -> runs, where they differ
    verify: str = "sample"                                    # pilum's own check, inside its time
    budget: int = 0
    timeout: float = 300
    tries: int = 3
    quality: bool = False
    threads: int = os.cpu_count() or 1

    def runs_of(self, tool, kind):
        return self.type_runs.get((tool, kind), self.runs.get(tool, 0))


def bars():
    """The issue's table: 128,116 x 2,048, as large as a tenth of ImageNet's features."""
    return Case("bars", "128,116 x 2,048, K 500, M 128", Shape("latent", 128_116, 2048, 8, raw=True), 500, 128,
                types=("IVF_SQ", "IVF_FLAT", "IVF_PQ"), runs={"pilum": 3, "pylance": 2, "faiss": 1},
                type_runs={("pylance", "IVF_PQ"): 1}, timeout=700, quality=True)


def budget():
    return Case("budget", "the same table within 256 MiB", Shape("latent", 128_116, 2048, 8, raw=True), 500, 128,
                budget=256 * MIB, timeout=600)


def wide():
    return Case("wide", "a second column, 8 times as wide, that must not be read",
                Shape("latent", 20_000, 256, 16, payload_bytes=8_192), 128, 16, verify="none", runs={"pilum": 3})


def seed(payload):
    return Case("seed-wide" if payload else "seed", "1,281,167 x 2,048 in 253 fragments, K 1,000, M 128, within 4 GiB",
                Shape("latent", 1_281_167, 2048, 253, payload_bytes=payload), 1000, 128, types=("IVF_SQ", "IVF_PQ", "IVF_FLAT"),
                budget=4 * GIB, timeout=1500)


def growth():
    """One thing grows, the others stay: rows, then dimensions, then partitions. Small builds vary more: three runs of them."""
    shapes = [(f"rows-{rows}", "rows grow", rows, 256, 256) for rows in (10_000, 40_000, 160_000, 640_000)]
    shapes += [(f"dim-{dim}", "dimensions grow", 40_000, dim, 250) for dim in (96, 256, 768, 2048)]
    shapes += [(f"k-{k}", "partitions grow", 160_000, 256, k) for k in (16, 64, 256, 1024, 4096)]
    return [Case(name, what, Shape("latent", rows, dim, 4), k, dim // 16, runs={"pilum": 3 if rows * dim * k < 20e9 else 1})
            for name, what, rows, dim, k in shapes]


def other_data():
    """Where filters and projections help less: real texts, and Gaussian noise."""
    return [Case("real", "real texts, 384 dimensions", Shape("real", 100_000, 384, 4, queries=1_000, raw=True), 316, 24,
                 runs={"pilum": 3, "pylance": 1, "faiss": 1}, timeout=240, quality=True),
            Case("gaussian", "isotropic Gaussian, the worst case", Shape("gaussian", 50_000, 768, 4), 1000, 48, runs={"pilum": 3})]


def quick():
    """Two or three minutes: enough to see that everything works, not enough to quote."""
    small = Case("quick", "10,000 rows of real texts, 384 dimensions", Shape("real", 10_000, 384, 4, raw=True), 100, 24,
                 runs={"pilum": 2, "pylance": 1, "faiss": 1}, timeout=90, quality=True)
    return [small, wide(), growth()[0]]


def chosen(args):
    if args.rows:
        shape = Shape(args.data, args.rows, 384 if args.data == "real" else args.dim, args.fragments, args.payload, raw="faiss" in args.tools)
        partitions = args.partitions or max(1, round(args.rows**0.5))
        return [Case(f"custom-{shape.name}-k{partitions}", f"{shape.rows:,} x {shape.dim}", shape, partitions, args.sub_vectors or max(1, shape.dim // 16),
                     types=tuple(args.types or TYPES), runs={tool: args.runs for tool in args.tools}, verify=args.verify,
                     budget=args.budget_mib * MIB, timeout=args.timeout, quality=True)]
    if args.quick:
        return quick()
    plain = not (args.seed_shape or args.budget or args.growth)
    cases = [bars()] if args.all or plain else []
    if args.all or args.budget:
        cases.append(budget())
    if args.all or plain:
        cases.append(wide())
    if args.all or args.seed_shape:
        cases.append(seed(args.payload))
    if args.all or plain:
        cases += other_data()
    if args.all or args.growth:
        cases += growth()
    return cases
