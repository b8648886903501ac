"""Outputs and probabilities at label size, one class at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from mmseol.losses.ops.axis_blocks import dense_axis
from mmseol.losses.ops.softmax import LN_2, SoftmaxVisitor, sums_are_exact, tile_softmax
from mmseol.losses.ops.tiles import RANGE, LabelGrid, Tile

__all__ = ["ClassPlanes", "ProbabilityPlanes"]


class ClassPlanes:
    """Raw outputs of a grid at label size, one class at a time, and the gradient by them.

    >>> from mmseol.losses.ops.inputs import Labels
    >>> labels = Labels.of(torch.zeros(1, 2, 4, dtype=torch.long), classes=2, ignore_index=255)
    >>> planes = ClassPlanes(LabelGrid(torch.ones(1, 2, 1, 2), labels, requires_grad=True))
    >>> planes.add_gradient(0, planes.scores(0), torch.ones(1, 2, 4))
    >>> planes.gradient().flatten().tolist()
    [4.0, 4.0, 0.0, 0.0]
    """

    def __init__(self, grid: LabelGrid) -> None:
        self.grid, self.dtype = grid, grid.dtype
        self.small = grid.pred if grid.same_size else self.prepare(grid.pred.to(grid.dtype))
        self._gradient = torch.zeros_like(grid.pred, dtype=grid.dtype) if grid.requires_grad else None
        if not grid.same_size:
            sizes = zip(grid.pred.shape[2:], grid.labels.target.shape[1:], strict=True)
            self.rows, self.columns = (
                dense_axis(small, large, grid.align_corners, self.dtype, grid.pred.device)
                for small, large in sizes
            )

    def prepare(self, outputs: Tensor) -> Tensor:
        """Return the outputs as they are to be upsampled, in float64 if float32 would round them too much."""
        if outputs.dtype == torch.float32 and outputs.numel() and outputs.abs().max() > RANGE:
            self.dtype = torch.float64
        return outputs.to(self.dtype)

    def scores(self, k: int) -> Tensor:
        """Return the scores of class k, (N, *), 0 where ignored."""
        plane = self.plane(k)
        return torch.where(self.grid.labels.valid, plane, 0)

    def plane(self, k: int) -> Tensor:
        """Return the outputs of class k, (N, *)."""
        plane = self.small[:, k].to(self.dtype)
        return plane if self.grid.same_size else self.rows @ plane @ self.columns.T

    def add_gradient(self, k: int, scores: Tensor, gradient: Tensor) -> None:
        """Add the gradient by the scores of class k, (N, *), for which ``scores`` is what was returned."""
        if self._gradient is not None:
            self._gradient[:, k] += gradient if self.grid.same_size else self.rows.T @ gradient @ self.columns

    def gradient(self) -> Tensor | None:
        """Return the gradient by the outputs, or ``None``."""
        return self._gradient


class ProbabilityPlanes(ClassPlanes):
    """Softmax probabilities of a grid at label size, one class at a time, and the gradient by the outputs.

    >>> from mmseol.losses.ops.inputs import Labels
    >>> labels = Labels.of(torch.zeros(1, 2, 4, dtype=torch.long), classes=2, ignore_index=255)
    >>> planes = ProbabilityPlanes(LabelGrid(torch.ones(1, 2, 1, 2), labels, requires_grad=True))
    >>> planes.add_gradient(0, planes.scores(0), torch.ones(1, 2, 4))
    >>> planes.gradient().flatten().tolist()
    [1.0, 1.0, -1.0, -1.0]
    """

    def __init__(self, grid: LabelGrid) -> None:
        super().__init__(grid)
        shape = grid.labels.target.shape
        self.log_sum = torch.empty(shape, dtype=self.dtype, device=grid.pred.device)
        self.mean = torch.zeros_like(self.log_sum)
        """Sum over classes of the probability times the gradient by it."""
        grid.visit(_LogSum(self.log_sum), requires_grad=False)

    def prepare(self, outputs: Tensor) -> Tensor:
        """Return the outputs less the largest of each point; the softmax stays the same."""
        outputs = super().prepare(outputs)
        return outputs - outputs.amax(1, keepdim=True)

    def plane(self, k: int) -> Tensor:
        """Return the probabilities of class k, (N, *)."""
        return super().plane(k).sub(self.log_sum).exp_()

    def add_gradient(self, k: int, scores: Tensor, gradient: Tensor) -> None:
        """Add the gradient by the probabilities of class k."""
        gradient = gradient * scores
        self.mean += gradient
        super().add_gradient(k, scores, gradient)

    def gradient(self) -> Tensor | None:
        """Return the gradient by the outputs, or ``None``; once."""
        if self._gradient is not None:
            grid = self.grid
            _, by_mean = LabelGrid(
                grid.pred, grid.labels, self.mean, grid.align_corners, requires_grad=True
            ).visit(_MinusMean())
            assert by_mean is not None
            self._gradient += by_mean
        return self._gradient


class _LogSum(SoftmaxVisitor):
    """Write the log-sum-exp of prepared outputs, or of outputs at label size, to a map, (N, *)."""

    def __init__(self, out: Tensor) -> None:
        super().__init__()
        self.out = out

    def __call__(self, tile: Tile) -> tuple[Tensor, Tensor | None]:
        out = self.out[tile.image][tile.where]
        if tile.upsample is None:
            out.copy_(tile.outputs[0].logsumexp(0))
        else:
            total = tile.outputs.exp2_().sum(1)
            exact = sums_are_exact(total)
            out.copy_((total.log() if exact else tile.upsample().mul_(LN_2).logsumexp(1)).T)
        return tile.outputs.new_zeros(()), None


class _MinusMean(SoftmaxVisitor):
    """Compute -p times the tile's weights."""

    def __call__(self, tile: Tile) -> tuple[Tensor, Tensor | None]:
        gradient = tile_softmax(tile)
        return gradient.new_zeros(()), gradient.mul_(tile.factor().neg_().unsqueeze(1))
