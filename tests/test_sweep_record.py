"""The compact record of a sweep."""

import json

import numpy as np
import pytest
from helpers.sweep_records import CLASSES, TRUTH, predict, sklearn_scores, write_trial

from mmseol.analysis.records.sweep_record import check_digest, sweep_record
from mmseol.analysis.records.trial_records import read_trials


def record_of(*folders, **arguments):
    return sweep_record(read_trials(folders), resamples=arguments.pop("resamples", 200), **arguments)


def test_scores_of_each_seed_are_kept_in_the_order_of_seeds(tmp_path):
    for seed in (3, 1, 2):
        write_trial(tmp_path, "ce", seed)
    (run,) = record_of(tmp_path)["runs"]
    assert run["seeds"] == [1, 2, 3]
    expected = [sklearn_scores(TRUTH, predict(TRUTH, 100 * seed + 2, 0.5))["macro_f1"] for seed in (1, 2, 3)]
    np.testing.assert_allclose(run["scores"]["last"]["macro_f1"], expected, atol=1e-3)
    assert list(run["per_class"]["last"]["recall"]) == list(CLASSES)
    assert run["scores"]["best_on_test"] == {}


def test_time_is_the_median_and_memory_the_highest_of_the_seeds(tmp_path):
    for seed, seconds, memory in ((1, 60.0, 1.0), (2, 300.0, 3.0), (3, 90.0, None)):
        write_trial(tmp_path, "ce", seed, seconds=seconds, memory=memory)
    (run,) = record_of(tmp_path)["runs"]
    assert (run["seconds"], run["memory"]) == (90.0, 3.0)


def test_rows_are_in_the_order_of_cuts_and_losses(tmp_path):
    cuts = ["long_tailed:5", "long_tailed:10", "long_tailed:100", "step:5"]
    for imbalance in cuts[::-1]:
        for loss in ("mse", "ce"):
            write_trial(tmp_path, loss, imbalance=imbalance)
    runs = record_of(tmp_path)["runs"]
    assert [(run["imbalance"], run["loss"]) for run in runs] == [(c, k) for c in cuts for k in ("ce", "mse")]


def test_differences_are_of_the_same_seeds_and_images(tmp_path):
    for seed in (1, 2, 3):
        write_trial(tmp_path, "ce", seed, wrong=0.6)
    for seed in (2, 3, 4):
        write_trial(tmp_path, "mse", seed, wrong=0.2)
    rows = record_of(tmp_path)["comparisons"]
    assert [(row["loss"], row["reference"], row["score"]) for row in rows] == [
        ("mse", "ce", "accuracy"),
        ("mse", "ce", "macro_f1"),
    ]
    row = rows[0]
    assert row["seeds"] == [2, 3]

    def accuracy(loss, seed, wrong):
        return sklearn_scores(TRUTH, predict(TRUTH, 100 * seed + len(loss), wrong))["accuracy"]

    differences = [accuracy("mse", seed, 0.2) - accuracy("ce", seed, 0.6) for seed in (2, 3)]
    assert row["difference"] == pytest.approx(np.mean(differences), abs=0.006)
    low, high = row["images"]
    assert 0 < low < row["difference"] < high
    assert row["training"][0] < low  # two seeds allow little


def test_a_reference_can_be_chosen(tmp_path):
    for loss in ("ce", "mse", "outlying_mse:alpha=5"):
        write_trial(tmp_path, loss)
    rows = record_of(tmp_path, reference="outlying_mse")["comparisons"]
    assert {row["loss"] for row in rows} == {"ce", "mse"}
    assert {row["training"] for row in rows} == {None}  # one seed
    with pytest.raises(ValueError, match=r"`reference` must be a loss of the sweep \(.*mse.*\), got 'dice'"):
        record_of(tmp_path, reference="dice")


def test_predictions_of_other_runs_or_checkpoints(tmp_path):
    for loss in ("ce", "mse"):
        path = write_trial(tmp_path, loss)
    content = json.loads(path.read_text())
    wrong = {name: value + 1 for name, value in content["scores"]["last"]["scores"].items()}
    for kind in ("last", "best_on_validation"):
        content["scores"][kind]["scores"] = wrong
    path.write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"predictions\.npz' does not give the scores of the record beside it"
    ):
        record_of(tmp_path)
    content["scores"]["best_on_validation"]["scores"] = {k: v - 1 for k, v in wrong.items()}
    path.write_text(json.dumps(content))  # the predictions are of the best epoch, the last one is shown
    row = record_of(tmp_path)["comparisons"][0]
    assert row["images"] is None
    assert row["difference"] is not None


def test_other_images_have_no_interval(tmp_path):
    for loss in ("ce", "mse"):
        path = write_trial(tmp_path, loss)
    order = np.random.default_rng(0).permutation(len(TRUTH))
    label = predict(TRUTH, 100 + len("mse"), 0.5)
    np.savez(path.with_name("predictions.npz"), label=label[order], truth=TRUTH[order])
    assert {row["images"] for row in record_of(tmp_path)["comparisons"]} == {None}


def test_segmentation_is_compared_by_iou(tmp_path):
    for loss in ("ce", "mse"):
        write_trial(tmp_path, loss, segmentation=True, config="camvid/fastfcn_r18.py", imbalance=None)
    record = record_of(tmp_path)
    assert [row["score"] for row in record["comparisons"]] == ["mIoU", "accuracy"]
    assert all(row["images"][0] < row["difference"] < row["images"][1] for row in record["comparisons"])
    assert {run["task"] for run in record["runs"]} == {"segmentation"}
    assert record["runs"][0]["per_class"]["last"].keys() == {"IoU"}


def test_cuts_and_epochs_are_not_mixed(tmp_path):
    for imbalance in ("long_tailed:10", "long_tailed:100"):
        write_trial(tmp_path, "ce", imbalance=imbalance)
        write_trial(tmp_path, "mse", imbalance=imbalance)
    write_trial(tmp_path, "focal", imbalance="long_tailed:10", epochs=40)
    record = record_of(tmp_path)
    assert len(record["runs"]) == 5
    pairs = {(row["loss"], row["imbalance"]) for row in record["comparisons"]}
    assert pairs == {("mse", "long_tailed:10"), ("mse", "long_tailed:100")}


def test_tuning_keeps_every_point_and_seed(tmp_path):
    for rate, seed in ((0.1, 1), (0.1, 2), (1.0, 1)):
        write_trial(
            tmp_path, "ce", seed, stage="tune", values={"lr": rate}, diverged=(rate == 1 and "nan") or None
        )
    points = record_of(tmp_path)["tuning"]
    assert {point["by"] for point in points} == {"last"}
    assert [(point["values"], list(point["scores"])) for point in points] == [
        ({"lr": 0.1}, ["1", "2"]),
        ({"lr": 1.0}, ["1"]),
    ]
    assert points[1]["scores"] == {"1": None}
    expected = sklearn_scores(TRUTH, predict(TRUTH, 102, 0.5))["accuracy"]
    assert points[0]["scores"]["1"] == pytest.approx(expected, abs=0.005)


def test_the_digest_finds_a_changed_digit(tmp_path):
    write_trial(tmp_path)
    record = json.loads(json.dumps(record_of(tmp_path)))
    check_digest(record, "record.json")
    record["runs"][0]["scores"]["last"]["accuracy"][0] += 0.001
    with pytest.raises(ValueError, match=r"record\.json was changed"):
        check_digest(record, "record.json")
    assert record_of(tmp_path)["digest"] == record_of(tmp_path)["digest"]
