"""The half squared error of bilinearly upsampled outputs, and its gradient, without upsampling them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mmseol.losses.labels import Labels

__all__ = ["upsampled_half_squared_error_sum"]


# Elements of a strip of labels or of a group of channels; on a CPU their tensors, 0.5 MB in float64, stay in
# a core's cache.
_PIECE = {"cpu": 2**16, "cuda": 2**24}


class Taps(NamedTuple):
    """One axis of the bilinear operator, two taps for each of its S outputs; weights in float64."""

    first: Tensor
    """Index of the left tap, int64 (S,)."""
    weights: Tensor
    """Weights of the left and of the right tap, (2, S); they add up to 1."""
    coupling: Tensor
    """For each of the s inputs, the squares of its weights, then the products with its right neighbour's,
    sparse (2 s, S)."""


@torch.no_grad()
def upsampled_half_squared_error_sum(
    pred: Tensor,
    labels: Labels,
    values: Tensor,
    weight: Tensor | None,
    divisor: Tensor,
    requires_grad: bool,
    align_corners: bool,
) -> tuple[Tensor, Tensor | None]:
    r"""Return :math:`\frac1d \sum_p w_p \sum_k \frac12 ((U a)_{pk} - v_{y_p} [k = y_p])^2` and its gradient.

    With U the bilinear interpolation to the labels' size, D the diagonal of the weights (0 where ignored),
    t the targets and :math:`b = U^T D t`, the gradient by a is :math:`g = U^T D U a - b` and the sum
    :math:`\frac12 (a^T g - a^T b + t^T D t)`. U has two taps per axis: :math:`U^T D U` couples each point
    with its 8 neighbours, and b scatters each label to 4 points; neither has a pixel-sized tensor of K
    channels, and the work over pixels does not grow with K. Near convergence the sum is a small
    difference of large numbers: all sums are float64.

    Args:
        pred: Raw outputs :math:`a`, (N, K, h, w).
        labels: Labels y, (N, H, W).
        values: Target value :math:`v_k` of each class, (K,).
        weight: Weights :math:`w`, (N, H, W) or (N,).
        divisor: d, a scalar.
        requires_grad: Whether the gradient is wanted.
        align_corners: As in :func:`torch.nn.functional.interpolate`.

    Returns:
        The value, a scalar, and the gradient, (N, K, h, w), in float32, or float64 for such outputs.
    """
    dtype = torch.promote_types(pred.dtype, torch.float32)
    rows, columns = (
        axis_taps(small, large, align_corners, dtype, pred.device)
        for small, large in zip(pred.shape[-2:], labels.target.shape[-2:], strict=True)
    )
    values = values.double().view(-1, 1)
    gradient = torch.empty_like(pred, dtype=dtype) if requires_grad else None

    projector, images = _Projector(rows, columns, pred.shape[1]), []
    with _one_thread(pred.device):
        for n in range(len(pred)):
            stencil, projected = projector.project(labels, None if weight is None else weight[n], n)
            out = None if gradient is None else gradient[n]
            images.append(_residual(pred[n], stencil, projected, values, divisor, projector.piece, out))
    total = torch.stack(images).sum() if images else divisor.new_zeros((), dtype=torch.float64)
    return (not_below_zero(total, weight) / divisor).to(dtype), gradient


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """Keep torch on one thread: pieces are too small to share, and a busy core would hold up every one."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _residual(
    pred: Tensor,
    stencil: list[Tensor],
    projected: Tensor,
    values: Tensor,
    divisor: Tensor,
    piece: int,
    gradient: Tensor | None,
) -> Tensor:
    """Write the gradient of one image, (K, h, w), and return its sum, in groups of channels."""
    total = torch.zeros((), dtype=torch.float64, device=pred.device)
    seen = None if stencil[0].all() else stencil[0] != 0
    step = max(piece // pred[0].numel(), 1)
    for start in range(0, len(pred), step):
        group = slice(start, start + step)
        outputs = pred[group].double().flatten(1)
        if seen is not None:  # elsewhere an output may be anything: 0 * inf would be NaN
            outputs = torch.where(seen, outputs, 0)
        right_side = projected[group].mul_(values[group])  # b
        residual = apply_stencil(stencil, outputs, pred.shape[2]).sub_(right_side)  # g
        total += 0.5 * ((outputs * residual).sum() - (right_side * (outputs - values[group])).sum())
        if gradient is not None:
            gradient[group] = residual.div_(divisor).view_as(gradient[group])
    return total


@lru_cache(maxsize=32)
def axis_taps(small: int, large: int, align_corners: bool, dtype: torch.dtype, device: torch.device) -> Taps:
    """Return the taps by which torch resizes an axis from ``small`` to ``large``, rounded as in ``dtype``."""
    unit = torch.eye(small, dtype=dtype, device=device)[None, :, None]
    matrix = F.interpolate(unit, (1, large), mode="bilinear", align_corners=align_corners)[0, :, 0].double()
    first = (matrix != 0).int().argmax(0)
    right = torch.cat([matrix[1:], torch.zeros_like(matrix[:1])])
    weight = right.gather(0, first.unsqueeze(0)).squeeze(0)
    # That the two add up to 1 exactly keeps the sum of squares exact near convergence.
    left = 1 - weight
    position = torch.arange(small, device=device).unsqueeze(1)
    at_first, at_second = position == first, position == first + 1
    squares = left.square() * at_first + weight.square() * at_second
    coupling = torch.cat([squares, left * weight * at_first]).to_sparse()
    return Taps(first, torch.stack([left, weight]), coupling)


class _Projector:
    """Brings the labels of one image after the other to the outputs' size, strip by strip, in buffers kept.

    Args:
        rows: Taps of the height.
        columns: Taps of the width.
        classes: K.
    """

    def __init__(self, rows: Taps, columns: Taps, classes: int) -> None:
        self.rows, self.columns, self.classes = rows, columns, classes
        device = rows.first.device
        large_height, large_width = len(rows.first), len(columns.first)
        self.height, self.width = (axis.coupling.shape[0] // 2 for axis in (rows, columns))
        self.piece = _PIECE.get(device.type, _PIECE["cpu"])
        self.step = min(max(self.piece // large_width, 1), large_height)
        # The first bin of the point that is each pixel's upper left tap.
        self.cells = (rows.first.unsqueeze(1) * self.width + columns.first) * classes
        empty = partial(torch.empty, dtype=torch.float64, device=device)
        self.index = torch.empty_like(self.cells[: self.step])
        self.pixels = empty(large_height, large_width)
        self.of_row, self.product = empty(2, self.step, large_width)
        points = self.height * self.width
        # Right or lower taps beyond the border have weight 0 and land in some other bin or in the excess.
        self.bins = empty((points + self.width + 1) * classes)
        self.corners = [
            [self.bins[(row * self.width + column) * classes :] for column in (0, 1)] for row in (0, 1)
        ]
        self.by_class = empty(classes, points)

    def project(self, labels: Labels, weight: Tensor | None, image: int) -> tuple[list[Tensor], Tensor]:
        r"""Return :math:`U^T D U` and :math:`U^T D Y` of an image, Y its one-hot labels.

        Args:
            labels: Labels, (N, H, W).
            weight: Weights of the image's pixels, (H, W), or of all of them, (), or ``None``.
            image: Index of the image.

        Returns:
            How each point couples with itself and its neighbours to the right, below, below right and
            below left, each (h w,); and the sum of weights by class around each point, (K, h w), which
            the next call overwrites.
        """
        for part in self.bins.split(self.piece):
            part.zero_()
        for start in range(0, len(self.rows.first), self.step):
            strip = slice(start, start + self.step)
            label, valid = labels.piece((image, strip))
            pixels = self.pixels[strip].copy_(valid)
            if weight is not None:
                pixels *= weight if weight.dim() == 0 else weight[strip]
            self._scatter(label, pixels, strip)
        coupled = torch.mm(self.columns.coupling, torch.mm(self.rows.coupling, self.pixels).T.contiguous())
        upper, lower = coupled.T.chunk(2)  # (h, 2 w) each
        itself, right = (part.flatten() for part in upper.chunk(2, dim=1))
        below, across = (part.flatten() for part in lower.chunk(2, dim=1))
        # Class by class last: a pixel's bins lie side by side while they are filled.
        self.by_class.copy_(self.bins[: self.by_class.numel()].view(-1, self.classes).T)
        # The last row and the last column of `across` are zero.
        return [itself, right, below, across, across.roll(1)], self.by_class

    def _scatter(self, label: Tensor, pixels: Tensor, strip: slice) -> None:
        index, of_row, product = (part[: len(label)] for part in (self.index, self.of_row, self.product))
        torch.add(label, self.cells[strip], out=index)
        for row_weight, corners in zip(self.rows.weights[:, strip, None], self.corners, strict=True):
            torch.mul(pixels, row_weight, out=of_row)
            for column_weight, bins in zip(self.columns.weights, corners, strict=True):
                torch.mul(of_row, column_weight, out=product)
                bins.scatter_add_(0, index.view(-1), product.view(-1))


def apply_stencil(stencil: list[Tensor], outputs: Tensor, width: int) -> Tensor:
    """Return :math:`U^T D U a`, (K, h w), of ``outputs`` a; couplings around a row's end are zero."""
    result = outputs * stencil[0]
    points = outputs.shape[1]
    for coupling, offset in zip(stencil[1:], (1, width, width + 1, width - 1), strict=True):
        inner = max(points - offset, 0)
        result[:, :inner].addcmul_(coupling[:inner], outputs[:, offset:])
        result[:, offset:].addcmul_(coupling[:inner], outputs[:, :inner])
    return result


def not_below_zero(total: Tensor, weight: Tensor | None) -> Tensor:
    """Return a sum of squares whose rounding may have left it below zero, unless a weight is negative."""
    least = total.clamp(min=0)
    return least if weight is None else torch.where((weight < 0).any(), total, least)
