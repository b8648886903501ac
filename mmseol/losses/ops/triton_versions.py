"""Which functions have a Triton version, and where that version runs."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from torch import Tensor

from mmseol.losses.ops.softmax import softmax_sums
from mmseol.losses.ops.squared_error import half_squared_error_sum
from mmseol.losses.ops.squared_error_upsampled import upsampled_half_squared_error_sum

__all__ = ["for_device"]

Compute = TypeVar("Compute", bound=Callable[..., Any])


def for_device(compute: Compute, pred: Tensor) -> Compute:
    """Return the Triton version of ``compute`` if it can run where ``pred`` is, and ``compute`` otherwise.

    The kernels of the squared errors add atomically, in no fixed order, so they do not run in deterministic
    mode; those of the softmax do.

    >>> for_device(softmax_sums, torch.zeros(1, 2, 1, 1)) is softmax_sums
    True
    """
    if not pred.is_cuda or find_spec("triton") is None:
        return compute
    # Not at the top: Triton is optional.
    from mmseol.losses.ops import softmax_triton, squared_error_triton

    versions: dict[Callable[..., Any], Any] = {softmax_sums: softmax_triton.softmax_sums}
    if not torch.are_deterministic_algorithms_enabled():
        versions[half_squared_error_sum] = squared_error_triton.half_squared_error_sum
        versions[upsampled_half_squared_error_sum] = squared_error_triton.upsampled_half_squared_error_sum
    return versions.get(compute, compute)
