"""Settings of a training and of a test: what each changes in a config, and what it leaves."""

from __future__ import annotations

import copy
import json
import os
from argparse import Namespace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmseol import experiment
from mmseol.experiment.commands import (
    default_work_dir,
    is_main,
    load_config,
    prepare_test,
    prepare_train,
    run_test,
    run_train,
)
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


# ------------------------------------------------------------------ from arguments to a run


def write_config(folder: Path, **settings: Any) -> Namespace:
    """Write a small config whose data are there, and return arguments of the command that trains it."""
    loaders = {}
    for split in ("train", "val", "test"):
        (folder / split).mkdir(exist_ok=True)
        dataset = dict(type="CustomDataset", data_root=str(folder), data_prefix=split)
        loaders[f"{split}_dataloader"] = dict(num_workers=1, dataset=dataset)
    model = dict(type="ImageClassifier", head=dict(type="LinearClsHead", loss=dict(type="CE")))
    whole = dict(model=model, optim_wrapper=dict(type="OptimWrapper"), test_evaluator=dict(type="Accuracy"))
    whole |= dict(val_evaluator=dict(type="Accuracy"), train_cfg=dict(max_iters=9))
    Config({**whole, **loaders, **settings}).dump(folder / "mine.py")
    none = (
        "loss",
        "data_root",
        "imbalance",
        "seed",
        "cfg_options",
        "retrain_classifier",
        "work_dir",
        "resume",
    )
    given = dict(config=str(folder / "mine.py"), launcher="none", local_rank=0, amp=False)
    return Namespace(**dict.fromkeys(none), **given, force_resume=False, unsafe_load=False)


def test_arguments_become_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = write_config(tmp_path)
    plain = load_config(args)
    assert plain.launcher == "none"
    assert "randomness" not in plain
    assert (plain.model.head.loss.type, "model_wrapper_cfg" in plain) == ("CE", False)
    (tmp_path / "new" / "val").mkdir(parents=True)
    (tmp_path / "a.pth").touch()
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, value in dict(
        launcher="pytorch",
        local_rank=3,
        loss="focal:gamma=1",
        data_root=str(tmp_path / "new"),
        imbalance="step:10",
        seed=0,
        retrain_classifier=["lws", str(tmp_path / "a.pth")],
        cfg_options=["train_cfg.x=1", "randomness.seed=5"],
    ).items():
        setattr(args, name, value)
    cfg = load_config(args)
    assert os.environ.pop("LOCAL_RANK") == "3"
    assert cfg.launcher == "pytorch"
    assert cfg.model.type == "mmseol.LearnableWeightScaling"
    assert cfg.model.model.head.loss == dict(type="mmseol.FocalLoss", gamma=1)
    cut = cfg.train_dataloader.dataset
    assert (cut.type, cut.dataset.data_root) == ("mmseol.ImbalancedDataset", str(tmp_path / "new"))
    assert cfg.randomness == dict(seed=5)  # options come last
    assert cfg.model_wrapper_cfg.device_ids is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "model_wrapper_cfg" not in load_config(args)
    args.local_rank = 4
    load_config(args)  # a value that is set stays
    assert os.environ.pop("LOCAL_RANK") == "3"
    del args.local_rank
    load_config(args)
    assert os.environ.pop("LOCAL_RANK") == "0"


