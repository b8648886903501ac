"""Softmax cross entropy, optionally weighted by class."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from mmseol.losses.base.class_loss import Normalize, Reduction, evaluate_once
from mmseol.losses.base.weighted import WeightedClassLoss
from mmseol.losses.ops.autograd import outside_graphs
from mmseol.losses.ops.softmax import SoftmaxForm
from mmseol.registry import MODELS

__all__ = ["CrossEntropyLoss", "cross_entropy", "upsampled_cross_entropy"]


@MODELS.register_module()
class CrossEntropyLoss(WeightedClassLoss):
    r"""Softmax cross entropy :math:`-w_y \log p_y`, optionally weighted by class.

    Ignored elements enter neither the sum nor the divisor (mmseg's own divides by them too unless
    ``avg_non_ignore=True``).

    >>> import torch
    >>> loss = CrossEntropyLoss(class_weight="inverse_frequency", class_counts=[30, 10])
    >>> loss(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]))
    tensor(0.5516)

    Args:
        class_weight: As of :class:`~mmseol.losses.WeightedClassLoss`; so are ``beta`` and ``normalize``.
        class_counts: As of :class:`~mmseol.losses.ClassLoss`; so are the arguments after it.
    """

    exclusive_classes = True

    def softmax_form(self) -> SoftmaxForm:
        """Return the cross entropy itself."""
        return SoftmaxForm()

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the weighted cross entropy of every element, (N, *)."""
        return F.cross_entropy(pred, target, weight=self.class_weight_like(pred), reduction="none")


def cross_entropy(
    pred: Tensor,
    target: Tensor,
    class_weight: Any = None,
    *,
    normalize: Normalize = "weight",
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Return the softmax cross entropy :math:`-w_y \log p_y`, as :class:`CrossEntropyLoss`.

    >>> import torch
    >>> cross_entropy(torch.zeros(2, 4), torch.tensor([0, 255]), ignore_index=255)
    tensor(1.3863)

    Args:
        pred: Raw outputs, (N, K, *).
        target: Labels, integer (N, *), or soft labels, (N, K, *).
        class_weight: Weights :math:`w`, (K,).
        normalize: As of :class:`~mmseol.losses.WeightedClassLoss`.
        weight: Factor of each element, (N, *), or of each sample, (N,).
        ignore_index: Label of the elements to leave out.
        reduction: ``'mean'``, ``'sum'``, or ``'none'`` for one loss per element, (N, *).
    """
    return evaluate_once(
        CrossEntropyLoss,
        pred,
        target,
        weight,
        class_weight,
        normalize=normalize,
        ignore_index=ignore_index,
        reduction=reduction,
    )


@outside_graphs
def upsampled_cross_entropy(
    pred: Tensor,
    target: Tensor,
    class_weight: Any = None,
    *,
    align_corners: bool = False,
    normalize: Normalize = "weight",
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Return the cross entropy of bilinearly upsampled outputs without upsampling all of them at once.

    It takes the place of :func:`torch.nn.functional.interpolate` to the labels' size and
    :func:`torch.nn.functional.cross_entropy`, in less time and a small part of the memory. If all labels are
    ignored, it is 0.

    >>> import torch
    >>> pred, target = torch.zeros(1, 4, 2, 2), torch.zeros(1, 16, 16, dtype=torch.long)
    >>> upsampled_cross_entropy(pred, target, ignore_index=255)
    tensor(1.3863)

    Args:
        pred: Raw outputs, (N, K, h, w).
        target: Labels, integer (N, H, W), or soft labels, (N, K, H, W).
        class_weight: Weights :math:`w`, (K,).
        align_corners: As in :func:`torch.nn.functional.interpolate`.
        normalize: As of :class:`~mmseol.losses.WeightedClassLoss`.
        weight: Factor of each pixel, (N, H, W), or of each sample, (N,).
        ignore_index: Label of the pixels to leave out.
        reduction: ``'mean'``, ``'sum'``, or ``'none'`` for one loss per pixel, (N, H, W).
    """
    loss = CrossEntropyLoss(class_weight, normalize=normalize, ignore_index=ignore_index, reduction=reduction)
    return loss.forward_upsampled(pred, target, align_corners, weight)
