"""The part of every loss that knows the class counts and what follows from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmseol.counting.counts import check_counts, load_counts

__all__ = ["CountedModule"]

_UNCOUNTED = (
    "`{name}` needs the number of training samples of each class and was never told. Let the hook count:\n"
    "    custom_hooks = [dict(type='mmseol.ClassCountHook')]\n"
    "or give them: loss=dict(type='mmseol.{name}', class_counts=[...])."
)


class CountedModule(nn.Module):
    """Module that is told the class counts, now, later by a hook, or by a checkpoint.

    Counts live in the int64 buffers ``class_counts`` and ``class_totals`` of shape (K,), which
    checkpoints and averaged models carry; they are ``None`` until K is known and zero until counted.
    What a subclass derives from them lives in float64 tensors that follow every change. These are no
    buffers: averaged models pair buffers by position, and what is derived later would shift the pairs.

    Args:
        class_counts: Training samples of each class in class order, a ``.json`` or ``.npy`` file of
            them, or ``None``.
    """

    derived: tuple[str, ...] = ()
    """Names of the tensors that :meth:`update_from_counts` fills with :meth:`set_derived`."""

    class_counts: Tensor | None
    class_totals: Tensor | None
    _anchor: Tensor

    def __init__(self, class_counts: Any = None) -> None:
        super().__init__()
        self.register_buffer("class_counts", None)
        self.register_buffer("class_totals", None)
        self.register_buffer("_anchor", torch.empty(0), persistent=False)  # knows the module's device
        self._counted = False
        for name in self.derived:
            setattr(self, name, None)
        self._given_counts = None if class_counts is None else load_counts(class_counts)
        if self._given_counts is None:
            self._refresh()
        else:
            self.set_class_counts(self._given_counts)

    @property
    def needs_counts(self) -> bool:
        """Whether the loss cannot be evaluated without class counts."""
        return False

    @property
    def given_counts(self) -> np.ndarray | None:
        """Counts passed to the constructor, int64 (K,), or ``None``."""
        return self._given_counts

    @property
    def counted(self) -> bool:
        """Whether the loss knows its class counts."""
        return self.class_counts is not None and bool(self.class_counts.any())

    def allocate_class_counts(self, num_classes: int) -> None:
        """Create zero buffers for ``num_classes`` classes, before a model is copied or loaded."""
        if self.class_counts is not None and self.class_counts.numel() == num_classes:
            return
        if self._given_counts is not None:
            check_counts(self._given_counts, num_classes)
        for name in ("class_counts", "class_totals"):
            setattr(self, name, torch.zeros(num_classes, dtype=torch.int64, device=self._anchor.device))
        self._counted = False

    def set_class_counts(self, counts: Any, totals: Any = None) -> None:
        """Fill the counts in place.

        Args:
            counts: Training samples per class, (K,).
            totals: Pixels, void included, of the images that contain each class, (K,); SegNet's
                median frequency needs them.

        Raises:
            ValueError: If the counts are no valid counts or not as many as the model has classes.
        """
        known = None if self.class_counts is None else self.class_counts.numel()
        counts = check_counts(_to_numpy(counts), known)
        self.allocate_class_counts(counts.size)
        totals = (
            np.zeros_like(counts)
            if totals is None
            else check_counts(_to_numpy(totals), counts.size, "totals")
        )
        assert self.class_counts is not None
        assert self.class_totals is not None
        self.class_counts.copy_(torch.from_numpy(counts))
        self.class_totals.copy_(torch.from_numpy(totals))
        self._refresh()

    def update_from_counts(self, counts: np.ndarray, totals: np.ndarray | None) -> None:
        """Work out what follows from the counts, both int64 (K,), with :meth:`set_derived`."""

    def set_derived(self, name: str, values: Any) -> None:
        """Keep ``values`` as the float64 tensor ``name`` on the module's device."""
        values = torch.as_tensor(np.asarray(values, dtype=np.float64))
        setattr(self, name, values.to(self._anchor.device))

    def _refresh(self) -> None:
        self._counted = self.counted
        if self._counted:
            totals = _to_numpy(self.class_totals)
            self.update_from_counts(_to_numpy(self.class_counts), totals if totals.any() else None)

    def require_counts(self, num_classes: int) -> None:
        """Raise unless the counts, if any, are of ``num_classes`` classes, and known where needed."""
        if self.class_counts is not None and self.class_counts.numel() != num_classes:
            raise ValueError(
                f"`pred` has {num_classes} classes, but `class_counts` has "
                f"{self.class_counts.numel()} entries. "
                "Count the data set with the classes of the model's head (num_classes)."
            )
        if not self._counted:
            if self.class_counts is not None and self.counted:
                self._refresh()  # an averaged copy of the model got the counts in place
            elif self.needs_counts:
                raise RuntimeError(_UNCOUNTED.format(name=type(self).__name__))

    def _apply(self, fn: Any, recurse: bool = True) -> CountedModule:
        super()._apply(fn, recurse)
        if not (self.class_counts is not None and self.class_counts.is_meta):
            self._refresh()  # half() must not round what follows from the counts
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        for name in ("class_counts", "class_totals"):
            stored = state_dict.get(prefix + name)
            if stored is not None and getattr(self, name) is None:
                setattr(self, name, torch.zeros_like(stored, device=self._anchor.device))
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._refresh()


def _to_numpy(values: Any) -> Any:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values
