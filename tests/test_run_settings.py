"""Settings of a training and of a test: what each changes in a config, and what it leaves."""

from __future__ import annotations

import copy
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

from mmseol import experiment
from mmseol.experiment import commands
from mmseol.experiment.commands import default_work_dir, is_main, run_train
from mmseol.experiment.evaluation import require_empty
from mmseol.experiment.runner import CommandRunner
from mmseol.experiment.training import download_names
from mmseol.experiment.work_dir import lock_work_dir

CHECKPOINT = dict(type="CheckpointHook", interval=5)


def test_a_seed_stands_beside_other_settings_of_randomness() -> None:
    cfg = Config(dict(randomness=dict(deterministic=True, seed=9)))
    experiment.set_seed(cfg, 1)
    assert cfg.randomness == dict(deterministic=True, seed=1)


@pytest.mark.parametrize("kind", ["CheckpointHook", "mmengine.CheckpointHook"])
def test_checkpoints_of_the_host_are_written_whole(kind: str) -> None:
    mine = dict(type="EMAHook")
    cfg = Config(dict(default_hooks=dict(checkpoint=dict(CHECKPOINT, type=kind)), custom_hooks=[mine]))
    for _ in range(2):  # hooks that are there are not added again
        experiment.set_whole_checkpoints(cfg)
        assert cfg.default_hooks.checkpoint == dict(CHECKPOINT, type="mmseol.WholeCheckpointHook")
        assert [hook.type for hook in cfg.custom_hooks] == [
            "EMAHook",
            "mmseol.StopSignalHook",
            "mmseol.ExactResumeHook",
        ]


@pytest.mark.parametrize("hooks", [None, dict(checkpoint=None), dict(checkpoint=dict(type="MyHook"))])
def test_checkpoints_of_a_users_hook_stay(hooks: dict[str, Any] | None) -> None:
    cfg = Config(dict(default_hooks=copy.deepcopy(hooks)))
    experiment.set_whole_checkpoints(cfg)
    assert cfg.default_hooks == hooks
    assert len(cfg.custom_hooks) == 2


