"""Requests of trials: what they resolve to, what identifies them, and the test split that stays closed."""

from __future__ import annotations

import shutil
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.small_data import write_class_folders
from mmengine.config import Config

import mmseol
from mmseol.experiment.commands import load_config
from mmseol.sweeps import request
from mmseol.sweeps.planner import Trial
from mmseol.sweeps.request import Requests, code_version, data_digest
from mmseol.sweeps.sweep_file import Sweep

DIGITS = "quickstart/digits.py"
TUNE = Trial("tune", DIGITS, "step:10", "ce", (("lr", 0.1),), length=5, seed=0, rung=0)
FINAL = replace(TUNE, stage="final", rung=None)


def sweep(**changes) -> Sweep:
    settings = dict(
        name="s", configs=[DIGITS], losses=["ce"], epochs=5, metric="accuracy", tune={"lr": [0.1]}
    )
    return Sweep(**{**settings, **changes})


def resolved(made: dict) -> Config:
    return load_config(Namespace(**made["train"]))


def test_a_tuning_trial_has_no_test_split_at_all():
    made = Requests(sweep(options=["test_dataloader.batch_size=7"])).of(TUNE)
    cfg = resolved(made)
    assert [cfg[f"test_{part}"] for part in ("dataloader", "evaluator", "cfg")] == [None] * 3
    assert cfg.val_dataloader is not None
    assert made["split"] == "val"
    assert len(made["command"]) == 1  # nothing is scored after training
    assert not made["best_on_test"]
    final = Requests(sweep(options=["test_dataloader.batch_size=7"], best_on_test=True)).of(FINAL)
    assert resolved(final).test_dataloader.batch_size == 7
    assert (final["split"], final["best_on_test"]) == ("test", True)


@pytest.mark.parametrize(
    ("options", "loader"),
    [
        (["val_dataloader.dataset.dataset.split=test"], "val_dataloader"),
        (["train_dataloader.dataset.dataset.dataset.split=test"], "train_dataloader"),
        (
            ["val_dataloader.dataset.dataset.split=test", "test_dataloader.dataset.split=other"],
            "val_dataloader",
        ),
    ],
)
def test_options_that_open_the_test_split_are_refused(options, loader):
    for split in ("test", "val"):
        for trial in (TUNE, FINAL):
            with pytest.raises(ValueError, match=f"`{loader}` reads the test split"):
                Requests(sweep(options=options, split=split)).of(trial)


def test_only_final_trainings_keep_checkpoints():
    """Tuning trials stay the same trials, so that a sweep can be continued for the checkpoints."""
    one = sweep(keep_checkpoints=True, keep_every=3)
    made = Requests(one).of(FINAL)
    hook = resolved(made).default_hooks.checkpoint
    assert (hook.interval, hook.max_keep_ckpts, made["keep_checkpoints"]) == (3, -1, True)
    assert made["key"] != Requests(sweep()).of(FINAL)["key"]
    tuning = Requests(one).of(TUNE)
    hook = resolved(tuning).default_hooks.checkpoint
    assert (hook.interval, hook.max_keep_ckpts, tuning["keep_checkpoints"]) == (1, 1, False)
    assert tuning["key"] == Requests(sweep()).of(TUNE)["key"]


def test_tuned_settings_that_open_the_test_split_are_refused():
    key = "val_dataloader.dataset.dataset.split"
    one = sweep(tune={key: ["train", "test"]})
    Requests(one).of(replace(TUNE, point=((key, "train"),)))
    with pytest.raises(ValueError, match="`val_dataloader` reads the test split"):
        Requests(one).of(replace(TUNE, point=((key, "test"),)))


def test_a_config_that_validates_on_its_test_data_can_only_be_scored_there(tmp_path):
    write_class_folders(tmp_path / "train", 3, 4)
    write_class_folders(tmp_path / "val", 3, 4)
    options = ["model.head.num_classes=3"]
    one = sweep(configs=["template/my_classes.py"], split="test", options=options)
    trial = replace(FINAL, config="template/my_classes.py", imbalance=None)
    with pytest.raises(ValueError, match="validation and test data of the config are the same"):
        Requests(one, str(tmp_path)).of(trial)


def test_epochs_shorten_schedules_in_proportion(tmp_path):
    config = tmp_path / "steps.py"
    config.write_text(
        f"_base_ = [{str(Path(mmseol.__file__).parents[1] / 'configs' / 'quickstart' / 'digits.py')!r}]\n"
        "param_scheduler = [dict(type='LinearLR', by_epoch=False, begin=0, end=9, start_factor=0.1),\n"
        "    dict(type='MultiStepLR', milestones=[30, 45]), dict(type='PolyLR', end=60)]\n"
    )
    made = Requests(sweep(configs=[str(config)])).of(replace(TUNE, config=str(config), length=20))
    warmup, steps, poly = resolved(made).param_scheduler
    assert (warmup.end, steps.milestones, poly.end) == (9, [10, 15], 20)
    assert resolved(made).train_cfg.max_epochs == 20


