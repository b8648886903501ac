"""The base of the losses that are half squared errors: one pass, and a shortcut for upsampled outputs."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from mmseol.losses.base.class_loss import ClassLoss, Reduction
from mmseol.losses.base.tiled import evaluate_tiles, fits_tiles
from mmseol.losses.ops.compiled_versions import for_device
from mmseol.losses.ops.inputs import expand_weight, is_compiling, lift
from mmseol.losses.ops.squared_error import half_squared_error, half_squared_error_sum
from mmseol.losses.ops.squared_error_upsampled import upsampled_half_squared_error_sum
from mmseol.losses.ops.tiles import LabelGrid

__all__ = ["QuadraticLoss"]


class QuadraticLoss(ClassLoss):
    r"""Loss :math:`\sum_k \frac12 (a_k - v_y [k = y])^2` of raw outputs :math:`a` for some targets v.

    For integer labels, value and gradient are computed together in one pass, which allocates little beside
    the gradient. Soft labels, ``reduction='none'``, compiled code and weights that require a gradient
    use the general path of every loss.

    >>> import torch
    >>> class TwiceOneHot(QuadraticLoss):
    ...     def target_values_of(self, pred):
    ...         return torch.full((pred.shape[1],), 2.0)
    >>> TwiceOneHot()(torch.tensor([[0.0, 2.0], [1.0, 2.0]]), torch.tensor([1, 1]))
    tensor(0.2500)
    """

    exclusive_classes = True
    lifts_precision = True
    adds_elements = True  # its `evaluate` is a faster way to do so
    curvature: ClassVar[float] = 1.0
    """Second derivative of the loss of one element in its output."""

    def target_values_of(self, pred: Tensor) -> Tensor:
        """Return the target value :math:`v_k` of each class, (K,)."""
        raise NotImplementedError

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the half squared error of every element, (N, *)."""
        return half_squared_error(pred, target, self.target_values_of(pred).to(pred))

    def evaluate(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None,
        ignore_index: int,
        reduction: Reduction,
        avg_factor: float | Tensor | None,
    ) -> Tensor:
        """Return the loss before ``loss_weight``, with its gradient computed in the same pass if possible."""
        if is_compiling() or not fits_tiles(self, target, pred.dim(), weight, reduction):
            return super().evaluate(lift(pred), target, weight, ignore_index, reduction, avg_factor)
        return evaluate_tiles(self, pred, target, weight, ignore_index, reduction, avg_factor)

    def evaluate_grid(
        self, grid: LabelGrid, reduction: Reduction, avg_factor: float | Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the loss and its gradient; the cost per pixel of upsampled outputs does not grow with K."""
        target, weight, pred = grid.labels.target, grid.weight, grid.pred
        class_weight = self.class_weight_like(lift(pred[:0]))
        if class_weight is not None:
            # Ignored and invalid labels become some class: `compute` ignores or refuses them.
            target = target.long().clamp(0, pred.shape[1] - 1)
            element_weight = class_weight[target]
            if weight is not None:
                element_weight = element_weight * expand_weight(weight, element_weight)
            weight = element_weight
        divisor = self._resolve_divisor(target, grid.labels.valid, reduction, avg_factor, grid.dtype)
        values, given = self.target_values_of(pred), (weight, divisor, grid.requires_grad)
        if grid.same_size:
            return for_device(half_squared_error_sum, pred)(pred, grid.labels, values, *given)
        compute = for_device(upsampled_half_squared_error_sum, pred)
        return compute(pred, grid.labels, values, *given, align_corners=grid.align_corners)
