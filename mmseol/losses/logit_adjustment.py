"""Cross entropy of outputs that the class frequencies shift or scale during training."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from mmseol.counting.counts import at_least_one
from mmseol.losses.base.class_loss import Normalize, Reduction, evaluate_once
from mmseol.losses.base.weighted import WeightedClassLoss
from mmseol.losses.ops.inputs import by_class
from mmseol.losses.ops.softmax import SoftmaxForm
from mmseol.registry import MODELS
from mmseol.utils.checks import number

__all__ = [
    "BalancedSoftmaxLoss",
    "LogitAdjustedLoss",
    "VSLoss",
    "balanced_softmax_loss",
    "logit_adjusted_loss",
    "vs_loss",
]


@MODELS.register_module()
class LogitAdjustedLoss(WeightedClassLoss):
    r"""Logit-adjusted cross entropy :math:`-w_y \log \mathrm{softmax}(z + \tau \log \pi)_y`.

    :math:`\pi_k = n_k / \sum_j n_j` is the fraction of class k in the training data. Equal counts, or
    :math:`\tau = 0`, give plain cross entropy. Predict with argmax of the raw :math:`z`.

    Source: Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, Eq. (10). The authors' code
    adds 1e-12 to :math:`\pi^\tau`; here a class without a sample counts as 1 instead.

    >>> import torch
    >>> loss = LogitAdjustedLoss(class_counts=[99, 1])
    >>> loss(torch.zeros(2, 2), torch.tensor([0, 1]), reduction_override="none")
    tensor([0.0101, 4.6052])

    Args:
        tau: :math:`\tau`, at least 0.
        class_weight: As of :class:`~mmseol.losses.WeightedClassLoss`; so are ``beta`` and ``normalize``.
        class_counts: As of :class:`~mmseol.losses.ClassLoss`; so are the arguments after it.

    Raises:
        ValueError: If ``tau`` is out of its range.
    """

    exclusive_classes = True
    derived: tuple[str, ...] = ("class_weight", "offset")
    counts_required: ClassVar[bool] = True
    offset: Tensor | None

    def __init__(
        self,
        tau: float = 1.0,
        *,
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
        self.tau = number("tau", tau, at_least=0)
        super().__init__(
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

    def update_from_counts(self, counts: np.ndarray, totals: np.ndarray | None) -> None:
        """Compute the offset of each class, :math:`\\tau \\log \\pi`."""
        super().update_from_counts(counts, totals)
        counts = at_least_one(counts, f"the prior of {type(self).__name__}")
        self.set_derived("offset", self.tau * np.log(counts / counts.sum()))

    def adjusted(self, pred: Tensor) -> Tensor:
        """Return the adjusted outputs, (N, K, *)."""
        assert self.offset is not None
        return pred + by_class(self.offset, pred)

    def softmax_form(self) -> SoftmaxForm:
        """Return the cross entropy of shifted outputs."""
        return SoftmaxForm(offset=self.offset)

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the loss of every element, (N, *)."""
        weight = self.class_weight_like(pred)
        return F.cross_entropy(self.adjusted(pred), target, weight=weight, reduction="none")


