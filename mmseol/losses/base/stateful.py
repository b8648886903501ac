"""What losses share that learn something during training which a checkpoint must carry."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from mmseol.losses.base.class_loss import ClassLoss

__all__ = ["StatefulLoss"]


class StatefulLoss(ClassLoss):
    """Loss with a state beside the counts, kept in a buffer named :attr:`state_name`.

    The buffer is made together with the counts, so that averaged models, which pair buffers by position,
    and checkpoints have it from the start; a model that nobody told its number of classes makes it at its
    first use. It keeps its precision in half-precision modules.
    """

    state_name: ClassVar[str]
    """Name of the buffer."""

    def __init__(self, class_counts: Any = None, **kwargs: Any) -> None:
        super().__init__(class_counts, **kwargs)
        if self.state_name not in self._buffers:
            self.register_buffer(self.state_name, None)

    def initial_state(self, num_classes: int) -> Tensor | None:
        """Return the state before training, or ``None`` where these settings need none."""
        raise NotImplementedError

    @property
    def state(self) -> Tensor | None:
        """The buffer."""
        return self._buffers[self.state_name]

    def allocate_class_counts(self, num_classes: int) -> None:
        """Create the buffers for ``num_classes`` classes, before a model is copied or loaded."""
        super().allocate_class_counts(num_classes)
        self._allocate_state(num_classes)

    def _allocate_state(self, num_classes: int) -> None:
        fresh = self.initial_state(num_classes)
        known = self._buffers.get(self.state_name)
        if fresh is not None and (known is None or known.shape != fresh.shape):
            self.register_buffer(self.state_name, fresh.to(self._anchor.device))

    def require_counts(self, num_classes: int) -> None:
        """Raise unless counts and state, if any, are of ``num_classes`` classes."""
        super().require_counts(num_classes)
        if self.state is None:
            self._allocate_state(num_classes)
        elif self.initial_state(num_classes).shape != self.state.shape:  # type: ignore[union-attr]
            raise ValueError(
                f"`pred` has {num_classes} classes, but `{self.state_name}` has {self.state.numel()} "
                "entries. Set it for the classes of the model's head (num_classes)."
            )

    def _apply(self, fn: Any, recurse: bool = True) -> StatefulLoss:
        kept = self.state
        super()._apply(fn, recurse)
        if kept is not None and self.state is not None and not self.state.is_meta:
            self._buffers[self.state_name] = kept.to(self.state.device)  # half() must not round it
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        stored = state_dict.get(prefix + self.state_name)
        if stored is not None and self.state is None and self.initial_state(stored.numel()) is not None:
            fresh = torch.zeros_like(stored, device=self._anchor.device)
            self.register_buffer(self.state_name, fresh)
        super()._load_from_state_dict(state_dict, prefix, *args)
