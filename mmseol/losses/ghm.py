"""Gradient harmonizing mechanism for classification (Li, Liu & Wang, AAAI 2019)."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from mmengine.dist import all_reduce
from torch import Tensor

from mmseol.losses.base.stateful import StatefulLoss
from mmseol.losses.ops.binary_cross_entropy import binary_cross_entropy, sigmoid_residual
from mmseol.losses.ops.inputs import is_compiling
from mmseol.registry import MODELS
from mmseol.utils.checks import choice, number

__all__ = ["GHMCLoss"]

DivideBy = Literal["bins", "non_empty_bins"]


@MODELS.register_module()
class GHMCLoss(StatefulLoss):
    r"""GHM-C: binary cross entropies weighed down where many outputs have gradients of the same length.

    .. math:: L = \frac{1}{N K} \sum_{i,k} \frac{N K}{M R_{b(g_{ik})}}\, \mathrm{BCE}(\sigma(z_{ik}), t_{ik}),
        \qquad g = |\sigma(z) - t|

    Each of the K classes is its own yes or no; :math:`R_b` of the N K outputs of the batch (ignored positions
    left out) have a gradient length g in the b-th of M equal bins of [0, 1]. No gradient flows through the
    weights. The loss is normalised over its batch: ``avg_factor`` is ignored. With ``sync_avg_factor=True``
    the bins are counted over all ranks.

    Source: Li, Liu & Wang, "Gradient Harmonized Single-stage Detector", AAAI 2019, Eq. (3) to (8). The
    authors' code (libuyu/mmdetection, and mmdet) divides by the number of bins that are not empty in place
    of M: ``divide_by='non_empty_bins'``.

    Args:
        bins: Number of bins M.
        momentum: Of the counts of the bins over training steps, in [0, 1):
            :math:`R_b \leftarrow m R_b + (1 - m) \cdot` count, from 0, for bins that are not empty. The state
            is the buffer ``bin_counts``, which checkpoints carry; evaluation mode does not change it.
        divide_by: ``'bins'`` (paper) or ``'non_empty_bins'`` (authors' code).
        **kwargs: Arguments of every loss, see :class:`~mmseol.losses.ClassLoss`.
    """

    takes_avg_factor = False
    state_name = "bin_counts"
    bin_counts: Tensor | None

    def __init__(
        self, bins: int = 10, momentum: float = 0.0, divide_by: DivideBy = "bins", **kwargs: Any
    ) -> None:
        if type(bins) is not int or bins < 1:
            raise ValueError(f"`bins` must be a whole number above 0, got {bins!r}.")
        self.bins, self.momentum = bins, number("momentum", momentum)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"`momentum` must lie in [0, 1), got {momentum!r}.")
        self.divide_by = choice("divide_by", divide_by, get_args(DivideBy))
        super().__init__(**kwargs)
        self._allocate_state(0)

    def initial_state(self, num_classes: int) -> Tensor | None:
        """Return zero counts of the bins, or ``None`` without momentum."""
        return torch.zeros(self.bins, dtype=torch.float64) if self.momentum > 0 else None

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the mean over classes of the weighted binary cross entropies at every position, (N, *)."""
        return binary_cross_entropy(pred, target, self._weights(pred, target, valid)) / pred.shape[1]

    @torch.no_grad()
    def _weights(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return N K / (M R) of the bin of every output, (N, K, *)."""
        # int32 costs half of int64; a NaN becomes some bin, its loss stays NaN.
        index = sigmoid_residual(pred, target).abs_().mul_(self.bins).to(torch.int32)
        index.clamp_(0, self.bins - 1)
        index.masked_fill_(~valid.unsqueeze(1), self.bins)
        counts = _count(index.flatten(), self.bins + 1)[: self.bins]
        if self.sync_avg_factor:
            all_reduce(counts)
        total, filled = counts.sum(), counts > 0
        if self.momentum > 0:
            assert self.bin_counts is not None
            moved = self.momentum * self.bin_counts + (1 - self.momentum) * counts
            counts = torch.where(filled, moved, self.bin_counts)
            if self.training:
                self.bin_counts.copy_(counts)
        parts = filled.sum() if self.divide_by == "non_empty_bins" else self.bins
        by_bin = torch.where(filled, total / (parts * counts), 0)
        by_bin = torch.cat([by_bin, by_bin.new_zeros(1)]).to(pred)
        return by_bin.index_select(0, index.flatten()).view_as(pred)


def _count(index: Tensor, size: int) -> Tensor:
    """Return how often each of 0 to size - 1 occurs, float64 (size,)."""
    if is_compiling():  # the size of a bincount depends on its data, which cannot be compiled
        ones = torch.ones((), dtype=torch.float64, device=index.device).expand(index.shape)
        return torch.zeros(size, dtype=torch.float64, device=index.device).index_add_(0, index, ones)
    return torch.bincount(index, minlength=size).double()
