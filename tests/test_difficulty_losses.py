"""The difficulty-balanced loss against torch and slow loops from the formula."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from helpers.batches import IGNORE, batch, soft_labels
from torch.nn import functional as F

from mmseol.losses import CDBLoss

DIFFICULTY = [0.1, 0.9, 0.0, 0.5, 1.0]
MODERATE = [0.1, 0.4, 0.2, 0.35, 0.05]  # no accuracy near 0, where the sigmoid of a dynamic exponent is 1


def slow_weights(difficulty, tau):
    accuracy = [1 - d for d in difficulty]
    ratio = max(accuracy) / (min(accuracy) + 0.01)
    if tau == "dynamic":
        tau = 2 / (1 + math.exp(-(ratio - 1)))
    elif tau == "dynamic_code":
        tau = 1 / (1 + math.exp(-ratio))
    raised = [d**tau for d in difficulty]
    return [len(difficulty) * r / sum(raised) for r in raised]


@pytest.mark.parametrize("normalize", ["count", "weight"])
@pytest.mark.parametrize("tau", [1.5, 0.5, "dynamic", "dynamic_code"])
@pytest.mark.parametrize("difficulty", [DIFFICULTY, MODERATE])
def test_equals_weighted_cross_entropy_with_slow_weights(difficulty, tau, normalize):
    loss = CDBLoss(tau=tau, normalize=normalize)
    loss.set_class_difficulty(difficulty)
    weights = slow_weights(difficulty, tau)
    np.testing.assert_allclose(loss.class_weight.numpy(), weights, rtol=1e-12)
    assert [weight == 0 for weight in weights] == [d == 0 for d in difficulty]
    pred, target = batch()
    value = loss(pred, target, ignore_index=IGNORE)
    (grad,) = torch.autograd.grad(value, pred)
    weight = torch.tensor(weights, dtype=torch.float64)
    expected = F.cross_entropy(pred, target, weight=weight, ignore_index=IGNORE)
    if normalize == "count":
        expected = expected * weight[target[target != IGNORE]].mean()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, pred)[0])
    soft = soft_labels(pred)
    torch.testing.assert_close(loss(pred, soft), F.cross_entropy(pred, soft, weight=weight))


def test_before_any_validation_it_is_cross_entropy():
    pred, target = batch(ignored=0)
    for tau in (1.5, "dynamic", "dynamic_code"):
        torch.testing.assert_close(CDBLoss(tau=tau)(pred, target), F.cross_entropy(pred, target))
    loss = CDBLoss(tau=0)
    loss.set_class_difficulty(DIFFICULTY)
    torch.testing.assert_close(loss(pred, target), F.cross_entropy(pred, target))


@pytest.mark.parametrize("tau", [1.5, "dynamic", "dynamic_code"])
def test_without_any_error_all_weights_are_one(tau):
    loss = CDBLoss(tau=tau)
    loss.set_class_difficulty([0.0] * 5)
    assert loss.class_weight.tolist() == [1] * 5


def test_difficulty_is_kept_by_checkpoints_copies_and_half_precision(tmp_path):
    loss = CDBLoss()
    loss.allocate_class_counts(5)
    buffer = loss.class_difficulty
    loss.set_class_difficulty(torch.tensor(DIFFICULTY))
    loss.set_class_difficulty(DIFFICULTY)
    assert loss.class_difficulty is buffer
    torch.save(loss.state_dict(), tmp_path / "checkpoint.pth")
    fresh = CDBLoss()
    fresh.load_state_dict(torch.load(tmp_path / "checkpoint.pth"))  # strictly
    for other in (fresh, copy.deepcopy(loss), loss.half()):
        assert other.class_difficulty.dtype == torch.float64
        assert other.class_difficulty.tolist() == DIFFICULTY
    trained = CDBLoss(class_counts=[5, 4, 3, 2, 1])
    assert [name for name, _ in trained.named_buffers()] == [name for name, _ in loss.named_buffers()]


@pytest.mark.parametrize(
    ("difficulty", "message"),
    [
        ([0.5, 1.5, 0, 0, 0], r"`difficulty` must lie in \[0, 1\], got \[0.5, 1.5"),
        ([0.5, float("nan"), 0, 0, 0], r"`difficulty` must lie in \[0, 1\]"),
        ([0.5, 0.5], r"`difficulty` must be one number for each of the 5 classes, got shape \(2,\)"),
        ([[0.5] * 5], r"got shape \(1, 5\)"),
    ],
)
def test_wrong_difficulties_are_named(difficulty, message):
    loss = CDBLoss()
    loss.allocate_class_counts(5)
    with pytest.raises(ValueError, match=message):
        loss.set_class_difficulty(difficulty)
    with pytest.raises(ValueError, match=r"each of the 2 classes, got shape \(1,\)"):
        CDBLoss().set_class_difficulty([0.5])


def test_difficulties_of_other_classes_are_named():
    loss = CDBLoss()
    loss.set_class_difficulty([0.5, 0.5])
    with pytest.raises(ValueError, match=r"`pred` has 5 classes, but `class_counts` has 2 entries"):
        loss(*batch(ignored=0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(tau=-1), "`tau` must be a finite number of at least 0, got -1"),
        (dict(tau="adaptive"), "`tau` must be one of 'dynamic', 'dynamic_code', got 'adaptive'"),
        (dict(normalize="sum"), "`normalize` must be one of 'weight', 'count', got 'sum'"),
    ],
)
def test_wrong_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        CDBLoss(**arguments)


def test_many_classes_and_one_valid_pixel():
    loss = CDBLoss()
    loss.set_class_difficulty(np.linspace(0, 1, 1000))
    pred = torch.randn(1, 1000, 2, 2) * 1e4
    target = torch.full((1, 2, 2), 255)
    target[0, 1, 1] = 999
    weight = loss.class_weight[999]
    expected = weight.float() * F.cross_entropy(pred[:, :, 1, 1], target[:, 1, 1])
    torch.testing.assert_close(loss(pred, target, ignore_index=255), expected)
