"""Scores of calibrated heads: ranking, decisions, temperature, test-time augmentation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("mmpretrain")

from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmpretrain.evaluation import Accuracy
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmseol.classification import (
    CalibratedLinearClsHead,
    ClsScoreTTAModel,
    TemperatureHook,
    fit_temperature,
)
from mmseol.classification.heads import calibrated_scores

K = 10
COUNTS = [1000, 600, 360, 216, 129, 77, 46, 27, 16, 10]
OUTLYING = dict(type="mmseol.OutlyingMSELoss", alpha=5.0, class_counts=COUNTS)


pytestmark = pytest.mark.usefixtures("mmpretrain_scope")


def head(kind: str = "mmseol.CalibratedLinearClsHead", loss: dict | None = None, **kwargs: Any) -> Any:
    cfg = dict(type=kind, num_classes=K, in_channels=6, loss=loss or OUTLYING, **kwargs)
    return MODELS.build(ConfigDict(cfg))


def predictions(module: nn.Module, outputs: Tensor) -> tuple[Tensor, Tensor]:
    samples = module._get_predictions(outputs, None)
    return torch.stack([s.pred_score for s in samples]), torch.cat([s.pred_label for s in samples])


@pytest.mark.parametrize("temperature", [1e-3, 1.0, 50.0, 1e6])
@pytest.mark.parametrize("scale", [1.0, 50.0, 1e4])
def test_scores_rank_as_the_outputs_and_are_probabilities(scale: float, temperature: float) -> None:
    outputs = torch.randn(200, K) * scale
    scores = calibrated_scores(outputs, temperature)
    torch.testing.assert_close(scores.sum(1), torch.ones(200, dtype=torch.float64))
    assert (scores > 0).all()
    assert torch.equal(scores.argsort(1, descending=True), outputs.argsort(1, descending=True))
    assert all(len(row.unique()) == K for row in scores)
    if temperature <= scale:  # as the host's metric casts them
        assert torch.equal(scores.float().argsort(1, descending=True), outputs.argsort(1, descending=True))


def test_a_thousand_classes_keep_their_ranks_in_float32() -> None:
    outputs = torch.linspace(0, 3000, 1000)[torch.randperm(1000)].unsqueeze(0)
    scores = calibrated_scores(outputs, 1.0).float()
    assert torch.equal(scores.argsort(1, descending=True), outputs.argsort(1, descending=True))


def test_equal_outputs_rank_in_class_order() -> None:
    scores = calibrated_scores(torch.tensor([[1.0, 2.0, 2.0, 1.0]]), 1.0)
    assert scores[0].argsort(descending=True).tolist() == [1, 2, 0, 3]


def test_top5_that_the_host_loses_is_kept() -> None:
    outputs = torch.stack([torch.randperm(K) * 150.0 for _ in range(100)])
    truth = outputs.argsort(1, descending=True)[:, 4]
    host, _ = predictions(head("LinearClsHead"), outputs)
    ours, label = predictions(head(), outputs)
    assert Accuracy.calculate(host, truth, topk=(1, 5), thrs=(None,))[1][0].item() < 80
    assert Accuracy.calculate(ours, truth, topk=(1, 5))[1][0].item() == 100
    assert torch.equal(label, outputs.argmax(1))


@pytest.mark.parametrize("loss", ["CrossEntropyLoss", "OneHotMSELoss"])
def test_other_losses_score_as_the_host(loss: str) -> None:
    outputs = torch.randn(50, K)
    cfg = dict(type=f"mmseol.{loss}")
    host, host_label = predictions(head("LinearClsHead", cfg), outputs)
    ours, label = predictions(head(loss=cfg), outputs)
    assert torch.equal(label, host_label)
    torch.testing.assert_close(ours.float(), host, rtol=0, atol=2e-7)


def test_nearest_is_the_nearest_target_by_a_slow_loop() -> None:
    module = head(decision="nearest")
    values = 5.0 * torch.arange(1, K + 1)
    outputs = torch.randn(100, K) * 20 + 10
    module.set_temperature(30.0)
    scores, labels = predictions(module, outputs)
    for a, score, label in zip(outputs.double(), scores, labels, strict=True):
        distance = torch.stack([(a - values[k] * torch.eye(K)[k]).square().sum() for k in range(K)])
        assert label == distance.argmin()
        torch.testing.assert_close(score, (-distance / 60).softmax(0), atol=2e-8, rtol=0)
    assert (labels != outputs.argmax(1)).any()


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="`decision` must be one of 'argmax', 'nearest', got 'softmax'"):
        head(decision="softmax")
    with pytest.raises(ValueError, match=r"needs a loss with target values.*got CrossEntropyLoss"):
        head(loss=dict(type="mmseol.CrossEntropyLoss"), decision="nearest")
    with pytest.raises(RuntimeError, match="ClassCountHook"):
        predictions(head(loss=dict(type="mmseol.OutlyingMSELoss"), decision="nearest"), torch.zeros(1, K))
    with pytest.raises(ValueError, match="`temperature` must be a finite number above 0, got -1"):
        head().set_temperature(-1)
    with pytest.raises(ValueError, match="`evidence` must be"):
        fit_temperature(np.zeros((3, 2)), np.zeros(2))
    with pytest.raises(ValueError, match="must be finite"):
        fit_temperature(np.full((1, 2), np.nan), np.zeros(1, dtype=int))


def test_temperature_travels_with_the_weights() -> None:
    module = head()
    module.set_temperature(7.3)
    other = head()
    other.load_state_dict(module.state_dict())
    assert other.temperature.item() == 7.3
    other.load_state_dict(head("LinearClsHead").state_dict())  # a host's checkpoint: stays
    assert other.temperature.item() == 7.3
    assert other.half().temperature.dtype == torch.float64
    assert other.temperature.item() == 7.3


def test_fitted_temperature_is_the_one_that_labels_were_drawn_with() -> None:
    evidence = torch.randn(20000, 5) * 30
    labels = torch.multinomial((evidence / 12).softmax(1), 1).squeeze(1)
    assert fit_temperature(evidence, labels) == pytest.approx(12, rel=0.03)
    separable = torch.eye(3) * 10
    assert fit_temperature(separable, torch.arange(3)) < 1


def validate(hook: TemperatureHook, module: nn.Module, hooks: tuple = ()) -> None:
    """Drive the hook through a validation of two batches, as a runner does."""
    runner = SimpleNamespace(model=module, hooks=[hook, *hooks], logger=MMLogger.get_current_instance())
    hook.before_val_epoch(runner)
    for batch in range(2):
        samples = [DataSample().set_gt_label(i % K) for i in range(20)]
        feats = (torch.randn(20, 6, generator=torch.Generator().manual_seed(batch)),)
        hook.after_val_iter(runner, batch, outputs=module.predict(feats, samples))
    hook.after_val_epoch(runner)


def test_hook_fits_on_the_validation_outputs() -> None:
    module, copy = head(), head()
    feats = torch.cat([torch.randn(20, 6, generator=torch.Generator().manual_seed(b)) for b in range(2)])
    labels = torch.arange(40) % 20 % K
    hook = TemperatureHook()
    validate(hook, module, (SimpleNamespace(ema_model=copy),))
    assert module.temperature.item() == pytest.approx(fit_temperature(module((feats,)).detach(), labels))
    assert copy.temperature == module.temperature
    first = module.temperature.item()
    validate(hook, module)  # again, after nothing has changed
    assert module.temperature.item() == first
    assert not module._forward_hooks
    validate(TemperatureHook(), head("LinearClsHead"))  # nothing to do


def test_averaged_views_decide_the_label() -> None:
    views = [
        DataSample().set_gt_label(1).set_pred_label(0).set_pred_score(torch.tensor([0.6, 0.4])),
        DataSample().set_gt_label(1).set_pred_label(1).set_pred_score(torch.tensor([0.1, 0.9])),
    ]
    merged = ClsScoreTTAModel(module=_Tested()).merge_preds([views])[0]
    assert merged.pred_label.tolist() == [1]
    torch.testing.assert_close(merged.pred_score, torch.tensor([0.35, 0.65]))


class _Tested(nn.Module):
    def test_step(self, data: Any) -> Any:
        return data


def test_registered_name_is_the_class() -> None:
    assert isinstance(head(), CalibratedLinearClsHead)
