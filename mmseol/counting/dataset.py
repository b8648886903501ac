"""Count the classes of any data set of the hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mmseol.counting.class_labels import item_labels
from mmseol.counting.counts import ClassCounts
from mmseol.counting.label_maps import count_label_maps
from mmseol.counting.parallel import agree
from mmseol.counting.wrappers import Items, is_segmentation, walk
from mmseol.utils.arrays import IntArray
from mmseol.utils.checks import whole_number

__all__ = ["count_dataset", "image_classes"]


def count_dataset(
    dataset: Any,
    num_classes: int,
    ignore_index: int | None = None,
    workers: int | None = None,
    cache: bool = True,
    cache_dir: str | Path | None = None,
    progress: bool = True,
    check_sizes: bool = False,
) -> ClassCounts:
    """Count the classes of a data set as training sees it before augmentation.

    Wrappers are looked through and repetitions counted (see :func:`mmseol.counting.wrappers.walk`). In
    segmentation the ``LoadAnnotations`` of the data set's pipeline runs once per distinct label map. Images
    are not decoded, and later transforms are ignored, including random crops and changes of labels. In
    classification the labels are read without the pipeline. In distributed runs every rank has to call
    this; each decodes a part of the label maps, and all return the same counts.

    >>> count_dataset(dataset, num_classes=2).samples  # seven cats, three dogs
    array([7, 3])

    Args:
        dataset: A data set or wrapper that offers ``get_data_info``, or its
            :class:`~mmseol.counting.wrappers.Items`.
        ignore_index: Label that is not counted; ``None``: 255 in segmentation, nothing in classification.
        workers: Worker processes of each rank that decode label maps; 0 or 1 decodes in this process,
            ``None`` starts one per core if decoding takes longer than about a second.
        cache: Whether the counts of label maps are kept on disk. They are used again only if every label
            file has the same path, size and modification time, and the classes, the label map, the settings
            of the loading transform and the versions of its packages are the same. Files that are not local
            are not cached.
        cache_dir: Folder of the cache; ``None``: ``$MMSEOL_CACHE``, or ``mmseol`` under ``$XDG_CACHE_HOME``
            or ``~/.cache``.
        progress: Whether the first rank shows a bar.
        check_sizes: Whether each label map must have the height and width of its image, read from the header
            of the image, and a PNG image must not be truncated; for images on a local disk.

    Raises:
        ValueError: If an argument is out of range, the data set is empty, or a label map is missing, broken
            or holds a label that is neither a class nor ignored; the first in data set order is named,
            and every rank raises.
        TypeError: If the data set offers neither label maps nor labels.
    """
    items, segmentation = _items(dataset, num_classes, workers)
    if segmentation:
        ignore = 255 if ignore_index is None else ignore_index
        maps = count_label_maps(items, num_classes, ignore, workers, cache, cache_dir, progress, check_sizes)
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

    >>> image_classes(dataset, num_classes=2)[:2]
    [array([0]), array([0])]

    Arguments, cache and errors as in :func:`count_dataset`.
    """
    items, segmentation = _items(dataset, num_classes, workers)
    if segmentation:
        ignore = 255 if ignore_index is None else ignore_index
        maps = count_label_maps(items, num_classes, ignore, workers, cache, cache_dir, progress)
        present = [np.flatnonzero(row) for row in maps.counts]
        return [present[row] for row in maps.rows]
    labels, owners = agree(lambda: item_labels(items, num_classes, ignore_index))
    return np.split(labels, np.searchsorted(owners, np.arange(1, len(items))))


def _items(dataset: Any, num_classes: int, workers: int | None) -> tuple[Items, bool]:
    """Return the items of a data set, and whether they have label maps."""
    whole_number("num_classes", num_classes, at_least=2)
    if workers is not None:
        whole_number("workers", workers, at_least=0)

    def look() -> tuple[Items, bool]:
        items = walk(dataset)
        return items, is_segmentation(items)

    return agree(look)
