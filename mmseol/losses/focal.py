"""Focal loss, on the softmax and one class against the rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmseol.losses.base.weighted import WeightedClassLoss
from mmseol.losses.ops.autograd import with_slopes
from mmseol.losses.ops.inputs import chunks, with_channels
from mmseol.registry import MODELS
from mmseol.utils.checks import number

__all__ = ["FocalLoss", "SigmoidFocalLoss"]


def focusing(gamma: float) -> float:
    gamma = number("gamma", gamma)
    if gamma < 0:
        raise ValueError(f"`gamma` must not be negative, got {gamma}. 0 is cross entropy, the paper's is 2.")
    return gamma


def power(miss: Tensor, gamma: float) -> Tensor:
    """Return ``miss ** gamma``; below an exponent of 1 its slope at 0 is infinite, which times 0 is NaN."""
    return miss.clamp_min(torch.finfo(miss.dtype).tiny).pow(gamma) if gamma < 1 else miss.pow(gamma)


@MODELS.register_module()
class FocalLoss(WeightedClassLoss):
    r"""Focal loss on the softmax, :math:`-w_y (1 - p_y)^\gamma \log p_y`.

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, Eq. (4), (5), with the softmax in
    place of their sigmoid (:class:`SigmoidFocalLoss`). Soft labels t: :math:`\sum_k t_k w_k (1 - p_k)^\gamma
    (-\log p_k)`. ``gamma=0`` is :class:`~mmseol.losses.CrossEntropyLoss`.

    Ports of this loss differ in what the modulator :math:`(1 - p)^\gamma` does. With ``weight_in_modulator``
    it is :math:`(1 - e^{-c})^\gamma c` of the weighted :math:`c = -w_y \log p_y`, as in the code of LDAM-DRW
    (with ``normalize='count'``); with ``detach_modulator`` no gradient flows through it. The authors' softmax
    layer in Caffe2 is ``class_weight=[0.75, 0.25, 0.25, ...]``, background first, with the number of
    foreground positions as ``avg_factor``.

    Args:
        gamma: Exponent, not negative: the larger, the less an easy position counts.
        class_weight: As of :class:`~mmseol.losses.WeightedClassLoss`.
        detach_modulator: Whether the modulator is a constant to the gradient.
        weight_in_modulator: Whether the class weight enters the modulator too.
        **kwargs: Class weights, see :class:`~mmseol.losses.WeightedClassLoss`, and arguments of
            every loss, see :class:`~mmseol.losses.ClassLoss`.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        class_weight: Any = None,
        detach_modulator: bool = False,
        weight_in_modulator: bool = False,
        **kwargs: Any,
    ) -> None:
        self.gamma = focusing(gamma)
        self.detach_modulator = detach_modulator
        self.weight_in_modulator = weight_in_modulator
        super().__init__(class_weight, **kwargs)

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the weighted focal loss at every position, (N, *)."""
        weight = self.class_weight_like(pred)
        if target.dim() == pred.dim():
            weight = None if weight is None else weight.view(1, -1, *[1] * (pred.dim() - 2))
            return (target * self._focal(-F.log_softmax(pred, 1), weight)).sum(1)
        entropy = F.cross_entropy(pred, target, reduction="none")
        return self._focal(entropy, None if weight is None else weight[target])

    def _focal(self, entropy: Tensor, weight: Tensor | None) -> Tensor:
        weighted = entropy if weight is None else entropy * weight
        inside = weighted if self.weight_in_modulator else entropy
        modulator = power(-torch.expm1(-inside), self.gamma)  # 1 - p, exact where p is near 1
        return (modulator.detach() if self.detach_modulator else modulator) * weighted


@MODELS.register_module()
class SigmoidFocalLoss(WeightedClassLoss):
    r"""Focal loss of every class against the rest, :math:`w_y \sum_k \alpha_k (1 - q_k)^\gamma (-\log q_k)`.

    :math:`q_k` is :math:`\sigma(a_k)` and :math:`\alpha_k = \alpha` at the label, :math:`1 - \sigma(a_k)` and
    :math:`1 - \alpha` at the other classes; soft and multi-hot labels mix them as
    :func:`torchvision.ops.sigmoid_focal_loss`. The mean runs over valid positions of the sum over classes;
    torchvision's and fvcore's runs over classes too and is 1/K of this. Detectors divide by the positions
    with an object instead: pass their number as ``avg_factor``.

    Source: Lin et al., ICCV 2017, Eq. (4), (5). The class-balanced focal loss of Cui et al., CVPR 2019,
    Eq. (13), is ``alpha=None, gamma=1, class_weight='effective_number', normalize='count'``. Predict with
    argmax.

    Args:
        alpha: Share of the label's own term, in [0, 1]; ``None`` weights all terms by 1 (-1 in fvcore).
        gamma: Exponent, not negative; 0 is binary cross entropy.
        class_weight: As of :class:`~mmseol.losses.WeightedClassLoss`; a position's weight is its
            label's.
        **kwargs: Class weights, see :class:`~mmseol.losses.WeightedClassLoss`, and arguments of
            every loss, see :class:`~mmseol.losses.ClassLoss`.
    """

    def __init__(
        self, alpha: float | None = 0.25, gamma: float = 2.0, class_weight: Any = None, **kwargs: Any
    ) -> None:
        self.gamma = focusing(gamma)
        self.alpha = None if alpha is None else number("alpha", alpha)
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise ValueError(f"`alpha` must lie in [0, 1], or be None for no balance, got {alpha!r}.")
        super().__init__(class_weight, **kwargs)

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the sum over classes at every position, (N, *)."""
        loss = self._soft(pred, target) if target.dim() == pred.dim() else self._hard(pred, target)
        weight = self.weight_of(pred, target)
        return loss if weight is None else loss * weight

    def _hard(self, pred: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            value, slopes = pred.new_empty(target.shape), torch.empty_like(pred)
            for where in chunks(pred):
                part = with_channels(where)
                value[where] = self._piece(pred[part], target[where].unsqueeze(1), slopes[part])
        return with_slopes(value, pred, slopes, 1)

    def _piece(self, outputs: Tensor, index: Tensor, slopes: Tensor) -> Tensor:
        """Return the loss of some positions and write the slopes."""
        other, own = (1.0, 1.0) if self.alpha is None else (1 - self.alpha, self.alpha)
        # The label's output with its sign turned is one more class to push down: no one-hot tensor.
        push = outputs.scatter(1, index, -outputs.gather(1, index))
        miss = push.sigmoid()
        # The default threshold of 20 is too coarse for float64; below 88 the exponential stays finite.
        terms = F.softplus(push, threshold=40)
        # d/da q^g b = q^g (q + g (1 - q) b)
        slope = torch.mul(terms, self.gamma, out=push).lerp_(push.new_ones(()), miss)
        modulator = miss.pow_(self.gamma)
        slope.mul_(modulator)
        terms.mul_(modulator)
        own_slope = slope.gather(1, index)
        slopes.copy_(slope.mul_(other).scatter_(1, index, -own * own_slope))
        return other * terms.sum(1) + (own - other) * terms.gather(1, index).squeeze(1)

    def _soft(self, pred: Tensor, target: Tensor) -> Tensor:
        miss = pred.sigmoid() * (1 - target) + (-pred).sigmoid() * target
        terms = power(miss, self.gamma) * F.binary_cross_entropy_with_logits(pred, target, reduction="none")
        if self.alpha is not None:
            terms = terms * (self.alpha * target + (1 - self.alpha) * (1 - target))
        return terms.sum(1)