def test_iterations_shorten_schedules_in_proportion(tmp_path):
    """A stock schedule of MMSegmentation: 40,000 iterations, validated and saved every 4,000."""
    config = tmp_path / "stock.py"
    config.write_text(
        f"_base_ = [{str(Path(mmseol.__file__).parents[1] / 'configs' / 'quickstart' / 'digits.py')!r}]\n"
        "train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=40000, val_interval=4000)\n"
        "param_scheduler = [dict(type='PolyLR', power=0.9, begin=0, end=40000, by_epoch=False)]\n"
    )
    one = replace(sweep(configs=[str(config)]), epochs=None, iterations=40000)
    made = Requests(one).of(replace(TUNE, config=str(config), length=10000))
    assert (made["epochs"], made["iterations"]) == (None, 10000)
    cfg = resolved(made)
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (10000, 4000)
    assert cfg.param_scheduler[0].end == 10000
    checkpoint, logger = cfg.default_hooks.checkpoint, cfg.default_hooks.logger
    assert (checkpoint.by_epoch, checkpoint.interval, logger.log_metric_by_epoch) == (False, 4000, False)


def test_an_option_of_the_file_comes_after_the_settings_of_the_sweep():
    one = sweep(options=["train_cfg.val_interval=2"], options_of={"ce": ["train_cfg.val_interval=1"]})
    assert resolved(Requests(one).of(TUNE)).train_cfg.val_interval == 1
    assert resolved(Requests(replace(one, options_of={})).of(TUNE)).train_cfg.val_interval == 2


def test_the_request_tells_learning_rate_and_weight_decay():
    """The tuned rate, the config's, and the weight decay of torch's Adam, which the config leaves open."""
    assert Requests(sweep()).of(TUNE)["settings"] == {"optimizer": "Adam", "lr": 0.1, "weight_decay": 0}
    untuned = Requests(sweep(tune={})).of(replace(FINAL, point=()))
    assert untuned["settings"] == {"optimizer": "Adam", "lr": 0.005, "weight_decay": 0}


def test_what_identifies_a_trial():
    requests = Requests(sweep())
    base = requests.of(FINAL)
    assert Requests(sweep(name="renamed", note="A note.")).of(FINAL)["id"] == base["id"]
    others = [
        requests.of(TUNE),
        requests.of(replace(FINAL, seed=1)),
        requests.of(replace(FINAL, length=6)),
        requests.of(replace(FINAL, point=(("lr", 0.2),))),
        requests.of(replace(FINAL, imbalance="step:5")),
        Requests(sweep(losses=["mse"])).of(replace(FINAL, loss="mse")),
        Requests(sweep(options=["train_dataloader.batch_size=16"])).of(FINAL),
        Requests(sweep(best_on_test=True)).of(FINAL),
        Requests(sweep(metric="macro_f1")).of(FINAL),
        Requests(sweep(split="val")).of(FINAL),
    ]
    assert len({made["id"] for made in [base, *others]}) == 1 + len(others)


def test_another_version_of_the_code_is_another_trial_of_the_same_key(monkeypatch):
    base = Requests(sweep()).of(FINAL)
    monkeypatch.setattr(request, "code_version", lambda: "0+edited")
    edited = Requests(sweep()).of(FINAL)
    assert edited["key"] == base["key"]
    assert edited["id"] != base["id"]


def test_the_version_follows_arithmetic_alone(tmp_path, monkeypatch):
    package = tmp_path / "mmseol"
    shutil.copytree(Path(mmseol.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(mmseol, "__file__", str(package / "__init__.py"))
    version = code_version.__wrapped__
    before = version()
    for name in ("sweeps/driver.py", "analysis/records/run_records.py"):
        path = package / name
        path.write_text(path.read_text() + "\nX = 1\n")
    loss = package / "losses" / "focal.py"
    text = loss.read_text()
    loss.write_text("# A comment.\n" + text.replace('"""', '"""Another text. ', 1))
    assert version() == before
    loss.write_text(text + "\nX = 1\n")
    assert version() != before


def test_a_copy_of_the_data_is_the_same_data(tmp_path):
    for name in ("one", "two"):
        write_class_folders(tmp_path / name, 2, 3)
    datasets = [
        dict(type="CustomDataset", data_root=str(tmp_path / name), data_prefix="", pipeline=[])
        for name in ("one", "two")
    ]
    digests = [data_digest(dataset, "mmpretrain") for dataset in datasets]
    assert digests[0] == digests[1]
    (tmp_path / "two" / "class00" / "0.png").rename(tmp_path / "two" / "class01" / "7.png")
    assert data_digest(datasets[1], "mmpretrain") != digests[0]


def test_the_folder_of_the_data_does_not_identify_a_trial(tmp_path):
    made = []
    for name in ("one", "two"):
        write_class_folders(tmp_path / name / "train", 3, 4)
        write_class_folders(tmp_path / name / "val", 3, 4)
        one = sweep(configs=["template/my_classes.py"], split="val", options=["model.head.num_classes=3"])
        trial = replace(FINAL, config="template/my_classes.py", imbalance=None)
        made.append(Requests(one, str(tmp_path / name)).of(trial)["id"])
    assert made[0] == made[1]
