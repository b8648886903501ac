"""Resumed runs equal uninterrupted ones, and a seed gives the same run twice, to the last digit."""

from __future__ import annotations

import copy
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.distributed import run_ranks
from helpers.small_data import write_class_folders
from mmengine.config import ConfigDict
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import DefaultScope
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from mmseol.hooks import ExactResumeHook, exact_resume
from mmseol.hooks.generators import generator_states, seed_generators, set_generator_states
from mmseol.hooks.run_parts import validation_was_due

LENGTH, ITERATIONS = 4, 12  # of an epoch and of a run
SAVE_AT, STOP_AT = 4, 6  # the iteration of a checkpoint, and one in the middle of an epoch


class Watch(Hook):
    """Keep number, images and losses of every batch; send SIGTERM in an iteration, counted from 1."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.seen: dict[int, Any] = {}

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter + 1 == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        images = torch.stack(list(data_batch["inputs"])).double().sum().item()
        losses = {name: value.tolist() for name, value in outputs.items()}
        self.seen[runner.iter] = (batch_idx, images, losses)


def classification(data: Path) -> dict[str, Any]:
    """Return a run with augmented images, mixed batches and dropped paths, validated after every epoch."""
    dataset = dict(
        type="CustomDataset",
        data_root=str(data / "classes"),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="RandomCrop", crop_size=24, padding=4),
            dict(type="RandomFlip", prob=0.5),
            dict(type="ColorJitter", brightness=0.4),
            dict(type="PackInputs"),
        ],
    )
    model = dict(
        type="ImageClassifier",
        data_preprocessor=dict(num_classes=4, mean=[120.0] * 3, std=[50.0] * 3),
        train_cfg=dict(augments=[dict(type="Mixup", alpha=0.8), dict(type="CutMix", alpha=1.0)]),
        backbone=dict(type="ResNet_CIFAR", depth=18, base_channels=4, stem_channels=4, drop_path_rate=0.3),
        neck=dict(type="GlobalAveragePooling"),
        head=dict(
            type="LinearClsHead", num_classes=4, in_channels=32, loss=dict(type="mmseol.OutlyingMSELoss")
        ),
    )
    loader = dict(batch_size=4, num_workers=0, collate_fn=dict(type="default_collate"), dataset=dataset)
    return dict(
        default_scope="mmpretrain",
        model=model,
        train_dataloader=dict(loader, sampler=dict(type="mmseol.ClassAwareSampler", num_samples=15)),
        val_dataloader=dict(loader, sampler=dict(type="DefaultSampler", shuffle=False)),
        val_evaluator=dict(type="mmseol.ClassBalanceMetric"),
        val_cfg=dict(),
    )


def segmentation(data: Path) -> dict[str, Any]:
    """Return a run with augmented images and dropout, and averaged weights."""
    dataset = dict(
        type="mmseol.CamVidDataset",
        data_root=str(data / "toy"),
        data_prefix=dict(img_path="train", seg_map_path="trainannot"),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="RandomCrop", crop_size=(32, 32)),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PhotoMetricDistortion"),
            dict(type="PackSegInputs"),
        ],
    )
    norm = dict(type="BN")
    model = dict(
        type="EncoderDecoder",
        data_preprocessor=dict(type="SegDataPreProcessor", size=(32, 32), mean=[120.0] * 3, std=[50.0] * 3),
        backbone=dict(type="ResNetV1c", depth=18, base_channels=8, stem_channels=8, norm_cfg=norm),
        decode_head=dict(
            type="FCNHead",
            in_channels=64,
            channels=8,
            num_classes=11,
            norm_cfg=norm,
            loss_decode=dict(type="mmseol.OutlyingMSELoss"),
        ),
        test_cfg=dict(mode="whole"),
    )
    return dict(
        default_scope="mmseg",
        model=model,
        train_dataloader=dict(
            batch_size=3,
            num_workers=0,
            dataset=dataset,
            collate_fn=dict(type="pseudo_collate"),
            sampler=dict(type="DefaultSampler", shuffle=True),
        ),
    )


TASKS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "classification": classification,
    "segmentation": segmentation,
}


def run(
    data: Path,
    work_dir: Path,
    task: str,
    by_epoch: bool,
    workers: int = 0,
    stop_at: int | None = None,
    seed: int | None = 3,
    **kwargs: Any,
) -> tuple[dict[int, Any], Runner]:
    """Train; return what was seen of every iteration, and the runner."""
    watch = Watch(stop_at)
    config = TASKS[task](data)
    loader = config["train_dataloader"]
    loader["num_workers"] = workers
    loader["persistent_workers"] = workers > 0 and task == "segmentation"
    if not by_epoch and task == "segmentation":
        loader["sampler"] = dict(type="InfiniteSampler", shuffle=True)
    length = dict(max_epochs=ITERATIONS // LENGTH) if by_epoch else dict(max_iters=ITERATIONS)
    hooks = [dict(type="mmseol.ClassCountHook"), dict(type="EMAHook", momentum=0.1)]
    hooks += [dict(type="mmseol.StopSignalHook"), dict(type="mmseol.ExactResumeHook"), watch]
    config = dict(
        config,
        work_dir=str(work_dir),
        train_cfg=dict(by_epoch=by_epoch, val_interval=1 if by_epoch else 3, **length),
        optim_wrapper=dict(optimizer=dict(type="Adam", lr=1e-3)),
        param_scheduler=[dict(type="mmseol.PolynomialLR", by_epoch=by_epoch)],
        default_hooks=dict(
            checkpoint=dict(
                type="mmseol.WholeCheckpointHook", by_epoch=by_epoch, interval=1 if by_epoch else SAVE_AT
            ),
            logger=dict(type="LoggerHook", interval=2),
        ),
        log_processor=dict(by_epoch=by_epoch),
        custom_hooks=hooks,
        randomness=dict(seed=seed),
        experiment_name=f"{work_dir.name}_{torch.randint(2**40, ()).item()}",
        **kwargs,
    )
    with DefaultScope.overwrite_default_scope(config["default_scope"]):
        runner = Runner(**config)
        if stop_at is None:
            runner.train()
        else:
            with pytest.raises(SystemExit, match="143"):
                runner.train()
    return watch.seen, runner


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, toy: Path) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_class_folders(folder / "classes", 4, 4)
    (folder / "toy").symlink_to(toy)
    return folder


@pytest.fixture(scope="module", params=[(task, by_epoch) for task in TASKS for by_epoch in (True, False)])
def whole(request: Any, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return task, kind of loop, folder and outcome of a run that nothing interrupted."""
    task, by_epoch = request.param
    work_dir = tmp_path_factory.mktemp("whole") / "run"
    return task, by_epoch, work_dir, *run(data, work_dir, task, by_epoch)


