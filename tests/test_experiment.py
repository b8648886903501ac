"""Arguments to resolved configs, on ours and on configs of the hosts."""

import copy
import errno
import inspect
import os
import warnings
from argparse import ArgumentParser, Namespace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.small_data import LabelDataset
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.registry import DefaultScope
from PIL import Image

from mmseol import experiment
from mmseol.__main__ import main
from mmseol.counting.counts import ClassCounts
from mmseol.experiment.commands import default_work_dir, load_config, start_cpu_process_group
from mmseol.experiment.config_files import (
    check_bases,
    check_packages,
    find_config,
    read_config,
    set_options,
    shipped_configs,
    sweeps_of,
    types_in,
)
from mmseol.experiment.data import (
    _refuse_download,
    build_dataset,
    check_files,
    expected_without,
    leaf_datasets,
)
from mmseol.experiment.loss import has_boolean, known_losses, stated_by_heads
from mmseol.experiment.prediction import _write_label_map
from mmseol.experiment.work_dir import resumed_config
from mmseol.registry import MODELS


def seg_config(**kwargs) -> Config:
    return Config(
        dict(
            model=dict(
                type="EncoderDecoder",
                backbone=dict(norm_cfg=dict(type="SyncBN")),
                decode_head=dict(
                    loss_decode=[dict(type="A", loss_weight=2.0), dict(type="B", loss_weight=1.0)]
                ),
                auxiliary_head=[
                    dict(loss_decode=dict(type="A", loss_weight=0.4)),
                    dict(norm_cfg=dict(type="SyncBN")),
                ],
            ),
            **kwargs,
        )
    )


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("ce", ("ce", {})),
        ("outlying_mse:alpha=6", ("outlying_mse", {"alpha": 6})),
        (
            "a:x=0.5,ties=dense,y=[1,2,3],z=None",
            ("a", {"x": 0.5, "ties": "dense", "y": [1, 2, 3], "z": None}),
        ),
        ("a:x=false,y=TRUE,z=(1,2)", ("a", {"x": False, "y": True, "z": (1, 2)})),
    ],
)
def test_parse_loss(spec, expected):
    assert experiment.parse_loss(spec) == expected


@pytest.mark.parametrize("spec", ["ce:alpha", "ce:", "ce:alpha=", "ce:1=2", "ce:alpha=[1,(2]"])
def test_parse_loss_says_what_it_takes(spec):
    with pytest.raises(ValueError, match=r"`--loss` must be NAME\[:key=value,...\], got"):
        experiment.parse_loss(spec)


def test_values_are_read_as_cfg_options_reads_them():
    """One command line has one way to write ``false``, lists and numbers."""
    values = ["false", "True", "None", "1e-3", "[1,2]", "(1,2)", "[[1,2],a]", "1,2", "'dense'"]
    parser = ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    for value in values:
        expected = parser.parse_args(["--cfg-options", f"x={value}"]).cfg_options
        assert experiment.parse_loss(f"ce:x={value}") == ("ce", expected)
        spec = f"step:10:seed={value}"
        assert experiment.parse_imbalance(spec)["seed"] == expected["x"]


def test_a_loss_of_the_config_stands_alone_and_a_value_of_the_config_wins():
    losses = dict(
        outlying_mse=dict(alpha=6), ce=dict(type="mmseol.FocalLoss"), mine=dict(type="mmseol.OneHotMSELoss")
    )
    cfg = seg_config(losses=losses)
    expected = dict(outlying_mse=dict(type="mmseol.OutlyingMSELoss", alpha=6), ce=losses["ce"])
    for name, loss in {**expected, "mine": losses["mine"]}.items():
        experiment.set_loss(cfg, name)
        assert cfg.model.auxiliary_head[1].loss_decode == loss
    assert experiment.LOSSES["ce"] == dict(type="mmseol.CrossEntropyLoss")


@pytest.mark.parametrize("scope", ["mmseg", "mmpretrain"])
def test_a_loss_of_the_host_is_built_by_the_host(scope):
    arguments = dict(mmseg=dict(avg_non_ignore=True), mmpretrain=dict(use_soft=True))[scope]
    losses = dict(theirs=dict(type="CrossEntropyLoss", **arguments), none=dict(type="NoLoss"))
    cfg = seg_config(losses=losses, default_scope=scope)
    experiment.set_loss(cfg, "theirs:loss_weight=3")
    assert cfg.model.decode_head.loss_decode == {**losses["theirs"], "loss_weight": 3}
    assert "custom_hooks" not in cfg  # it takes no class counts
    with pytest.raises(ValueError, match=r"`--loss` 'none' cannot be built: .*NoLoss"):
        experiment.set_loss(cfg, "none")


