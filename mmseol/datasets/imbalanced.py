"""Long-tailed and step imbalance for any classification data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import is_main_process

from mmseol.counting.counts import load_counts
from mmseol.counting.items import class_names, single_labels
from mmseol.datasets.base import SubsetDataset
from mmseol.datasets.imbalance import KeptIndices, check_sizes, class_sizes, digest, kept_indices
from mmseol.registry import DATASETS
from mmseol.utils.arrays import IntArray

__all__ = ["ImbalancedDataset"]


@DATASETS.register_module()
class ImbalancedDataset(SubsetDataset):
    """A classification data set cut to an imbalanced one.

    ``profile='long_tailed'`` keeps ``int(n_max * (1 / ratio) ** (i / (K - 1)))`` items of the i-th class
    (Cui et al., CVPR 2019), ``'step'`` keeps ``n_max`` of the first half of the classes and
    ``int(n_max / ratio)`` of the others (Buda et al., 2018; Cao et al., NeurIPS 2019). ``seed`` is that of
    the subset and independent of the seed of training.

    >>> ImbalancedDataset(dataset, ratio=3).get_gt_labels()
    array([0, 0, 0, 0, 0, 0, 0, 1, 1])

    Args:
        dataset: Data set, wrapper or config. To hold validation images out before the cut, wrap them in
            :class:`HoldOut` here; to do so after it, wrap this in :class:`HoldOut`.
        profile: ``'long_tailed'`` or ``'step'``.
        ratio: Largest over smallest class, at least 1.
        counts: Items to keep of each class, in class order, or a file of them, instead of ``profile``.
        class_order: Its i-th entry is the class that gets the i-th size, largest first.
        protocol: ``None`` or ``'cao2019'``, as in :func:`mmseol.datasets.imbalance.kept_indices`.
        indices_file: JSON file of the kept positions. It is written if it does not exist and read if it
            does, so that the cut is the same with every version of numpy.
        n_max: Items of the largest class; ``None``: as many as there are.

    Raises:
        TypeError: If the data set has no class labels.
        ValueError: If an argument is out of range, a class has too few items or would keep none, or
            ``indices_file`` was changed or belongs to another data set or other settings.
    """

    def __init__(
        self,
        dataset: Any,
        profile: str = "long_tailed",
        ratio: float = 100,
        counts: Sequence[int] | str | Path | None = None,
        class_order: Sequence[int] | None = None,
        seed: int = 0,
        protocol: str | None = None,
        indices_file: str | Path | None = None,
        n_max: int | None = None,
        lazy_init: bool = False,
    ) -> None:
        if counts is not None and (class_order is not None or n_max is not None):
            raise ValueError(
                "`counts` must stand alone, got it together with `class_order` or `n_max`. It holds the "
                "items to keep in class order already."
            )
        self.counts = None if counts is None else load_counts(counts).tolist()
        order = None if class_order is None else [int(c) for c in class_order]
        self.settings: dict[str, Any] = (
            {"profile": profile, "ratio": ratio, "class_order": order, "n_max": n_max}
            if counts is None
            else {"counts": self.counts}
        )
        self.seed, self.protocol = seed, protocol
        self.indices_file = None if indices_file is None else Path(indices_file)
        super().__init__(dataset, lazy_init)

    @property
    def digest(self) -> str:
        """SHA-256 of the kept positions, for the record of a result."""
        return digest(self.indices)

    def _select(self) -> IntArray:
        labels = single_labels(self.dataset, type(self).__name__)
        names = class_names(self.dataset)
        available = np.bincount(labels, minlength=len(names))
        if self.counts is None:
            sizes = class_sizes(available, names=names, **self.settings)
        else:
            sizes = check_sizes(self.counts, available, names)
        indices = kept_indices(labels, sizes, self.seed, self.protocol)
        kept = KeptIndices(indices, labels, {**self.settings, "seed": self.seed, "protocol": self.protocol})
        if self.indices_file is not None:
            if self.indices_file.exists():
                kept = kept.load(self.indices_file)
            elif is_main_process():
                kept.save(self.indices_file)
        return kept.indices
