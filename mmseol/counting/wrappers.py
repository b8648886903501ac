"""Walk through the wrappers of a data set down to the data sets that hold the annotations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmseol.utils.arrays import IntArray

__all__ = ["Items", "annotation_loaders", "walk"]

# Wrappers of the hosts that hold, in `dataset`, the same items in the same order (KFoldDataset: its fold).
_TRANSPARENT = ("KFoldDataset", "MultiImageMixDataset")


@dataclass
class Items:
    """What each position of a data set refers to, in data set order and with repetitions.

    Attributes:
        leaves: Data sets that hold annotations, each with the transforms that may load its label maps.
        leaf: Number of the leaf, (N,).
        index: Position within the leaf, (N,).
    """

    leaves: list[tuple[Any, list[Any]]]
    leaf: IntArray
    index: IntArray

    def info(self, position: int) -> dict[str, Any]:
        """Return the annotation record at a position, as the pipeline would get it."""
        dataset, _ = self.leaves[self.leaf[position]]
        return dataset.get_data_info(int(self.index[position]))


def walk(dataset: Any) -> Items:
    """Return what every position of ``dataset`` refers to.

    mmengine's ``ConcatDataset``, ``RepeatDataset`` and ``ClassBalancedDataset``, torch's ``Subset`` and
    ``ConcatDataset``, mmpretrain's ``KFoldDataset`` and mmseg's ``MultiImageMixDataset`` are looked
    through, however they are nested; anything else is asked by ``get_data_info``. Data sets with
    ``lazy_init`` are initialised.

    Raises:
        TypeError: If something in the nest offers no ``get_data_info``.
        ValueError: If there is nothing in the data set.
    """
    leaves: list[tuple[Any, list[Any]]] = []
    pairs = _walk(dataset, leaves, [])
    if not len(pairs):
        raise ValueError(
            f"`dataset` must not be empty, got {_name(dataset)} of length 0. Check `data_root`, "
            "`data_prefix`, `ann_file`, the file suffixes and `indices`."
        )
    return Items(leaves, pairs[:, 0], pairs[:, 1])


def _walk(dataset: Any, leaves: list[tuple[Any, list[Any]]], inherited: list[Any]) -> IntArray:
    """Append the leaves below ``dataset`` to ``leaves`` and return (leaf, index) of each item, (N, 2)."""
    from mmengine.dataset import ClassBalancedDataset, RepeatDataset
    from torch.utils.data import ConcatDataset, Subset

    if callable(getattr(dataset, "full_init", None)):
        dataset.full_init()
    if isinstance(dataset, ConcatDataset):
        return np.concatenate([_walk(part, leaves, inherited) for part in dataset.datasets])
    if isinstance(dataset, Subset):
        return _walk(dataset.dataset, leaves, inherited)[np.asarray(dataset.indices, dtype=np.int64)]
    if isinstance(dataset, RepeatDataset):
        return np.tile(_walk(dataset.dataset, leaves, inherited), (dataset.times, 1))
    if isinstance(dataset, ClassBalancedDataset):
        return _walk(dataset.dataset, leaves, inherited)[np.asarray(dataset.repeat_indices, dtype=np.int64)]
    if any(base.__name__ in _TRANSPARENT for base in type(dataset).__mro__):
        # A mosaic may leave the loading to the pipeline outside.
        return _walk(dataset.dataset, leaves, _own_loaders(dataset) or inherited)
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


def annotation_loaders(dataset: Any) -> list[Any]:
    """Return the annotation-loading transforms of a data set's pipeline, or of those that it wraps."""
    loaders = _own_loaders(dataset)
    if not loaders:
        inner = [getattr(dataset, "dataset", None), *(getattr(dataset, "datasets", None) or [])]
        loaders = [loader for part in inner if part is not None for loader in annotation_loaders(part)]
    return loaders


def _own_loaders(dataset: Any) -> list[Any]:
    found = list(_transforms(getattr(dataset, "pipeline", None)))
    named = [[base.__name__ for base in type(transform).__mro__] for transform in found]
    usual = [t for t, names in zip(found, named, strict=True) if "LoadAnnotations" in names]
    return (
        usual
        or [
            transform
            for transform, names in zip(found, named, strict=True)
            if any(name.startswith("Load") and "Annotation" in name for name in names)
        ]
    )[:1]


def _transforms(pipeline: Any) -> Iterator[Any]:
    """Yield the transforms of a pipeline, those inside of RandomChoice, KeyMapper and the like included."""
    if isinstance(pipeline, (list, tuple)):
        for part in pipeline:
            yield from _transforms(part)
    elif pipeline is not None:
        yield pipeline
        yield from _transforms(getattr(pipeline, "transforms", None))


def _name(dataset: Any) -> str:
    return f"{type(dataset).__module__}.{type(dataset).__qualname__}"
