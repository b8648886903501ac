"""Class weights that are set while training, on every loss, and soft labels of every loss."""

import pytest
import torch
import torch.nn.functional as F

from mmseol.experiment.loss import LOSSES
from mmseol.losses import CrossEntropyLoss, OneHotMSELoss, OutlyingMSELoss, RegionLoss
from mmseol.registry import MODELS

K = 4
IGNORE = 255
COUNTS = [40, 7, 300, 1]
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.25], dtype=torch.float64)
REFUSES_WEIGHTS = {"cdb_ce"}
REFUSES_SOFT = {"elm", "seesaw", "lovasz_softmax", "lovasz_hinge"}


def build(name, **kwargs):
    loss = MODELS.build(dict(LOSSES[name], class_counts=COUNTS, ignore_index=IGNORE, **kwargs)).eval()
    if hasattr(loss, "set_epoch"):
        loss.set_epoch(100)
        features = torch.rand(3, 6, 5, generator=torch.Generator().manual_seed(1)).double()
        loss.set_features(features)
    return loss


def batch(ignored=True):
    generator = torch.Generator().manual_seed(0)
    pred = torch.randn(3, K, 5, generator=generator, dtype=torch.float64)
    target = torch.arange(15).view(3, 5) % K  # every class in every sample
    if ignored:
        target[0, :2] = IGNORE
    return pred.requires_grad_(), target


def value_and_gradient(loss, pred, *args, **kwargs):
    value = loss(pred, *args, **kwargs)
    return value, *torch.autograd.grad(value.sum(), pred)


def is_region(name):
    return issubclass(MODELS.get(LOSSES[name]["type"]), RegionLoss)


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - REFUSES_WEIGHTS))
def test_weights_multiply_the_loss_of_each_class(name):
    pred, target = batch()
    plain, weighted, mean = build(name, reduction="none"), build(name, reduction="none"), build(name)
    plain.set_class_weight(torch.ones(K))  # in place of those by name
    weighted.set_class_weight(WEIGHTS)
    mean.set_class_weight(WEIGHTS)
    losses = plain(pred, target)
    got = value_and_gradient(weighted, pred, target)
    if is_region(name):
        factor, divisor = WEIGHTS, (WEIGHTS * (losses != 0)).sum()
    else:
        valid = target != IGNORE
        factor = WEIGHTS[target.where(valid, torch.zeros_like(target))] * valid
        by_number = getattr(plain, "normalize", "weight") == "count"
        divisor = valid.sum() if by_number else factor.sum()
    expected = losses * factor
    (gradient,) = torch.autograd.grad(expected.sum(), pred, retain_graph=True)
    torch.testing.assert_close(got, (expected, gradient))
    value, gradient = value_and_gradient(mean, pred, target)
    torch.testing.assert_close(value, expected.sum() / divisor)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum() / divisor, pred)[0])


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - REFUSES_WEIGHTS))
def test_equal_weights_change_nothing_and_no_weight_reaches_a_checkpoint(name):
    by_name = {"class_weight": None} if "class_weight" in LOSSES[name] or name == "influence_balanced" else {}
    plain, equal = build(name, **by_name), build(name)
    keys = list(equal.state_dict())
    equal.set_class_weight([1.0] * K)
    assert list(equal.state_dict()) == keys
    pred, target = batch()
    expected = value_and_gradient(plain, pred, target)
    torch.testing.assert_close(value_and_gradient(equal, pred, target), expected)


@pytest.mark.parametrize("name", sorted(REFUSES_WEIGHTS))
def test_losses_that_take_no_weights_say_why(name):
    with pytest.raises(ValueError, match="cannot be set: its weights follow from the difficulty"):
        build(name).set_class_weight(WEIGHTS)


