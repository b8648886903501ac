"""Integer labels of a batch: which count, and whether they are classes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Labels", "check_labels", "is_compiling"]

# torch 2.1 has it in a private place only.
is_compiling = getattr(torch.compiler, "is_compiling", None) or torch._utils.is_compiling


class Labels(NamedTuple):
    """Integer labels, looked at piece by piece."""

    target: Tensor
    """Labels, (N, *)."""
    valid: Tensor
    """Which of them are not ignored, (N, *)."""
    classes: int
    """K."""
    ignore_index: int
    """Label of the others."""

    @classmethod
    def of(cls, target: Tensor, classes: int, ignore_index: int) -> Labels:
        """Return ``target``'s labels with a mask of those that are not ``ignore_index``."""
        return cls(target, target != ignore_index, classes, ignore_index)

    def piece(self, where: Any) -> tuple[Tensor, Tensor]:
        """Return the labels at an index, int64, 0 where ignored, and where they are not.

        Raises:
            ValueError: If one of them is no class.
        """
        valid = self.valid[where]
        # All bits of a label or none: half the time of `torch.where`.
        label = valid.view(torch.uint8).long().neg_().bitwise_and_(self.target[where].long())
        check_labels(label, self.classes, self.ignore_index)
        return label, valid


def check_labels(target: Tensor, classes: int, ignore_index: int) -> None:
    """Raise if labels, 0 where ignored, are not in [0, classes); on a GPU, torch's indexing does that."""
    if target.device.type != "cpu" or not target.numel() or is_compiling():
        return
    low, high = (bound.item() for bound in torch.aminmax(target))
    if low < 0 or high >= classes:
        raise ValueError(
            f"`target` must lie in [0, {classes}) or equal `ignore_index` ({ignore_index}), got "
            f"{low if low < 0 else high}. Correct the labels, the head's num_classes or `ignore_index`."
        )
