"""The Lovász extension of the Jaccard loss of one class, from a sort of the pixels that can matter."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["jaccard_extension"]

_BITS = 2**31 - 1


def jaccard_extension(
    errors: Tensor, truth: Tensor, valid: Tensor, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Return :math:`\sum_i m_{\pi_i} g_i` of one class and the signed :math:`g` of every pixel.

    :math:`g` is that of Berman et al., CVPR 2018, Eq. (9). It is 0 for every pixel that follows the last
    labelled one in the order of errors, so that other pixels with a smaller error than all labelled ones need
    not be sorted, nor need those without an error, which come last.

    >>> errors, truth = torch.tensor([0.75, 0.1, 0.5]), torch.tensor([True, False, False])
    >>> value, increases = jaccard_extension(errors, truth, torch.ones(3, dtype=torch.bool))
    >>> value.item(), increases.tolist()
    (0.75, [-1.0, 0.0, 0.0])

    Args:
        errors: Errors, not negative, (P,).
        truth: Mask of the pixels labelled as the class, (P,).
        valid: Mask of the pixels that count, (P,).
        weight: Weight of each pixel, (P,), or ``None`` if all have the same.

    Returns:
        The value, a scalar, and :math:`g`, (P,), negative where labelled, and 0 where the error is 0.
    """
    if weight is not None:
        valid = valid & (weight != 0)
    truth = truth & valid
    total = int(truth.count_nonzero())
    # `not below`: neither NaN errors nor those beside a NaN are left out.
    least = torch.where(truth, errors, torch.inf).min() if total else errors.masked_fill(~valid, 0).max()
    needed = (truth | ~(errors < least)).logical_and_(valid).logical_and_(~(errors <= 0))
    ordered, pixels = _sorted(errors, needed.nonzero().squeeze(1))
    del needed, least
    own = truth.index_select(0, pixels)
    if not total:
        steps = torch.zeros_like(ordered)
        steps[:1] = 1
    elif weight is None:
        covered = own.cumsum(0, dtype=torch.int64)
        rank = torch.arange(1, len(own) + 1, device=own.device)
        intersection, union = (
            (total - covered).to(errors.dtype),
            rank.add_(total).sub_(covered).to(errors.dtype),
        )
        del covered, rank
        steps = _steps(own, intersection, union, torch.ones((), dtype=errors.dtype, device=own.device))
    else:
        size = weight.index_select(0, pixels).double()
        covered = (size * own).cumsum(0)
        intersection = weight[truth].sum(dtype=torch.float64) - covered
        steps = _steps(own, intersection, intersection + size.cumsum(0), size)
        steps = torch.where(size > 0, steps, 0)
    value = (ordered * steps).sum(dtype=torch.float64)
    signed = torch.where(own, -steps, steps).to(errors.dtype)
    return value, torch.zeros_like(errors).index_copy_(0, pixels, signed)


def _steps(own: Tensor, intersection: Tensor, union: Tensor, size: Tensor) -> Tensor:
    """Return the increase of the loss by each pixel, (P,), of the sets after it; overwrites ``intersection``.

    As differences of neighbouring losses, small steps would cancel.
    """
    others = intersection.mul_(size).div_(union - size)
    return torch.where(own, size, others).div_(union)


def _sorted(errors: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the errors of some pixels in stable order, largest first, and the pixels."""
    chosen = errors.index_select(0, pixels)
    if errors.dtype != torch.float32:
        order = chosen.argsort(descending=True, stable=True)
        return chosen.index_select(0, order), pixels.index_select(0, order)
    # The bits of positive errors are in their order. Torch sorts integers in their own order by radix, in a
    # third of the time of NumPy's sort of errors and pixels packed into integers.
    keys, order = chosen.view(torch.int32).neg_().add_(_BITS).sort(stable=True)
    return keys.neg_().add_(_BITS).view(torch.float32), pixels.index_select(0, order)
