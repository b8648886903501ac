"""The sums of :mod:`softmax` over upsampled outputs with loops that Numba compiles, for a CPU.

In a column of the label map the pixels between two rows of the small outputs have outputs that rise by equal
steps, so that their exponentials are a geometric progression: two exponentials serve up to eight pixels, and
no upsampled output is stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmseol.losses.ops.axis_blocks import axis_blocks
from mmseol.losses.ops.softmax import LN_2, CrossEntropyVisitor, SoftmaxForm
from mmseol.losses.ops.softmax import softmax_sums as tiled_softmax_sums
from mmseol.losses.ops.squared_error_upsampled import axis_taps
from mmseol.losses.ops.tiles import COLUMNS, TILE, LabelGrid, Visitor
from mmseol.utils.compiled_loops import compiled

__all__ = ["softmax_sums"]

# Pixels of a segment at most: each step of a progression rounds once more.
_LONGEST = 8
# Elements of a strip of label columns, K h times its width, and its width, in tiles and their columns.
_STRIP, _WIDTH = 4, 8
# Elements of a group of segments, K times its segments and columns, which fits in a core's cache, in tiles.
_GROUP = 1 / 2


@compiled(fastmath=True)
def _write_exponents(strip, first, start, step, exponents):
    """Write the outputs of each segment's first row and their rise from row to row, (2, S, K, R)."""
    segments, classes, columns = exponents.shape[1:]
    for i in range(segments):
        for k in range(classes):
            above, below = strip[first[i], k], strip[first[i] + 1, k]
            output, rise = exponents[0, i, k], exponents[1, i, k]
            for r in range(columns):
                difference = below[r] - above[r]
                output[r] = above[r] + start[i] * difference
                rise[r] = step[i] * difference


@compiled(fastmath=True)
def _add_exponentials(strip, first, rows, start, step, labels, powers, totals, outputs, term):
    """Write the sum of each pixel's exponentials, and its label's output."""
    segments, classes, columns = powers.shape[1:]
    for i in range(segments):
        top, end = rows[i], rows[i + 1]
        for k in range(classes):
            power, ratio = powers[0, i, k], powers[1, i, k]
            for r in range(columns):
                term[r] = power[r]
            for y in range(top, end):
                total = totals[y]
                if y > top:
                    for r in range(columns):
                        term[r] *= ratio[r]
                if k == 0:
                    for r in range(columns):
                        total[r] = term[r]
                else:
                    for r in range(columns):
                        total[r] += term[r]
        above, below = strip[first[i]], strip[first[i] + 1]
        for y in range(top, end):
            weight = start[i] + step[i] * (y - top)
            for r in range(columns):
                label = labels[y, r]
                outputs[y, r] = above[label, r] + weight * (below[label, r] - above[label, r])


@compiled(fastmath=True)
def _add_gradient(powers, first, rows, start, step, labels, shares, derivatives, gradient, work):
    """Add the gradient by the strip: exponentials times ``shares``, less ``derivatives`` at the labels."""
    segments, classes, columns = powers.shape[1:]
    term, whole, lower = work[0], work[1], work[2]
    for i in range(segments):
        top, end = rows[i], rows[i + 1]
        above, below = gradient[first[i]], gradient[first[i] + 1]
        for k in range(classes):
            power, ratio = powers[0, i, k], powers[1, i, k]
            share = shares[top]
            for r in range(columns):
                part = power[r] * share[r]
                term[r] = power[r]
                whole[r] = part
                lower[r] = part * start[i]
            for y in range(top + 1, end):
                share, weight = shares[y], start[i] + step[i] * (y - top)
                for r in range(columns):
                    term[r] *= ratio[r]
                    part = term[r] * share[r]
                    whole[r] += part
                    lower[r] += part * weight
            for r in range(columns):
                above[k, r] += whole[r] - lower[r]
                below[k, r] += lower[r]
        for y in range(top, end):
            weight = start[i] + step[i] * (y - top)
            for r in range(columns):
                label, part = labels[y, r], derivatives[y, r]
                above[label, r] -= part * (1 - weight)
                below[label, r] -= part * weight


