"""The half squared error of bilinearly upsampled outputs, and its gradient, without upsampling them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mmseol.losses.ops.inputs import Labels

__all__ = ["axis_taps", "not_below_zero", "upsampled_half_squared_error_sum"]

# Elements of a strip of labels or of a group of channels; on a CPU their tensors, 1 MB in float64, stay in a
# core's cache.
STRIP = {"cpu": 2**17, "cuda": 2**24}
# Threads that share a batch on a CPU if an image's outputs fill a piece: below that, waiting for the
# interpreter's lock costs what the second thread brings.
_WORKERS = 2
# Sizes whose buffers outlive a call on a CPU: those of a model's main and auxiliary head.
_SIZES = 2


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
    sizes = pred.shape[1:], labels.target.shape[1:], align_corners, dtype
    idle = _idle(*sizes) if pred.device.type == "cpu" else []

    @torch.no_grad()  # of this thread
    def sums(images: range) -> list[Tensor]:
        with _taken(idle, rows, columns, pred.shape[1]) as loss:
            return [
                loss(
                    pred[n],
                    labels,
                    n,
                    values,
                    None if weight is None else weight[n],
                    divisor,
                    None if gradient is None else gradient[n],
                )
                for n in images
            ]

    with _one_thread(pred.device) as threads:
        large = pred.shape[1:].numel() >= STRIP["cpu"]
        totals = _shared(sums, len(pred), min(threads, _WORKERS) if large else 1)
    total = torch.stack(totals).sum() if totals else divisor.new_zeros((), dtype=torch.float64)
    return (not_below_zero(total, weight) / divisor).to(dtype), gradient


def _shared(work: Callable[[range], list[Tensor]], count: int, workers: int) -> list[Tensor]:
    """Return ``work(range(count))``, done by up to ``workers`` threads, this one among them."""
    share = -(-count // workers)
    if count <= share:
        return work(range(count))
    with ThreadPoolExecutor(workers - 1) as pool:
        starts = range(share, count, share)
        others = [pool.submit(work, range(start, min(start + share, count))) for start in starts]
        return work(range(share)) + [total for other in others for total in other.result()]


@lru_cache(maxsize=_SIZES)
def _idle(
    outputs: torch.Size, labels: torch.Size, align_corners: bool, dtype: torch.dtype
) -> list[ImageLoss]:
    """Return what earlier calls of these sizes left; memory that is given back comes again page by page."""
    return []


@contextmanager
def _taken(idle: list[ImageLoss], rows: Taps, columns: Taps, classes: int) -> Iterator[ImageLoss]:
    """Take an idle one or make one, and leave it idle; no two threads get the same."""
    try:
        loss = idle.pop()
    except IndexError:
        loss = ImageLoss(rows, columns, classes)
    yield loss
    idle.append(loss)
    del idle[:-_WORKERS]


@contextmanager
def _one_thread(device: torch.device) -> Iterator[int]:
    """Keep torch's loops on one thread and yield how many there may be.

    Pieces are too small to share, and a busy core would hold up every one.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield 1
        return
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def not_below_zero(total: Tensor, weight: Tensor | None) -> Tensor:
    """Return a sum of squares whose rounding may have left it below zero, unless a weight is negative."""
    least = total.clamp(min=0)
    return least if weight is None else torch.where((weight < 0).any(), total, least)


class Taps(NamedTuple):
    """One axis of the bilinear operator, two taps for each of its S outputs; weights in float64."""

    first: Tensor
    """Index of the left tap, int64 (S,)."""
    weights: Tensor
    """Weights of the left and of the right tap, (2, S); they add up to 1."""
    coupling: Tensor
    """For each of the s inputs, the squares of its weights, then the products with its right neighbour's,
    sparse (2 s, S)."""


@lru_cache(maxsize=32)
@torch.inference_mode(False)
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


