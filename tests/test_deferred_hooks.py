"""Schedules of weights, sampling and targets, in real Runners."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_runner import LABELS, TinyDataset, TinyModel, log_of, outlying, tiny_runner
from mmengine.hooks import Hook

from mmseol.hooks import AlphaRampHook, ClassCountHook, DeferredReweightHook, WholeCheckpointHook
from mmseol.registry import DATA_SAMPLERS

COUNTS = np.bincount(LABELS)
CE = {"type": "mmseol.CrossEntropyLoss"}
WEIGHTED = {"type": "mmseol.CrossEntropyLoss", "class_weight": "median_frequency"}
COUNT = {"type": "mmseol.ClassCountHook"}


class Watch(Hook):
    """Keep what a loss's attribute is at every iteration."""

    priority = "VERY_LOW"

    def __init__(self, attribute: str) -> None:
        self.attribute = attribute
        self.seen: list[tuple[int, int, Any]] = []

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        for head in (runner.model.decode_head, runner.model.auxiliary_head):
            for loss in head.losses:
                value = getattr(loss, self.attribute)
                self.seen.append((runner.epoch, runner.iter, np.asarray(value).tolist()))


def effective_number(beta: float) -> np.ndarray:
    """Return the weights as the code of Cao et al. computes them."""
    weights = (1.0 - beta) / (1.0 - np.power(beta, COUNTS))
    return weights / np.sum(weights) * len(COUNTS)


def watched(tmp_path: Path, hook: dict[str, Any], loss: dict[str, Any], **kwargs: Any) -> tuple[Any, Watch]:
    watch = Watch("class_weight" if "Reweight" in hook["type"] else "alpha")
    runner = tiny_runner(
        tmp_path, TinyModel([loss], [loss]), custom_hooks=[hook, watch, COUNT], **kwargs
    )  # the hook that counts stands last: its priority puts it first
    runner.train()
    return runner, watch


DRW = {"type": "mmseol.DeferredReweightHook", "begin": 2}


@pytest.mark.parametrize("loss", [CE, WEIGHTED])
def test_weights_are_one_until_the_epoch_begins(tmp_path: Path, loss: dict[str, Any]) -> None:
    runner, watch = watched(tmp_path, DRW, loss, epochs=4)
    assert len(watch.seen) == 4 * 4 * 2
    for epoch, _, weight in watch.seen:
        np.testing.assert_allclose(weight, np.ones(4) if epoch < 2 else effective_number(0.9999), rtol=1e-9)
    assert log_of(runner).count("class weights from now on") == 2


@pytest.mark.parametrize("begin", [1, 2])
def test_losses_without_class_weights_of_their_own_are_weighted_too(tmp_path: Path, begin: int) -> None:
    """With the hook found by its method, and the gradient, not just the attribute, weighted by class."""
    model = TinyModel([outlying(), {"type": "mmseol.SeesawLoss"}, {"type": "mmseol.GHMCLoss"}], [])
    runner = tiny_runner(tmp_path, model, custom_hooks=[dict(DRW, begin=begin), COUNT], epochs=2)
    runner.train()
    expected = effective_number(0.9999) if begin == 1 else np.ones(4)
    losses = runner.model.decode_head.losses
    assert len(losses) == 3
    for loss in losses:
        np.testing.assert_allclose(loss.current_class_weight(), expected, rtol=1e-9)
    assert not any("class_factor" in key for key in runner.model.state_dict())
    pred, target = torch.zeros(4, 4), torch.arange(4)
    loss = losses[0].eval()
    weighted = loss(pred, target, reduction_override="none")
    loss._class_factor = None
    plain = loss(pred, target, reduction_override="none")
    torch.testing.assert_close(weighted, plain * torch.from_numpy(expected).float())


def test_weights_are_right_wherever_a_run_resumes(tmp_path: Path) -> None:
    watched(tmp_path, DRW, CE, epochs=3)
    for epoch in (1, 2, 3):
        resumed = tmp_path / f"epoch_{epoch}.pth"
        options = dict(epochs=4, load_from=str(resumed), resume=True)
        _, watch = watched(tmp_path / str(epoch), DRW, CE, **options)
        assert min(seen for seen, *_ in watch.seen) == epoch
        for seen, _, weight in watch.seen:
            assert (weight == [1.0] * 4) == (seen < 2)


