"""Focal losses against torchvision, torch and slow loops from the formula."""

import math

import numpy as np
import pytest
import torch
from helpers.batches import IGNORE, batch, soft_labels
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from mmseol.losses import CrossEntropyLoss, FocalLoss, SigmoidFocalLoss
from mmseol.losses.ops import inputs
from mmseol.losses.ops.binary_cross_entropy import binary_cross_entropy

WEIGHT = [0.3, 1.0, 2.5, 0.7]


def slow_softmax_focal(pred, target, gamma, weight=None, inside=False):
    """Return the mean over valid positions (over their weights, unless inside) of Eq. (4), (5)."""
    total, divisor = 0.0, 0.0
    for n, *where in np.ndindex(*target.shape):
        label = target[(n, *where)]
        if label == IGNORE:
            continue
        outputs = [pred[(n, k, *where)] for k in range(pred.shape[1])]
        p = math.exp(outputs[label]) / sum(map(math.exp, outputs))
        w = 1.0 if weight is None else weight[label]
        cost = -w * math.log(p)
        total += (1 - (math.exp(-cost) if inside else p)) ** gamma * cost
        divisor += 1 if inside else w
    return total / divisor


def numeric_gradient(function, pred, step=1e-5):
    grad = np.zeros(pred.shape)
    for index in np.ndindex(*pred.shape):
        ends = []
        for sign in (1, -1):
            moved = pred.copy()
            moved[index] += sign * step
            ends.append(function(moved))
        grad[index] = (ends[0] - ends[1]) / (2 * step)
    return grad


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2, 3.5])
@pytest.mark.parametrize(
    ("settings", "inside"),
    [
        ({}, False),
        (dict(class_weight=WEIGHT), False),
        (dict(class_weight=WEIGHT, weight_in_modulator=True, normalize="count"), True),
    ],
)
def test_softmax_focal_equals_slow_loop(gamma, settings, inside):
    pred, target = batch((2, 3, 5), 4)
    value = FocalLoss(gamma=gamma, **settings)(pred, target, ignore_index=IGNORE)
    (grad,) = torch.autograd.grad(value, pred)

    def slow(outputs):
        return slow_softmax_focal(outputs, target.numpy(), gamma, settings.get("class_weight"), inside)

    np.testing.assert_allclose(value.item(), slow(pred.detach().numpy()), rtol=1e-10)
    np.testing.assert_allclose(grad.numpy(), numeric_gradient(slow, pred.detach().numpy()), atol=1e-8)


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_gamma_zero_is_cross_entropy(weight):
    pred, target = batch((2, 3, 5), 4)
    soft = soft_labels(pred)
    for inside in (False, True):
        focal = FocalLoss(gamma=0, class_weight=weight, weight_in_modulator=inside, ignore_index=IGNORE)
        entropy = CrossEntropyLoss(class_weight=weight, ignore_index=IGNORE)
        for labels in (target, soft):
            values = [loss(pred, labels) for loss in (focal, entropy)]
            torch.testing.assert_close(*values, rtol=1e-14, atol=0)
            grads = [torch.autograd.grad(value, pred)[0] for value in values]
            torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-15)


def test_detached_modulator_weights_the_gradient_of_cross_entropy():
    pred, target = batch((2, 3, 5), 4)
    entropy = F.cross_entropy(pred, target, ignore_index=IGNORE, reduction="none")
    modulator = (1 - torch.exp(-entropy.detach())) ** 2
    expected = (modulator * entropy).sum() / (target != IGNORE).sum()
    detached = FocalLoss(detach_modulator=True)(pred, target, ignore_index=IGNORE)
    torch.testing.assert_close(detached, expected)
    torch.testing.assert_close(FocalLoss()(pred, target, ignore_index=IGNORE), expected)
    grads = [torch.autograd.grad(value, pred)[0] for value in (detached, expected)]
    torch.testing.assert_close(*grads)


def test_soft_labels_mix_the_classes():
    pred, _ = batch((2, 3, 5), 4)
    soft = soft_labels(pred)
    p = torch.softmax(pred, 1)
    weight = torch.tensor(WEIGHT, dtype=torch.float64).view(1, -1, 1, 1)
    expected = (weight * soft * (1 - p) ** 1.5 * -p.log()).sum(1).mean()
    torch.testing.assert_close(FocalLoss(gamma=1.5, class_weight=WEIGHT)(pred, soft), expected)


@pytest.mark.parametrize("gamma", [0, 0.1, 0.5, 1, 2])
@pytest.mark.parametrize("cls", [FocalLoss, SigmoidFocalLoss])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sure_outputs_have_finite_gradients(gamma, cls, dtype):
    pred = torch.tensor([[1e4, 0, -1e4], [0, 1e4, 0], [-1e4, 90, 1e4], [40.0, 0, 0]], dtype=dtype)
    for labels in (torch.tensor([0, 1, 2, 0]), torch.tensor([1, 2, 0, 1]), torch.eye(3)[[0, 1, 2, 0]]):
        pred = pred.detach().requires_grad_()
        value = cls(gamma=gamma)(pred, labels)
        (grad,) = torch.autograd.grad(value, pred)
        assert value.isfinite()
        assert grad.isfinite().all()


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2])
@pytest.mark.parametrize("alpha", [None, 0.25, 0.0, 1.0])
def test_sigmoid_focal_equals_torchvision(gamma, alpha):
    pred, target = batch((2, 3, 5), 4, scale=8.0)
    soft = soft_labels(pred)
    valid = target != IGNORE
    one_hot = F.one_hot(target * valid, 4).movedim(-1, 1).double()
    loss = SigmoidFocalLoss(alpha=alpha, gamma=gamma, ignore_index=IGNORE)
    for labels, targets, where in (
        (target, one_hot, valid),
        (soft, soft, torch.ones_like(valid)),
        (one_hot, one_hot, torch.ones_like(valid)),
    ):
        terms = sigmoid_focal_loss(pred, targets, alpha=-1 if alpha is None else alpha, gamma=gamma)
        expected = (terms.sum(1) * where).sum() / where.sum()
        value = loss(pred, labels)
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
        grads = [torch.autograd.grad(result, pred)[0] for result in (value, expected)]
        torch.testing.assert_close(*grads, rtol=1e-8, atol=1e-11)


