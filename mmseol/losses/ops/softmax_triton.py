"""The sums of :mod:`softmax` over upsampled outputs as Triton kernels, for CUDA.

The label pixels between four neighbouring points of the small outputs, a cell, are one program's. It sums
their gradients for each of the four points, and a last kernel adds the four sums of each point in a fixed
order: results are the same in every run.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmseol.losses.ops.axis_blocks import unread_points
from mmseol.losses.ops.inputs import expand_weight
from mmseol.losses.ops.softmax import SoftmaxForm
from mmseol.losses.ops.softmax import softmax_sums as tiled_softmax_sums
from mmseol.losses.ops.squared_error_upsampled import axis_taps
from mmseol.losses.ops.tiles import RANGE, LabelGrid

__all__ = ["softmax_sums"]

# Numbers in memory at once beside the gradient: 128 MB in float32. Images are processed in such groups.
_WORK = 2**25
# Classes and columns of a block, as many as a warp has registers for in float64.
_CLASSES, _COLUMNS = 32, 8
# Largest number of rows or columns of a cell, whose pixels one program visits one after another.
_LARGEST_CELL = 64
_POINTS = 32  # points of a block of the last kernel


@triton.jit
def _corners(outputs, cell, k, row, column, height, width, classes):
    """The outputs of a cell's four points, (BLOCK,) each; a point beyond the border, of weight 0, is another.

    Classes that do not exist get an output whose exponential is 0.
    """
    below = tl.where(row + 1 < height, width, 0)
    right = tl.where(column + 1 < width, 1, 0)
    at = outputs + cell * classes + k
    exists = k < classes
    top_left = tl.load(at, mask=exists, other=-1e30)
    top_right = tl.load(at + right * classes, mask=exists, other=-1e30)
    bottom_left = tl.load(at + below * classes, mask=exists, other=-1e30)
    bottom_right = tl.load(at + (below + right) * classes, mask=exists, other=-1e30)
    return top_left, top_right, bottom_left, bottom_right


@triton.jit
def _entropy_kernel(
    outputs, target, margins, row_starts, row_weights, column_starts, column_weights, log_sums, entropies,
    height, width, large_height, large_width, classes, ignore_index,
    MARGIN: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Cross entropies and log-sum-exps, (N, H, W), of the pixels of one cell of outputs (N, h, w, K)."""
    dtype: tl.constexpr = outputs.dtype.element_ty
    cell = tl.program_id(0).to(tl.int64)
    row, column, n = (cell // width) % height, cell % width, cell // (height * width)
    last_column = tl.load(column_starts + column + 1)
    for start in range(tl.load(column_starts + column), last_column, COLUMNS):
        x = start + tl.arange(0, COLUMNS)
        inside = x < last_column
        left = tl.load(column_weights + x, mask=inside, other=0.0)[:, None]
        right = tl.load(column_weights + large_width + x, mask=inside, other=0.0)[:, None]
        for y in range(tl.load(row_starts + row), tl.load(row_starts + row + 1)):
            at = (n * large_height + y) * large_width + x
            label = tl.load(target + at, mask=inside, other=0).to(tl.int64)
            valid = inside & (label != ignore_index)
            known = valid & (label >= 0) & (label < classes)
            margin = tl.zeros([COLUMNS], dtype)
            if MARGIN:
                margin = tl.load(margins + label, mask=known, other=0.0)
            top = tl.load(row_weights + y)
            bottom = tl.load(row_weights + large_height + y)
            # In float32 the largest output of a point is 0, and no other is less than -RANGE.
            largest = tl.zeros([COLUMNS], dtype)
            if dtype == tl.float64:
                most = tl.full([COLUMNS, BLOCK], float("-inf"), dtype)
                for first in range(0, classes, BLOCK):
                    k = first + tl.arange(0, BLOCK)
                    a, b, c, d = _corners(outputs, cell, k, row, column, height, width, classes)
                    z = left * (top * a + bottom * c)[None, :] + right * (top * b + bottom * d)[None, :]
                    most = tl.maximum(most, z)
                largest = tl.max(most, 1)
            total = tl.zeros([COLUMNS, BLOCK], dtype)
            own = tl.zeros([COLUMNS, BLOCK], dtype)
            for first in range(0, classes, BLOCK):
                k = first + tl.arange(0, BLOCK)
                a, b, c, d = _corners(outputs, cell, k, row, column, height, width, classes)
                z = left * (top * a + bottom * c)[None, :] + right * (top * b + bottom * d)[None, :]
                labelled = label[:, None] == k[None, :]
                if MARGIN:
                    z -= tl.where(labelled, margin[:, None], 0.0)
                z -= largest[:, None]
                own += tl.where(labelled, z, 0.0)
                total += tl.exp(z)
            log_sum = tl.log(tl.sum(total, 1))
            entropy = log_sum - tl.sum(own, 1)
            entropy = tl.where(valid & ~known, float("nan"), entropy)  # a label that is no class must show
            # At ignored pixels any number at which functions of an entropy have a derivative.
            tl.store(entropies + at, tl.where(valid, entropy, 1.0), mask=inside)
            tl.store(log_sums + at, largest + log_sum, mask=inside)


@triton.jit
def _cell_kernel(
    outputs, target, margins, row_starts, row_weights, column_starts, column_weights, log_sums, derivatives,
    sums, height, width, large_height, large_width, classes,
    MARGIN: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums (N h w, 4, K) of the gradients of a cell's pixels by its four points, for BLOCK classes."""
    dtype: tl.constexpr = outputs.dtype.element_ty
    cell = tl.program_id(0).to(tl.int64)
    row, column, n = (cell // width) % height, cell % width, cell // (height * width)
    k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    a, b, c, d = _corners(outputs, cell, k, row, column, height, width, classes)
    top_left = tl.zeros([BLOCK], dtype)
    top_right = tl.zeros([BLOCK], dtype)
    bottom_left = tl.zeros([BLOCK], dtype)
    bottom_right = tl.zeros([BLOCK], dtype)
    last_column = tl.load(column_starts + column + 1)
    for start in range(tl.load(column_starts + column), last_column, COLUMNS):
        x = start + tl.arange(0, COLUMNS)
        inside = x < last_column
        left = tl.load(column_weights + x, mask=inside, other=0.0)[:, None]
        right = tl.load(column_weights + large_width + x, mask=inside, other=0.0)[:, None]
        above = tl.zeros([COLUMNS, BLOCK], dtype)
        under = tl.zeros([COLUMNS, BLOCK], dtype)
        for y in range(tl.load(row_starts + row), tl.load(row_starts + row + 1)):
            at = (n * large_height + y) * large_width + x
            label = tl.load(target + at, mask=inside, other=0).to(tl.int64)
            derivative = tl.load(derivatives + at, mask=inside, other=0.0)
            log_sum = tl.load(log_sums + at, mask=inside, other=0.0)
            top = tl.load(row_weights + y)
            bottom = tl.load(row_weights + large_height + y)
            z = left * (top * a + bottom * c)[None, :] + right * (top * b + bottom * d)[None, :]
            labelled = label[:, None] == k[None, :]
            if MARGIN:
                known = inside & (label >= 0) & (label < classes)
                margin = tl.load(margins + label, mask=known, other=0.0)
                z -= tl.where(labelled, margin[:, None], 0.0)
            residual = tl.exp(z - log_sum[:, None]) - tl.where(labelled, 1.0, 0.0)
            residual *= derivative[:, None]
            above += top * residual
            under += bottom * residual
        top_left += tl.sum(left * above, 0)
        top_right += tl.sum(right * above, 0)
        bottom_left += tl.sum(left * under, 0)
        bottom_right += tl.sum(right * under, 0)
    at = sums + cell * 4 * classes + k
    tl.store(at, top_left, mask=k < classes)
    tl.store(at + classes, top_right, mask=k < classes)
    tl.store(at + 2 * classes, bottom_left, mask=k < classes)
    tl.store(at + 3 * classes, bottom_right, mask=k < classes)


@triton.jit
def _gather_kernel(
    sums, factors, gradient, points, height, width, classes, stride_n, stride_k, stride_h, stride_w,
    POINTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradient by outputs (N, K, h, w), at POINTS points and BLOCK classes: sums of four cells each."""
    point = tl.program_id(0).to(tl.int64) * POINTS + tl.arange(0, POINTS)
    k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row, column, n = (point // width) % height, point % width, point // (height * width)
    exists = (point < points)[:, None] & (k < classes)[None, :]
    has_left, has_above = (column > 0)[:, None], (row > 0)[:, None]
    at = sums + (point * 4 * classes)[:, None] + k[None, :]
    total = tl.load(at, mask=exists, other=0.0)
    total += tl.load(at - 3 * classes, mask=exists & has_left, other=0.0)
    total += tl.load(at + (2 - 4 * width) * classes, mask=exists & has_above, other=0.0)
    total += tl.load(at - (1 + 4 * width) * classes, mask=exists & has_above & has_left, other=0.0)
    total *= tl.load(factors + k, mask=k < classes, other=0.0)[None, :]
    offset = (n * stride_n + row * stride_h + column * stride_w)[:, None]
    offset += (k.to(tl.int64) * stride_k)[None, :]
    tl.store(gradient + offset, total.to(gradient.dtype.element_ty), mask=exists)


def softmax_sums(grid: LabelGrid, form: SoftmaxForm, scale: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Triton version of the function of this name in ``softmax``; a label out of range gives NaN.

    Outputs of label size, cells of more than 64 rows or columns, and margins and shifts that depend on the
    outputs are left to the tiles.
    """
    depends = form.margin_of is not None or form.factors is not None
    if grid.same_size or depends or not grid.pred.numel():
        return tiled_softmax_sums(grid, form, scale)
    sizes = grid.pred.shape[2:], grid.labels.target.shape[1:]
    rows, columns = (
        _cells(small, large, grid.align_corners, grid.pred.device)
        for small, large in zip(*sizes, strict=True)
    )
    if max(rows.largest, columns.largest) > _LARGEST_CELL:
        return tiled_softmax_sums(grid, form, scale)
    gradient = torch.empty_like(grid.pred, dtype=grid.dtype) if scale is not None else None
    # Eight maps, and four sums and two copies of the outputs.
    numbers = 8 * sizes[1].numel() + 6 * grid.pred[0].numel()
    step = max(_WORK // numbers, 1)
    totals = [
        _images(grid, slice(start, start + step), form, scale, rows, columns, gradient)
        for start in range(0, len(grid.pred), step)
    ]
    return torch.stack(totals), gradient


def _images(
    grid: LabelGrid,
    images: slice,
    form: SoftmaxForm,
    scale: Tensor | None,
    rows: _Cells,
    columns: _Cells,
    gradient: Tensor | None,
) -> Tensor:
    """Return the sum of the losses of some images, float64, and write their gradient."""
    target = grid.labels.target[images].contiguous()
    outputs = _prepare(grid, images, form)
    n, height, width, classes = outputs.shape
    margins = outputs if form.margin is None else form.margin.to(outputs)
    log_sums, entropies = outputs.new_empty(2, *target.shape)
    axes = rows.starts, rows.weights.to(outputs), columns.starts, columns.weights.to(outputs)
    sizes = height, width, *target.shape[1:], classes
    blocks = dict(
        MARGIN=form.margin is not None,
        COLUMNS=min(triton.next_power_of_2(-(-target.shape[2] // width)), _COLUMNS),
        BLOCK=min(triton.next_power_of_2(classes), _CLASSES),
        num_warps=1,
    )
    cells, parts = n * height * width, triton.cdiv(classes, blocks["BLOCK"])
    _entropy_kernel[(cells,)](
        outputs, target, margins, *axes, log_sums, entropies, *sizes, grid.labels.ignore_index, **blocks
    )
    label, valid = grid.labels.chunk(images)
    factor = valid.to(outputs.dtype)
    if grid.weight is not None:
        factor *= expand_weight(grid.weight[images], factor)
    value, derivative = form.elements(entropies, label.clamp_(0, classes - 1), factor)
    if gradient is None or scale is None:
        return value
    del label, valid, factor
    sums = outputs.new_empty(cells, 4, classes)
    _cell_kernel[(cells, parts)](
        outputs, target, margins, *axes, log_sums, (derivative * scale).contiguous(), sums, *sizes, **blocks
    )
    factors = outputs.new_ones(()) if form.factor is None else form.factor.to(outputs)
    part = gradient[images]
    _gather_kernel[(triton.cdiv(cells, _POINTS), parts)](
        sums, factors.expand(classes).contiguous(), part, cells, height, width, classes, *part.stride(),
        POINTS=_POINTS, BLOCK=blocks["BLOCK"],
    )  # fmt: skip
    return value


def _prepare(grid: LabelGrid, images: slice, form: SoftmaxForm) -> Tensor:
    """Return adjusted outputs, (N, h, w, K), less the largest of each point; the softmax stays the same.

    They are float64 if outputs of a point differ by more than ``RANGE``; if any is infinite, those that no
    valid pixel reads are 0.
    """
    outputs = grid.pred[images].to(grid.dtype)
    adjusted = form.adjust(outputs)
    spread = float((adjusted.amax(1) - adjusted.amin(1)).max())
    if not spread < torch.inf:  # infinite or NaN
        unread = unread_points(grid.labels.valid[images], outputs.shape[2:], grid.align_corners)
        outputs = outputs.masked_fill(unread.unsqueeze(1), 0)
        adjusted = form.adjust(outputs)
        spread = float((adjusted.amax(1) - adjusted.amin(1)).max())
    if spread > RANGE:
        adjusted = form.adjust(outputs.double())
    adjusted = adjusted.permute(0, 2, 3, 1)
    return (adjusted - adjusted.amax(3, keepdim=True)).contiguous()


class _Cells(NamedTuple):
    """One axis of the bilinear operator: which of its S outputs lie between which of its s inputs."""

    starts: Tensor
    """First output of each cell, and S, int32 (s + 1,)."""
    weights: Tensor
    """Weights of the input before each output and of that after it, float64 (2, S)."""
    largest: int
    """Largest number of outputs of a cell."""


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _cells(small: int, large: int, align_corners: bool, device: torch.device) -> _Cells:
    taps = axis_taps(small, large, align_corners, torch.float64, device)
    starts = torch.searchsorted(taps.first, torch.arange(small + 1, device=device)).int()
    return _Cells(starts, taps.weights, int(starts.diff().max()))
