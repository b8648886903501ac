"""The half squared error of bilinearly upsampled outputs, and its gradient, without upsampling them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor

from mmseol.losses.bilinear import PIECE, ImageLoss, Taps, axis_taps
from mmseol.losses.labels import Labels

__all__ = ["upsampled_half_squared_error_sum"]


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
        large = pred.shape[1:].numel() >= PIECE["cpu"]
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
