"""Curves of trainings that were continued, and of logs that a kill cut off."""

from __future__ import annotations

import json
from pathlib import Path

from mmseol.sweeps.curves import class_scores, loss_curve, seconds_per_iteration, validation_curve


def write(work_dir: Path, name: str, *lines: dict, tail: str = "") -> None:
    path = work_dir / name / "vis_data" / "scalars.json"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)


def step(number: int, epoch: int, loss: float, time: float = 0.5) -> dict:
    return {"loss": loss, "epoch": epoch, "iter": number, "step": number, "time": time, "lr": 0.1}


def test_a_continued_training_replaces_what_it_repeats(tmp_path):
    first = [step(10, 1, 4.0), {"mIoU": 1.0, "time": 9.0, "step": 1}, step(20, 2, 3.0)]
    write(tmp_path, "20260101_000000", *first, {"mIoU": 2.0, "step": 2}, tail='{"loss": 2.5, "ep')
    second = [step(20, 2, 1.0), {"mIoU": 5.0, "data_time": 0.1, "step": 2}, step(30, 3, 0.5, time=0.7)]
    write(tmp_path, "20260101_000001", *second)
    assert validation_curve(tmp_path) == [{"epoch": 1, "mIoU": 1.0}, {"epoch": 2, "mIoU": 5.0}]
    assert loss_curve(tmp_path) == [[1, 4.0], [2, 1.0], [3, 0.5]]
    assert seconds_per_iteration(tmp_path) == 0.5


def test_a_score_that_is_no_number_is_none(tmp_path):
    write(tmp_path, "20260101_000000", {"few/mIoU": float("nan"), "mIoU": 2.0, "step": 1})
    assert validation_curve(tmp_path) == [{"epoch": 1, "few/mIoU": None, "mIoU": 2.0}]


def test_scores_of_classes_are_those_of_the_epoch_in_its_last_run(tmp_path):
    for name, recall in (("20260101_000000", 10.0), ("20260101_000001", 30.0)):
        (tmp_path / name).mkdir()
        for epoch in (1, 2):
            row = {"class": "road", "recall": recall + epoch, "IoU": None, "training": 7}
            path = tmp_path / name / f"class_scores_val_epoch_{epoch}.json"
            path.write_text(json.dumps({"classes": [row]}))
    assert class_scores(tmp_path, 2) == {"road": {"IoU": None, "recall": 32.0}}


def test_a_single_epoch_is_written_by_iterations(tmp_path):
    (tmp_path / "now").mkdir()
    row = {"class": "road", "recall": 3.0}
    (tmp_path / "now" / "class_scores_val_iter_11.json").write_text(json.dumps({"classes": [row]}))
    assert class_scores(tmp_path, 1) == {"road": {"recall": 3.0}}


def test_loss_curve_leaves_out_nan_and_infinite_losses_also_those_of_a_continued_run(tmp_path):
    log = '{{"loss": {}, "epoch": {}, "step": {}}}\n'.format
    runs = {
        "1": log("2.0", 1, 1) + log("NaN", 1, 2) + log("1.0", 2, 3),
        "2": log("Infinity", 2, 3) + log("NaN", 2, 4),
    }
    for name, lines in runs.items():
        path = tmp_path / name / "vis_data/scalars.json"
        path.parent.mkdir(parents=True)
        path.write_text(lines)
    assert loss_curve(tmp_path) == [[1, 2.0]]
