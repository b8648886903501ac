"""The base of the wrappers that keep a part of a data set."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset, force_full_init
from mmengine.registry import DATASETS
from torch.utils.data import Subset

from mmseol.counting.items import single_labels
from mmseol.counting.wrappers import Items, walk
from mmseol.utils.arrays import IntArray
from mmseol.utils.checks import KnownArguments

__all__ = ["SubsetDataset"]


class SubsetDataset(KnownArguments, BaseDataset, Subset):
    """A part of another data set, chosen by :meth:`_select` when it is initialised.

    It is a ``BaseDataset``, which mmengine's wrappers accept without a config, and a ``Subset``, which
    counting looks through. It holds positions only; the annotations stay in the wrapped data set. An image
    that the pipeline rejects is replaced by another of this part, never by one that was left out.

    >>> class EverySecond(SubsetDataset):
    ...     def _select(self):
    ...         return np.arange(0, len(self.dataset), 2)
    >>> EverySecond(dataset).get_gt_labels()
    array([0, 0, 0, 0, 1])

    Args:
        dataset: Data set, wrapper or the config of one, from any scope.
        lazy_init: Whether annotations are read later, by ``full_init``.

    Raises:
        TypeError: If ``dataset`` is neither.
    """

    kind = "dataset"
    dataset: Any
    _items: Items

    def __init__(self, dataset: Any, lazy_init: bool = False) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        if not callable(getattr(self.dataset, "get_data_info", None)):
            raise TypeError(
                "`dataset` must be a config or a data set with `get_data_info`, as mmengine's are, got "
                f"{type(self.dataset).__name__}."
            )
        # Of mmpretrain's KFoldDataset, `test_mode` names the side of the fold.
        self.test_mode = isinstance(self.dataset, BaseDataset) and self.dataset.test_mode
        self.max_refetch = getattr(self.dataset, "max_refetch", 1000)
        self._kept: IntArray = np.zeros(0, dtype=np.int64)
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    @abstractmethod
    def _select(self) -> IntArray:
        """Return the positions in ``self.dataset``, which is initialised, of the items to keep."""

    def full_init(self) -> None:
        """Read the annotations and choose the part."""
        if self._fully_initialized:
            return
        if callable(getattr(self.dataset, "full_init", None)):
            self.dataset.full_init()
        self._items = walk(self.dataset, whole_subsets=True)
        self._kept = np.asarray(self._select(), dtype=np.int64)
        self._fully_initialized = True

    @property
    def indices(self) -> IntArray:  # type: ignore[override]
        """Positions in the wrapped data set, in the order of this one."""
        self.full_init()
        return self._kept

    @property
    def metainfo(self) -> dict[str, Any]:
        """Meta information of the wrapped data set."""
        return copy.deepcopy(self.dataset.metainfo)

    @property
    def CLASSES(self) -> Sequence[str] | None:
        """Names of the classes, as mmpretrain's data sets offer them."""
        return self.metainfo.get("classes")

    def __len__(self) -> int:
        return len(self.indices)

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        return [self[index] for index in indices]

    def prepare_data(self, idx: int) -> Any:
        """Return an item after the pipeline, or ``None`` where the pipeline rejects it."""
        dataset, index = self._items.at(int(self.indices[idx]))
        prepare = getattr(dataset, "prepare_data", dataset.__getitem__)
        return prepare(index)

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return the annotation record of an item, with its position here as ``sample_idx``."""
        info = self.dataset.get_data_info(int(self.indices[idx]))
        return {**info, "sample_idx": idx if idx >= 0 else len(self) + idx}

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the classes of an item, if the wrapped data set offers them."""
        dataset, index = self._items.at(int(self.indices[idx]))
        return list(dataset.get_cat_ids(index))

    def get_gt_labels(self) -> IntArray:
        """Return the class of every item, (N,); classification only."""
        return single_labels(self, type(self).__name__)

    @force_full_init
    def get_subset(self, indices: Sequence[int] | int) -> SubsetDataset:
        """Return a part of this part: positions, the first n, or the last -n."""
        subset = copy.copy(self)
        subset.get_subset_(indices)
        return subset

    @force_full_init
    def get_subset_(self, indices: Sequence[int] | int) -> None:
        """Keep a part of this part, as :meth:`get_subset`."""
        if isinstance(indices, (int, np.integer)):
            self._kept = self._kept[:indices] if indices >= 0 else self._kept[indices:]
        else:
            self._kept = self._kept[np.asarray(indices, dtype=np.int64)]

    def __repr__(self) -> str:
        size = (
            f"{len(self._kept)} of {len(self.dataset)} items"
            if self._fully_initialized
            else "not initialised"
        )
        return f"{type(self).__name__}({type(self.dataset).__name__}, {size})"
