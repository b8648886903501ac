"""Split training data into a training and a validation side that share no item."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmseol.counting.items import class_names, item_classes, single_labels
from mmseol.datasets.base import SubsetDataset
from mmseol.datasets.stratify import held_out, stratified_parts
from mmseol.registry import DATASETS
from mmseol.utils.arrays import IntArray
from mmseol.utils.checks import choice, number, whole_number
from mmseol.utils.text import first_few

__all__ = ["HoldOut", "StratifiedHoldOut", "StratifiedKFold"]

Side = Literal["train", "val"]


class _Split(SubsetDataset):
    """The items of one side, in their order: those that :meth:`_mask` holds out, or the rest."""

    def __init__(self, dataset: Any, side: Side, seed: int, lazy_init: bool) -> None:
        self.side, self.seed = choice("side", side, ("train", "val")), seed
        super().__init__(dataset, lazy_init)

    @abstractmethod
    def _mask(self) -> NDArray[np.bool_]:
        """Return which items are held out for validation, (N,)."""

    def _select(self) -> IntArray:
        return np.flatnonzero(self._mask() == (self.side == "val"))


@DATASETS.register_module()
class HoldOut(_Split):
    """A fixed number of images per class for validation, and the rest for training; classification.

    Kato & Hotta (arXiv 2107.02393, sec. 4.1) take 5 per class of CIFAR and 50 of Food-101. Both sides must
    be given the same training data and ``seed``; their pipelines may differ.

    >>> HoldOut(dataset, per_class=2, side="val").get_gt_labels()
    array([0, 0, 1, 1])

    Args:
        dataset: Data set, wrapper or config.
        per_class: Items of each class on side ``'val'``.
        side: ``'train'`` or ``'val'``.

    Raises:
        TypeError: If the data set has no class labels.
        ValueError: If an argument is out of range, or ``per_class`` takes a class's last item.
    """

    def __init__(
        self, dataset: Any, per_class: int = 5, side: Side = "train", seed: int = 0, lazy_init: bool = False
    ) -> None:
        self.per_class = per_class
        super().__init__(dataset, side, seed, lazy_init)

    def _mask(self) -> NDArray[np.bool_]:
        labels, names = single_labels(self.dataset, type(self).__name__), class_names(self.dataset)
        return held_out(labels, self.per_class, len(names), self.seed, names)


@DATASETS.register_module()
class StratifiedHoldOut(_Split):
    """A fraction of the images for validation, the same fraction of each class; both tasks.

    Segmentation images are split by the classes that they contain, by iterative stratification
    (:func:`mmseol.datasets.stratify.stratified_parts`), so that the held-out number is near, not exactly,
    ``fraction``. In distributed runs every rank has to initialise it.

    >>> len(StratifiedHoldOut(dataset, fraction=0.3, side="val"))
    3

    Args:
        dataset: Data set, wrapper or config.
        fraction: Fraction of the images on side ``'val'``, in (0, 1).
        side: ``'train'`` or ``'val'``.
        ignore_index: Label of segmentation maps that is no class.

    Raises:
        TypeError: If the data set has neither labels nor label maps.
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        dataset: Any,
        fraction: float = 0.1,
        side: Side = "train",
        seed: int = 0,
        ignore_index: int = 255,
        lazy_init: bool = False,
    ) -> None:
        self.fraction, self.ignore_index = number("fraction", fraction, above=0, below=1), ignore_index
        super().__init__(dataset, side, seed, lazy_init)

    def _mask(self) -> NDArray[np.bool_]:
        shares = [1 - self.fraction, self.fraction]
        return _parts(self.dataset, shares, self.seed, self.ignore_index) == 1


@DATASETS.register_module()
class StratifiedKFold(_Split):
    """One of K folds for validation, the others for training, with like classes in each fold; both tasks.

    Classes are spread as in :class:`StratifiedHoldOut`; in classification every class differs by at most
    one item between folds, as with scikit-learn's class of this name.

    >>> StratifiedKFold(dataset, fold=0, num_folds=3, side="val").get_gt_labels()
    array([0, 0, 0, 1])

    Args:
        dataset: Data set, wrapper or config.
        fold: The fold on side ``'val'``, in [0, num_folds).
        side: ``'train'`` or ``'val'``.
        ignore_index: Label of segmentation maps that is no class.

    Raises:
        TypeError: If the data set has neither labels nor label maps.
        ValueError: If an argument is out of range, or there are fewer items than folds.
    """

    def __init__(
        self,
        dataset: Any,
        fold: int = 0,
        num_folds: int = 5,
        side: Side = "train",
        seed: int = 0,
        ignore_index: int = 255,
        lazy_init: bool = False,
    ) -> None:
        self.num_folds = whole_number("num_folds", num_folds, at_least=2)
        self.fold = whole_number("fold", fold, at_least=0, below=num_folds)
        self.ignore_index = ignore_index
        super().__init__(dataset, side, seed, lazy_init)

    def _mask(self) -> NDArray[np.bool_]:
        if len(self.dataset) < self.num_folds:
            raise ValueError(
                f"`num_folds` must not exceed the number of items, got {self.num_folds} folds of "
                f"{len(self.dataset)} items."
            )
        shares = [1 / self.num_folds] * self.num_folds
        return _parts(self.dataset, shares, self.seed, self.ignore_index, self.fold) == self.fold


def _parts(dataset: Any, shares: list[float], seed: int, ignore_index: int, val: int = 1) -> IntArray:
    """Return the part of each item, (N,), and warn of classes that only one side has."""
    classes, names = item_classes(dataset, ignore_index), class_names(dataset)
    parts = stratified_parts(classes, len(names), shares, seed)
    owner = np.repeat(parts == val, [len(item) for item in classes])
    label = np.concatenate(classes)
    counts = [np.bincount(label[owner == side], minlength=len(names)) for side in (False, True)]
    lone = np.flatnonzero((counts[0] > 0) != (counts[1] > 0))
    if lone.size:
        listed = first_few(f"{names[c]} ({counts[0][c]} train, {counts[1][c]} val)" for c in lone)
        warnings.warn(f"Too few images hold these classes for both sides: {listed}.", stacklevel=2)
    return parts
