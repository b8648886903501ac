"""The Lovász extension of the Jaccard loss of one class, from a sort of the pixels that can matter."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["jaccard_extension"]


def jaccard_extension(errors: Tensor, truth: Tensor, pixel_weight: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return :math:`\sum_i m_{\pi_i} g_i` of one class, a scalar, and :math:`g` of every pixel, (P,).

    :math:`g` is that of Berman et al., CVPR 2018, Eq. (9). It is 0 for every pixel that follows the last
    labelled one in the order of errors, so that other pixels with a smaller error than all labelled ones need
    not be sorted.

    >>> errors, truth = torch.tensor([0.9, 0.1, 0.5]), torch.tensor([True, False, False])
    >>> value, increases = jaccard_extension(errors, truth, torch.ones(3))
    >>> value.item(), increases.tolist()
    (0.8999999761581421, [1.0, 0.0, 0.0])

    Args:
        errors: Errors, not negative, (P,).
        truth: Mask of the pixels labelled as the class, (P,).
        pixel_weight: Weight of each pixel, (P,); 0 where ignored.
    """
    truth = truth & (pixel_weight != 0)
    labelled = errors[truth]
    # `not below`: neither NaN errors nor those beside a NaN are left out.
    least = labelled.min() if labelled.numel() else errors.masked_fill(pixel_weight == 0, 0).max()
    kept = (truth | ~(errors < least)) & (pixel_weight != 0)
    pixels = kept.nonzero().squeeze(1)
    pixels = pixels[_descending(errors[pixels])]
    order, covering = truth[pixels], pixel_weight[pixels].double()
    covered = (covering * order).cumsum(0)
    intersection = covered[-1:] - covered
    union = covering.cumsum_(0).add_(intersection)  # after this pixel
    size = pixel_weight[pixels].double()
    # As differences of neighbouring losses, small steps would cancel.
    steps = intersection.mul_(size).div_(union * (union - size))
    steps = torch.where(order, size / union, steps)
    steps = torch.where((union == size) & ~order, 1, steps)  # first pixel of a class that has none
    steps = torch.where(size > 0, steps, 0)
    value = (errors[pixels] * steps).sum()
    return value, torch.zeros_like(errors).index_copy_(0, pixels, steps.to(errors.dtype))


def _descending(errors: Tensor) -> Tensor:
    """Return the stable order of errors, largest first."""
    if errors.dtype != torch.float32:
        return errors.argsort(descending=True, stable=True)
    # The bits of floats that are not negative are in their order; the index breaks ties.
    bits = (errors + 0.0).view(torch.int32).long()
    keys = torch.sub(2**31 - 1, bits).bitwise_left_shift_(32)
    keys += torch.arange(len(keys), device=keys.device)
    if keys.is_cuda:
        keys = keys.sort().values
    else:
        keys.numpy().sort()  # vectorised, and several times as fast as torch's
    return keys.bitwise_and_(2**32 - 1)
