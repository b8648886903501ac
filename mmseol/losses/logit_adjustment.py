"""Cross entropy of outputs that the class frequencies shift or scale while training."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from mmseol.counting.counts import at_least_one
from mmseol.losses.base.weighted import WeightedClassLoss
from mmseol.registry import MODELS
from mmseol.utils.checks import number

__all__ = ["BalancedSoftmaxLoss", "LogitAdjustedLoss", "VSLoss"]


@MODELS.register_module()
class LogitAdjustedLoss(WeightedClassLoss):
    r"""Logit-adjusted cross entropy :math:`-w_y \log \mathrm{softmax}(z + \tau \log \pi)_y`.

    :math:`\pi_k = n_k / \sum_j n_j` is the share of class k in the training data. Equal counts, or
    :math:`\tau = 0`, give plain cross entropy. Predict with argmax of the raw :math:`z`.

    Source: Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, Eq. (10). The authors' code
    adds 1e-12 to :math:`\pi^\tau`; here a class without a sample counts as 1 instead.

    Args:
        tau: :math:`\tau`, at least 0.
        **kwargs: Class weights, see :class:`~mmseol.losses.WeightedClassLoss`, and arguments of
            every loss, see :class:`~mmseol.losses.ClassLoss`.

    Raises:
        ValueError: If ``tau`` is out of its range.
    """

    derived: tuple[str, ...] = ("class_weight", "offset")
    offset: Tensor | None

    def __init__(self, tau: float = 1.0, **kwargs: Any) -> None:
        self.tau = number("tau", tau)
        if self.tau < 0:
            raise ValueError(f"`tau` must be at least 0, got {tau!r}.")
        super().__init__(**kwargs)

    @property
    def needs_counts(self) -> bool:
        """Always: the adjustment follows from the counts."""
        return True

    def update_from_counts(self, counts: np.ndarray, totals: np.ndarray | None) -> None:
        """Work out what is added to each class's output, :math:`\\tau \\log \\pi`."""
        super().update_from_counts(counts, totals)
        counts = at_least_one(counts, f"the prior of {type(self).__name__}")
        self.set_derived("offset", self.tau * np.log(counts / counts.sum()))

    def adjusted(self, pred: Tensor) -> Tensor:
        """Return the outputs that the loss sees, (N, K, *)."""
        return pred + _by_class(self.offset, pred)

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the loss at every position, (N, *)."""
        weight = self.class_weight_like(pred)
        return F.cross_entropy(self.adjusted(pred), target, weight=weight, reduction="none")


@MODELS.register_module()
class BalancedSoftmaxLoss(LogitAdjustedLoss):
    r"""Balanced softmax :math:`-w_y \log \frac{n_y e^{z_y}}{\sum_k n_k e^{z_k}}`.

    Source: Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020, Eq. (3)-(4).
    It is :class:`LogitAdjustedLoss` with :math:`\tau = 1`: a softmax does not see that :math:`\log \pi` and
    :math:`\log n` differ by a constant. Predict with argmax of the raw :math:`z`.

    Args:
        **kwargs: Class weights, see :class:`~mmseol.losses.WeightedClassLoss`, and arguments of
            every loss, see :class:`~mmseol.losses.ClassLoss`.
    """

    def __init__(self, **kwargs: Any) -> None:
        if "tau" in kwargs:
            raise TypeError("BalancedSoftmaxLoss has no `tau`: it is LogitAdjustedLoss with tau=1.")
        super().__init__(**kwargs)


@MODELS.register_module()
class VSLoss(LogitAdjustedLoss):
    r"""Vector scaling loss :math:`-w_y \log \mathrm{softmax}(z / D + \tau \log \pi)_y`.

    .. math:: D_k = (\max_j n_j / n_k)^\gamma

    ``gamma=0`` is :class:`LogitAdjustedLoss`, ``tau=0`` the class-dependent temperatures of Ye et al.
    (CDT). The factor makes outputs of rare classes smaller while training; predict with argmax of the
    raw :math:`z`.

    Source: Kini et al., "Label-Imbalanced and Group-Sensitive Classification under Overparameterization",
    NeurIPS 2021, Eq. (2); defaults are those of the authors' code.

    Args:
        gamma: :math:`\gamma`, at least 0.
        **kwargs: Arguments of :class:`LogitAdjustedLoss`, of which ``tau``.

    Raises:
        ValueError: If ``gamma`` or ``tau`` is out of its range.
    """

    derived = ("class_weight", "offset", "factor")
    factor: Tensor | None

    def __init__(self, gamma: float = 0.3, tau: float = 1.0, **kwargs: Any) -> None:
        self.gamma = number("gamma", gamma)
        if self.gamma < 0:
            raise ValueError(f"`gamma` must be at least 0, got {gamma!r}.")
        super().__init__(tau=tau, **kwargs)

    def update_from_counts(self, counts: np.ndarray, totals: np.ndarray | None) -> None:
        """Work out offset and factor, :math:`1 / D`, of each class."""
        super().update_from_counts(counts, totals)
        counts = np.maximum(counts, 1)  # the base has warned
        self.set_derived("factor", (counts / counts.max()) ** self.gamma)

    def adjusted(self, pred: Tensor) -> Tensor:
        """Return the outputs that the loss sees, (N, K, *)."""
        return (pred * _by_class(self.factor, pred)).add_(_by_class(self.offset, pred))


def _by_class(values: Tensor | None, pred: Tensor) -> Tensor:
    """Return one value per class in ``pred``'s type and in a shape that broadcasts over (N, K, *)."""
    assert values is not None
    return values.to(pred).view(1, -1, *[1] * (pred.dim() - 2))
