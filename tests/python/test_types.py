"""Types, as a user's editor sees them: ``mypy --strict`` finds none of our mistakes and all of a user's."""
import ast
import re
import subprocess
import sys
from pathlib import Path

import pilum._core

ROOT = Path(__file__).resolve().parents[2]

#: What a line does wrong is said at its end, by mypy's name for it; no other line may be complained about.
SCRIPT = '''
import lance
import numpy as np
import pilum
import pilum.ray

vectors = np.zeros((8, 4), np.float32)

def tell(p: pilum.Progress) -> None:
    print(p.phase, p.seconds_left)
    print(p.fase)  # wrong: attr-defined

def text_wanted(p: str) -> None:
    print(p)

ds: lance.LanceDataset = pilum.create_index("t.lance", "vec", "IVF_PQ", memory_budget="1GiB", progress=tell)
pilum.create_index(ds, "vec", "ivf_sq", ivf_centroids=vectors, fragments=(i for i in range(3)), progress=False)
pilum.create_index("t.lance", "vec")  # wrong: call-arg
pilum.create_index("t.lance", "vec", "IVF_PQ", "name", True)  # wrong: call-arg
pilum.create_index("t.lance", "vec", "IVF_PQ", num_partition=16)  # wrong: call-arg
pilum.create_index("t.lance", "vec", "IVF_PQ", num_partitions="16")  # wrong: arg-type
pilum.create_index("t.lance", "vec", "IVF_PQ", memory_budget=1.5)  # wrong: arg-type
pilum.create_index("t.lance", "vec", "IVF_PQ", progress=text_wanted)  # wrong: arg-type
pilum.plan_index("t.lance", "vec", "IVF_PQ", replace="no")  # wrong: arg-type
version: int = pilum.plan_index("t.lance", "vec", "IVF_PQ")  # wrong: assignment
pilum.create_indices("t.lance", "vec", "IVF_PQ")  # wrong: attr-defined
print(pilum.plan_index("t.lance", "vec", "IVF_PQ").plan["total"], pilum.inspect("t.lance").indexes[0]["name"])
print(pilum.last_report().rows)  # wrong: union-attr
print(pilum.verify_index("t.lance", "vec_idx", full=True)["problems"], pilum.gc("t.lance").to_json())
print(pilum.search("t.lance", "vec", vectors[0], 3, exact=True)["_rowid"], pilum.report.html_page({}))
pilum.search("t.lance", "vec", vectors[0], 3, 8)  # wrong: call-arg
try:
    pilum.ray.create_index("t.lance", "vec", "IVF_PQ", num_workers=2, ray_remote_args={"num_cpus": 1}, progress=print)
    pilum.ray.create_index("t.lance", "vec", "IVF_PQ", num_workers="2")  # wrong: arg-type
    pilum.ray.create_indices("t.lance", "vec", "IVF_PQ")  # wrong: attr-defined
except pilum.ColumnNotFoundError as error:
    print(error.code + ": " + error.message)
    print(error.code + error.sys_errno)  # wrong: operator
'''


def mypy(*arguments):
    """What mypy says, and how it ended. Types of other packages are kept for the next time."""
    command = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", "--no-error-summary",
               "--show-error-codes", "--cache-dir", ROOT / ".cache/mypy", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    return done.stdout + done.stderr, done.returncode


def test_the_package_is_free_of_mistakes():
    assert mypy() == ("", 0)


def test_mistakes_of_users_are_found(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    said, status = mypy(script)
    found = {(int(n), code) for n, code in re.findall(r"script\.py:(\d+): error: .*\[([a-z-]+)\]$", said, re.M)}
    lines = enumerate(SCRIPT.splitlines(), 1)
    expected = {(n, line.split("# wrong: ")[1]) for n, line in lines if "# wrong: " in line}
    assert found == expected, said
    assert len(expected) > 10 and status == 1


def test_the_extension_has_what_its_stub_says():
    stub = ast.parse((ROOT / "python/pilum/_core.pyi").read_text())
    described = {node.name for node in stub.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    described |= {node.target.id for node in stub.body if isinstance(node, ast.AnnAssign)}
    there = {name for name in vars(pilum._core) if not name.startswith("_")} | {"__version__"}
    assert described == there
    for node in stub.body:
        if isinstance(node, ast.ClassDef):
            methods = {f.name for f in node.body if isinstance(f, ast.FunctionDef)}
            public = {name for name in vars(getattr(pilum._core, node.name)) if not name.startswith("_")}
            assert methods - {"__init__"} == public, node.name
