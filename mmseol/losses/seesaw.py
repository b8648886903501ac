"""Seesaw loss (Wang et al., CVPR 2021)."""

from __future__ import annotations

from math import log
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor
from torch.nn import functional as F

from mmseol.losses.base.class_loss import Reduction, evaluate_once
from mmseol.losses.base.stateful import StatefulLoss
from mmseol.losses.ops.inputs import Labels, by_class
from mmseol.losses.ops.label_outputs import at_labels, look_up
from mmseol.losses.ops.softmax import SoftmaxForm
from mmseol.registry import MODELS
from mmseol.utils.checks import number

__all__ = ["SeesawLoss", "seesaw_loss"]

_MIN_SCORE = 0.01  # of the label, in the compensation factor


@MODELS.register_module()
class SeesawLoss(StatefulLoss):
    r"""Softmax loss with smaller negative gradients for rare classes and larger ones for confused classes.

    .. math:: L = -\log \frac{e^{z_y}}{\sum_k S_{yk} e^{z_k}}, \qquad S_{yk} = M_{yk} C_{yk}

    with the mitigation factor :math:`M_{yk} = \min(1, (N_k / N_y)^p)` and the compensation factor
    :math:`C_{yk} = \max(1, (p_k / \max(p_y, 0.01))^q)`, :math:`S_{yy} = 1`. No gradient flows through
    :math:`S`. :math:`N_k` is the number of samples of class k seen so far in training, including those of the
    current batch and of all ranks, at least 1; it is kept in the buffer ``seen_counts``, which checkpoints
    carry, and does not change in evaluation mode. Together with averaged models (``EMAHook``), use
    ``mmseol.ClassCountHook``, which creates the buffer in time.

    Source: Wang et al., "Seesaw Loss for Long-Tailed Instance Segmentation", CVPR 2021, Eq. (4) to (7), and
    the authors' code in mmdet; its scores for objectness, which only detection has, are left out.

    >>> loss = SeesawLoss()
    >>> loss(torch.zeros(4, 2), torch.tensor([0, 0, 0, 1]), reduction_override="none")
    tensor([0.3473, 0.3473, 0.3473, 0.6931])
    >>> loss.seen_counts
    tensor([3, 1])

    Args:
        p: Power of mitigation, at least 0; 0 turns it off.
        q: Power of compensation, at least 0; 0 turns it off.
        class_counts: As of :class:`~mmseol.losses.ClassLoss`; so are the arguments after it. The loss counts
            the classes itself.
    """

    soft_targets = False
    per_element = True  # once the labels are counted
    state_name = "seen_counts"
    seen_counts: Tensor | None

    def __init__(
        self,
        p: float = 0.8,
        q: float = 2.0,
        *,
        class_counts: Any = None,
        ignore_index: int = -100,
        loss_weight: float = 1.0,
        reduction: Reduction = "mean",
        loss_name: str | None = None,
        sync_avg_factor: bool = False,
    ) -> None:
        self.p, self.q = number("p", p, at_least=0), number("q", q, at_least=0)
        super().__init__(
            class_counts=class_counts,
            ignore_index=ignore_index,
            loss_weight=loss_weight,
            reduction=reduction,
            loss_name=loss_name,
            sync_avg_factor=sync_avg_factor,
        )

    def initial_state(self, num_classes: int) -> Tensor:
        """Return the counts before training, all zero."""
        return torch.zeros(num_classes, dtype=torch.int64)

    def softmax_form(self) -> SoftmaxForm:
        """Return the cross entropy whose exponentials are multiplied by S, which has no gradient."""

        def shift(outputs: Tensor, label: Tensor) -> Tensor:
            return self._log_factors(outputs, label).add_(outputs)

        return SoftmaxForm(factors=self._factors, shift=shift)

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the loss of every element, (N, *)."""
        return F.cross_entropy(self._log_factors(pred, target).add_(pred), target, reduction="none")

    @torch.no_grad()
    def observe(self, labels: Labels) -> None:
        """Count the labels, in training."""
        if not self.training:
            return
        assert self.seen_counts is not None
        batch = labels.counts()
        if get_world_size() > 1:
            all_reduce(batch)
        self.seen_counts += batch

    def _factors(self, exponentials: Tensor, total: Tensor, label: Tensor) -> Tensor:
        """Return S, (N, K, *), of exponentials of outputs and their sums, (N, *)."""
        assert self.seen_counts is not None
        own = at_labels(exponentials, label).unsqueeze(1)
        least = torch.maximum(own, total.unsqueeze(1) * _MIN_SCORE)
        factors = (exponentials / least).clamp_(min=1).pow_(self.q)
        if self.p > 0:
            seen = self.seen_counts.clamp(min=1).double() ** self.p
            of_label = look_up(seen.reciprocal().to(exponentials), label).unsqueeze(1)
            factors *= (by_class(seen, exponentials) * of_label).clamp_(max=1)
        return factors

    @torch.no_grad()
    def _log_factors(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return log S, (N, K, *); both factors are 1 for the label itself."""
        assert self.seen_counts is not None
        # log C = q relu(log p_k - max(log p_y, log 0.01)), and log p = z - logsumexp(z).
        label_output = pred.gather(1, target.unsqueeze(1))
        least = pred.logsumexp(1, keepdim=True) + log(_MIN_SCORE)
        factors = (pred - torch.maximum(label_output, least)).clamp_(min=0).mul_(self.q)
        if self.p > 0:
            seen = self.seen_counts.clamp(min=1).double().log().to(pred)
            # log M = -p relu(log N_y - log N_k)
            factors -= (seen[target].unsqueeze(1) - by_class(seen, pred)).clamp_(min=0).mul_(self.p)
        return factors


def seesaw_loss(
    pred: Tensor,
    target: Tensor,
    class_counts: Any,
    p: float = 0.8,
    q: float = 2.0,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Return :math:`-\log \frac{e^{z_y}}{\sum_k S_{yk} e^{z_k}}`, as :class:`SeesawLoss` with given counts.

    >>> seesaw_loss(torch.zeros(1, 2), torch.tensor([0]), class_counts=[3, 1])
    tensor(0.3473)

    Args:
        pred: Raw outputs, (N, K, *).
        target: Labels, integer (N, *).
        class_counts: Samples :math:`N_k` of each class, (K,).
        p: Power of mitigation, at least 0.
        q: Power of compensation, at least 0.
        weight: Factor of each element, (N, *), or of each sample, (N,).
        ignore_index: Label of the elements to leave out.
        reduction: ``'mean'``, ``'sum'``, or ``'none'`` for one loss per element, (N, *).
    """

    def build() -> SeesawLoss:
        loss = SeesawLoss(p, q, class_counts=class_counts, ignore_index=ignore_index, reduction=reduction)
        loss.seen_counts = loss.class_counts
        return loss.eval()

    return evaluate_once(build, pred, target, weight)
