"""LADE: cross entropy with the class prior and a regulariser that separates the outputs from the prior."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmseol.counting.counts import at_least_one
from mmseol.losses.base.class_loss import ClassLoss, Reduction, evaluate_once
from mmseol.losses.base.tiled import grid_divisor
from mmseol.losses.ops.inputs import by_class, zero_invalid
from mmseol.losses.ops.label_outputs import add_at_labels, at_labels, look_up
from mmseol.losses.ops.softmax import (
    LN_2,
    LOG2_E,
    NEGLIGIBLE,
    SoftmaxForm,
    SoftmaxVisitor,
    sums_are_exact,
)
from mmseol.losses.ops.tiles import RANGE, LabelGrid, Tile, Visitor
from mmseol.registry import MODELS
from mmseol.utils.checks import number

__all__ = ["LADELoss", "lade_loss"]

# Classes so far apart that their exponentials would underflow in float64, and sums so far below the highest
# output that their reciprocals would overflow in float32.
_FAR_APART, _FAR = 500.0, 30.0


@MODELS.register_module()
class LADELoss(ClassLoss):
    r"""Label distribution disentangling loss: prior cross entropy plus :math:`a` times a regulariser.

    .. math:: \frac1N \sum_i -\log \mathrm{softmax}(z_i + \log \pi)_{y_i}
        - a \sum_k \pi_k (A_k - B_k - \lambda B_k^2)

    over the N valid elements of the batch, where :math:`\pi_k = n_k / \sum_j n_j` and

    .. math:: A_k = \frac{1}{N_k} \sum_{i: y_i = k} z_{ik}, \quad
        B_k = \log \frac1N \sum_i e^{z_{ik} - \log \pi_k - \log K}

    with :math:`A_k = 0` for a class that is absent from the batch. Soft labels :math:`t` enter as
    :math:`A_k = \sum_i t_{ik} z_{ik} / \sum_i t_{ik}`. Predict with argmax of the raw :math:`z`.

    Source: Hong et al., "Disentangling Label Distribution for Long-tailed Visual Recognition", CVPR 2021,
    and the authors' code (hyperconnect/LADE), whose guards against a logarithm or a division of 0 are
    kept: 1e-9 at :math:`\pi` and :math:`1 / K`, 1e-8 at :math:`N_k`.

    The regulariser is normalised over the batch, so the loss ignores ``avg_factor``, and with several ranks
    each computes the regulariser of its own part of the batch. An element's loss is its cross entropy plus
    the regulariser, so that their mean is the loss.

    >>> import torch
    >>> loss = LADELoss(remine_weight=0.0, class_counts=[3, 1])
    >>> loss(torch.zeros(1, 2), torch.tensor([1]))
    tensor(1.3863)

    Args:
        remine_weight: :math:`a`, at least 0.
        remine_lambda: :math:`\lambda`, at least 0; 0.01 on CIFAR-100 in the authors' code.
        class_counts: As of :class:`~mmseol.losses.ClassLoss`; so are the arguments after it.

    Raises:
        ValueError: If an argument is out of its range.
    """

    exclusive_classes = True
    takes_avg_factor = False
    derived = ("prior",)
    counts_required: ClassVar[bool] = True
    prior: Tensor | None

    def __init__(
        self,
        remine_weight: float = 0.1,
        remine_lambda: float = 0.1,
        *,
        class_counts: Any = None,
        ignore_index: int = -100,
        loss_weight: float = 1.0,
        reduction: Reduction = "mean",
        loss_name: str | None = None,
        sync_avg_factor: bool = False,
    ) -> None:
        self.remine_weight = number("remine_weight", remine_weight, at_least=0)
        self.remine_lambda = number("remine_lambda", remine_lambda, at_least=0)
        super().__init__(
            class_counts=class_counts,
            ignore_index=ignore_index,
            loss_weight=loss_weight,
            reduction=reduction,
            loss_name=loss_name,
            sync_avg_factor=sync_avg_factor,
        )

    def update_from_counts(self, counts: np.ndarray, totals: np.ndarray | None) -> None:
        """Compute the fraction of each class."""
        counts = at_least_one(counts, "the prior of LADELoss")
        self.set_derived("prior", counts / counts.sum())

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return cross entropy plus regulariser of every element, (N, *)."""
        assert self.prior is not None
        log_prior = torch.log(self.prior + 1e-9).to(pred)
        loss = F.cross_entropy(pred + by_class(log_prior, pred), target, reduction="none")
        return loss.add_(self.remine_weight * self.regulariser(pred, target, valid, log_prior))

    def evaluate_grid(
        self, grid: LabelGrid, reduction: Reduction, avg_factor: float | Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the loss and its gradient: one pass over the tiles for the sums, one for the gradient."""
        assert self.prior is not None
        divisor = grid_divisor(self, grid, reduction, None)
        counts, prior = grid.labels.counts().double(), self.prior.to(grid.pred.device)
        weight = prior / (counts + 1e-8)
        class_weight = None if self._class_factor is None else self._class_factor.to(weight)
        log_prior = torch.log(prior + 1e-9)
        form = SoftmaxForm(offset=log_prior, weight=class_weight)
        highest = _highest(grid, log_prior)
        first = _Sums(weight, class_weight) if highest is None else _SmallSums(weight, form, highest)
        totals = grid.visit(first, requires_grad=False)[0].reshape(-1, 2).sum(0)
        largest, sums = first.largest_and_sums()
        log_sum = _logarithm(largest, sums)
        second = log_sum - log_prior + np.log(1 / len(prior) + 1e-9) - counts.sum().clamp(min=1).log()
        regulariser = -totals[0] + (prior * (second + self.remine_lambda * second.square())).sum()
        regulariser = torch.where(counts.any(), regulariser, 0)
        # Every element's loss is its cross entropy plus a times the regulariser.
        strength = self.remine_weight * totals[1] / divisor
        scale = 1 / divisor if grid.requires_grad else None
        slope = strength * prior * (1 + 2 * self.remine_lambda * second)
        slope = torch.where(sums > 0, slope / sums, 0)
        visitor: Visitor = _Gradient(form, scale, slope, strength * weight, largest)
        if highest is not None and (highest - log_prior - largest).max() < _FAR:
            slope = slope * (highest - log_prior - largest).exp()
            visitor = _SmallGradient(form, scale, slope, strength * weight, highest)
        entropies, gradient = grid.visit(visitor)
        return entropies.sum() / divisor + strength * regulariser, gradient

    def regulariser(self, pred: Tensor, target: Tensor, valid: Tensor, log_prior: Tensor) -> Tensor:
        r"""Return :math:`-\sum_k \pi_k (A_k - B_k - \lambda B_k^2)`, a scalar; 0 if nothing is valid."""
        assert self.prior is not None
        prior, classes, number_valid = self.prior.to(pred), pred.shape[1], valid.sum()
        first = _mean_label_output(pred, target, valid, prior)
        second = _logarithm(*_sums(pred, valid))
        second = second - log_prior + np.log(1 / classes + 1e-9) - number_valid.clamp(min=1).to(pred).log()
        total = -first + (prior * (second + self.remine_lambda * second.square())).sum()
        return torch.where(number_valid > 0, total, 0)


class _Sums(Visitor):
    r"""Compute :math:`\sum_k \pi_k A_k` and the sum of the elements' weights, and collect :math:`B_k`."""

    def __init__(self, weight: Tensor, class_weight: Tensor | None) -> None:
        self.weight, self.class_weight = weight, class_weight
        self.parts: dict[int, list[tuple[Tensor, Tensor]]] = defaultdict(list)

    def __call__(self, tile: Tile) -> tuple[Tensor, Tensor | None]:
        own = at_labels(tile.outputs, tile.label)
        return self.collect(tile, own, *_tile_sums(tile)), None

    def collect(self, tile: Tile, own: Tensor, largest: Tensor, sums: Tensor) -> Tensor:
        """Keep m and s of each class, (K,), and return the sums of the labels' outputs and of the weights."""
        self.parts[tile.image].append((largest.double(), sums.double()))
        own = torch.where(tile.valid, own, 0)
        factor = tile.factor().double()
        if self.class_weight is not None:
            factor *= look_up(self.class_weight, tile.label)
        return torch.stack([(own * look_up(self.weight, tile.label)).sum(), factor.sum()])

    def largest_and_sums(self) -> tuple[Tensor, Tensor]:
        """Return m and s of each class, (K,), whose log-sum-exp over the valid elements is m + log s."""
        parts = [part for _, parts in sorted(self.parts.items()) for part in parts]
        largest, sums = (torch.stack(column) for column in zip(*parts, strict=True))
        most = largest.amax(0)
        return most, (sums * (largest - most).exp()).sum(0)


class _Gradient(Visitor):
    """Compute the cross entropies, and the gradient of them and of the regulariser.

    Args:
        form: Cross entropy.
        scale: Factor of its gradient; ``None`` if none is needed.
        slope: Factor of :math:`e^{a - m}` in the gradient, (K,).
        label_slope: Part of the gradient by an element's label, negative, (K,).
        largest: m of each class, (K,).
    """

    def __init__(
        self, form: SoftmaxForm, scale: Tensor | None, slope: Tensor, label_slope: Tensor, largest: Tensor
    ) -> None:
        self.form, self.scale = form, scale
        self.slope, self.label_slope, self.largest = slope, label_slope, largest

    def __call__(self, tile: Tile) -> tuple[Tensor, Tensor | None]:
        adjusted = self.form.adjust(tile.outputs)
        if not tile.valid.all():
            zero_invalid(tile.valid, adjusted)
        largest = adjusted.amax(1, keepdim=True)
        probability = adjusted - largest
        own_output = at_labels(probability, tile.label)
        if own_output.numel() and own_output.min() < -NEGLIGIBLE:
            probability.clamp_(min=-NEGLIGIBLE)
        total = probability.exp_().sum(1)
        value, derivative = self.form.elements(total.log() - own_output, tile.label, tile.factor())
        if self.scale is None:
            return value, None
        derivative = (derivative * self.scale).to(adjusted.dtype)
        gradient = probability.mul_((derivative / total).unsqueeze(1))
        exponentials = tile.outputs - by_class(self.largest, adjusted)
        if not tile.valid.all():  # ignored outputs may be larger
            zero_invalid(tile.valid, exponentials)
        exponentials.exp_().mul_(by_class(self.slope, adjusted))
        gradient.addcmul_(exponentials, tile.valid.unsqueeze(1).to(adjusted))
        own = derivative + look_up(self.label_slope.to(adjusted), tile.label) * tile.valid
        add_at_labels(gradient, tile.label, own.neg_())
        return value, gradient


def _highest(grid: LabelGrid, log_prior: Tensor) -> Tensor | None:
    """Return the largest of the small outputs plus log prior, (); ``None`` if they do not fit its visitors.

    These are outputs at label size, and outputs of which two classes are too far apart, or infinite.
    """
    if grid.same_size or not grid.pred.numel():
        return None
    outputs = grid.pred.to(grid.dtype)
    adjusted = outputs + by_class(log_prior, outputs)
    largest = adjusted.amax(1)
    return largest.max().double() if (largest - adjusted.amin(1)).max() < _FAR_APART else None


class _Small(SoftmaxVisitor):
    r"""Visitor of exponentials of small outputs, of which both the softmax and :math:`B_k` are made.

    With :math:`c = \max_k z_k` of the adjusted outputs z of a small output, a tile has the interpolated
    :math:`z - c`, and in one more channel :math:`c - m`, both in units of log 2; m is the highest c. So the
    exponential of a class times that of the channel is :math:`e^{z_k - m}`.

    Args:
        form: The cross entropy.
        highest: m, ().
    """

    def __init__(self, form: SoftmaxForm, highest: Tensor) -> None:
        super().__init__(form)
        self.highest = highest

    def prepare(self, outputs: Tensor) -> Tensor:
        assert self.form.offset is not None
        adjusted = outputs.double()
        adjusted = adjusted + by_class(self.form.offset, adjusted)
        level = adjusted.amax(1, keepdim=True) - self.highest
        prepared = super().prepare(outputs if level.min() > -RANGE else outputs.double())
        return torch.cat([prepared, level.mul_(LOG2_E).to(prepared)], 1)

    def natural(self, tile: Tile) -> Tile:
        """Return the tile with its outputs, (C, K, R), before they were prepared."""
        assert tile.upsample is not None
        assert self.form.offset is not None
        outputs = tile.upsample()
        outputs = (outputs[:, :-1] + outputs[:, -1:]).mul_(LN_2).add_(self.highest.to(outputs))
        return tile._replace(outputs=outputs - by_class(self.form.offset, outputs))


class _SmallSums(_Small, _Sums):
    """:class:`_Sums` of small outputs."""

    def __init__(self, weight: Tensor, form: SoftmaxForm, highest: Tensor) -> None:
        _Small.__init__(self, form, highest)
        _Sums.__init__(self, weight, form.weight)

    def __call__(self, tile: Tile) -> tuple[Tensor, Tensor | None]:
        assert self.form.offset is not None
        outputs, offset = tile.outputs, self.form.offset.to(tile.outputs)
        own = at_labels(outputs, tile.label).add_(outputs[:, -1]).mul_(LN_2)
        own = own.add_(self.highest).sub_(look_up(offset, tile.label))
        exponentials = outputs.exp2_()
        level = (exponentials[:, -1] * tile.valid).unsqueeze(2)
        sums = torch.bmm(exponentials[:, :-1], level).sum(0).squeeze(1)
        largest = self.highest - self.form.offset
        if not sums_are_exact(sums):
            largest, sums = _sums(self.natural(tile).masked().outputs, tile.valid)
        return self.collect(tile, own, largest, sums), None


class _SmallGradient(_Small):
    """:class:`_Gradient` of small outputs, with m of :class:`_Small` in place of that of each class."""

    def __init__(
        self, form: SoftmaxForm, scale: Tensor | None, slope: Tensor, label_slope: Tensor, highest: Tensor
    ) -> None:
        super().__init__(form, highest)
        self.scale, self.slope, self.label_slope = scale, slope, label_slope

    def __call__(self, tile: Tile) -> tuple[Tensor, Tensor | None]:
        own = at_labels(tile.outputs, tile.label)
        exponentials = tile.outputs.exp2_()
        total = exponentials[:, :-1].sum(1)
        if not sums_are_exact(total):
            assert self.form.offset is not None
            largest = self.highest - self.form.offset
            general = _Gradient(self.form, self.scale, self.slope, self.label_slope, largest)
            value, gradient = general(self.natural(tile))
            return value, None if gradient is None else F.pad(gradient, (0, 0, 0, 1))
        entropy = total.log2().sub_(own).mul_(LN_2)
        value, derivative = self.form.elements(entropy, tile.label, tile.factor())
        if self.scale is None:
            return value, None
        derivative = (derivative * self.scale).to(total.dtype)
        by_pixel = torch.stack([derivative / total, exponentials[:, -1] * tile.valid], 1)
        by_output = torch.stack([torch.ones_like(self.slope), self.slope], 1).to(total)
        exponentials[:, :-1].mul_(torch.matmul(by_output, by_pixel))
        own = derivative + look_up(self.label_slope.to(total), tile.label) * tile.valid
        add_at_labels(exponentials, tile.label, own.neg_())
        return value, exponentials


def _tile_sums(tile: Tile) -> tuple[Tensor, Tensor]:
    """Return :func:`_sums` of a tile, in half of its time unless ignored outputs are far larger."""
    outputs = tile.outputs
    elements = [0, *range(2, outputs.dim())]
    largest = outputs.amax(elements, keepdim=True)
    exponentials = (outputs - largest).exp_()
    if not tile.valid.all():
        exponentials.mul_(tile.valid.unsqueeze(1))
    sums = exponentials.sum(elements)
    if not sums.isfinite().all() or sums.min() < torch.finfo(sums.dtype).tiny ** 0.8:
        return _sums(tile.masked().outputs, tile.valid)
    return largest.flatten(), sums


def _sums(pred: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest output m of each class and the sum of :math:`e^{a - m}`, both (K,)."""
    elements = [0, *range(2, pred.dim())]
    ignored = ~valid.unsqueeze(1)
    largest = pred.detach().masked_fill(ignored, torch.finfo(pred.dtype).min).amax(elements, keepdim=True)
    sums = (pred - largest).masked_fill_(ignored, -torch.inf).exp_().sum(elements)
    return largest.flatten(), sums


def _logarithm(largest: Tensor, sums: Tensor) -> Tensor:
    """Return the log-sum-exp of each class over the valid elements, (K,), finite if there is none.

    As :func:`torch.logsumexp`, with less memory.
    """
    return largest + sums.clamp(min=torch.finfo(sums.dtype).tiny).log()


def _mean_label_output(pred: Tensor, target: Tensor, valid: Tensor, prior: Tensor) -> Tensor:
    r"""Return :math:`\sum_k \pi_k A_k`."""
    if target.dim() == pred.dim():
        elements = [0, *range(2, pred.dim())]
        mass = target.sum(elements)
        return (prior * (target * pred).sum(elements) / (mass + 1e-8)).sum()
    # Counted in integers: float32 stops at 2^24 elements.
    mass = torch.zeros_like(prior, dtype=torch.int64).index_add(0, target.flatten(), valid.flatten().long())
    label_output = pred.gather(1, target.unsqueeze(1)).squeeze(1)
    return ((prior / (mass.to(prior) + 1e-8))[target] * valid * label_output).sum()


def lade_loss(
    pred: Tensor,
    target: Tensor,
    class_counts: Any,
    remine_weight: float = 0.1,
    remine_lambda: float = 0.1,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Return prior cross entropy plus :math:`a` times the regulariser, as :class:`LADELoss`.

    >>> import torch
    >>> lade_loss(torch.zeros(1, 2), torch.tensor([1]), class_counts=[3, 1], remine_weight=0.0)
    tensor(1.3863)

    Args:
        pred: Raw outputs, (N, K, *).
        target: Labels, integer (N, *), or soft labels, (N, K, *).
        class_counts: Training samples :math:`n_k` of each class, (K,).
        remine_weight: :math:`a`, at least 0.
        remine_lambda: :math:`\lambda`, at least 0.
        weight: Factor of each element, (N, *), or of each sample, (N,).
        ignore_index: Label of the elements to leave out.
        reduction: ``'mean'``, ``'sum'``, or ``'none'`` for one loss per element, (N, *).
    """
    return evaluate_once(
        LADELoss,
        pred,
        target,
        weight,
        remine_weight,
        remine_lambda,
        class_counts=class_counts,
        ignore_index=ignore_index,
        reduction=reduction,
    )
