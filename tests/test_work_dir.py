"""The model of a config, checkpoints that fit it, and the work directory that a run holds."""

from __future__ import annotations

import copy
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from torch import nn

from mmseol.experiment.runner import CommandRunner, LoadedWeightsHook
from mmseol.experiment.weights import build_model, check_classifier, check_initial_weights, check_weights
from mmseol.experiment.work_dir import check_work_dir, differences, lock_work_dir, resumed_config


def network() -> nn.ModuleDict:
    """Return a model of four weights, two of them the classifier's."""
    return nn.ModuleDict({"neck": nn.Linear(2, 2), "head": nn.ModuleDict({"fc": nn.Linear(2, 10)})})


def state(*left_out: str, **other: torch.Tensor) -> dict[str, Any]:
    values = {**network().state_dict(), **{name.replace("__", "."): value for name, value in other.items()}}
    return {name: value for name, value in values.items() if name not in left_out}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (state(), None),
        (state("neck.weight", "neck.bias"), None),  # half of them
        (state("neck.weight", "neck.bias", "head.fc.bias"), "it has 1 of its 4 weights"),
        (state(neck__weight=torch.zeros(3, 2), neck__bias=torch.zeros(3)), None),
        (state("head.fc.weight"), "head.fc.weight is missing"),
        (state(head__fc__bias=torch.zeros(11)), r"head.fc.bias is of shape \(11,\) there and \(10,\) here"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_half_of_the_weights_and_the_classifier_must_be_there(
    weights: dict[str, Any], message: str | None, wrapped: bool
) -> None:
    model = network()
    if wrapped:  # as by test-time augmentation
        outer = nn.Module()
        outer.module = model
        model = outer
    if message is None:
        check_weights(model, "a.pth", {"state_dict": weights})
    else:
        with pytest.raises(ValueError, match=rf"'a.pth' does not fit the model: {message}\. Give the config"):
            check_weights(model, "a.pth", {"state_dict": weights})


def test_weights_of_other_shapes_count_where_no_classifier_is_known() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    names = ["a.weight", "a.bias", "b.weight"]
    values = {**model.state_dict(), **{name: torch.zeros(5) for name in names[:2]}}
    check_weights(model, "a.pth", values)
    values[names[2]] = torch.zeros(5)
    with pytest.raises(ValueError, match=r"3 of 4 weights are missing or of another shape: a\.weight is of"):
        check_weights(model, "a.pth", values)


def test_a_new_training_says_which_weights_are_new() -> None:
    assert check_initial_weights(network(), "a.pth", state()) == ""
    text = check_initial_weights(network(), "a.pth", state("neck.bias"))
    assert text == "`load_from` 'a.pth' has 3 of the model's 4 weights. neck.bias is missing."
    text = check_initial_weights(network(), "a.pth", state("head.fc.weight", "head.fc.bias", "neck.bias"))
    assert "has 1 of the model's 4 weights; the classifier head.fc starts from new weights. " in text
    with pytest.raises(ValueError, match=r"'a\.pth' has none of the model's weights: neck\.weight"):
        check_initial_weights(network(), "a.pth", {"other.weight": torch.zeros(2)})


def test_a_classifier_of_cosines_is_no_plain_one_and_the_reverse() -> None:
    plain, cosine = ({"meta": {"cfg": f"type={kind!r}"}} for kind in ("FCN", "mmseol.CosineClassifierHead"))
    plain_config, cosine_config = (
        Config(dict(model=dict(type=kind))) for kind in ("FCN", "CosineClassifierHead")
    )
    check_classifier(plain_config, "a.pth", plain)
    check_classifier(cosine_config, "a.pth", cosine)
    for other in ({}, {"meta": None}, {"meta": {}}):  # of another program
        check_classifier(cosine_config, "a.pth", other)
    with pytest.raises(ValueError, match=r"was trained with mmseol.*which this config lacks.*--loss ldam"):
        check_classifier(plain_config, "a.pth", cosine)
    with pytest.raises(ValueError, match=r"was trained without mmseol.*which this config has.*--loss ce"):
        check_classifier(cosine_config, "a.pth", plain)


def test_a_model_is_built_without_its_pretrained_weights() -> None:
    preprocessor = dict(type="SegDataPreProcessor", size=(32, 32), mean=[1.0], std=[2.0])
    model = dict(
        type="EncoderDecoder",
        pretrained="open-mmlab://no_such_weights",
        backbone=dict(type="ResNet", depth=18, base_channels=8),
        decode_head=dict(type="FCNHead", in_channels=64, channels=8, num_convs=1, num_classes=3),
    )
    cfg = Config(dict(default_scope="mmseg", data_preprocessor=preprocessor, model=model))
    before = cfg.pretty_text
    built = build_model(cfg)
    assert built.data_preprocessor.mean.tolist() == [[[1.0]]]
    assert cfg.pretty_text == before
    own = dict(preprocessor, mean=[7.0])
    cfg.model.data_preprocessor = own  # that of the model comes first
    assert build_model(cfg).data_preprocessor.mean.tolist() == [[[7.0]]]


# ------------------------------------------------------------------ the folder


def test_a_folder_is_free_after_its_run(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    lock = folder / ".run.lock"
    for _ in range(2):
        with lock_work_dir(folder):
            assert json.loads(lock.read_text())["process"] == os.getpid()
            with (
                pytest.raises(
                    ValueError, match=rf"is in use by process {os.getpid()} on \S+ since .*\. Wait"
                ),
                lock_work_dir(folder),
            ):
                pass
        assert lock.read_text() == ""
    with lock_work_dir(folder):
        for text in ("", "{", "[1]", "{}"):  # while it is written
            lock.write_text(text)
            with (
                pytest.raises(ValueError, match=r"is in use by another process\. Wait"),
                lock_work_dir(folder),
            ):
                pass


def test_settings_that_differ() -> None:
    old = dict(
        model=dict(type="A", heads=[dict(n=1), dict(n=2)], size=(3, 4), empty={}),
        randomness=dict(seed=1),
        work_dir="a",
    )
    new = dict(
        model=dict(type="A", heads=[dict(n=1), dict(n=3), dict(n=4)], size=[3, 4], empty={}),
        train_cfg=dict(max_epochs=2),
        work_dir="b",  # not a setting of the training
    )
    assert differences(old, old) == {}
    assert differences(old, new) == {
        "model.heads.1.n": (2, 3),
        "model.heads.2.n": ("-", 4),
        "randomness.seed": (1, "-"),
        "train_cfg.max_epochs": ("-", 2),
    }


def write_run(folder: Path, **settings: Any) -> Config:
    """Write what a run leaves; return its config."""
    folder.mkdir(parents=True, exist_ok=True)
    cfg = Config(dict(model=dict(type="A"), randomness=dict(seed=1), **settings))
    cfg.dump(folder / "mine.py")
    (folder / "epoch_1.pth").write_text("weights")
    return Config({**cfg.to_dict(), "work_dir": str(folder)}, filename="mine.py", cfg_text="#")


def test_a_run_goes_on_with_its_model_and_data_alone(tmp_path: Path) -> None:
    cfg = write_run(tmp_path)
    with pytest.raises(ValueError, match=r"already holds a run \(epoch_1.pth\)\. Continue it with --resume"):
        check_work_dir(cfg, resume=False)
    assert check_work_dir(cfg, resume=True) == ""
    cfg.randomness.seed = 2
    table = check_work_dir(cfg, resume=True)
    assert re.search(r"randomness\.seed\W+1\W+2\b", table)
    assert "run in the work directory" in table
    cfg.model.type = "B"
    with pytest.raises(
        ValueError, match=r"another model, loss, imbalance or data \(mine.py\):(.|\n)*model.type"
    ):
        check_work_dir(cfg, resume=True)
    table = check_work_dir(cfg, resume=True, force=True)
    assert re.search(r"model\.type\W+A\W+B\b", table)


def test_data_are_part_of_the_run_and_their_batches_are_not(tmp_path: Path) -> None:
    cfg = write_run(tmp_path, train_dataloader=dict(batch_size=2, dataset=dict(type="D")))
    cfg.train_dataloader.batch_size = 4
    assert "train_dataloader.batch_size" in check_work_dir(cfg, resume=True)
    cfg.train_dataloader.dataset.type = "E"
    with pytest.raises(ValueError, match="holds a run of another model"):
        check_work_dir(cfg, resume=True)


def test_empty_files_and_configs_alone_are_no_run(tmp_path: Path) -> None:
    cfg = write_run(tmp_path)
    (tmp_path / "epoch_1.pth").write_text("")
    assert check_work_dir(cfg, resume=False) == ""
    cfg.model.type = "B"
    assert check_work_dir(cfg, resume=True) == ""
    for name in ("last_checkpoint", "20200101_000000/vis_data/scalars.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")
        with pytest.raises(ValueError, match="already holds a run"):
            check_work_dir(cfg, resume=False)
        path.unlink()


def test_the_first_config_of_a_run_stays(tmp_path: Path) -> None:
    cfg = Config(dict(work_dir=str(tmp_path), a=1), filename="x/mine_resumed_1.py", cfg_text="a = 1")
    resumed = resumed_config(cfg)
    assert (resumed.filename, resumed.text, resumed.a) == ("mine_resumed_1.py", "a = 1", 1)
    (tmp_path / "mine_resumed_4.py").touch()
    assert resumed_config(cfg).filename == "mine_resumed_5.py"


def test_runs_of_one_second_have_folders_and_loggers_of_their_own(tmp_path: Path) -> None:
    cfg = Config(dict(experiment_name=tmp_path.name))
    made = [
        CommandRunner(
            nn.Linear(1, 1),
            str(tmp_path / folder),
            log_level="ERROR",
            experiment_name=cfg.experiment_name,
            cfg=copy.deepcopy(cfg),
        )
        for folder in ("a", "a", "b")
    ]
    assert len({str(runner.log_dir) for runner in made}) == 3
    assert len({runner.logger.instance_name for runner in made}) == 3
    assert all(Path(runner.log_dir).is_dir() for runner in made)
    assert all(re.fullmatch(r"\d{8}_\d{6}(_\d)?", runner.timestamp) for runner in made)


def test_names_of_log_folders_are_numbered(tmp_path: Path) -> None:
    runner: Any = SimpleNamespace(work_dir=str(tmp_path), _timestamp="20200101_000000")
    for settings in (dict(experiment_name=tmp_path.name), dict(filename=f"x/{tmp_path.name}.py"), {}):
        runner.cfg = Config({k: v for k, v in settings.items() if k == "experiment_name"})
        runner.cfg.__dict__["_filename"] = settings.get("filename")
        runner.work_dir = str(tmp_path / f"run{len(settings)}{'filename' in settings}")
        names = [CommandRunner._free_name(runner) for _ in range(3)]
        assert names == ["20200101_000000", "20200101_000000_2", "20200101_000000_3"]
        assert all(Path(runner.work_dir, name).is_dir() for name in names)
        prefix = f"{tmp_path.name}_" if settings else ""
        MMLogger.get_instance(f"{prefix}20200101_000000_4")
        assert CommandRunner._free_name(runner) == "20200101_000000_5"


@pytest.mark.parametrize("resumed", [False, True])
def test_weights_are_checked_before_they_are_set(resumed: bool) -> None:
    warnings: list[str] = []
    runner = SimpleNamespace(
        _load_from="a.pth",
        _resume=resumed,
        model=network(),
        cfg=Config(dict(model=dict(type="FCN"))),
        logger=SimpleNamespace(warning=warnings.append),
    )
    hook = LoadedWeightsHook()
    hook.after_load_checkpoint(runner, {"state_dict": state()})
    assert warnings == []
    hook.after_load_checkpoint(runner, {"state_dict": state("neck.bias")})
    text = "`load_from` 'a.pth' has 3 of the model's 4 weights. neck.bias is missing."
    assert warnings == ([] if resumed else [text])
    cosine = {"state_dict": state(), "meta": {"cfg": "type='mmseol.CosineClassifierHead'"}}
    for checkpoint, message in (
        (cosine, r"'a\.pth' was trained with mmseol\.Cosine"),
        (
            {"state_dict": state("head.fc.bias")},
            r"'a\.pth' does not fit the model: head\.fc\.bias is missing",
        ),
    ):
        if resumed:
            with pytest.raises(ValueError, match=message):
                hook.after_load_checkpoint(runner, checkpoint)
        else:
            hook.after_load_checkpoint(runner, checkpoint)
