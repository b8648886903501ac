"""The tool that compares losses as they are: its trials, its record, failures, continuing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.instant_trials import Instant
from helpers.tool_runs import call

from mmseol.sweeps.trial import fail
from mmseol.utils.files import write_json

OPTIONS = ["train_cfg.max_epochs=3", "train_cfg.val_interval=100"]


def outcome(folder: Path, request: dict) -> bool:
    """Score every run by its seed; let focal loss fail."""
    if request["loss"] == "focal":
        fail(folder, "train: FloatingPointError: The loss is not finite")
        return True
    scores = {"last": {"scores": {"accuracy": 40.0 + request["seed"], "macro_f1": 30.0}}}
    costs = {"seconds": 9.0, "seconds_per_iteration": 0.25, "memory": 0.5}
    write_json(folder / "record.json", {**request, **costs, "scores": scores})
    return True


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the tool on these arguments; return its record and its trials."""
    monkeypatch.setattr("mmseol.sweeps.engines.make_engine", lambda *_: engine)
    engine = Instant(outcome=outcome)

    def compare(*arguments: str, name: str = "record.json") -> tuple[dict, list[dict]]:
        engine.started.clear()
        given = ["--work-dir", tmp_path / "work", "--out", tmp_path / name, "--cfg-options", *OPTIONS]
        tool = "analysis_tools/compare_losses.py"
        call(monkeypatch, tool, "configs/quickstart/digits.py", *arguments, *given)
        return json.loads((tmp_path / name).read_text()), list(engine.started)

    return compare


def test_scores_costs_and_failures(run, capsys):
    losses = ["--losses", "ce", "focal", "cdb_ce"]
    record, trials = run(*losses, "--seeds", "1", "2", "--options-of", "cdb_ce", "train_cfg.val_interval=1")
    assert record["scores"] == {
        loss: {"accuracy": [41.0, 42.0], "macro_f1": [30.0] * 2, "seconds": [0.25] * 2, "memory": [0.5] * 2}
        for loss in ("ce", "cdb_ce")
    } | {"focal": {}}
    assert sorted(record["failed"]) == ["focal, seed 1", "focal, seed 2"]
    assert "| focal | failed |" in capsys.readouterr().out
    assert {(trial["stage"], trial["epochs"], trial["split"]) for trial in trials} == {("final", 3, "val")}
    options = {trial["loss"]: trial["train"]["cfg_options"] for trial in trials}
    assert options["cdb_ce"][-1] == "train_cfg.val_interval=1"
    assert options["ce"][-1] == "train_cfg.val_interval=100"
    train, test, also = record["commands"]
    assert train.startswith(
        "tools/train.py configs/quickstart/digits.py --loss LOSS --seed SEED --cfg-options"
    )
    assert test.startswith("tools/test.py configs/quickstart/digits.py CHECKPOINT --split val --loss LOSS")
    assert also == "cdb_ce also with train_cfg.val_interval=1"


def test_finished_runs_are_not_repeated(run):
    run("--losses", "ce")
    record, trials = run("--losses", "ce", "mse", name="second.json")
    assert [trial["loss"] for trial in trials] == ["mse"]
    assert record["scores"]["ce"]["accuracy"] == record["scores"]["mse"]["accuracy"] == [41.0]


def test_wrong_arguments_end_with_one_line(run, tmp_path):
    with pytest.raises(SystemExit, match=r"error: `--options-of` must name losses that are compared"):
        run("--losses", "ce", "--options-of", "mse", "a=1")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("years of work")
    with pytest.raises(SystemExit, match=r"error: `--work-dir` .* holds something else than a sweep"):
        run("--losses", "ce")
    assert (tmp_path / "work" / "thesis.txt").read_text() == "years of work"
