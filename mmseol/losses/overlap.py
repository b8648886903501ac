"""Dice, IoU and Tversky losses on the softmax."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function

from mmseol.losses.base.region import RegionLoss, nonzero, over_ranks
from mmseol.losses.ops.inputs import chunks, with_channels
from mmseol.registry import MODELS
from mmseol.utils.checks import number

__all__ = ["DiceLoss", "IoULoss", "OverlapLoss", "TverskyLoss"]


class OverlapLoss(RegionLoss):
    r"""One minus a ratio of sums over pixels: intersection, predicted and labelled region of each class.

    With ``sync_avg_factor=True`` the sums are those of all ranks, so that value and averaged gradient are
    those of one process with the whole batch.

    Args:
        power: Exponent of probabilities and labels in the regions' sizes, 1 or 2.
        smooth: Constant in numerator and denominator, or the two constants. Without it an absent class that
            counts (``classes='all'``) has loss 0, as in segmentation_models.pytorch, otherwise its own value.
        **kwargs: ``classes``, ``per_image`` and class weights, see
            :class:`~mmseol.losses.base.region.RegionLoss`, and arguments of every loss.
    """

    def __init__(
        self, power: Literal[1, 2] = 1, smooth: float | tuple[float, float] = 0.0, **kwargs: Any
    ) -> None:
        if power not in (1, 2):
            raise ValueError(f"`power` must be 1 or 2, got {power!r}.")
        pair = smooth if isinstance(smooth, (tuple, list)) else (smooth, smooth)
        self.power = int(power)
        self.smooth = tuple(number("smooth", value) for value in pair)
        if len(self.smooth) != 2 or min(self.smooth) < 0:
            raise ValueError(f"`smooth` must be a number or two, none negative, got {smooth!r}.")
        super().__init__(**kwargs)

    def ratio(self, overlap: Tensor, predicted: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return numerator and denominator of the overlap.

        Args:
            overlap: :math:`\sum p t` of each class, (B, K).
            predicted: :math:`\sum p^{power}`, (B, K).
            labelled: :math:`\sum t^{power}`, (B, K).
        """
        raise NotImplementedError

    def class_losses(self, pred: Tensor, target: Tensor, measure: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 - overlap of every class and which are present, (B, K)."""
        sums = region_sums(pred, target, measure, self.power)
        if not self.per_image:
            sums = sums.sum(1, keepdim=True)
            sums = over_ranks(sums) if self.sync_avg_factor else sums
        present = sums[2] > 0
        above, below = self.ratio(*sums.unbind())
        losses = 1 - (above + self.smooth[0]) / nonzero(below + self.smooth[1])
        return (losses if any(self.smooth) else torch.where(present, losses, 0)), present


def region_sums(pred: Tensor, target: Tensor, measure: Tensor, power: int) -> Tensor:
    r"""Return :math:`\sum m p t, \sum m p^{power}, \sum m t^{power}`, float64 (3, N, K)."""
    n, k = pred.shape[:2]
    prob = pred.softmax(1).reshape(n, k, -1)
    measure = measure.reshape(n, 1, -1)
    if target.dim() == pred.dim():
        soft = target.reshape(n, k, -1)
        sums = [prob * (soft * measure), prob**power * measure, soft**power * measure]
        return torch.stack([values.sum(2) for values in sums]).double()
    return _RegionSums.apply(prob, target.reshape(n, 1, -1), measure, power)


class _RegionSums(Function):
    """The sums for labels, their gradient written once: automatic ones would be one copy for each sum."""

    @staticmethod
    def forward(ctx: Any, prob: Tensor, target: Tensor, measure: Tensor, power: int) -> Tensor:
        ctx.save_for_backward(prob, target, measure)
        ctx.power = power
        n, k = prob.shape[:2]
        predicted = prob.new_zeros(n, k)
        for where in chunks(prob):  # no product of all outputs stands in memory
            part, size = prob[with_channels(where)], measure[with_channels(where)]
            predicted[where[0]] += (part * (part * size if power == 2 else size)).sum(2)
        index = (target + k * torch.arange(n, device=target.device).view(n, 1, 1)).flatten()
        # A plain running sum of millions needs float64; torch's own sum above does not.
        parts = torch.stack([prob.gather(1, target) * measure, measure]).double().view(2, -1)
        overlap, labelled = parts.new_zeros(2, n * k).index_add(1, index, parts).view(2, n, k).unbind()
        return torch.stack([overlap, predicted.double(), labelled])

    @staticmethod
    def backward(ctx: Any, factors: Tensor) -> tuple[Tensor, None, None, None]:
        prob, target, measure = ctx.saved_tensors
        by_overlap, by_predicted, _ = factors.to(prob.dtype)
        gradient = by_predicted.unsqueeze(2) * measure
        if ctx.power == 2:
            gradient = gradient.mul_(prob).mul_(2)
        by_overlap = by_overlap.gather(1, target.flatten(1)).unsqueeze(1)
        return gradient.scatter_add_(1, target, by_overlap * measure), None, None, None


@MODELS.register_module()
class DiceLoss(OverlapLoss):
    r"""Dice loss :math:`1 - 2 \sum p t / (\sum p^2 + \sum t^2)` of each class, averaged over classes.

    Source: Milletari et al., "V-Net", 3DV 2016, for one class. ``power=1`` is the linear union of
    segmentation_models.pytorch (with ``classes='all'``) and of MONAI (``classes='all', per_image=True,
    smooth=1e-5``; its squared form is ``power=2``). mmseg's own is another loss: one ratio over all classes.

    Args:
        power: 2 (the paper) or 1.
        **kwargs: ``smooth``, see :class:`OverlapLoss`, and the arguments of
            :class:`~mmseol.losses.base.region.RegionLoss`.
    """

    def __init__(self, power: Literal[1, 2] = 2, **kwargs: Any) -> None:
        super().__init__(power, **kwargs)

    def ratio(self, overlap: Tensor, predicted: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
        """Return twice the overlap and the sum of both regions."""
        return 2 * overlap, predicted + labelled


@MODELS.register_module()
class IoULoss(OverlapLoss):
    r"""IoU loss :math:`1 - \sum p t / \sum (p + t - p t)` of each class, averaged over classes.

    Source: Rahman & Wang, "Optimizing Intersection-Over-Union in Deep Neural Networks for Image
    Segmentation", ISVC 2016, Eq. (3)-(5), for one class. Some ports square the probabilities (``power=2``).

    Args:
        **kwargs: ``power`` and ``smooth``, see :class:`OverlapLoss`, and the arguments of
            :class:`~mmseol.losses.base.region.RegionLoss`.
    """

    def ratio(self, overlap: Tensor, predicted: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
        """Return the intersection and the union."""
        return overlap, predicted + labelled - overlap


@MODELS.register_module()
class TverskyLoss(OverlapLoss):
    r"""Tversky loss :math:`1 - TP / (TP + \alpha FP + \beta FN)` of each class, averaged over classes.

    :math:`TP = \sum p t`, :math:`FP = \sum p (1 - t)`, :math:`FN = \sum (1 - p) t`. With both 0.5 it is the
    linear Dice loss, with both 1 the IoU loss. Ports disagree on which of the two alpha is. mmseg's is
    ``classes='all', per_image=True, smooth=1``.

    Source: Salehi et al., "Tversky loss function for image segmentation using 3D fully convolutional deep
    networks", MLMI 2017.

    Args:
        alpha: Cost of false positives, not negative.
        beta: Cost of false negatives, not negative; above alpha it favours recall. It is not the effective
            number's: ``class_weight='effective_number'`` has its default of 0.9999 here.
        smooth: As of :class:`OverlapLoss`.
        **kwargs: Arguments of :class:`~mmseol.losses.base.region.RegionLoss`.
    """

    def __init__(
        self,
        alpha: float = 0.3,
        beta: float = 0.7,
        smooth: float | tuple[float, float] = 0.0,
        **kwargs: Any,
    ) -> None:
        # Not under their own names: `beta` is the class weights' in the base.
        self.costs = number("alpha", alpha), number("beta", beta)
        if min(self.costs) < 0 or not any(self.costs):
            raise ValueError(
                f"`alpha` and `beta` must not be negative nor both 0, got alpha={alpha!r}, beta={beta!r}."
            )
        super().__init__(1, smooth, **kwargs)

    def ratio(self, overlap: Tensor, predicted: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
        """Return the true positives, alone and with the weighted errors."""
        errors = self.costs[0] * (predicted - overlap) + self.costs[1] * (labelled - overlap)
        return overlap, overlap + errors
