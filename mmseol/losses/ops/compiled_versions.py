"""Which functions have a version in Triton or Numba, and where that version runs."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from torch import Tensor

from mmseol.losses.ops.softmax import softmax_sums
from mmseol.losses.ops.squared_error import half_squared_error_sum
from mmseol.losses.ops.squared_error_upsampled import upsampled_half_squared_error_sum
from mmseol.utils.compiled_loops import has_numba

__all__ = ["for_device"]

Compute = TypeVar("Compute", bound=Callable[..., Any])


def for_device(compute: Compute, pred: Tensor) -> Compute:
    """Return the version of ``compute`` for where ``pred`` is, or ``compute`` itself if there is none.

    On a GPU it is in Triton, on a CPU in Numba, if they are installed. The Triton kernels of the squared
    errors add atomically, in no fixed order, so they do not run in deterministic mode; those of the softmax
    do.

    >>> for_device(half_squared_error_sum, torch.zeros(1, 2, 1, 1)) is half_squared_error_sum
    True
    """
    return _versions(pred.device.type).get(compute, compute)


def _versions(device: str) -> dict[Callable[..., Any], Any]:
    # Imports are not at the top: Triton and Numba are optional.
    if device == "cpu" and has_numba():
        from mmseol.losses.ops import softmax_numba

        return {softmax_sums: softmax_numba.softmax_sums}
    if device != "cuda" or find_spec("triton") is None:
        return {}
    from mmseol.losses.ops import softmax_triton, squared_error_triton

    versions: dict[Callable[..., Any], Any] = {softmax_sums: softmax_triton.softmax_sums}
    if not torch.are_deterministic_algorithms_enabled():
        versions[half_squared_error_sum] = squared_error_triton.half_squared_error_sum
        versions[upsampled_half_squared_error_sum] = squared_error_triton.upsampled_half_squared_error_sum
    return versions
