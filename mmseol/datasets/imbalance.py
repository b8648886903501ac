"""Make a training set imbalanced: choose class sizes by a profile, then the items to keep.

Works on arrays of labels alone, without a data set or a framework.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mmseol.utils.arrays import IntArray
from mmseol.utils.checks import choice, number, whole_number
from mmseol.utils.files import replacing

__all__ = [
    "PROFILES",
    "KeptIndices",
    "check_sizes",
    "class_sizes",
    "digest",
    "kept_indices",
    "long_tailed_sizes",
    "step_sizes",
]


def long_tailed_sizes(n_max: float, num_classes: int, ratio: float) -> list[int]:
    r"""Return :math:`n_i = \lfloor n_{max} \, (1/r)^{i/(K-1)} \rfloor`, largest first.

    Long-tailed imbalance of Cui et al. (CVPR 2019), computed in the order of LDAM-DRW's code, so that every
    entry agrees with the literature.

    >>> long_tailed_sizes(5000, num_classes=5, ratio=100)
    [5000, 1581, 500, 158, 50]
    """
    return [int(n_max * (1 / ratio) ** (i / (num_classes - 1))) for i in range(num_classes)]


def step_sizes(n_max: float, num_classes: int, ratio: float) -> list[int]:
    r"""Return :math:`n_{max}` for the first ``K // 2`` classes, then :math:`\lfloor n_{max} / r \rfloor`.

    Step imbalance of Cao et al. (LDAM, NeurIPS 2019), whose code drops the last class of an odd number.

    >>> step_sizes(5000, num_classes=5, ratio=100)
    [5000, 5000, 50, 50, 50]
    """
    frequent = num_classes // 2
    return [int(n_max)] * frequent + [int(n_max / ratio)] * (num_classes - frequent)


PROFILES = {"long_tailed": long_tailed_sizes, "step": step_sizes}


def class_sizes(
    available: ArrayLike,
    profile: str = "long_tailed",
    ratio: float = 100,
    n_max: int | None = None,
    class_order: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
) -> IntArray:
    """Return how many items each class keeps, (K,), in class order.

    >>> class_sizes([700, 700, 900], ratio=10)
    array([700, 221,  70])

    Args:
        available: Items of each class, (K,).
        profile: One of :data:`PROFILES`.
        ratio: Largest over smallest class, at least 1.
        n_max: Items of the largest class; ``None``: as many as possible, so that every class has enough
            items; in a balanced set the items per class.
        class_order: Its i-th entry is the class that gets the i-th size, largest first; ``None``:
            classes ascending.
        names: Class names for errors.

    Raises:
        ValueError: If an argument is out of range, or a class has too few items or would keep none.
    """
    have = np.asarray(available, dtype=np.int64)
    if have.ndim != 1 or have.size < 2:
        raise ValueError(f"`available` must hold the items of at least 2 classes, got shape {have.shape}.")
    choice("profile", profile, PROFILES)
    number("ratio", ratio, at_least=1)
    order = _check_order(class_order, have.size)
    if n_max is None:
        n_max = bisect_right(
            range(1, int(have[order[0]]) + 1),
            False,
            key=lambda n: bool((np.array(PROFILES[profile](n, have.size, ratio)) > have[order]).any()),
        )
    else:
        whole_number("n_max", n_max, at_least=1)
    sizes = np.empty_like(have)
    sizes[order] = PROFILES[profile](n_max, have.size, ratio)
    return check_sizes(sizes, have, names)


def check_sizes(sizes: ArrayLike, available: ArrayLike, names: Sequence[str] | None = None) -> IntArray:
    """Return ``sizes`` as int64, (K,).

    >>> check_sizes([10, 1], available=[10, 10])
    array([10,  1])

    Raises:
        ValueError: If there is not one size per class, or a class would keep none or has fewer.
    """
    want, have = np.asarray(sizes, dtype=np.int64), np.asarray(available, dtype=np.int64)
    if want.shape != have.shape:
        raise ValueError(
            f"`counts` must have one entry per class, got {want.size} entries for {have.size} classes."
        )

    def name(c: int) -> str:
        return f"class {c}" + (f" ({names[c]})" if names else "")

    short = np.flatnonzero(want > have)
    if short.size:
        c = int(short[0])
        raise ValueError(
            f"The imbalanced set must not ask for more than there is, got {want[c]} wanted of {name(c)}, "
            f"which has {have[c]} ({short.size} classes fall short). Lower `n_max` or `counts`, give rare "
            "classes a late place in `class_order`, or leave `n_max` out."
        )
    empty = np.flatnonzero(want < 1)
    if empty.size:
        c = int(empty[0])
        raise ValueError(
            f"Every class must keep at least one item, got {want[c]} for {name(c)}, which has {have[c]} "
            f"(the largest class keeps {want.max()}; {empty.size} classes are emptied). Lower `ratio`, or "
            "take the class out of the data set."
        )
    return want


def _check_order(class_order: Sequence[int] | None, num_classes: int) -> IntArray:
    if class_order is None:
        return np.arange(num_classes)
    order = np.asarray(class_order)
    if order.dtype.kind not in "ui" or not np.array_equal(np.sort(order), np.arange(num_classes)):
        raise ValueError(
            f"`class_order` must name each class in [0, {num_classes}) once, got {list(class_order)!r}."
        )
    return order.astype(np.int64)


def kept_indices(labels: ArrayLike, sizes: ArrayLike, seed: int = 0, protocol: str | None = None) -> IntArray:
    """Return the positions of the items that are kept, (sum of sizes,).

    By default a class keeps a seeded random subset and the result ascends, so the data set's own order
    stays. ``protocol='cao2019'`` is LDAM-DRW's cut (Cao et al., NeurIPS 2019): classes ascending, the
    ascending positions of each shuffled by ``np.random.RandomState(seed)``, the first n_i kept in that
    order, classes one after another; seed 0 gives the subset of most papers. With either, a smaller cut is
    part of a larger one with the same seed.

    >>> kept_indices(labels=[0, 0, 0, 1, 1, 1], sizes=[3, 1], seed=0)
    array([0, 1, 2, 5])

    Args:
        labels: Class of each item, (N,).
        sizes: Items that each class keeps, (K,), none above what there is.

    Raises:
        ValueError: If ``protocol`` is unknown, or a class has too few items or would keep none.
    """
    labels = np.asarray(labels, dtype=np.int64)
    sizes = check_sizes(sizes, np.bincount(labels, minlength=np.size(sizes)))
    if protocol is not None:
        choice("protocol", protocol, ("cao2019",))
    rng = np.random.RandomState(seed) if protocol == "cao2019" else np.random.default_rng(seed)
    kept = []
    for c, size in enumerate(sizes):
        positions = np.flatnonzero(labels == c)
        rng.shuffle(positions)
        kept.append(positions[:size])
    indices = np.concatenate(kept)
    return indices if protocol == "cao2019" else np.sort(indices)


def digest(values: ArrayLike) -> str:
    """Return the SHA-256 of whole numbers as little-endian int64, in their order.

    >>> digest([0, 1, 2])[:8]
    'ab25350e'
    """
    return hashlib.sha256(np.ascontiguousarray(values, dtype="<i8").tobytes()).hexdigest()


@dataclass(frozen=True)
class KeptIndices:
    """Indices of the kept items, the labels of all items, and the settings of the cut.

    >>> import tempfile
    >>> kept = KeptIndices(np.array([0, 2]), labels=np.array([0, 0, 1]), settings={"seed": 0})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     kept.save(f"{folder}/kept.json")
    ...     kept.load(f"{folder}/kept.json").indices
    array([0, 2])
    """

    indices: IntArray
    labels: IntArray
    settings: Mapping[str, Any]

    def _header(self) -> dict[str, Any]:
        # Through JSON, so that a tuple compares equal to the list that is read back.
        return {
            "settings": json.loads(json.dumps(dict(self.settings))),
            "length": len(self.labels),
            "labels_sha256": digest(self.labels),
        }

    def save(self, path: str | Path) -> None:
        """Write indices, their digest, the labels' digest and the settings as JSON, whole or not at all."""
        counts = np.bincount(self.labels[self.indices]).tolist()
        content = {
            **self._header(),
            "class_counts": counts,
            "sha256": digest(self.indices),
            "indices": self.indices.tolist(),
        }
        with replacing(path, "w") as file:
            json.dump(content, file)

    def load(self, path: str | Path) -> KeptIndices:
        """Return the indices in a file, which may differ from these, for the same data and settings.

        Raises:
            ValueError: If the file was not written by :meth:`save`, was changed, or belongs to other data
                or settings.
        """
        again = f"Delete {str(path)!r} to cut anew, or give `indices_file` another name."
        try:
            content = json.loads(Path(path).read_text())
            indices = np.array(content["indices"], dtype=np.int64)
            computed, written = digest(indices), content["sha256"]
            header = {key: content[key] for key in self._header()}
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise ValueError(
                f"`indices_file` must be a file of kept indices, got {error!r}. {again}"
            ) from None
        if computed != written:
            raise ValueError(
                f"`indices_file` must hold the indices of its digest {written}, got those of {computed}: it "
                f"was changed after it was written. {again}"
            )
        for key, value in self._header().items():
            if header[key] != value:
                raise ValueError(
                    f"`indices_file` must have been written for this data set and these settings, got "
                    f"{key} {header[key]!r} in the file and {value!r} here. {again}"
                )
        sizes = np.bincount(self.labels[self.indices])
        inside = indices.ndim == 1 and ((indices >= 0) & (indices < len(self.labels))).all()
        if (
            not inside
            or len(np.unique(indices)) != len(indices)
            or not np.array_equal(np.bincount(self.labels[indices]), sizes)
        ):
            raise ValueError(
                f"`indices_file` must hold distinct positions of {sizes.tolist()} items per class, got "
                f"others. {again}"
            )
        return KeptIndices(indices, self.labels, self.settings)
