"""The wheel and the source distribution: complete, small, and good for more than this machine's Python."""
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The wheel is built from the source distribution, as pip does it."""
    out = tmp_path_factory.mktemp("dist")
    env = {name: value for name, value in os.environ.items() if not name.startswith("PILUM")}
    done = subprocess.run([sys.executable, "-m", "build", "--no-isolation", "-o", str(out), str(ROOT)],
                          capture_output=True, text=True, env=env, timeout=280)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (wheel,), (source,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, source


def test_wheel(made):
    wheel, _ = made
    assert "-cp310-abi3-linux_" in wheel.name
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {f"pilum/{path.relative_to(ROOT / 'python/pilum')}" for path in (ROOT / "python/pilum").rglob("*.py")}
    assert modules | {"pilum/_core.abi3.so", "pilum/py.typed", "pilum/_core.pyi"} <= names
    assert not [name for name in names if name.endswith((".c", ".h", ".a"))]
    assert wheel.stat().st_size < 5_000_000


def test_wheel_can_be_imported(made, tmp_path):
    zipfile.ZipFile(made[0]).extractall(tmp_path)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import pilum, pilum._core as c; print(c.__file__)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().startswith(str(tmp_path))


def test_source_distribution(made):
    names = {name.split("/", 1)[1] for name in tarfile.open(made[1]).getnames()}
    assert {"pyproject.toml", "LICENSE", "include/pilum/pilum.h", "python/src/module.c", "src/core/core.c"} <= names
    assert not [name for name in names if name.startswith((".venv", "build", "tests")) or name.endswith(".so")]
