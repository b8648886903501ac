"""LDAM, ELM, the losses with a prior, and LADE: against slow loops from their formulas, and identities."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from helpers.batches import IGNORE, batch, soft_labels
from scipy.special import logsumexp
from torch.nn import functional as F

from mmseol.losses import (
    BalancedSoftmaxLoss,
    CrossEntropyLoss,
    EnlargedMarginLoss,
    LADELoss,
    LDAMLoss,
    LogitAdjustedLoss,
    VSLoss,
)

COUNTS = [500, 40, 3000, 7, 12]
K = len(COUNTS)
WEIGHT = [0.5, 1.0, 2.0, 0.1, 3.0]
ALL = [LDAMLoss, EnlargedMarginLoss, BalancedSoftmaxLoss, LogitAdjustedLoss, VSLoss, LADELoss]


def slow_ce(z, y):
    return math.log(sum(math.exp(value - max(z)) for value in z)) + max(z) - z[y]


def slow_ldam(z, y, max_margin=0.5, scale=30.0, enlargement=0.0):
    margins = [n**-0.25 for n in COUNTS]
    margins = [max_margin * m / max(margins) for m in margins]
    strongest = max((k for k in range(K) if k != y), key=lambda k: z[k])
    z = list(z)
    z[y] = z[y] - margins[y] + enlargement * margins[strongest]
    return slow_ce([scale * value for value in z], y)


def slow_vs(z, y, gamma=0.0, tau=1.0):
    largest, whole = max(COUNTS), sum(COUNTS)
    adjusted = [
        value / (largest / n) ** gamma + tau * math.log(n / whole) for value, n in zip(z, COUNTS, strict=True)
    ]
    return slow_ce(adjusted, y)


def slow_balanced(z, y):
    return -math.log(
        COUNTS[y] * math.exp(z[y]) / sum(n * math.exp(v) for n, v in zip(COUNTS, z, strict=True))
    )


def slow_mean(position, pred, target, weight=None):
    total = divisor = 0.0
    for z, y in zip(pred, target, strict=True):
        if y != IGNORE:
            w = 1.0 if weight is None else weight[y]
            total += w * position(list(z), y)
            divisor += w
    return total / divisor


def slow_lade(pred, target, remine_weight=0.1, remine_lambda=0.1):
    prior = np.array(COUNTS) / sum(COUNTS)
    rows = [(z, y) for z, y in zip(pred, target, strict=True) if y != IGNORE]
    ce = sum(slow_ce(list(z + np.log(prior + 1e-9)), y) for z, y in rows) / len(rows)
    regulariser = 0.0
    for k in range(K):
        own = [z[k] for z, y in rows if y == k]
        first = sum(own) / (len(own) + 1e-8)
        spread = [z[k] - math.log(prior[k] + 1e-9) + math.log(1 / K + 1e-9) for z, _ in rows]
        second = logsumexp(spread) - math.log(len(rows))
        regulariser -= prior[k] * (first - second - remine_lambda * second**2)
    return ce + remine_weight * regulariser


def check_against_slow(loss, slow, scale=1.0):
    pred, target = batch((9,), scale=scale)
    value = loss(pred, target, ignore_index=IGNORE)
    (grad,) = torch.autograd.grad(value, pred)
    array, labels = pred.detach().numpy(), target.numpy()
    np.testing.assert_allclose(value.item(), slow(array, labels), rtol=1e-12)
    expected, step = np.zeros_like(array), 1e-5
    for index in np.ndindex(array.shape):
        around = []
        for sign in (1, -1):
            moved = array.copy()
            moved[index] += sign * step
            around.append(slow(moved, labels))
        expected[index] = (around[0] - around[1]) / (2 * step)
    np.testing.assert_allclose(grad.numpy(), expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize(
    ("cls", "arguments", "position"),
    [
        (LDAMLoss, {}, slow_ldam),
        (LDAMLoss, dict(max_margin=0.3, scale=10), lambda z, y: slow_ldam(z, y, 0.3, 10)),
        (EnlargedMarginLoss, {}, lambda z, y: slow_ldam(z, y, enlargement=1.0)),
        (EnlargedMarginLoss, dict(enlargement=0.4), lambda z, y: slow_ldam(z, y, enlargement=0.4)),
        (BalancedSoftmaxLoss, {}, slow_balanced),
        (LogitAdjustedLoss, {}, slow_vs),
        (LogitAdjustedLoss, dict(tau=1.7), lambda z, y: slow_vs(z, y, tau=1.7)),
        (VSLoss, {}, lambda z, y: slow_vs(z, y, 0.3, 1.0)),
        (VSLoss, dict(gamma=1.25, tau=0.15), lambda z, y: slow_vs(z, y, 1.25, 0.15)),
    ],
)
def test_equals_slow_loop(cls, arguments, position, weight):
    loss = cls(class_counts=COUNTS, class_weight=weight, **arguments)
    # Cosines lie in [-1, 1]; losses of 1e-30 have no central differences.
    check_against_slow(loss, lambda pred, target: slow_mean(position, pred, target, weight), scale=0.3)


@pytest.mark.parametrize("settings", [{}, dict(remine_weight=0.7, remine_lambda=0.01)])
def test_lade_equals_slow_loop(settings):
    assert set(range(K)) - set(batch((9,))[1].tolist())  # the batch lacks a class
    for scale in (1.0, 10.0):
        check_against_slow(
            LADELoss(class_counts=COUNTS, **settings), lambda p, t: slow_lade(p, t, **settings), scale
        )


def test_lade_of_a_single_element_has_its_regulariser():
    pred = torch.randn(1, K, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    target = torch.tensor([1])
    value = LADELoss(class_counts=COUNTS)(pred, target)
    torch.testing.assert_close(value, torch.as_tensor(slow_lade(pred, target)).to(value))


def same(first, second, counts=COUNTS, classes=K):
    pred, target = batch((9,), classes)
    values, grads = [], []
    for loss in (first, second):
        if counts is not None and loss.needs_counts:
            loss.set_class_counts(counts)
        values.append(loss(pred, target, ignore_index=IGNORE))
        grads += torch.autograd.grad(values[-1], pred)
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize("weight", [None, WEIGHT, "effective_number"])
def test_identities(weight):
    same(LDAMLoss(max_margin=0, scale=1, class_weight=weight), CrossEntropyLoss(class_weight=weight))
    same(EnlargedMarginLoss(enlargement=0, class_weight=weight), LDAMLoss(class_weight=weight))
    same(VSLoss(gamma=0, tau=1.3, class_weight=weight), LogitAdjustedLoss(tau=1.3, class_weight=weight))
    same(LogitAdjustedLoss(tau=1, class_weight=weight), BalancedSoftmaxLoss(class_weight=weight))
    same(VSLoss(gamma=0, tau=0, class_weight=weight), CrossEntropyLoss(class_weight=weight))


def test_lade_without_the_regulariser_is_balanced_softmax():
    same(LADELoss(remine_weight=0), BalancedSoftmaxLoss())


@pytest.mark.parametrize("classes", [2, K, 1000])
def test_equal_counts_give_plain_cross_entropy(classes):
    equal = [7] * classes
    for loss in (LogitAdjustedLoss(tau=2), BalancedSoftmaxLoss(), VSLoss(), LADELoss(remine_weight=0)):
        same(loss, CrossEntropyLoss(), equal, classes)
    same(EnlargedMarginLoss(scale=1), CrossEntropyLoss(), equal, classes)  # both margins are one
    pred, target = batch((9,), classes, ignored=0)
    shifted = pred - 0.5 * F.one_hot(target, classes)
    torch.testing.assert_close(
        LDAMLoss(class_counts=equal)(pred, target), F.cross_entropy(30 * shifted, target)
    )


def test_margins_of_ldam():
    margins = LDAMLoss(max_margin=0.4, class_counts=[10000, 625, 16]).margins
    np.testing.assert_allclose(margins, [0.4 * 2 / 10, 0.4 * 2 / 5, 0.4])
    assert LDAMLoss(scale=20).score_temperature == 0.05


def test_factors_of_vs():
    np.testing.assert_allclose(VSLoss(gamma=0.5, class_counts=[16, 4, 1]).factor, [1, 1 / 2, 1 / 4])


def test_soft_labels_shift_by_their_share_of_the_margin():
    pred, _ = batch((9,))
    soft = soft_labels(pred)
    loss = LDAMLoss(class_counts=COUNTS)
    torch.testing.assert_close(loss(pred, soft), F.cross_entropy(30 * (pred - soft * loss.margins), soft))
    with pytest.raises(ValueError, match="`target` of EnlargedMarginLoss must hold integer labels"):
        EnlargedMarginLoss(class_counts=COUNTS)(pred, soft)


def test_lade_of_soft_labels_averages_by_their_mass():
    pred, _ = batch((9,))
    soft = soft_labels(pred)
    prior = torch.tensor(COUNTS, dtype=torch.float64) / sum(COUNTS)
    first = (soft * pred).sum(0) / (soft.sum(0) + 1e-8)
    log_prior = (prior + 1e-9).log()
    second = torch.logsumexp(pred - log_prior + math.log(1 / K + 1e-9), 0) - math.log(len(pred))
    expected = (
        F.cross_entropy(pred + log_prior, soft) - 0.1 * (prior * (first - second - 0.1 * second**2)).sum()
    )
    torch.testing.assert_close(LADELoss(class_counts=COUNTS)(pred, soft), expected, rtol=1e-12, atol=0)


def test_lade_ignores_avg_factor_and_its_positions_average_to_the_loss():
    pred, target = batch((9,))
    loss = LADELoss(class_counts=COUNTS, ignore_index=IGNORE)
    value = loss(pred, target)
    torch.testing.assert_close(loss(pred, target, avg_factor=3), value)
    positions = loss(pred, target, reduction_override="none")
    valid = target != IGNORE
    assert positions[~valid].eq(0).all()
    torch.testing.assert_close(positions[valid].mean(), value)
    torch.testing.assert_close(loss(pred, target, reduction_override="sum"), valid.sum() * value)


@pytest.mark.parametrize("cls", ALL)
def test_one_valid_position(cls):
    pred, target = batch((3,), K, ignored=0)
    target[:2] = IGNORE
    loss = cls(class_counts=COUNTS)
    torch.testing.assert_close(loss(pred, target, ignore_index=IGNORE), loss(pred[2:], target[2:]))


@pytest.mark.parametrize("cls", ALL)
def test_class_without_a_sample_counts_as_one(cls):
    empty = [500, 40, 0, 7, 12]
    with pytest.warns(UserWarning, match=r"Classes \[2\] have no training sample; their count enters as 1"):
        loss = cls(class_counts=empty)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = cls(class_counts=[max(n, 1) for n in empty])
    pred, target = batch((9,))
    values = [one(pred, target, ignore_index=IGNORE) for one in (loss, other)]
    torch.testing.assert_close(*values)


@pytest.mark.parametrize(
    "cls", [LDAMLoss, EnlargedMarginLoss, BalancedSoftmaxLoss, LogitAdjustedLoss, VSLoss]
)
def test_schedules_set_the_class_weight(cls):
    pred, target = batch((9,))
    loss = cls(class_counts=COUNTS)
    positions = loss(pred, target, ignore_index=IGNORE, reduction_override="none")
    loss.set_class_weight(WEIGHT)
    weight = torch.tensor(WEIGHT, dtype=torch.float64)[target[target != IGNORE]]
    expected = (weight * positions[target != IGNORE]).sum() / weight.sum()
    torch.testing.assert_close(loss(pred, target, ignore_index=IGNORE), expected)


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (LDAMLoss, dict(max_margin=-1), "`max_margin` must be a finite number of at least 0, got -1"),
        (LDAMLoss, dict(scale=0), "`scale` must be a finite number above 0, got 0"),
        (LDAMLoss, dict(scale="30"), "`scale` must be a finite number above 0, got '30'"),
        (
            EnlargedMarginLoss,
            dict(enlargement=-0.5),
            "`enlargement` must be a finite number of at least 0, got -0.5",
        ),
        (LogitAdjustedLoss, dict(tau=-1), "`tau` must be a finite number of at least 0, got -1"),
        (VSLoss, dict(gamma=float("nan")), "`gamma` must be a finite number of at least 0, got nan"),
        (VSLoss, dict(gamma=-1), "`gamma` must be a finite number of at least 0, got -1"),
        (LADELoss, dict(remine_weight=-1), "`remine_weight` must be a finite number of at least 0, got -1"),
        (LADELoss, dict(remine_lambda=-1), "`remine_lambda` must be a finite number of at least 0, got -1"),
    ],
)
def test_wrong_settings_are_named(cls, arguments, message):
    with pytest.raises(ValueError, match=message):
        cls(**arguments)


def test_balanced_softmax_has_no_tau():
    with pytest.raises(TypeError, match="tau"):
        BalancedSoftmaxLoss(tau=2)