def test_what_training_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    args = write_config(tmp_path)
    cfg = prepare_train(args)
    assert (cfg.work_dir, cfg.get("resume"), cfg.get("load_from")) == ("work_dirs/mine", None, None)
    assert [hook.type for hook in cfg.custom_hooks] == ["mmseol.StopSignalHook", "mmseol.ExactResumeHook"]
    assert cfg.optim_wrapper.type == "OptimWrapper"
    run = str(tmp_path / "run")
    args = write_config(tmp_path, work_dir=run, load_from="b.pth")
    args.resume = "auto"
    cfg = prepare_train(args)
    assert (cfg.work_dir, cfg.resume, cfg.load_from) == (run, True, None)
    args.resume, args.work_dir, args.amp = "c.pth", str(tmp_path / "other"), True
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg = prepare_train(args)
    assert (cfg.work_dir, cfg.resume, cfg.load_from) == (str(tmp_path / "other"), True, "c.pth")
    assert cfg.optim_wrapper.type == "AmpOptimWrapper"
    args = write_config(tmp_path, work_dir=run)
    assert prepare_train(args).get("resume") is None
    Path(run).mkdir()
    Path(run, "epoch_1.pth").write_text("weights")
    with pytest.raises(ValueError, match=r"already holds a run \(epoch_1\.pth\)"):
        prepare_train(args)
    monkeypatch.setenv("RANK", "1")
    assert prepare_train(args).work_dir == run  # the first process looks, and ends the others
    monkeypatch.delenv("RANK")
    Config(dict(model=dict(type="B"))).dump(Path(run, "mine.py"))
    args.resume = "auto"
    with pytest.raises(ValueError, match="holds a run of another model"):
        prepare_train(args)
    args.force_resume = True
    assert prepare_train(args).resume is True
    torch.save({"meta": {"cfg": "mmseol.CosineClassifierHead"}, "state_dict": {}}, tmp_path / "cosine.pth")
    args.retrain_classifier = ["crt", str(tmp_path / "cosine.pth")]
    with pytest.raises(ValueError, match="was trained with mmseol.CosineClassifierHead"):
        prepare_train(args)
    for split in ("val", "train"):
        (tmp_path / split).rmdir()
        with pytest.raises(
            ValueError, match=f"`data_prefix` of {split}_dataloader must be an existing folder"
        ):
            prepare_train(args)


@pytest.mark.parametrize("scope", ["mmpretrain", "mmseg"])
def test_what_a_test_gets(tmp_path: Path, scope: str) -> None:
    (tmp_path / "run").mkdir()
    state = {"meta": {}, "state_dict": {}}
    torch.save(state, tmp_path / "run" / "a.pth")
    hooks = dict(visualization=dict(type="V", draw=False, interval=5))
    settings = dict(default_scope=scope, default_hooks=hooks, visualizer=dict(type="A"), resume=True)
    args = write_config(tmp_path, **settings, test_cfg={}, tta_model=dict(type="T"), tta_pipeline=[])
    vars(args).update(
        checkpoint=str(tmp_path / "run" / "a.pth"), split="val", tta=False, out=None, show_dir=None
    )
    cfg = prepare_test(args)
    assert cfg.work_dir == str(tmp_path / "run" / "test_val")
    assert cfg.test_dataloader.dataset.data_prefix == "val"
    assert (cfg.load_from, cfg.resume, args.loaded) == (args.checkpoint, False, state)
    assert cfg.model.type == "ImageClassifier"
    assert (cfg.default_hooks, cfg.visualizer) == (hooks, dict(type="A"))
    args.split, args.tta, args.work_dir, args.show_dir = "test", True, "w", str(tmp_path / "show")
    cfg = prepare_test(args)
    assert (cfg.work_dir, cfg.model.type) == ("w", "T")
    assert cfg.test_dataloader.dataset.data_prefix == "test"
    drawn = scope == "mmseg"  # the other host's pictures are drawn by a writer
    assert cfg.default_hooks.visualization.draw is drawn
    args.out = str(tmp_path / "out")
    if drawn:
        with pytest.raises(ValueError, match="`--out` needs a metric that writes label maps"):
            prepare_test(args)
    else:
        assert "output_dir" not in prepare_test(args).test_evaluator
    for name, argument in (("show_dir", "--show-dir"), ("out", "--out")):
        args.out = args.show_dir = None
        setattr(args, name, str(tmp_path / "run"))
        with pytest.raises(ValueError, match=f"`{argument}` must be a new or empty folder, got"):
            prepare_test(args)
    args.out = args.show_dir = None
    (tmp_path / "test").rmdir()
    with pytest.raises(ValueError, match="`data_prefix` of test_dataloader must be an existing folder"):
        prepare_test(args)
    torch.save({"meta": {"cfg": "mmseol.CosineClassifierHead"}, "state_dict": {}}, args.checkpoint)
    with pytest.raises(ValueError, match="was trained with mmseol.CosineClassifierHead"):
        prepare_test(args)


