"""Losses, schedules and samplers with a state of their own in resumed runs; states in checkpoints."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from helpers.tiny_runner import LABELS, TinyDataset, TinyModel, log_of, tiny_runner
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.runner import Runner, load_checkpoint
from mmengine.runner.loops import _InfiniteDataloaderIterator
from mmengine.structures import LabelData
from torch.utils.data import DataLoader

from mmseol.samplers import ClassAwareSampler
from mmseol.utils.unpickling import load_checkpoint as load_plain

DRW = {"type": "mmseol.DeferredReweightHook", "begin": 2}
CASES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "difficulty of CDB": ({"type": "CDBLoss"}, [{"type": "mmseol.ClassDifficultyHook"}]),
    "momentum of GHM": ({"type": "GHMCLoss", "momentum": 0.75}, []),
    "counts of Seesaw": ({"type": "SeesawLoss"}, []),
    "weights of DRW": ({"type": "LDAMLoss"}, [DRW]),
    "alpha of the ramp": ({"type": "OutlyingMSELoss"}, [{"type": "mmseol.AlphaRampHook", "until": 3}]),
    "start of influence": (
        {"type": "InfluenceBalancedLoss", "start_epoch": 2},
        [{"type": "mmseol.ClassifierFeatureHook"}],
    ),
    "LADE": ({"type": "LADELoss"}, []),
}


class Stop(Hook):
    """Keep every loss; send SIGTERM in an iteration, counted from 1."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.seen: dict[int, Any] = {}

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter + 1 == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        losses = {name: value.item() for name, value in outputs.items() if "acc" not in name}
        self.seen[runner.iter] = (batch_idx, losses)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        self.seen[-runner.iter] = metrics


class Noisy(TinyModel):
    """TinyModel that trains on noisy points, and predicts."""

    def forward(self, inputs: Any, label: Any, mode: str = "tensor") -> Any:
        if mode == "loss":
            return super().forward([point + torch.randn(3) for point in inputs], label, mode)
        scores = self.decode_head.fc(torch.stack(list(inputs)))
        return [
            LabelData(metainfo={}, gt_label=y[None], pred_label=p.argmax()[None])
            for y, p in zip(label, scores, strict=True)
        ]


def runner_of(
    work_dir: Path,
    loss: dict[str, Any],
    hooks: list[Any],
    exact: bool = True,
    seed: int | None = 5,
    sampler: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Runner:
    torch.manual_seed(0)  # two models of the same weights
    loss = {**loss, "type": f"mmseol.{loss['type']}"}
    hooks = [{"type": "mmseol.ClassCountHook"}, {"type": "mmseol.StopSignalHook"}, *hooks]
    loader = {
        "batch_size": 4,
        "num_workers": 0,
        "sampler": sampler or {"type": "DefaultSampler", "shuffle": True},
        "dataset": TinyDataset(LABELS),
        "collate_fn": pseudo_collate,
    }
    options: dict[str, Any] = dict(
        custom_hooks=[*hooks, {"type": "mmseol.ExactResumeHook"}] if exact else hooks,
        train_dataloader=loader,
        train_cfg={"by_epoch": True, "max_epochs": 4, "val_interval": 1},
        val_dataloader={**loader, "sampler": {"type": "DefaultSampler", "shuffle": False}},
        val_cfg={},
        val_evaluator={"type": "mmseol.ClassBalanceMetric"},
        default_hooks={"checkpoint": {"type": "mmseol.WholeCheckpointHook", "interval": 1}},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.05, "momentum": 0.9}},
        randomness={"seed": seed},
    )
    return tiny_runner(work_dir, Noisy([loss], [loss]), **{**options, **kwargs})


def outcome(runner: Runner, watch: Stop) -> tuple[dict[int, Any], dict[str, Any]]:
    """Train; return losses and scores, and the last state of the model."""
    runner.train()
    return watch.seen, {name: value.tolist() for name, value in runner.model.state_dict().items()}


@pytest.mark.parametrize(("loss", "hooks"), CASES.values(), ids=CASES)
def test_a_resumed_run_has_the_losses_of_the_uninterrupted_one(
    tmp_path: Path, loss: dict[str, Any], hooks: list[Any]
) -> None:
    watch = Stop()
    seen, state = outcome(runner_of(tmp_path / "whole", loss, [*hooks, watch]), watch)
    assert len([iteration for iteration in seen if iteration >= 0]) == 16
    watch = Stop()
    checkpoint = str(tmp_path / "whole" / "epoch_1.pth")
    resumed = runner_of(tmp_path / "resumed", loss, [*hooks, watch], load_from=checkpoint, resume=True)
    rest, again = outcome(resumed, watch)
    assert rest == {i: value for i, value in seen.items() if abs(i) >= 4}  # the first validation included
    assert again == state

    begun, watch = Stop(stop_at=10), Stop()
    with pytest.raises(SystemExit):
        runner_of(tmp_path / "stopped", loss, [*hooks, begun]).train()
    rest, again = outcome(runner_of(tmp_path / "stopped", loss, [*hooks, watch], resume=True), watch)
    assert {**begun.seen, **rest} == seen
    assert again == state