def softmax_sums(grid: LabelGrid, form: SoftmaxForm, scale: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Numba version of the function of this name in ``softmax``.

    Float64 outputs, outputs whose range needs it, those of label size or more than half as many rows, and
    margins and factors of exponentials are left to the tiles.

    >>> from mmseol.losses.ops.inputs import Labels
    >>> labels = Labels.of(torch.zeros(1, 4, 1, dtype=torch.long), classes=2, ignore_index=255)
    >>> softmax_sums(LabelGrid(torch.ones(1, 2, 2, 1), labels), SoftmaxForm(), None)[0].tolist()
    [2.7725887298583984]
    """
    depends = form.margin is not None or form.margin_of is not None or form.factors is not None
    if grid.same_size or depends or grid.dtype != torch.float32 or not grid.pred.numel():
        return tiled_softmax_sums(grid, form, scale)
    height, large_height = grid.pred.shape[2], grid.labels.target.shape[1]
    if not 2 <= height <= large_height / 2:
        return tiled_softmax_sums(grid, form, scale)
    segments = _SegmentGrid(grid.pred, grid.labels, grid.weight, grid.align_corners, grid.requires_grad)
    return segments.visit(CrossEntropyVisitor(form, scale), requires_grad=scale is not None)


class _Segments(NamedTuple):
    """Runs of rows of the label map whose outputs rise by equal steps from one row to the next."""

    first: np.ndarray
    """The row of the small outputs above each segment, int64 (S,)."""
    rows: np.ndarray
    """First row of each segment, and the number of rows, int64 (S + 1,)."""
    start: np.ndarray
    """Weight of the row of the small outputs below, at each segment's first row, (S,)."""
    step: np.ndarray
    """How much that weight rises from row to row, (S,)."""

    def groups(self, size: int) -> Iterator[tuple[slice, _Segments]]:
        """Divide the segments into groups; return the rows of each, and the group with rows from 0."""
        for begin in range(0, len(self.first), size):
            part = slice(begin, begin + size)
            rows = self.rows[begin : begin + size + 1]
            group = _Segments(self.first[part], rows - rows[0], self.start[part], self.step[part])
            yield slice(int(rows[0]), int(rows[-1])), group


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _segments(small: int, large: int, align_corners: bool) -> _Segments:
    """Return the segments of an axis that is resized from ``small``, at least 2, to ``large``."""
    taps = axis_taps(small, large, align_corners, torch.float64, torch.device("cpu"))
    points = [
        (first, weight) if first < small - 1 else (small - 2, 1.0)  # the last point is below the one before
        for first, weight in zip(taps.first.tolist(), taps.weights[1].tolist(), strict=True)
    ]
    rows = [0]
    for row in range(1, large):
        first, weight = points[rows[-1]]
        number, step = row - rows[-1], points[rows[-1] + 1][1] - weight
        straight = points[row][0] == first and abs(points[row][1] - weight - number * step) < 1e-6
        if number == _LONGEST or not straight:
            rows.append(row)
    starts = [points[row][1] for row in rows]
    lasts = [row - 1 for row in [*rows[1:], large]]
    steps = [
        (points[last][1] - start) / max(last - row, 1)
        for row, last, start in zip(rows, lasts, starts, strict=True)
    ]
    return _Segments(
        np.array([points[row][0] for row in rows]),
        np.array([*rows, large]),
        np.array(starts, np.float32),
        np.array(steps, np.float32),
    )


class _SegmentGrid(LabelGrid):
    """Label grid whose images are visited by segments, or by tiles where their outputs span too much."""

    def _tiles(self, n: int, visitor: Visitor, gradient: Tensor | None) -> Iterator[Tensor]:
        assert isinstance(visitor, CrossEntropyVisitor)
        small = visitor.prepare(self._small(n, rows_first=True))
        if small.dtype != torch.float32 or not small.sum().isfinite():
            yield from super()._tiles(n, visitor, gradient)
            return
        height, classes, width = small.shape
        large_height, large_width = self.labels.target.shape[1:]
        segments = _segments(height, large_height, self.align_corners)
        most = min(int(_STRIP * TILE["cpu"]) // (height * classes), _WIDTH * COLUMNS["cpu"])
        most = max(most // 16 * 16, 16)  # a vector has up to 16 numbers
        blocks = axis_blocks(width, large_width, most, self.align_corners, small.dtype, small.device)
        widest = len(blocks[0].matrix)
        size = min(max(int(_GROUP * TILE["cpu"]) // (classes * widest), 1), len(segments.first))
        projected = None if gradient is None else gradient.permute(1, 0, 2).zero_()
        # Kept buffers: to allocate one for every strip or group would cause page faults.
        strip_buffer = small.new_empty(height * classes * widest)
        gradient_buffer = small.new_empty(0 if projected is None else len(strip_buffer))
        group_buffer = small.new_empty(2 * size * classes * widest)
        for block in blocks:
            columns = len(block.matrix)
            strip = strip_buffer[: height * classes * columns].view(height, classes, columns)
            inputs = small[:, :, block.small].flatten(0, 1)
            torch.mm(inputs, block.matrix.T, out=strip.view(-1, columns))
            strip_gradient = None
            if projected is not None:
                strip_gradient = gradient_buffer[: strip.numel()].zero_().view_as(strip)
            label, valid = self.labels.chunk((n, slice(None), block.large))
            factor = valid.to(small.dtype)
            weight = self._weight(n, slice(None))
            if weight is not None:
                factor *= weight if weight.dim() == 0 else weight[:, block.large]
            for rows, group in segments.groups(size):
                yield _visit(visitor, group, strip, strip_gradient, label[rows], factor[rows], group_buffer)
            if projected is not None and strip_gradient is not None:
                part = torch.mm(strip_gradient.view(-1, columns), block.matrix)
                projected[:, :, block.small] += part.view(height, classes, -1)
        if projected is not None:
            visitor.finish(projected)


def _visit(
    visitor: CrossEntropyVisitor,
    segments: _Segments,
    strip: Tensor,
    strip_gradient: Tensor | None,
    label: Tensor,
    factor: Tensor,
    buffer: Tensor,
) -> Tensor:
    """Return the sum of the losses of a group's pixels; add their gradient to that by the strip.

    Args:
        visitor: The loss.
        segments: The group.
        strip: Outputs of all rows of the small outputs in the strip's columns, (h, K, R).
        strip_gradient: Gradient by them, or ``None``.
        label: Labels of the group's rows, (H, R).
        factor: Factors of their losses.
        buffer: Memory of at least 2 K R numbers for each segment.
    """
    first, rows, start, step = segments
    shape = 2, len(first), *strip.shape[1:]
    exponents = buffer[: prod(shape)].view(shape)
    _write_exponents(strip.numpy(), first, start, step, exponents.numpy())
    powers, labels = exponents.exp2_().numpy(), label.numpy()
    totals, outputs = strip.new_empty(2, *label.shape)
    work = np.empty((3, strip.shape[2]), np.float32)
    _add_exponentials(
        strip.numpy(), first, rows, start, step, labels, powers, totals.numpy(), outputs.numpy(), work[0]
    )
    entropy = totals.log2().sub_(outputs).mul_(LN_2)
    value, derivative = visitor.form.elements(entropy, label, factor)
    if strip_gradient is not None and visitor.scale is not None:
        derivative = derivative * visitor.scale
        shares = torch.div(derivative, totals, out=totals)
        arrays = (array.numpy() for array in (shares, derivative, strip_gradient))
        _add_gradient(powers, first, rows, start, step, labels, *arrays, work)
    return value
