"""Curves of a loss's parameter on validation data, and the tool that runs and draws them."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.sweep_records import write_trial
from PIL import Image

from mmseol.analysis.figures.parameter_curve import draw_curve, parameter_curve, value_sweep
from mmseol.analysis.records.sweep_record import sweep_record
from mmseol.analysis.records.trial_records import read_trials

ROOT = Path(__file__).parents[1]


def write_runs(folder, **changes):
    for alpha, wrong in ((0.5, 0.6), (2, 0.2), (10, 0.5)):
        for seed in (1, 2):
            write_trial(folder, f"outlying_mse:alpha={alpha},ties=dense", seed, wrong, split="val", **changes)
    write_trial(folder, "ce", split="val", **changes)


def record_of(folder):
    return sweep_record(read_trials([folder]), resamples=1)


def test_curve_has_every_seed_and_the_best_value(tmp_path):
    write_runs(tmp_path)
    record = record_of(tmp_path)
    result = parameter_curve(record, "alpha")
    (curve,) = result["curves"]
    assert (curve["loss"], curve["metric"], curve["best"]) == ("outlying_mse:ties=dense", "accuracy", 2)
    assert [point["value"] for point in curve["points"]] == [0.5, 2, 10]
    for point in curve["points"]:
        (run,) = [run for run in record["runs"] if f"alpha={point['value']:g}," in run["loss"]]
        accuracies = run["scores"]["last"]["accuracy"]
        assert list(point["scores"].values()) == accuracies
        assert point["mean"] == pytest.approx(np.mean(accuracies), abs=0.005)
        assert point["std"] == pytest.approx(np.std(accuracies, ddof=1), abs=0.005)
    assert parameter_curve(record, "alpha", "macro_f1")["curves"][0]["points"] != curve["points"]


def test_the_test_split_chooses_nothing(tmp_path):
    for alpha in (1, 2):
        write_trial(tmp_path, f"outlying_mse:alpha={alpha}")
    with pytest.raises(ValueError, match="scores of validation data, got those of test"):
        parameter_curve(record_of(tmp_path), "alpha")


def test_bad_requests_are_named(tmp_path):
    write_runs(tmp_path)
    record = record_of(tmp_path)
    with pytest.raises(ValueError, match="several values of `gamma`, got none"):
        parameter_curve(record, "gamma")
    with pytest.raises(ValueError, match="`metric` must be a score of the runs, got 'speed'"):
        parameter_curve(record, "alpha", "speed")
    for values in ([1.0], [1.0, 1.0, 2.0]):
        with pytest.raises(ValueError, match="at least two different numbers"):
            value_sweep("a.py", "outlying_mse", "alpha", values, "Which?")


def test_the_axis_fits_the_values_and_every_value_is_labelled(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    write_runs(tmp_path)
    curves = parameter_curve(record_of(tmp_path), "alpha")
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
    draw_curve(tmp_path / "wide.png", curves)
    for point, value in zip(curves["curves"][0]["points"], (1, 2, 3), strict=True):
        point["value"] = value
    draw_curve(tmp_path / "even.png", curves)
    axes = [figure.axes[0] for figure in figures]
    assert [axis.get_xscale() for axis in axes] == ["log", "linear"]
    labels = [[label.get_text() for label in axis.get_xticklabels()] for axis in axes]
    assert labels == [["0.5", "2", "10"], ["1", "2", "3"]]
    assert axes[0].get_xlabel() == "alpha"
    assert axes[0].get_ylabel() == "validation accuracy, per cent"
    assert min(Image.open(tmp_path / "wide.png").size) > 300


def test_the_tool_draws_finished_runs_and_asks_the_sweep_for_validation_data_alone(
    tmp_path, monkeypatch, capsys
):
    write_runs(tmp_path / "alpha", config="quickstart/digits.py", imbalance=None)
    tool = runpy.run_path(str(ROOT / "tools" / "select_alpha.py"))
    asked = []
    monkeypatch.setitem(
        tool["main"].__globals__, "run_command", lambda verb, args: asked.append((verb, args))
    )
    line = f"tool quickstart/digits.py --values 0.5 2 10 --lr 0.01 0.1 --epochs 5 --work-dir {tmp_path}/alpha"
    monkeypatch.setattr(sys, "argv", line.split())
    tool["main"]()
    assert "alpha 2 has the highest accuracy" in capsys.readouterr().out
    ((verb, (path, *others)),) = asked
    assert (verb, others) == ("sweep", ["--work-dir", str(tmp_path / "alpha")])
    text = Path(path).read_text()
    assert "split = 'val'" in text
    assert "'outlying_mse:alpha=0.5', 'outlying_mse:alpha=2', 'outlying_mse:alpha=10'" in text
    assert json.loads((tmp_path / "alpha" / "curve.json").read_text())["curves"][0]["best"] == 2
    assert (tmp_path / "alpha" / "curve.png").stat().st_size > 1000
