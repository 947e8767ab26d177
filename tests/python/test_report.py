"""Reports: as a dict, in a notebook, as one page with pictures."""
import base64
import copy
import json
import re
import subprocess
import sys

import pytest

import pilum
from helpers import make_vectors, write
from pilum import report as pages

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "t.lance"
    write(path, make_vectors(6_000, 32))
    pilum.create_index(path, "vec", "IVF_PQ", num_partitions=50, num_sub_vectors=8)
    return path, pilum.last_report()


def pictures_of(page):
    return [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]


def assert_stands_alone(page):
    """No address, script or style sheet that a browser would fetch."""
    rest = re.sub(r'src="data:image/png;base64,[^"]+"', "", page)
    for word in ("http:", "https:", "<script", "<link", "@import", "url(", "src="):
        assert word not in rest, word


def test_report_is_a_dict_with_attributes(built):
    _, report = built
    assert report.index["type"] == report["index"]["type"] == "IVF_PQ"
    assert json.loads(report.to_json()) == report
    assert "seconds" in dir(report)
    with pytest.raises(AttributeError, match="no 'nothing'"):
        report.nothing
    assert copy.deepcopy(report) == report


def test_repr_has_what_matters(built):
    text = repr(built[1])
    for word in ("vec_idx, IVF_PQ, l2", "6,000 indexed of 6,000", "50:", "recall@10", ", refine factor 5"):
        assert word in text


def test_notebook(built):
    shown = built[1]._repr_html_()
    assert shown.startswith("<style>") and "IVF_PQ" in shown and len(pictures_of(shown)) == 5
    assert_stands_alone(shown)


def test_page_from_the_command_line(built, tmp_path):
    built[1].to_json(tmp_path / "x.json")
    command = [sys.executable, "-m", "pilum.report", str(tmp_path / "x.json"), str(tmp_path / "x.html")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    page = (tmp_path / "x.html").read_text()
    assert page.startswith("<!DOCTYPE html>") and page.rstrip().endswith("</html>")
    assert_stands_alone(page)
    pictures = pictures_of(page)
    assert len(pictures) == 5 and all(p.startswith(PNG) and len(p) > 5_000 for p in pictures)
    seconds = built[1]["seconds"]["total"]
    assert f"{seconds:.2f} s" in page and "planned" in page


def test_pictures_show_the_numbers(built):
    """The data behind the lines and bars are those of the report, and every axis has a name."""
    report = built[1]
    recall = pages.recall(report).axes[0]
    points = report["quality"]["recall_at_10"]
    assert recall.lines[0].get_xydata().tolist() == [[p["rows_scanned"], p["recall"]] for p in points]
    loss = pages.training_loss(report).axes[0]
    assert loss.lines[0].get_ydata().tolist() == report["training"]["ivf_loss"]
    sizes = pages.partition_sizes(report).axes[0]
    assert sum(bar.get_height() for bar in sizes.patches) == 50
    time = pages.time_by_phase(report).axes[0]
    taken = {label.get_text(): bar.get_width() for label, bar in zip(time.get_yticklabels(), time.patches)}
    assert taken == {p: report["seconds"][p] for p in taken} and len(taken) == 6
    error = pages.pq_error(report).axes[0]
    assert [bar.get_height() for bar in error.patches] == report["training"]["pq_error"]
    for axes in (recall, loss, sizes, error):
        assert axes.get_xlabel() and axes.get_ylabel() and axes.get_title(loc="left")


@pytest.mark.parametrize("size", [1, 7, 40, 41, 4096])
def test_any_number_of_partitions(built, size):
    report = copy.deepcopy(built[1])
    report["partitions"]["sizes"] = [n % 97 for n in range(size)]
    assert pages._png(pages.partition_sizes(report)).startswith(PNG)


def test_reports_with_nothing_in_them():
    assert pages.html_page({"index": "x"}).count("<img") == 0
    bare = {"pilum": "0.1.0", "index": {"name": "i", "type": "IVF_FLAT", "metric": "l2"}, "rows": {}, "partitions": None,
            "training": {"ivf_loss": [], "pq_error": []}, "quality": None, "seconds": {"plan": None}, "resources": None}
    assert "IVF_FLAT" in pages.html_page(bare)


def test_names_are_quoted(built):
    report = copy.deepcopy(built[1])
    report["index"]["name"] = "<b>&"
    page = pages.html_page(report)
    assert "<b>&:" not in page and "&lt;b&gt;&amp;:" in page


def test_report_of_verify(built):
    report = pilum.verify_index(built[0], "vec_idx")
    page = pages.html_page(report)
    assert len(pictures_of(page)) == 1 and "checked rows" in page


def test_plan_shows_itself(built):
    assert "IVF_SQ" in pilum.plan_index(built[0], "vec", "IVF_SQ")._repr_html_()


@pytest.mark.parametrize("content", ["", "[1]", "{}", None])
def test_wrong_files_are_one_line(tmp_path, capsys, content):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    assert pages.main([str(path), str(tmp_path / "x.html")]) == 1
    out, err = capsys.readouterr()
    assert out == "" and len(err.strip().splitlines()) == 1 and "x.json" in err
    assert not (tmp_path / "x.html").exists()
