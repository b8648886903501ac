"""The half squared error of bilinearly upsampled outputs, and its gradient, without upsampling them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mmseol.losses.ops.inputs import Labels
from mmseol.losses.ops.threads import in_threads, single_threaded

__all__ = ["axis_taps", "not_below_zero", "upsampled_half_squared_error_sum"]

# Elements of a strip of labels or of a group of channels; on a CPU such a tensor, 1 MB in float64, fits in a
# core's cache.
STRIP = {"cpu": 2**17, "cuda": 2**24}
# Threads that share a batch on a CPU if the outputs of one image fill a strip. For smaller images the
# interpreter's lock costs as much time as the second thread saves.
_WORKERS = 2
# Input sizes whose workspaces are kept after a call on a CPU: one for the main head, one for the auxiliary.
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
    difference of large numbers, so all sums are float64.

    >>> labels = Labels.of(torch.tensor([[[1, 1], [1, 255]]]), classes=2, ignore_index=255)
    >>> pred, values, divisor = torch.ones(1, 2, 1, 1), torch.tensor([1.0, 3.0]), torch.tensor(1.0)
    >>> value, gradient = upsampled_half_squared_error_sum(pred, labels, values, None, divisor, True, False)
    >>> value.item(), gradient.flatten().tolist()
    (7.5, [3.0, -6.0])

    Args:
        pred: Raw outputs :math:`a`, (N, K, h, w).
        labels: Labels y, (N, H, W).
        values: Target value :math:`v_k` of each class, (K,).
        weight: Weights :math:`w`, (N, H, W) or (N,).
        divisor: d, a scalar.
        requires_grad: Whether to compute the gradient.
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
    workspaces = _WORKSPACES if pred.device.type == "cpu" else _Workspaces()

    @torch.no_grad()  # the grad mode belongs to a thread
    def sums(images: range) -> list[Tensor]:
        with workspaces.borrow(sizes, rows, columns) as image_loss:
            return [
                image_loss(
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

    with single_threaded(pred.device) as threads:
        large = pred.shape[1:].numel() >= STRIP["cpu"]
        totals = in_threads(sums, len(pred), min(threads, _WORKERS) if large else 1)
    total = torch.stack(totals).sum() if totals else divisor.new_zeros((), dtype=torch.float64)
    return (not_below_zero(total, weight) / divisor).to(dtype), gradient


# Sizes of the outputs (K, h, w) and of the labels (H, W), align_corners and dtype.
_Sizes = tuple[torch.Size, torch.Size, bool, torch.dtype]


class _Workspaces:
    """Pool of work buffers (:class:`ImageLoss`) that are used again by later calls of the same sizes.

    Re-allocating the buffers in each call would cause page faults. The pool of the CPU is process-wide: it
    keeps the buffers of the last ``_SIZES`` input sizes, for at most ``_WORKERS`` threads each, until the
    process ends. Two threads never share a workspace.
    """

    def __init__(self) -> None:
        self._idle = lru_cache(maxsize=_SIZES)(_no_workspaces)

    def clear(self) -> None:
        """Release all idle workspaces."""
        self._idle.cache_clear()

    @contextmanager
    def borrow(self, sizes: _Sizes, rows: Taps, columns: Taps) -> Iterator[ImageLoss]:
        """Take a workspace for these sizes from the pool, or create one, and put it back afterwards."""
        idle = self._idle(sizes)
        try:
            workspace = idle.pop()
        except IndexError:  # not `if idle`: another thread may take the last one in between
            workspace = ImageLoss(rows, columns, sizes[0][0])
        yield workspace
        idle.append(workspace)
        del idle[:-_WORKERS]


def _no_workspaces(sizes: _Sizes) -> list[ImageLoss]:
    return []


_WORKSPACES = _Workspaces()


def not_below_zero(total: Tensor, weight: Tensor | None) -> Tensor:
    """Clamp a sum of squares that rounding may have made negative to 0, unless a weight is negative.

    >>> not_below_zero(torch.tensor(-1e-16), None)
    tensor(0.)
    """
    least = total.clamp(min=0)
    return least if weight is None else torch.where((weight < 0).any(), total, least)


class Taps(NamedTuple):
    """One axis of the bilinear operator: two taps for each of its S outputs, with weights in float64."""

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
    """Return the taps by which torch resizes an axis from ``small`` to ``large``, rounded as in ``dtype``.

    >>> taps = axis_taps(2, 4, align_corners=False, dtype=torch.float32, device=torch.device("cpu"))
    >>> taps.first.tolist(), taps.weights[1].tolist()
    ([0, 0, 0, 1], [0.0, 0.25, 0.75, 0.0])
    """
    unit = torch.eye(small, dtype=dtype, device=device)[None, :, None]
    matrix = F.interpolate(unit, (1, large), mode="bilinear", align_corners=align_corners)[0, :, 0].double()
    first = (matrix != 0).int().argmax(0)
    right = torch.cat([matrix[1:], torch.zeros_like(matrix[:1])])
    weight = right.gather(0, first.unsqueeze(0)).squeeze(0)
    # The two add up to exactly 1, which keeps the sum of squares exact near convergence.
    left = 1 - weight
    point = torch.arange(small, device=device).unsqueeze(1)
    at_first, at_second = point == first, point == first + 1
    squares = left.square() * at_first + weight.square() * at_second
    coupling = torch.cat([squares, left * weight * at_first]).to_sparse()
    return Taps(first, torch.stack([left, weight]), coupling)


class ImageLoss:
    """Loss and gradient of one image at a time, computed in preallocated buffers.

    Labels are processed in strips of rows and outputs in groups of channels.

    Args:
        rows: Taps of the height.
        columns: Taps of the width.
        classes: K.
    """

    @torch.inference_mode(False)  # an inference tensor could not be written to outside of that mode
    def __init__(self, rows: Taps, columns: Taps, classes: int) -> None:
        self.rows, self.columns, self.classes = rows, columns, classes
        device = rows.first.device
        large_height, large_width = len(rows.first), len(columns.first)
        self.height, self.width = (axis.coupling.shape[0] // 2 for axis in (rows, columns))
        points = self.height * self.width
        elements = STRIP.get(device.type, STRIP["cpu"])
        self.strip = min(max(elements // large_width, 1), large_height)
        self.group = min(max(elements // points, 1), classes)
        empty = partial(torch.empty, dtype=torch.float64, device=device)
        # The first bin of the point that is each pixel's upper left tap.
        self.cells = (rows.first.unsqueeze(1) * self.width + columns.first) * classes
        self.index = torch.empty_like(self.cells[: self.strip])
        self.pixels = empty(large_height, large_width)
        self.by_row, self.by_tap = empty(2, self.strip, large_width)
        # Right or lower taps beyond the border have weight 0; they add 0 to another bin or to the spare ones.
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
        """Write the gradient of one image, divided by ``divisor``, and return its undivided sum, a scalar.

        Args:
            pred: Its outputs, (K, h, w).
            labels: Labels of the batch, (N, H, W).
            image: Its index among them.
            values: Target value of each class, float64 (K, 1).
            weight: Weights of its pixels, (H, W), or of all of them, (), or ``None``.
            divisor: Divisor of the gradient, a scalar.
            gradient: Output tensor of the gradient, (K, h, w), or ``None``.
        """
        stencil = self._project(labels, weight, image)
        projected = self.bins[: pred.numel()].view(-1, self.classes)
        total = torch.zeros((), dtype=torch.float64, device=pred.device)
        # An output that no valid label reaches may be infinite, and 0 * inf would be NaN.
        unused = None if stencil[0].all() else stencil[0] == 0
        for start in range(0, len(pred), self.group):
            group = slice(start, start + self.group)
            outputs, right_side, residual, product = self.channels[:, : len(values[group])]
            outputs.view_as(pred[group]).copy_(pred[group])  # a
            if unused is not None:
                outputs.masked_fill_(unused, 0)
            right_side.copy_(projected[:, group].T).mul_(values[group])  # b
            apply_stencil(stencil, outputs, self.width, out=residual).sub_(right_side)  # g
            total += 0.5 * torch.mul(outputs, residual, out=product).sum()
            total -= 0.5 * torch.sub(outputs, values[group], out=product).mul_(right_side).sum()
            if gradient is not None:
                gradient[group] = residual.div_(divisor).view_as(pred[group])
        return total

    def _project(self, labels: Labels, weight: Tensor | None, image: int) -> list[Tensor]:
        r"""Return :math:`U^T D U` of an image and write :math:`U^T D Y`, Y its one-hot labels, to the bins.

        Returns:
            Coefficients of each point with itself and with its neighbours to the right, below, below right
            and below left, each (h w,).
        """
        for part in self.bins.split(self.index.numel()):  # parts that fit in the cache
            part.zero_()
        for start in range(0, len(self.rows.first), self.strip):
            strip = slice(start, start + self.strip)
            label, valid = labels.chunk((image, strip))
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
        """Distribute the pixels' weights over their four taps and add them to the bins of their labels."""
        index, by_row, by_tap = (part[: len(label)] for part in (self.index, self.by_row, self.by_tap))
        torch.add(label, self.cells[strip], out=index)
        for row_weight, corners in zip(self.rows.weights[:, strip, None], self.corners, strict=True):
            torch.mul(pixels, row_weight, out=by_row)
            for column_weight, bins in zip(self.columns.weights, corners, strict=True):
                torch.mul(by_row, column_weight, out=by_tap)
                bins.scatter_add_(0, index.view(-1), by_tap.view(-1))


def apply_stencil(stencil: list[Tensor], outputs: Tensor, width: int, out: Tensor) -> Tensor:
    """Write :math:`U^T D U a`, (K, h w), of ``outputs`` a to ``out``; coefficients across row ends are 0."""
    points = outputs.shape[1]
    torch.mul(outputs, stencil[0], out=out)
    for coupling, offset in zip(stencil[1:], (1, width, width + 1, width - 1), strict=True):
        inner = max(points - offset, 0)
        out[:, :inner].addcmul_(coupling[:inner], outputs[:, offset:])
        out[:, offset:].addcmul_(coupling[:inner], outputs[:, :inner])
    return out
