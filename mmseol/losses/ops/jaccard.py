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
    not be sorted.

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
    labelled = errors[truth]
    # `not below`: neither NaN errors nor those beside a NaN are left out.
    least = labelled.min() if labelled.numel() else errors.masked_fill(~valid, 0).max()
    pixels = ((truth | ~(errors < least)) & valid).nonzero().squeeze(1)
    ordered, pixels, own = _sorted(errors, pixels, truth)
    if weight is None:
        covered = own.cumsum(0)
        intersection = (covered[-1:] - covered).double()
        del covered
        union = torch.arange(1, len(own) + 1, dtype=torch.float64, device=own.device)
        union += intersection  # after this pixel
        size: Tensor | float = 1.0
    else:
        size = weight[pixels].double()
        covered = (size * own).cumsum(0)
        intersection = covered[-1:] - covered
        union = intersection + size.cumsum(0)
    # As differences of neighbouring losses, small steps would cancel.
    others = intersection.mul_(size).div_(union).div_(union - size)
    others.masked_fill_(union == size, 1)  # first pixel of a class that has none
    steps = torch.where(own, union.reciprocal_().mul_(size), others)
    del union, intersection, others
    if weight is not None:
        steps = torch.where(weight[pixels] > 0, steps, 0)
    value = (ordered * steps).sum()
    signed = torch.where(own, -steps, steps).mul_(ordered > 0).to(errors.dtype)
    return value, torch.zeros_like(errors).index_copy_(0, pixels, signed)


def _sorted(errors: Tensor, pixels: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the errors of some pixels in stable order, largest first, the pixels, and their truth."""
    if errors.dtype != torch.float32 or errors.numel() > _BITS:
        pixels = pixels[errors[pixels].argsort(descending=True, stable=True)]
        return errors[pixels], pixels, truth[pixels]
    # In a number: the bits of the error, which are in its order, then the pixel, which breaks ties, and its
    # truth. To sort numbers and to take them apart is faster than to sort indices and to gather.
    keys = (errors[pixels] + 0.0).view(torch.int32).long().neg_().add_(_BITS).bitwise_left_shift_(32)
    keys += pixels * 2
    keys += truth[pixels]
    if keys.is_cuda:
        keys = keys.sort().values
    else:
        keys.numpy().sort()  # vectorised, and several times as fast as torch's
    bits = keys.bitwise_right_shift(32).neg_().add_(_BITS).to(torch.int32)
    own = keys.bitwise_and(1).bool()
    return bits.view(torch.float32), keys.bitwise_right_shift_(1).bitwise_and_(_BITS), own
