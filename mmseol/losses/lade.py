"""LADE: cross entropy with the prior, and a regulariser that disentangles the outputs from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmseol.counting.counts import at_least_one
from mmseol.losses.base.class_loss import ClassLoss
from mmseol.registry import MODELS
from mmseol.utils.checks import number

__all__ = ["LADELoss"]


@MODELS.register_module()
class LADELoss(ClassLoss):
    r"""Label distribution disentangling loss: prior cross entropy plus :math:`a` times a regulariser.

    .. math:: \frac1N \sum_i -\log \mathrm{softmax}(z_i + \log \pi)_{y_i}
        - a \sum_k \pi_k (A_k - B_k - \lambda B_k^2)

    over the N valid positions of the batch, where :math:`\pi_k = n_k / \sum_j n_j` and

    .. math:: A_k = \frac{1}{N_k} \sum_{i: y_i = k} z_{ik}, \quad
        B_k = \log \frac1N \sum_i e^{z_{ik} - \log \pi_k - \log K}

    with :math:`A_k = 0` for a class that the batch lacks. Soft labels :math:`t` enter as :math:`A_k =
    \sum_i t_{ik} z_{ik} / \sum_i t_{ik}`. Predict with argmax of the raw :math:`z`.

    Source: Hong et al., "Disentangling Label Distribution for Long-tailed Visual Recognition", CVPR 2021,
    and the authors' code (hyperconnect/LADE), whose guards against a logarithm or a division of 0 are
    kept: 1e-9 at :math:`\pi` and :math:`1 / K`, 1e-8 at :math:`N_k`.

    The regulariser is normalised over the batch, so the loss ignores ``avg_factor``, and on several ranks
    each has the regulariser of its own share. A position's loss is its cross entropy plus the regulariser,
    so that their mean is the loss.

    Args:
        remine_weight: :math:`a`, at least 0.
        remine_lambda: :math:`\lambda`, at least 0; 0.01 on CIFAR-100 in the authors' code.
        **kwargs: Arguments of every loss, see :class:`~mmseol.losses.ClassLoss`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    takes_avg_factor = False
    derived = ("prior",)
    prior: Tensor | None

    def __init__(self, remine_weight: float = 0.1, remine_lambda: float = 0.1, **kwargs: Any) -> None:
        self.remine_weight = number("remine_weight", remine_weight)
        self.remine_lambda = number("remine_lambda", remine_lambda)
        for name in ("remine_weight", "remine_lambda"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be at least 0, got {getattr(self, name)!r}.")
        super().__init__(**kwargs)

    @property
    def needs_counts(self) -> bool:
        """Always: the prior follows from the counts."""
        return True

    def update_from_counts(self, counts: np.ndarray, totals: np.ndarray | None) -> None:
        """Work out the share of each class."""
        counts = at_least_one(counts, "the prior of LADELoss")
        self.set_derived("prior", counts / counts.sum())

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return cross entropy plus regulariser at every position, (N, *)."""
        assert self.prior is not None
        log_prior = torch.log(self.prior + 1e-9).to(pred)
        shift = log_prior.view(1, -1, *[1] * (pred.dim() - 2))
        loss = F.cross_entropy(pred + shift, target, reduction="none")
        return loss.add_(self.remine_weight * self.regulariser(pred, target, valid, log_prior))

    def regulariser(self, pred: Tensor, target: Tensor, valid: Tensor, log_prior: Tensor) -> Tensor:
        r"""Return :math:`-\sum_k \pi_k (A_k - B_k - \lambda B_k^2)`, a scalar; 0 if nothing is valid."""
        assert self.prior is not None
        prior, classes, number_valid = self.prior.to(pred), pred.shape[1], valid.sum()
        first = _mean_own_output(pred, target, valid, prior)
        second = _log_sum_exp(pred, valid)
        second = second - log_prior + np.log(1 / classes + 1e-9) - number_valid.clamp(min=1).to(pred).log()
        total = -first + (prior * (second + self.remine_lambda * second.square())).sum()
        return torch.where(number_valid > 0, total, 0)


def _log_sum_exp(pred: Tensor, valid: Tensor) -> Tensor:
    """Return the log-sum-exp of each class over the valid positions, (K,), finite where there is none.

    As :func:`torch.logsumexp`, with less memory.
    """
    positions = [0, *range(2, pred.dim())]
    ignored = ~valid.unsqueeze(1)
    largest = pred.detach().masked_fill(ignored, torch.finfo(pred.dtype).min).amax(positions, keepdim=True)
    shares = (pred - largest).masked_fill_(ignored, -torch.inf).exp_().sum(positions)
    return largest.flatten() + shares.clamp(min=torch.finfo(pred.dtype).tiny).log()


def _mean_own_output(pred: Tensor, target: Tensor, valid: Tensor, prior: Tensor) -> Tensor:
    r"""Return :math:`\sum_k \pi_k A_k`."""
    if target.dim() == pred.dim():
        positions = [0, *range(2, pred.dim())]
        mass = target.sum(positions)
        return (prior * (target * pred).sum(positions) / (mass + 1e-8)).sum()
    # Counted in integers: float32 stops at 2^24 positions.
    mass = torch.zeros_like(prior, dtype=torch.int64).index_add(0, target.flatten(), valid.flatten().long())
    own = pred.gather(1, target.unsqueeze(1)).squeeze(1)
    return ((prior / (mass.to(prior) + 1e-8))[target] * valid * own).sum()