def test_set_loss_reaches_every_head_and_keeps_its_weight():
    cfg = seg_config(losses=dict(outlying_mse=dict(alpha=6)))
    experiment.set_loss(cfg, "outlying_mse:ties=dense")
    first = dict(type="mmseol.OutlyingMSELoss", alpha=6, ties="dense")
    assert cfg.model.decode_head.loss_decode == {**first, "loss_weight": 2.0}
    assert cfg.model.auxiliary_head[0].loss_decode == {**first, "loss_weight": 0.4}
    assert cfg.model.auxiliary_head[1].loss_decode == first
    assert cfg.custom_hooks == [dict(type="mmseol.ClassCountHook")]
    experiment.set_loss(cfg, "ce:loss_weight=3")
    assert cfg.model.auxiliary_head[0].loss_decode == dict(type="mmseol.CrossEntropyLoss", loss_weight=3)
    assert len(cfg.custom_hooks) == 1


def test_set_loss_adds_the_hooks_that_the_loss_requires_once():
    count, other = dict(type="mmseol.ClassCountHook", count="images"), dict(type="EMAHook")
    cfg = seg_config(custom_hooks=[other, count])
    for loss, hook in (("cdb_ce", "ClassDifficultyHook"), ("influence_balanced", "ClassifierFeatureHook")):
        cfg.custom_hooks = [other, count]
        for _ in range(2):
            experiment.set_loss(cfg, loss)
            assert cfg.custom_hooks == [other, count, dict(type=f"mmseol.{hook}")]
    experiment.set_loss(cfg, "ce")
    assert len(cfg.custom_hooks) == 3


def test_set_loss_leaves_heads_with_other_classes_and_boundaries_alone():
    cfg = Config(
        dict(
            model=dict(
                decode_head=dict(
                    type="PIDHead",
                    num_classes=19,
                    loss_decode=[
                        dict(type="CE", loss_weight=0.4),
                        dict(type="BoundaryLoss", loss_weight=20.0),
                    ],
                ),
                auxiliary_head=[
                    dict(type="STDCHead", num_classes=2, loss_decode=[dict(type="CE"), dict(type="Dice")]),
                    dict(type="FCNHead", num_classes=19),
                ],
            )
        )
    )
    experiment.set_loss(cfg, "ce")
    ours = dict(type="mmseol.CrossEntropyLoss")
    semantic, boundary = cfg.model.decode_head.loss_decode
    assert semantic == {**ours, "loss_weight": 0.4, "ignore_index": 255}
    assert boundary == dict(type="BoundaryLoss", loss_weight=20.0)
    assert cfg.model.auxiliary_head[0].loss_decode == [dict(type="CE"), dict(type="Dice")]
    assert cfg.model.auxiliary_head[1].loss_decode == ours
    with pytest.raises(ValueError, match="Mask2FormerHead scores masks"):
        experiment.set_loss(
            Config(dict(model=dict(decode_head=dict(type="Mask2FormerHead", loss_mask={})))), "ce"
        )


def test_a_loss_of_cosines_wraps_the_heads_and_any_other_unwraps_them():
    cfg = seg_config()
    for head in (cfg.model.decode_head, *cfg.model.auxiliary_head):
        head.update(type="FCNHead", num_classes=11)
    boundary = ConfigDict(type="STDCHead", num_classes=2, loss_decode=dict(type="CE"))
    cfg.model.auxiliary_head.append(boundary)
    plain = cfg.to_dict()["model"]
    cosine = "mmseol.CosineClassifierHead"
    for scale in (30, 20):  # the second time nothing is wrapped twice
        experiment.set_loss(cfg, f"ldam:scale={scale}")
        loss = {**experiment.LOSSES["ldam"], "scale": scale}
        heads = [cfg.model.decode_head, *cfg.model.auxiliary_head]
        assert [head.type for head in heads] == [cosine, cosine, cosine, "STDCHead"]
        assert heads[0].head == dict(type="FCNHead", num_classes=11, loss_decode={**loss, "loss_weight": 2.0})
        assert heads[1].head.loss_decode == {**loss, "loss_weight": 0.4}
    assert "classifier" not in heads[0]
    experiment.set_loss(cfg, "ce")
    ours = dict(type="mmseol.CrossEntropyLoss")
    plain["decode_head"]["loss_decode"] = {**ours, "loss_weight": 2.0}
    plain["auxiliary_head"][0]["loss_decode"] = {**ours, "loss_weight": 0.4}
    plain["auxiliary_head"][1]["loss_decode"] = ours
    assert cfg.to_dict()["model"] == plain


def test_a_wrapper_of_the_config_keeps_its_classifier():
    head = dict(type="VisionTransformerClsHead", num_classes=3, loss=dict(type="CE", loss_weight=2.0))
    wrapper = dict(type="mmseol.CosineClassifierHead", classifier="layers.head", head=head)
    cfg = Config(dict(model=dict(type="ImageClassifier", head=wrapper)))
    experiment.set_loss(cfg, "ldam")
    loss = {**experiment.LOSSES["ldam"], "loss_weight": 2.0}
    assert cfg.model.head == {**wrapper, "head": {**head, "loss": loss}}
    experiment.set_loss(cfg, "ce")
    assert cfg.model.head == {**head, "loss": dict(type="mmseol.CrossEntropyLoss", loss_weight=2.0)}


