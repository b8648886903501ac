"""The table that compares the hosts' components with ours holds on the installed hosts."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from mmseol.analysis.hosts import Situation, situations
from mmseol.analysis.tabulation.markdown import markdown

ROOT = Path(__file__).parents[1]
TOOL = ROOT / "tools" / "analysis_tools" / "hosts_against_ours.py"
RAISES = {"mmseg.CrossEntropyLoss", "mmseg.FocalLoss"}  # in some version of theirs


@pytest.fixture(scope="module")
def rows() -> list[Situation]:
    return situations()


def test_ours_are_right(rows: list[Situation]) -> None:
    components = {row.component for row in rows}
    pytest.importorskip("mmseg")
    losses = {"mmseg.CrossEntropyLoss", "mmseg.FocalLoss", "mmseg.DiceLoss"}
    assert losses | {"mmseg.IoUMetric", "mmseg.SegTTAModel"} <= components
    for row in rows:
        assert row.ours == pytest.approx(row.right, rel=1e-4, abs=1e-6), row.situation


def test_what_hosts_raise_is_theirs(rows: list[Situation]) -> None:
    for row in rows:  # an exception of any other component would come from a wrong call
        if row.component not in RAISES:
            assert not isinstance(row.host, str), row


def test_where_nothing_is_special_hosts_are_right(rows: list[Situation]) -> None:
    (plain,) = (row for row in rows if " 0 % of the pixels ignored" in row.situation)
    assert plain.host == pytest.approx(plain.right, rel=1e-6)


def test_tool_writes_its_table_as_a_record(tmp_path, monkeypatch, capsys, rows) -> None:
    out = tmp_path / "record.json"
    monkeypatch.setattr(sys, "argv", [str(TOOL), "--out", str(out)])
    runpy.run_path(str(TOOL), run_name="__main__")
    record = json.loads(out.read_text())
    assert [row["situation"] for row in record["situations"]] == [row.situation for row in rows]
    assert record["environment"]["versions"]["torch"]
    table = markdown(record)
    assert table in capsys.readouterr().out
    assert len(table.splitlines()) == 2 + len(rows)
    assert {line.count("|") for line in table.splitlines()} == {6}


def test_the_record_claims_what_was_run() -> None:
    record = json.loads((ROOT / "results" / "hosts_against_ours" / "record.json").read_text())
    assert len(record["situations"]) >= 10
    for row in record["situations"]:
        assert row["ours"] == pytest.approx(row["right"], rel=1e-4, abs=1e-6)


def test_the_readme_quotes_the_record() -> None:
    text = " ".join((ROOT / "README.md").read_text().split())
    record = json.loads((ROOT / "results" / "hosts_against_ours" / "record.json").read_text())
    rows = {row["situation"]: row for row in record["situations"]}
    half = rows["cross entropy, 50 % of the pixels ignored"]
    assert f"{half['host']:.3f} instead of {half['right']:.3f}" in text
    f_measure = rows["macro F-measure in per cent when one of 3 classes is never predicted"]
    assert f"{f_measure['host']:.2f} instead of {f_measure['right']:.2f}" in text
    (weights,) = (row for name, row in rows.items() if name.endswith("on a CPU, avg_non_ignore=True"))
    assert f"raises an {weights['host']} for class weights" in text
