"""The base of the losses that are half squared errors: one pass, and a shortcut for upsampled outputs."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from mmseol.losses.base.class_loss import ClassLoss, Reduction
from mmseol.losses.ops.autograd import outside_graphs, with_gradient
from mmseol.losses.ops.inputs import Labels, check_shapes, expand_weight, is_compiling, lift
from mmseol.losses.ops.squared_error import half_squared_error, half_squared_error_sum
from mmseol.losses.ops.squared_error_upsampled import upsampled_half_squared_error_sum

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
        if is_compiling() or target.dim() == pred.dim() or not _one_pass(weight, reduction):
            return super().evaluate(lift(pred), target, weight, ignore_index, reduction, avg_factor)
        return self._sum(half_squared_error_sum, pred, target, weight, ignore_index, reduction, avg_factor)

    def forward_upsampled(
        self,
        pred: Tensor,
        target: Tensor,
        align_corners: bool = False,
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: Reduction | None = None,
    ) -> Tensor:
        """Return the loss of bilinearly upsampled outputs, exactly, without upsampling them.

        The value and the gradient are those of ``forward(F.interpolate(pred, (H, W), mode='bilinear',
        align_corners=align_corners), target, ...)`` up to rounding, for any two sizes; the cost per pixel
        does not grow with K. Soft labels, ``'none'`` and weights that require a gradient need the upsampled
        outputs, which are then computed.

        >>> import torch
        >>> from mmseol.losses import OneHotMSELoss
        >>> pred, target = torch.zeros(1, 3, 2, 2), torch.ones(1, 8, 8, dtype=torch.long)
        >>> OneHotMSELoss().forward_upsampled(pred, target)
        tensor(0.5000)

        Args:
            pred: Raw outputs, (N, K, h, w).
            target: Labels, integer (N, H, W), or soft or multi-hot labels, (N, K, H, W).
            align_corners: As in :func:`torch.nn.functional.interpolate`.
            weight: Factor of each pixel, (N, H, W), or of each sample, (N,); not in the divisor.
            ignore_index: As in :meth:`forward`.
            avg_factor: As in :meth:`forward`.
            reduction_override: As in :meth:`forward`.

        Returns:
            A scalar, or (N, H, W) for ``'none'``.

        Raises:
            ValueError: As :meth:`forward`.
        """
        if pred.dim() != 4 or target.dim() not in (3, 4):
            raise ValueError(
                "`pred` must be (N, K, h, w) and `target` (N, H, W) or (N, K, H, W), got "
                f"{tuple(pred.shape)} and {tuple(target.shape)}."
            )
        reduction, ignore_index = self.resolve(reduction_override, ignore_index)
        size = target.shape[-2:]
        with torch.autocast(pred.device.type, enabled=False):
            if target.dim() == 4 or size == pred.shape[-2:] or not _one_pass(weight, reduction):
                pred = F.interpolate(lift(pred), size, mode="bilinear", align_corners=align_corners)
                return self(pred, target, weight, ignore_index, avg_factor, reduction)
            check_shapes(pred[..., :1, :1].expand(-1, -1, *size), target, weight)
            self.require_counts(pred.shape[1])
            return self.loss_weight * self._sum(
                upsampled_half_squared_error_sum,
                pred,
                target,
                weight,
                ignore_index,
                reduction,
                avg_factor,
                align_corners=align_corners,
            )

    @outside_graphs  # a graph break, in forward_upsampled only
    def _sum(
        self,
        compute: Callable[..., tuple[Tensor, Tensor | None]],
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None,
        ignore_index: int,
        reduction: Reduction,
        avg_factor: float | Tensor | None,
        **kwargs: Any,
    ) -> Tensor:
        dtype = torch.promote_types(pred.dtype, torch.float32)
        labels = Labels.of(target, pred.shape[1], ignore_index)
        class_weight = self.class_weight_like(lift(pred[:0]))
        if class_weight is not None:
            # Ignored and invalid labels become some class: `compute` ignores or refuses them.
            target = target.long().clamp(0, pred.shape[1] - 1)
            element_weight = class_weight[target]
            if weight is not None:
                element_weight = element_weight * expand_weight(weight, element_weight)
            weight = element_weight
        divisor = self._resolve_divisor(target, labels.valid, reduction, avg_factor, dtype)
        requires_grad = torch.is_grad_enabled() and pred.requires_grad
        value, gradient = _for_device(compute, pred)(
            pred.detach(),
            labels,
            self.target_values_of(pred),
            weight,
            divisor,
            requires_grad,
            **kwargs,
        )
        return with_gradient(pred, value, gradient)


def _for_device(compute: Callable[..., Any], pred: Tensor) -> Callable[..., Any]:
    """Return the Triton version of ``compute`` if it can run here, and ``compute`` otherwise.

    The Triton kernels add atomically, in no fixed order, so they do not run in deterministic mode.
    """
    if not pred.is_cuda or find_spec("triton") is None or torch.are_deterministic_algorithms_enabled():
        return compute
    from mmseol.losses.ops import squared_error_triton as triton  # not at the top: Triton is optional

    versions: dict[Callable[..., Any], Callable[..., Any]] = {
        half_squared_error_sum: triton.half_squared_error_sum,
        upsampled_half_squared_error_sum: triton.upsampled_half_squared_error_sum,
    }
    return versions[compute]


def _one_pass(weight: Tensor | None, reduction: Reduction) -> bool:
    return reduction != "none" and not (weight is not None and weight.requires_grad)
