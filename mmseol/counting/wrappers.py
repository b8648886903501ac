"""Look through the wrappers of a data set for the data sets that hold the annotations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmseol.utils.arrays import IntArray

__all__ = ["Items", "LabelError", "annotation_loaders", "is_segmentation", "walk"]

# Wrappers of the hosts that hold, in `dataset`, the same items in the same order (KFoldDataset: its fold).
_TRANSPARENT = ("KFoldDataset", "MultiImageMixDataset")


class LabelError(ValueError):
    """The labels of an item are missing, broken or out of range.

    >>> LabelError("The label map a.png holds the label 77.", position=3).position
    3
    """

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


@dataclass
class Items:
    """The annotated items that a data set refers to, in its order and with its repetitions.

    >>> items = Items([(dataset, [])], leaf=np.array([0, 0]), index=np.array([8, 8]))
    >>> items.info(1)["gt_label"]
    1

    Attributes:
        leaves: Data sets that hold annotations, each with the transforms that may load its label maps.
        leaf: Number of the leaf, (N,).
        index: Index within the leaf, (N,).
    """

    leaves: list[tuple[Any, list[Any]]]
    leaf: IntArray
    index: IntArray

    def __len__(self) -> int:
        return len(self.leaf)

    def at(self, position: int) -> tuple[Any, int]:
        """Return the leaf that holds an item, and the item's index there."""
        return self.leaves[self.leaf[position]][0], int(self.index[position])

    def info(self, position: int) -> dict[str, Any]:
        """Return the annotation record of an item, as the pipeline would get it."""
        dataset, index = self.at(position)
        return dataset.get_data_info(index)


def walk(dataset: Any, whole_subsets: bool = False) -> Items:
    """Return the annotated items that ``dataset`` refers to; of :class:`Items`, return these.

    mmengine's ``ConcatDataset``, ``RepeatDataset`` and ``ClassBalancedDataset``, torch's ``Subset`` and
    ``ConcatDataset``, mmpretrain's ``KFoldDataset`` and mmseg's ``MultiImageMixDataset`` are looked
    through, however they are nested. Any other data set has to offer ``get_data_info``. Data sets with
    ``lazy_init`` are initialised.

    >>> from mmengine.dataset import RepeatDataset
    >>> items = walk(RepeatDataset(dataset, times=2))
    >>> len(items), items.at(13)[1]
    (20, 3)

    Args:
        whole_subsets: Whether the walk stops at subsets and mosaics, which choose or mix the samples that
            they serve.

    Raises:
        TypeError: If a data set offers no ``get_data_info``.
        ValueError: If the data set is empty.
    """
    if isinstance(dataset, Items):
        return dataset
    leaves: list[tuple[Any, list[Any]]] = []
    pairs = _walk(dataset, leaves, [], whole_subsets)
    if not len(pairs):
        raise ValueError(
            f"`dataset` must not be empty, got {_name(dataset)} of length 0. Check `data_root`, "
            "`data_prefix`, `ann_file`, the file suffixes and `indices`."
        )
    return Items(leaves, pairs[:, 0], pairs[:, 1])


def _walk(
    dataset: Any, leaves: list[tuple[Any, list[Any]]], inherited: list[Any], whole_subsets: bool
) -> IntArray:
    """Append the leaves below ``dataset`` to ``leaves`` and return (leaf, index) of each item, (N, 2)."""
    from mmengine.dataset import ClassBalancedDataset, RepeatDataset
    from torch.utils.data import ConcatDataset, Subset

    def below(part: Any, loaders: list[Any] = inherited) -> IntArray:
        return _walk(part, leaves, loaders, whole_subsets)

    if callable(getattr(dataset, "full_init", None)):
        dataset.full_init()
    names = {base.__name__ for base in type(dataset).__mro__}
    if whole_subsets and (isinstance(dataset, Subset) or "MultiImageMixDataset" in names):
        return _leaf(dataset, leaves, inherited)
    if isinstance(dataset, ConcatDataset):
        return np.concatenate([below(part) for part in dataset.datasets])
    if isinstance(dataset, Subset):
        return below(dataset.dataset)[np.asarray(dataset.indices, dtype=np.int64)]
    if isinstance(dataset, RepeatDataset):
        return np.tile(below(dataset.dataset), (dataset.times, 1))
    if isinstance(dataset, ClassBalancedDataset):
        return below(dataset.dataset)[np.asarray(dataset.repeat_indices)]
    if names.intersection(_TRANSPARENT):
        # A mosaic may leave the loading to the pipeline outside.
        return below(dataset.dataset, _own_loaders(dataset) or inherited)
    return _leaf(dataset, leaves, inherited)


