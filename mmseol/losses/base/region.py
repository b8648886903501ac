"""Losses of regions: one value per class, from all of its pixels together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor

from mmseol.losses.base.class_loss import Reduction
from mmseol.losses.base.weighted import WeightedClassLoss
from mmseol.losses.ops.inputs import expand_weight, mask_ignored

__all__ = ["RegionLoss"]

Classes = Literal["present", "all"] | Sequence[int]


class RegionLoss(WeightedClassLoss):
    r"""Loss that compares, class by class, the predicted region with the labelled one over the whole batch.

    Ignored pixels enter no term. ``'mean'`` averages over classes, weighted by ``class_weight`` if given
    (``normalize='count'`` divides by their number nevertheless); ``'sum'`` adds them up; ``'none'`` returns
    them, (K,), or (N, K) with ``per_image``, 0 where not counted. A pixel's ``weight`` multiplies its part
    in every sum over pixels: weight 2 counts it twice, 0 ignores it. ``avg_factor`` is ignored: nothing here
    is a sum over positions.

    Args:
        classes: Which classes count: those ``'present'`` in the labels, ``'all'``, or the classes of a
            sequence, present or not.
        per_image: Whether regions end at the image: the mean over the images with a valid pixel.
        class_weight: As of :class:`~mmseol.losses.WeightedClassLoss`, a factor of each class's loss.
        **kwargs: Class weights, see :class:`~mmseol.losses.WeightedClassLoss`, and arguments of
            every loss, see :class:`~mmseol.losses.ClassLoss`.
    """

    takes_avg_factor: ClassVar[bool] = False

    def __init__(
        self,
        classes: Classes = "present",
        per_image: bool = False,
        class_weight: Any = None,
        **kwargs: Any,
    ) -> None:
        if classes not in ("present", "all") and (isinstance(classes, str) or not _are_classes(classes)):
            raise ValueError(
                f"`classes` must be 'present', 'all' or different classes as numbers, got {classes!r}."
            )
        self.classes = classes if isinstance(classes, str) else tuple(classes)
        self.per_image = per_image
        super().__init__(class_weight, **kwargs)

    def class_losses(self, pred: Tensor, target: Tensor, measure: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of every class and which are present in the labels.

        Args:
            pred: Raw outputs, (N, K, *); zero where ignored.
            target: Labels, (N, *), 0 where ignored; or soft labels, (N, K, *).
            measure: How much each position counts, (N, *); 0 where ignored.

        Returns:
            Losses and presence, both (N, K) with ``per_image``, else (1, K).
        """
        raise NotImplementedError

    def chosen_classes(self, num_classes: int) -> list[int]:
        """Return the classes that may count among ``num_classes``."""
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
        """Return the mean over classes, their sum, or all; arguments as in the base."""
        pred, target, valid = mask_ignored(pred, target, ignore_index)
        measure = valid.to(pred.dtype)
        if weight is not None:
            measure = measure * expand_weight(weight, measure)
        losses, present = self.class_losses(pred, target, measure)
        losses = losses.to(pred.dtype)
        some = present.any(1, keepdim=True)
        counted = present
        if self.classes != "present":
            chosen = torch.zeros_like(present[0])
            chosen[self.chosen_classes(pred.shape[1])] = True
            counted = chosen & some
        losses = torch.where(counted, losses, 0)
        class_weight = self.class_weight_like(losses)
        if class_weight is not None:
            losses = losses * class_weight
        if reduction == "none":
            return losses if self.per_image else losses[0]
        if reduction == "sum":
            return losses.sum()
        share = counted.to(losses.dtype)
        if class_weight is not None and self.normalize == "weight":
            share = share * class_weight
        images = some.sum().to(losses.dtype)
        if self.sync_avg_factor:
            all_reduce(images, op="mean")
        return (losses.sum(1) / nonzero(share.sum(1))).sum() / nonzero(images)


def nonzero(divisor: Tensor) -> Tensor:
    """Return the divisor with 1 for 0."""
    return torch.where(divisor == 0, 1, divisor)


def over_ranks(sums: Tensor) -> Tensor:
    """Return the sums of all ranks, with the gradient that, averaged over ranks, is that of one process."""
    total = sums.detach().clone()
    all_reduce(total)
    return total + get_world_size() * (sums - sums.detach())


def _are_classes(classes: Any) -> bool:
    numbers = isinstance(classes, Sequence) and all(type(k) is int and k >= 0 for k in classes)
    return numbers and 0 < len(classes) == len(set(classes))