@pytest.mark.parametrize("cls", [OutlyingMSELoss, OneHotMSELoss])
@pytest.mark.parametrize("weighted", [None, "pixels", "samples"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_upsampled_outputs_take_class_weights(cls, weighted, dtype):
    loss = cls(class_counts=COUNTS, ignore_index=IGNORE)
    loss.set_class_weight(WEIGHTS)
    pred = torch.randn(2, K, 3, 4).to(dtype).requires_grad_()
    target = torch.randint(0, K, (2, 9, 8), dtype=torch.uint8)
    target[1, 2] = IGNORE
    weight = {"pixels": torch.rand(2, 9, 8), "samples": torch.rand(2), None: None}[weighted]
    up = F.interpolate(pred.double(), (9, 8), mode="bilinear", align_corners=False)
    valid = target != IGNORE
    label = target.long().where(valid, 0)
    values = torch.tensor([1.0, 3, 2, 4] if cls is OutlyingMSELoss else [1.0] * K).sort().values
    values = values[torch.tensor([1, 2, 0, 3])].double()  # the rank of 40, 7, 300 and 1
    wanted = F.one_hot(label, K).movedim(-1, 1) * values.view(1, K, 1, 1)
    class_weight = WEIGHTS[label] * valid
    factor = class_weight if weight is None else class_weight * weight.view(2, *weight.shape[1:] or (1, 1))
    slow = ((up - wanted).square().sum(1) / 2 * factor).sum() / class_weight.sum()
    expected = slow, *torch.autograd.grad(slow, pred, retain_graph=True)
    direct = value_and_gradient(lambda pred: loss(up, target, weight), pred)
    torch.testing.assert_close(direct, expected, check_dtype=False)
    got = value_and_gradient(lambda pred: loss.forward_upsampled(pred, target, weight=weight), pred)
    tolerance = 1e-3 if dtype == torch.float16 else 1e-7
    torch.testing.assert_close(got, expected, check_dtype=False, rtol=tolerance, atol=tolerance)


def test_wrong_labels_and_weights_are_named():
    loss = OneHotMSELoss()
    with pytest.raises(ValueError, match="`class_weight` must be at least two finite numbers"):
        loss.set_class_weight([1.0, -1.0])
    loss.set_class_weight([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="`class_weight` must have one entry per class, got 3 entries"):
        loss(torch.zeros(2, 4), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"`target` must lie in \[0, 3\).*got 7"):
        loss(torch.zeros(2, 3), torch.tensor([0, 7]))


def test_weights_follow_the_module_with_all_digits():
    loss = OneHotMSELoss()
    loss.set_class_weight([1 / 3, 5.0])
    loss.half()
    assert loss.current_class_weight().tolist() == [1 / 3, 5.0]


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_soft_labels_of_mixup_are_taken_or_refused_with_the_reason(name):
    pred, target = batch(ignored=False)
    one_hot = F.one_hot(target, K).movedim(-1, 1).double()
    mixed = 0.7 * one_hot + 0.3 * one_hot.flip(0)
    loss = build(name)
    assert loss.soft_targets == (name not in REFUSES_SOFT)
    if name in REFUSES_SOFT:
        with pytest.raises(ValueError, match=r"must hold integer labels.*Train without mixup"):
            loss(pred, mixed)
        return
    value, gradient = value_and_gradient(loss, pred, mixed)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert gradient.any()
    soft, hard = build(name, reduction="none")(pred, one_hot), build(name, reduction="none")(pred, target)
    torch.testing.assert_close(soft, hard)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_mixed_labels_in_low_precision_sum_to_one(dtype):
    soft = torch.rand(64, 150).softmax(1).to(dtype)
    assert CrossEntropyLoss()(torch.zeros(64, 150), soft).isfinite()


def test_mixed_labels_are_weighted_in_full_precision_under_autocast():
    loss = CrossEntropyLoss(class_weight=[1.0, 1.003, 0.5])
    pred = torch.tensor([[0.1, 0.7, -0.4], [1.0, 0.2, 0.3]])
    target = torch.tensor([[0.301, 0.699, 0.0], [0.001, 0.998, 0.001]])
    expected = loss(pred.double(), target.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(pred, target)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - REFUSES_SOFT))
def test_multi_hot_labels_need_binary_problems(name):
    pred, _ = batch()
    multi_hot = torch.ones_like(pred)
    loss = build(name)
    if loss.exclusive_classes:
        with pytest.raises(ValueError, match=r"must sum to 1 over the classes, got a sum of 4\."):
            loss(pred, multi_hot)
    else:
        assert name in {"focal_sigmoid", "equalization_sigmoid", "ghmc"}
        assert loss(pred, multi_hot).isfinite()
