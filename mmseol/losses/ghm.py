"""Gradient harmonizing mechanism for classification (Li, Liu & Wang, AAAI 2019)."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from mmengine.dist import all_reduce
from torch import Tensor

from mmseol.losses.base.class_loss import Reduction, evaluate_once
from mmseol.losses.base.stateful import StatefulLoss
from mmseol.losses.base.tiled import grid_divisor, visit_elements
from mmseol.losses.ops.binary_cross_entropy import binary_cross_entropy, sigmoid_residual
from mmseol.losses.ops.inputs import is_compiling
from mmseol.losses.ops.tiles import LabelGrid, Tile, differentiate
from mmseol.registry import MODELS
from mmseol.utils.checks import choice, number, whole_number

__all__ = ["GHMCLoss", "ghmc_loss"]

DivideBy = Literal["bins", "non_empty_bins"]


@MODELS.register_module()
class GHMCLoss(StatefulLoss):
    r"""GHM-C: binary cross entropies with small weights where many outputs have gradients of the same norm.

    .. math:: L = \frac{1}{N K} \sum_{i,k} \frac{N K}{M R_{b(g_{ik})}}\, \mathrm{BCE}(\sigma(z_{ik}), t_{ik}),
        \qquad g = |\sigma(z) - t|

    Each of the K classes is a binary problem of its own; :math:`R_b` of the N K outputs of the batch (without
    ignored elements) have a gradient norm g in the b-th of M equal bins of [0, 1]. No gradient flows through
    the weights. The loss is normalised over its batch: ``avg_factor`` is ignored. With
    ``sync_avg_factor=True`` the bins are counted over all ranks.

    Source: Li, Liu & Wang, "Gradient Harmonized Single-stage Detector", AAAI 2019, Eq. (3) to (8). The
    authors' code (libuyu/mmdetection, and mmdet) divides by the number of bins that are not empty in place
    of M: ``divide_by='non_empty_bins'``.

    >>> GHMCLoss(bins=2)(torch.tensor([[1.0, -1.0], [1.0, -1.0]]), torch.tensor([0, 1]))
    tensor(0.8133)

    Args:
        bins: Number of bins M.
        momentum: Of the counts of the bins over training steps, in [0, 1):
            :math:`R_b \leftarrow m R_b + (1 - m) \cdot` count, from 0, for bins that are not empty. The state
            is the buffer ``bin_counts``, which checkpoints carry; evaluation mode does not change it.
        divide_by: ``'bins'`` (paper) or ``'non_empty_bins'`` (authors' code).
        class_counts: As of :class:`~mmseol.losses.ClassLoss`; so are the arguments after it.
    """

    takes_avg_factor = False
    state_name = "bin_counts"
    bin_counts: Tensor | None

    def __init__(
        self,
        bins: int = 10,
        momentum: float = 0.0,
        divide_by: DivideBy = "bins",
        *,
        class_counts: Any = None,
        ignore_index: int = -100,
        loss_weight: float = 1.0,
        reduction: Reduction = "mean",
        loss_name: str | None = None,
        sync_avg_factor: bool = False,
    ) -> None:
        self.bins = whole_number("bins", bins, at_least=1)
        self.momentum = number("momentum", momentum, at_least=0, below=1)
        self.divide_by = choice("divide_by", divide_by, get_args(DivideBy))
        super().__init__(
            class_counts=class_counts,
            ignore_index=ignore_index,
            loss_weight=loss_weight,
            reduction=reduction,
            loss_name=loss_name,
            sync_avg_factor=sync_avg_factor,
        )
        self._allocate_state(0)

    def initial_state(self, num_classes: int) -> Tensor | None:
        """Return zero counts of the bins, or ``None`` without momentum."""
        return torch.zeros(self.bins, dtype=torch.float64) if self.momentum > 0 else None

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the mean over classes of the weighted binary cross entropies of every element, (N, *)."""
        return binary_cross_entropy(pred, target, self._weights(pred, target, valid)) / pred.shape[1]

    def evaluate_grid(
        self, grid: LabelGrid, reduction: Reduction, avg_factor: float | Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the loss and its gradient: one pass over the tiles for the counts, one for both."""
        counts = grid.visit(differentiate(self._tile_counts), requires_grad=False)[0]
        by_bin = self._weight_of_bins(counts.reshape(-1, self.bins).sum(0))

        def position_loss(outputs: Tensor, label: Tensor, valid: Tensor) -> Tensor:
            residual = sigmoid_residual(outputs.detach(), label)
            weight = by_bin.to(outputs).index_select(0, self._bin_index(residual).flatten())
            return binary_cross_entropy(outputs, label, weight.view_as(outputs), residual) / outputs.shape[1]

        return visit_elements(self, grid, grid_divisor(self, grid, reduction, None), position_loss)

    @torch.no_grad()
    def _weights(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return N K / (M R) of the bin of every output, (N, K, *)."""
        index = self._bin_index(sigmoid_residual(pred, target))
        index.masked_fill_(~valid.unsqueeze(1), self.bins)
        by_bin = self._weight_of_bins(_count(index.flatten(), self.bins + 1)[: self.bins])
        return by_bin.to(pred).index_select(0, index.flatten()).view_as(pred)

    def _tile_counts(self, tile: Tile) -> Tensor:
        index = self._bin_index(sigmoid_residual(tile.outputs, tile.label))
        counts = _count(index.flatten(), self.bins)
        # Outputs are 0 where ignored, so that their residuals are -1/2 or 1/2.
        ignored = tile.valid.numel() - tile.valid.count_nonzero()
        counts[self.bins // 2] -= ignored * tile.outputs.shape[1]
        return counts

    def _bin_index(self, residual: Tensor) -> Tensor:
        """Return the bin of every output, of its residual, (N, K, *)."""
        # int32 takes half the time of int64; a NaN gets an arbitrary bin, and its loss stays NaN.
        return residual.abs().mul_(self.bins).to(torch.int32).clamp_(0, self.bins - 1)

    def _weight_of_bins(self, counts: Tensor) -> Tensor:
        """Update the state and return the weight of the outputs of every bin, and 0, (M + 1,)."""
        if self.sync_avg_factor:
            all_reduce(counts)
        total, filled = counts.sum(), counts > 0
        if self.momentum > 0:
            assert self.bin_counts is not None
            averaged = self.momentum * self.bin_counts + (1 - self.momentum) * counts
            counts = torch.where(filled, averaged, self.bin_counts)
            if self.training:
                self.bin_counts.copy_(counts)
        parts = filled.sum() if self.divide_by == "non_empty_bins" else self.bins
        by_bin = torch.where(filled, total / (parts * counts), 0)
        return torch.cat([by_bin, by_bin.new_zeros(1)])


def _count(index: Tensor, size: int) -> Tensor:
    """Return how often each of 0 to size - 1 occurs, float64 (size,)."""
    if is_compiling():  # the size of a bincount depends on its data, which cannot be compiled
        ones = torch.ones((), dtype=torch.float64, device=index.device).expand(index.shape)
        return torch.zeros(size, dtype=torch.float64, device=index.device).index_add_(0, index, ones)
    return torch.bincount(index, minlength=size).double()


def ghmc_loss(
    pred: Tensor,
    target: Tensor,
    bins: int = 10,
    *,
    divide_by: DivideBy = "bins",
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Return the gradient-harmonized binary cross entropy of a batch, as :class:`GHMCLoss` without momentum.

    >>> ghmc_loss(torch.tensor([[1.0, -1.0], [1.0, -1.0]]), torch.tensor([0, 1]), bins=2)
    tensor(0.8133)

    Args:
        pred: Raw outputs, (N, K, *).
        target: Labels, integer (N, *), or soft or multi-hot labels, (N, K, *).
        bins: Number of bins M.
        divide_by: ``'bins'`` (paper) or ``'non_empty_bins'`` (authors' code).
        weight: Factor of each element, (N, *), or of each sample, (N,).
        ignore_index: Label of the elements to leave out.
        reduction: ``'mean'``, ``'sum'``, or ``'none'`` for one loss per element, (N, *).
    """
    return evaluate_once(
        GHMCLoss,
        pred,
        target,
        weight,
        bins,
        divide_by=divide_by,
        ignore_index=ignore_index,
        reduction=reduction,
    )
