"""Count the classes of any data set of the hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mmseol.counting.class_labels import item_labels
from mmseol.counting.counts import ClassCounts
from mmseol.counting.distributed import agree
from mmseol.counting.label_maps import count_label_maps
from mmseol.counting.wrappers import Items, walk
from mmseol.utils.arrays import IntArray

__all__ = ["count_dataset", "image_classes"]


def count_dataset(
    dataset: Any,
    num_classes: int,
    ignore_index: int | None = None,
    workers: int | None = None,
    cache: bool = True,
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> ClassCounts:
    """Count the classes of a data set as training will see it, before augmentation.

    Wrappers are looked through and repetitions counted (see :func:`mmseol.counting.wrappers.walk`). In
    segmentation only the data set's own ``LoadAnnotations`` runs, once per distinct label map: no image
    is decoded, and no later transform is seen, a random crop or one that changes labels either. In
    classification the labels are read without the pipeline. Every rank has to call this, gets the same
    counts and does its share of the decoding.

    Args:
        dataset: A data set or wrapper that offers ``get_data_info``.
        ignore_index: Label that is not counted; ``None``: 255 in segmentation, nothing in classification.
        workers: Worker processes of each rank that decode label maps; 0 or 1 decodes in this process,
            ``None`` takes the cores there are as soon as that is faster, by threads where mmseg's own
            ``LoadAnnotations`` reads local files in about a second.
        cache: Whether the counts of label maps are kept on disk. What is kept is found again only if
            every label file has the same path, size and modification time, and classes, label map and
            loading transform (settings and source) are the same. Files that are not local are not cached.
        cache_dir: Folder for that; ``None``: ``$MMSEOL_CACHE``, or ``mmseol`` under ``$XDG_CACHE_HOME`` or
            ``~/.cache``.
        progress: Whether a bar is shown, by the first rank.

    Raises:
        ValueError: If an argument is out of range, the data set is empty, or a label map is missing, broken
            or holds a label that is neither a class nor ignored; the first in data set order is named,
            and every rank raises.
        TypeError: If the data set offers neither label maps nor labels.
    """
    _check_arguments(num_classes, workers)
    items = agree(lambda: walk(dataset))
    if agree(lambda: _has_label_maps(items)):
        ignore = 255 if ignore_index is None else ignore_index
        maps = count_label_maps(dataset, num_classes, ignore, workers, cache, cache_dir, progress)
        return maps.class_counts()
    labels, _ = agree(lambda: item_labels(items, num_classes, ignore_index))
    samples = np.bincount(labels, minlength=num_classes)
    return ClassCounts(samples, samples, samples)


def image_classes(
    dataset: Any,
    num_classes: int,
    ignore_index: int | None = None,
    workers: int | None = None,
    cache: bool = True,
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> list[IntArray]:
    """Return the classes in each item of a data set, ascending, for samplers that repeat rare ones.

    Arguments, cache and errors as in :func:`count_dataset`.
    """
    _check_arguments(num_classes, workers)
    items = agree(lambda: walk(dataset))
    if agree(lambda: _has_label_maps(items)):
        ignore = 255 if ignore_index is None else ignore_index
        maps = count_label_maps(dataset, num_classes, ignore, workers, cache, cache_dir, progress)
        present = [np.flatnonzero(row) for row in maps.counts]
        return [present[row] for row in maps.rows]
    labels, owners = agree(lambda: item_labels(items, num_classes, ignore_index))
    return np.split(labels, np.searchsorted(owners, np.arange(1, len(items.leaf))))


def _check_arguments(num_classes: int, workers: int | None) -> None:
    if isinstance(num_classes, bool) or not isinstance(num_classes, (int, np.integer)) or num_classes < 2:
        raise ValueError(f"`num_classes` must be a whole number of at least 2, got {num_classes!r}.")
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 0):
        raise ValueError(f"`workers` must be None or a whole number of at least 0, got {workers!r}.")


def _has_label_maps(items: Items) -> bool:
    """Return whether the items have label maps, as opposed to labels."""
    kinds = set()
    for number in np.unique(items.leaf):
        dataset, loaders = items.leaves[number]
        info = items.info(int(np.flatnonzero(items.leaf == number)[0]))
        if "seg_map_path" in info or loaders:
            kinds.add("label maps")
        elif "gt_label" in info or callable(getattr(dataset, "get_gt_labels", None)):
            kinds.add("labels")
        else:
            raise TypeError(
                f"{type(dataset).__name__} must have `seg_map_path` (segmentation) or `gt_label` "
                f"(classification) in its `get_data_info`, got the keys {sorted(info)}. Give the data set "
                "its annotations (`data_prefix`, `ann_file`), or the loss its counts: class_counts=[...]."
            )
    if len(kinds) > 1:
        raise TypeError(
            "`dataset` must be of one kind, got segmentation and classification data sets together."
        )
    return kinds == {"label maps"}
