"""Mean squared error with outlying and with one-hot labels (Kato & Hotta, arXiv 2107.02393)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from mmseol.counting.counts import Scheme, Ties, outlying_values, unit_alpha
from mmseol.losses.base.class_loss import Reduction, evaluate_once
from mmseol.losses.base.counted import to_numpy
from mmseol.losses.base.quadratic import QuadraticLoss
from mmseol.registry import MODELS

__all__ = ["OneHotMSELoss", "OutlyingMSELoss", "one_hot_mse", "outlying_mse"]


@MODELS.register_module()
class OutlyingMSELoss(QuadraticLoss):
    r"""MSE loss with outlying label: the rarer the class, the farther its target from the origin.

    .. math:: L = \sum_k \tfrac12 (a_k - v_y [k = y])^2

    on raw outputs :math:`a` (no softmax), where :math:`v_c = \alpha r_c` and :math:`r_c` is the
    rank of class c when classes are sorted by training count, largest first (Algorithm 1,
    Eq. 4). The mean runs over valid elements of the sum over classes, so it is K/2 times
    ``F.mse_loss``: the targets are the same, a learning rate copied from there is not. Predict with
    argmax of the raw outputs; a softmax of them has no meaning.

    Each output is a regression of its own, whose minimum is :math:`a_k = v_k P(k \mid x)`: argmax decides by
    :math:`v_k P(k \mid x)`, and alpha, common to all classes, cancels. Alpha acts on the training: SGD from
    classifier weights :math:`\alpha W` with alpha takes the steps that SGD from W takes with alpha 1 and, in
    the layers below, :math:`\alpha^2` times the learning rate and :math:`\alpha^{-2}` times the weight decay.
    With Adam, the learning rate of the classifier is :math:`\alpha^{-1}` times as large there. No learning
    rate for all layers does exactly this, but the best one makes up for alpha: on digits, alphas from
    ``'auto'`` to 10, each at its own rate, score within 2.5 points of each other
    (``results/outlying_label``).

    Source: Kato & Hotta, "MSE Loss with Outlying Label for Imbalanced Classification", arXiv
    2107.02393; alpha there is 5 on CIFAR-10, 1 on CIFAR-100 and Food-101-LT, 6 on CamVid.

    >>> import torch
    >>> loss = OutlyingMSELoss(alpha=5, class_counts=[500, 20, 100])
    >>> loss.target_values
    tensor([ 5., 15., 10.], dtype=torch.float64)
    >>> loss(torch.tensor([[5.0, 0.0, 0.0], [0.0, 13.0, 0.0]]), torch.tensor([0, 1]))
    tensor(1.)

    Args:
        alpha: Target value of the most frequent class, above 0. ``'auto'`` gives the targets a root mean
            square of 1 over the training samples, see :func:`~mmseol.counting.counts.unit_alpha`.
        scheme: ``'rank'`` (Algorithm 1); ``'reciprocal'``: :math:`v_c = \alpha n_\max / n_c`; or ``'power'``:
            :math:`v_c = \alpha (n_\max / n_c)^\gamma`.
        ties: Rank of equal counts: ``'ordinal'`` keeps class order, ``'dense'`` and ``'average'``
            share a rank as in :func:`scipy.stats.rankdata`.
        gamma: Exponent of ``'power'``, at least 0: 0 gives equal targets, 1 those of ``'reciprocal'``.
        class_counts: As of :class:`~mmseol.losses.ClassLoss`; so are the arguments after it.
    """

    derived = ("target_values",)
    counts_required: ClassVar[bool] = True
    target_values: Tensor | None

    def __init__(
        self,
        alpha: float | Literal["auto"] = 1.0,
        scheme: Scheme = "rank",
        ties: Ties = "ordinal",
        gamma: float = 1.0,
        *,
        class_counts: Any = None,
        ignore_index: int = -100,
        loss_weight: float = 1.0,
        reduction: Reduction = "mean",
        loss_name: str | None = None,
        sync_avg_factor: bool = False,
    ) -> None:
        outlying_values([2, 1], alpha, scheme, ties, gamma)  # refuse wrong ones before anything is counted
        self.alpha, self.scheme, self.ties, self.gamma = alpha, scheme, ties, gamma
        super().__init__(
            class_counts=class_counts,
            ignore_index=ignore_index,
            loss_weight=loss_weight,
            reduction=reduction,
            loss_name=loss_name,
            sync_avg_factor=sync_avg_factor,
        )

    def set_alpha(self, alpha: float | Literal["auto"]) -> None:
        """Use this alpha from now on; for schedules.

        Raises:
            ValueError: If it is neither a finite number above 0 nor ``'auto'``.
        """
        outlying_values([2, 1], alpha)
        self.alpha = alpha
        self._refresh()

    @property
    def alpha_value(self) -> float:
        """Alpha as a number, also with ``'auto'``, where it follows from the class counts.

        >>> OutlyingMSELoss(alpha="auto", class_counts=[50, 50]).alpha_value  # ranks 1 and 2
        0.6324555320336759

        Raises:
            RuntimeError: If it is ``'auto'`` and the loss has no counts.
        """
        if self.alpha != "auto":
            return float(self.alpha)
        if not self.counted:
            raise RuntimeError(
                "`alpha` is 'auto', which follows from the class counts, and the loss has none yet. Add "
                "dict(type='mmseol.ClassCountHook') to custom_hooks, or give class_counts=[...]."
            )
        counts = to_numpy(self.class_counts)
        return unit_alpha(counts, self.values_for(counts, 1.0))

    def values_for(self, counts: np.ndarray, alpha: float | Literal["auto"]) -> np.ndarray:
        """Return the target value of each class for these counts and this alpha, (K,)."""
        return outlying_values(counts, alpha, self.scheme, self.ties, self.gamma)

    def update_from_counts(self, counts: np.ndarray, totals: np.ndarray | None) -> None:
        """Compute the target value of each class."""
        self.set_derived("target_values", self.values_for(counts, self.alpha))

    def target_values_of(self, pred: Tensor) -> Tensor:
        """Return the target values, (K,)."""
        assert self.target_values is not None
        return self.target_values


@MODELS.register_module()
class OneHotMSELoss(QuadraticLoss):
    r"""MSE loss with one-hot label, the plain :math:`\sum_k \frac12 (a_k - [k = y])^2` on raw outputs.

    The row "MSE loss" of arXiv 2107.02393. The mean runs over valid elements of the sum over
    classes, so it is K/2 times ``F.mse_loss``.

    >>> import torch
    >>> OneHotMSELoss()(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
    tensor(0.5000)

    Args:
        class_counts: As of :class:`~mmseol.losses.ClassLoss`, without influence on the loss; so are the
            arguments after it.
    """

    def target_values_of(self, pred: Tensor) -> Tensor:
        """Return ones, (K,)."""
        return torch.ones(pred.shape[1], dtype=torch.float64, device=pred.device)


class _GivenValues(QuadraticLoss):
    """The half squared error with given target values."""

    def __init__(self, values: Any, ignore_index: int, reduction: Reduction) -> None:
        super().__init__(ignore_index=ignore_index, reduction=reduction)
        self.values = torch.as_tensor(values, dtype=torch.float64).detach()

    def target_values_of(self, pred: Tensor) -> Tensor:
        if self.values.shape != pred.shape[1:2]:
            raise ValueError(
                f"`values` must be one number for each of the {pred.shape[1]} classes of `pred`, got shape "
                f"{tuple(self.values.shape)}."
            )
        return self.values.to(pred.device)


def outlying_mse(
    pred: Tensor,
    target: Tensor,
    values: Any,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Return :math:`\sum_k \frac12 (a_k - v_y [k = y])^2`, as :class:`OutlyingMSELoss`.

    >>> import torch
    >>> from mmseol.counting.counts import outlying_values
    >>> values = outlying_values([500, 20, 100], alpha=5)
    >>> outlying_mse(torch.tensor([[5.0, 0.0, 0.0], [0.0, 13.0, 0.0]]), torch.tensor([0, 1]), values)
    tensor(1.)

    Args:
        pred: Raw outputs :math:`a`, (N, K, *).
        target: Labels y, integer (N, *), or soft labels, (N, K, *).
        values: Target value :math:`v_k` of each class, (K,), for example of
            :func:`mmseol.counting.counts.outlying_values`; no gradient flows through them.
        weight: Factor of each element, (N, *), or of each sample, (N,).
        ignore_index: Label of the elements to leave out.
        reduction: ``'mean'``, ``'sum'``, or ``'none'`` for one loss per element, (N, *).
    """
    return evaluate_once(
        _GivenValues,
        pred,
        target,
        weight,
        values,
        ignore_index,
        reduction,
    )


def one_hot_mse(
    pred: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Return :math:`\sum_k \frac12 (a_k - [k = y])^2`, as :class:`OneHotMSELoss`.

    >>> import torch
    >>> one_hot_mse(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]), reduction="none")
    tensor([0., 1.])

    Args:
        pred: Raw outputs, (N, K, *).
        target: Labels, integer (N, *), or soft labels, (N, K, *).
        weight: Factor of each element, (N, *), or of each sample, (N,).
        ignore_index: Label of the elements to leave out.
        reduction: ``'mean'``, ``'sum'``, or ``'none'`` for one loss per element, (N, *).
    """
    return evaluate_once(
        OneHotMSELoss,
        pred,
        target,
        weight,
        ignore_index=ignore_index,
        reduction=reduction,
    )