def test_a_checkpoint_of_cosines_is_not_scored_with_a_plain_classifier():
    """Nor the reverse: the weights load, the scores are wrong."""
    cfg = Config(
        dict(model=dict(type="ImageClassifier", head=dict(type="LinearClsHead", loss=dict(type="CE"))))
    )
    plain = copy.deepcopy(cfg)
    experiment.set_loss(cfg, "ldam")
    for trained in (cfg, plain):
        checkpoint = dict(meta=dict(cfg=trained.pretty_text), state_dict={})
        experiment.check_classifier(trained, "a.pth", checkpoint)
        other = plain if trained is cfg else cfg
        with pytest.raises(
            ValueError, match=r"trained with(out)? mmseol.CosineClassifierHead.*--loss (ldam|ce)"
        ):
            experiment.check_classifier(other, "a.pth", checkpoint)
    experiment.check_classifier(cfg, "a.pth", dict(state_dict={}))  # of another program


def test_a_checkpoint_has_the_weights_of_the_classifier():
    model = torch.nn.ModuleDict({"backbone": torch.nn.Linear(2, 2), "head": torch.nn.ModuleDict()})
    model["head"]["fc"] = torch.nn.Linear(2, 10)
    state = model.state_dict()
    experiment.check_weights(model, "a.pth", dict(state_dict=state))
    experiment.check_weights(model, "a.pth", state)  # weights alone
    experiment.check_weights(model, "a.pth", {f"module.{name}": value for name, value in state.items()})
    wide = {**state, "head.fc.weight": torch.zeros(11, 2)}
    none = {name: value for name, value in state.items() if name != "head.fc.bias"}
    for wrong, message in (
        (wide, r"head.fc.weight is of shape \(11, 2\) there and \(10, 2\) here"),
        (none, "head.fc.bias is missing"),
        ({"other.weight": torch.zeros(2)}, "it has 0 of its 4 weights"),
    ):
        with pytest.raises(ValueError, match=f"`checkpoint` 'a.pth' does not fit the model: {message}"):
            experiment.check_weights(model, "a.pth", dict(state_dict=wrong))


