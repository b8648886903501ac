"""Equalization, seesaw, gradient harmonizing and influence-balanced losses against slow loops and torch."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from helpers.batches import IGNORE, batch, soft_labels
from helpers.distributed import run_ranks
from torch.nn import functional as F

from mmseol.losses import (
    EqualizationLoss,
    GHMCLoss,
    InfluenceBalancedLoss,
    SeesawLoss,
    SigmoidEqualizationLoss,
)
from mmseol.losses.ops.tiles import tiles_of

K = 5
COUNTS = [500, 40, 300, 20, 10]  # shares .575 .046 .345 .023 .011


def rows(pred, target):
    """Return the outputs (M, K) and labels (M,) of the valid positions, as arrays."""
    keep = (target != IGNORE).flatten()
    return (
        pred.detach().movedim(1, -1).reshape(-1, pred.shape[1])[keep].numpy(),
        target.flatten()[keep].numpy(),
    )


def check(loss, slow, pred, target):
    """Compare value and gradient with a function of arrays, by central differences."""
    value = loss(pred, target, ignore_index=IGNORE)
    (grad,) = torch.autograd.grad(value, pred)
    z, y = rows(pred, target)
    np.testing.assert_allclose(value.item(), slow(z, y), rtol=1e-8)
    found, numeric = rows(grad, target)[0], np.zeros_like(z)
    for index in np.ndindex(*z.shape):
        step = np.zeros_like(z)
        step[index] = 1e-6
        numeric[index] = (slow(z + step, y) - slow(z - step, y)) / 2e-6
    np.testing.assert_allclose(found, numeric, rtol=1e-4, atol=1e-8 * abs(numeric).max() + 1e-9)


# ------------------------------------------------------------------ equalization


def slow_seql(z, y, tail):
    total = 0.0
    for row, label in zip(z, y, strict=True):
        kept = [math.exp(row[k]) for k in range(len(row)) if k == label or not tail[k]]
        total -= math.log(math.exp(row[label]) / sum(kept))
    return total / len(y)


def test_equalization_equals_slow_loop():
    for threshold in (0.05, 0.03, 0.4):
        tail = [count / sum(COUNTS) < threshold for count in COUNTS]
        loss = EqualizationLoss(gamma=1, threshold=threshold, class_counts=COUNTS)
        check(loss, lambda z, y, tail=tail: slow_seql(z, y, tail), *batch())


def test_equalization_is_cross_entropy_without_rare_classes_or_draws_and_in_evaluation():
    pred, target = batch()
    expected = F.cross_entropy(pred, target, ignore_index=IGNORE)
    for loss in (
        EqualizationLoss(gamma=0, class_counts=COUNTS),
        EqualizationLoss(threshold=0, class_counts=COUNTS),
        EqualizationLoss(class_counts=COUNTS).eval(),
    ):
        torch.testing.assert_close(loss(pred, target, ignore_index=IGNORE), expected)


def test_equalization_draws_each_element_of_each_step_from_torchs_seed():
    loss = EqualizationLoss(gamma=0.9, threshold=0.05, class_counts=COUNTS)
    pred, target = torch.zeros(1, K, 20_000), torch.zeros(1, 20_000, dtype=torch.long)

    def left(seed: int | None = None) -> torch.Tensor:
        if seed is not None:
            torch.manual_seed(seed)
        return loss(pred, target, reduction_override="none").exp().round()[0]  # classes left in, of 5

    first = left(0)
    assert torch.equal(left(0), first)
    assert not torch.equal(left(), first)
    share = torch.bincount(first.long(), minlength=6) / first.numel()
    expected = [math.comb(3, n) * 0.1**n * 0.9 ** (3 - n) for n in range(4)]  # 3 rare classes, binomial
    np.testing.assert_allclose(share[2:], expected, atol=0.01)
    target[:] = 4  # a rare class is never left out of its own samples
    assert left().min() == 3


def test_equalization_of_soft_labels():
    pred, _ = batch()
    soft = 1.005 * soft_labels(pred)  # labels may be rounded
    loss = EqualizationLoss(gamma=1, threshold=0.05, class_counts=COUNTS)
    tail = torch.tensor([0, 1, 0, 1, 1.0]).view(1, -1, 1, 1)
    kept = (pred.exp() * (1 - tail * (1 - soft))).sum(1).log()
    expected = (soft * (kept.unsqueeze(1) - pred)).sum(1).mean()
    torch.testing.assert_close(loss(pred, soft), expected)
    soft[:, 4] = -1e-9
    assert loss(pred, soft / soft.sum(1, keepdim=True)).isfinite()
    soft = soft_labels(pred)
    plain = EqualizationLoss(gamma=1, threshold=0, class_counts=COUNTS)
    torch.testing.assert_close(plain(pred, soft), F.cross_entropy(pred, soft))


@pytest.mark.parametrize("dropped", [1e4, -1e4])
def test_equalization_does_not_overflow(dropped):
    pred = torch.zeros(2, K)
    pred[:, 4] = dropped
    pred.requires_grad_()
    loss = EqualizationLoss(gamma=1, threshold=0.05, class_counts=COUNTS)
    value = loss(pred, torch.tensor([0, 0]))
    (grad,) = torch.autograd.grad(value, pred)
    torch.testing.assert_close(value, torch.tensor(2.0).log())
    assert grad[:, [1, 3, 4]].eq(0).all()


def test_sigmoid_equalization_equals_torch():
    pred, target = batch()
    tail = torch.tensor([0.0, 1, 0, 1, 1], dtype=torch.float64).view(1, -1, 1, 1)
    loss = SigmoidEqualizationLoss(threshold=0.05, class_counts=COUNTS)
    valid = target != IGNORE
    one_hot = F.one_hot(target.where(valid, 0), K).movedim(-1, 1).double()
    multi_hot = (soft_labels(pred) > 0.2).double()
    for labels, given, mask in (
        (one_hot, target, valid),
        (multi_hot, multi_hot, torch.ones_like(valid)),
        (soft_labels(pred), soft_labels(pred), torch.ones_like(valid)),
    ):
        bce = F.binary_cross_entropy_with_logits(pred, labels, reduction="none")
        expected = ((1 - tail * (1 - labels)) * bce).sum(1)[mask].mean()
        value = loss(pred, given, ignore_index=IGNORE)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(
            torch.autograd.grad(value, pred)[0], torch.autograd.grad(expected, pred)[0]
        )


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (
            EqualizationLoss,
            dict(gamma=1.5),
            r"`gamma` must be a finite number of at least 0 and at most 1, got 1.5",
        ),
        (
            EqualizationLoss,
            dict(threshold=5),
            r"`threshold` must be a finite number of at least 0 and at most 1",
        ),
        (
            SigmoidEqualizationLoss,
            dict(threshold=-1),
            r"`threshold` must be a finite number of at least 0 and at most 1",
        ),
        (SeesawLoss, dict(p=-1), "`p` must be a finite number of at least 0, got -1"),
        (SeesawLoss, dict(q=-0.1), "`q` must be a finite number of at least 0, got -0.1"),
        (GHMCLoss, dict(bins=0), "`bins` must be a whole number of at least 1, got 0"),
        (GHMCLoss, dict(momentum=1), r"`momentum` must be a finite number of at least 0 and below 1, got 1"),
        (GHMCLoss, dict(divide_by="all"), "`divide_by` must be one of 'bins', 'non_empty_bins', got 'all'"),
        (InfluenceBalancedLoss, dict(scale=0), "`scale` must be a finite number above 0, got 0"),
        (InfluenceBalancedLoss, dict(gamma=-1), "`gamma` must be a finite number of at least 0, got -1"),
        (InfluenceBalancedLoss, dict(start_epoch=0.5), "`start_epoch` must be a whole number of at least 0"),
    ],
)
def test_wrong_settings_are_named(cls, arguments, message):
    with pytest.raises(ValueError, match=message):
        cls(**arguments)


# ------------------------------------------------------------------ seesaw


def slow_seesaw(z, y, seen, p=0.8, q=2.0):
    """Eq. (4) to (7): value and gradient, the factors being constants."""
    total, grad = 0.0, np.zeros_like(z)
    for i, (row, label) in enumerate(zip(z, y, strict=True)):
        scores = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        moved = row.copy()
        for k in range(len(row)):
            if k == label:
                continue
            n_k, n_y = max(seen[k], 1), max(seen[label], 1)
            mitigation = (n_k / n_y) ** p if n_k < n_y else 1.0
            ratio = scores[k] / max(scores[label], 0.01)
            moved[k] += math.log(mitigation * (ratio**q if ratio > 1 else 1.0))
        changed = np.exp(moved - moved.max()) / np.exp(moved - moved.max()).sum()
        total -= math.log(changed[label])
        grad[i] = changed - (np.arange(len(row)) == label)
    return total / len(y), grad / len(y)


@pytest.mark.parametrize("powers", [(0.8, 2.0), (0.0, 2.0), (0.8, 0.0), (0.3, 0.5)])
def test_seesaw_equals_slow_loop_online(powers):
    loss = SeesawLoss(*powers)
    seen = np.zeros(K)
    for scale in (3.0, 0.5):
        pred, target = batch(scale=scale)
        value = loss(pred, target, ignore_index=IGNORE)
        (grad,) = torch.autograd.grad(value, pred)
        z, y = rows(pred, target)
        seen += np.bincount(y, minlength=K)  # the current batch counts already
        expected, expected_grad = slow_seesaw(z, y, seen, *powers)
        assert loss.seen_counts.tolist() == seen.tolist()
        np.testing.assert_allclose(value.item(), expected, rtol=1e-10)
        np.testing.assert_allclose(rows(grad, target)[0], expected_grad, rtol=1e-8, atol=1e-12)


def test_seesaw_without_powers_is_cross_entropy():
    pred, target = batch()
    value = SeesawLoss(0, 0)(pred, target, ignore_index=IGNORE)
    torch.testing.assert_close(value, F.cross_entropy(pred, target, ignore_index=IGNORE))


def test_seesaw_counts_in_training_alone_and_checkpoints_carry_them(tmp_path):
    pred, target = batch()
    loss = SeesawLoss()
    first = loss(pred, target, ignore_index=IGNORE)
    seen = loss.seen_counts.tolist()
    torch.testing.assert_close(loss.eval()(pred, target, ignore_index=IGNORE), first)
    assert loss.seen_counts.tolist() == seen
    torch.save(loss.state_dict(), tmp_path / "checkpoint.pth")
    resumed = SeesawLoss()
    resumed.load_state_dict(torch.load(tmp_path / "checkpoint.pth"))
    other = copy.deepcopy(loss).half()
    for model in (loss, resumed, other):
        model.train()(pred, target, ignore_index=IGNORE)
        assert model.seen_counts.tolist() == [2 * count for count in seen]
        assert model.seen_counts.dtype == torch.int64


def test_seesaw_compiles_in_training():
    torch._dynamo.reset()
    pred, target = batch()
    loss, twin = (SeesawLoss(ignore_index=IGNORE, class_counts=COUNTS) for _ in range(2))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(pred, target), twin(pred, target))
    assert loss.seen_counts.tolist() == twin.seen_counts.tolist()


def _seen(rank: int) -> list[int]:
    pred, target = batch()
    loss = SeesawLoss()
    loss(pred[rank : rank + 1], target[rank : rank + 1], ignore_index=IGNORE)
    return loss.seen_counts.tolist()


def test_seesaw_counts_over_ranks():
    _, target = batch()
    assert run_ranks(_seen) == [np.bincount(target[target != IGNORE], minlength=K).tolist()] * 2


# ------------------------------------------------------------------ gradient harmonizing


def slow_ghmc(z, y, bins, non_empty=False, counts=None):
    """Eq. (3) to (8) of a batch; ``counts`` are those of the bins where they carry momentum."""
    one_hot = np.eye(z.shape[1])[y]
    scores = 1 / (1 + np.exp(-z))
    length = np.abs(scores - one_hot)
    places = np.minimum((length * bins).astype(int), bins - 1)
    if counts is None:
        counts = [int((places == b).sum()) for b in range(bins)]
    parts = len(set(places.ravel())) if non_empty else bins
    bce = -one_hot * np.log(scores) - (1 - one_hot) * np.log(1 - scores)
    total = sum(z.size / (parts * counts[places[index]]) * bce[index] for index in np.ndindex(*z.shape))
    return total / z.size


@pytest.mark.parametrize("bins", [10, 30, 1])
@pytest.mark.parametrize("divide_by", ["bins", "non_empty_bins"])
def test_ghmc_equals_slow_loop(bins, divide_by):
    loss = GHMCLoss(bins=bins, divide_by=divide_by)
    z, y = rows(*batch())
    length = np.abs(1 / (1 + np.exp(-z)) - np.eye(K)[y]) * bins
    assert abs(length - length.round()).min() > 1e-5  # differences of 1e-6 stay within their bins
    check(loss, lambda z, y: slow_ghmc(z, y, bins, divide_by == "non_empty_bins"), *batch())


def test_ghmc_of_one_bin_is_the_mean_binary_cross_entropy():
    pred, target = batch()
    target = target.where(target != IGNORE, 0)
    one_hot = F.one_hot(target, K).movedim(-1, 1).double()
    expected = F.binary_cross_entropy_with_logits(pred, one_hot)
    torch.testing.assert_close(GHMCLoss(bins=1)(pred, target), expected)
    torch.testing.assert_close(GHMCLoss(bins=1)(pred, one_hot), expected)


@pytest.mark.parametrize("momentum", [0.75, 0.3])
def test_ghmc_momentum_moves_bins_that_are_not_empty(momentum, tmp_path):
    loss, moved = GHMCLoss(bins=10, momentum=momentum), np.zeros(10)
    for scale in (3.0, 0.1, 2.0):
        pred, target = batch(scale=scale)
        z, y = rows(pred, target)
        length = np.abs(1 / (1 + np.exp(-z)) - np.eye(K)[y])
        counts, _ = np.histogram(length, bins=np.linspace(0, 1, 11))
        moved = np.where(counts > 0, momentum * moved + (1 - momentum) * counts, moved)
        value = loss(pred, target, ignore_index=IGNORE)
        np.testing.assert_allclose(value.item(), slow_ghmc(z, y, 10, counts=moved), rtol=1e-10)
        np.testing.assert_allclose(loss.bin_counts.numpy(), moved)
    stored = loss.bin_counts.clone()
    loss.eval()(*batch(scale=1.0), ignore_index=IGNORE)
    assert torch.equal(loss.bin_counts, stored)
    torch.save(loss.state_dict(), tmp_path / "checkpoint.pth")
    fresh = GHMCLoss(bins=10, momentum=momentum)
    fresh.load_state_dict(torch.load(tmp_path / "checkpoint.pth"))
    assert torch.equal(fresh.bin_counts, stored)
    assert torch.equal(fresh.half().bin_counts, stored)


def test_ghmc_ignores_avg_factor():
    pred, target = batch()
    value = GHMCLoss()(pred, target, ignore_index=IGNORE)
    torch.testing.assert_close(GHMCLoss()(pred, target, ignore_index=IGNORE, avg_factor=2), value)


def test_ghmc_of_saturated_outputs():
    pred = torch.tensor([[1e4, -1e4], [1e4, -1e4]], requires_grad=True)
    value = GHMCLoss()(pred, torch.tensor([0, 1]))  # two outputs in the first bin, two in the last
    torch.testing.assert_close(value, torch.tensor((1e4 + 1e4) / (10 * 2)))
    assert torch.autograd.grad(value, pred)[0].isfinite().all()


def _uneven():
    """Return a batch whose second sample has small errors and more ignored labels than the first."""
    pred, target = batch((2, 8, 8), scale=1.0)
    target[1, :3] = IGNORE
    scale = torch.tensor([5.0, 0.3], dtype=pred.dtype).view(2, 1, 1, 1)
    return (pred.detach() * scale).requires_grad_(), target


def _ghmc_on_rank(rank):
    pred, target = _uneven()
    loss = GHMCLoss(momentum=0.5, ignore_index=IGNORE, sync_avg_factor=True)
    value = loss(pred[rank : rank + 1], target[rank : rank + 1])
    value.backward()
    return value.item(), pred.grad.numpy(), loss.bin_counts.tolist()


def test_ghmc_bins_count_over_ranks():
    (first, first_grad, bins), (second, second_grad, same) = run_ranks(_ghmc_on_rank)
    pred, target = _uneven()
    loss = GHMCLoss(momentum=0.5, ignore_index=IGNORE)
    value = loss(pred, target)
    value.backward()
    assert bins == same == loss.bin_counts.tolist()
    np.testing.assert_allclose((first + second) / 2, value.item(), rtol=1e-12)  # as DDP averages
    np.testing.assert_allclose((first_grad + second_grad) / 2, pred.grad.numpy(), rtol=1e-10, atol=1e-15)


# ------------------------------------------------------------------ influence-balanced


def features(size=None, channels=7):
    shape = (2, channels, 4, 3) if size is None else (2, channels, *size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def slow_ib(z, y, norm, counts=COUNTS, scale=1000.0, gamma=0.0):
    inverse = [1 / n for n in counts]
    weights = [len(counts) * value / sum(inverse) for value in inverse]
    total = 0.0
    for row, label, h in zip(z, y, norm, strict=True):
        p = np.exp(row) / np.exp(row).sum()
        c = -weights[label] * math.log(p[label])
        distance = sum(abs(p[k] - (k == label)) for k in range(len(row)))
        total += (1 - math.exp(-c)) ** gamma * c * scale / (distance * h + 1e-3)
    return total / len(y)


@pytest.mark.parametrize("settings", [{}, {"gamma": 1.0}, {"gamma": 0.5, "scale": 10.0}])
def test_influence_balanced_equals_slow_loop(settings):
    loss, h = InfluenceBalancedLoss(class_counts=COUNTS, **settings), features()
    pred, target = batch()
    norm = h.abs().sum(1).flatten()[(target != IGNORE).flatten()].numpy()

    class Fed:
        def __call__(self, *args, **kwargs):
            loss.set_features(h)
            return loss(*args, **kwargs)

    check(Fed(), lambda z, y: slow_ib(z, y, norm, **settings), pred, target)


def test_influence_balanced_gradient_reaches_the_features():
    loss = InfluenceBalancedLoss(class_counts=COUNTS, ignore_index=IGNORE)
    pred, target = batch()

    def evaluate(a, h):
        loss.set_features(h)
        return loss(a, target)

    assert torch.autograd.gradcheck(evaluate, (pred, features().requires_grad_()))


def test_influence_balanced_of_soft_labels_and_of_flattened_positions():
    pred, target = batch()
    target, h = target.where(target != IGNORE, 0), features()
    loss = InfluenceBalancedLoss(class_counts=COUNTS)
    values = []
    flat = pred.movedim(1, -1).reshape(-1, K)
    flat_h = h.movedim(1, -1).reshape(-1, 7)
    one_hot = F.one_hot(target, K).movedim(-1, 1).double()
    for a, labels, read in ((pred, target, h), (flat, target.flatten(), flat_h), (pred, one_hot, h)):
        loss.set_features(read)
        values.append(loss(a, labels))
    torch.testing.assert_close(values[1], values[0])
    torch.testing.assert_close(values[2], values[0])
    soft = soft_labels(pred)
    loss.set_features(h)
    weight = loss.class_weight
    p = pred.softmax(1)
    entropy = -(weight.view(1, -1, 1, 1) * soft * p.log()).sum(1)
    expected = (entropy * 1000 / ((p - soft).abs().sum(1) * h.abs().sum(1) + 1e-3)).mean()
    torch.testing.assert_close(loss(pred, soft), expected)


def test_influence_balanced_with_unit_influence_is_weighted_cross_entropy():
    """||p - t|| ||h|| + 0.001 = 1 where ||h|| is chosen so."""
    pred, target = batch()
    pred, target = pred.detach(), target.where(target != IGNORE, 0)
    loss = InfluenceBalancedLoss(class_counts=COUNTS, scale=1)
    distance = 2 * (1 - pred.softmax(1).gather(1, target.unsqueeze(1)))
    loss.set_features(0.999 / distance)
    weight = torch.tensor([1 / n for n in COUNTS], dtype=torch.float64)
    weight *= K / weight.sum()
    expected = F.cross_entropy(pred, target, weight=weight, reduction="none").mean()
    torch.testing.assert_close(loss(pred, target), expected)


@pytest.mark.parametrize("align_corners", [False, True])
def test_features_of_lower_resolution_are_interpolated(align_corners):
    pred, target = batch()
    loss, h = InfluenceBalancedLoss(class_counts=COUNTS, ignore_index=IGNORE), features((2, 2))
    loss.set_features(h, align_corners)
    value = loss(pred, target)
    norm = F.interpolate(h.abs().sum(1, keepdim=True), (4, 3), mode="bilinear", align_corners=align_corners)
    loss.set_features(norm)
    torch.testing.assert_close(loss(pred, target), value)


def test_plain_until_the_start_and_an_error_without_features_after_it():
    pred, target = batch()
    loss = InfluenceBalancedLoss(class_counts=COUNTS, ignore_index=IGNORE, normalize="weight")
    assert loss.start_epoch == 100
    expected = F.cross_entropy(pred, target, ignore_index=IGNORE)
    for epoch in (0, 99):
        loss.set_epoch(epoch)
        assert not loss.wants_features
        torch.testing.assert_close(loss(pred, target), expected)
    for unfed in (loss, InfluenceBalancedLoss(class_counts=COUNTS)):
        unfed.set_epoch(100) if unfed is loss else None
        assert unfed.wants_features
        with pytest.raises(RuntimeError, match=r"mmseol\.ClassifierFeatureHook.*\n.*set_features"):
            unfed(pred, target, ignore_index=IGNORE)


def test_features_are_dropped_after_the_evaluation_that_counts():
    pred, target = batch()
    loss = InfluenceBalancedLoss(class_counts=COUNTS, ignore_index=IGNORE)
    loss.set_features(features())
    with torch.no_grad():
        sampled = loss(pred, target)  # as mmseg's OHEMPixelSampler does before the real evaluation
    torch.testing.assert_close(loss(pred, target), sampled)
    assert loss._norm is None
    copy.deepcopy(loss)  # a tensor of a graph could not be copied


def test_features_in_half_precision_do_not_overflow():
    h = torch.full((2, 512, 4, 3), 300.0, dtype=torch.float16)
    pred, target = batch()
    loss = InfluenceBalancedLoss(class_counts=COUNTS, ignore_index=IGNORE)
    loss.set_features(h)
    value = loss(pred, target)
    loss.set_features(h.double())
    torch.testing.assert_close(value, loss(pred, target))


def test_infinite_features_at_ignored_positions_change_nothing():
    pred, target = batch()
    loss, h = InfluenceBalancedLoss(class_counts=COUNTS, ignore_index=IGNORE), features()
    loss.set_features(h)
    value = loss(pred, target)
    odd = h.clone()
    odd.movedim(1, -1)[target == IGNORE] = float("inf")
    loss.set_features(odd)
    other = loss(pred, target)
    torch.testing.assert_close(other, value, rtol=0, atol=0)
    assert torch.autograd.grad(other, pred)[0].isfinite().all()


def test_wrong_features_are_named():
    pred, target = batch()
    loss = InfluenceBalancedLoss(class_counts=COUNTS, ignore_index=IGNORE)
    with pytest.raises(ValueError, match=r"`features` must be floating-point \(N, F, \*\), got torch.int64"):
        loss.set_features(torch.zeros(2, 3, dtype=torch.long))
    for wrong in (torch.ones(3, 7, 4, 3), torch.ones(2, 7)):
        loss.set_features(wrong)
        with pytest.raises(ValueError, match=r"`features` must be \(N, F, \*\) of the 2 samples and 2 dim"):
            loss(pred, target)


# ------------------------------------------------------------------ all of them


@pytest.mark.parametrize("classes", [2, 1000])
@pytest.mark.parametrize(
    "make",
    [EqualizationLoss, SigmoidEqualizationLoss, SeesawLoss, GHMCLoss, InfluenceBalancedLoss],
)
@pytest.mark.filterwarnings("ignore:Classes")
def test_few_and_many_classes_one_empty_one_valid_pixel_in_training(make, classes):
    loss = make(class_counts=[0, *range(1, classes)], ignore_index=IGNORE)
    pred, target = batch((2, 3, 3), 2, scale=1e4)
    pred = torch.cat([pred.detach().float(), torch.zeros(2, classes - 2, 3, 3)], 1).requires_grad_()
    target = torch.full_like(target, IGNORE)
    for valid in (1, 0):
        target[1, 2, 2] = 1 if valid else IGNORE
        for value in (fed(loss)(pred, target), under_autocast(fed(loss), pred, target)):
            (grad,) = torch.autograd.grad(value, pred)
            assert value.isfinite()
            assert grad.isfinite().all()
            assert grad[0].eq(0).all()
            assert value.dtype == torch.float32
            if not valid:
                assert value == 0
                assert grad.eq(0).all()


def fed(loss):
    if hasattr(loss, "set_features"):
        loss.set_features(torch.ones(2, 4, 3, 3))
    return loss


def under_autocast(loss, pred, target):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return loss(pred.bfloat16(), target)


@pytest.mark.parametrize("loss", [EqualizationLoss, SigmoidEqualizationLoss])
def test_a_class_at_the_threshold_is_not_rare(loss):
    assert loss(class_counts=[5, 95], threshold=0.05).tail.tolist() == [0, 0]
    assert loss(class_counts=[5, 96], threshold=0.05).tail.tolist() == [1, 0]


@pytest.mark.parametrize("size", [(5, 4), (10, 8)])
@pytest.mark.parametrize("weighted", [None, "pixels", "samples"])
@pytest.mark.parametrize("settings", [dict(), dict(gamma=1.0, normalize="weight", reduction="sum")])
def test_influence_balanced_in_chunks_equals_one_piece(settings, weighted, size, monkeypatch):
    """Value, and gradients by outputs and features, of large outputs of label size."""
    pred, target = batch((3, 10, 8), len(COUNTS))
    pred.data.movedim(1, -1)[target == IGNORE] = 1e4
    h = torch.randn(3, 6, *size, dtype=torch.float64, requires_grad=True)
    shape = dict(pixels=target.shape, samples=(3,)).get(weighted)
    weight = None if shape is None else torch.rand(shape, dtype=torch.float64)
    results = []
    for elements in (2**18, 60):
        loss = InfluenceBalancedLoss(class_counts=COUNTS, ignore_index=IGNORE, **settings)
        loss.set_features(h)
        with tiles_of(elements):
            with torch.no_grad():
                kept = loss(pred, target, weight)
            if elements == 60:
                monkeypatch.setattr(loss, "position_loss", None)  # is what one piece is computed with
            value = loss(pred, target, weight)
        results.append((kept, value.detach(), *torch.autograd.grad(value, (pred, h))))
    for whole, chunks in zip(*results, strict=True):
        torch.testing.assert_close(chunks, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gamma", [0.25, 0.5, 1.0, 2.0])
def test_sure_outputs_have_a_finite_gradient_of_influence(gamma):
    pred = torch.tensor([[200.0, 0, 0], [0, 200, 0]], requires_grad=True)
    loss = InfluenceBalancedLoss(gamma=gamma, start_epoch=0, class_counts=[3, 2, 1])
    loss.set_epoch(0)
    loss.set_features(torch.ones(2, 4))
    loss(pred, torch.tensor([0, 2])).backward()  # one right, one wrong
    assert pred.grad.isfinite().all()
    assert pred.grad[1].abs().sum() > 0


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_influence_gradients_stay_in_the_range_of_float16(reduction):
    """Where features vanish the gradient is up to scale / 1e-3, a million; float16 ends at 65504."""
    loss = InfluenceBalancedLoss(class_counts=COUNTS, reduction=reduction)
    pred = torch.tensor([[2.0, 0, 0, 0, 0], [0, 0, 0, 0, 2]], dtype=torch.float16, requires_grad=True)
    for features in (torch.zeros(2, 3), torch.full((2, 3), 1e-4)):
        features = features.half().requires_grad_()
        loss.set_features(features)
        value = loss(pred, torch.tensor([0, 4])).sum()
        grads = torch.autograd.grad(value, (pred, features))
        assert all(grad.isfinite().all() for grad in grads)
        assert grads[0].abs().max() == 65504
        # In float32 the gradient is what it was, and a gradient scaler still meets an infinite one.
        loss.set_features(features.detach())
        exact = pred.detach().float().requires_grad_()
        (grad,) = torch.autograd.grad(loss(exact, torch.tensor([0, 4])).sum(), exact)
        torch.testing.assert_close(grad.clamp(-65504, 65504).half(), grads[0])
        loss.set_features(features.detach())
        (scaled,) = torch.autograd.grad(4 * loss(pred, torch.tensor([0, 4])).sum(), pred)
        assert scaled.isinf().any()


def test_states_are_made_for_the_number_of_classes():
    loss = SeesawLoss()
    loss(torch.zeros(1, 5), torch.tensor([0]))
    with pytest.raises(ValueError, match="`pred` has 3 classes, but `seen_counts` has 5 entries"):
        loss(torch.zeros(1, 3), torch.tensor([0]))
    loss.allocate_class_counts(3)
    assert loss.seen_counts.tolist() == [0, 0, 0]
    loss(torch.zeros(1, 3), torch.tensor([2]))
    seen = loss.seen_counts
    loss.allocate_class_counts(3)
    assert loss.seen_counts is seen
    assert seen.tolist() == [0, 0, 1]


def test_bins_without_momentum_have_no_state():
    assert not GHMCLoss().state_dict()
    with pytest.raises(RuntimeError, match=r"Unexpected key.*bin_counts"):
        GHMCLoss().load_state_dict({"bin_counts": torch.zeros(10)})


@pytest.mark.parametrize(("large", "mode"), [((6,), "linear"), ((4, 6, 2), "trilinear")])
def test_features_of_sequences_and_of_volumes(large, mode):
    pred, target = batch((2, *large), K)
    h = torch.rand(2, 7, *(2,) * len(large), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    loss = InfluenceBalancedLoss(class_counts=COUNTS, ignore_index=IGNORE)
    loss.set_features(h)
    value = loss(pred, target)
    loss.set_features(F.interpolate(h.sum(1, keepdim=True), large, mode=mode))
    torch.testing.assert_close(value, loss(pred, target))


def test_influence_gradients_of_upsampled_outputs_stay_in_the_range_of_float16():
    loss = InfluenceBalancedLoss(class_counts=COUNTS, reduction="sum")
    pred = torch.zeros(1, K, 1, 1, dtype=torch.float16, requires_grad=True)
    features = torch.zeros(1, 3, 1, 1, dtype=torch.float16, requires_grad=True)
    loss.set_features(features)
    value = loss.forward_upsampled(pred, torch.full((1, 4, 4), 4))
    grads = torch.autograd.grad(value, (pred, features), retain_graph=True)
    assert all(grad.isfinite().all() for grad in grads)
    assert grads[0].abs().max() == 65504
