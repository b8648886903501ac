"""The commands ``train`` and ``test`` from arguments to a run, without a run."""

from __future__ import annotations

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

from mmseol.experiment.advice import prepare_advise
from mmseol.experiment.commands import load_config, prepare_test, prepare_train, run_test, run_train
from mmseol.experiment.config_files import find_config, read_config
from mmseol.experiment.counted_classes import prepare_count
from mmseol.experiment.runner import CommandRunner


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
    with pytest.raises(ValueError, match=r"was trained with mmseol.CosineClassifierHead"):
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
    with pytest.raises(ValueError, match=r"was trained with mmseol.CosineClassifierHead"):
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
    with pytest.raises(SystemExit, match=r"error: could not download pretrained weights: .*no route"):
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
    with pytest.raises(ValueError, match=r"'a\.pth' does not fit the model: it has 0 of its 2 weights"):
        run_test(cfg, args)


def test_commands_that_read_data_look_for_them_first(tmp_path: Path) -> None:
    args = write_config(tmp_path)
    assert prepare_advise(args).train_dataloader.dataset.data_prefix == "train"
    args.split, args.out = ["train", "val"], None
    assert prepare_count(args).val_dataloader.dataset.data_prefix == "val"
    (tmp_path / "val").rmdir()
    prepare_advise(args)
    with pytest.raises(ValueError, match="`data_prefix` of val_dataloader must be an existing folder"):
        prepare_count(args)
    args.split = ["test"]
    prepare_count(args)
    (tmp_path / "train").rmdir()
    with pytest.raises(ValueError, match="`data_prefix` of train_dataloader must be an existing folder"):
        prepare_advise(args)
    args.out = str(tmp_path)
    with pytest.raises(ValueError, match="`--out` must be a new or empty folder, got"):
        prepare_count(args)


def test_bases_of_packages_are_left_to_mmengine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Config, "fromfile", staticmethod(lambda path: Config(dict(a=Path(path).read_text()))))
    path = tmp_path / "a.py"
    path.write_text('_base_ = ["mmseg::x.py"]\n')
    assert read_config(str(path)).a == path.read_text()
    path.write_text('_base_ = [\n    "mmseg::x.py",\n    "quickstart/digits.py",\n]\nx = 1\n')
    digits = find_config("quickstart/digits.py")
    assert read_config(str(path)).a == f"_base_ = {['mmseg::x.py', digits]}\nx = 1\n"
