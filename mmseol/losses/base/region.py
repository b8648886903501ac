"""The base of region losses: one value per class, computed from all of its pixels together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor

from mmseol.losses.base.class_loss import Normalize, Reduction
from mmseol.losses.base.tiled import evaluate_tiles, fits_tiles, is_large
from mmseol.losses.base.weighted import WeightedClassLoss
from mmseol.losses.ops.inputs import expand_weight, is_compiling, mask_ignored
from mmseol.utils.checks import boolean

__all__ = ["RegionLoss"]

Classes = Literal["present", "all"] | Sequence[int]


class RegionLoss(WeightedClassLoss):
    r"""Loss that compares, class by class, the predicted region with the labelled one over the whole batch.

    Ignored pixels enter no term. ``'mean'`` averages over classes, weighted by ``class_weight`` if given
    (``normalize='count'`` divides by the number of classes all the same); ``'sum'`` adds them up; ``'none'``
    returns them, (K,), or (N, K) with ``per_image``, 0 for classes that do not count. A pixel's ``weight``
    multiplies its part of every sum over pixels: weight 2 counts it twice, 0 ignores it. ``avg_factor`` is
    ignored, because the loss is no sum over pixels.

    A subclass writes its equation in :meth:`class_losses`.

    >>> import torch
    >>> class CountDifference(RegionLoss):
    ...     def class_losses(self, pred, target, pixel_weight):
    ...         labelled = torch.nn.functional.one_hot(target, pred.shape[1]).movedim(-1, 1)
    ...         areas = [(area * pixel_weight[:, None]).sum((0, 2)) for area in (pred.softmax(1), labelled)]
    ...         return (areas[0] - areas[1]).abs()[None], (areas[1] > 0)[None]
    >>> CountDifference()(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 0, 1]]))
    tensor(1.)

    Args:
        classes: Classes that count: those ``'present'`` in the labels, ``'all'``, or the classes of a
            sequence, present or not.
        per_image: Whether a region ends at the image; the loss is then the mean over the images with a
            valid pixel.
        class_weight: Factor of each class's loss, given as of :class:`~mmseol.losses.WeightedClassLoss`;
            so are ``beta`` and ``normalize``.
        class_counts: As of :class:`~mmseol.losses.ClassLoss`; so are the arguments after it.
    """

    takes_avg_factor: ClassVar[bool] = False

    def __init__(
        self,
        classes: Classes = "present",
        per_image: bool = False,
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
        if classes not in ("present", "all") and (isinstance(classes, str) or not _are_classes(classes)):
            raise ValueError(
                f"`classes` must be 'present', 'all' or different classes as numbers, got {classes!r}."
            )
        self.classes = classes if isinstance(classes, str) else tuple(classes)
        self.per_image = boolean("per_image", per_image)
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

    def class_losses(self, pred: Tensor, target: Tensor, pixel_weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of every class and the mask of the classes present in the labels.

        Args:
            pred: Raw outputs, (N, K, *); zero where ignored.
            target: Labels, (N, *), 0 where ignored; or soft labels, (N, K, *).
            pixel_weight: Weight of each pixel, (N, *); 0 where ignored.

        Returns:
            Losses and presence, both (N, K) with ``per_image``, else (1, K).
        """
        raise NotImplementedError

    def chosen_classes(self, num_classes: int) -> list[int]:
        """Return the classes among ``num_classes`` that the argument ``classes`` selects."""
        if isinstance(self.classes, str):
            return list(range(num_classes))
        if max(self.classes) >= num_classes:
            raise ValueError(
                f"`classes` must lie in [0, {num_classes}), the classes of `pred`, got {max(self.classes)}."
            )
        return list(self.classes)

    def evaluate(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None,
        ignore_index: int,
        reduction: Reduction,
        avg_factor: float | Tensor | None,
    ) -> Tensor:
        """Return the mean over classes, their sum, or one loss per class; arguments as in the base."""
        if is_large(pred) and not is_compiling() and fits_tiles(self, target, pred.dim(), weight, reduction):
            return evaluate_tiles(self, pred, target, weight, ignore_index, reduction, avg_factor)
        pred, target, valid = mask_ignored(pred, target, ignore_index)
        pixel_weight = valid.to(pred.dtype)
        if weight is not None:
            pixel_weight = pixel_weight * expand_weight(weight, pixel_weight)
        losses, present = self.class_losses(pred, target, pixel_weight)
        return self.over_classes(losses.to(pred.dtype), present, reduction)

    def over_classes(self, losses: Tensor, present: Tensor, reduction: Reduction) -> Tensor:
        """Return the mean over classes, their sum, or one loss per class.

        Args:
            losses: Loss of every class, (N, K) with ``per_image``, else (1, K).
            present: Mask of the classes present in the labels, likewise.
            reduction: As of the base.
        """
        not_empty = present.any(1, keepdim=True)
        counted = present
        if self.classes != "present":
            chosen = torch.zeros_like(present[0])
            chosen[self.chosen_classes(losses.shape[1])] = True
            counted = chosen & not_empty
        losses = torch.where(counted, losses, 0)
        class_weight = self.class_weight_like(losses)
        if class_weight is not None:
            losses = losses * class_weight
        if reduction == "none":
            return losses if self.per_image else losses[0]
        if reduction == "sum":
            return losses.sum()
        class_factor = counted.to(losses.dtype)
        if class_weight is not None and self.normalize == "weight":
            class_factor = class_factor * class_weight
        images = not_empty.sum().to(losses.dtype)
        if self.sync_avg_factor:
            all_reduce(images, op="mean")
        return (losses.sum(1) / nonzero(class_factor.sum(1))).sum() / nonzero(images)


def nonzero(divisor: Tensor) -> Tensor:
    """Replace 0 by 1 in a divisor."""
    return torch.where(divisor == 0, 1, divisor)


def over_ranks(sums: Tensor) -> Tensor:
    """Add the sums of all ranks; the gradient, averaged over ranks, is that of one process."""
    total = sums.detach().clone()
    all_reduce(total)
    return total + get_world_size() * (sums - sums.detach())


def _are_classes(classes: Any) -> bool:
    numbers = isinstance(classes, Sequence) and all(type(k) is int and k >= 0 for k in classes)
    return numbers and 0 < len(classes) == len(set(classes))