class Run:
    """Stands in for a Runner, and notes what is done with it."""

    def __init__(self, folder: Path, error: Exception | None = None) -> None:
        self.log_dir, self.error, self.model = folder, error, nn.Linear(2, 2)
        self.cfg: Any = None
        self.done: list[Any] = []
        self.logger = self

    def from_cfg(self, cfg: Config) -> Any:
        self.cfg = cfg
        return self

    def register_hook(self, hook: Any) -> None:
        self.done.append(type(hook).__name__)

    def warning(self, text: str) -> None:
        self.done.append(text.partition("\n")[0])

    def train(self) -> None:
        self.done.append("train")
        if self.error is not None:
            raise self.error

    def test(self) -> None:
        self.done.append("test")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_run_is_written_down_by_the_first_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    monkeypatch.setenv("RANK", str(rank))
    work_dir = tmp_path / "run"
    (tmp_path / "log").mkdir()
    run = Run(tmp_path / "log")
    monkeypatch.setattr(CommandRunner, "from_cfg", run.from_cfg)
    args = Namespace(unsafe_load=False, force_resume=False, command_line="train a.py")
    settings = dict(model=dict(type="A"), randomness=dict(seed=1), launcher="none", work_dir=str(work_dir))
    cfg = Config(settings, filename="mine.py", cfg_text="#")
    run_train(cfg, args)
    assert run.done == ["LoadedWeightsHook", "train"]
    assert run.cfg is cfg
    assert (tmp_path / "log" / "command.json").exists() == (work_dir / ".run.lock").exists() == (rank == 0)
    if rank == 0:
        assert json.loads((tmp_path / "log" / "command.json").read_text())["command"] == "train a.py"
    work_dir.mkdir(exist_ok=True)
    cfg.dump(work_dir / "mine.py")
    (work_dir / "epoch_1.pth").write_text("weights")
    cfg = Config({**settings, "resume": True, "randomness": dict(seed=2)}, filename="mine.py", cfg_text="#")
    run.done.clear()
    run_train(cfg, args)
    changed = ["The run goes on with other settings:"] if rank == 0 else []
    assert run.done == ["LoadedWeightsHook", *changed, "train"]
    assert run.cfg.filename == "mine_resumed_1.py"
    cfg.model.type = "B"
    args.force_resume = True
    run.error = URLError("no route")
    with pytest.raises(SystemExit, match="error: could not download pretrained weights: .*no route"):
        run_train(cfg, args)


@pytest.mark.parametrize(
    ("scope", "out", "show", "written"),
    [
        ("mmpretrain", "o", None, [("o", None)]),
        ("mmpretrain", None, "s", [(None, "s")]),
        ("mmpretrain", None, None, []),
        ("mmseg", "o", "s", []),
    ],
)
def test_a_test_writes_the_classes_of_mmpretrain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scope: str, out: str, show: str, written: list[Any]
) -> None:
    run = Run(tmp_path)
    monkeypatch.setattr(CommandRunner, "from_cfg", run.from_cfg)
    writers: list[Any] = []
    monkeypatch.setattr(
        "mmseol.experiment.class_predictions.add_writer", lambda _, *folders: writers.append(folders)
    )
    args = Namespace(
        unsafe_load=False, checkpoint="a.pth", loaded=run.model.state_dict(), out=out, show_dir=show
    )
    cfg = Config(dict(launcher="none", default_scope=scope))
    run_test(cfg, args)
    assert (run.done, writers) == (["test"], written)
    args.loaded = {}
    with pytest.raises(ValueError, match="'a.pth' does not fit the model: it has 0 of its 2 weights"):
        run_test(cfg, args)
