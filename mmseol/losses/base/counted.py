"""The part of every loss that stores the class counts and the tensors derived from them."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mmseol.counting.counts import check_counts, load_counts
from mmseol.utils.precision import FullPrecisionBuffers

__all__ = ["CountedModule", "to_numpy"]

_UNCOUNTED = (
    "`{name}` needs the number of training samples of each class and has no counts. Let the hook count:\n"
    "    custom_hooks = [dict(type='mmseol.ClassCountHook')]\n"
    "or give them: loss=dict(type='mmseol.{name}', class_counts=[...])."
)


class CountedModule(FullPrecisionBuffers, nn.Module):
    """Module with class counts, which come from the constructor, later from a hook, or from a checkpoint.

    Counts are the int64 buffers ``class_counts`` and ``class_totals`` of shape (K,), which checkpoints and
    averaged models carry; they are ``None`` until K is known and zero until counted. The tensors that a
    subclass derives from them are float64 and are computed again whenever the counts change. They are plain
    attributes, not buffers, for the reason given in :class:`~mmseol.utils.precision.FullPrecisionBuffers`.

    >>> module = CountedModule([30, 10])
    >>> module.class_counts, module.counted
    (tensor([30, 10]), True)

    Args:
        class_counts: Training samples of each class in class order, a ``.json`` or ``.npy`` file of
            them, or ``None``.
    """

    derived: tuple[str, ...] = ()
    """Names of the tensors that :meth:`update_from_counts` fills with :meth:`set_derived`."""

    counts_required: ClassVar[bool] = False
    """Whether the equation itself needs the class counts, whatever the settings."""

    class_counts: Tensor | None
    class_totals: Tensor | None
    _anchor: Tensor

    def __init__(self, class_counts: Any = None) -> None:
        super().__init__()
        self.register_buffer("class_counts", None)
        self.register_buffer("class_totals", None)
        self.register_buffer("_anchor", torch.empty(0), persistent=False)  # follows the module's device
        self._counted = False
        for name in self.derived:
            setattr(self, name, None)
        self._given_counts = None if class_counts is None else load_counts(to_numpy(class_counts))
        if self._given_counts is None:
            self._refresh()
        else:
            self.set_class_counts(self._given_counts)

    @property
    def needs_counts(self) -> bool:
        """Whether the loss cannot be evaluated without class counts."""
        return self.counts_required

    @property
    def given_counts(self) -> np.ndarray | None:
        """Counts passed to the constructor, int64 (K,), or ``None``."""
        return self._given_counts

    @property
    def counted(self) -> bool:
        """Whether the loss has class counts."""
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
            ValueError: If the counts are invalid or not one per class of the model.
        """
        known = None if self.class_counts is None else self.class_counts.numel()
        counts = check_counts(to_numpy(counts), known)
        self.allocate_class_counts(counts.size)
        totals = (
            np.zeros_like(counts) if totals is None else check_counts(to_numpy(totals), counts.size, "totals")
        )
        assert self.class_counts is not None
        assert self.class_totals is not None
        self.class_counts.copy_(torch.from_numpy(counts))
        self.class_totals.copy_(torch.from_numpy(totals))
        self._refresh()

    def update_from_counts(self, counts: np.ndarray, totals: np.ndarray | None) -> None:
        """Compute the derived tensors from the counts, int64 (K,), and pass them to :meth:`set_derived`."""

    def set_derived(self, name: str, values: Any) -> None:
        """Store ``values`` as the float64 tensor ``name`` on the module's device."""
        values = torch.as_tensor(np.asarray(values, dtype=np.float64))
        setattr(self, name, values.to(self._anchor.device))

    def _refresh(self) -> None:
        self._counted = self.counted
        if self._counted:
            totals = to_numpy(self.class_totals)
            self.update_from_counts(to_numpy(self.class_counts), totals if totals.any() else None)

    def require_counts(self, num_classes: int) -> None:
        """Raise if the counts are of another number of classes, or missing although the loss needs them."""
        if self.class_counts is not None and self.class_counts.numel() != num_classes:
            raise ValueError(
                f"`pred` has {num_classes} classes, but `class_counts` has "
                f"{self.class_counts.numel()} entries. "
                "Count the data set with the classes of the model's head (num_classes)."
            )
        if not self._counted:
            if self.class_counts is not None and self.counted:
                self._refresh()  # the counts of an averaged copy are filled in place
            elif self.needs_counts:
                raise RuntimeError(_UNCOUNTED.format(name=type(self).__name__))

    def full_precision_names(self) -> tuple[str, ...]:
        """Return the names of the tensors that ``half()`` must not round: counts and derived tensors."""
        return ("class_counts", "class_totals", *self.derived)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        for name in ("class_counts", "class_totals"):
            stored = state_dict.get(prefix + name)
            if stored is not None and getattr(self, name) is None:
                setattr(self, name, torch.zeros_like(stored, device=self._anchor.device))
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._refresh()


def to_numpy(values: Any) -> Any:
    """Return a tensor as a NumPy array and any other value unchanged.

    >>> to_numpy(torch.tensor([30, 10])), to_numpy("counts.json")
    (array([30, 10]), 'counts.json')
    """
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values
