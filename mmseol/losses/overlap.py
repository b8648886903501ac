"""Dice, IoU and Tversky losses on the softmax."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from mmseol.losses.base.class_loss import Normalize, Reduction, evaluate_once
from mmseol.losses.base.region import Classes, RegionLoss, nonzero, over_ranks
from mmseol.losses.ops.region_sums import region_sums, region_sums_gradient_visitor, region_sums_visitor
from mmseol.losses.ops.tiles import LabelGrid
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
        return self._from_sums(region_sums(pred, target, pixel_weight, self.power), pred.dtype)

    def evaluate_grid(
        self, grid: LabelGrid, reduction: Reduction, avg_factor: float | Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the loss and its gradient: one pass over the tiles for the sums, one for the gradient."""
        sums = grid.visit(region_sums_visitor(self.power), requires_grad=False)[0]
        sums = sums.reshape(len(grid.pred), 3, -1).transpose(0, 1).requires_grad_(grid.requires_grad)
        with torch.set_grad_enabled(grid.requires_grad):
            value = self.over_classes(*self._from_sums(sums, grid.dtype), reduction)
        if not grid.requires_grad:
            return value, None
        (factors,) = torch.autograd.grad(value, sums)
        return value.detach(), grid.visit(region_sums_gradient_visitor(factors, self.power))[1]

    def _from_sums(self, sums: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return losses and presence, (B, K), from the sums of :func:`region_sums`."""
        if not self.per_image:
            sums = sums.sum(1, keepdim=True)
            sums = over_ranks(sums) if self.sync_avg_factor else sums
        # Not 0: the gradient of a class with less soft labels than this, 1 / sum, would overflow.
        present = sums[2] > torch.finfo(dtype).tiny ** 0.75
        numerator, denominator = self.ratio(*sums.unbind())
        losses = 1 - (numerator + self.smooth[0]) / nonzero(denominator + self.smooth[1])
        return (losses if any(self.smooth) else torch.where(present, losses, 0)), present


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
