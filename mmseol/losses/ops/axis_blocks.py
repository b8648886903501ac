"""The bilinear operator along one axis, cut into blocks of neighbouring outputs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from mmseol.losses.ops.squared_error_upsampled import axis_taps

__all__ = ["Block", "axis_blocks", "dense_axis", "unread_points"]


class Cells(NamedTuple):
    """Runs of equally many outputs, each between two inputs."""

    start: int
    """Outputs of the block before the first cell; they copy the first input."""
    number: int
    """How many cells; the outputs after them copy the last input."""
    weights: Tensor
    """Weights of both inputs of a cell, (s, 2) for s outputs."""


class Block(NamedTuple):
    """Some neighbouring outputs of one axis of the bilinear operator.

    >>> first, last = axis_blocks(3, 6, 2, False, torch.float32, torch.device("cpu"), by_cells=True)
    >>> first.upsample(torch.tensor([[0.0], [4.0]]), torch.empty(3, 1)).flatten().tolist()
    [0.0, 1.0, 3.0]
    >>> last.small, last.upsample(torch.tensor([[4.0], [8.0]]), torch.empty(3, 1)).flatten().tolist()
    (slice(1, 3, None), [5.0, 7.0, 8.0])
    """

    large: slice
    """Which outputs."""
    small: slice
    """The inputs that they read."""
    matrix: Tensor
    """Weights of the inputs, a row for each output."""
    cells: Cells | None
    """The same weights where all cells are alike; products of cells take half the time of the matrix's."""

    def upsample(self, inputs: Tensor, out: Tensor) -> Tensor:
        """Write the outputs, (C, *), of the inputs that the block reads, (n, *), and return them."""
        inputs, flat = inputs.flatten(1), out.flatten(1)
        if self.cells is None:
            torch.mm(self.matrix, inputs, out=flat)
            return out
        start, number, weights = self.cells
        end = start + number * len(weights)
        if start:
            flat[:start] = inputs[0]
        if end < len(flat):
            flat[end:] = inputs[-1]
        pairs = inputs.unfold(0, 2, 1).transpose(1, 2)
        torch.bmm(weights.expand(number, -1, -1), pairs, out=flat[start:end].view(number, len(weights), -1))
        return out

    def project(self, gradient: Tensor, out: Tensor, buffer: Tensor) -> None:
        """Add the gradient by the inputs, of that by the outputs, (C, *), to ``out``, (n, *).

        Args:
            gradient: Gradient by the outputs.
            out: Gradient by the inputs.
            buffer: Memory of at least twice as many elements as ``out``.
        """
        gradient, flat = gradient.flatten(1), out.flatten(1)
        if self.cells is None:
            flat.addmm_(self.matrix.T, gradient)
            return
        start, number, weights = self.cells
        end = start + number * len(weights)
        parts = buffer[: 2 * number * gradient.shape[1]].view(number, 2, -1)
        by_cell = gradient[start:end].view(number, len(weights), -1)
        torch.bmm(weights.T.expand(number, -1, -1), by_cell, out=parts)
        flat[:-1] += parts[:, 0]
        flat[1:] += parts[:, 1]
        if start:
            flat[0] += gradient[:start].sum(0)
        if end < len(gradient):
            flat[-1] += gradient[end:].sum(0)


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def axis_blocks(
    small: int,
    large: int,
    step: int,
    align_corners: bool,
    dtype: torch.dtype,
    device: torch.device,
    by_cells: bool = False,
) -> list[Block]:
    """Return blocks of about ``step`` outputs of an axis that is resized from ``small`` to ``large``.

    >>> blocks = axis_blocks(2, 4, 2, align_corners=False, dtype=torch.float32, device=torch.device("cpu"))
    >>> blocks[0].matrix.tolist(), blocks[1].small
    ([[1.0, 0.0], [0.75, 0.25]], slice(0, 2, None))

    Args:
        small: Number of inputs.
        large: Number of outputs.
        step: Outputs of a block. With ``by_cells`` the blocks have whole cells, and those at the borders up
            to a cell more.
        align_corners: As in :func:`torch.nn.functional.interpolate`.
        dtype: Type of the weights.
        device: Their device.
        by_cells: Whether the blocks may be cut between cells, where the ratio is a whole number.
    """
    matrix = dense_axis(small, large, align_corners, dtype, device)
    ratio = large // small
    if not by_cells or align_corners or small < 2 or ratio < 2 or large % small:
        return [_block(matrix, start, min(start + step, large)) for start in range(0, large, step)]
    before, each = ratio // 2, max(step // ratio, 1)
    weights = matrix[before : before + ratio, :2].contiguous()
    blocks = []
    for first in range(0, small - 1, each):
        last = min(first + each, small - 1)
        start = before + first * ratio if first else 0
        end = before + last * ratio if last < small - 1 else large
        cells = Cells(before if first == 0 else 0, last - first, weights)
        blocks.append(_block(matrix, start, end)._replace(small=slice(first, last + 1), cells=cells))
    return blocks


def _block(matrix: Tensor, start: int, end: int) -> Block:
    part = slice(start, end)
    read = matrix[part].ne(0).any(0).nonzero().flatten()
    inputs = slice(int(read[0]), int(read[-1]) + 1)
    return Block(part, inputs, matrix[part, inputs].contiguous(), None)


def unread_points(valid: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Return the mask of the small outputs that no valid pixel reads, (*, h, w).

    >>> unread_points(torch.tensor([[True, False, False, False]]), (1, 2), align_corners=False)
    tensor([[False,  True]])

    Args:
        valid: Mask of the pixels that are not ignored, (*, H, W).
        size: h, w.
        align_corners: As in :func:`torch.nn.functional.interpolate`.
    """
    rows, columns = (
        dense_axis(small, large, align_corners, torch.float64, valid.device).ne(0).double()
        for small, large in zip(size, valid.shape[-2:], strict=True)
    )
    return rows.T @ valid.double() @ columns == 0


def dense_axis(
    small: int, large: int, align_corners: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return the matrix, (large, small), that resizes an axis, rounded from float64.

    >>> dense_axis(2, 4, False, torch.float64, torch.device("cpu"))[1].tolist()
    [0.75, 0.25]
    """
    taps = axis_taps(small, large, align_corners, torch.float64, device)
    matrix = torch.zeros(large, small + 1, dtype=torch.float64, device=device)
    index = torch.stack([taps.first, taps.first + 1], 1)
    return matrix.scatter_add_(1, index, taps.weights.T.contiguous())[:, :small].to(dtype)