def test_options_with_an_unknown_first_key_are_warned_of():
    cfg = seg_config(train_cfg=dict(max_epochs=1))
    with pytest.warns(
        UserWarning, match=r"`--cfg-options` modle: the config has no such key. Did you mean model\?"
    ):
        set_options(cfg, ["modle.x=3"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        set_options(cfg, ["train_cfg.max_epochs=false", "load_from=a.pth"])
    assert cfg.train_cfg.max_epochs is False
    for wrong in ("train_cfg", "train_cfg.max_epochs.x=3"):
        with pytest.raises(ValueError, match="`--cfg-options`"):
            set_options(cfg, [wrong])


def test_options_reach_a_head_that_a_loss_of_cosines_holds():
    cfg = Config(dict(model=dict(head=dict(type="LinearClsHead", in_channels=512, loss=dict(type="A")))))
    options = ["model.head.in_channels=256", "model.head.loss.scale=20.0", "model.head.classifier=fc"]
    experiment.set_loss(cfg, "ldam")
    set_options(cfg, [*options, "model.head.head.num_classes=7", "model.neck=3"])
    head = cfg.model.head
    assert (head.type, head.classifier, cfg.model.neck) == ("mmseol.CosineClassifierHead", "fc", 3)
    assert head.keys() == {"type", "classifier", "head"}
    assert (head.head.in_channels, head.head.num_classes, head.head.loss.scale) == (256, 7, 20.0)
    heads = [dict(type="FCNHead", num_classes=2, loss_decode=dict(type="A")) for _ in range(2)]
    cfg = Config(dict(model=dict(decode_head=dict(heads[0]), auxiliary_head=heads)))
    experiment.set_loss(cfg, "ldam")
    set_options(cfg, ["model.auxiliary_head.1.channels=64"])
    assert [head.head.get("channels") for head in cfg.model.auxiliary_head] == [None, 64]


def test_a_model_that_needs_mmdet_is_refused_without_it(monkeypatch):
    cfg = Config(dict(model=dict(type="EncoderDecoder", decode_head=dict(type="Mask2FormerHead"))))
    monkeypatch.setattr("mmseol.experiment.config_files.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="has Mask2FormerHead, which needs the package mmdet"):
        check_packages(cfg)
    monkeypatch.setattr("mmseol.experiment.config_files.find_spec", lambda name: object())
    check_packages(cfg)


def deliberate():
    experiment.resolved_loss("none")


def mistaken():
    raise ZeroDivisionError("of a host")


def without_space():
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("run", "plain"), [(deliberate, True), (mistaken, False)])
def test_what_mmseol_refuses_is_one_line_and_other_errors_show_where_they_arose(run, plain, monkeypatch):
    monkeypatch.setattr("mmseol.experiment.commands.prepare_train", lambda args: None)
    monkeypatch.setattr("mmseol.experiment.commands.run_train", lambda cfg, args: run())
    with pytest.raises(SystemExit if plain else ZeroDivisionError, match=r"^error: `--loss` must|of a host"):
        main("train", ["a.py"])
    with pytest.raises(ValueError if plain else ZeroDivisionError):
        main("train", ["a.py", "--traceback"])


def test_a_full_disk_is_one_line_that_names_the_folder(monkeypatch):
    cfg = Config(dict(work_dir="run"))
    monkeypatch.setattr("mmseol.experiment.commands.prepare_train", lambda args: cfg)
    monkeypatch.setattr("mmseol.experiment.commands.run_train", lambda cfg, args: without_space())
    with pytest.raises(SystemExit, match=r"^error: .* No space left on device \(in run\)$"):
        main("train", ["a.py"])


def test_a_resumed_run_is_compared_with_its_last_config(tmp_path):
    """By the number in the name; the clock may have been set back between two runs."""
    for number, name in enumerate(("a.py", *(f"a_resumed_{i}.py" for i in (1, 2, 9, 10)))):
        (tmp_path / name).write_text(f"train_cfg = dict(max_epochs={number})\n")
        os.utime(tmp_path / name, (10**9 - number,) * 2)
    (tmp_path / "epoch_1.pth").write_text("a checkpoint")
    cfg = Config(dict(train_cfg=dict(max_epochs=4), work_dir=str(tmp_path)), filename=str(tmp_path / "a.py"))
    assert experiment.check_work_dir(cfg, resume=True) == ""
    assert resumed_config(cfg).filename == "a_resumed_11.py"


def test_a_base_of_a_package_that_is_missing_is_refused_with_the_path(tmp_path, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    name = "fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py"
    (tmp_path / "base.py").write_text(f"_base_ = ['mmseg::{name}']\n")
    (tmp_path / "leaf.py").write_text("_base_ = './base.py'\n")
    monkeypatch.setattr("mmseol.experiment.config_files.distribution", missing)
    with pytest.raises(
        ValueError, match=r"needs the package mmsegmentation.*path instead: '.*\.mim/configs/fcn/"
    ):
        check_bases(str(tmp_path / "leaf.py"))
    with pytest.raises(ValueError, match="needs the package mmsegmentation"):
        load_config(Namespace(config=str(tmp_path / "leaf.py")))
    (tmp_path / "leaf.py").write_text(f"_base_ = [{experiment.stock_config('mmseg', name)!r}]\n")
    check_bases(str(tmp_path / "leaf.py"))
    assert Config.fromfile(tmp_path / "leaf.py").model.type == "EncoderDecoder"
    with pytest.raises(FileNotFoundError, match=r"must be a config of mmseg.*Did you mean fcn/"):
        experiment.stock_config("mmseg", name.replace("r50", "r05"))


def test_set_loss_on_a_classifier():
    cfg = Config(dict(model=dict(type="ImageClassifier", head=dict(loss=dict(type="CE", loss_weight=1.0)))))
    experiment.set_loss(cfg, "ce")
    assert cfg.model.head.loss == dict(type="mmseol.CrossEntropyLoss", loss_weight=1.0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "mes",
            r"`--loss` must name one of balanced_softmax, cdb_ce, ce, .*, got 'mes'\. Did you mean mse\?",
        ),
        ("focal:detach_modulator=no", "`detach_modulator` must be True or False, got 'no'"),
        ("lovasz_hinge:per_image=1", "`per_image` must be True or False, got 1"),
        ("ce:sync_avg_factor='yes'", "`sync_avg_factor` must be True or False, got 'yes'"),
        ("outlying_mse:alpha=0", "`alpha` must be a finite number above 0, got 0"),
        ("outlying_mse:alhpa=2", "`OutlyingMSELoss` has no argument `alhpa`. Did you mean `alpha`"),
    ],
)
def test_set_loss_refuses(spec, message):
    with pytest.raises(ValueError, match=message):
        experiment.set_loss(seg_config(), spec)


def test_set_loss_needs_a_head():
    with pytest.raises(ValueError, match="has no head that takes a loss"):
        experiment.set_loss(Config(dict(model=dict(type="Other"))), "ce")


def test_a_config_is_a_file_or_a_config_of_mmseol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("camvid/fastfcn_r50.py", "configs/camvid/fastfcn_r50.py"):
        assert Config.fromfile(find_config(name)).crop_size == (320, 320)
    (tmp_path / "camvid").mkdir()
    (tmp_path / "camvid" / "fastfcn_r50.py").write_text("mine = True\n")
    assert Config.fromfile(find_config("camvid/fastfcn_r50.py")).mine  # a file of the user comes first
    with pytest.raises(FileNotFoundError, match=r"got 'camvid/fastfcn_r05.py'.*mean camvid/fastfcn_r50.py\?"):
        find_config("camvid/fastfcn_r05.py")


def test_set_data_root_reaches_wrapped_data_sets(tmp_path):
    leaf = dict(type="CamVidDataset", data_root="old")
    wrapped = dict(
        type="RepeatDataset", dataset=dict(type="ConcatDataset", datasets=[dict(leaf), dict(leaf)])
    )
    cfg = Config(
        dict(
            train_dataloader=dict(dataset=wrapped),
            val_dataloader=dict(dataset=dict(leaf)),
            test_dataloader=None,
        )
    )
    cfg.data_root = "old"
    experiment.set_data_root(cfg, str(tmp_path))
    assert cfg.data_root == str(tmp_path)
    roots = [leaf.data_root for leaf in cfg.train_dataloader.dataset.dataset.datasets]
    assert [*roots, cfg.val_dataloader.dataset.data_root] == [str(tmp_path)] * 3
    with pytest.raises(ValueError, match="`--data-root` must be an existing folder, got 'nowhere'"):
        experiment.set_data_root(cfg, "nowhere")


STATED = dict(  # in the config of a run, though a class may change its defaults
    weighted_ce_effective_number="beta",
    focal="gamma",
    weighted_focal="gamma",
    focal_sigmoid="alpha gamma",
    dice="power",
    tversky="alpha beta",
    cdb_ce="tau",
    equalization="gamma threshold",
    equalization_sigmoid="threshold",
    seesaw="p q",
    ghmc="bins momentum",
    influence_balanced="scale start_epoch",
    ldam="max_margin scale",
    elm="enlargement max_margin scale",
    logit_adjusted="tau",
    vs="gamma tau",
    lade="remine_weight remine_lambda",
    outlying_mse="alpha",
)


@pytest.mark.parametrize("name", experiment.LOSSES)
def test_losses_by_name_have_the_defaults_of_their_class(name):
    """tests/test_losses.py names the sources of the defaults; names differ from them in the class weights."""
    settings = {**experiment.LOSSES[name]}
    loss = MODELS.get(settings.pop("type").removeprefix("mmseol."))
    parameters = inspect.signature(loss).parameters
    weight = settings.pop("class_weight", None)
    assert weight is None or name in ("weighted_focal", "weighted_ce_power") or f"_{weight}" in name
    assert settings == {key: parameters[key].default for key in settings}
    assert set(settings) == set(STATED.get(name, "").split())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "work_dirs/leaf"),
        (dict(seed=0), "work_dirs/leaf/seed0"),
        (dict(loss="outlying_mse:alpha=6", seed=1), "work_dirs/leaf/outlying_mse-alpha=6_seed1"),
        (
            dict(loss="ce", imbalance="long_tailed:100", retrain_classifier=["crt", "a/b.pth"]),
            "work_dirs/leaf/ce_long_tailed-100_crt",
        ),
    ],
)
def test_default_work_dir(arguments, expected):
    none = dict(config="configs/x/leaf.py", loss=None, imbalance=None, seed=None, retrain_classifier=None)
    assert default_work_dir(Namespace(**{**none, **arguments})) == expected