def test_sigmoid_focal_with_gamma_zero_is_binary_cross_entropy():
    pred, _ = batch((8,), 1000, scale=30.0)
    target = torch.arange(8) * 100
    expected = F.binary_cross_entropy_with_logits(pred, F.one_hot(target, 1000).double(), reduction="sum") / 8
    torch.testing.assert_close(SigmoidFocalLoss(alpha=None, gamma=0)(pred, target), expected)


def test_class_balanced_focal_of_cui():
    """sum_i w_y sum_k exp(-g t z - g softplus(-z)) bce / N, with w of the effective number."""
    pred, target = batch((6,), 4)
    target[:] = torch.tensor([0, 1, 2, 3, 0, 1])
    counts, beta = [500, 90, 30, 4], 0.999
    weight = np.array([(1 - beta) / (1 - beta**count) for count in counts])
    weight *= 4 / weight.sum()
    expected = 0.0
    for i in range(6):
        for k in range(4):
            z, t = pred[i, k].item(), float(target[i] == k)
            softplus = math.log1p(math.exp(-z))
            entropy = (1 - t) * z + softplus
            expected += weight[target[i]] * math.exp(-0.7 * t * z - 0.7 * softplus) * entropy / 6
    # exp(-g t z - g softplus(-z)) is p^g where t = 0 and (1 - p)^g where t = 1
    loss = SigmoidFocalLoss(
        alpha=None,
        gamma=0.7,
        class_weight="effective_number",
        beta=beta,
        normalize="count",
        class_counts=counts,
    )
    np.testing.assert_allclose(loss(pred, target).item(), expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (FocalLoss, dict(gamma=-0.1), "`gamma` must be a finite number of at least 0, got -0.1"),
        (FocalLoss, dict(gamma="2"), "`gamma` must be a finite number of at least 0, got '2'"),
        (SigmoidFocalLoss, dict(gamma=-1), "`gamma` must be a finite number of at least 0"),
        (
            SigmoidFocalLoss,
            dict(alpha=-1),
            r"`alpha` must be a finite number of at least 0 and at most 1, got -1",
        ),
    ],
)
def test_wrong_settings_are_named(cls, arguments, message):
    with pytest.raises(ValueError, match=message):
        cls(**arguments)


def test_sigmoid_focal_in_pieces(monkeypatch):
    pred = torch.randn(5, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 4, (5, 3, 2))
    one_hot = F.one_hot(target, 4).movedim(-1, 1).to(pred)
    expected = sigmoid_focal_loss(pred, one_hot, reduction="sum") / target.numel()
    (expected_grad,) = torch.autograd.grad(expected, pred)
    for elements in (1, 50):  # chunks of one row, and of two samples
        monkeypatch.setitem(inputs.CHUNK, "cpu", elements)
        value = SigmoidFocalLoss()(pred, target)
        (grad,) = torch.autograd.grad(value, pred)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(grad, expected_grad)


def test_sigmoid_focal_refuses_a_second_derivative():
    pred, target = batch((2, 3, 5), 4)
    value = SigmoidFocalLoss(ignore_index=IGNORE)(pred, target)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(value, pred, create_graph=True)


def test_binary_cross_entropy_is_exact_in_float64():
    """softplus of torch becomes the identity from 20 on, which is wrong by 2e-9."""
    for z in (-36.0, -25.0, -3.0, 0.5, 19.0, 25.0, 36.0):
        pred = torch.tensor([[z, 0.0]], dtype=torch.float64)
        for label, expected in ((0, math.log1p(math.exp(-z))), (1, z + math.log1p(math.exp(-z)))):
            value = binary_cross_entropy(pred, torch.tensor([label]), torch.ones_like(pred)) - math.log(2)
            np.testing.assert_allclose(value.item(), expected, rtol=1e-14, atol=1e-14)
            focal = SigmoidFocalLoss(alpha=None, gamma=0)(pred, torch.tensor([label])) - math.log(2)
            np.testing.assert_allclose(focal.item(), expected, rtol=1e-14, atol=1e-14)


def test_vectorised_jacobian_of_the_sigmoid_loss() -> None:
    pred, target = batch((3,), 4, ignored=0)
    loss = SigmoidFocalLoss()

    def losses(outputs: torch.Tensor) -> torch.Tensor:
        return loss(outputs, target, reduction_override="none")

    found = torch.autograd.functional.jacobian(losses, pred, vectorize=True)
    (total,) = torch.autograd.grad(losses(pred).sum(), pred)
    torch.testing.assert_close(found.sum(0), total)
    assert found[0, 1:].abs().max() == 0  # a loss does not depend on other elements