BALANCED = {"type": "OutlyingMSELoss"}
SAMPLERS = [
    {"type": "DefaultSampler", "shuffle": True},
    {"type": "mmseol.DeferredSampler", "begin": 2, "then": {"type": "mmseol.ClassAwareSampler"}},
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler["type"])
def test_a_run_without_a_given_seed_continues_with_its_own(tmp_path: Path, sampler: dict[str, Any]) -> None:
    watch = Stop()
    first = runner_of(tmp_path / "whole", BALANCED, [watch], seed=None, sampler=sampler)
    seen, state = outcome(first, watch)
    watch = Stop()
    load = {"load_from": str(tmp_path / "whole" / "epoch_1.pth"), "resume": True}
    second = runner_of(tmp_path / "resumed", BALANCED, [watch], seed=None, sampler=sampler, **load)
    rest, again = outcome(second, watch)
    assert rest == {i: value for i, value in seen.items() if abs(i) >= 4}
    assert again == state


def test_states_are_plain_data_and_without_them_a_run_is_resumed_with_a_warning(
    tmp_path: Path,
) -> None:
    watch = Stop()
    runner_of(tmp_path / "whole", BALANCED, [watch], train_cfg={"max_epochs": 2, "by_epoch": True}).train()
    path = tmp_path / "whole" / "epoch_1.pth"
    plain = load_plain(path)
    (states,) = plain["rank_states"]
    assert states.keys() == {"python", "numpy", "torch"}
    net = TinyModel([{"type": "mmseol.OutlyingMSELoss"}], [{"type": "mmseol.OutlyingMSELoss"}])
    assert "rank_states" in load_checkpoint(net, str(path))
    for name, saved, warning in (
        ("none", None, "has no random states"),
        ("two", [states, states], "has the random states of 2 processes, and the run has 1"),
    ):
        changed = {key: value for key, value in plain.items() if key != "rank_states"}
        torch.save(changed if saved is None else {**changed, "rank_states": saved}, tmp_path / f"{name}.pth")
        watch = Stop()
        runner = runner_of(
            tmp_path / name, BALANCED, [watch], load_from=str(tmp_path / f"{name}.pth"), resume=True
        )
        runner.train()
        assert runner.iter == 16
        assert warning in log_of(runner)


@pytest.mark.parametrize("exact", [True, False])
def test_a_resumed_run_by_iterations_does_not_load_what_it_skips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exact: bool
) -> None:
    if not exact and not hasattr(_InfiniteDataloaderIterator, "skip_iter"):
        pytest.skip("mmengine 0.10.7 loads all skipped batches")
    options = dict(
        exact=exact,
        sampler={"type": "mmseol.ClassAwareSampler"},
        train_cfg={"by_epoch": False, "max_iters": 10, "val_interval": 100},
        default_hooks={
            "checkpoint": {"type": "mmseol.WholeCheckpointHook", "interval": 6, "by_epoch": False}
        },
    )
    watch = Stop()
    runner = runner_of(tmp_path / "whole", BALANCED, [watch], **options)
    seen, state = outcome(runner, watch)
    loaded: list[int] = []
    load = TinyDataset.prepare_data
    monkeypatch.setattr(TinyDataset, "prepare_data", lambda self, i: loaded.append(i) or load(self, i))
    watch = Stop()
    resumed = runner_of(
        tmp_path / "resumed",
        BALANCED,
        [watch],
        load_from=str(tmp_path / "whole" / "iter_6.pth"),
        resume=True,
        **options,
    )
    rest, again = outcome(resumed, watch)
    order = [item for epoch in range(3) for item in drawn(epoch)]
    validated = len(LABELS)
    assert loaded[: 4 * 4] == order[6 * 4 : 10 * 4]
    assert len(loaded) == 4 * 4 + validated
    if exact:
        assert rest == {i: value for i, value in seen.items() if i >= 6 or i < 0}
        assert again == state