@pytest.mark.parametrize(
    ("launcher", "cuda", "initialized", "started"),
    [
        ("pytorch", False, False, ["gloo"]),
        ("pytorch", False, True, []),
        ("pytorch", True, False, []),
        ("none", False, False, []),
    ],
)
def test_processes_without_gpu_meet_over_gloo_once(monkeypatch, launcher, cuda, initialized, started):
    groups = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: initialized)
    monkeypatch.setattr(torch.distributed, "init_process_group", groups.append)
    start_cpu_process_group(launcher)
    assert groups == started


def test_set_split():
    cfg = Config(
        dict(val_dataloader=dict(a=1), val_evaluator=dict(b=1), test_dataloader=dict(a=2), test_cfg=dict())
    )
    experiment.set_split(cfg, "test")
    assert cfg.test_dataloader == dict(a=2)
    experiment.set_split(cfg, "val")
    assert (cfg.test_dataloader, cfg.test_evaluator) == (dict(a=1), dict(b=1))
    with pytest.raises(ValueError, match="`--split` must be one of 'val', 'test', got 'train'"):
        experiment.set_split(cfg, "train")
    with pytest.raises(ValueError, match="the config has no test_dataloader"):
        experiment.set_split(Config(dict()), "test")


def test_cpu_distributed_leaves_no_sync_bn():
    cfg = seg_config()
    cfg.model.neck = dict(norm_cfg=dict(type="mmengine.SyncBN", requires_grad=True))
    experiment.set_cpu_distributed(cfg)
    assert cfg.model.neck.norm_cfg == dict(type="BN", requires_grad=True)
    assert "SyncBN" not in str(cfg.to_dict())
    assert cfg.model_wrapper_cfg.device_ids is None


def test_seed_and_loader_defaults():
    cfg = Config(
        dict(
            default_scope="mmpretrain",
            train_dataloader=dict(num_workers=2),
            val_dataloader=dict(num_workers=0),
        )
    )
    experiment.set_seed(cfg, 7)
    experiment.set_dataloader_defaults(cfg)
    assert cfg.randomness.seed == 7
    assert cfg.train_dataloader.collate_fn.type == "default_collate"
    assert cfg.train_dataloader.persistent_workers
    assert not cfg.val_dataloader.persistent_workers


