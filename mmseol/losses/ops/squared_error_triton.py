"""The sums of :mod:`squared_error` and :mod:`squared_error_upsampled` as Triton kernels, for CUDA.

The functions have the same names, arguments and results as those, whose docstrings describe them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmseol.losses.ops.inputs import Labels
from mmseol.losses.ops.squared_error_upsampled import axis_taps, not_below_zero

__all__ = ["half_squared_error_sum", "upsampled_half_squared_error_sum"]

_BLOCK = 256


@triton.jit
def _residual_kernel(
    pred, target, weight, values, scale, gradient, sums, elements, per_sample, classes, ignore_index,
    stride_n, stride_k, stride_p, WEIGHT: tl.constexpr, WRITE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Residuals and their squares' sum at BLOCK elements of outputs (N, K, P); WEIGHT is 0, (N,), (N, P)."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < elements
    n = at // per_sample
    offset = n * stride_n + (at % per_sample) * stride_p
    label = tl.load(target + at, mask=inside, other=0).to(tl.int64)
    valid = inside & (label != ignore_index)
    known = valid & (label >= 0) & (label < classes)
    label_value = tl.load(values + label, mask=known, other=0.0)
    factor = tl.full([BLOCK], 1.0, values.dtype.element_ty)
    if WEIGHT == 1:
        factor = tl.load(weight + n, mask=inside, other=0.0).to(values.dtype.element_ty)
    if WEIGHT == 2:
        factor = tl.load(weight + at, mask=inside, other=0.0).to(values.dtype.element_ty)
    scaled = factor * tl.load(scale)
    total = tl.zeros([BLOCK], values.dtype.element_ty)
    for k in range(classes):
        output = tl.load(pred + offset + k * stride_k, mask=valid, other=0.0).to(values.dtype.element_ty)
        residual = output - tl.where(known & (label == k), label_value, 0.0)  # Eq. (5)
        total += residual * residual
        if WRITE:
            # 0 at ignored elements, even if their weight is not finite.
            tl.store(gradient + offset + k * stride_k, tl.where(valid, residual * scaled, 0.0), mask=inside)
    total = tl.where(valid & ~known, float("nan"), total * factor)  # a label that is no class must show
    tl.store(sums + tl.program_id(0), 0.5 * tl.sum(tl.where(valid, total, 0.0)))


@triton.jit
def _project_kernel(
    target, weight, row_first, row_weights, column_first, column_weights, bins, itself, right, below, across,
    pixels, large_height, large_width, width, points, classes, ignore_index,
    WEIGHT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add BLOCK label pixels to the bins (N, h w, K) and the couplings (N, h w) of the four points around."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < pixels
    y, x = (at // large_width) % large_height, at % large_width
    n = at // (large_height * large_width)
    label = tl.load(target + at, mask=inside, other=0).to(tl.int64)
    valid = inside & (label != ignore_index)
    pixel = tl.where(valid & ((label < 0) | (label >= classes)), float("nan"), 1.0).to(tl.float64)
    label = tl.where((label < 0) | (label >= classes), 0, label)
    if WEIGHT == 1:
        pixel *= tl.load(weight + n, mask=inside, other=0.0).to(tl.float64)
    if WEIGHT == 2:
        pixel *= tl.load(weight + at, mask=inside, other=0.0).to(tl.float64)
    point = n * points + tl.load(row_first + y, mask=inside, other=0) * width
    point += tl.load(column_first + x, mask=inside, other=0)
    top = tl.load(row_weights + y, mask=inside, other=0.0)
    bottom = tl.load(row_weights + large_height + y, mask=inside, other=0.0)
    left = tl.load(column_weights + x, mask=inside, other=0.0)
    beside = tl.load(column_weights + large_width + x, mask=inside, other=0.0)
    # Taps beyond the border have weight 0.
    has_right, has_below = valid & (beside != 0), valid & (bottom != 0)
    both = has_right & has_below

    one_hot = bins + point * classes + label
    tl.atomic_add(one_hot, pixel * top * left, mask=valid)
    tl.atomic_add(one_hot + classes, pixel * top * beside, mask=has_right)
    tl.atomic_add(one_hot + width * classes, pixel * bottom * left, mask=has_below)
    tl.atomic_add(one_hot + (width + 1) * classes, pixel * bottom * beside, mask=both)

    tl.atomic_add(itself + point, pixel * top * top * left * left, mask=valid)
    tl.atomic_add(itself + point + 1, pixel * top * top * beside * beside, mask=has_right)
    tl.atomic_add(itself + point + width, pixel * bottom * bottom * left * left, mask=has_below)
    tl.atomic_add(itself + point + width + 1, pixel * bottom * bottom * beside * beside, mask=both)
    tl.atomic_add(right + point, pixel * top * top * left * beside, mask=has_right)
    tl.atomic_add(right + point + width, pixel * bottom * bottom * left * beside, mask=both)
    tl.atomic_add(below + point, pixel * top * bottom * left * left, mask=has_below)
    tl.atomic_add(below + point + 1, pixel * top * bottom * beside * beside, mask=both)
    tl.atomic_add(across + point, pixel * top * bottom * left * beside, mask=both)


@triton.jit
def _coupled(pred, stride_p, coupling, start, at_coupling, at_output, points):
    """The output of a neighbour times the coupling; outputs that nothing couples with may be anything."""
    factor = tl.load(
        coupling + start + at_coupling, mask=(at_coupling >= 0) & (at_coupling < points), other=0.0
    )
    there = (at_output >= 0) & (at_output < points) & (factor != 0)
    return factor * tl.load(pred + at_output * stride_p, mask=there, other=0.0).to(tl.float64)


@triton.jit
def _stencil_kernel(
    pred, bins, itself, right, below, across, values, divisor, gradient, sums, width, points, classes, blocks,
    stride_n, stride_k, stride_p, WRITE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradient and value at BLOCK points of one channel of outputs (N, K, h w)."""
    channel, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    n, k = (channel // classes).to(tl.int64), channel % classes
    p = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    start, offset = n * points, n * stride_n + k * stride_k
    outputs = pred + offset
    # Couplings around a row's end are zero.
    residual = _coupled(outputs, stride_p, itself, start, p, p, points)
    residual += _coupled(outputs, stride_p, right, start, p, p + 1, points)
    residual += _coupled(outputs, stride_p, right, start, p - 1, p - 1, points)
    residual += _coupled(outputs, stride_p, below, start, p, p + width, points)
    residual += _coupled(outputs, stride_p, below, start, p - width, p - width, points)
    residual += _coupled(outputs, stride_p, across, start, p, p + width + 1, points)
    residual += _coupled(outputs, stride_p, across, start, p - width - 1, p - width - 1, points)
    residual += _coupled(outputs, stride_p, across, start, p - 1, p + width - 1, points)
    residual += _coupled(outputs, stride_p, across, start, p - width, p - width + 1, points)

    inside = p < points
    value = tl.load(values + k)
    label = tl.load(bins + (start + p) * classes + k, mask=inside, other=0.0) * value  # b
    residual -= label  # g
    seen = inside & (tl.load(itself + start + p, mask=inside, other=0.0) != 0)
    output = tl.load(outputs + p * stride_p, mask=seen, other=0.0).to(tl.float64)
    if WRITE:
        scaled = residual / tl.load(divisor)
        tl.store(gradient + offset + p * stride_p, scaled.to(gradient.dtype.element_ty), mask=inside)
    total = tl.where(inside, output * residual - output * label + value * label, 0.0)
    tl.store(sums + tl.program_id(0), 0.5 * tl.sum(total))


def half_squared_error_sum(
    pred: Tensor,
    labels: Labels,
    values: Tensor,
    weight: Tensor | None,
    divisor: Tensor,
    requires_grad: bool,
) -> tuple[Tensor, Tensor | None]:
    """Triton version of the function of this name in ``squared_error``; a label out of range gives NaN."""
    dtype = torch.promote_types(pred.dtype, torch.float32)
    flat, gradient = _flat(pred, dtype, requires_grad)
    elements = labels.target.numel()
    sums = torch.zeros(triton.cdiv(elements, _BLOCK), dtype=dtype, device=pred.device)
    if elements:
        _residual_kernel[(len(sums),)](
            flat, labels.target.contiguous(), flat if weight is None else weight.contiguous(),
            values.to(dtype), (1 / divisor).to(dtype), gradient, sums, elements, flat.shape[2],
            flat.shape[1], labels.ignore_index, *flat.stride(),
            WEIGHT=_kind(weight, labels), WRITE=requires_grad, BLOCK=_BLOCK,
        )  # fmt: skip
    value = (sums.sum(dtype=torch.float64) / divisor).to(dtype)
    return value, gradient.view(pred.shape) if requires_grad else None


def upsampled_half_squared_error_sum(
    pred: Tensor,
    labels: Labels,
    values: Tensor,
    weight: Tensor | None,
    divisor: Tensor,
    requires_grad: bool,
    align_corners: bool,
) -> tuple[Tensor, Tensor | None]:
    """Triton version of the function of this name in ``squared_error_upsampled``; NaN as above."""
    dtype = torch.promote_types(pred.dtype, torch.float32)
    flat, gradient = _flat(pred, dtype, requires_grad)
    samples, classes, points = flat.shape
    large_height, large_width = labels.target.shape[1:]
    rows, columns = (
        axis_taps(small, large, align_corners, dtype, pred.device)
        for small, large in zip(pred.shape[-2:], labels.target.shape[-2:], strict=True)
    )
    bins = torch.zeros(samples, points, classes, dtype=torch.float64, device=pred.device)
    itself, right, below, across = bins.new_zeros(4, samples, points)
    blocks = triton.cdiv(points, _BLOCK)
    sums = bins.new_zeros(samples * classes * blocks)
    if samples:
        _project_kernel[(triton.cdiv(labels.target.numel(), _BLOCK),)](
            labels.target.contiguous(), flat if weight is None else weight.contiguous(),
            rows.first, rows.weights, columns.first, columns.weights,
            bins, itself, right, below, across, labels.target.numel(),
            large_height, large_width, pred.shape[-1], points, classes, labels.ignore_index,
            WEIGHT=_kind(weight, labels), BLOCK=_BLOCK,
        )  # fmt: skip
        _stencil_kernel[(len(sums),)](
            flat, bins, itself, right, below, across, values.double(), divisor.double(), gradient, sums,
            pred.shape[-1], points, classes, blocks, *flat.stride(), WRITE=requires_grad, BLOCK=_BLOCK,
        )  # fmt: skip
    value = (not_below_zero(sums.sum(), weight) / divisor).to(dtype)
    return value, gradient.view(pred.shape) if requires_grad else None


def _flat(pred: Tensor, dtype: torch.dtype, requires_grad: bool) -> tuple[Tensor, Tensor]:
    """Return the outputs as (N, K, P), and a gradient of the same strides where one is wanted."""
    flat = pred.unsqueeze(2) if pred.dim() == 2 else pred.flatten(2)
    if not requires_grad:
        return flat, flat  # a pointer that nothing is written to
    gradient = torch.empty_like(flat, dtype=dtype)
    if gradient.stride() != flat.stride():
        flat = flat.contiguous()
        gradient = torch.empty_like(flat, dtype=dtype)
    return flat, gradient


def _kind(weight: Tensor | None, labels: Labels) -> int:
    return 0 if weight is None else 2 if weight.shape == labels.target.shape else 1