def assert_equal(first: Runner, second: Runner) -> None:
    states = [
        {**runner.model.state_dict(), **{f"ema {k}": v for k, v in ema(runner).items()}}
        for runner in (first, second)
    ]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def ema(runner: Runner) -> dict[str, torch.Tensor]:
    (copy,) = [hook.ema_model for hook in runner.hooks if hasattr(hook, "ema_model")]
    return copy.state_dict()


def last_checkpoint(by_epoch: bool) -> str:
    return f"epoch_{SAVE_AT // LENGTH}.pth" if by_epoch else f"iter_{SAVE_AT}.pth"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumed_from_a_checkpoint_ends_with_the_same_digits(
    whole: Any, data: Path, tmp_path: Path, workers: int
) -> None:
    task, by_epoch, folder, seen, finished = whole
    checkpoint = folder / last_checkpoint(by_epoch)
    rest, runner = run(data, tmp_path, task, by_epoch, workers, load_from=str(checkpoint), resume=True)
    assert rest == {iteration: seen[iteration] for iteration in range(SAVE_AT, ITERATIONS)}
    assert_equal(runner, finished)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_stopped_within_an_epoch_ends_with_the_same_digits(
    whole: Any, data: Path, tmp_path: Path, workers: int
) -> None:
    task, by_epoch, _, seen, finished = whole
    begun, _ = run(data, tmp_path, task, by_epoch, workers, stop_at=STOP_AT)
    rest, runner = run(data, tmp_path, task, by_epoch, workers, resume=True)
    assert {**begun, **rest} == seen
    assert len(rest) == ITERATIONS - STOP_AT
    assert_equal(runner, finished)


def test_the_same_seed_gives_the_same_run_with_any_number_of_workers(
    whole: Any, data: Path, tmp_path: Path
) -> None:
    task, by_epoch, _, seen, finished = whole
    again, runner = run(data, tmp_path / "again", task, by_epoch, 2)
    assert again == seen
    assert_equal(runner, finished)


