"""Mean squared error with outlying and with one-hot labels (Kato & Hotta, arXiv 2107.02393)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mmseol.counting.counts import outlying_values
from mmseol.losses.base.quadratic import QuadraticLoss
from mmseol.registry import MODELS

__all__ = ["OneHotMSELoss", "OutlyingMSELoss"]


@MODELS.register_module()
class OutlyingMSELoss(QuadraticLoss):
    r"""MSE loss with outlying label: the rarer the class, the farther its target from the origin.

    .. math:: L = \sum_k \tfrac12 (a_k - v_y [k = y])^2

    on raw outputs :math:`a` (no softmax), where :math:`v_c = \alpha r_c` and :math:`r_c` is the
    position of class c when classes are sorted by training count, largest first (Algorithm 1,
    Eq. 4). The mean runs over valid positions of the sum over classes, so it is K/2 times
    ``F.mse_loss``: the targets are the same, a learning rate copied from there is not. Predict with
    argmax of the raw outputs; a softmax of them means nothing.

    Source: Kato & Hotta, "MSE Loss with Outlying Label for Imbalanced Classification", arXiv
    2107.02393; alpha there is 5 on CIFAR-10, 1 on CIFAR-100 and Food-101-LT, 6 on CamVid.

    Args:
        alpha: Target value of the most frequent class, above 0.
        scheme: ``'rank'`` (Algorithm 1), or ``'reciprocal'``: :math:`v_c = \alpha n_\max / n_c`.
        ties: Rank of equal counts: ``'ordinal'`` keeps class order, ``'dense'`` and ``'average'``
            share a rank as in :func:`scipy.stats.rankdata`.
        **kwargs: Arguments of every loss, see :class:`~mmseol.losses.ClassLoss`.
    """

    derived = ("target_values",)
    target_values: Tensor | None

    def __init__(
        self,
        alpha: float = 1.0,
        scheme: Literal["rank", "reciprocal"] = "rank",
        ties: Literal["ordinal", "dense", "average"] = "ordinal",
        **kwargs: Any,
    ) -> None:
        outlying_values([2, 1], alpha, scheme, ties)  # refuse wrong arguments before anything is counted
        self.alpha, self.scheme, self.ties = alpha, scheme, ties
        super().__init__(**kwargs)

    @property
    def needs_counts(self) -> bool:
        """Always: the targets follow from the counts."""
        return True

    def set_alpha(self, alpha: float) -> None:
        """Use this alpha from now on; for schedules.

        Raises:
            ValueError: If it is not a finite number above 0.
        """
        outlying_values([2, 1], alpha)
        self.alpha = alpha
        self._refresh()

    def update_from_counts(self, counts: np.ndarray, totals: np.ndarray | None) -> None:
        """Work out the target value of each class."""
        self.set_derived("target_values", outlying_values(counts, self.alpha, self.scheme, self.ties))

    def target_values_of(self, pred: Tensor) -> Tensor:
        """Return the target values, (K,)."""
        assert self.target_values is not None
        return self.target_values


@MODELS.register_module()
class OneHotMSELoss(QuadraticLoss):
    r"""MSE loss with one-hot label, the plain :math:`\sum_k \frac12 (a_k - [k = y])^2` on raw outputs.

    The row "MSE loss" of arXiv 2107.02393. The mean runs over valid positions of the sum over
    classes, so it is K/2 times ``F.mse_loss``.
    """

    def target_values_of(self, pred: Tensor) -> Tensor:
        """Return ones, (K,)."""
        return torch.ones(pred.shape[1], dtype=torch.float64, device=pred.device)
