"""Records as rows of evidence: what is read is what the files say."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mmseol.analysis.records import evidence as module
from mmseol.analysis.records.evidence import compare, evidence, read_records, recorded_runs
from mmseol.experiment import LOSSES
from mmseol.experiment.config_files import find_config

ROOT = Path(__file__).parents[1]
RECORDS = {path.parent.name: json.loads(path.read_text()) for path in ROOT.glob("results/*/record.json")}
COMPARING = {
    name: record
    for name, record in RECORDS.items()
    if isinstance(record, dict) and {"runs", "scores", "mean_iou"} & record.keys()
}


def test_all_records_that_compare_losses_are_read():
    runs = recorded_runs(read_records())
    assert {run.record for run in runs} == COMPARING.keys()
    assert len(COMPARING) >= 6
    for run in runs:
        assert run.name in LOSSES
        assert run.config is not None
        assert Path(find_config(run.config)).is_file()
        assert all(0 <= value <= 100 for values in run.scores.values() for value in values)


@pytest.mark.parametrize("name", COMPARING)
def test_the_scores_are_those_of_the_file(name):
    record = COMPARING[name]
    read = recorded_runs({name: record})
    if "runs" in record:
        expected = [run["scores"][record["checkpoint"]]["accuracy"] for run in record["runs"]]
        assert [list(run.scores["accuracy"]) for run in read] == expected
        assert [run.values for run in read] == [run["chosen"]["values"] for run in record["runs"]]
    elif "scores" in record:
        assert len(read) == len(record["scores"])
        for run, scores in zip(read, record["scores"].values(), strict=True):
            assert list(run.scores[run.headline]) == scores[run.headline]
            assert "seconds" not in run.scores
    else:
        rows = {row: value for row, value in record["mean_iou"].items() if row != "colour and position"}
        assert [run.mean("mIoU") for run in read] == list(rows.values())
        assert {run.task for run in read} == {"segmentation"}


def test_scripts_train_the_configs_that_are_taken_for_theirs():
    quickstarts = runpy.run_path(str(ROOT / "tools" / "quickstart.py"))["QUICKSTARTS"]
    expected = {f"tools/{one.command}.sh": f"quickstart/{one.config}" for one in quickstarts.values()}
    assert expected == module._SCRIPTS
    rates = {name: one.learning_rates for name, one in quickstarts.items()}
    runs = [run for run in recorded_runs(read_records()) if run.record.startswith("quickstart")]
    for run in runs:
        assert run.values == {"lr": rates["digits" if "digits" in run.record else "toy"][run.name]}


def test_the_best_cross_entropy_is_the_reference():
    (found,) = compare([run for run in recorded_runs(COMPARING) if run.record == "camvid_r18"])
    iou = RECORDS["camvid_r18"]["mean_iou"]
    best = max(value for row, value in iou.items() if row.startswith("cross entropy"))
    assert found.reference.mean("mIoU") == best
    assert found.references == 2
    assert found.difference == pytest.approx(iou["outlying MSE, alpha 6, learning rate 1e-2"] - best)
    assert (found.run.loss, found.run.values) == ("outlying_mse:alpha=6", {"lr": 0.01})
    assert not found.certain


def test_differences_and_intervals_over_seeds():
    first = RECORDS["quickstart_digits"]["scores"]
    found = compare([run for run in recorded_runs(COMPARING) if run.record == "quickstart_digits"])
    assert [one.run.name for one in found] == ["outlying_mse", "mse"]  # not the row of another decision
    a, b = (np.array(first[row]["accuracy"]) for row in ("outlying MSE", "cross entropy"))
    low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert found[0].difference == pytest.approx(a.mean() - b.mean())
    assert (found[0].seeds.low, found[0].seeds.high) == pytest.approx((low, high))
    assert found[0].certain is bool(low > 0)


def test_intervals_over_images_are_those_of_the_sweep():
    record = RECORDS["losses_digits"]
    for run in recorded_runs({"losses_digits": record}):
        expected = [
            one["images"]
            for one in record["comparisons"]
            if one["loss"] == run.loss and one["reference"] == "ce" and one["score"] == "accuracy"
        ]
        assert [list(value) for key, value in run.intervals.items() if key == "accuracy"] == expected


CLASSES = tuple(RECORDS["quickstart"]["iou"]["cross entropy"])


@pytest.mark.parametrize(
    ("task", "config", "classes", "expected"),
    [
        ("segmentation", "/any/configs/camvid/fastfcn_r18.py", CLASSES, {"camvid_r18": 3, "quickstart": 1}),
        ("segmentation", "configs/camvid/fastfcn_r50.py", CLASSES, {"camvid_r18": 2, "losses_camvid": 2}),
        ("segmentation", "quickstart/toy_camvid.py", CLASSES, {"camvid_r18": 1, "quickstart": 3}),
        ("segmentation", "mine.py", ("a", "b"), {"camvid_r18": 0, "losses_camvid": 0, "quickstart": 0}),
        ("classification", "quickstart/digits.py", (), {"losses_digits": 3, "losses_cifar10_lt100": 0}),
        ("classification", "cifar/resnet32_cifar10.py", (), {"losses_cifar10_lt100": 2, "losses_digits": 0}),
        ("classification", "cifar/resnet32_cifar100.py", (), {"losses_cifar10_lt100": 0, "losses_digits": 0}),
    ],
)
def test_how_near_records_are(task, config, classes, expected):
    found = evidence(recorded_runs(COMPARING), task, config, classes)
    ranks = {comparisons[0].run.record: rank for rank, comparisons in found}
    assert expected.items() <= ranks.items()
    assert [rank for rank, _ in found] == sorted((rank for rank, _ in found), reverse=True)


def test_tuned_records_come_first():
    tuned = {}
    for task in ("classification", "segmentation"):
        found = evidence(recorded_runs(COMPARING), task, "mine.py", ())
        tuned[task] = [comparisons[0].run.tuned for _, comparisons in found]
        assert tuned[task] == sorted(tuned[task], reverse=True)
    assert any(tuned["classification"])
    assert not all(tuned["segmentation"])


def test_a_broken_record_is_named(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "record.json").write_text("{")
    with pytest.raises(ValueError, match=r"The record '.*mine/record.json' cannot be read"):
        read_records(tmp_path)
    assert read_records(tmp_path / "mine") == {}
