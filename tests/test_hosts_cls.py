"""mmpretrain's own classifier trains with our losses by config alone, batch augments included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("mmpretrain")

import mmpretrain.models  # noqa: F401  (registers the heads)
from mmengine.config import ConfigDict
from mmengine.optim import OptimWrapper
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn

K, N = 4, 8
COUNTS = [30, 4000, 900, 200]
VALUES = torch.tensor([4.0, 1.0, 2.0, 3.0]) * 2.0  # alpha 2; the rarest class has the largest value
LOSSES = {
    "outlying": dict(type="mmseol.OutlyingMSELoss", alpha=2.0, class_counts=COUNTS),
    "one_hot": dict(type="mmseol.OneHotMSELoss", class_counts=COUNTS),
    "ce": dict(type="mmseol.CrossEntropyLoss", class_counts=COUNTS),
    "weighted_ce": dict(type="mmseol.CrossEntropyLoss", class_weight="effective_number", class_counts=COUNTS),
}


pytestmark = pytest.mark.usefixtures("mmpretrain_scope")


def linear_head(loss: str, **kwargs: Any) -> nn.Module:
    cfg = dict(type="LinearClsHead", num_classes=K, in_channels=6, loss=LOSSES[loss], **kwargs)
    return MODELS.build(ConfigDict(cfg))


def labelled() -> list[DataSample]:
    return [DataSample().set_gt_label(i % K) for i in range(N)]


def classifier(loss: str, **kwargs: Any) -> nn.Module:
    cfg = dict(
        type="ImageClassifier",
        data_preprocessor=dict(num_classes=K, mean=[120.0] * 3, std=[50.0] * 3),
        backbone=dict(type="ResNet_CIFAR", depth=18, base_channels=8, stem_channels=8),
        neck=dict(type="GlobalAveragePooling"),
        head=dict(type="LinearClsHead", num_classes=K, in_channels=64, loss=LOSSES[loss]),
        **kwargs,
    )
    return MODELS.build(ConfigDict(cfg))


def batch() -> dict:
    shade = [torch.full((3, 16, 16), 60 * (i % K), dtype=torch.uint8) for i in range(N)]
    return dict(inputs=shade, data_samples=labelled())


@pytest.mark.parametrize("loss", LOSSES)
def test_linear_head_learns(loss: str) -> None:
    head = linear_head(loss, cal_acc=True, topk=(1, 2))
    feats = (torch.randn(N, 6),)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    seen = []
    for _ in range(30):
        log = head.loss(feats, labelled())
        assert set(log) == {"loss", "accuracy_top-1", "accuracy_top-2"}
        optimizer.zero_grad()
        log["loss"].backward()
        assert all(p.grad.isfinite().all() for p in head.parameters())
        optimizer.step()
        seen.append(log["loss"].item())
    assert seen[-1] < 0.9 * seen[0]


@pytest.mark.parametrize(("loss", "values"), [("outlying", VALUES), ("one_hot", torch.ones(K))])
def test_gradient_is_output_minus_target(loss: str, values: torch.Tensor) -> None:
    head, feats = linear_head(loss), (torch.randn(N, 6),)
    label = torch.arange(N) % K
    head.loss(feats, labelled())["loss"].backward()
    target = nn.functional.one_hot(label, K) * values
    torch.testing.assert_close(head.fc.bias.grad, (head(feats) - target).mean(0))


@pytest.mark.parametrize(("loss", "values"), [("outlying", VALUES), ("one_hot", torch.ones(K))])
def test_soft_targets_scale_the_values(loss: str, values: torch.Tensor) -> None:
    head, feats = linear_head(loss), (torch.randn(N, 6),)
    soft = torch.rand(N, K).softmax(1)
    log = head.loss(feats, [DataSample().set_gt_score(s) for s in soft])
    log["loss"].backward()
    out = head(feats)
    torch.testing.assert_close(log["loss"], 0.5 * (out - soft * values).pow(2).sum(1).mean())
    torch.testing.assert_close(head.fc.bias.grad, (out - soft * values).mean(0))


def test_one_hot_scores_equal_labels() -> None:
    for loss in LOSSES:
        head, feats = linear_head(loss), (torch.randn(N, 6),)
        scores = nn.functional.one_hot(torch.arange(N) % K, K).float()
        hard = head.loss(feats, labelled())["loss"]
        soft = head.loss(feats, [DataSample().set_gt_score(s) for s in scores])["loss"]
        torch.testing.assert_close(soft, hard)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("augment", [dict(type="Mixup", alpha=0.8), dict(type="CutMix", alpha=1.0), None])
def test_classifier_train_step(loss: str, augment: dict | None) -> None:
    kwargs = {} if augment is None else dict(train_cfg=dict(augments=[augment]))
    model = classifier(loss, **kwargs)
    model.init_weights()
    if augment is not None:
        mixed = model.data_preprocessor(batch(), training=True)["data_samples"]
        scores = torch.stack([s.gt_score for s in mixed])
        assert ((scores > 0).sum(1) > 1).any()
    optim = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9))
    seen = [model.train_step(batch(), optim)["loss"].item() for _ in range(10)]
    assert np.isfinite(seen).all()
    assert np.mean(seen[-3:]) < np.mean(seen[:3])
    result = model.eval().val_step(batch())
    assert [r.pred_label.shape for r in result] == [(1,)] * N


@pytest.mark.parametrize("loss", LOSSES)
def test_bfloat16_autocast(loss: str) -> None:
    model = classifier(loss).eval()
    data = model.data_preprocessor(batch(), training=False)
    exact = model(**data, mode="loss")["loss"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = model(**data, mode="loss")["loss"]
        assert model(data["inputs"]).dtype == torch.bfloat16
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, exact, rtol=0.02, atol=1e-3)
    value.backward()
    assert all(p.grad.isfinite().all() for p in model.head.parameters())


def multi_label_loss(loss: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a multi-label head's loss of two samples, of which one has two classes; outputs and labels."""
    cfg = dict(type="MultiLabelLinearClsHead", num_classes=K, in_channels=6, loss=loss)
    head, feats = MODELS.build(ConfigDict(cfg)), (torch.randn(2, 6),)
    score = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 0]])
    loss = head.loss(feats, [DataSample().set_gt_score(s) for s in score])["loss"]
    return loss, head(feats), score


def test_multi_label_head_takes_losses_whose_classes_are_binary_problems() -> None:
    got, outputs, score = multi_label_loss(dict(type="mmseol.SigmoidFocalLoss", alpha=None, gamma=0))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(outputs, score, reduction="none")
    torch.testing.assert_close(got, expected.sum(1).mean())


@pytest.mark.parametrize("loss", LOSSES)
def test_multi_label_head_is_refused_by_losses_of_one_class_per_sample(loss: str) -> None:
    with pytest.raises(ValueError, match=r"must sum to 1 over the classes, got a sum of 2.*multi-label head"):
        multi_label_loss(LOSSES[loss])
