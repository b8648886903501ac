"""mmseg's own heads train with our losses by config alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("mmseg")

import mmseg.models  # noqa: F401  (registers the heads)
from helpers.seg_heads import HEADS, LOSSES, SIZE, K, build, features, samples, segmentor
from mmengine.config import ConfigDict
from mmengine.optim import OptimWrapper
from torch import nn

NAMES = dict(outlying="loss_outlying_mse", one_hot="loss_one_hot_mse", ce="loss_cross_entropy")
NAMES["weighted_ce"] = NAMES["ce"]
RATES = dict(outlying=0.02, one_hot=0.02, ce=0.2, weighted_ce=0.2)
pytestmark = pytest.mark.usefixtures("mmseg_scope")


def descend(module: nn.Module, loss: Any, steps: int = 12, lr: float = 0.02) -> list[float]:
    """Return the total loss at each step of SGD with momentum; gradients must be finite."""
    optimizer = torch.optim.SGD(module.parameters(), lr=lr, momentum=0.9)
    seen = []
    for _ in range(steps):
        total = sum(v for k, v in loss().items() if "loss" in k)
        optimizer.zero_grad()
        total.backward()
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        assert grads
        assert all(g.isfinite().all() for g in grads)
        optimizer.step()
        seen.append(total.item())
    return seen


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", HEADS)
def test_head_learns(kind: str, loss: str) -> None:
    head, x, labels = build(kind, LOSSES[loss]), features(), samples()
    head.init_weights()
    log = head.loss(x, labels, {})
    assert set(log) == {NAMES[loss], "acc_seg"}
    seen = descend(head, lambda: head.loss(x, labels, {}), lr=RATES[loss])
    assert seen[-1] < 0.9 * seen[0]


def test_value_is_the_equation_on_resized_outputs() -> None:
    head, x, labels = build("FCNHead", LOSSES["outlying"]).eval(), features(), samples()
    got = head.loss(x, labels, {})["loss_outlying_mse"]
    out = nn.functional.interpolate(head(x), (SIZE, SIZE), mode="bilinear", align_corners=False)
    label = torch.cat([s.gt_sem_seg.data for s in labels])
    total = count = 0.0
    for n, i, j in (label != 255).nonzero().tolist():
        target = torch.zeros(K)
        target[label[n, i, j]] = 2.0 * (label[n, i, j] + 1)  # COUNTS fall, so rank = class
        total, count = total + 0.5 * (out[n, :, i, j] - target).pow(2).sum(), count + 1
    torch.testing.assert_close(got, total / count)


def test_list_of_losses_with_the_hosts() -> None:
    cfg = [LOSSES["outlying"], dict(type="CrossEntropyLoss"), LOSSES["one_hot"], LOSSES["ce"]]
    head, x, labels = build("PSPHead", cfg), features(), samples()
    log = head.loss(x, labels, {})
    assert set(log) == {"loss_outlying_mse", "loss_ce", "loss_one_hot_mse", "loss_cross_entropy", "acc_seg"}
    seen = descend(head, lambda: head.loss(x, labels, {}))
    assert seen[-1] < 0.9 * seen[0]


def test_equal_loss_names_are_added() -> None:
    one = build("FCNHead", LOSSES["outlying"]).eval()
    two = build("FCNHead", [LOSSES["outlying"]] * 2).eval()
    weights = {k: v for k, v in one.state_dict().items() if "loss_decode" not in k}
    two.load_state_dict(weights, strict=False)
    x, labels = features(), samples()
    once, twice = (h.loss(x, labels, {})["loss_outlying_mse"] for h in (one, two))
    torch.testing.assert_close(twice, 2 * once)


@pytest.mark.parametrize("loss", ["outlying", "one_hot", "ce"])
def test_ohem_keeps_the_hardest_pixels(loss: str) -> None:
    sampler = dict(type="OHEMPixelSampler", min_kept=20)
    head, x, labels = build("FCNHead", LOSSES[loss], sampler=sampler).eval(), features(), samples()
    got = head.loss(x, labels, {})[NAMES[loss]]
    out = nn.functional.interpolate(head(x), (SIZE, SIZE), mode="bilinear", align_corners=False)
    label = torch.cat([s.gt_sem_seg.data for s in labels])
    pixels = head.loss_decode(out, label, ignore_index=255, reduction_override="none")
    assert pixels.shape == label.shape
    valid = pixels[label != 255]
    torch.testing.assert_close(got, valid.topk(2 * 20).values.sum() / valid.numel())
    seen = descend(head.train(), lambda: head.loss(x, labels, {}))
    assert seen[-1] < seen[0]


def test_ohem_with_a_list_of_losses() -> None:
    sampler = dict(type="OHEMPixelSampler", min_kept=20)
    head = build("ASPPHead", [LOSSES["outlying"], LOSSES["ce"]], sampler=sampler)
    x, labels = features(), samples()
    seen = descend(head, lambda: head.loss(x, labels, {}))
    assert seen[-1] < seen[0]


@pytest.mark.parametrize("loss", ["outlying", "one_hot", "ce"])
def test_head_that_names_no_ignore_index(loss: str) -> None:
    cfg = dict(LOSSES[loss], ignore_index=255)
    head = build("DDRHead", [cfg, dict(cfg, loss_weight=0.4)], in_channels=16)
    x = [torch.randn(2, 8, 8, 8), torch.randn(2, 16, 8, 8)]
    labels = samples()
    log = head.loss(x, labels, {})
    assert {"loss_context", "loss_spatial"} <= set(log)
    seen = descend(head, lambda: head.loss(x, labels, {}), lr=RATES[loss])
    assert seen[-1] < 0.9 * seen[0]


def test_unnamed_ignore_index_is_an_error_not_a_class() -> None:
    head = build("DDRHead", [LOSSES["outlying"]] * 2, in_channels=16)
    with pytest.raises(ValueError, match="`ignore_index`"):
        head.loss([torch.randn(2, 8, 8, 8), torch.randn(2, 16, 8, 8)], samples(), {})


@pytest.mark.parametrize("loss", ["outlying", "one_hot", "ce"])
def test_point_head(loss: str) -> None:
    try:
        head = build("PointHead", LOSSES[loss], in_channels=[8], in_index=[0], num_fcs=1, norm_cfg=None)
    except RuntimeError as error:
        pytest.skip(f"PointHead needs mmcv's compiled ops: {error}")
    cfg = ConfigDict(num_points=64, oversample_ratio=3, importance_sample_ratio=0.75)
    x, labels, coarse = features(), samples(), torch.randn(2, K, 4, 4)
    assert f"point{NAMES[loss]}" in head.loss(x, coarse, labels, cfg)
    seen = descend(head, lambda: head.loss(x, coarse, labels, cfg), steps=20)
    assert sum(seen[-5:]) < sum(seen[:5])


@pytest.mark.parametrize("loss", ["outlying", "one_hot", "ce"])
def test_segmentor_train_step(loss: str) -> None:
    model = segmentor(loss)
    model.init_weights()
    optim = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9))
    images = [torch.randint(0, 255, (3, SIZE, SIZE), dtype=torch.uint8) for _ in range(2)]
    logs = [model.train_step(dict(inputs=images, data_samples=samples()), optim) for _ in range(8)]
    assert {f"decode.{NAMES[loss]}", f"aux_0.{NAMES[loss]}", "loss"} <= set(logs[0])
    assert logs[-1]["loss"] < logs[0]["loss"]
    result = model.eval().val_step(dict(inputs=images, data_samples=samples()))[0]
    assert torch.equal(result.pred_sem_seg.data[0], result.seg_logits.data.argmax(0))


@pytest.mark.parametrize("loss", LOSSES)
def test_bfloat16_autocast(loss: str) -> None:
    model = segmentor(loss)
    x, labels = torch.randn(2, 3, 32, 32), samples()
    exact = model.eval().loss(x, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        log = model.loss(x, labels)
        raw = model.decode_head(model.extract_feat(x))
    assert raw.dtype == torch.bfloat16
    value = log[f"decode.{NAMES[loss]}"]
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, exact[f"decode.{NAMES[loss]}"], rtol=0.02, atol=0)
    value.backward()
    grads = [p.grad for p in model.decode_head.parameters()]
    assert all(g is not None and g.isfinite().all() for g in grads)
