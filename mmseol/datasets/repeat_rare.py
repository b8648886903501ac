"""Repeat the images that contain rare classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmengine.dataset import ClassBalancedDataset
from numpy.typing import NDArray

from mmseol.counting.items import class_names, item_classes
from mmseol.registry import DATASETS
from mmseol.utils.checks import KnownArguments, number

__all__ = ["RepeatRareDataset", "repeat_factors"]


def repeat_factors(
    classes: list[NDArray[np.int64]], num_classes: int, threshold: float
) -> NDArray[np.float64]:
    r"""Return :math:`r(I) = \max_{c \in I} \max(1, \sqrt{t / f_c})`, (N,), 1 for an item without classes.

    :math:`f_c` is the fraction of the items that contain class c (Gupta, Dollar and Girshick, LVIS,
    CVPR 2019, sec. 4).

    >>> repeat_factors([np.array([0]), np.array([0, 1]), np.array([0]), np.array([0])], 2, threshold=1)
    array([1., 2., 1., 1.])
    """
    frequency = np.bincount(np.concatenate(classes), minlength=num_classes) / len(classes)
    by_class = np.sqrt(np.maximum(1.0, threshold / np.maximum(frequency, 1 / len(classes))))
    return np.array([by_class[item].max(initial=1.0) for item in classes])


@DATASETS.register_module()
class RepeatRareDataset(KnownArguments, ClassBalancedDataset):
    """mmengine's ``ClassBalancedDataset`` for data sets of both tasks, with label maps read once and cached.

    An item is repeated :func:`repeat_factors` times on average: a seeded draw rounds the factor up or down,
    as in LVIS. ``seed=None`` always rounds up, as mmengine does, which doubles every image whose factor is
    barely above 1. In distributed runs every rank has to initialise it.

    >>> len(dataset), len(RepeatRareDataset(dataset, threshold=1.0, seed=None))
    (10, 20)

    Args:
        dataset: Data set, wrapper or config.
        threshold: Fraction of the images below which a class is rare, t.
        ignore_index: Label of segmentation maps that is no class.

    Raises:
        TypeError: If the data set has neither labels nor label maps.
        ValueError: If ``threshold`` is not in (0, 1].
    """

    kind = "dataset"

    def __init__(
        self,
        dataset: Any,
        threshold: float = 0.5,
        seed: int | None = 0,
        ignore_index: int = 255,
        lazy_init: bool = False,
    ) -> None:
        number("threshold", threshold, above=0, at_most=1)
        self.seed, self.ignore_index = seed, ignore_index
        super().__init__(dataset, threshold, lazy_init)

    @property
    def metainfo(self) -> dict[str, Any]:
        """Meta information of the wrapped data set."""
        return self.dataset.metainfo

    def _get_repeat_factors(self, dataset: Any, repeat_thr: float) -> list[float]:
        classes = item_classes(dataset, self.ignore_index)
        factors = repeat_factors(classes, len(class_names(dataset)), repeat_thr)
        if self.seed is None:
            return factors.tolist()  # the parent rounds up
        whole = np.floor(factors)
        draw = np.random.default_rng(self.seed).random(len(factors))
        return (whole + (draw < factors - whole)).tolist()
