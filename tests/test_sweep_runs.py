"""Sweeps on real data, from the command line to the records, with kills in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import mmpretrain.models  # noqa: F401  (once here, not in every forked driver)
import numpy as np
import pytest
from helpers.forked_runs import start, status_of
from helpers.quick_trials import children_of, wait_for

from mmseol.__main__ import main
from mmseol.analysis.records.sweep_record import sweep_record
from mmseol.analysis.records.trial_records import read_trials
from mmseol.analysis.tabulation.sweep_tables import setting_tables, tuning_tables
from mmseol.experiment import stock_config
from mmseol.sweeps.claims import live_holder
from mmseol.sweeps.engines import LocalEngine
from mmseol.sweeps.trial import state
from mmseol.sweeps.work_folder import preload_of
from mmseol.utils.files import read_json, write_json

SWEEP = """
'''Three losses, two cuts, two seeds.'''
configs = ["quickstart/digits.py"]
imbalances = ["long_tailed:20", "step:10"]
losses = ["ce", "mse", "outlying_mse"]
epochs = 2
seeds = [1, 2]
metric = "accuracy"
options = ["train_cfg.val_interval=1", "train_dataloader.batch_size=128"]
"""


def drive(file: Path, work_dir: Path) -> None:
    """Run the command in this process, with its output in a file."""
    with open(work_dir.parent / "driver.log", "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    main("sweep", [str(file), "--work-dir", str(work_dir), "--slots", "2"])


def trials(work_dir: Path) -> list[Path]:
    return sorted((work_dir / "trials").glob("*"))


def in_state(work_dir: Path, *names: str) -> list[Path]:
    return [folder for folder in trials(work_dir) if state(folder) in names]


def results(work_dir: Path) -> dict[tuple[Any, ...], Any]:
    """Return scores and chosen epochs of all records, without what differs from run to run."""
    records = [read_json(folder / "record.json") for folder in trials(work_dir)]
    names = ("stage", "loss", "imbalance", "seed")
    return {
        tuple(record[name] for name in names): (record["id"], record["scores"], record["data"])
        for record in records
    }


def test_a_sweep_survives_kills_and_repeats_nothing_that_is_done(tmp_path):
    file, work_dir = tmp_path / "small.py", tmp_path / "work"
    file.write_text(SWEEP)
    driver = start(drive, file, work_dir)

    wait_for(lambda: in_state(work_dir, "done"), 200)
    wait_for(lambda: [one for one in in_state(work_dir, "running") if (one / "train").exists()], 100)
    victim = next(one for one in in_state(work_dir, "running") if (one / "train").exists())
    trained_by = children_of(live_holder(victim)["pid"])
    os.kill(live_holder(victim)["pid"], signal.SIGKILL)
    wait_for(lambda: not [pid for pid in trained_by if Path(f"/proc/{pid}/stat").exists()])  # no orphan
    wait_for(lambda: state(victim) == "done", 200)
    assert len(read_json(victim / "attempts.json")) == 2

    wait_for(lambda: len(in_state(work_dir, "done")) >= 4, 200)
    wait_for(lambda: in_state(work_dir, "running"), 100)
    os.kill(driver.pid, signal.SIGKILL)
    driver.join()
    wait_for(lambda: not in_state(work_dir, "running"))  # they notice that nobody waits for them
    before = {one: (one / "record.json").stat().st_mtime_ns for one in in_state(work_dir, "done")}
    assert 4 <= len(before) < 12

    assert status_of(start(drive, file, work_dir), 400) == 0, (tmp_path / "driver.log").read_text()[-2000:]
    assert {one: (one / "record.json").stat().st_mtime_ns for one in before} == before
    assert len(in_state(work_dir, "done")) == len(trials(work_dir)) == 12
    assert not list(work_dir.rglob("*.pth"))  # the sweep keeps no checkpoints
    found = results(work_dir)
    assert {(loss, cut, seed) for _, loss, cut, seed in found} == {
        (loss, cut, seed)
        for loss in ("ce", "mse", "outlying_mse")
        for cut in ("long_tailed:20", "step:10")
        for seed in (1, 2)
    }
    digests = {
        cut: {data["subset_digest"] for (_, _, one, _), (_, _, data) in found.items() if one == cut}
        for cut in ("long_tailed:20", "step:10")
    }
    assert [len(digests[cut]) for cut in digests] == [1, 1]
    assert digests["long_tailed:20"] != digests["step:10"]

    record = read_json(victim / "record.json")
    with np.load(victim / "predictions.npz", allow_pickle=False) as kept:
        accuracy = 100 * (kept["label"] == kept["truth"]).mean()
    assert record["scores"]["last"]["scores"]["accuracy"] == pytest.approx(accuracy)
    assert record["scores"]["last"]["split"] == "test"
    assert [point["epoch"] for point in record["curves"]["validation"]] == [1, 2]
    check_tables(work_dir)
    check_by_hand(victim, tmp_path)


def check_tables(work_dir: Path) -> None:
    """Assert that tables can be made of the records, with an interval for every pair of losses."""
    record = sweep_record(read_trials([work_dir]), resamples=20)
    assert [run["seeds"] for run in record["runs"]] == [[1, 2]] * 6
    assert all(run["settings"].keys() == {"optimizer", "lr", "weight_decay"} for run in record["runs"])
    assert all(len(run["counts"]) == 10 for run in record["runs"])
    pairs = [(one["imbalance"], one["loss"], one["score"]) for one in record["comparisons"]]
    assert len(set(pairs)) == len(pairs) == 2 * 2 * 2
    assert all(one["images"] for one in record["comparisons"])


def check_by_hand(folder: Path, tmp_path: Path) -> None:
    """Assert that the killed, forked trial has the digits of one in a process of its own."""
    again = tmp_path / "again"
    again.mkdir()
    request = read_json(folder / "trial.json")
    write_json(again / "trial.json", request)
    command = [sys.executable, "-m", "mmseol.sweeps.trial", str(again)]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    first, second = (read_json(one / "record.json") for one in (folder, again))
    for name in ("id", "scores", "data", "classes"):
        assert first[name] == second[name], name
    strip = ("seconds", "data_time", "time")
    curves = [
        [{k: v for k, v in point.items() if k not in strip} for point in one["curves"]["validation"]]
        for one in (first, second)
    ]
    assert curves[0] == curves[1]
    arrays = [np.load(one / "predictions.npz", allow_pickle=False) for one in (folder, again)]
    assert {name: array.tolist() for name, array in arrays[0].items()} == {
        name: array.tolist() for name, array in arrays[1].items()
    }


STOCK = """
_base_ = [{base!r}]
crop_size = (32, 32)
norm_cfg = dict(type="BN")
load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]
crop, pack = dict(type="RandomCrop", crop_size=crop_size), dict(type="PackSegInputs")
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=crop_size),
    backbone=dict(type="ResNet", depth=18, norm_cfg=norm_cfg),
    decode_head=dict(in_channels=512, channels=8, num_classes=11, norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels=256, channels=8, num_classes=11, norm_cfg=norm_cfg),
)
data = dict(type="mmseol.CamVidDataset", data_root={data!r})
train = dict(data_prefix=dict(img_path="train", seg_map_path="trainannot"), pipeline=[*load, crop, pack])
val = dict(data_prefix=dict(img_path="val", seg_map_path="valannot"), pipeline=[*load, pack])
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(_delete_=True, **data, **train))
val_dataloader = dict(num_workers=0, persistent_workers=False,
    dataset=dict(_delete_=True, **data, **val))
