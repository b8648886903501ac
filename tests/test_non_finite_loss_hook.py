"""NonFiniteLossHook in real Runners."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.distributed import run_ranks
from helpers.tiny_runner import LABELS, TinyDataset, TinyModel, tiny_runner
from mmengine.hooks import EMAHook, Hook
from torch import nn

from mmseol.hooks import NonFiniteLossHook

CE = {"type": "mmseol.CrossEntropyLoss"}


class SpoilAt(Hook):
    """Let the main head's loss become NaN at one iteration, counted from 1."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        runner.model.factor = float("nan") if runner.iter + 1 == self.iteration else 1.0


def run(tmp_path: Path, bad: int, interval: int | None = None, **kwargs: Any) -> Any:
    hooks = [SpoilAt(bad), NonFiniteLossHook(interval)]
    runner = tiny_runner(tmp_path, TinyModel([CE], [CE]), custom_hooks=hooks, **kwargs)
    try:
        runner.train()
    except FloatingPointError as error:
        return runner, str(error)
    return runner, None


@pytest.mark.parametrize(
    ("bad", "interval", "done"),
    [(2, 1, 1), (2, 3, 2), (3, 3, 2), (2, 100, 4)],  # the last at the end of the epoch of four
)
def test_run_stops_at_the_next_look(tmp_path: Path, bad: int, interval: int, done: int) -> None:
    runner, error = run(tmp_path, bad, interval, epochs=2)
    assert f"first at iteration {bad} (rank 0): loss = nan, decode.loss_cross_entropy = nan. " in error
    assert "aux." not in error  # the losses of that head are finite, and `acc`, always NaN, is no loss
    assert "learning rate" in error
    assert runner.iter == done
    assert not list(tmp_path.glob("*.pth"))


def test_the_check_comes_before_a_validation() -> None:
    """A loop by iteration has no end of an epoch, and a validation takes long."""
    hook = NonFiniteLossHook(interval=100)
    runner = SimpleNamespace(iter=4)
    hook.after_train_iter(runner, 4, outputs={"loss": torch.tensor(1.0)})
    hook.before_val(runner)
    hook.after_train_iter(runner, 5, outputs={"loss": torch.tensor(float("nan"))})
    with pytest.raises(FloatingPointError, match="first at iteration 5"):
        hook.before_val(runner)


def test_interval_is_the_loggers(tmp_path: Path) -> None:
    runner, error = run(tmp_path, 1, default_hooks={"logger": {"type": "LoggerHook", "interval": 2}})
    assert "iteration 1 " in error
    assert runner.iter + 1 == 2
    runner, _ = run(tmp_path, 0)
    assert next(hook for hook in runner.hooks if isinstance(hook, NonFiniteLossHook)).interval == 10


def test_interval_without_a_logger(tmp_path: Path) -> None:
    hook = NonFiniteLossHook()
    hook.before_train(SimpleNamespace(hooks=[hook]))
    assert hook.interval == 10


def test_finite_run_ends_and_saves(tmp_path: Path) -> None:
    runner, error = run(tmp_path, 0, epochs=3)
    assert error is None
    assert (runner.epoch, len(list(tmp_path.glob("*.pth")))) == (3, 3)


def test_bad_loss_is_not_saved(tmp_path: Path) -> None:
    save = {"checkpoint": {"type": "CheckpointHook", "interval": 2, "by_epoch": False}}
    runner, error = run(tmp_path, 4, 100, epochs=3, default_hooks=save)
    assert "iteration 4 " in error
    assert "The checkpoint is not saved" in error
    assert [path.name for path in tmp_path.glob("*.pth")] == ["iter_2.pth"]
    assert runner.iter + 1 == 4


class SpoilWeights(Hook):
    """Simulate an infinite gradient: the loss is finite, a weight is not."""

    priority = "VERY_HIGH"

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        if runner.iter + 1 == 4:
            with torch.no_grad():
                runner.model.decode_head.fc.bias[1] = float("inf")


def test_bad_weights_are_not_saved(tmp_path: Path) -> None:
    hooks = [SpoilWeights(), NonFiniteLossHook()]
    runner = tiny_runner(tmp_path, TinyModel([CE], [CE]), custom_hooks=hooks)
    with pytest.raises(FloatingPointError, match=r"decode_head\.fc\.bias is not finite after iteration 4"):
        runner.train()
    assert not list(tmp_path.glob("*.pth"))


class SpoilAverage(Hook):
    """Break one averaged weight, or a running statistic, before a checkpoint is saved."""

    def __init__(self, name: str) -> None:
        self.name = name

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        model = runner.model
        if self.name.startswith("averaged"):
            (hook,) = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
            model = hook.ema_model.module
        values = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        with torch.no_grad():
            values[self.name.removeprefix("averaged ")].view(-1)[0] = float("nan")


@pytest.mark.parametrize("name", ["averaged decode_head.fc.bias", "statistics.running_var"])
@pytest.mark.parametrize("best", [False, True])
def test_bad_averages_and_statistics_are_saved_neither_as_last_nor_as_best(
    tmp_path: Path, name: str, best: bool
) -> None:
    """The loss of an iteration does not show them: EMA weights are not trained, statistics not used."""
    model = TinyModel([CE], [CE])
    model.statistics = nn.BatchNorm1d(3)
    hooks = [SpoilAverage(name), {"type": "EMAHook"}, NonFiniteLossHook()]
    when = {"interval": -1, "save_last": False} if best else {"interval": 1}
    checkpoint = {"type": "CheckpointHook", "save_best": "score", "rule": "greater", **when}
    loader = {"batch_size": 4, "sampler": {"type": "DefaultSampler"}, "dataset": TinyDataset(LABELS)}
    validation = {"val_dataloader": loader, "val_cfg": {}, "val_evaluator": []}
    runner = tiny_runner(
        tmp_path, model, custom_hooks=hooks, default_hooks={"checkpoint": checkpoint}, **validation
    )
    runner._train_loop["val_interval"] = 1
    runner.val_loop.run = lambda: runner.call_hook("after_val_epoch", metrics={"score": 1.0})
    with pytest.raises(FloatingPointError, match="is not finite after iteration 4; no checkpoint is saved"):
        runner.train()
    assert not list(tmp_path.glob("*.pth"))


def test_losses_are_not_read_every_iteration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    original = NonFiniteLossHook._first_bad

    def spy(self: NonFiniteLossHook) -> Any:
        looks.append(len(self._pending))
        return original(self)

    monkeypatch.setattr(NonFiniteLossHook, "_first_bad", spy)
    run(tmp_path, 0, 2, labels=LABELS * 2, default_hooks={"checkpoint": None})
    assert looks == [2, 2, 2, 2, 0]


@pytest.mark.parametrize("interval", [0, -1, True, 2.0])
def test_bad_interval(interval: Any) -> None:
    with pytest.raises(ValueError, match=r"`interval` must be a whole number of at least 1, got"):
        NonFiniteLossHook(interval)


def _run_on(rank: int, folder: Path, bad: tuple[int, int]) -> str | None:
    return run(folder / str(rank), bad[rank], 2)[1]


@pytest.mark.parametrize(("bad", "named"), [((0, 2), (2, 1)), ((1, 2), (1, 0)), ((2, 1), (1, 1))])
def test_every_rank_stops_at_the_first_iteration_of_any(
    tmp_path: Path, bad: tuple[int, int], named: tuple[int, int]
) -> None:
    first, second = run_ranks(_run_on, tmp_path, bad)
    assert first == second
    assert f"first at iteration {named[0]} (rank {named[1]})" in first
