"""Read the labels of a classification data set without calling its pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmseol.counting.wrappers import Items, LabelError
from mmseol.utils.arrays import IntArray

__all__ = ["item_labels"]


def item_labels(items: Items, num_classes: int, ignore_index: int | None) -> tuple[IntArray, IntArray]:
    """Return every label and the position of its item, both (L,), in data set order.

    An item with several labels (multi-label) enters once for each of them; ``ignore_index`` is left out.

    >>> from mmseol.counting.wrappers import walk
    >>> labels, positions = item_labels(walk(dataset), num_classes=2, ignore_index=0)
    >>> labels, positions
    (array([1, 1, 1]), array([7, 8, 9]))

    Raises:
        LabelError: If an item has no label, or one that is neither a class nor ``ignore_index``.
    """
    values: list[IntArray] = []
    owners: list[IntArray] = []
    for number, (dataset, _) in enumerate(items.leaves):
        positions = np.flatnonzero(items.leaf == number)
        index = items.index[positions]
        labels = _all_labels(dataset)
        if labels is not None:
            values.append(labels[index])
            owners.append(positions)
            continue
        read = {i: _labels(items, int(p)) for i, p in zip(*_first_uses(index, positions), strict=True)}
        parts = [read[i] for i in index]
        values.extend(parts)
        owners.append(np.repeat(positions, [len(part) for part in parts]))
    value, owner = (np.concatenate([np.zeros(0, np.int64), *parts]) for parts in (values, owners))
    order = np.argsort(owner, kind="stable")
    value, owner = value[order], owner[order]
    if ignore_index is not None:
        kept = value != ignore_index
        value, owner = value[kept], owner[kept]
    _check(items, value, owner, num_classes, ignore_index)
    return value, owner


def _all_labels(dataset: Any) -> IntArray | None:
    """Return the labels of all items if the data set has one per item and offers all at once, or ``None``."""
    if not callable(getattr(dataset, "get_gt_labels", None)):
        return None
    try:
        labels = np.asarray(dataset.get_gt_labels())
    except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError):
        return None  # ragged (multi-label), or a wrapper over something without labels
    fits = labels.ndim == 1 and labels.dtype.kind in "ui" and len(labels) == len(dataset)
    return labels.astype(np.int64) if fits else None


def _first_uses(index: IntArray, positions: IntArray) -> tuple[IntArray, IntArray]:
    unique, first = np.unique(index, return_index=True)
    order = np.argsort(first)
    return unique[order], positions[first[order]]


def _labels(items: Items, position: int) -> IntArray:
    info = items.info(position)
    labels = np.atleast_1d(np.asarray(info.get("gt_label")))
    if labels.size and (labels.ndim != 1 or labels.dtype.kind not in "ui"):
        raise LabelError(
            f"{_name(items, position)} must have a `gt_label` that is a class index or a list of them, got "
            f"{info.get('gt_label')!r}. Check the annotation file, or give the loss its counts: "
            "class_counts=[...].",
            position,
        )
    return np.unique(labels.astype(np.int64))


def _check(
    items: Items, value: IntArray, owner: IntArray, num_classes: int, ignore_index: int | None
) -> None:
    bad = np.flatnonzero((value < 0) | (value >= num_classes))
    if bad.size:
        position = int(owner[bad[0]])
        raise LabelError(
            f"{_name(items, position)} has the label {value[bad[0]]}, but num_classes is {num_classes} and "
            f"ignore_index is {ignore_index}: labels must lie in [0, {num_classes}). Correct the annotation, "
            "or the head's num_classes.",
            position,
        )


def _name(items: Items, position: int) -> str:
    path = items.info(position).get("img_path")
    return f"The image {path} (item {position})" if path else f"Item {position} of the data set"