test_dataloader = val_dataloader
custom_hooks = [dict(type="mmseol.ClassCountHook"), dict(type="mmseol.ExactResumeHook")]
"""


def test_a_stock_config_of_mmseg_by_iterations(tmp_path, toy):
    config, file, work_dir = tmp_path / "stock.py", tmp_path / "small.py", tmp_path / "work"
    base = stock_config("mmseg", "fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py")
    config.write_text(STOCK.format(base=str(base), data=str(toy)))
    file.write_text(
        f"configs = [{str(config)!r}]\nlosses = ['outlying_mse']\niterations = 4\nmetric = 'mIoU'\n"
        "split = 'val'\ntune = {'lr': [1e-2, 1e-1]}\nrungs = [{'iterations': 2, 'keep': 1}]\n"
        "options = ['train_cfg.val_interval=2']\n"
    )
    assert status_of(start(drive, file, work_dir), 400) == 0, (tmp_path / "driver.log").read_text()[-2000:]
    records = {
        record["stage"]: record for record in (read_json(one / "record.json") for one in trials(work_dir))
    }
    assert records["tune"]["iterations"] == records["tune"]["scores"]["last"]["iteration"] == 2
    final = records["final"]
    assert (final["epochs"], final["iterations"]) == (None, 4)
    assert [point["iteration"] for point in final["curves"]["validation"]] == [2, 4]
    assert final["scores"]["last"]["iteration"] == 4
    assert final["scores"]["last"]["scores"]["mIoU"] == pytest.approx(
        final["curves"]["validation"][-1]["mIoU"], abs=0.01
    )
    assert set(final["scores"]["last"]["per_class"]) == set(final["classes"])
    record = sweep_record(read_trials([work_dir]), resamples=20)
    assert "4 iterations" in str(setting_tables(record)[0].rows)
    assert tuning_tables(record)[0].headings[1:2] == ["iterations"]


def test_the_local_engine_names_a_host_that_it_imports_before():
    engine = LocalEngine(slots=1, preload=preload_of("mmpretrain"))
    assert {"mmpretrain.models", "mmseol.sweeps.runs"} <= set(engine.preload)
    engine.close()
