"""Margins that are larger for rarer classes: LDAM and its extension ELM."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmseol.counting.counts import at_least_one
from mmseol.losses.base.class_loss import Normalize, Reduction, evaluate_once
from mmseol.losses.base.weighted import WeightedClassLoss
from mmseol.losses.ops.inputs import by_class
from mmseol.losses.ops.label_outputs import look_up
from mmseol.losses.ops.softmax import SoftmaxForm
from mmseol.registry import MODELS
from mmseol.utils.checks import number

__all__ = ["EnlargedMarginLoss", "LDAMLoss", "enlarged_margin_loss", "ldam_loss"]


@MODELS.register_module()
class LDAMLoss(WeightedClassLoss):
    r"""Label-distribution-aware margin loss: the rarer the class, the larger its margin.

    .. math:: L = -w_y \log \frac{e^{s z'_y}}{\sum_k e^{s z'_k}}, \quad z'_k = z_k - m_k [k = y], \quad
        m_k = m_\max (\min_j n_j / n_k)^{1/4}

    The outputs :math:`z` must be cosines in [-1, 1], of a classifier whose features and weights both have
    norm 1: wrap the head in ``mmseol.CosineClassifierHead`` (``--loss`` does). On other outputs a
    margin of 0.5 has no meaning. Soft labels :math:`t` take the margins :math:`t_k m_k`. Predict with
    argmax of the raw outputs; scores are a softmax of :math:`s z`.

    Source: Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS
    2019, Eq. (10)-(13). ``max_margin`` takes the place of their constant C, and :math:`s` is not in their
    equations: both are as in their code. Deferred re-weighting (DRW) sets the class weights by
    :meth:`~WeightedClassLoss.set_class_weight`; 'mean' then divides by the sum of the weights, as their code.

    >>> import torch
    >>> loss = LDAMLoss(class_counts=[16, 1])
    >>> loss.margins
    tensor([0.2500, 0.5000], dtype=torch.float64)
    >>> loss(torch.tensor([[0.5, 1.0]]), torch.tensor([1]))
    tensor(0.6931)

    Args:
        max_margin: Margin of the rarest class, at least 0, in units of the cosine.
        scale: Factor :math:`s` of the cosines, above 0.
        class_weight: As of :class:`~mmseol.losses.WeightedClassLoss`; so are ``beta`` and ``normalize``.
        class_counts: As of :class:`~mmseol.losses.ClassLoss`; so are the arguments after it.

    Raises:
        ValueError: If an argument is out of its range.
    """

    exclusive_classes = True
    derived = ("class_weight", "margins")
    counts_required: ClassVar[bool] = True
    margins: Tensor | None

    cosine_outputs: ClassVar[bool] = True
    """Whether the head must return cosines; ``--loss`` then wraps it in ``mmseol.CosineClassifierHead``."""

    def __init__(
        self,
        max_margin: float = 0.5,
        scale: float = 30.0,
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
        self.max_margin = number("max_margin", max_margin, at_least=0)
        self.scale = number("scale", scale, above=0)
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

    @property
    def score_temperature(self) -> float:
        """Temperature at which a softmax of the raw outputs is the one that the loss trains."""
        return 1 / self.scale

    def update_from_counts(self, counts: np.ndarray, totals: np.ndarray | None) -> None:
        """Compute the margin of each class."""
        super().update_from_counts(counts, totals)
        counts = at_least_one(counts, f"the margins of {type(self).__name__}")
        self.set_derived("margins", self.max_margin * (counts.min() / counts) ** 0.25)

    def margin_of(self, pred: Tensor, target: Tensor, margins: Tensor) -> Tensor:
        """Return the value that is subtracted from the label's output of every element, (N, *)."""
        return look_up(margins, target)

    def softmax_form(self) -> SoftmaxForm:
        """Return the cross entropy of scaled outputs with a margin."""
        assert self.margins is not None
        scale = torch.tensor(self.scale, dtype=torch.float64)
        return SoftmaxForm(factor=scale, margin=self.scale * self.margins)

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the loss of every element, (N, *)."""
        assert self.margins is not None
        margins = self.margins.to(pred)
        if target.dim() == pred.dim():
            outputs = pred - target * by_class(margins, pred)
        else:
            outputs = pred.scatter_add(
                1, target.unsqueeze(1), -self.margin_of(pred, target, margins).unsqueeze(1)
            )
        outputs.mul_(self.scale)
        return F.cross_entropy(outputs, target, weight=self.class_weight_like(pred), reduction="none")


@MODELS.register_module()
class EnlargedMarginLoss(LDAMLoss):
    r"""ELM: LDAM whose margin also includes that of the strongest wrong class.

    .. math:: z'_y = z_y - m_y + \lambda m_{j^*}, \quad j^* = \arg\max_{j \ne y} z_j

    and the rest as :class:`LDAMLoss`, which it equals for :math:`\lambda = 0`. :math:`j^*` has no gradient.

    Source: Kato & Hotta, "Enlarged Large Margin Loss for Imbalanced Classification", SMC 2023, and the
    authors' code.

    >>> import torch
    >>> EnlargedMarginLoss(class_counts=[16, 1])(torch.tensor([[0.5, 0.75]]), torch.tensor([1]))
    tensor(0.6931)

    Args:
        enlargement: :math:`\lambda`, at least 0.
        max_margin: As of :class:`LDAMLoss`; so is ``scale``.
        class_weight: As of :class:`~mmseol.losses.WeightedClassLoss`; so are ``beta`` and ``normalize``.
        class_counts: As of :class:`~mmseol.losses.ClassLoss`; so are the arguments after it.
    """

    soft_targets = False

    def __init__(
        self,
        enlargement: float = 1.0,
        *,
        max_margin: float = 0.5,
        scale: float = 30.0,
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
        self.enlargement = number("enlargement", enlargement, at_least=0)
        super().__init__(
            max_margin,
            scale,
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

    def softmax_form(self) -> SoftmaxForm:
        """Return the cross entropy of scaled outputs with a margin that depends on them."""

        def margin_of(others: Tensor, label: Tensor) -> Tensor:
            assert self.margins is not None
            return self._enlarged(others, label, self.scale * self.margins.to(others))

        return super().softmax_form()._replace(margin=None, margin_of=margin_of)

    def margin_of(self, pred: Tensor, target: Tensor, margins: Tensor) -> Tensor:
        """Return the value that is subtracted from the label's output of every element, (N, *)."""
        return self._enlarged(pred.detach().scatter(1, target.unsqueeze(1), -torch.inf), target, margins)

    def _enlarged(self, others: Tensor, target: Tensor, margins: Tensor) -> Tensor:
        """Return the margin, of outputs that are -inf at the label."""
        strongest = others.max(1).indices  # three times as fast as argmax
        return look_up(margins, target) - self.enlargement * look_up(margins, strongest)