class ImageLoss:
    """Value and gradient of one image after the other, in buffers that are kept.

    Labels are taken strip by strip and outputs in groups of channels.

    Args:
        rows: Taps of the height.
        columns: Taps of the width.
        classes: K.
    """

    @torch.inference_mode(False)  # its tensors may be written to in any mode
    def __init__(self, rows: Taps, columns: Taps, classes: int) -> None:
        self.rows, self.columns, self.classes = rows, columns, classes
        device = rows.first.device
        large_height, large_width = len(rows.first), len(columns.first)
        self.height, self.width = (axis.coupling.shape[0] // 2 for axis in (rows, columns))
        points = self.height * self.width
        piece = STRIP.get(device.type, STRIP["cpu"])
        self.strip = min(max(piece // large_width, 1), large_height)
        self.group = min(max(piece // points, 1), classes)
        empty = partial(torch.empty, dtype=torch.float64, device=device)
        # The first bin of the point that is each pixel's upper left tap.
        self.cells = (rows.first.unsqueeze(1) * self.width + columns.first) * classes
        self.index = torch.empty_like(self.cells[: self.strip])
        self.pixels = empty(large_height, large_width)
        self.by_row, self.by_tap = empty(2, self.strip, large_width)
        # Right or lower taps beyond the border have weight 0 and land in some other bin or in the excess.
        self.bins = empty((points + self.width + 1) * classes)
        self.corners = [
            [self.bins[(row * self.width + column) * classes :] for column in (0, 1)] for row in (0, 1)
        ]
        self.channels = empty(4, self.group, points)

    def __call__(
        self,
        pred: Tensor,
        labels: Labels,
        image: int,
        values: Tensor,
        weight: Tensor | None,
        divisor: Tensor,
        gradient: Tensor | None,
    ) -> Tensor:
        """Write the gradient of one image, divided, and return its sum, a scalar, not divided.

        Args:
            pred: Its outputs, (K, h, w).
            labels: Labels of the batch, (N, H, W).
            image: Its index among them.
            values: Target value of each class, float64 (K, 1).
            weight: Weights of its pixels, (H, W), or of all of them, (), or ``None``.
            divisor: Divisor of the gradient, a scalar.
            gradient: Where to write that, (K, h, w), or ``None``.
        """
        stencil = self._project(labels, weight, image)
        projected = self.bins[: pred.numel()].view(-1, self.classes)
        total = torch.zeros((), dtype=torch.float64, device=pred.device)
        # Elsewhere an output may be anything: 0 * inf would be NaN.
        unseen = None if stencil[0].all() else stencil[0] == 0
        for start in range(0, len(pred), self.group):
            group = slice(start, start + self.group)
            outputs, right_side, residual, product = self.channels[:, : len(values[group])]
            outputs.view_as(pred[group]).copy_(pred[group])  # a
            if unseen is not None:
                outputs.masked_fill_(unseen, 0)
            right_side.copy_(projected[:, group].T).mul_(values[group])  # b
            apply_stencil(stencil, outputs, self.width, out=residual).sub_(right_side)  # g
            total += 0.5 * torch.mul(outputs, residual, out=product).sum()
            total -= 0.5 * torch.sub(outputs, values[group], out=product).mul_(right_side).sum()
            if gradient is not None:
                gradient[group] = residual.div_(divisor).view_as(pred[group])
        return total

    def _project(self, labels: Labels, weight: Tensor | None, image: int) -> list[Tensor]:
        r"""Return :math:`U^T D U` of an image, and leave :math:`U^T D Y` in the bins, Y its one-hot labels.

        Returns:
            How each point couples with itself and its neighbours to the right, below, below right and
            below left, each (h w,).
        """
        for part in self.bins.split(self.index.numel()):
            part.zero_()
        for start in range(0, len(self.rows.first), self.strip):
            strip = slice(start, start + self.strip)
            label, valid = labels.piece((image, strip))
            pixels = self.pixels[strip].copy_(valid.view(torch.uint8))
            if weight is not None:
                pixels *= weight if weight.dim() == 0 else weight[strip]
            self._scatter(label, pixels, strip)
        coupled = torch.mm(self.columns.coupling, torch.mm(self.rows.coupling, self.pixels).T.contiguous())
        upper, lower = coupled.T.chunk(2)  # (h, 2 w) each
        itself, right = (part.flatten() for part in upper.chunk(2, dim=1))
        below, across = (part.flatten() for part in lower.chunk(2, dim=1))
        # The last row and the last column of `across` are zero.
        return [itself, right, below, across, across.roll(1)]

    def _scatter(self, label: Tensor, pixels: Tensor, strip: slice) -> None:
        """Add the pixels' weights, shared out to their four taps, to the bins of their labels."""
        index, by_row, by_tap = (part[: len(label)] for part in (self.index, self.by_row, self.by_tap))
        torch.add(label, self.cells[strip], out=index)
        for row_weight, corners in zip(self.rows.weights[:, strip, None], self.corners, strict=True):
            torch.mul(pixels, row_weight, out=by_row)
            for column_weight, bins in zip(self.columns.weights, corners, strict=True):
                torch.mul(by_row, column_weight, out=by_tap)
                bins.scatter_add_(0, index.view(-1), by_tap.view(-1))


def apply_stencil(stencil: list[Tensor], outputs: Tensor, width: int, out: Tensor) -> Tensor:
    """Return :math:`U^T D U a`, (K, h w), of ``outputs`` a, in ``out``; it is zero around a row's end."""
    points = outputs.shape[1]
    torch.mul(outputs, stencil[0], out=out)
    for coupling, offset in zip(stencil[1:], (1, width, width + 1, width - 1), strict=True):
        inner = max(points - offset, 0)
        out[:, :inner].addcmul_(coupling[:inner], outputs[:, offset:])
        out[:, offset:].addcmul_(coupling[:inner], outputs[:, :inner])
    return out
