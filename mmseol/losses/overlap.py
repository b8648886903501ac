"""Dice, IoU and Tversky losses on the softmax."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function

from mmseol.losses.base.class_loss import Normalize, Reduction, evaluate_once
from mmseol.losses.base.region import Classes, RegionLoss, nonzero, over_ranks
from mmseol.losses.ops.inputs import chunks, with_channels
from mmseol.registry import MODELS
from mmseol.utils.checks import number

__all__ = [
    "DiceLoss",
    "IoULoss",
    "OverlapLoss",
    "TverskyLoss",
    "dice_loss",
    "iou_loss",
    "tversky_loss",
]


class OverlapLoss(RegionLoss):
    r"""One minus a ratio of sums over pixels: intersection, predicted and labelled region of each class.

    With ``sync_avg_factor=True`` the sums are those of all ranks, so that value and averaged gradient are
    those of one process with the whole batch.

    >>> class LargerRegionLoss(OverlapLoss):
    ...     def ratio(self, overlap, predicted, labelled):
    ...         return overlap, torch.maximum(predicted, labelled)
    >>> LargerRegionLoss()(torch.zeros(1, 2, 2), torch.tensor([[0, 0]]))
    tensor(0.5000)

    Args:
        power: Exponent of probabilities and labels in the regions' sizes, 1 or 2.
        smooth: Constant in numerator and denominator, or the two constants. Without it an absent class that
            counts (``classes='all'``) has loss 0, as in segmentation_models.pytorch, otherwise its own value.
        classes: As of :class:`~mmseol.losses.RegionLoss`; so are ``per_image`` and ``class_weight``.
        class_counts: As of :class:`~mmseol.losses.ClassLoss`; so are the arguments after it.
    """

    exclusive_classes = True

    def __init__(
        self,
        power: Literal[1, 2] = 1,
        smooth: float | tuple[float, float] = 0.0,
        *,
        classes: Classes = "present",
        per_image: bool = False,
        class_weight: Any = None,
        beta: float = 0.9999,
        normalize: Normalize = "weight",
        class_counts: Any = None,
        ignore_index: int = -100,
        loss_weight: float = 1.0,
        reduction: Reduction = "mean",
        loss_name: str | None = None,
        sync_avg_factor: bool = False,
    ) -> None:
        if power not in (1, 2):
            raise ValueError(f"`power` must be 1 or 2, got {power!r}.")
        pair = smooth if isinstance(smooth, (tuple, list)) else (smooth, smooth)
        self.power = int(power)
        self.smooth = tuple(number("smooth", value, at_least=0) for value in pair)
        if len(self.smooth) != 2:
            raise ValueError(f"`smooth` must be a number or two, none negative, got {smooth!r}.")
        super().__init__(
            classes=classes,
            per_image=per_image,
            class_weight=class_weight,
            beta=beta,
            normalize=normalize,
            class_counts=class_counts,
            ignore_index=ignore_index,
            loss_weight=loss_weight,
            reduction=reduction,
            loss_name=loss_name,
            sync_avg_factor=sync_avg_factor,
        )

    def ratio(self, overlap: Tensor, predicted: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return numerator and denominator of the overlap.

        Args:
            overlap: :math:`\sum p t` of each class, (B, K).
            predicted: :math:`\sum p^{power}`, (B, K).
            labelled: :math:`\sum t^{power}`, (B, K).
        """
        raise NotImplementedError

    def class_losses(self, pred: Tensor, target: Tensor, pixel_weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 - overlap of every class and the mask of the classes present, (B, K)."""
        sums = region_sums(pred, target, pixel_weight, self.power)
        if not self.per_image:
            sums = sums.sum(1, keepdim=True)
            sums = over_ranks(sums) if self.sync_avg_factor else sums
        # Not 0: the gradient of a class with less soft labels than this, 1 / sum, would overflow.
        present = sums[2] > torch.finfo(pred.dtype).tiny ** 0.75
        numerator, denominator = self.ratio(*sums.unbind())
        losses = 1 - (numerator + self.smooth[0]) / nonzero(denominator + self.smooth[1])
        return (losses if any(self.smooth) else torch.where(present, losses, 0)), present


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


@MODELS.register_module()
class DiceLoss(OverlapLoss):
    r"""Dice loss :math:`1 - 2 \sum p t / (\sum p^2 + \sum t^2)` of each class, averaged over classes.

    Source: Milletari et al., "V-Net", 3DV 2016, for one class. ``power=1`` is the linear union of
    segmentation_models.pytorch (with ``classes='all'``) and of MONAI (``classes='all', per_image=True,
    smooth=1e-5``; its squared form is ``power=2``). mmseg's own is another loss: one ratio over all classes.

    >>> DiceLoss()(torch.tensor([[[90.0, 0.0], [0.0, 90.0]]]), torch.tensor([[0, 1]]))
    tensor(0.)

    Args:
        power: 2 (the paper) or 1.
        smooth: As of :class:`OverlapLoss`.
        classes: As of :class:`~mmseol.losses.RegionLoss`; so are ``per_image`` and ``class_weight``.
        class_counts: As of :class:`~mmseol.losses.ClassLoss`; so are the arguments after it.
    """

    def __init__(
        self,
        power: Literal[1, 2] = 2,
        smooth: float | tuple[float, float] = 0.0,
        *,
        classes: Classes = "present",
        per_image: bool = False,
        class_weight: Any = None,
        beta: float = 0.9999,
        normalize: Normalize = "weight",
        class_counts: Any = None,
        ignore_index: int = -100,
        loss_weight: float = 1.0,
        reduction: Reduction = "mean",
        loss_name: str | None = None,
        sync_avg_factor: bool = False,
    ) -> None:
        super().__init__(
            power,
            smooth,
            classes=classes,
            per_image=per_image,
            class_weight=class_weight,
            beta=beta,
            normalize=normalize,
            class_counts=class_counts,
            ignore_index=ignore_index,
            loss_weight=loss_weight,
            reduction=reduction,
            loss_name=loss_name,
            sync_avg_factor=sync_avg_factor,
        )

    def ratio(self, overlap: Tensor, predicted: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
        """Return twice the overlap, and the sum of both regions."""
        return 2 * overlap, predicted + labelled


@MODELS.register_module()
class IoULoss(OverlapLoss):
    r"""IoU loss :math:`1 - \sum p t / \sum (p + t - p t)` of each class, averaged over classes.

    Source: Rahman & Wang, "Optimizing Intersection-Over-Union in Deep Neural Networks for Image
    Segmentation", ISVC 2016, Eq. (3)-(5), for one class. Some ports square the probabilities (``power=2``).

    >>> IoULoss()(torch.zeros(1, 2, 2), torch.tensor([[0, 0]]))
    tensor(0.5000)

    Args:
        power: As of :class:`OverlapLoss`; so is ``smooth``.
        classes: As of :class:`~mmseol.losses.RegionLoss`; so are ``per_image`` and ``class_weight``.
        class_counts: As of :class:`~mmseol.losses.ClassLoss`; so are the arguments after it.
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

    >>> TverskyLoss(alpha=1.0, beta=1.0)(torch.zeros(1, 2, 2), torch.tensor([[0, 0]]))
    tensor(0.5000)

    Args:
        alpha: Cost of false positives, not negative.
        beta: Cost of false negatives, not negative; above alpha it favours recall. It is not the effective
            number's: ``class_weight='effective_number'`` has its default of 0.9999 here.
        smooth: As of :class:`OverlapLoss`.
        classes: As of :class:`~mmseol.losses.RegionLoss`; so are ``per_image`` and ``class_weight``.
        class_counts: As of :class:`~mmseol.losses.ClassLoss`; so are the arguments after it.
    """

    def __init__(
        self,
        alpha: float = 0.3,
        beta: float = 0.7,
        smooth: float | tuple[float, float] = 0.0,
        *,
        classes: Classes = "present",
        per_image: bool = False,
        class_weight: Any = None,
        normalize: Normalize = "weight",
        class_counts: Any = None,
        ignore_index: int = -100,
        loss_weight: float = 1.0,
        reduction: Reduction = "mean",
        loss_name: str | None = None,
        sync_avg_factor: bool = False,
    ) -> None:
        # Not under their own names: `beta` belongs to the class weights in the base.
        self.costs = number("alpha", alpha, at_least=0), number("beta", beta, at_least=0)
        if not any(self.costs):
            raise ValueError(
                f"`alpha` and `beta` must not be negative nor both 0, got alpha={alpha!r}, beta={beta!r}."
            )
        super().__init__(
            1,
            smooth,
            classes=classes,
            per_image=per_image,
            class_weight=class_weight,
            normalize=normalize,
            class_counts=class_counts,
            ignore_index=ignore_index,
            loss_weight=loss_weight,
            reduction=reduction,
            loss_name=loss_name,
            sync_avg_factor=sync_avg_factor,
        )

    def ratio(self, overlap: Tensor, predicted: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
        """Return the true positives, and the true positives plus the weighted errors."""
        errors = self.costs[0] * (predicted - overlap) + self.costs[1] * (labelled - overlap)
        return overlap, overlap + errors


def dice_loss(
    pred: Tensor,
    target: Tensor,
    power: Literal[1, 2] = 2,
    smooth: float | tuple[float, float] = 0.0,
    *,
    classes: Classes = "present",
    per_image: bool = False,
    class_weight: Any = None,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Return :math:`1 - 2 \sum p t / (\sum p^2 + \sum t^2)`, averaged over classes, as :class:`DiceLoss`.

    >>> dice_loss(torch.zeros(1, 2, 2), torch.tensor([[0, 0]]), power=1)
    tensor(0.3333)

    Args:
        pred: Raw outputs, (N, K, *).
        target: Labels, integer (N, *), or soft labels, (N, K, *).
        power: Exponent of probabilities and labels in the denominator, 1 or 2.
        smooth: As of :class:`OverlapLoss`.
        classes: As of :class:`~mmseol.losses.RegionLoss`; so are ``per_image`` and ``class_weight``.
        weight: Weight of each pixel, (N, *), or of each sample, (N,).
        ignore_index: Label of the pixels to leave out.
        reduction: ``'mean'``, ``'sum'``, or ``'none'`` for one loss per class, (K,) or (N, K).
    """
    return evaluate_once(
        DiceLoss,
        pred,
        target,
        weight,
        power,
        smooth,
        classes=classes,
        per_image=per_image,
        class_weight=class_weight,
        ignore_index=ignore_index,
        reduction=reduction,
    )


def iou_loss(
    pred: Tensor,
    target: Tensor,
    power: Literal[1, 2] = 1,
    smooth: float | tuple[float, float] = 0.0,
    *,
    classes: Classes = "present",
    per_image: bool = False,
    class_weight: Any = None,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Return :math:`1 - \sum p t / \sum (p + t - p t)`, averaged over classes, as :class:`IoULoss`.

    >>> iou_loss(torch.zeros(1, 2, 2), torch.tensor([[0, 0]]))
    tensor(0.5000)

    Args:
        pred: Raw outputs, (N, K, *).
        target: Labels, integer (N, *), or soft labels, (N, K, *).
        power: As of :class:`OverlapLoss`; so is ``smooth``.
        classes: As of :class:`~mmseol.losses.RegionLoss`; so are ``per_image`` and ``class_weight``.
        weight: Weight of each pixel, (N, *), or of each sample, (N,).
        ignore_index: Label of the pixels to leave out.
        reduction: ``'mean'``, ``'sum'``, or ``'none'`` for one loss per class, (K,) or (N, K).
    """
    return evaluate_once(
        IoULoss,
        pred,
        target,
        weight,
        power,
        smooth,
        classes=classes,
        per_image=per_image,
        class_weight=class_weight,
        ignore_index=ignore_index,
        reduction=reduction,
    )


def tversky_loss(
    pred: Tensor,
    target: Tensor,
    alpha: float = 0.3,
    beta: float = 0.7,
    smooth: float | tuple[float, float] = 0.0,
    *,
    classes: Classes = "present",
    per_image: bool = False,
    class_weight: Any = None,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Return :math:`1 - TP / (TP + \alpha FP + \beta FN)`, averaged over classes, as :class:`TverskyLoss`.

    >>> tversky_loss(torch.zeros(1, 2, 2), torch.tensor([[0, 0]]), alpha=1.0, beta=1.0)
    tensor(0.5000)

    Args:
        pred: Raw outputs, (N, K, *).
        target: Labels, integer (N, *), or soft labels, (N, K, *).
        alpha: Cost of false positives, not negative.
        beta: Cost of false negatives, not negative.
        smooth: As of :class:`OverlapLoss`.
        classes: As of :class:`~mmseol.losses.RegionLoss`; so are ``per_image`` and ``class_weight``.
        weight: Weight of each pixel, (N, *), or of each sample, (N,).
        ignore_index: Label of the pixels to leave out.
        reduction: ``'mean'``, ``'sum'``, or ``'none'`` for one loss per class, (K,) or (N, K).
    """
    return evaluate_once(
        TverskyLoss,
        pred,
        target,
        weight,
        alpha,
        beta,
        smooth,
        classes=classes,
        per_image=per_image,
        class_weight=class_weight,
        ignore_index=ignore_index,
        reduction=reduction,
    )