def _leaf(dataset: Any, leaves: list[tuple[Any, list[Any]]], inherited: list[Any]) -> IntArray:
    if not callable(getattr(dataset, "get_data_info", None)):
        raise TypeError(
            f"`dataset` must offer `get_data_info(index)`, as mmengine's data sets do, got {_name(dataset)}. "
            "Add the method to the data set, or give the loss its counts: class_counts=[...]."
        )
    number = next((n for n, (known, _) in enumerate(leaves) if known is dataset), len(leaves))
    if number == len(leaves):
        leaves.append((dataset, annotation_loaders(dataset) or inherited))
    length = len(dataset)
    return np.stack([np.full(length, number, dtype=np.int64), np.arange(length, dtype=np.int64)], axis=1)


def is_segmentation(dataset: Any) -> bool:
    """Return whether the items of a data set, or :class:`Items`, have label maps, as opposed to labels.

    >>> is_segmentation(dataset)
    False

    Raises:
        TypeError: If they have neither, or some have label maps and others labels.
    """
    items = walk(dataset)
    kinds = set()
    for number in np.unique(items.leaf):
        leaf, loaders = items.leaves[number]
        info = items.info(int(np.flatnonzero(items.leaf == number)[0]))
        if "seg_map_path" in info or loaders:
            kinds.add("label maps")
        elif "gt_label" in info or callable(getattr(leaf, "get_gt_labels", None)):
            kinds.add("labels")
        else:
            raise TypeError(
                f"{type(leaf).__name__} must have `seg_map_path` (segmentation) or `gt_label` "
                f"(classification) in its `get_data_info`, got the keys {sorted(info)}. Give the data set "
                "its annotations (`data_prefix`, `ann_file`), or the loss its counts: class_counts=[...]."
            )
    if len(kinds) > 1:
        raise TypeError(
            "`dataset` must be of one kind, got segmentation and classification data sets together."
        )
    return kinds == {"label maps"}


def annotation_loaders(dataset: Any) -> list[Any]:
    """Return the annotation-loading transforms of a data set's pipeline, or of the data sets inside it.

    >>> annotation_loaders(dataset)
    []
    """
    loaders = _own_loaders(dataset)
    if not loaders:
        inner = [getattr(dataset, "dataset", None), *(getattr(dataset, "datasets", None) or [])]
        loaders = [loader for part in inner if part is not None for loader in annotation_loaders(part)]
    return loaders


def _own_loaders(dataset: Any) -> list[Any]:
    transforms = list(_transforms(getattr(dataset, "pipeline", None)))
    names = [[base.__name__ for base in type(transform).__mro__] for transform in transforms]
    usual = [t for t, bases in zip(transforms, names, strict=True) if "LoadAnnotations" in bases]
    others = [
        transform
        for transform, bases in zip(transforms, names, strict=True)
        if any(base.startswith("Load") and "Annotation" in base for base in bases)
    ]
    return (usual or others)[:1]


def _transforms(pipeline: Any) -> Iterator[Any]:
    """Yield the transforms of a pipeline, including those inside of RandomChoice, KeyMapper and the like."""
    if isinstance(pipeline, (list, tuple)):
        for part in pipeline:
            yield from _transforms(part)
    elif pipeline is not None:
        yield pipeline
        yield from _transforms(getattr(pipeline, "transforms", None))


def _name(dataset: Any) -> str:
    return f"{type(dataset).__module__}.{type(dataset).__qualname__}"
