"""The quickstart's command lines, without training."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from mmseol.analysis.records.run_records import SCORES

ROOT = Path(__file__).parents[1]
TOOL = ROOT / "tools" / "quickstart.py"


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """Run the tool on these arguments; return the train and test commands that it would run, by log."""
    monkeypatch.chdir(tmp_path)

    def collect(*arguments):
        seen = {}

        def pretend(commands):
            for log, command in commands.items():
                seen[log] = command
                log.parent.mkdir(parents=True, exist_ok=True)
                (log.parent / "best_accuracy_epoch_5.pth").touch()
                (log.parent / "test" / "now").mkdir(parents=True, exist_ok=True)
                scores = json.dumps({"scores": dict.fromkeys(SCORES, 42.0)})
                (log.parent / "test" / "now" / "class_scores_test.json").write_text(scores)

        monkeypatch.setattr("mmseol.utils.processes.run_side_by_side", pretend)
        monkeypatch.setattr(sys, "argv", [str(TOOL), *arguments])
        runpy.run_path(str(TOOL), run_name="__main__")
        return seen

    return collect


def learning_rates(commands):
    return {
        log.parent.name: float(command[-1].removeprefix("optim_wrapper.optimizer.lr="))
        for log, command in commands.items()
        if log.name == "train.log"
    }


def test_digits_run_every_loss_at_its_learning_rate(commands, capsys):
    seen = commands("--config", "digits", "--seed", "3")
    folder = Path("work_dirs/quickstart_digits")
    assert {log.parent for log in seen} == {folder / loss for loss in ("ce", "mse", "outlying_mse")}
    training = " ".join(seen[folder / "mse" / "train.log"])
    assert re.search("train.py .*digits.py --loss mse --imbalance long_tailed:20 --seed 3", training)
    testing = " ".join(seen[folder / "mse" / "test.log"])
    assert re.search("test.py .*digits.py .*best_accuracy_epoch_5.pth --split test --loss mse", testing)
    assert "42.0" in capsys.readouterr().out
    assert json.loads((folder / "record.json").read_text())["scores"]["MSE"]["accuracy"] == [42.0]
    assert learning_rates(seen) == runpy.run_path(str(TOOL))["QUICKSTARTS"]["digits"].learning_rates


def test_learning_rates_can_be_given(commands):
    seen = commands("--config", "digits", "--learning-rates", "ce=0.5", "mse=2e-3")
    tuned = runpy.run_path(str(TOOL))["QUICKSTARTS"]["digits"].learning_rates
    assert learning_rates(seen) == {**tuned, "ce": 0.5, "mse": 2e-3}


@pytest.mark.parametrize("name", ["toy", "digits"])
def test_tuned_learning_rates_are_the_best_of_the_record(name):
    """Of equal validation scores, the lowest learning rate."""
    chosen = runpy.run_path(str(TOOL))["QUICKSTARTS"][name]
    record = json.loads((ROOT / "results" / chosen.command / "record.json").read_text())
    rows = [row for row in record["tuning"] if row["score"] is not None]  # none: the loss was not finite
    best = {
        loss: min((row for row in rows if row["loss"] == loss), key=lambda row: (-row["score"], row["lr"]))
        for loss in chosen.losses
    }
    assert {loss: row["lr"] for loss, row in best.items()} == chosen.learning_rates
    for loss, row in best.items():  # the best is no end of the grid
        rates = [other["lr"] for other in record["tuning"] if other["loss"] == loss]
        assert min(rates) < row["lr"] < max(rates)
        assert row["metric"] == chosen.metric


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "toy", "--imbalance", "step:10"], "`--imbalance` goes with `--config digits` alone"),
        (["--config", "digits", "--data-root", "x"], "`--data-root` goes with `--config toy` alone"),
        (["--learning-rates", "ce"], "`--learning-rates` must be LOSS=RATE, got ce"),
        (["--learning-rates", "mse=1"], "`--learning-rates` must name ce, outlying_mse, got mse"),
        (["--work-dir", "."], "`--work-dir` '.' exists; remove it or give another"),
    ],
)
def test_errors(commands, capsys, arguments, message):
    with pytest.raises(SystemExit):
        commands(*arguments)
    assert message in capsys.readouterr().err
