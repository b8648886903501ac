"""Focal loss, on the softmax and of each class against the rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmseol.losses.base.class_loss import Normalize, Reduction, evaluate_once
from mmseol.losses.base.weighted import WeightedClassLoss
from mmseol.losses.ops.autograd import with_elementwise_gradient
from mmseol.losses.ops.inputs import by_class, chunks, with_channels
from mmseol.losses.ops.label_outputs import at_labels, set_at_labels
from mmseol.losses.ops.softmax import SoftmaxForm
from mmseol.losses.ops.softplus import softplus
from mmseol.registry import MODELS
from mmseol.utils.checks import boolean, number

__all__ = ["FocalLoss", "SigmoidFocalLoss", "focal_loss", "sigmoid_focal_loss"]


def power(miss: Tensor, gamma: float) -> Tensor:
    """Return ``miss ** gamma`` with a finite derivative.

    Below an exponent of 1 the derivative at 0 is infinite, and times 0 it would be NaN.

    >>> power(torch.tensor([0.0, 4.0]), 0.5)
    tensor([1.0842e-19, 2.0000e+00])
    """
    return miss.clamp_min(torch.finfo(miss.dtype).tiny).pow(gamma) if gamma < 1 else miss.pow(gamma)


@MODELS.register_module()
class FocalLoss(WeightedClassLoss):
    r"""Focal loss on the softmax, :math:`-w_y (1 - p_y)^\gamma \log p_y`.

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, Eq. (4), (5), with the softmax in
    place of their sigmoid (:class:`SigmoidFocalLoss`). Soft labels t: :math:`\sum_k t_k w_k (1 - p_k)^\gamma
    (-\log p_k)`. ``gamma=0`` is :class:`~mmseol.losses.CrossEntropyLoss`.

    Ports of this loss differ in the modulator :math:`(1 - p)^\gamma`. With ``weight_in_modulator``
    it is :math:`(1 - e^{-c})^\gamma c` of the weighted :math:`c = -w_y \log p_y`, as in the code of LDAM-DRW
    (with ``normalize='count'``); with ``detach_modulator`` no gradient flows through it. The authors' softmax
    layer in Caffe2 is ``class_weight=[0.75, 0.25, 0.25, ...]``, background first, with the number of
    foreground elements as ``avg_factor``.

    >>> FocalLoss(gamma=2.0)(torch.tensor([[0.0, 0.0], [9.0, 0.0]]), torch.tensor([0, 0]))
    tensor(0.0866)

    Args:
        gamma: Exponent, not negative; the larger, the smaller the weight of an easy element. The paper's is
            2, and 0 is cross entropy.
        class_weight: As of :class:`~mmseol.losses.WeightedClassLoss`; so are ``beta`` and ``normalize``.
        detach_modulator: Whether the modulator is a constant to the gradient.
        weight_in_modulator: Whether the class weight enters the modulator too.
        class_counts: As of :class:`~mmseol.losses.ClassLoss`; so are the arguments after it.
    """

    exclusive_classes = True

    def __init__(
        self,
        gamma: float = 2.0,
        class_weight: Any = None,
        detach_modulator: bool = False,
        weight_in_modulator: bool = False,
        *,
        beta: float = 0.9999,
        normalize: Normalize = "weight",
        class_counts: Any = None,
        ignore_index: int = -100,
        loss_weight: float = 1.0,
        reduction: Reduction = "mean",
        loss_name: str | None = None,
        sync_avg_factor: bool = False,
    ) -> None:
        self.gamma = number("gamma", gamma, at_least=0)
        self.detach_modulator = boolean("detach_modulator", detach_modulator)
        self.weight_in_modulator = boolean("weight_in_modulator", weight_in_modulator)
        super().__init__(
            class_weight,
            beta,
            normalize,
            class_counts=class_counts,
            ignore_index=ignore_index,
            loss_weight=loss_weight,
            reduction=reduction,
            loss_name=loss_name,
            sync_avg_factor=sync_avg_factor,
        )

    def softmax_form(self) -> SoftmaxForm:
        """Return the modulated cross entropy."""
        return SoftmaxForm(modulate=self._focal_and_derivative)

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the weighted focal loss of every element, (N, *)."""
        weight = self.class_weight_like(pred)
        if target.dim() == pred.dim():
            weight = None if weight is None else by_class(weight, pred)
            return (target * self._focal(-F.log_softmax(pred, 1), weight)).sum(1)
        entropy = F.cross_entropy(pred, target, reduction="none")
        return self._focal(entropy, None if weight is None else weight[target])

    def _focal(self, entropy: Tensor, weight: Tensor | None) -> Tensor:
        weighted = entropy if weight is None else entropy * weight
        inside = weighted if self.weight_in_modulator else entropy
        modulator = power(-torch.expm1(-inside), self.gamma)  # 1 - p, exact where p is near 1
        return (modulator.detach() if self.detach_modulator else modulator) * weighted

    def _focal_and_derivative(self, entropy: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the loss and its derivative by the cross entropy."""
        weighted = entropy if weight is None else entropy * weight
        half = torch.tanh((weighted if self.weight_in_modulator else entropy) / 2)
        miss = half.mul(2).div_(half.add_(1))  # -expm1(-entropy) within 2e-7, in a third of its time
        modulator = power(miss, self.gamma)
        derivative = modulator
        if not self.detach_modulator:
            slope = power(miss, self.gamma - 1).mul_(1 - miss).mul_(self.gamma).mul_(entropy)
            if self.weight_in_modulator and weight is not None:
                slope *= weight
            derivative = modulator + slope
        return modulator * weighted, derivative if weight is None else derivative * weight


@MODELS.register_module()
class SigmoidFocalLoss(WeightedClassLoss):
    r"""Focal loss of every class against the rest, :math:`w_y \sum_k \alpha_k (1 - q_k)^\gamma (-\log q_k)`.

    :math:`q_k` is :math:`\sigma(a_k)` and :math:`\alpha_k = \alpha` at the label, :math:`1 - \sigma(a_k)` and
    :math:`1 - \alpha` at the other classes; soft and multi-hot labels mix them as
    :func:`torchvision.ops.sigmoid_focal_loss`. The mean runs over valid elements of the sum over classes;
    torchvision's and fvcore's runs over classes too and is 1/K of this. Detectors divide by the elements
    with an object instead: pass their number as ``avg_factor``.

    Source: Lin et al., ICCV 2017, Eq. (4), (5). The class-balanced focal loss of Cui et al., CVPR 2019,
    Eq. (13), is ``alpha=None, gamma=1, class_weight='effective_number', normalize='count'``. Predict with
    argmax.

    >>> SigmoidFocalLoss(alpha=None, gamma=0.0)(torch.zeros(1, 3), torch.tensor([1]))
    tensor(2.0794)

    Args:
        alpha: Weight of the label's term, in [0, 1]; ``None`` weights all terms by 1 (-1 in fvcore).
        gamma: Exponent, not negative; 0 is binary cross entropy.
        class_weight: As of :class:`~mmseol.losses.WeightedClassLoss`, where an element's weight is that of
            its label; so are ``beta`` and ``normalize``.
        class_counts: As of :class:`~mmseol.losses.ClassLoss`; so are the arguments after it.
    """

    def __init__(
        self,
        alpha: float | None = 0.25,
        gamma: float = 2.0,
        class_weight: Any = None,
        *,
        beta: float = 0.9999,
        normalize: Normalize = "weight",
        class_counts: Any = None,
        ignore_index: int = -100,
        loss_weight: float = 1.0,
        reduction: Reduction = "mean",
        loss_name: str | None = None,
        sync_avg_factor: bool = False,
    ) -> None:
        self.gamma = number("gamma", gamma, at_least=0)
        self.alpha = None if alpha is None else number("alpha", alpha, at_least=0, at_most=1)
        super().__init__(
            class_weight,
            beta,
            normalize,
            class_counts=class_counts,
            ignore_index=ignore_index,
            loss_weight=loss_weight,
            reduction=reduction,
            loss_name=loss_name,
            sync_avg_factor=sync_avg_factor,
        )

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the sum over classes of every element, (N, *)."""
        loss = self._soft(pred, target) if target.dim() == pred.dim() else self._hard(pred, target)
        weight = self.weight_of(pred, target)
        return loss if weight is None else loss * weight

    def _hard(self, pred: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            value, gradient = pred.new_empty(target.shape), torch.empty_like(pred)
            for where in chunks(pred):
                channels = with_channels(where)
                value[where] = self._chunk_loss(pred[channels], target[where], gradient[channels])
        return with_elementwise_gradient(pred, value, gradient, 1)

    def _chunk_loss(self, outputs: Tensor, label: Tensor, gradient: Tensor) -> Tensor:
        """Return the loss of the elements of a chunk and write their gradient."""
        negative, positive = (1.0, 1.0) if self.alpha is None else (1 - self.alpha, self.alpha)
        own = at_labels(outputs, label)
        # With the sign of the label's output turned, every class is a negative: no one-hot tensor.
        miss, terms = outputs.sigmoid(), softplus(outputs)
        set_at_labels(miss, label, (-own).sigmoid())
        set_at_labels(terms, label, softplus(-own))
        # d/da q^g b = q^g (q + g (1 - q) b)
        torch.mul(terms, self.gamma, out=gradient).lerp_(gradient.new_ones(()), miss)
        modulator = miss.pow_(self.gamma)
        gradient.mul_(modulator)
        terms.mul_(modulator)
        label_gradient = -positive * at_labels(gradient, label)
        set_at_labels(gradient.mul_(negative), label, label_gradient)
        return negative * terms.sum(1) + (positive - negative) * at_labels(terms, label)

    def _soft(self, pred: Tensor, target: Tensor) -> Tensor:
        miss = pred.sigmoid() * (1 - target) + (-pred).sigmoid() * target
        terms = power(miss, self.gamma) * F.binary_cross_entropy_with_logits(pred, target, reduction="none")
        if self.alpha is not None:
            terms = terms * (self.alpha * target + (1 - self.alpha) * (1 - target))
        return terms.sum(1)


def focal_loss(
    pred: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    class_weight: Any = None,
    *,
    detach_modulator: bool = False,
    weight_in_modulator: bool = False,
    normalize: Normalize = "weight",
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Return :math:`-w_y (1 - p_y)^\gamma \log p_y`, as :class:`FocalLoss`.

    >>> focal_loss(torch.zeros(1, 2), torch.tensor([0]), gamma=2.0)
    tensor(0.1733)

    Args:
        pred: Raw outputs, (N, K, *).
        target: Labels, integer (N, *), or soft labels, (N, K, *).
        gamma: Exponent, not negative; 0 is cross entropy.
        class_weight: Weights :math:`w`, (K,).
        detach_modulator: As of :class:`FocalLoss`; so are ``weight_in_modulator`` and ``normalize``.
        weight: Factor of each element, (N, *), or of each sample, (N,).
        ignore_index: Label of the elements to leave out.
        reduction: ``'mean'``, ``'sum'``, or ``'none'`` for one loss per element, (N, *).
    """
    return evaluate_once(
        FocalLoss,
        pred,
        target,
        weight,
        gamma,
        class_weight,
        detach_modulator,
        weight_in_modulator,
        normalize=normalize,
        ignore_index=ignore_index,
        reduction=reduction,
    )


def sigmoid_focal_loss(
    pred: Tensor,
    target: Tensor,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    class_weight: Any = None,
    *,
    normalize: Normalize = "weight",
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Return :math:`w_y \sum_k \alpha_k (1 - q_k)^\gamma (-\log q_k)`, as :class:`SigmoidFocalLoss`.

    >>> sigmoid_focal_loss(torch.zeros(1, 3), torch.tensor([1]), alpha=None, gamma=0.0)
    tensor(2.0794)

    Args:
        pred: Raw outputs, (N, K, *).
        target: Labels, integer (N, *), or soft or multi-hot labels, (N, K, *).
        alpha: Weight of the label's term, in [0, 1]; ``None`` weights all terms by 1.
        gamma: Exponent, not negative; 0 is binary cross entropy.
        class_weight: Weights :math:`w`, (K,).
        normalize: As of :class:`~mmseol.losses.WeightedClassLoss`.
        weight: Factor of each element, (N, *), or of each sample, (N,).
        ignore_index: Label of the elements to leave out.
        reduction: ``'mean'``, ``'sum'``, or ``'none'`` for one loss per element, (N, *).
    """
    return evaluate_once(
        SigmoidFocalLoss,
        pred,
        target,
        weight,
        alpha,
        gamma,
        class_weight,
        normalize=normalize,
        ignore_index=ignore_index,
        reduction=reduction,
    )
