"""Seesaw loss (Wang et al., CVPR 2021)."""

from __future__ import annotations

from math import log
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor
from torch.nn import functional as F

from mmseol.losses.base.stateful import StatefulLoss
from mmseol.registry import MODELS
from mmseol.utils.checks import number

__all__ = ["SeesawLoss"]

_MIN_SCORE = 0.01  # of the label, in the compensation factor


@MODELS.register_module()
class SeesawLoss(StatefulLoss):
    r"""Softmax loss that pushes rare classes down less often, and more where they are confused.

    .. math:: L = -\log \frac{e^{z_y}}{\sum_k S_{yk} e^{z_k}}, \qquad S_{yk} = M_{yk} C_{yk}

    with the mitigation factor :math:`M_{yk} = \min(1, (N_k / N_y)^p)` and the compensation factor
    :math:`C_{yk} = \max(1, (p_k / \max(p_y, 0.01))^q)`, :math:`S_{yy} = 1`. No gradient flows through
    :math:`S`. :math:`N_k` is the number of samples of class k seen so far in training, those of the current
    batch and of all ranks included, at least 1; it is kept in the buffer ``seen_counts``, which checkpoints
    carry, and does not change in evaluation mode. Together with averaged models (``EMAHook``), use
    ``mmseol.ClassCountHook``, which makes the buffer in time.

    Source: Wang et al., "Seesaw Loss for Long-Tailed Instance Segmentation", CVPR 2021, Eq. (4) to (7), and
    the authors' code in mmdet; its scores for objectness, which only detection has, are left out.

    Args:
        p: Power of mitigation, at least 0; 0 turns it off.
        q: Power of compensation, at least 0; 0 turns it off.
        **kwargs: Arguments of every loss, see :class:`~mmseol.losses.ClassLoss`.
    """

    soft_targets = False
    state_name = "seen_counts"
    seen_counts: Tensor | None

    def __init__(self, p: float = 0.8, q: float = 2.0, **kwargs: Any) -> None:
        self.p, self.q = number("p", p), number("q", q)
        for name, value in (("p", self.p), ("q", self.q)):
            if value < 0:
                raise ValueError(f"`{name}` must be at least 0, got {value!r}.")
        super().__init__(**kwargs)

    def initial_state(self, num_classes: int) -> Tensor:
        """Return the counts before training: nothing was seen."""
        return torch.zeros(num_classes, dtype=torch.int64)

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the loss at every position, (N, *)."""
        if self.training:
            self._see(target, valid)
        return F.cross_entropy(self._log_factors(pred, target).add_(pred), target, reduction="none")

    @torch.no_grad()
    def _see(self, target: Tensor, valid: Tensor) -> None:
        assert self.seen_counts is not None
        batch = torch.zeros_like(self.seen_counts)
        batch.index_add_(0, target.flatten(), valid.flatten().to(batch.dtype))
        if get_world_size() > 1:
            all_reduce(batch)
        self.seen_counts += batch

    @torch.no_grad()
    def _log_factors(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return log S, (N, K, *); both factors give 0 for the label itself."""
        assert self.seen_counts is not None
        # log C = q relu(log p_k - max(log p_y, log 0.01)), and log p = z - logsumexp(z).
        own = pred.gather(1, target.unsqueeze(1))
        least = pred.logsumexp(1, keepdim=True) + log(_MIN_SCORE)
        factors = (pred - torch.maximum(own, least)).clamp_(min=0).mul_(self.q)
        if self.p > 0:
            seen = self.seen_counts.clamp(min=1).double().log().to(pred)
            by_class = seen.view(1, -1, *[1] * (pred.dim() - 2))
            # log M = -p relu(log N_y - log N_k)
            factors -= (seen[target].unsqueeze(1) - by_class).clamp_(min=0).mul_(self.p)
        return factors