@MODELS.register_module()
class BalancedSoftmaxLoss(LogitAdjustedLoss):
    r"""Balanced softmax :math:`-w_y \log \frac{n_y e^{z_y}}{\sum_k n_k e^{z_k}}`.

    Source: Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020, Eq. (3)-(4).
    It equals :class:`LogitAdjustedLoss` with :math:`\tau = 1`, because a softmax does not change when all
    outputs shift by a constant, here by :math:`\log \sum_j n_j`. Predict with argmax of the raw :math:`z`.

    >>> import torch
    >>> BalancedSoftmaxLoss(class_counts=[3, 1])(torch.zeros(1, 2), torch.tensor([1]))
    tensor(1.3863)

    Args:
        class_weight: As of :class:`~mmseol.losses.WeightedClassLoss`; so are ``beta`` and ``normalize``.
        class_counts: As of :class:`~mmseol.losses.ClassLoss`; so are the arguments after it.
    """

    def __init__(
        self,
        *,
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


@MODELS.register_module()
class VSLoss(LogitAdjustedLoss):
    r"""Vector scaling loss :math:`-w_y \log \mathrm{softmax}(z / D + \tau \log \pi)_y`.

    .. math:: D_k = (\max_j n_j / n_k)^\gamma

    ``gamma=0`` is :class:`LogitAdjustedLoss`, ``tau=0`` the class-dependent temperatures of Ye et al.
    (CDT). The factor makes the outputs of rare classes smaller during training; predict with argmax of the
    raw :math:`z`.

    Source: Kini et al., "Label-Imbalanced and Group-Sensitive Classification under Overparameterization",
    NeurIPS 2021, Eq. (2); defaults are those of the authors' code.

    >>> import torch
    >>> VSLoss(gamma=0.5, tau=0, class_counts=[16, 1])(torch.tensor([[1.0, 4.0]]), torch.tensor([1]))
    tensor(0.6931)

    Args:
        gamma: :math:`\gamma`, at least 0.
        tau: :math:`\tau`, at least 0.
        class_weight: As of :class:`~mmseol.losses.WeightedClassLoss`; so are ``beta`` and ``normalize``.
        class_counts: As of :class:`~mmseol.losses.ClassLoss`; so are the arguments after it.

    Raises:
        ValueError: If ``gamma`` or ``tau`` is out of its range.
    """

    derived = ("class_weight", "offset", "factor")
    factor: Tensor | None

    def __init__(
        self,
        gamma: float = 0.3,
        tau: float = 1.0,
        *,
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
        self.gamma = number("gamma", gamma, at_least=0)
        super().__init__(
            tau,
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

    def update_from_counts(self, counts: np.ndarray, totals: np.ndarray | None) -> None:
        """Compute the offset and the factor, :math:`1 / D`, of each class."""
        super().update_from_counts(counts, totals)
        counts = np.maximum(counts, 1)  # the base class has warned
        self.set_derived("factor", (counts / counts.max()) ** self.gamma)

    def softmax_form(self) -> SoftmaxForm:
        """Return the cross entropy of scaled and shifted outputs."""
        return SoftmaxForm(factor=self.factor, offset=self.offset)

    def adjusted(self, pred: Tensor) -> Tensor:
        """Return the scaled and shifted outputs, (N, K, *)."""
        assert self.factor is not None
        assert self.offset is not None
        return (pred * by_class(self.factor, pred)).add_(by_class(self.offset, pred))


def logit_adjusted_loss(
    pred: Tensor,
    target: Tensor,
    class_counts: Any,
    tau: float = 1.0,
    *,
    class_weight: Any = None,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Return :math:`-w_y \log \mathrm{softmax}(z + \tau \log \pi)_y`, as :class:`LogitAdjustedLoss`.

    >>> import torch
    >>> logit_adjusted_loss(torch.zeros(1, 2), torch.tensor([1]), class_counts=[99, 1])
    tensor(4.6052)

    Args:
        pred: Raw outputs, (N, K, *).
        target: Labels, integer (N, *), or soft labels, (N, K, *).
        class_counts: Training samples :math:`n_k` of each class, (K,).
        tau: :math:`\tau`, at least 0.
        class_weight: Weights :math:`w`, (K,).
        weight: Factor of each element, (N, *), or of each sample, (N,).
        ignore_index: Label of the elements to leave out.
        reduction: ``'mean'``, ``'sum'``, or ``'none'`` for one loss per element, (N, *).
    """
    return evaluate_once(
        LogitAdjustedLoss,
        pred,
        target,
        weight,
        tau,
        class_weight=class_weight,
        class_counts=class_counts,
        ignore_index=ignore_index,
        reduction=reduction,
    )


def balanced_softmax_loss(
    pred: Tensor,
    target: Tensor,
    class_counts: Any,
    *,
    class_weight: Any = None,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Return :math:`-w_y \log \frac{n_y e^{z_y}}{\sum_k n_k e^{z_k}}`, as :class:`BalancedSoftmaxLoss`.

    >>> import torch
    >>> balanced_softmax_loss(torch.zeros(1, 2), torch.tensor([1]), class_counts=[3, 1])
    tensor(1.3863)

    Args:
        pred: Raw outputs, (N, K, *).
        target: Labels, integer (N, *), or soft labels, (N, K, *).
        class_counts: Training samples :math:`n_k` of each class, (K,).
        class_weight: Weights :math:`w`, (K,).
        weight: Factor of each element, (N, *), or of each sample, (N,).
        ignore_index: Label of the elements to leave out.
        reduction: ``'mean'``, ``'sum'``, or ``'none'`` for one loss per element, (N, *).
    """
    return logit_adjusted_loss(
        pred,
        target,
        class_counts,
        class_weight=class_weight,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
    )


def vs_loss(
    pred: Tensor,
    target: Tensor,
    class_counts: Any,
    gamma: float = 0.3,
    tau: float = 1.0,
    *,
    class_weight: Any = None,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Return :math:`-w_y \log \mathrm{softmax}(z / D + \tau \log \pi)_y`, as :class:`VSLoss`.

    >>> import torch
    >>> vs_loss(torch.tensor([[1.0, 4.0]]), torch.tensor([1]), class_counts=[16, 1], gamma=0.5, tau=0)
    tensor(0.6931)

    Args:
        pred: Raw outputs, (N, K, *).
        target: Labels, integer (N, *), or soft labels, (N, K, *).
        class_counts: Training samples :math:`n_k` of each class, (K,).
        gamma: :math:`\gamma` of :math:`D_k = (\max_j n_j / n_k)^\gamma`, at least 0.
        tau: :math:`\tau`, at least 0.
        class_weight: Weights :math:`w`, (K,).
        weight: Factor of each element, (N, *), or of each sample, (N,).
        ignore_index: Label of the elements to leave out.
        reduction: ``'mean'``, ``'sum'``, or ``'none'`` for one loss per element, (N, *).
    """
    return evaluate_once(
        VSLoss,
        pred,
        target,
        weight,
        gamma,
        tau,
        class_weight=class_weight,
        class_counts=class_counts,
        ignore_index=ignore_index,
        reduction=reduction,
    )