def test_download_errors_name_the_weights():
    cfg = Config(dict(model=dict(pretrained="open-mmlab://resnet50_v1c")))
    message = experiment.explain_download(cfg, OSError("no route"))
    assert "open-mmlab://resnet50_v1c: no route" in message
    assert "model.pretrained=None" in message


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("long_tailed:100", dict(profile="long_tailed", ratio=100)),
        ("step:2.5", dict(profile="step", ratio=2.5)),
        (
            "step:10:seed=1,protocol=cao2019,class_order=[1,0]",
            dict(profile="step", ratio=10, seed=1, protocol="cao2019", class_order=[1, 0]),
        ),
    ],
)
def test_parse_imbalance(spec, expected):
    assert experiment.parse_imbalance(spec) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("long_tailed", "`ratio` must be a finite number of at least 1, got ''"),
        ("long_tailed:x", "`ratio` must be a finite number of at least 1, got 'x'"),
        ("step:0.5", "`ratio` must be a finite number of at least 1, got 0.5"),
        ("stairs:10", "`profile` must be one of 'long_tailed', 'step', got 'stairs'"),
        ("step:10:sede=1", "sede is none of seed, protocol, class_order, n_max"),
        ("step:10:seed", r"must be PROFILE:RATIO\[:key=value,...\], got 'step:10:seed' \(at 'seed'\)"),
    ],
)
def test_parse_imbalance_says_what_it_takes(spec, message):
    with pytest.raises(ValueError, match=rf"`--imbalance` must be .*{message}|{message}"):
        experiment.parse_imbalance(spec)


def cls_config(dataset: dict) -> Config:
    return Config(
        dict(train_dataloader=dict(dataset=dataset), val_dataloader=dict(dataset=dict(type="CIFAR10")))
    )


def test_set_imbalance_changes_the_cut_that_is_there():
    cut = dict(
        type="mmseol.ImbalancedDataset", counts=[3, 2], indices_file="old.json", dataset=dict(type="CIFAR10")
    )
    cfg = cls_config(dict(type="RepeatDataset", times=2, dataset=cut))
    experiment.set_imbalance(cfg, "step:10:seed=3")
    assert cfg.train_dataloader.dataset.dataset == dict(
        type="mmseol.ImbalancedDataset", profile="step", ratio=10, seed=3, dataset=dict(type="CIFAR10")
    )
    experiment.set_imbalance(cfg, "long_tailed:50")
    assert "seed" not in cfg.train_dataloader.dataset.dataset
    assert cfg.val_dataloader.dataset == dict(type="CIFAR10")


def test_set_imbalance_cuts_inside_of_repetition_and_outside_of_the_hold_out():
    held = dict(type="mmseol.HoldOut", side="train", dataset=dict(type="CIFAR10"))
    cut = dict(type="mmseol.ImbalancedDataset", profile="long_tailed", ratio=100)
    cfg = cls_config(dict(held))
    experiment.set_imbalance(cfg, "long_tailed:100")
    assert cfg.train_dataloader.dataset == dict(**cut, dataset=held)
    cfg = cls_config(dict(type="mmseol.RepeatRareDataset", dataset=dict(held)))
    experiment.set_imbalance(cfg, "long_tailed:100")
    assert cfg.train_dataloader.dataset == dict(
        type="mmseol.RepeatRareDataset", dataset=dict(**cut, dataset=held)
    )
    cfg = cls_config(dict(type="CIFAR10"))
    experiment.set_imbalance(cfg, "long_tailed:100")
    assert cfg.train_dataloader.dataset == dict(**cut, dataset=dict(type="CIFAR10"))


def test_set_imbalance_needs_training_data_and_one_cut():
    with pytest.raises(ValueError, match="the config has no train_dataloader"):
        experiment.set_imbalance(Config(dict(train_dataloader=None)), "step:10")
    cut = dict(type="mmseol.ImbalancedDataset", dataset=dict(type="CIFAR10"))
    cfg = cls_config(dict(type="ConcatDataset", datasets=[dict(cut), dict(cut)]))
    with pytest.raises(ValueError, match="needs one ImbalancedDataset to change, got 2"):
        experiment.set_imbalance(cfg, "step:10")


