"""Classes of a data set and of its items, for data set wrappers and samplers."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmseol.counting import image_classes
from mmseol.counting.class_labels import item_labels
from mmseol.counting.wrappers import is_segmentation, walk
from mmseol.utils.arrays import IntArray

__all__ = ["class_names", "item_classes", "single_labels"]


def class_names(dataset: Any) -> list[str]:
    """Return the names of the classes, (K,).

    >>> class_names(dataset)
    ['cat', 'dog']

    Raises:
        ValueError: If the metainfo of the data set lacks them.
    """
    names = (getattr(dataset, "metainfo", None) or {}).get("classes")
    if names is None or isinstance(names, str):
        raise ValueError(
            f"`dataset` must tell its classes in `metainfo['classes']`, got {names!r} from "
            f"{type(dataset).__name__}. Give it metainfo=dict(classes=[...])."
        )
    return [str(name) for name in names]


def single_labels(dataset: Any, user: str) -> IntArray:
    """Return the class of each item of a classification data set, (N,), without calling its pipeline.

    >>> single_labels(dataset, user="The sampler")
    array([0, 0, 0, 0, 0, 0, 0, 1, 1, 1])

    Args:
        user: Name of the caller for errors.

    Raises:
        TypeError: If the data set has no class labels, as in segmentation.
        ValueError: If an item has several labels, or one that is no class.
    """
    items = walk(dataset)
    info = items.info(0)
    leaf, _ = items.at(0)
    if "gt_label" not in info and not callable(getattr(leaf, "get_gt_labels", None)):
        raise TypeError(
            f"{user} needs `gt_label`, one class per item, in `get_data_info` of {type(leaf).__name__}, got "
            f"the keys {sorted(info)}. Give the data set its annotations (`ann_file`, `data_prefix`); for "
            "segmentation take StratifiedHoldOut, StratifiedKFold, RepeatRareDataset or RareClassSampler."
        )
    labels, owners = item_labels(items, len(class_names(dataset)), None)
    times = np.bincount(owners, minlength=len(items))
    if (times != 1).any():
        item = int(np.flatnonzero(times != 1)[0])
        raise ValueError(
            f"{user} needs one class per item, got {times[item]} labels for item {item}. Multi-label data "
            "can be split by StratifiedHoldOut or StratifiedKFold and repeated by RepeatRareDataset."
        )
    return labels


def item_classes(dataset: Any, ignore_index: int = 255) -> list[IntArray]:
    """Return the classes in each item, ascending, for either task; label maps are counted once and cached.

    >>> item_classes(dataset)[-1]
    array([1])

    In distributed runs every rank has to call this.

    Args:
        ignore_index: Label of segmentation maps that is no class.
    """
    items = walk(dataset)
    return image_classes(items, len(class_names(dataset)), ignore_index if is_segmentation(items) else None)