def _on_rank(
    rank: int, data: Path, folder: Path, task: str, by_epoch: bool, workers: int
) -> list[dict[int, Any]]:
    """Return what was seen of an uninterrupted run, a resumed one, and one that was stopped and resumed."""
    wrapper = dict(type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False)
    kwargs = dict(cfg=ConfigDict(model_wrapper_cfg=wrapper), launcher="pytorch", workers=workers)
    whole, runner = run(data, folder / "whole", task, by_epoch, **kwargs)
    checkpoint = str(folder / "whole" / ("epoch_1.pth" if by_epoch else f"iter_{SAVE_AT}.pth"))
    resumed, again = run(
        data, folder / "resumed", task, by_epoch, load_from=checkpoint, resume=True, **kwargs
    )
    assert_equal(runner, again)
    begun, _ = run(data, folder / "stopped", task, by_epoch, stop_at=2, **kwargs)
    rest, again = run(data, folder / "stopped", task, by_epoch, resume=True, **kwargs)
    assert_equal(runner, again)
    return [whole, resumed, {**begun, **rest}, rest]


@pytest.mark.parametrize(
    ("task", "by_epoch", "workers"), [("classification", True, 2), ("segmentation", False, 0)]
)
def test_two_processes_end_with_the_same_digits(
    data: Path, tmp_path: Path, task: str, by_epoch: bool, workers: int
) -> None:
    ranks = run_ranks(_on_rank, data, tmp_path, task, by_epoch, workers, timeout=300)
    for whole, resumed, stopped, rest in ranks:
        assert resumed == {iteration: whole[iteration] for iteration in resumed}
        assert min(resumed) == (LENGTH // 2 if by_epoch else SAVE_AT)
        assert stopped == whole
        assert min(rest) == 3  # the ranks agree one iteration later
    assert ranks[0][0] != ranks[1][0]


def test_the_seed_of_a_worker_reaches_every_generator() -> None:
    drawn = []
    for entropy in ((1, 0), (1, 1), (1, 0)):
        seed_generators(*entropy)
        drawn.append((random.random(), np.random.random(), torch.rand(1).item()))  # noqa: NPY002
    assert drawn[0] == drawn[2]
    assert all(one != other for one, other in zip(drawn[0], drawn[1], strict=True))


@pytest.mark.parametrize(
    ("epoch", "iteration", "due"), [(2, 8, True), (2, 9, False), (3, 12, False), (4, 16, True), (5, 20, True)]
)
def test_a_validation_is_due_at_the_end_of_its_epoch_alone(epoch: int, iteration: int, due: bool) -> None:
    """Four iterations an epoch; validated after every second of five epochs, and after the last."""
    loop: Any = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    loop._epoch, loop._iter, loop._max_epochs, loop.dynamic_intervals = epoch, iteration, 5, None
    loop.val_begin, loop.val_interval, loop.dataloader = 1, 2, range(4)
    loop._decide_current_val_interval = lambda: None
    assert validation_was_due(loop) == due


def test_the_states_of_a_gpu_are_those_of_its_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.Generator().manual_seed(7)
    for name, stand_in in (
        ("is_available", lambda: True),
        ("is_initialized", lambda: True),
        ("get_rng_state", gpu.get_state),
        ("set_rng_state", gpu.set_state),
    ):
        monkeypatch.setattr(torch.cuda, name, stand_in)
    states = generator_states()
    drawn = torch.rand(3, generator=gpu)
    set_generator_states(states)
    assert torch.equal(torch.rand(3, generator=gpu), drawn)


def test_states_hold_the_second_of_a_pair_of_normal_numbers() -> None:
    draw: list[Callable[[], float]] = [lambda: random.gauss(0.0, 1.0), np.random.standard_normal]
    for normal in draw:
        normal()  # Python and NumPy draw two at once
        states = generator_states()
        second = normal()
        normal()
        set_generator_states(states)
        assert normal() == second


class Loop:
    """What the hook uses of a loop by iterations."""

    def __init__(self, iteration: int) -> None:
        self.iter, self.max_iters, self.val_begin, self.val_interval = iteration, 8, 1, 4
        self.dataloader: Any = None

    def _decide_current_val_interval(self) -> None: ...


def fake_runner(iteration: int, *hooks: Hook, validated: list[int] | None = None) -> Any:
    """Return what the hook uses of a Runner."""
    model = nn.ModuleDict({"norm": nn.BatchNorm1d(2)})
    model["norm"].running_mean.fill_(1.0)
    runner = SimpleNamespace(iter=iteration, hooks=hooks, model=model, train_loop=Loop(iteration), seed=3)
    runner.logger = SimpleNamespace(info=lambda text: None, warning=lambda text: None)
    seen = [] if validated is None else validated
    runner.val_loop = SimpleNamespace(run=lambda: seen.append(runner.iter))
    return runner


def test_states_of_all_ranks_are_gathered_for_the_checkpoint_that_is_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gathered: list[Any] = []

    def gather(mine: dict[str, Any]) -> list[dict[str, Any]]:
        other = copy.deepcopy(mine)
        other["buffers"]["norm.running_mean"] += 1
        gathered.append(mine)
        return [mine, other]

    monkeypatch.setattr(exact_resume, "get_world_size", lambda: 2)
    monkeypatch.setattr(exact_resume, "all_gather_object", gather)
    hook, due = ExactResumeHook(), CheckpointHook(interval=3, by_epoch=False, save_last=False)
    for iteration in range(6):
        hook.after_train_iter(fake_runner(iteration, due), 0)
        assert len(gathered) == (iteration + 1) // 3
    checkpoint: dict[str, Any] = {"meta": {"iter": 6}}
    hook.before_save_checkpoint(fake_runner(5), checkpoint)
    first, second = checkpoint["rank_states"]
    assert first["buffers"] == {}  # they are saved with the model
    assert list(second["buffers"]) == ["norm.running_mean"]
    other: dict[str, Any] = {"meta": {"iter": 5}}  # of another iteration: this rank's alone
    hook.before_save_checkpoint(fake_runner(5), other)
    assert len(other["rank_states"]) == 1
    runner = fake_runner(6)
    runner.iter = 7
    hook.after_train_epoch(runner)
    checkpoint["meta"]["iter"] = 7
    hook.before_save_checkpoint(runner, checkpoint)
    assert len(checkpoint["rank_states"]) == 2
    for hooks in ((), (CheckpointHook(interval=1, by_epoch=True),)):
        hook.after_train_iter(fake_runner(8, *hooks), 0)
    assert len(gathered) == 3
    last = CheckpointHook(interval=-1, by_epoch=False, save_last=True)
    for iteration, number in ((6, 3), (7, 4)):
        runner = fake_runner(iteration, last)
        runner.max_iters = 8
        hook.after_train_iter(runner, 0)
        assert len(gathered) == number


@pytest.mark.parametrize(("iteration", "due"), [(0, False), (4, True), (5, False), (8, True)])
def test_a_validation_that_was_not_reached_is_done_once(iteration: int, due: bool) -> None:
    """Every fourth iteration of eight; a run resumed after its last iteration has nothing to train."""
    for method in ("before_train_epoch", "after_train"):
        validated: list[int] = []
        hook, runner = ExactResumeHook(), fake_runner(iteration, validated=validated)
        hook.before_run(runner)
        hook.before_train(runner)
        getattr(hook, method)(runner)
        assert validated == [iteration] * due
        runner.val_loop.run = lambda: None
        hook.before_val(runner)
        runner.val_loop.run = lambda validated=validated: validated.append(-1)
        getattr(hook, method)(runner)
        assert -1 not in validated
    without = fake_runner(4)
    without.val_loop = None
    hook = ExactResumeHook()
    hook.before_run(without)
    hook.before_train(without)
    hook.after_train(without)


def test_validation_leaves_the_random_states_alone() -> None:
    hook, runner = ExactResumeHook(), fake_runner(4)
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    hook.before_val(runner)
    torch.rand(9)
    checkpoint: dict[str, Any] = {"meta": {"iter": 4}}
    hook.before_save_checkpoint(runner, checkpoint)  # the best one, within the validation
    hook.after_val(runner)
    assert torch.equal(torch.rand(2), expected)
    hook.after_val(runner)  # of a test
    set_generator_states(checkpoint["rank_states"][0])
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    ("ranks", "warned"), [(None, "has no random states"), (2, "of 2 processes, and the run has 1")]
)
def test_checkpoints_of_other_processes_are_warned_of(ranks: int | None, warned: str) -> None:
    texts: list[str] = []
    hook, runner = ExactResumeHook(), fake_runner(4)
    runner.logger.warning = texts.append
    hook.before_run(runner)
    hook.after_load_checkpoint(runner, {} if ranks is None else {"rank_states": [generator_states()] * ranks})
    hook.before_train(runner)
    assert [text for text in texts if warned in text]
    hook.after_load_checkpoint(runner, {"rank_states": [{**generator_states(), "buffers": {}}]})
    texts.clear()
    hook.before_train(runner)
    assert not [text for text in texts if "random states" in text]
