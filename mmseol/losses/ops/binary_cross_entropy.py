"""Binary cross entropy of every class, summed over classes, without one-hot labels."""

from __future__ import annotations

import torch
from torch import Tensor

from mmseol.losses.ops.autograd import with_elementwise_gradient
from mmseol.losses.ops.label_outputs import add_at_labels, at_labels
from mmseol.losses.ops.softplus import softplus

__all__ = ["binary_cross_entropy", "sigmoid_residual"]


def sigmoid_residual(pred: Tensor, target: Tensor) -> Tensor:
    r"""Return :math:`\sigma(z) - t`, (N, K, *), computed in place and without a gradient of its own.

    >>> sigmoid_residual(torch.zeros(1, 3), torch.tensor([2]))
    tensor([[ 0.5000,  0.5000, -0.5000]])

    Args:
        pred: Raw outputs, (N, K, *).
        target: Labels, (N, *), or soft labels, (N, K, *).
    """
    residual = pred.sigmoid()
    if target.dim() == pred.dim():
        return residual.sub_(target)
    add_at_labels(residual, target, torch.full_like(target, -1, dtype=pred.dtype))
    return residual


def binary_cross_entropy(
    pred: Tensor, target: Tensor, weight: Tensor, residual: Tensor | None = None
) -> Tensor:
    r"""Return :math:`\sum_k w_k \mathrm{BCE}(\sigma(z_k), t_k)` of each element, (N, *).

    The gradient is computed beside the value: autograd would keep several times the outputs.

    >>> binary_cross_entropy(torch.zeros(1, 3), torch.tensor([2]), torch.ones(1, 3))
    tensor([2.0794])

    Args:
        pred: Raw outputs, (N, K, *).
        target: Labels, (N, *), or soft labels, (N, K, *).
        weight: Factors, (N, K, *); no gradient flows through them.
        residual: :func:`sigmoid_residual` if it is known already; it is overwritten.
    """
    requires_grad = torch.is_grad_enabled() and pred.requires_grad
    with torch.no_grad():
        negative = softplus(pred)  # cross entropy of label 0; that of label 1 is less by z
        if target.dim() == pred.dim():
            value = (negative - target * pred).mul_(weight).sum(1)
        else:
            value = negative.mul_(weight).sum(1) - at_labels(weight, target) * at_labels(pred, target)
        if not requires_grad:
            return value
        gradient = (sigmoid_residual(pred, target) if residual is None else residual).mul_(weight)
    return with_elementwise_gradient(pred, value, gradient, 1)
