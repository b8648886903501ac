"""Cross entropy and what re-weights it by class."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from mmseol.losses.base.weighted import WeightedClassLoss
from mmseol.registry import MODELS

__all__ = ["CrossEntropyLoss"]


@MODELS.register_module()
class CrossEntropyLoss(WeightedClassLoss):
    r"""Softmax cross entropy :math:`-w_y \log p_y`, optionally weighted by class.

    Ignored positions enter neither the sum nor the divisor (mmseg's own divides by them too unless
    ``avg_non_ignore=True``).

    Args:
        **kwargs: Class weights, see :class:`~mmseol.losses.WeightedClassLoss`, and arguments of
            every loss, see :class:`~mmseol.losses.ClassLoss`.
    """

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the weighted cross entropy at every position, (N, *)."""
        return F.cross_entropy(pred, target, weight=self.class_weight_like(pred), reduction="none")