# ------------------------------------------------------------------ files


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(data_prefix="trian"), r"`data_prefix` of train_dataloader must be .*, got '.*/trian'"),
        (dict(ann_file="none.txt"), r"`ann_file` of train_dataloader must be .*, got '.*/none.txt'"),
        (dict(ann_file="plain.txt"), r"plain.txt' must hold `FILE CLASS` .*, got 'a/1.jpg' in line 1"),
        (dict(ann_file="names.txt"), r"names.txt' must hold `FILE CLASS` .*, got 'a/2.jpg a' in line 2"),
        (dict(ann_file="good.txt"), None),
        (dict(ann_file="plain.txt", with_label=False), None),
        (dict(ann_file="plain.txt", type="Food101"), None),  # another format
        (dict(data_prefix="s3://bucket/train"), None),
        (dict(data_prefix="trian", backend_args=dict(backend="petrel")), None),
        (
            dict(type="BaseSegDataset", data_prefix=dict(img_path="train", seg_map_path="labels")),
            r"`data_prefix` of train_dataloader \(its 'seg_map_path'\) must be .*, got '.*/labels'",
        ),
        (
            dict(type="BaseSegDataset", data_prefix=dict(img_path="train"), img_suffix=".png"),
            r"`img_suffix` of train_dataloader .*, got '.png': '.*/train' holds files of \.jpg",
        ),
        (dict(type="mmseg.BaseSegDataset", data_prefix=dict(img_path="train")), None),
    ],
)
def test_files_are_checked_before_a_data_set_is_built(changes, message, tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "1.jpg").write_bytes(b"")
    (tmp_path / "plain.txt").write_text("a/1.jpg\n")
    (tmp_path / "names.txt").write_text("a/1.jpg 0\na/2.jpg a\n")
    (tmp_path / "good.txt").write_text("a/1.jpg 0\na/with space.jpg 1\n")
    dataset = dict(type="CustomDataset", data_root=str(tmp_path), data_prefix="train") | changes
    nest = dict(type="RepeatDataset", times=2, dataset=dict(type="ConcatDataset", datasets=[dataset]))
    cfg = Config(
        dict(train_dataloader=dict(dataset=nest), test_dataloader=dict(dataset=dict(data_prefix="no")))
    )
    if message is None:
        check_files(cfg, ("train_dataloader", "val_dataloader"))
    else:
        with pytest.raises(ValueError, match=message):
            check_files(cfg, ("train_dataloader", "val_dataloader"))


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("weighted_ce_median_frequency", "median_frequency"),
        ("weighted_ce_inverse_frequency", "inverse_frequency"),
        ("weighted_ce_effective_number", "effective_number"),
        ("weighted_focal", "median_frequency"),
        ("weighted_ce_enet", "enet"),
        ("weighted_ce_power", 0.5),
    ],
)
def test_losses_named_by_their_weights_have_them(name, scheme):
    loss = MODELS.build({**experiment.LOSSES[name], "class_counts": [50, 20, 1]})
    same = MODELS.build({**experiment.LOSSES[name], "class_counts": [50, 20, 1], "class_weight": scheme})
    torch.testing.assert_close(loss.class_weight, same.class_weight)
    assert len(set(loss.class_weight.tolist())) > 1


@pytest.mark.parametrize(("classes", "bits"), [(256, 8), (257, 16)])
def test_predicted_label_maps_hold_every_class(classes, bits, tmp_path):
    labels = torch.tensor([[0, classes - 1]])
    result = SimpleNamespace(pred_sem_seg=SimpleNamespace(data=labels[None]))  # outputs are for --scores
    meta = dict(classes=[str(k) for k in range(classes)], palette=np.zeros((classes, 3)))
    args = Namespace(out=str(tmp_path), scores=False, opacity=0.5)
    shares = _write_label_map("a", result, np.zeros((1, 2, 3), np.uint8), meta, args)
    assert shares == {"0": 50, str(classes - 1): 50}
    path = tmp_path / "label_maps" / "a.png"
    assert path.read_bytes()[24] == bits
    with Image.open(path) as file:
        assert np.asarray(file).tolist() == labels.tolist()


# ------------------------------------------------------------------ data sets


def test_a_data_set_is_built_for_its_annotations_alone():
    labels = LabelDataset([0] * 8 + [1] * 6 + [2] * 5 + [3] * 4)
    inner = dict(type="mmseol.ImbalancedDataset", dataset=labels, ratio=4, profile="step")
    kept = dict(type="mmseol.InMemoryDataset", dataset=inner)
    for dataset in (inner, kept, LabelDataset([0, 1], lazy_init=True)):
        cfg = Config(dict(train_dataloader=dict(dataset=dataset)))
        kind = type(cfg.train_dataloader.dataset)
        built = build_dataset(cfg, "train_dataloader")
        assert type(built).__name__ == ("LabelDataset" if kind is LabelDataset else "ImbalancedDataset")
        assert built._fully_initialized
        assert built is not dataset
        assert type(cfg.train_dataloader.dataset) is kind  # still the config
    for loaders in ({}, dict(val_dataloader=None), dict(val_dataloader=dict(batch_size=1))):
        with pytest.raises(ValueError, match="`config` must have a `val_dataloader` with a data set, got"):
            build_dataset(Config(loaders), "val_dataloader")


def test_data_sets_that_can_download_do_not():
    for scope, kind, refused in (("mmpretrain", "CIFAR10", True), ("mmpretrain", "CustomDataset", False)):
        leaf = dict(type=kind)
        with DefaultScope.overwrite_default_scope(scope):
            _refuse_download(leaf)
        assert leaf == dict(type=kind, **(dict(download=False) if refused else {}))
    _refuse_download(LabelDataset([0]))  # built already
    _refuse_download(dict(type="NoSuch"))


def test_leaves_of_every_nest():
    a, b, c = dict(type="A"), dict(type="B"), dict(type="C")
    nest = dict(type="Repeat", dataset=dict(type="Concat", datasets=[a, dict(type="Fold", dataset=b)]))
    assert list(leaf_datasets([nest, c, None])) == [a, b, c]
    assert list(leaf_datasets(None)) == list(leaf_datasets({})) == []
    cut = dict(type="mmseol.ImbalancedDataset", dataset=dict(a))
    cfg = cls_config(dict(type="Concat", datasets=[dict(type="Repeat", dataset=cut), dict(b)]))
    experiment.set_imbalance(cfg, "step:10")  # the cut is found inside of the nest
    assert cfg.train_dataloader.dataset.datasets[0].dataset.ratio == 10


