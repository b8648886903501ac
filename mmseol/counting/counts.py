"""Class counts, and what is worked out from them: ranks, target values and class weights.

Pure arrays: nothing here knows a data set, a loss or a framework. Counts are pixels (or images) per
class, in class order. Where a formula would divide by a class that has no sample, its count enters as
1 and a warning names the class.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from mmseol.utils.arrays import FloatArray, IntArray
from mmseol.utils.files import replacing

__all__ = [
    "CLASS_WEIGHTS",
    "ClassCounts",
    "check_counts",
    "class_weights",
    "effective_number_weights",
    "inverse_frequency_weights",
    "load_counts",
    "load_weights",
    "median_frequency_weights",
    "outlying_values",
]

CLASS_WEIGHTS = ("median_frequency", "inverse_frequency", "effective_number")


@dataclass(frozen=True)
class ClassCounts:
    """What a training set holds of each class; every array is int64 of shape (K,).

    Attributes:
        samples: Labelled positions: pixels in segmentation, images in classification.
        images: Images in which the class occurs.
        totals: Pixels, void included, of the images in which the class occurs (SegNet's frequency
            needs them); equal to ``images`` in classification.
    """

    samples: IntArray
    images: IntArray
    totals: IntArray

    def __post_init__(self) -> None:
        for name in ("samples", "images", "totals"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.int64))
            if getattr(self, name).shape != self.samples.shape or self.samples.ndim != 1:
                raise ValueError(
                    f"`samples`, `images` and `totals` must be of one shape (K,), got {name} of shape "
                    f"{getattr(self, name).shape} beside samples of shape {self.samples.shape}."
                )

    @classmethod
    def zeros(cls, num_classes: int) -> ClassCounts:
        """Return the counts of an empty data set."""
        return cls(*(np.zeros(num_classes, dtype=np.int64) for _ in range(3)))

    def __add__(self, other: ClassCounts) -> ClassCounts:
        return ClassCounts(
            self.samples + other.samples, self.images + other.images, self.totals + other.totals
        )

    def __mul__(self, times: int) -> ClassCounts:
        return ClassCounts(self.samples * times, self.images * times, self.totals * times)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ClassCounts):
            return NotImplemented
        return all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("samples", "images", "totals")
        )

    __hash__ = None  # type: ignore[assignment]

    def to_dict(self) -> dict[str, list[int]]:
        """Return plain lists, as :meth:`save` writes them."""
        return {name: getattr(self, name).tolist() for name in ("samples", "images", "totals")}

    def save(self, path: str | Path) -> None:
        """Write the counts as JSON, whole or not at all; losses take the file as ``class_counts``."""
        with replacing(path, "w") as file:
            json.dump(self.to_dict(), file)

    @classmethod
    def load(cls, path: str | Path) -> ClassCounts:
        """Read what :meth:`save` wrote."""
        return cls(**json.loads(Path(path).read_text()))


def check_counts(counts: Any, num_classes: int | None = None, name: str = "class_counts") -> IntArray:
    """Return ``counts`` as an int64 array of shape (K,), or say what is wrong with it.

    Raises:
        ValueError: If the counts are not one-dimensional whole numbers, at least two, none negative,
            not all zero, or not ``num_classes`` of them.
    """
    array = np.asarray(counts)
    if array.ndim != 1 or array.size < 2 or array.dtype.kind not in "iuf":
        raise ValueError(
            f"`{name}` must be a sequence of at least two numbers, one per class, got {counts!r}. "
            "Give the number of samples (pixels) of each class in class order."
        )
    if num_classes is not None and array.size != num_classes:
        raise ValueError(
            f"`{name}` must have one entry per class, got {array.size} entries for {num_classes} classes. "
            "Count the data set with the classes of the model's head (num_classes)."
        )
    whole = array.astype(np.int64) if np.isfinite(array).all() else None
    if whole is None or (whole != array).any():
        raise ValueError(f"`{name}` must be finite whole numbers, got {array.tolist()}.")
    if (whole < 0).any():
        raise ValueError(f"`{name}` must not be negative, got {whole.tolist()}.")
    if not whole.any():
        raise ValueError(
            f"`{name}` must not be all zero, got {whole.tolist()}. Check the data set's paths, "
            "`label_map`, `reduce_zero_label` and `ignore_index`: no label was counted."
        )
    return whole


def load_counts(source: Any) -> IntArray:
    """Return counts from a sequence or from a ``.json`` or ``.npy`` file.

    A JSON file holds a list, or an object with ``samples`` as :meth:`ClassCounts.save` writes it.

    Raises:
        ValueError: If the file is missing, of another kind, or its content is no valid count.
    """
    if not isinstance(source, (str, Path)):
        return check_counts(source)
    content = _read_file(Path(source), "class_counts")
    if isinstance(content, dict):
        if "samples" not in content:
            raise ValueError(
                f"`class_counts` file {str(source)!r} has no key 'samples', got {sorted(content)}."
            )
        content = content["samples"]
    return check_counts(content)


def load_weights(source: Any) -> FloatArray:
    """Return class weights, float64 (K,), from a sequence or from a ``.json`` or ``.npy`` file.

    Raises:
        ValueError: If the file is missing or the weights are not at least two finite numbers, none
            negative, not all zero.
    """
    content = _read_file(Path(source), "class_weight") if isinstance(source, (str, Path)) else source
    try:
        weights = np.array(content, dtype=np.float64)
    except (TypeError, ValueError):
        weights = np.empty(0)
    if weights.ndim != 1 or weights.size < 2 or not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(
            "`class_weight` must be at least two finite numbers, none negative, one per class, "
            f"got {source!r}."
        )
    if not weights.any():
        raise ValueError(f"`class_weight` must not be all zero, got {source!r}.")
    return weights


def _read_file(path: Path, name: str) -> Any:
    if path.suffix not in (".json", ".npy"):
        raise ValueError(f"`{name}` must be a sequence or a .json or .npy file, got {str(path)!r}.")
    if not path.is_file():
        raise ValueError(f"`{name}` names the file {str(path)!r}, which does not exist.")
    return np.load(path) if path.suffix == ".npy" else json.loads(path.read_text())


def at_least_one(counts: ArrayLike, used_for: str) -> IntArray:
    """Return the counts with those below 1 raised to 1, and warn which classes that touched."""
    counts = np.asarray(counts, dtype=np.int64)
    empty = np.flatnonzero(counts < 1)
    if empty.size:
        warnings.warn(
            f"Classes {empty.tolist()} have no training sample; their count enters as 1 in {used_for}.",
            stacklevel=3,
        )
    return np.maximum(counts, 1)


def outlying_values(
    counts: ArrayLike,
    alpha: float = 1.0,
    scheme: Literal["rank", "reciprocal"] = "rank",
    ties: Literal["ordinal", "dense", "average"] = "ordinal",
) -> FloatArray:
    r"""Return each class's outlying target value (Kato & Hotta, arXiv 2107.02393, Algorithm 1).

    ``scheme='rank'`` is the paper's: :math:`v_c = \alpha r_c`, where :math:`r_c` is the 1-based
    position of the class when classes are sorted by count, **largest first**; the most frequent class
    lies nearest the origin. Equal counts keep class order (``ties='ordinal'``, as the paper), or
    share a rank as in :func:`scipy.stats.rankdata`. ``scheme='reciprocal'`` follows the words of
    sec. 3.3 instead: :math:`v_c = \alpha n_\max / n_c`.

    Args:
        counts: Samples per class, (K,).
        alpha: Distance of the first target from the origin, above 0.

    Returns:
        Target values, (K,), in the units of the model's raw outputs.

    Raises:
        ValueError: If ``alpha``, ``scheme`` or ``ties`` is not one of the above.
    """
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha < np.inf:
        raise ValueError(f"`alpha` must be a finite number above 0, got {alpha!r}.")
    if ties not in ("ordinal", "dense", "average"):
        raise ValueError(f"`ties` must be 'ordinal', 'dense' or 'average', got {ties!r}.")
    counts = check_counts(counts)
    if scheme == "reciprocal":
        counts = at_least_one(counts, "scheme='reciprocal'")
        return alpha * counts.max() / counts
    if scheme != "rank":
        raise ValueError(f"`scheme` must be 'rank' or 'reciprocal', got {scheme!r}.")
    empty = np.flatnonzero(counts == 0)
    if empty.size:
        warnings.warn(f"Classes {empty.tolist()} have no training sample and are ranked last.", stacklevel=2)
    return alpha * rankdata(-counts, method=ties).astype(np.float64)


def _sum_to_classes(weights: FloatArray) -> FloatArray:
    return weights * (weights.size / weights.sum())


def median_frequency_weights(counts: ArrayLike, totals: ArrayLike | None = None) -> FloatArray:
    r"""Return median-frequency weights :math:`w_c = \mathrm{median}(f) / f_c`, (K,).

    :math:`f_c` is the share of class c among all pixels, void included, of the images in which it
    occurs (Eigen & Fergus, ICCV 2015; SegNet, TPAMI 2017). Without ``totals`` it is the share among
    all labelled pixels, which is another number.
    """
    samples = at_least_one(counts, "median-frequency weights")
    whole = np.full_like(samples, samples.sum()) if totals is None else np.asarray(totals, dtype=np.int64)
    if whole.shape != samples.shape:
        raise ValueError(f"`totals` must be of shape {samples.shape} as the counts, got {whole.shape}.")
    whole = np.where(
        whole < samples, samples.sum(), whole
    )  # a class that occurs nowhere has no image of its own
    frequency = samples / whole
    return np.median(frequency) / frequency


def inverse_frequency_weights(counts: ArrayLike) -> FloatArray:
    r"""Return weights :math:`\propto 1 / n_c` that sum to K, (K,)."""
    return _sum_to_classes(1.0 / at_least_one(counts, "inverse-frequency weights"))


def effective_number_weights(counts: ArrayLike, beta: float = 0.9999) -> FloatArray:
    r"""Return weights :math:`\propto (1 - \beta) / (1 - \beta^{n_c})` that sum to K, (K,).

    Cui et al., CVPR 2019, eq. 2; ``beta`` in [0, 1): 0 gives ones, towards 1 inverse frequency.
    """
    if not 0.0 <= beta < 1.0:
        raise ValueError(f"`beta` must lie in [0, 1), got {beta!r}.")
    samples = at_least_one(counts, "effective-number weights")
    if beta == 0.0:
        return np.ones(samples.size)
    # -expm1(n log b) = 1 - b^n without cancellation where n (1 - b) is small.
    return _sum_to_classes((1.0 - beta) / -np.expm1(samples * np.log(beta)))


def class_weights(
    name: str, counts: ArrayLike, totals: ArrayLike | None = None, beta: float = 0.9999
) -> FloatArray:
    """Return class weights by name, one of :data:`CLASS_WEIGHTS`, (K,)."""
    if name == "median_frequency":
        return median_frequency_weights(counts, totals)
    if name == "inverse_frequency":
        return inverse_frequency_weights(counts)
    if name == "effective_number":
        return effective_number_weights(counts, beta)
    raise ValueError(f"`class_weight` must be one of {', '.join(CLASS_WEIGHTS)}, got {name!r}.")
