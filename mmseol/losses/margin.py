"""Margins that grow as classes get rarer: LDAM, and ELM on top of it."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmseol.counting.counts import at_least_one
from mmseol.losses.base.weighted import WeightedClassLoss
from mmseol.registry import MODELS
from mmseol.utils.checks import number

__all__ = ["EnlargedMarginLoss", "LDAMLoss"]


@MODELS.register_module()
class LDAMLoss(WeightedClassLoss):
    r"""Label-distribution-aware margin loss: the rarer the class, the farther its decision boundary.

    .. math:: L = -w_y \log \frac{e^{s z'_y}}{\sum_k e^{s z'_k}}, \quad z'_k = z_k - m_k [k = y], \quad
        m_k = m_\max (\min_j n_j / n_k)^{1/4}

    The outputs :math:`z` must be cosines in [-1, 1], of a classifier whose features and weights are both
    of unit length: wrap the head in ``mmseol.CosineClassifierHead`` (``--loss`` does). On other outputs a
    margin of 0.5 means nothing. Soft labels :math:`t` take the margins :math:`t_k m_k`. Predict with
    argmax of the raw outputs; scores are a softmax of :math:`s z`.

    Source: Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS
    2019, Eq. (10)-(13). Their constant C is set by ``max_margin``, and :math:`s` is not in their equations:
    both are as in their code. Deferred re-weighting (DRW) sets the class weights by
    :meth:`~WeightedClassLoss.set_class_weight`; 'mean' then divides by the sum of the weights, as their code.

    Args:
        max_margin: Margin of the rarest class, at least 0, in units of the cosine.
        scale: Factor :math:`s` of the cosines, above 0.
        **kwargs: Class weights, see :class:`~mmseol.losses.WeightedClassLoss`, and arguments of
            every loss, see :class:`~mmseol.losses.ClassLoss`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    derived = ("class_weight", "margins")
    margins: Tensor | None

    cosine_outputs: ClassVar[bool] = True
    """Whether the head must return cosines; ``--loss`` then wraps it in ``mmseol.CosineClassifierHead``."""

    def __init__(self, max_margin: float = 0.5, scale: float = 30.0, **kwargs: Any) -> None:
        self.max_margin, self.scale = number("max_margin", max_margin), number("scale", scale)
        if self.max_margin < 0:
            raise ValueError(f"`max_margin` must be at least 0, got {max_margin!r}.")
        if self.scale <= 0:
            raise ValueError(f"`scale` must be above 0, got {scale!r}.")
        super().__init__(**kwargs)

    @property
    def needs_counts(self) -> bool:
        """Always: the margins follow from the counts."""
        return True

    @property
    def score_temperature(self) -> float:
        """Temperature at which a softmax of the raw outputs is what the loss trains."""
        return 1 / self.scale

    def update_from_counts(self, counts: np.ndarray, totals: np.ndarray | None) -> None:
        """Work out the margin of each class."""
        super().update_from_counts(counts, totals)
        counts = at_least_one(counts, f"the margins of {type(self).__name__}")
        self.set_derived("margins", self.max_margin * (counts.min() / counts) ** 0.25)

    def margin_of(self, pred: Tensor, target: Tensor, margins: Tensor) -> Tensor:
        """Return what is taken off the label's output at every position, (N, *)."""
        return margins[target]

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the loss at every position, (N, *)."""
        assert self.margins is not None
        margins = self.margins.to(pred)
        if target.dim() == pred.dim():
            outputs = pred - target * margins.view(1, -1, *[1] * (pred.dim() - 2))
        else:
            outputs = pred.scatter_add(
                1, target.unsqueeze(1), -self.margin_of(pred, target, margins).unsqueeze(1)
            )
        outputs.mul_(self.scale)
        return F.cross_entropy(outputs, target, weight=self.class_weight_like(pred), reduction="none")


@MODELS.register_module()
class EnlargedMarginLoss(LDAMLoss):
    r"""ELM: LDAM whose margin is also that of the strongest wrong class.

    .. math:: z'_y = z_y - m_y + \lambda m_{j^*}, \quad j^* = \arg\max_{j \ne y} z_j

    and the rest as :class:`LDAMLoss`, which :math:`\lambda = 0` gives back. :math:`j^*` has no gradient.

    Source: Kato & Hotta, "Enlarged Large Margin Loss for Imbalanced Classification", SMC 2023, and the
    authors' code.

    Args:
        enlargement: :math:`\lambda`, at least 0.
        **kwargs: Arguments of :class:`LDAMLoss`.
    """

    soft_targets = False

    def __init__(self, enlargement: float = 1.0, **kwargs: Any) -> None:
        self.enlargement = number("enlargement", enlargement)
        if self.enlargement < 0:
            raise ValueError(f"`enlargement` must be at least 0, got {enlargement!r}.")
        super().__init__(**kwargs)

    def margin_of(self, pred: Tensor, target: Tensor, margins: Tensor) -> Tensor:
        """Return what is taken off the label's output at every position, (N, *)."""
        others = pred.detach().scatter(1, target.unsqueeze(1), -torch.inf)
        strongest = others.max(1).indices  # three times as fast as argmax
        return margins[target] - self.enlargement * margins[strongest]
