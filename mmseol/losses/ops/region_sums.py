"""Sums over pixels that losses of regions are made of, and their gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from mmseol.losses.ops.inputs import chunks, with_channels
from mmseol.losses.ops.label_outputs import add_at_labels, at_labels, look_up
from mmseol.losses.ops.softmax import SoftmaxVisitor, tile_softmax
from mmseol.losses.ops.tiles import Tile, Visitor

__all__ = ["region_sums", "region_sums_gradient_visitor", "region_sums_visitor"]


def region_sums(pred: Tensor, target: Tensor, pixel_weight: Tensor, power: int) -> Tensor:
    r"""Return :math:`\sum w p t, \sum w p^{power}, \sum w t^{power}`, float64 (3, N, K).

    >>> pred, target = torch.zeros(1, 2, 4), torch.tensor([[0, 0, 0, 1]])
    >>> region_sums(pred, target, torch.ones(1, 4), power=1).flatten().tolist()
    [1.5, 0.5, 2.0, 2.0, 3.0, 1.0]

    Args:
        pred: Raw outputs, whose softmax is :math:`p`, (N, K, *).
        target: Labels, (N, *), or soft labels :math:`t`, (N, K, *).
        pixel_weight: Weights :math:`w`, (N, *).
        power: Exponent, 1 or 2.
    """
    n, k = pred.shape[:2]
    prob = pred.softmax(1).reshape(n, k, -1)
    weight = pixel_weight.reshape(n, 1, -1)
    if target.dim() == pred.dim():
        soft = target.reshape(n, k, -1)
        sums = [prob * (soft * weight), prob**power * weight, soft**power * weight]
        return torch.stack([values.sum(2) for values in sums]).double()
    return _RegionSums.apply(prob, target.reshape(n, 1, -1), weight, power)


class _RegionSums(Function):
    """The sums for labels with one gradient tensor; autograd would create one for each sum."""

    @staticmethod
    def forward(ctx: Any, prob: Tensor, target: Tensor, weight: Tensor, power: int) -> Tensor:
        ctx.save_for_backward(prob, target, weight)
        ctx.power = power
        n, k = prob.shape[:2]
        predicted = prob.new_zeros(n, k)
        for where in chunks(prob):  # without a product of all outputs in memory
            part, part_weight = prob[with_channels(where)], weight[with_channels(where)]
            predicted[where[0]] += (part * (part * part_weight if power == 2 else part_weight)).sum(2)
        index = (target + k * torch.arange(n, device=target.device).view(n, 1, 1)).flatten()
        # A sequential sum of millions needs float64; torch's pairwise sum above does not.
        parts = torch.stack([prob.gather(1, target) * weight, weight]).double().view(2, -1)
        overlap, labelled = parts.new_zeros(2, n * k).index_add(1, index, parts).view(2, n, k).unbind()
        return torch.stack([overlap, predicted.double(), labelled])

    @staticmethod
    def backward(ctx: Any, factors: Tensor) -> tuple[Tensor, None, None, None]:
        prob, target, weight = ctx.saved_tensors
        by_overlap, by_predicted, _ = factors.to(prob.dtype)
        gradient = by_predicted.unsqueeze(2) * weight
        if ctx.power == 2:
            gradient = gradient.mul_(prob).mul_(2)
        by_overlap = by_overlap.gather(1, target.flatten(1)).unsqueeze(1)
        return gradient.scatter_add_(1, target, by_overlap * weight), None, None, None


def region_sums_visitor(power: int) -> Visitor:
    """Return the visitor that computes :func:`region_sums`, float64 (3, K) of each image.

    >>> from mmseol.losses.ops.inputs import Labels
    >>> from mmseol.losses.ops.tiles import LabelGrid
    >>> labels = Labels.of(torch.tensor([[[0, 0, 0, 1]]]), classes=2, ignore_index=255)
    >>> LabelGrid(torch.zeros(1, 2, 1, 2), labels).visit(region_sums_visitor(power=1))[0].flatten().tolist()
    [1.5, 0.5, 2.0, 2.0, 3.0, 1.0]
    """
    return _Sums(power)


def region_sums_gradient_visitor(factors: Tensor, power: int) -> Visitor:
    """Return the visitor that computes the gradient of a function of :func:`region_sums`.

    >>> from mmseol.losses.ops.inputs import Labels
    >>> from mmseol.losses.ops.tiles import LabelGrid
    >>> labels = Labels.of(torch.tensor([[[0, 0, 0, 1]]]), classes=2, ignore_index=255)
    >>> grid, factors = LabelGrid(torch.zeros(1, 2, 1, 2), labels, requires_grad=True), torch.ones(3, 1, 2)
    >>> grid.visit(region_sums_gradient_visitor(factors, power=1))[1].flatten().tolist()
    [0.5, 0.0, -0.5, 0.0]

    Args:
        factors: Derivative of the function by the sums, (3, N, K).
        power: Exponent, 1 or 2.
    """
    return _SumsGradient(factors, power)


class _Sums(SoftmaxVisitor):
    def __init__(self, power: int) -> None:
        super().__init__()
        self.power = power

    def __call__(self, tile: Tile) -> tuple[Tensor, Tensor | None]:
        prob, weight = tile_softmax(tile), tile.factor()
        own = at_labels(prob, tile.label)
        # A sequential sum of millions needs float64; torch's pairwise sum does not.
        parts = torch.stack([own * weight, weight]).double().flatten(1)
        by_label = parts.new_zeros(2, prob.shape[1]).index_add_(1, tile.label.flatten(), parts)
        if self.power == 2:
            prob.square_()
        predicted = prob.mul_(weight.unsqueeze(1)).flatten(2).sum(2).double().sum(0)
        return torch.stack([by_label[0], predicted, by_label[1]]), None


class _SumsGradient(SoftmaxVisitor):
    def __init__(self, factors: Tensor, power: int) -> None:
        super().__init__()
        self.by_overlap, self.by_predicted = factors[0], factors[1]
        self.power = power

    def __call__(self, tile: Tile) -> tuple[Tensor, Tensor | None]:
        prob = tile_softmax(tile)
        by_predicted = self.by_predicted[tile.image].to(prob).view(-1, *[1] * (prob.dim() - 2))
        # With d the derivative by the probabilities, that by the outputs is p (d - sum_j p_j d_j).
        gradient = prob * (by_predicted * self.power)
        if self.power == 2:
            gradient.mul_(prob)
        own = look_up(self.by_overlap[tile.image].to(prob), tile.label) * at_labels(prob, tile.label)
        mean = gradient.sum(1).add_(own).unsqueeze(1)
        add_at_labels(gradient.addcmul_(prob, mean, value=-1), tile.label, own)
        return mean.new_zeros(()), gradient.mul_(tile.factor().unsqueeze(1))
