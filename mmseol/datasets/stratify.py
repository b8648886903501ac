"""Split items into parts with like shares of each class. Works on arrays alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmseol.utils.arrays import IntArray
from mmseol.utils.checks import whole_number

__all__ = ["held_out", "stratified_parts"]


def held_out(
    labels: ArrayLike,
    per_class: int,
    num_classes: int,
    seed: int = 0,
    names: Sequence[str] | None = None,
) -> NDArray[np.bool_]:
    """Return a mask of the items held out, (N,): a seeded random ``per_class`` of each class.

    >>> held_out([0, 0, 0, 1, 1], per_class=1, num_classes=2).sum().item()
    2

    Args:
        labels: Class of each item, (N,).
        names: Class names for errors.

    Raises:
        ValueError: If ``per_class`` is below 1, or takes a class's last item.
    """
    whole_number("per_class", per_class, at_least=1)
    labels = np.asarray(labels, dtype=np.int64)
    rng = np.random.default_rng(seed)
    mask = np.zeros(len(labels), dtype=bool)
    for c in range(num_classes):
        positions = rng.permutation(np.flatnonzero(labels == c))
        if len(positions) <= per_class:
            name = f"class {c}" + (f" ({names[c]})" if names else "")
            raise ValueError(
                f"`per_class` must leave at least one item of each class, got {per_class} of {name}, which "
                f"has {len(positions)}. Lower `per_class`, or hold out before the data set is cut."
            )
        mask[positions[:per_class]] = True
    return mask


def stratified_parts(
    classes: Sequence[ArrayLike], num_classes: int, shares: Sequence[float], seed: int = 0
) -> IntArray:
    """Return the part of each item, (N,), so that every class is divided over the parts as ``shares`` say.

    >>> stratified_parts([[0], [0], [0, 1], [0, 1]], num_classes=2, shares=[0.5, 0.5])
    array([0, 1, 0, 1])

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011, Algorithm 1): the rarest
    class among the items left is dealt out first, each item to the part that wants most of this class,
    then most items; the last ties go to the first part instead of at random. Items with one class each are
    spread as evenly as whole numbers allow.

    Args:
        classes: Classes in each item, each at most once.
        shares: Share of each part, summing to 1.
    """
    rng = np.random.default_rng(seed)
    contents = [np.asarray(item, dtype=np.int64).tolist() for item in classes]
    label = np.array([c for item in contents for c in item], dtype=np.int64)
    owner = np.repeat(np.arange(len(contents)), [len(item) for item in contents])
    left = np.bincount(label, minlength=num_classes)
    wants_class = np.outer(left, shares).tolist()
    wants = [len(contents) * share for share in shares]
    by_class = np.split(owner[np.argsort(label, kind="stable")], np.cumsum(left)[:-1])
    parts = np.full(len(contents), -1, dtype=np.int64)

    def deal(items: IntArray, wanted: list[float]) -> None:
        for item in rng.permutation(items[parts[items] < 0]).tolist():
            part = max(range(len(wants)), key=lambda j: (wanted[j], wants[j]))
            parts[item] = part
            wants[part] -= 1
            for c in contents[item]:
                wants_class[c][part] -= 1
                left[c] -= 1

    while left.any():
        rarest = int(np.argmin(np.where(left > 0, left, np.iinfo(np.int64).max)))
        deal(by_class[rarest], wants_class[rarest])
    deal(np.arange(len(contents)), wants)  # items without any class
    return parts