@pytest.mark.parametrize("weight", ["inverse_frequency", "effective_number"])
def test_by_iteration(tmp_path: Path, weight: str) -> None:
    hook = dict(DRW, begin=5, by_epoch=False, weight=weight, beta=0.9)
    cfg = {"type": "IterBasedTrainLoop", "max_iters": 8, "val_interval": 1000}
    runner, watch = watched(tmp_path, hook, CE, train_cfg=cfg)
    assert "never weighted" not in log_of(runner)  # 5 of 8 iterations, although there are fewer epochs
    inverse = 1 / COUNTS
    late = inverse / inverse.sum() * 4 if weight == "inverse_frequency" else effective_number(0.9)
    assert [iteration for _, iteration, _ in watch.seen[::2]] == list(range(8))
    for _, iteration, seen in watch.seen:
        np.testing.assert_allclose(seen, np.ones(4) if iteration < 5 else late, rtol=1e-9)


def test_a_begin_after_the_last_iteration_is_warned_of(tmp_path: Path) -> None:
    cfg = {"type": "IterBasedTrainLoop", "max_iters": 8, "val_interval": 1000}
    for begin, warned in ((7, 0), (8, 1)):
        hook = dict(DRW, begin=begin, by_epoch=False)
        runner, _ = watched(tmp_path / str(begin), hook, CE, train_cfg=cfg)
        assert log_of(runner).count(f"`begin` is {begin}, but the run has 8 iterations: the loss") == warned


def test_a_hook_that_serves_a_second_run_weights_its_loss_too(tmp_path: Path) -> None:
    hook = DeferredReweightHook(begin=0)
    for name in ("first", "second"):
        runner = tiny_runner(tmp_path / name, TinyModel([CE], [CE]), custom_hooks=[hook, COUNT], epochs=1)
        runner.train()
        weight = runner.model.decode_head.losses[0].class_weight
        np.testing.assert_allclose(weight, effective_number(0.9999), rtol=1e-9)


def test_weights_of_one_are_no_weights(tmp_path: Path) -> None:
    torch.manual_seed(3)
    plain, _ = watched(tmp_path / "plain", dict(DRW, begin=99), CE, randomness={"seed": 3})
    assert "`begin` is 99, but the run has 1 epochs" in log_of(plain)
    torch.manual_seed(3)
    other = tiny_runner(tmp_path / "other", TinyModel([CE], [CE]), randomness={"seed": 3})
    other.train()
    for one, two in zip(plain.model.parameters(), other.model.parameters(), strict=True):
        np.testing.assert_allclose(one.detach(), two.detach(), rtol=1e-6)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    runner = tiny_runner(
        tmp_path / "a", TinyModel([{"type": "mmseol.CDBLoss"}], []), custom_hooks=[DRW, COUNT]
    )
    with pytest.raises(ValueError, match="`class_weight` of CDBLoss cannot be set: its weights follow from"):
        runner.train()
    runner = tiny_runner(tmp_path / "b", TinyModel([CE], []), custom_hooks=[DRW])
    with pytest.raises(RuntimeError, match=r"decode_head\.losses\.0 does not know them.*ClassCountHook"):
        runner.train()
    runner = tiny_runner(
        tmp_path / "c", TinyModel([CE], []), custom_hooks=[{"type": "mmseol.AlphaRampHook"}, COUNT]
    )
    with pytest.raises(ValueError, match="no loss with `set_alpha`"):
        runner.train()


