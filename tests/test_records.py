"""Records of runs, and the pages that show them."""

import json
import re
import runpy
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import jaccard_score

from mmseol.analysis.records import run_records
from mmseol.analysis.records.run_records import iou_of_maps, iou_record, scores_record
from mmseol.analysis.tabulation.markdown import markdown
from mmseol.experiment import LOSSES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "results").rglob("*.md"))]


def test_iou_of_maps_is_scikit_learns(tmp_path):
    rng = np.random.default_rng(0)
    samples, truths, predictions = [], [], []
    for i in range(3):
        truth, predicted = rng.integers(0, 6, (2, 8, 9)).astype(np.uint8)
        truth[truth == 5] = 11  # void
        predicted[predicted == 5] = 0
        for folder, labels in (("truth", truth), ("predicted", predicted)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(labels).save(tmp_path / folder / f"{i}.png")
        samples.append((tmp_path / "unused.png", tmp_path / "truth" / f"{i}.png"))
        truths.append(truth[truth < 5])
        predictions.append(predicted[truth < 5])
    expected = jaccard_score(np.concatenate(truths), np.concatenate(predictions), average=None)
    np.testing.assert_allclose(iou_of_maps(samples, tmp_path / "predicted", 5), expected)


def test_record_and_its_table():
    iou = {"a": np.array([0.5, np.nan]), "b": np.array([0.25, 0.75])}
    record = json.loads(json.dumps(iou_record("t", ["run"], ["x", "y"], iou, seconds=3)))
    assert record["mean_iou"] == {"a": 50.0, "b": 50.0}
    assert record["iou"]["a"] == {"x": 50.0, "y": None}
    assert record["environment"]["versions"]["torch"]
    assert markdown(record).splitlines()[2:] == ["| a | 50.0 | 50.0 |  |", "| b | 50.0 | 25.0 | 75.0 |"]


def test_scores_record_shows_mean_and_spread():
    runs = {"a": [{"accuracy": 40.0, "macro_f1": 30.0}, {"accuracy": 44.0, "macro_f1": 30.0}]}
    record = json.loads(json.dumps(scores_record("t", ["run"], runs)))
    assert record["scores"]["a"] == {"accuracy": [40.0, 44.0], "macro_f1": [30.0, 30.0]}
    assert markdown(record).splitlines()[2] == "| a | 42.0 ± 2.8 | 30.0 ± 0.0 |"
    runs = {"a": runs["a"][:1]}
    assert markdown(scores_record("t", ["run"], runs)).splitlines()[2] == "| a | 40.0 | 30.0 |"


def test_the_environment_names_the_gpus(monkeypatch):
    cuda = run_records.torch.cuda
    names = ["H200", "H200", "T4"]
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(cuda, "get_device_name", names.__getitem__)
    assert run_records.environment()["device"] == "2 H200, T4"
    monkeypatch.setattr(cuda, "is_available", lambda: False)
    assert re.fullmatch(r"\d+ CPU cores, \w+", run_records.environment()["device"])


def test_benchmarks_table_leaves_out_the_long_ones():
    row = {"name": "a", "sizes": "3", "time_ratio": 0.12345}
    tables = [{"title": "t", "rows": [row, row | {"memory_ratio": 2.0}]}, {"title": "u", "rows": [row] * 30}]
    assert markdown(tables).splitlines()[2:] == ["| t: a | 3 | 0.123 |  |", "| t: a | 3 | 0.123 | 2.000 |"]


def test_pages_show_the_records():
    subprocess.run([sys.executable, ROOT / "tools" / "update_readme.py", "--check"], check=True)


@pytest.fixture
def update(monkeypatch, tmp_path):
    """Return the tool on a tree of one record with three rows and two pages."""
    record = {"scores": {name: {"accuracy": [1.0]} for name in "abc"}}
    (tmp_path / "results" / "run").mkdir(parents=True)
    (tmp_path / "results" / "run" / "record.json").write_text(json.dumps(record))
    (tmp_path / "README.md").write_text(f"Hello.\n{MARK % ''}\n<!-- end -->\nBye.\n")
    (tmp_path / "results" / "run" / "README.md").write_text(f"{MARK % ' rows: 3 1'}\nold\n<!-- end -->\n")
    tool = runpy.run_path(str(ROOT / "tools" / "update_readme.py"))
    monkeypatch.setitem(tool["main"].__globals__, "ROOT", tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["update_readme.py", *arguments])
        tool["main"]()
        return [(tmp_path / page).read_text() for page in ("README.md", "results/run/README.md")]

    return run


MARK = "<!-- record: results/run/record.json%s -->"


def test_every_page_is_checked_and_written(update):
    with pytest.raises(SystemExit, match=r"README\.md, results/run/README\.md"):
        update("--check")
    head, row = "| per cent | accuracy |\n|---|---:|\n", "| {} | 1.0 |\n".format
    all_rows, chosen = update()
    assert all_rows == f"Hello.\n{MARK % ''}\n{head}{row('a')}{row('b')}{row('c')}<!-- end -->\nBye.\n"
    assert chosen == f"{MARK % ' rows: 3 1'}\n{head}{row('c')}{row('a')}<!-- end -->\n"
    assert update("--check") == [all_rows, chosen]


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (f"{MARK % ' rows: 4'}\n<!-- end -->\n", r"`rows` must lie within 1\.\.3, got \[4\]"),
        (f"{MARK % ' row: 4'}\n<!-- end -->\n", "malformed"),
        (f"{MARK % ''}\n", "no `<!-- end -->`"),
        (f"{MARK % ' part: tunning'}\n<!-- end -->\n", "`part` must be one of 'tuning', got 'tunning'"),
    ],
)
def test_bad_marks_are_errors(update, tmp_path, page, message):
    (tmp_path / "README.md").write_text(page)
    with pytest.raises(SystemExit, match=message):
        update()


def test_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 170
    tables = [list(table) for is_row, table in groupby(lines, lambda line: line.startswith("|")) if is_row]
    assert max(map(len, tables)) <= 2 + 8


def test_readme_names_every_loss():
    names = set(re.findall(r"`(\w+)`", (ROOT / "README.md").read_text()))
    assert len(LOSSES) > 20
    assert set(LOSSES) <= names


def test_every_result_has_a_page_and_a_record():
    folders = sorted((ROOT / "results").iterdir())
    assert len(folders) >= 8
    for folder in folders:
        records = sorted(folder.glob("*.json"))
        assert records, folder
        page = (folder / "README.md").read_text()
        assert page.startswith("# "), folder
        shown = all(f"record: results/{folder.name}/{path.name}" in page for path in records)
        assert shown or folder.name == "benchmarks"  # its tool writes the whole page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_commands_of_pages_exist(page):
    text = page.read_text()
    for path in re.findall(r"\]\((?!http)([^)]+)\)", text):
        assert (page.parent / path).is_file(), path
    for script in re.findall(r"(?:bash|python) (tools/[\w/.]+)", text):
        assert (ROOT / script).is_file(), script
    for config in re.findall(r"configs/[\w/]+\.py", text):
        assert (ROOT / config).is_file(), config


def test_readme_has_the_two_commands():
    scripts = set(re.findall(r"(?:bash|python) (tools/[\w/.]+)", (ROOT / "README.md").read_text()))
    assert {"tools/quickstart.sh", "tools/run_tests.sh", "tools/train.py"} <= scripts
