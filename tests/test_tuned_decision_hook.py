"""TunedDecisionHook in a validation without a Runner: what it scores, logs and returns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmpretrain.structures import DataSample
from sklearn.metrics import recall_score
from torch import nn

from mmseol.classifiers.decisions import make_family
from mmseol.hooks import TunedDecisionHook
from mmseol.losses import CrossEntropyLoss

COUNTS = [90, 9, 1]


def runner_of(loss: Any, name: str) -> Any:
    """Return what the hook uses of a Runner: its model has put out what its inputs are."""
    model = nn.ModuleDict({"head": nn.ModuleDict({"fc": nn.Linear(3, 3), "loss_module": loss})})
    nn.init.eye_(model["head"]["fc"].weight)
    nn.init.zeros_(model["head"]["fc"].bias)
    lines: list[str] = []
    return SimpleNamespace(
        model=model,
        val_loop=SimpleNamespace(dataloader=SimpleNamespace(dataset=range(12))),
        logger=SimpleNamespace(info=lines.append),
        lines=lines,
        message_hub=MessageHub.get_instance(name),
    )


def validate(hook: TunedDecisionHook, runner: Any, metrics: dict[str, float] | None) -> tuple[Any, Any]:
    """Run the hook on three batches of four samples; return outputs (12, K) and labels."""
    truth = torch.arange(12) % 3
    outputs = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)) + 2.0 * torch.eye(3)[truth]
    outputs += torch.tensor([1.5, 0.5, -1.0])  # the first class wins too often
    hook.before_val_epoch(runner)
    hook.after_val_iter(runner, 0, None, None)  # nothing was predicted
    for start in range(0, 12, 4):
        own = slice(start, start + 4)
        found = runner.model["head"]["fc"](outputs[own]).argmax(1).tolist()
        samples = [
            DataSample().set_gt_label(int(y)).set_pred_label(p)
            for y, p in zip(truth[own], found, strict=True)
        ]
        hook.after_val_iter(runner, start // 4, None, samples)
    hook.after_val_epoch(runner, metrics)
    return outputs, truth


@pytest.mark.parametrize("with_metrics", [False, True])
@pytest.mark.parametrize("family", ["prior", "counts"])
def test_the_best_decision_is_logged_beside_the_plain_one(family: str, with_metrics: bool) -> None:
    loss = CrossEntropyLoss(class_counts=COUNTS, class_weight=[1.0, 2.0, 3.0])
    runner = runner_of(loss, f"tuned {family} {with_metrics}")
    hook = TunedDecisionHook(family=family, strengths=[0.0, 0.5, 1.0])
    metrics = {"accuracy": 1.0} if with_metrics else None
    outputs, truth = validate(hook, runner, metrics)
    logs = None if family == "counts" else np.log([1.0, 2.0, 3.0])
    decisions = make_family(family, "additive", COUNTS, logs, [0.0, 0.5, 1.0])
    labels = [(outputs + torch.from_numpy(row)).argmax(1) for row in decisions.candidates()]
    scores = [100 * recall_score(truth, found, average="macro") for found in labels]
    plain = 100 * recall_score(truth, outputs.argmax(1), average="macro")
    assert max(scores) > plain
    strength = decisions.strengths[int(np.argmax(scores))]
    if metrics is not None:
        assert metrics == {
            "accuracy": 1.0,
            "tuned_balanced_accuracy": pytest.approx(max(scores)),
            "tuned_strength": strength,
        }
    logged = runner.message_hub.get_scalar("val/tuned_balanced_accuracy").current()
    assert logged == pytest.approx(max(scores))
    assert runner.message_hub.get_scalar("val/tuned_strength").current() == strength
    (line,) = runner.lines
    assert f"balanced_accuracy {plain:.2f} by argmax, {max(scores):.2f} with strength {strength:g}" in line
    assert f"of the family {family!r}" in line
    assert not runner.model["head"]["fc"]._forward_hooks
    hook.after_val_epoch(runner, {})  # of a validation that it did not see
    assert len(runner.lines) == 1


def test_a_given_kind_and_objective_are_used() -> None:
    runner = runner_of(CrossEntropyLoss(class_counts=COUNTS), "tuned given")
    hook = TunedDecisionHook("accuracy", kind="multiplicative", strengths=[1.0], classifier="head.fc")
    metrics: dict[str, float] = {}
    outputs, truth = validate(hook, runner, metrics)
    factors = torch.from_numpy(
        np.exp(make_family("prior", "multiplicative", COUNTS, None, [1.0]).candidates())
    )
    expected = ((outputs * factors).argmax(1) == truth).double().mean().item() * 100
    assert metrics == {"tuned_accuracy": pytest.approx(expected), "tuned_strength": 1.0}


def test_counts_are_needed_before_the_first_image() -> None:
    runner = runner_of(CrossEntropyLoss(), "tuned none")
    with pytest.raises(RuntimeError, match=r"needs the class counts, .*mmseol\.ClassCountHook"):
        TunedDecisionHook().before_val_epoch(runner)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(objective="iou"), "`objective` must be one of"),
        (dict(family="free"), "`family` must be one of"),
        (dict(kind="softmax"), "`kind` must be one of"),
        (dict(strengths=["a"]), "`strengths` must be a finite number"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TunedDecisionHook(**arguments)
