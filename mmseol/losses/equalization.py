"""Losses that spare the outputs of rare classes the pull of other classes' samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmseol.losses.base.class_loss import ClassLoss
from mmseol.losses.ops.binary_cross_entropy import binary_cross_entropy
from mmseol.registry import MODELS
from mmseol.utils.checks import number

__all__ = ["EqualizationLoss", "SigmoidEqualizationLoss"]


class _TailLoss(ClassLoss):
    """Loss that treats the classes below a share of the training samples otherwise."""

    derived = ("tail",)
    tail: Tensor | None
    """1 for the rare classes, 0 for the others, (K,)."""

    def __init__(self, threshold: float, **kwargs: Any) -> None:
        self._rare: list[int] = []
        self.threshold = number("threshold", threshold)
        if not 0 <= self.threshold <= 1:
            raise ValueError(
                f"`threshold` must be a share of the training samples in [0, 1], got {threshold!r}."
            )
        super().__init__(**kwargs)

    @property
    def needs_counts(self) -> bool:
        """Always: the counts tell which classes are rare."""
        return True

    def update_from_counts(self, counts: np.ndarray, totals: np.ndarray | None) -> None:
        """Work out which classes are rare, as a mask and as a list."""
        rare = counts / counts.sum() < self.threshold
        self.set_derived("tail", rare)
        self._rare = np.flatnonzero(rare).tolist()


@MODELS.register_module()
class EqualizationLoss(_TailLoss):
    r"""Softmax equalization loss (SEQL): a rare class is left out of most other samples' softmax.

    .. math:: L = -\log \frac{e^{z_y}}{\sum_k w_k e^{z_k}}, \qquad w_k = 1 - \beta\, T_k (1 - t_k)

    where :math:`T_k = 1` for classes with a share below ``threshold`` of the training samples and
    :math:`\beta` is 1 with probability ``gamma``, drawn from torch's generator for every position and rare
    class in every training step. In evaluation mode it is plain cross entropy. Soft labels:
    :math:`L = \sum_k t_k (\log \sum_j w_j e^{z_j} - z_k)`.

    Source: Tan et al., "Equalization Loss for Long-Tailed Object Recognition", CVPR 2020, section on image
    classification. The paper writes :math:`\beta` as one random variable; it is drawn per element as in the
    authors' reference. There the threshold is 0.05 on CIFAR-10 and 0.005 on CIFAR-100.

    Args:
        gamma: Probability that a rare class is left out, in [0, 1]; 1 leaves nothing to chance, 0 gives
            cross entropy.
        threshold: Share of the training samples below which a class is rare.
        **kwargs: Arguments of every loss, see :class:`~mmseol.losses.ClassLoss`.
    """

    def __init__(self, gamma: float = 0.9, threshold: float = 0.05, **kwargs: Any) -> None:
        self.gamma = number("gamma", gamma)
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"`gamma` must be a probability in [0, 1], got {gamma!r}.")
        super().__init__(threshold, **kwargs)

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the cross entropy over the classes that are left in at every position, (N, *)."""
        if not (self.training and self._rare and self.gamma > 0):
            return F.cross_entropy(pred, target, reduction="none")
        rare = torch.tensor(self._rare, device=pred.device)
        shape = (pred.shape[0], rare.numel(), *pred.shape[2:])
        drawn = torch.empty(shape, dtype=torch.bool, device=pred.device).bernoulli_(self.gamma)
        if target.dim() == pred.dim():
            left = (1 - drawn * (1 - target[:, rare])).clamp(min=0)
            return _soft_cross_entropy(pred.index_add(1, rare, left.log()), pred, target)
        drawn &= target.unsqueeze(1) != rare.view(1, -1, *[1] * (pred.dim() - 2))
        dropped = torch.zeros(pred.shape, dtype=torch.bool, device=pred.device)
        dropped[:, rare] = drawn
        # The label itself is never dropped, so that no position loses all classes.
        return F.cross_entropy(pred.masked_fill(dropped, float("-inf")), target, reduction="none")


def _soft_cross_entropy(kept: Tensor, pred: Tensor, target: Tensor) -> Tensor:
    """Return sum_k t_k (logsumexp(kept) - z_k), (N, *)."""
    return target.sum(1) * kept.logsumexp(1) - (target * pred).sum(1)


@MODELS.register_module()
class SigmoidEqualizationLoss(_TailLoss):
    r"""Sigmoid equalization loss (EQL): a rare class is no negative of other classes' samples.

    .. math:: L = \sum_k (1 - T_k (1 - t_k))\, \mathrm{BCE}(\sigma(z_k), t_k)

    where :math:`T_k = 1` for classes with a share below ``threshold`` of the training samples. Every class is
    its own yes or no, and labels may be multi-hot or soft. Divide by classes yourself if you compare with
    ``BCEWithLogitsLoss``, which averages over them.

    Source: Tan et al., CVPR 2020, Eq. (3) and (4), where every sample counts as foreground; the threshold is
    theirs for LVIS.

    Args:
        threshold: Share of the training samples below which a class is rare.
        **kwargs: Arguments of every loss, see :class:`~mmseol.losses.ClassLoss`.
    """

    def __init__(self, threshold: float = 0.00177, **kwargs: Any) -> None:
        super().__init__(threshold, **kwargs)

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the sum over classes of the remaining binary cross entropies at every position, (N, *)."""
        assert self.tail is not None
        tail = self.tail.to(pred).view(1, -1, *[1] * (pred.dim() - 2))
        if target.dim() == pred.dim():
            weight = 1 - tail * (1 - target)
        else:
            weight = (1 - tail).repeat(pred.shape[0], 1, *pred.shape[2:]).scatter_(1, target.unsqueeze(1), 1)
        return binary_cross_entropy(pred, target, weight)