def test_mixed_precision_keeps_the_scale_of_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = Config(dict(optim_wrapper=dict(type="OptimWrapper", loss_scale=512.0)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="`--amp` needs a GPU"):
        experiment.set_amp(cfg)
    assert cfg.optim_wrapper.type == "OptimWrapper"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    experiment.set_amp(cfg)
    assert cfg.optim_wrapper == dict(type="AmpOptimWrapper", loss_scale=512.0)


@pytest.mark.parametrize("unused", [None, True])
def test_processes_without_a_gpu_get_a_wrapper_without_devices(unused: bool | None) -> None:
    norm = dict(type="SyncBN")
    cfg = Config(dict(model=dict(type="A", heads=[dict(norm_cfg=norm)], pair=(dict(norm_cfg=norm),))))
    if unused is not None:
        cfg.find_unused_parameters = unused
    experiment.set_cpu_distributed(cfg)
    assert cfg.model == dict(
        type="A", heads=[dict(norm_cfg=dict(type="BN"))], pair=(dict(norm_cfg=dict(type="BN")),)
    )
    assert cfg.model_wrapper_cfg == dict(
        type="MMDistributedDataParallel",
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=bool(unused),
    )


@pytest.mark.parametrize(
    ("method", "scope", "model", "epochs", "sampler"),
    [
        ("crt", "mmpretrain", "ClassifierRetraining", 10, dict(type="mmseol.ClassAwareSampler")),
        ("lws", "mmpretrain", "LearnableWeightScaling", 5, dict(type="mmseol.ClassAwareSampler")),
        (
            "crt",
            "mmseg",
            "ClassifierRetraining",
            10,
            dict(type="mmseol.RareClassSampler", temperature=float("inf")),
        ),
    ],
)
def test_second_stage(
    tmp_path: Path, method: str, scope: str, model: str, epochs: int, sampler: dict[str, Any]
) -> None:
    checkpoint = tmp_path / "a.pth"
    checkpoint.touch()
    schedule = [dict(type="MultiStepLR", milestones=[1])]
    cfg = Config(
        dict(
            default_scope=scope,
            model=dict(type="A"),
            train_dataloader=dict(sampler=dict(type="DefaultSampler", shuffle=True)),
            train_cfg=dict(by_epoch=True, max_epochs=200),
            param_scheduler=schedule,
        )
    )
    by_iterations = copy.deepcopy(cfg)
    by_iterations.train_cfg = dict(type="IterBasedTrainLoop", max_iters=90)
    for one in (cfg, by_iterations):
        experiment.set_classifier_retraining(one, method, str(checkpoint))
        assert one.model == dict(type=f"mmseol.{model}", model=dict(type="A"))
        assert one.load_from == str(checkpoint)
        assert one.train_dataloader.sampler == sampler
    assert cfg.train_cfg.max_epochs == epochs
    assert cfg.param_scheduler == [dict(type="CosineAnnealingLR", eta_min=0.0, by_epoch=True)]
    assert by_iterations.train_cfg == dict(type="IterBasedTrainLoop", max_iters=90)
    assert by_iterations.param_scheduler == schedule
    with pytest.raises(ValueError, match=f"`--retrain-classifier {method}` needs an existing checkpoint"):
        experiment.set_classifier_retraining(cfg, method, str(tmp_path / "none.pth"))
    with pytest.raises(ValueError, match="`--retrain-classifier` must be one of 'crt', 'lws', got 'all'"):
        experiment.set_classifier_retraining(cfg, "all", str(checkpoint))


def test_weights_that_are_downloaded_are_named_once() -> None:
    names = ["https://host/a.pth", "torchvision://resnet18"]
    model = dict(pretrained=names[0], a=dict(init_cfg=dict(checkpoint=names[1])), b=dict(checkpoint=names[0]))
    cfg = Config(dict(model=model, load_from="folder/b.pth", data_root="s3://bucket"))
    assert download_names(cfg) == names
    assert f"could not download {', '.join(names)}: no route\n" in experiment.explain_download(
        cfg, OSError("no route")
    )
    without = experiment.explain_download(Config(dict(model={})), OSError("no route"))
    assert "could not download pretrained weights: no route\n" in without


def test_loaders_get_the_hosts_defaults_where_the_config_has_none() -> None:
    own = dict(num_workers=2, pin_memory=False, persistent_workers=False, collate_fn=dict(type="mine"))
    for scope in ("mmpretrain", "mmseg"):
        cfg = Config(
            dict(
                default_scope=scope,
                train_dataloader=dict(num_workers=2),
                val_dataloader=copy.deepcopy(own),
                test_dataloader=dict(persistent_workers=True),
            )
        )
        experiment.set_dataloader_defaults(cfg)
        collate = dict(type="default_collate")
        hosts = dict(pin_memory=True, persistent_workers=True, collate_fn=collate)
        assert cfg.train_dataloader == dict(num_workers=2, **(hosts if scope == "mmpretrain" else {}))
        assert cfg.val_dataloader == own
        assert cfg.test_dataloader.persistent_workers is False  # there are no workers
    cfg = Config(dict(train_dataloader=None, test_dataloader=dict(persistent_workers=True)))
    experiment.set_dataloader_defaults(cfg)  # one without a loader before one with
    assert cfg.test_dataloader.persistent_workers is False


@pytest.mark.parametrize(
    ("variables", "main"),
    [
        ({}, True),
        ({"RANK": "0", "SLURM_PROCID": "1"}, True),
        ({"RANK": "1"}, False),
        ({"SLURM_PROCID": "1"}, False),
        ({"SLURM_PROCID": "0"}, True),
    ],
)
def test_the_first_process_of_a_launcher(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], main: bool
) -> None:
    for name in ("RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_main() is main


@pytest.mark.parametrize(("rank", "error"), [(0, ValueError), (1, ZeroDivisionError)])
def test_the_first_process_alone_holds_the_work_dir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, error: type[Exception]
) -> None:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setattr(CommandRunner, "from_cfg", lambda cfg: 1 / 0)  # what would come next
    cfg = Config(dict(work_dir=str(tmp_path), launcher="none"))
    args = Namespace(unsafe_load=False, force_resume=False)
    with lock_work_dir(tmp_path), pytest.raises(error, match=r"is in use by|division"):
        run_train(cfg, args)
    with pytest.raises(ZeroDivisionError):
        run_train(cfg, args)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_process_alone_checks_the_work_dir(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one may look when the first has written its config there already."""
    checked: list[Any] = []
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setattr(commands, "load_config", lambda args: Config({}))
    for name in ("set_whole_checkpoints", "check_files"):
        monkeypatch.setattr(commands, name, lambda *_: None)
    monkeypatch.setattr(commands, "check_work_dir", lambda cfg, *_: checked.append(cfg.work_dir))
    args = Namespace(work_dir="a", amp=False, resume=None, retrain_classifier=None, force_resume=False)
    commands.prepare_train(args)
    assert checked == ["a"] * (rank == 0)


def test_slashes_of_arguments_make_no_folders() -> None:
    args = Namespace(config="a.py", loss="mse:x=a/b", imbalance=None, seed=None)
    assert default_work_dir(args) == "work_dirs/a/mse-x=a_b"


# ------------------------------------------------------------------ tests


def test_the_settings_of_a_test_stay_with_another_split() -> None:
    loader, evaluator = dict(a=1), dict(b=1)
    cfg = Config(dict(val_dataloader=loader, val_evaluator=evaluator, test_cfg=dict(fp16=True)))
    experiment.set_split(cfg, "val")
    assert cfg.test_cfg == dict(fp16=True)
    cfg = Config(dict(val_dataloader=loader, val_evaluator=evaluator))
    experiment.set_split(cfg, "val")
    assert cfg.test_cfg == {}


def leaf(**kwargs: Any) -> dict[str, Any]:
    return dict(type="A", data_root="data", data_prefix=dict(img_path="images"), **kwargs)


@pytest.mark.parametrize("metric", ["mmseol.SegClassBalanceMetric", "IoUMetric", "mmseg.IoUMetric"])
def test_label_maps_are_written_by_the_metric_that_can(tmp_path: Path, metric: str) -> None:
    other = dict(type="Other")
    dataset = dict(type="ConcatDataset", datasets=[leaf(), leaf()])
    cfg = Config(dict(test_evaluator=[other, dict(type=metric)], test_dataloader=dict(dataset=dataset)))
    experiment.set_prediction_folder(cfg, str(tmp_path))
    expected = dict(type=metric, output_dir=str(tmp_path), keep_results=True)
    if metric.startswith("mmseol"):
        expected["image_root"] = "data/images"
    assert cfg.test_evaluator == [other, expected]


def test_images_of_two_folders_have_no_common_root(tmp_path: Path) -> None:
    metric = dict(type="mmseol.SegClassBalanceMetric")
    datasets = [leaf(), dict(leaf(), data_root="more")]
    dataset = dict(type="ConcatDataset", datasets=datasets)
    cfg = Config(dict(test_evaluator=metric, test_dataloader=dict(dataset=dataset)))
    experiment.set_prediction_folder(cfg, str(tmp_path))
    assert "image_root" not in cfg.test_evaluator
    cfg.test_evaluator = [dict(type="A"), dict(type="B")]
    with pytest.raises(ValueError, match=r"`--out` needs a metric that writes label maps .* got A, B"):
        experiment.set_prediction_folder(cfg, str(tmp_path))


def test_every_picture_is_drawn(tmp_path: Path) -> None:
    hook = dict(type="SegVisualizationHook", draw=False, interval=50)
    cfg = Config(dict(default_hooks=dict(visualization=hook), visualizer=dict(type="A")))
    experiment.set_show_folder(cfg, str(tmp_path))
    assert cfg.default_hooks.visualization == dict(type="SegVisualizationHook", draw=True, interval=1)
    assert cfg.visualizer == dict(type="A", save_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"`--show-dir` needs `default_hooks\.visualization`"):
        experiment.set_show_folder(Config(dict(visualizer={})), str(tmp_path))


def test_folders_that_hold_files_are_refused(tmp_path: Path) -> None:
    cfg = Config(dict(test_evaluator=dict(type="IoUMetric"), test_dataloader=dict(dataset=leaf())))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.png").touch()
    require_empty("--out", str(tmp_path / "a" / "none"))
    for folder in (tmp_path / "a", tmp_path / "a" / "b.png"):
        with pytest.raises(ValueError, match="`--out` must be a new or empty folder, got"):
            require_empty("--out", str(folder))
        with pytest.raises(ValueError, match="`--out` must be a new or empty folder"):
            experiment.set_prediction_folder(cfg, str(folder))
        with pytest.raises(ValueError, match="`--show-dir` must be a new or empty folder"):
            experiment.set_show_folder(cfg, str(folder))


def test_views_of_every_data_set_are_averaged() -> None:
    views = [dict(type="TestTimeAug")]
    datasets = [leaf(pipeline=[dict(type="Load")]) for _ in range(2)]
    loader = dict(dataset=dict(type="ConcatDataset", datasets=datasets))
    cfg = Config(dict(model=dict(type="A"), tta_model=dict(type="B"), test_dataloader=loader))
    with pytest.raises(ValueError, match="`--tta` needs `tta_model` and `tta_pipeline` in the config"):
        experiment.set_test_time_augmentation(cfg)
    cfg.tta_pipeline = views
    experiment.set_test_time_augmentation(cfg)
    assert [dataset.pipeline for dataset in cfg.test_dataloader.dataset.datasets] == [views, views]
    assert cfg.model == dict(type="B", module=dict(type="A"))
    cfg.pop("tta_model")
    with pytest.raises(ValueError, match="`--tta` needs `tta_model` and `tta_pipeline` in the config"):
        experiment.set_test_time_augmentation(cfg)


def test_images_in_memory_are_loaded_anew_for_their_views() -> None:
    inner = dict(type="D", pipeline=[dict(type="Pack")])
    loader = dict(
        num_workers=2,
        collate_fn=dict(type="mine"),
        dataset=dict(type="mmseol.InMemoryDataset", dataset=inner),
    )
    cfg = Config(dict(default_scope="mmpretrain", model=dict(type="A"), test_dataloader=loader))
    cfg.tta_model, cfg.tta_pipeline = dict(type="B"), [dict(type="TestTimeAug")]
    experiment.set_test_time_augmentation(cfg)
    collate = dict(type="default_collate")
    assert cfg.test_dataloader == dict(
        num_workers=2,
        collate_fn=collate,
        pin_memory=True,
        persistent_workers=True,
        dataset=dict(type="D", pipeline=[dict(type="TestTimeAug")]),
    )
