"""The figures of ``analyze`` from work directories, counts and records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.run_folders import CONFUSION, PIXELS, write_run
from PIL import Image

from mmseol.__main__ import main
from mmseol.analysis import figure_commands
from mmseol.analysis.figure_commands import score_group
from mmseol.analysis.records.sweep_classes import class_score_groups

ROOT = Path(__file__).parents[1]
DIGITS = str(ROOT / "results" / "losses_digits" / "record.json")


@pytest.fixture
def figures(monkeypatch) -> list:
    """Keep the figures that commands write."""
    kept: list = []
    monkeypatch.setattr(figure_commands, "save_figure", lambda figure, path: kept.append(figure) or path)
    return kept


def error_of(capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit) as caught:
        main("analyze", [str(argument) for argument in arguments])
    assert caught.value.code not in (0, None)
    return capsys.readouterr().err or str(caught.value)


def test_counts_of_files_runs_and_configs_in_one_figure(tmp_path, figures):
    run = write_run(tmp_path / "run")
    (tmp_path / "val.json").write_text("[5, 6, 0]")
    sources = [str(run), f"val={tmp_path / 'val.json'}"]
    main("analyze", ["distribution", *sources, "--out", str(tmp_path / "a.png")])
    linear = figures[0].axes[0]
    assert [bars.get_label() for bars in linear.containers] == ["run", "val"]
    assert linear.containers[0].datavalues.tolist() == sorted(PIXELS.samples.tolist(), reverse=True)
    assert linear.get_xlabel() == "samples"  # pixels beside numbers of an unknown unit
    main("analyze", ["distribution", "quickstart/digits.py", "--split", "train", "val", "--out", "b.png"])
    assert [bars.get_label() for bars in figures[1].axes[0].containers] == ["digits train", "digits val"]


def test_scores_of_runs(tmp_path, figures):
    runs = [str(write_run(tmp_path / "ce", "CrossEntropyLoss")), f"mse={write_run(tmp_path / 'b')}"]
    main("analyze", ["scores", *runs, "--score", "recall", "--out", str(tmp_path / "a.png")])
    lines = {line.get_label(): line.get_ydata().tolist() for line in figures[0].axes[0].lines}
    recall = 100 * np.diag(CONFUSION) / CONFUSION.sum(1)
    assert lines == {"ce": pytest.approx(recall[[0, 2, 1]]), "mse": pytest.approx(recall[[0, 2, 1]])}


def test_scores_of_a_record_have_every_seed():
    group = score_group([DIGITS])
    assert (group.score, group.unit) == ("recall", "images")
    assert group.title == "quickstart/digits.py, long_tailed:20, test"
    assert {value.shape for value in group.scores.values()} == {(3, 10)}


def test_two_rows_of_one_loss_keep_apart():
    run = dict(config="a.py", imbalance=None, split="val", classes=["0"], counts=[9], task="classification")
    run |= dict(loss="ce", epochs=5, per_class={"last": {"recall": {"0": [90.0]}}})
    runs = [run, {**run, "epochs": 6}, {**run, "epochs": 6}]
    (group,) = class_score_groups({"checkpoint": "last", "runs": runs})
    assert list(group.scores) == ["ce", "ce, 6 epochs", "ce, row 2"]


def test_confusion_and_curves_of_a_run(tmp_path, figures):
    run = write_run(tmp_path / "run")
    main("analyze", ["confusion", str(run), "--out", str(tmp_path / "a.png")])
    (path,) = run.glob("*/class_scores_val_epoch_1.json")
    main("analyze", ["confusion", str(path), "--out", str(tmp_path / "b.png")])
    for figure in figures:
        assert figure.axes[0].images[0].get_array()[0].tolist() == [80.0, 20.0, 0.0]  # by count: car second
    main("analyze", ["curves", str(run), "--out", str(tmp_path / "c.png")])
    assert [line.get_label() for line in figures[2].axes[0].lines] == ["road", "car", "pole"]


def test_a_written_picture_can_be_read(tmp_path):
    run = write_run(tmp_path / "run")
    main("analyze", ["curves", str(run), "--out", str(tmp_path / "c.png"), "--title", "Roads"])
    with Image.open(tmp_path / "c.png") as picture:
        assert len(picture.getcolors(100_000)) > 50


def test_wrong_sources(tmp_path, capsys):
    run, out = write_run(tmp_path / "run"), ("--out", tmp_path / "a.png")
    (tmp_path / "two.json").write_text("[1, 2]")
    (tmp_path / "other.json").write_text("{}")
    (path,) = run.glob("*/class_scores_val_epoch_1.npz")
    path.unlink()
    two = tmp_path / "two.json"
    assert "same classes (3: road, pole, car)" in error_of(capsys, "distribution", run, two, *out)
    assert "'run' twice" in error_of(capsys, "distribution", run, run, *out)
    assert "must be 3 numbers" in error_of(capsys, "scores", run, "--counts", two, *out)
    assert "must be the record of a sweep" in error_of(capsys, "scores", tmp_path / "other.json", *out)
    assert "got none. Choose one with --only" in error_of(capsys, "scores", DIGITS, "--only", "cifar", *out)
    assert "must have a confusion matrix" in error_of(capsys, "confusion", run, *out)
    assert "must be the work directory" in error_of(capsys, "curves", tmp_path, *out)
    assert "must end in" in error_of(capsys, "curves", run, "--out", tmp_path / "a.gif")
    for path in run.glob("*/class_scores_*"):
        path.unlink()
    assert "must have validations" in error_of(capsys, "curves", run, *out)
    assert "must have evaluations" in error_of(capsys, "scores", run, *out)
    assert not (tmp_path / "a.png").exists()
