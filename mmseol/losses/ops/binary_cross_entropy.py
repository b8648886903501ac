"""Binary cross entropy of every class, summed over classes, without one-hot labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["binary_cross_entropy", "sigmoid_residual"]


def sigmoid_residual(pred: Tensor, target: Tensor) -> Tensor:
    r"""Return :math:`\sigma(z) - t`, (N, K, *), for use without gradient: it is worked out in place.

    Args:
        pred: Raw outputs, (N, K, *).
        target: Labels, (N, *), or soft labels, (N, K, *).
    """
    residual = pred.sigmoid()
    if target.dim() == pred.dim():
        return residual.sub_(target)
    label = target.unsqueeze(1)
    return residual.scatter_add_(1, label, -torch.ones_like(label, dtype=pred.dtype))


def binary_cross_entropy(pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    r"""Return :math:`\sum_k w_k \mathrm{BCE}(\sigma(z_k), t_k)` of each position, (N, *).

    Args:
        pred: Raw outputs, (N, K, *).
        target: Labels, (N, *), or soft labels, (N, K, *).
        weight: Factors, (N, K, *); no gradient flows through them.
    """
    return _WeightedSum.apply(pred, target, weight)


class _WeightedSum(torch.autograd.Function):
    """The sum with its gradient written out: what autograd would keep takes several times the outputs."""

    @staticmethod
    def forward(ctx: Any, pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(pred, target, weight)
        negative = F.softplus(pred, threshold=40)  # -log(1 - sigmoid(z)); -log(sigmoid(z)) is that minus z
        if target.dim() == pred.dim():
            return (negative - target * pred).mul_(weight).sum(1)
        label = target.unsqueeze(1)
        positive = weight.gather(1, label) * pred.gather(1, label)
        return negative.mul_(weight).sum(1) - positive.squeeze(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        pred, target, weight = ctx.saved_tensors
        return sigmoid_residual(pred, target).mul_(weight).mul_(grad.unsqueeze(1)), None, None
