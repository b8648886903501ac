"""The base of every loss that learns something during training which a checkpoint must carry."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from mmseol.losses.base.class_loss import ClassLoss, Reduction

__all__ = ["StatefulLoss"]


class StatefulLoss(ClassLoss):
    """Loss with a state beside the counts, kept in a buffer named :attr:`state_name`.

    The buffer is created together with the counts, so that checkpoints and averaged models, which pair
    buffers by position, have it from the start; a model whose number of classes nobody set creates it at
    its first use. It keeps its precision when the module is converted to half precision.

    >>> class LossWithMeans(StatefulLoss):
    ...     state_name = "means"
    ...     def initial_state(self, num_classes):
    ...         return torch.zeros(num_classes)
    >>> list(LossWithMeans(class_counts=[30, 10]).state_dict())
    ['class_counts', 'class_totals', 'means']

    Args:
        class_counts: As of :class:`~mmseol.losses.ClassLoss`; so are the arguments after it.
    """

    per_element = False
    state_name: ClassVar[str]
    """Name of the buffer."""

    def __init__(
        self,
        class_counts: Any = None,
        *,
        ignore_index: int = -100,
        loss_weight: float = 1.0,
        reduction: Reduction = "mean",
        loss_name: str | None = None,
        sync_avg_factor: bool = False,
    ) -> None:
        super().__init__(
            class_counts=class_counts,
            ignore_index=ignore_index,
            loss_weight=loss_weight,
            reduction=reduction,
            loss_name=loss_name,
            sync_avg_factor=sync_avg_factor,
        )
        if self.state_name not in self._buffers:
            self.register_buffer(self.state_name, None)

    def initial_state(self, num_classes: int) -> Tensor | None:
        """Return the state before training, or ``None`` if these settings need none."""
        raise NotImplementedError

    @property
    def state(self) -> Tensor | None:
        """The buffer."""
        return self._buffers[self.state_name]

    def full_precision_names(self) -> tuple[str, ...]:
        """Return the names of the tensors that ``half()`` must not round, the state among them."""
        return (*super().full_precision_names(), self.state_name)

    def allocate_class_counts(self, num_classes: int) -> None:
        """Create the buffers for ``num_classes`` classes, before a model is copied or loaded."""
        super().allocate_class_counts(num_classes)
        self._allocate_state(num_classes)

    def _allocate_state(self, num_classes: int) -> None:
        initial = self.initial_state(num_classes)
        present = self._buffers.get(self.state_name)
        if initial is not None and (present is None or present.shape != initial.shape):
            self.register_buffer(self.state_name, initial.to(self._anchor.device))

    def require_counts(self, num_classes: int) -> None:
        """Raise unless the counts and the state, if any, have ``num_classes`` classes."""
        super().require_counts(num_classes)
        if self.state is None:
            self._allocate_state(num_classes)
        elif self.initial_state(num_classes).shape != self.state.shape:  # type: ignore[union-attr]
            raise ValueError(
                f"`pred` has {num_classes} classes, but `{self.state_name}` has {self.state.numel()} "
                "entries. Set it for the classes of the model's head (num_classes)."
            )

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        stored = state_dict.get(prefix + self.state_name)
        if stored is not None and self.state is None and self.initial_state(stored.numel()) is not None:
            empty = torch.zeros_like(stored, device=self._anchor.device)
            self.register_buffer(self.state_name, empty)
        super()._load_from_state_dict(state_dict, prefix, *args)
