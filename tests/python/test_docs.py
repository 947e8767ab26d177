"""The examples of docs/python.md run as they stand, one after the other."""
import os
import re
from pathlib import Path

import pilum

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"


def test_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.S | re.M)
    assert len(blocks) >= 5
    names = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert {i.name for i in names["ds"].describe_indices()} == {"vec_idx", "sq"}
    assert os.path.getsize("report.html") > 50_000
    assert "no column 'nope'; there are: id, vec" in capsys.readouterr().out


def test_every_class_is_explained():
    text = PAGE.read_text()
    errors = [name for name in pilum.__all__ if name.endswith("Error")]
    assert [name for name in errors if f"`{name}`" not in text and f"pilum.{name}" not in text] == []