def test_batches_of_one_image_are_the_default():
    counts = ClassCounts([3, 1], [3, 1], [3, 1])
    without = expected_without(Config(dict(train_dataloader={})), LabelDataset([0, 0, 0, 1]), counts)
    np.testing.assert_allclose(without, [0.25, 0.75])


def test_files_that_a_data_set_checks_itself_are_left_to_it(tmp_path):
    missing = dict(data_root=str(tmp_path / "none"), data_prefix=dict(img_path="a", seg_map_path="b"))
    for dataset in (
        dict(missing, type="mmseol.CamVidDataset"),
        dict(missing, type="X", download=True),
        dict(missing, type="X", backend_args=dict(backend="petrel")),
        dict(missing, type="X", data_prefix=dict(img_path="")),
        dict(type="X", data_prefix=None, ann_file=""),
    ):
        check_files(Config(dict(train_dataloader=dict(dataset=dataset))), ["train_dataloader"])
    for dataset in (dict(missing, type="X"), dict(missing, type="X", backend_args=dict(backend="local"))):
        with pytest.raises(ValueError, match=r"\(its 'img_path'\) must be an existing folder"):
            check_files(Config(dict(train_dataloader=dict(dataset=dataset))), ["train_dataloader"])
    rootless = dict(type="X", data_prefix=dict(img_path=str(tmp_path / "none")))
    with pytest.raises(ValueError, match=r"must be an existing folder, got '.*/none'"):
        check_files(Config(dict(train_dataloader=dict(dataset=rootless))), ["train_dataloader"])
    (tmp_path / "img").mkdir()
    empty = dict(type="BaseSegDataset", data_root=str(tmp_path), data_prefix=dict(img_path="img"))
    with pytest.raises(ValueError, match=r"got '\.jpg': '.*/img' holds no file"):
        check_files(Config(dict(train_dataloader=dict(dataset=empty))), ["train_dataloader"])


# ------------------------------------------------------------------ losses of heads


def test_what_heads_state_is_read_inside_of_wrappers():
    wrapped = dict(
        type="mmseol.CosineClassifierHead", head=dict(type="FCNHead", num_classes=5, ignore_index=3)
    )
    cfg = Config(dict(model=dict(decode_head=[wrapped, dict(num_classes=7)], head=dict(num_classes="x"))))
    assert stated_by_heads(cfg, "num_classes") == {"decode_head.0": 5, "decode_head.1": 7}
    assert stated_by_heads(cfg, "ignore_index") == {"decode_head.0": 3, "decode_head.1": 255}
    assert stated_by_heads(Config({}), "num_classes") == {}


def test_an_entry_of_another_name_stands_alone():
    cfg = Config(dict(losses=dict(new=dict(alpha=2), focal=dict(gamma=1.0))))
    known = known_losses(cfg)
    assert known["new"] == dict(alpha=2)
    assert known["focal"] == dict(experiment.LOSSES["focal"], gamma=1.0)
    assert experiment.LOSSES["focal"]["gamma"] == 2.0
    assert known.keys() - {"new"} == experiment.LOSSES.keys() == known_losses(Config({})).keys()
    with pytest.raises(ValueError, match=r"Did you mean focal\?"):
        experiment.resolved_loss("fokal")
    with pytest.raises(ValueError, match=r"got 'qqqqqq'\.$"):
        experiment.resolved_loss("qqqqqq")


def test_arguments_that_are_boolean_are_known_by_type_or_default():
    class Base:
        def __init__(self, a: bool, b=True, c: "bool" = 1, d: int = 1):
            pass

    class Child(Base):
        def __init__(self, e=0, **kwargs):
            super().__init__(**kwargs)

    assert [has_boolean(Child, name) for name in "abcdef"] == [True, True, True, False, False, False]


def test_shipped_configs_are_found_by_name_and_sweep(tmp_path, monkeypatch):
    names = shipped_configs()
    assert "quickstart/digits.py" in names
    assert not [name for name in names if name.startswith(("sweeps/", "_"))]
    assert all(Path(path).is_file() for path in names.values())
    assert "sweeps/digits.py" in sweeps_of("quickstart/digits.py")
    assert sweeps_of("digits.py") == sweeps_of("other/quickstart/no_digits.py") == []
    assert list(types_in([dict(type=Config), dict(type="A", x=(dict(type="B"), 3))])) == ["A", "B"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("model: {type: A}\n")
    (tmp_path / "b.py").write_text("_base_ = 'a' + 'b'\n")  # no literal: left to mmengine
    assert read_config("a.yaml").model.type == "A"
    check_bases("b.py")
    (tmp_path / "c.py").write_text("x = 1\n_base_ = ('quickstart/digits.py',)\ny = 2\n")
    cfg = read_config("c.py")
    assert (cfg.x, cfg.y, cfg.filename) == (1, 2, "c.py")
    assert cfg.model.type
    (tmp_path / "d.py").write_text("_base_ = ['c.py', 'no_such.py']\n")
    with pytest.raises(FileNotFoundError, match=r"`_base_` 'no_such.py' in 'd.py' must be a config file"):
        read_config("d.py")
    with pytest.raises(FileNotFoundError, match=r"`host` must be an installed package .* got 'no_h"):
        experiment.stock_config("no_host", "a.py")