def ldam_loss(
    pred: Tensor,
    target: Tensor,
    class_counts: Any,
    max_margin: float = 0.5,
    scale: float = 30.0,
    *,
    class_weight: Any = None,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Return the LDAM loss :math:`-w_y \log \mathrm{softmax}(s z')_y`, as :class:`LDAMLoss`.

    >>> import torch
    >>> ldam_loss(torch.tensor([[0.5, 1.0]]), torch.tensor([1]), class_counts=[16, 1])
    tensor(0.6931)

    Args:
        pred: Cosines :math:`z` in [-1, 1], (N, K, *).
        target: Labels, integer (N, *), or soft labels, (N, K, *).
        class_counts: Training samples :math:`n_k` of each class, (K,).
        max_margin: Margin of the rarest class, at least 0.
        scale: Factor :math:`s` of the cosines, above 0.
        class_weight: Weights :math:`w`, (K,).
        weight: Factor of each element, (N, *), or of each sample, (N,).
        ignore_index: Label of the elements to leave out.
        reduction: ``'mean'``, ``'sum'``, or ``'none'`` for one loss per element, (N, *).
    """
    return evaluate_once(
        LDAMLoss,
        pred,
        target,
        weight,
        max_margin,
        scale,
        class_weight=class_weight,
        class_counts=class_counts,
        ignore_index=ignore_index,
        reduction=reduction,
    )


def enlarged_margin_loss(
    pred: Tensor,
    target: Tensor,
    class_counts: Any,
    enlargement: float = 1.0,
    max_margin: float = 0.5,
    scale: float = 30.0,
    *,
    class_weight: Any = None,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Return the ELM loss, LDAM with the strongest wrong class's margin, as :class:`EnlargedMarginLoss`.

    >>> import torch
    >>> enlarged_margin_loss(torch.tensor([[0.5, 0.75]]), torch.tensor([1]), class_counts=[16, 1])
    tensor(0.6931)

    Args:
        pred: Cosines :math:`z` in [-1, 1], (N, K, *).
        target: Labels, integer (N, *).
        class_counts: Training samples :math:`n_k` of each class, (K,).
        enlargement: :math:`\lambda`, at least 0.
        max_margin: Margin of the rarest class, at least 0.
        scale: Factor :math:`s` of the cosines, above 0.
        class_weight: Weights :math:`w`, (K,).
        weight: Factor of each element, (N, *), or of each sample, (N,).
        ignore_index: Label of the elements to leave out.
        reduction: ``'mean'``, ``'sum'``, or ``'none'`` for one loss per element, (N, *).
    """
    return evaluate_once(
        EnlargedMarginLoss,
        pred,
        target,
        weight,
        enlargement,
        max_margin=max_margin,
        scale=scale,
        class_weight=class_weight,
        class_counts=class_counts,
        ignore_index=ignore_index,
        reduction=reduction,
    )