@pytest.mark.parametrize(
    ("hook", "arguments", "message"),
    [
        (DeferredReweightHook, {"begin": -1}, "`begin` must be a whole number of at least 0, got -1"),
        (DeferredReweightHook, {"begin": 1.5}, "`begin` .* got 1.5"),
        (DeferredReweightHook, {"weight": "none"}, "`weight` must be one of .*, got 'none'"),
        (
            DeferredReweightHook,
            {"beta": 1.0},
            r"`beta` must be a .* of at least 0 and below 1, got 1.0",
        ),
        (AlphaRampHook, {"start": 0}, "`start` must be a finite number above 0, got 0"),
        (AlphaRampHook, {"end": float("nan")}, "`end` must be a finite number above 0, got nan"),
        (AlphaRampHook, {"begin": 3, "until": 3}, r"`until` must be above `begin` \(3\), got 3"),
    ],
)
def test_wrong_arguments(hook: type, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hook(**arguments)


@pytest.mark.parametrize("by_epoch", [True, False])
def test_alpha_ramps_linearly_to_the_losses_own(tmp_path: Path, by_epoch: bool) -> None:
    hook = dict(type="mmseol.AlphaRampHook", start=1.0, begin=1, until=3, by_epoch=by_epoch)
    runner, watch = watched(tmp_path, hook, outlying(alpha=5.0), epochs=5)
    assert len(watch.seen) == 5 * 4 * 2
    for epoch, iteration, alpha in watch.seen:
        assert alpha == np.interp(epoch if by_epoch else iteration, [1, 3], [1.0, 5.0])
    loss = runner.model.decode_head.losses[0]
    np.testing.assert_allclose(loss.target_values, 5.0 * np.arange(1, 5))
    hook["end"] = 9.0
    options = dict(epochs=3, load_from=str(tmp_path / "epoch_2.pth"), resume=True)
    _, watch = watched(tmp_path / "resumed", hook, outlying(alpha=5.0), **options)
    assert watch.seen[0][2] == (5.0 if by_epoch else 9.0)  # of epoch 2, of iteration 8


def test_alpha_of_averaged_models_follows(tmp_path: Path) -> None:
    hooks = [COUNT, {"type": "EMAHook"}, {"type": "mmseol.AlphaRampHook", "start": 2.0, "until": 2}]
    runner = tiny_runner(tmp_path, TinyModel([outlying()], [outlying(alpha=3.0)]), custom_hooks=hooks)
    runner.train()
    (ema,) = (hook.ema_model.module for hook in runner.hooks if hasattr(hook, "ema_model"))
    for net in (runner.model, ema):
        assert [head.losses[0].alpha for head in (net.decode_head, net.auxiliary_head)] == [2.0, 2.0]
        np.testing.assert_allclose(net.decode_head.losses[0].target_values, 2.0 * np.arange(1, 5))
    with pytest.raises(ValueError, match="`alpha` must be a finite number above 0, got -1"):
        ema.decode_head.losses[0].set_alpha(-1)


def test_the_ramp_ends_at_the_alpha_that_follows_from_the_counts(tmp_path: Path) -> None:
    hook = {"type": "mmseol.AlphaRampHook", "start": 0.1, "until": 1, "by_epoch": False}
    net = TinyModel([outlying(alpha="auto")], [])
    tiny_runner(tmp_path, net, custom_hooks=[hook, COUNT]).train()
    # LABELS: 8, 4, 3 and 1 samples of ranks 1 to 4
    mean_square = (8 * 1 + 4 * 4 + 3 * 9 + 1 * 16) / 16
    assert net.decode_head.losses[0].alpha == pytest.approx(mean_square**-0.5)


@pytest.mark.parametrize("weight", ["enet", 0.5])
def test_weights_of_enet_and_by_a_power(tmp_path: Path, weight: str | float) -> None:
    net = TinyModel([CE], [])
    hook = {"type": "mmseol.DeferredReweightHook", "begin": 0, "weight": weight}
    tiny_runner(tmp_path, net, custom_hooks=[COUNT, hook]).train()
    slow = 1 / np.log(1.02 + COUNTS / COUNTS.sum()) if weight == "enet" else COUNTS**-0.5
    expected = slow if weight == "enet" else slow / slow.sum() * 4
    np.testing.assert_allclose(net.decode_head.losses[0].current_class_weight(), expected)
    with pytest.raises(ValueError, match="`weight` must be a finite number of at least 0, got -1"):
        DeferredReweightHook(weight=-1)


def test_median_frequency_uses_the_totals_of_the_loss(tmp_path: Path) -> None:
    """f = 0.5, 0.25, 0.75, 1 of the images with the class: 0.625 is the median."""
    loss = {**CE, "class_counts": [8, 4, 3, 1]}
    net = TinyModel([loss], [])
    (counted,) = net.decode_head.losses
    counted.set_class_counts([8, 4, 3, 1], totals=[16, 16, 4, 1])
    hook = {"type": "mmseol.DeferredReweightHook", "begin": 0, "weight": "median_frequency"}
    tiny_runner(tmp_path, net, custom_hooks=[hook]).train()
    np.testing.assert_allclose(counted.class_weight, [1.25, 2.5, 0.625 / 0.75, 0.625])


def test_a_second_training_of_a_runner_ramps_to_the_same_alpha(tmp_path: Path) -> None:
    hook = {"type": "mmseol.AlphaRampHook", "start": 2.0, "until": 2}
    net = TinyModel([outlying(alpha=6.0)], [])
    runner = tiny_runner(tmp_path, net, custom_hooks=[hook, COUNT], epochs=1)
    runner.train()
    assert net.decode_head.losses[0].alpha == 2.0  # of epoch 0
    runner._train_loop._max_epochs, runner._train_loop.stop_training = 3, False
    runner.train()
    assert net.decode_head.losses[0].alpha == 6.0


def test_the_ramp_ends_at_the_last_digit(tmp_path: Path) -> None:
    start, end = 0.3, 0.9
    assert start + (end - start) != end
    hook = {"type": "mmseol.AlphaRampHook", "start": start, "until": 1, "by_epoch": False}
    net = TinyModel([outlying(alpha=end)], [])
    tiny_runner(tmp_path, net, custom_hooks=[hook, COUNT]).train()
    assert net.decode_head.losses[0].alpha == end


DRS = {"type": "mmseol.DeferredSampler", "begin": 1, "then": {"type": "mmseol.ClassAwareSampler"}}


def test_sampling_is_deferred(tmp_path: Path) -> None:
    drawn: dict[int, list[int]] = {}

    class Labels(Hook):
        def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
            drawn.setdefault(runner.epoch, []).extend(int(label) for label in data_batch["label"])

    def train(work_dir: Path, **kwargs: Any) -> dict[int, list[int]]:
        drawn.clear()
        runner = tiny_runner(work_dir, TinyModel([CE], []), custom_hooks=[Labels(), COUNT], **kwargs)
        runner._train_dataloader["sampler"] = DRS
        runner.train()
        return dict(drawn)

    whole = train(tmp_path / "whole", epochs=3, randomness={"seed": 1})
    assert np.bincount(whole[0]).tolist() == COUNTS.tolist()
    for epoch in (1, 2):
        assert len(whole[epoch]) == len(LABELS)
        assert np.bincount(whole[epoch], minlength=4)[3] > COUNTS[3]
    assert whole[1] != whole[2]
    first = str(tmp_path / "whole" / "epoch_1.pth")
    again = train(tmp_path / "again", epochs=3, randomness={"seed": 1}, load_from=first, resume=True)
    assert again == {1: whole[1], 2: whole[2]}


@pytest.mark.parametrize(
    ("made", "defaults"),
    [
        (AlphaRampHook, dict(start=1.0, end=None, begin=0, until=10, by_epoch=True)),
        # Cao et al.'s schedule for 200 epochs.
        (DeferredReweightHook, dict(begin=160, by_epoch=True, weight="effective_number", beta=0.9999)),
        (
            ClassCountHook,
            dict(
                count="samples",
                num_classes=None,
                ignore_index=None,
                workers=None,
                cache=True,
                check_labels=True,
            ),
        ),
        (WholeCheckpointHook, dict(interval=-1, by_epoch=True)),  # of mmengine's hook
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_defaults(made: Any, defaults: dict[str, Any]) -> None:
    """A config that names no value keeps its data and its results with every version."""
    parameters = inspect.signature(made).parameters
    assert {name: parameters[name].default for name in defaults} == defaults


def test_deferred_sampler_is_its_samplers() -> None:
    dataset = TinyDataset(LABELS)
    balanced = {"type": "mmseol.ClassAwareSampler"}
    sampler = DATA_SAMPLERS.build(dict(DRS, begin=2, dataset=dataset, seed=5))
    plain, late = (
        DATA_SAMPLERS.build(dict(config, dataset=dataset, seed=5))
        for config in ({"type": "DefaultSampler", "shuffle": True}, balanced)
    )
    assert len(sampler) == len(LABELS)
    for epoch in range(4):
        for one in (sampler, plain, late):
            one.set_epoch(epoch)
        assert list(sampler) == list(plain if epoch < 2 else late)
    with pytest.raises(ValueError, match=r"as many items an epoch as `first` \(16\), got 32"):
        DATA_SAMPLERS.build(dict(DRS, then={"type": "mmseol.OverSampler"}, dataset=dataset))
    with pytest.raises(ValueError, match="`begin` must be a whole number of at least 0, got -1"):
        DATA_SAMPLERS.build(dict(DRS, begin=-1, dataset=dataset))
