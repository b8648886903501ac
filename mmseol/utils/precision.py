"""Tensors of a module that keep their precision when the module is converted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["FullPrecisionBuffers"]


class FullPrecisionBuffers:
    """Mixin of an ``nn.Module`` whose listed tensors change their device, but never their dtype.

    ``module.half()`` and ``module.to(torch.bfloat16)`` convert every floating-point buffer. That suits
    activations; it does not suit target values, class counts or a temperature: float16 rounds 2049 to 2048
    and cannot hold 70,000. The tensors named by :meth:`full_precision_names` follow the module to another
    device with all their digits.

    The names may be buffers or plain attributes. Tensors that are derived from a buffer are best kept as
    plain attributes: averaged models (mmengine's ``EMAHook`` with ``update_buffers=True``) pair the buffers
    of two models by position, and a buffer that is created later in one of them would shift the pairs.

    Put the mixin before ``nn.Module``::

        >>> import torch
        >>> class Scale(FullPrecisionBuffers, torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.register_buffer("factor", torch.tensor(2049.0))
        ...     def full_precision_names(self):
        ...         return ("factor",)
        >>> Scale().half().factor
        tensor(2049.)
    """

    def full_precision_names(self) -> tuple[str, ...]:
        """Return the names of the buffers and attributes that keep their dtype; they may be ``None``."""
        raise NotImplementedError

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        kept: dict[str, Tensor] = {}
        for name in self.full_precision_names():
            tensor = getattr(self, name, None)
            if isinstance(tensor, Tensor):
                kept[name] = tensor
        result = super()._apply(fn, recurse)  # type: ignore[misc]
        for name, tensor in kept.items():
            with torch.no_grad():
                converted = getattr(self, name) if name in self._buffers else fn(tensor)  # type: ignore[attr-defined]
            if not (tensor.is_meta or converted.is_meta):  # a meta tensor has no values to keep
                setattr(self, name, tensor.to(converted.device))
        return result