def drawn(epoch: int) -> list[int]:
    """Return the items of an epoch of the sampler in the runs of this file."""
    sampler = ClassAwareSampler(TinyDataset(LABELS), seed=5)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_a_stop_waits_until_accumulated_gradients_are_applied(tmp_path: Path) -> None:
    options = {"optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.05}, "accumulative_counts": 3}}
    watch = Stop()
    seen, state = outcome(runner_of(tmp_path / "whole", BALANCED, [watch], **options), watch)
    begun, watch = Stop(stop_at=7), Stop()
    with pytest.raises(SystemExit):
        runner_of(tmp_path / "run", BALANCED, [begun], **options).train()
    assert (tmp_path / "run" / "stopped_9.pth").is_file()
    rest, again = outcome(runner_of(tmp_path / "run", BALANCED, [watch], resume=True, **options), watch)
    assert {**begun.seen, **rest} == seen
    assert again == state


def test_a_run_that_ended_before_its_last_validation_does_it_when_resumed(tmp_path: Path) -> None:
    watch = Stop()
    seen, _ = outcome(runner_of(tmp_path / "whole", BALANCED, [watch]), watch)
    watch = Stop()
    load = {"load_from": str(tmp_path / "whole" / "epoch_4.pth"), "resume": True}
    rest, _ = outcome(runner_of(tmp_path / "resumed", BALANCED, [watch], **load), watch)
    assert rest == {-16: seen[-16]}


class NoisyDataset(TinyDataset):
    """Points with noise from NumPy's state, as augmentations draw it."""

    def prepare_data(self, idx: int) -> dict[str, Any]:
        noise = torch.tensor(np.random.rand())  # noqa: NPY002
        return {"inputs": torch.full((3,), noise), "label": torch.tensor(0)}


@pytest.mark.parametrize("exact", [True, False])
def test_augmentations_differ_in_each_epoch(tmp_path: Path, exact: bool) -> None:
    class Inputs(Hook):
        seen: ClassVar[list[list[float]]] = []

        def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
            self.seen.append([float(value[0]) for value in data_batch["inputs"]])

    loader = {
        "batch_size": 4,
        "num_workers": 2,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "dataset": NoisyDataset(LABELS),
        "collate_fn": pseudo_collate,
    }
    options = {"train_dataloader": loader, "train_cfg": {"by_epoch": True, "max_epochs": 2}}
    runner_of(tmp_path, BALANCED, [Inputs()], exact, **options).train()
    first, second = Inputs.seen[:4], Inputs.seen[4:]
    assert (first != second) == exact  # mmengine seeds the workers of each epoch alike
    if exact:
        assert len({value for batch in Inputs.seen for value in batch}) == 32


def test_validation_does_not_change_training(tmp_path: Path) -> None:
    states = []
    for interval in (1, 100):
        watch = Stop()
        cycle = {"by_epoch": True, "max_epochs": 3, "val_interval": interval}
        runner = runner_of(tmp_path / str(interval), BALANCED, [watch], train_cfg=cycle)
        states.append(outcome(runner, watch)[1])
    assert states[0] == states[1]


def test_the_loop_gets_its_loader_back_and_other_loaders_are_named(tmp_path: Path) -> None:
    class Count(torch.utils.data.IterableDataset):
        def __iter__(self) -> Any:
            return iter([{"inputs": torch.ones(3), "label": torch.tensor(i % 4)} for i in range(8)])

        def __len__(self) -> int:
            return 8

    runner = runner_of(tmp_path / "own", BALANCED, [])
    runner.train()
    assert type(runner.train_loop.dataloader) is DataLoader
    stream = DataLoader(Count(), batch_size=4, collate_fn=pseudo_collate)
    loss = {"type": "OutlyingMSELoss", "class_counts": [4, 3, 2, 1]}
    runner = runner_of(tmp_path / "stream", loss, [], train_dataloader=stream)
    runner.train()
    assert "ExactResumeHook cannot seed the batches of EpochBasedTrainLoop with DataLoader" in log_of(runner)
    assert runner.iter == 8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="mmengine has no mixed precision on a CPU")
def test_a_run_in_mixed_precision_continues_with_its_loss_scale(tmp_path: Path) -> None:
    optim = {"type": "AmpOptimWrapper", "optimizer": {"type": "SGD", "lr": 0.05}, "loss_scale": "dynamic"}
    watch = Stop()
    seen, state = outcome(runner_of(tmp_path / "whole", BALANCED, [watch], optim_wrapper=optim), watch)
    begun, watch = Stop(stop_at=10), Stop()
    with pytest.raises(SystemExit):
        runner_of(tmp_path / "run", BALANCED, [begun], optim_wrapper=optim).train()
    resumed = runner_of(tmp_path / "run", BALANCED, [watch], resume=True, optim_wrapper=optim)
    rest, again = outcome(resumed, watch)
    assert {**begun.seen, **rest} == seen
    assert again == state
