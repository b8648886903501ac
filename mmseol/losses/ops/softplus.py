"""Softplus, the cross entropy of a sigmoid."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["softplus"]

# torch's AVX-512 code of log1p loads a constant under a mask that is false except for an input of -0. As long
# as nothing has read the constant's page of memory, each such load takes a slow path of the processor: in
# torch 2.14 softplus, log1p and expm1 then take six to ten times as long. This reads it.
torch.log1p(torch.full((64,), -0.0, device="cpu"))


def softplus(outputs: Tensor) -> Tensor:
    """Return log(1 + exp(z)) of each output z: its binary cross entropy if its label is 0.

    >>> softplus(torch.tensor([0.0, 50.0]))
    tensor([ 0.6931, 50.0000])
    """
    # The default threshold of 20 is too coarse for float64; below 88 the exponential stays finite.
    return F.softplus(outputs, threshold=40)
