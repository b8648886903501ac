"""Losses that spare the outputs of rare classes the negative gradients of other classes' samples."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmseol.losses.base.class_loss import ClassLoss, Reduction, evaluate_once
from mmseol.losses.ops.binary_cross_entropy import binary_cross_entropy
from mmseol.losses.ops.inputs import by_class
from mmseol.losses.ops.softmax import SoftmaxForm
from mmseol.registry import MODELS
from mmseol.utils.checks import number

__all__ = ["EqualizationLoss", "SigmoidEqualizationLoss", "equalization_loss", "sigmoid_equalization_loss"]


class _TailLoss(ClassLoss):
    """Loss with another equation for the classes below a fraction of the training samples."""

    derived = ("tail",)
    counts_required: ClassVar[bool] = True
    tail: Tensor | None
    """1 for the rare classes, 0 for the others, (K,)."""

    def __init__(
        self,
        threshold: float,
        *,
        class_counts: Any = None,
        ignore_index: int = -100,
        loss_weight: float = 1.0,
        reduction: Reduction = "mean",
        loss_name: str | None = None,
        sync_avg_factor: bool = False,
    ) -> None:
        self._rare: list[int] = []
        self.threshold = number("threshold", threshold, at_least=0, at_most=1)
        super().__init__(
            class_counts=class_counts,
            ignore_index=ignore_index,
            loss_weight=loss_weight,
            reduction=reduction,
            loss_name=loss_name,
            sync_avg_factor=sync_avg_factor,
        )

    def update_from_counts(self, counts: np.ndarray, totals: np.ndarray | None) -> None:
        """Compute which classes are rare, as a mask and as a list."""
        rare = counts / counts.sum() < self.threshold
        self.set_derived("tail", rare)
        self._rare = np.flatnonzero(rare).tolist()


@MODELS.register_module()
class EqualizationLoss(_TailLoss):
    r"""Softmax equalization loss (SEQL): a rare class is left out of most other samples' softmax.

    .. math:: L = -\log \frac{e^{z_y}}{\sum_k w_k e^{z_k}}, \qquad w_k = 1 - \beta\, T_k (1 - t_k)

    where :math:`T_k = 1` for classes with a fraction below ``threshold`` of the training samples and
    :math:`\beta` is 1 with probability ``gamma``, drawn from torch's generator for every element and rare
    class in every training step. In evaluation mode it is plain cross entropy. Soft labels:
    :math:`L = \sum_k t_k (\log \sum_j w_j e^{z_j} - z_k)`.

    Source: Tan et al., "Equalization Loss for Long-Tailed Object Recognition", CVPR 2020, section on image
    classification. The paper writes :math:`\beta` as one random variable; it is drawn per element as in the
    authors' reference. There the threshold is 0.05 on CIFAR-10 and 0.005 on CIFAR-100.

    >>> import torch
    >>> loss = EqualizationLoss(gamma=1.0, class_counts=[50, 49, 1])
    >>> loss(torch.zeros(2, 3), torch.tensor([0, 2]), reduction_override="none")
    tensor([0.6931, 1.0986])

    Args:
        gamma: Probability that a rare class is left out, in [0, 1]; 1 always leaves it out, 0 gives
            cross entropy.
        threshold: Fraction of the training samples below which a class is rare.
        class_counts: As of :class:`~mmseol.losses.ClassLoss`; so are the arguments after it.
    """

    exclusive_classes = True

    def __init__(
        self,
        gamma: float = 0.9,
        threshold: float = 0.05,
        *,
        class_counts: Any = None,
        ignore_index: int = -100,
        loss_weight: float = 1.0,
        reduction: Reduction = "mean",
        loss_name: str | None = None,
        sync_avg_factor: bool = False,
    ) -> None:
        self.gamma = number("gamma", gamma, at_least=0, at_most=1)
        super().__init__(
            threshold,
            class_counts=class_counts,
            ignore_index=ignore_index,
            loss_weight=loss_weight,
            reduction=reduction,
            loss_name=loss_name,
            sync_avg_factor=sync_avg_factor,
        )

    def softmax_form(self) -> SoftmaxForm:
        """Return the cross entropy over the classes that are left in."""
        return SoftmaxForm(factors=self._factors, shift=self._left_in) if self._drops() else SoftmaxForm()

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the cross entropy over the classes that are left in, of every element, (N, *)."""
        if not self._drops():
            return F.cross_entropy(pred, target, reduction="none")
        if target.dim() == pred.dim():
            rare, drawn = self._draw(pred)
            left = (1 - drawn * (1 - target[:, rare])).clamp(min=0)
            return _soft_cross_entropy(pred.index_add(1, rare, left.log()), pred, target)
        return F.cross_entropy(self._left_in(pred, target), target, reduction="none")

    def _drops(self) -> bool:
        """Return whether any class may be left out."""
        return bool(self.training and self._rare and self.gamma > 0)

    def _draw(self, pred: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rare classes, (R,), and whether each is left out of every element, (N, R, *)."""
        rare = torch.tensor(self._rare, device=pred.device)
        shape = (pred.shape[0], rare.numel(), *pred.shape[2:])
        return rare, torch.rand(shape, device=pred.device) < self.gamma  # half the time of `bernoulli_`

    def _factors(self, exponentials: Tensor, total: Tensor, label: Tensor) -> Tensor:
        """Return 0 at the classes that are left out and 1 elsewhere, (N, K, *)."""
        rare, drawn = self._draw(exponentials)
        factors = torch.ones_like(exponentials).index_copy_(1, rare, (~drawn).to(exponentials))
        return factors.scatter_(1, label.unsqueeze(1), 1)

    def _left_in(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the outputs with minus infinity at the classes that are left out."""
        rare, drawn = self._draw(pred)
        # The label itself is never dropped, so that no element loses all classes.
        drawn &= target.unsqueeze(1) != by_class(rare, target.unsqueeze(1))
        dropped = torch.zeros(pred.shape, dtype=torch.bool, device=pred.device)
        dropped[:, rare] = drawn
        return pred.masked_fill(dropped, float("-inf"))


def _soft_cross_entropy(kept: Tensor, pred: Tensor, target: Tensor) -> Tensor:
    """Return sum_k t_k (logsumexp(kept) - z_k), (N, *)."""
    return target.sum(1) * kept.logsumexp(1) - (target * pred).sum(1)


@MODELS.register_module()
class SigmoidEqualizationLoss(_TailLoss):
    r"""Sigmoid equalization loss (EQL): a rare class is no negative of other classes' samples.

    .. math:: L = \sum_k (1 - T_k (1 - t_k))\, \mathrm{BCE}(\sigma(z_k), t_k)

    where :math:`T_k = 1` for classes with a fraction below ``threshold`` of the training samples. Every class
    is a binary problem of its own, and labels may be multi-hot or soft. ``BCEWithLogitsLoss`` averages over
    classes and is 1/K of this where no class is rare.

    Source: Tan et al., CVPR 2020, Eq. (3) and (4), where every sample counts as foreground; the threshold is
    theirs for LVIS.

    >>> import torch
    >>> loss = SigmoidEqualizationLoss(threshold=0.05, class_counts=[50, 49, 1])
    >>> loss(torch.zeros(2, 3), torch.tensor([0, 2]), reduction_override="none")
    tensor([1.3863, 2.0794])

    Args:
        threshold: Fraction of the training samples below which a class is rare.
        class_counts: As of :class:`~mmseol.losses.ClassLoss`; so are the arguments after it.
    """

    def __init__(
        self,
        threshold: float = 0.00177,
        *,
        class_counts: Any = None,
        ignore_index: int = -100,
        loss_weight: float = 1.0,
        reduction: Reduction = "mean",
        loss_name: str | None = None,
        sync_avg_factor: bool = False,
    ) -> None:
        super().__init__(
            threshold,
            class_counts=class_counts,
            ignore_index=ignore_index,
            loss_weight=loss_weight,
            reduction=reduction,
            loss_name=loss_name,
            sync_avg_factor=sync_avg_factor,
        )

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the sum over classes of the remaining binary cross entropies of every element, (N, *)."""
        assert self.tail is not None
        tail = by_class(self.tail, pred)
        if target.dim() == pred.dim():
            weight = 1 - tail * (1 - target)
        else:
            weight = (1 - tail).repeat(pred.shape[0], 1, *pred.shape[2:]).scatter_(1, target.unsqueeze(1), 1)
        return binary_cross_entropy(pred, target, weight)


def equalization_loss(
    pred: Tensor,
    target: Tensor,
    class_counts: Any,
    gamma: float = 0.9,
    threshold: float = 0.05,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Return :math:`-\log \frac{e^{z_y}}{\sum_k w_k e^{z_k}}`, as :class:`EqualizationLoss` in training.

    >>> import torch
    >>> equalization_loss(torch.zeros(1, 3), torch.tensor([0]), class_counts=[50, 49, 1], gamma=1.0)
    tensor(0.6931)

    Args:
        pred: Raw outputs, (N, K, *).
        target: Labels, integer (N, *), or soft labels, (N, K, *).
        class_counts: Training samples of each class, (K,).
        gamma: Probability that a rare class is left out, drawn from torch's generator.
        threshold: Fraction of the training samples below which a class is rare.
        weight: Factor of each element, (N, *), or of each sample, (N,).
        ignore_index: Label of the elements to leave out.
        reduction: ``'mean'``, ``'sum'``, or ``'none'`` for one loss per element, (N, *).
    """
    return evaluate_once(
        EqualizationLoss,
        pred,
        target,
        weight,
        gamma,
        threshold,
        class_counts=class_counts,
        ignore_index=ignore_index,
        reduction=reduction,
    )


def sigmoid_equalization_loss(
    pred: Tensor,
    target: Tensor,
    class_counts: Any,
    threshold: float = 0.00177,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Return :math:`\sum_k (1 - T_k (1 - t_k))\, \mathrm{BCE}(\sigma(z_k), t_k)`.

    As :class:`SigmoidEqualizationLoss`.

    >>> import torch
    >>> sigmoid_equalization_loss(torch.zeros(1, 3), torch.tensor([0]), [50, 49, 1], threshold=0.05)
    tensor(1.3863)

    Args:
        pred: Raw outputs, (N, K, *).
        target: Labels, integer (N, *), or soft or multi-hot labels, (N, K, *).
        class_counts: Training samples of each class, (K,).
        threshold: Fraction of the training samples below which a class is rare.
        weight: Factor of each element, (N, *), or of each sample, (N,).
        ignore_index: Label of the elements to leave out.
        reduction: ``'mean'``, ``'sum'``, or ``'none'`` for one loss per element, (N, *).
    """
    return evaluate_once(
        SigmoidEqualizationLoss,
        pred,
        target,
        weight,
        threshold,
        class_counts=class_counts,
        ignore_index=ignore_index,
        reduction=reduction,
    )
