"""The command ``tables``, and the pages that show the records of sweeps."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
from helpers.sweep_records import write_trial

from mmseol.__main__ import main

ROOT = Path(__file__).parents[1]


@pytest.fixture
def sweep(tmp_path):
    """Return the work directory of a sweep of two losses and two seeds."""
    for loss, wrong in (("ce", 0.6), ("mse", 0.2)):
        for seed in (1, 2):
            write_trial(tmp_path / "work", loss, seed, wrong)
        for rate in (0.01, 0.1):
            write_trial(tmp_path / "work", loss, stage="tune", values={"lr": rate})
    return tmp_path / "work"


def fails(*arguments, capsys):
    with pytest.raises(SystemExit) as error:
        main("tables", [str(argument) for argument in arguments])
    assert error.value.code == 2
    return capsys.readouterr().err


def test_tables_are_printed(sweep, capsys):
    main("tables", [str(sweep), "--resamples", "50", "--parts", "scores", "tuning"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith(("| ce", "| mse"))] == [
        "mse",
        "ce",
        "ce",
        "mse",
    ]


def test_files_hold_the_same_tables(sweep, tmp_path):
    main("tables", [str(sweep), "--out", str(tmp_path / "out"), "--resamples", "50"])
    markdown, latex = ((tmp_path / "out" / f"tables.{end}").read_text() for end in ("md", "tex"))
    content = json.loads((tmp_path / "out" / "tables.json").read_text())
    tables = [table for several in content["tables"].values() for table in several]
    assert len(tables) == latex.count(r"\begin{tabular}") == markdown.count("\n|---|")
    assert {"scores", "comparison", "runs", "classes", "tuning", "table1", "table2"} == content[
        "tables"
    ].keys()
    for table in tables:
        for row in table["rows"]:
            assert "| " + " | ".join(row) + " |" in markdown
    (ours,) = content["printed"]["table1"][0]["ours"]
    assert ours["cells"]["long-tailed 100"]["seeds"] == [1, 2]


def test_bad_arguments_are_plain_errors(sweep, tmp_path, capsys):
    assert "must be work directories of sweeps" in fails(tmp_path / "none", capsys=capsys)
    assert "`--parts` must be one of 'scores'" in fails(sweep, "--parts", "score", capsys=capsys)
    assert "`reference` must be a loss of the sweep" in fails(sweep, "--reference", "dice", capsys=capsys)
    (tmp_path / "empty" / "trials").mkdir(parents=True)
    assert "hold no finished trial" in fails(tmp_path / "empty", capsys=capsys)
    other = tmp_path / "other.json"
    other.write_text('{"scores": {}}')
    assert "another kind of record" in fails(sweep, "--record", other, capsys=capsys)
    assert other.read_text() == '{"scores": {}}'
    assert "must be a record that" in fails(other, capsys=capsys)
    record = next(sweep.glob("trials/*/record.json"))
    record.write_text(record.read_text()[:-30])
    assert f"{str(record)!r} is not JSON" in fails(sweep, capsys=capsys)


@pytest.fixture
def pages(sweep, tmp_path, monkeypatch):
    """Write the record of the sweep, its page and a README; return the tool that checks them."""
    monkeypatch.chdir(tmp_path)
    title = ["--title", "Made", "--note", "A note.", "--resamples", "50"]
    main("tables", [str(sweep), "--record", str(tmp_path / "results/made/record.json"), *title])
    mark = "<!-- record: results/made/record.json part: scores losses: mse -->\n<!-- end -->\n"
    Path("README.md").write_text(mark)
    tool = runpy.run_path(str(ROOT / "tools" / "update_readme.py"))
    monkeypatch.setitem(tool["main"].__globals__, "ROOT", tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["update_readme.py", *arguments])
        tool["main"]()

    run()
    return run


def test_a_record_has_a_page_whose_tables_are_its_own(pages):
    text = Path("results/made/README.md").read_text()
    pages("--check")
    assert Path("results/made/README.md").read_text() == text
    assert text.startswith(
        "# Made\n\nA note.\n\n<!-- record: results/made/record.json part: scores -->\n| loss |"
    )
    assert re.findall("^## (.*)", text, re.M)[:4] == ["Differences", "Runs", "Classes", "Tuning"]
    assert (
        "python tools/sweep.py configs/sweeps/made.py\npython tools/tables.py work_dirs/sweeps/made --rec"
        in text
    )
    rows = [line.split()[1] for line in Path("README.md").read_text().splitlines() if line.startswith("| ")]
    assert rows == ["loss", "mse"]


@pytest.mark.parametrize("name", ["README.md", "results/made/README.md", "results/made/record.json"])
def test_a_digit_edited_by_hand_is_found(pages, name):
    text = Path(name).read_text()
    digits = [match.start() for match in re.finditer(r"\d(?=[^\n]*\n)", text)]
    in_tables = [at for at in digits if name.endswith("json") or text[: at + 1].splitlines()[-1][0] == "|"]
    assert len(in_tables) > 10
    for at in in_tables[:: len(in_tables) // 8]:
        Path(name).write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :])
        with pytest.raises(SystemExit, match=rf"error: .*{re.escape(name)}"):
            pages("--check")
    Path(name).write_text(text)
    pages("--check")


def test_tables_of_a_committed_record(pages, capsys):
    main("tables", ["results/made/record.json", "--parts", "comparison"])
    assert "| mse | ce | accuracy |" in capsys.readouterr().out
    path = Path("results/made/record.json")
    path.write_text(path.read_text().replace('"epochs": 20', '"epochs": 21'))
    assert "was changed after tools/tables.py wrote it" in fails(path, capsys=capsys)


def test_unknown_losses_in_a_mark_are_errors(pages):
    text = Path("README.md").read_text()
    Path("README.md").write_text(text.replace("losses: mse", "losses: msa"))
    with pytest.raises(SystemExit, match=r"error: `losses` must be one of .*'msa'"):
        pages("--check")
