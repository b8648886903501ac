"""Class counts and values computed from them: ranks, target values and class weights.

The functions work on NumPy arrays and know no data set, loss or framework. Counts are pixels (or images)
per class, in class order. If a formula divides by the count of a class without a sample, that count enters
as 1 and a warning names the class.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmseol.utils.arrays import FloatArray, IntArray
from mmseol.utils.checks import choice, number
from mmseol.utils.files import replacing
from mmseol.utils.text import first_few

__all__ = [
    "CLASS_WEIGHTS",
    "ClassCounts",
    "check_counts",
    "class_weights",
    "effective_number_weights",
    "enet_weights",
    "inverse_frequency_weights",
    "load_counts",
    "load_weights",
    "median_frequency_weights",
    "outlying_values",
    "power_weights",
    "unit_alpha",
]

CLASS_WEIGHTS = ("median_frequency", "inverse_frequency", "effective_number", "enet")
Scheme = Literal["rank", "reciprocal", "power"]
Ties = Literal["ordinal", "dense", "average"]


@dataclass(frozen=True)
class ClassCounts:
    """Samples of each class in a training set; every array is int64 of shape (K,).

    >>> counts = ClassCounts(samples=[30, 10], images=[2, 1], totals=[40, 20])
    >>> (counts + counts).samples
    array([60, 20])

    Attributes:
        samples: Labelled elements: pixels in segmentation, images in classification.
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
        """Return the arrays as lists, as :meth:`save` writes them."""
        return {name: getattr(self, name).tolist() for name in ("samples", "images", "totals")}

    def save(self, path: str | Path) -> None:
        """Write the counts as a JSON file, completely or not at all; losses take it as ``class_counts``."""
        with replacing(path, "w") as file:
            json.dump(self.to_dict(), file)

    @classmethod
    def load(cls, path: str | Path) -> ClassCounts:
        """Read a file that :meth:`save` wrote.

        Raises:
            ValueError: If it is another file.
        """
        content, names = _read_file(Path(path), "path"), ("samples", "images", "totals")
        if not isinstance(content, dict) or sorted(content) != sorted(names):
            raise ValueError(f"`path` must be a file of {', '.join(names)}, got {str(path)!r}.")
        return cls(**{name: _in_file(check_counts, path, content[name], name=name) for name in names})


def check_counts(counts: Any, num_classes: int | None = None, name: str = "class_counts") -> IntArray:
    """Return ``counts`` as an int64 array of shape (K,).

    >>> check_counts([3, -1])
    Traceback (most recent call last):
    ValueError: `class_counts` must not be negative, got [3, -1].

    Raises:
        ValueError: If the counts are not one-dimensional whole numbers, at least two, none negative,
            not all zero, or not ``num_classes`` of them.
    """
    try:
        array = np.asarray(counts)
    except (TypeError, ValueError, OverflowError):  # lists of different lengths
        array = np.empty(0)
    if array.ndim != 1 or array.size < 2 or array.dtype.kind not in "iuf":
        raise ValueError(
            f"`{name}` must be a sequence of at least two numbers, one per class, got {_short(counts)}. "
            "Give the number of samples (pixels) of each class in class order."
        )
    if num_classes is not None and array.size != num_classes:
        raise ValueError(
            f"`{name}` must have one entry per class, got {array.size} entries for {num_classes} classes. "
            "Count the data set with the classes of the model's head (num_classes)."
        )
    with np.errstate(invalid="ignore"):
        whole = array.astype(np.int64)
    wrong = ~np.isfinite(array) | (whole != array) | (np.abs(array.astype(np.float64)) >= 2.0**63)
    if wrong.any():
        raise ValueError(f"`{name}` must be finite whole numbers, got {_entries(array, wrong)}.")
    if (whole < 0).any():
        raise ValueError(f"`{name}` must not be negative, got {_entries(whole, whole < 0)}.")
    if not whole.any():
        raise ValueError(
            f"`{name}` must not be all zero, got {_short(whole.tolist())}. Check the data set's paths, "
            "`label_map`, `reduce_zero_label` and `ignore_index`: no label was counted."
        )
    return whole


def _short(values: Any) -> str:
    """Return a text of at most some hundred characters."""
    text = repr(values)
    return text if len(text) <= 200 else f"{text[:200]}.."


def _entries(values: NDArray[Any], wrong: NDArray[np.bool_]) -> str:
    """Return the values, or of many the wrong ones with their classes."""
    if values.size <= 20:
        return str(values.tolist())
    return first_few(f"{values[c]} for class {c}" for c in np.flatnonzero(wrong))


def load_counts(source: Any) -> IntArray:
    """Return counts from a sequence or from a ``.json`` or ``.npy`` file.

    >>> load_counts([30, 10])
    array([30, 10])

    A JSON file holds a list, or an object with ``samples`` as :meth:`ClassCounts.save` writes it. Pickled
    objects are refused.

    Raises:
        ValueError: If the file is missing, broken or of another kind, or the counts are invalid; names the
            file.
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
    return _in_file(check_counts, source, content)


def _in_file(check: Callable[..., Any], path: str | Path, content: Any, **settings: Any) -> Any:
    """Return ``check(content)``; an error names the file."""
    try:
        return check(content, **settings)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def load_weights(source: Any) -> FloatArray:
    """Return class weights, float64 (K,), from a sequence or from a ``.json`` or ``.npy`` file.

    >>> load_weights([0.5, 1.5])
    array([0.5, 1.5])

    Raises:
        ValueError: If the file is missing, broken or of another kind, or the weights are not at least two
            finite numbers, none negative, not all zero.
    """
    if isinstance(source, (str, Path)):
        return _in_file(_check_weights, source, _read_file(Path(source), "class_weight"))
    return _check_weights(source)


def _check_weights(values: Any) -> FloatArray:
    try:
        weights = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        weights = np.empty(0)
    if weights.ndim != 1 or weights.size < 2 or not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(
            "`class_weight` must be at least two finite numbers, none negative, one per class, "
            f"got {_short(values)}."
        )
    if not weights.any():
        raise ValueError(f"`class_weight` must not be all zero, got {_short(values)}.")
    return weights


def _read_file(path: Path, name: str) -> Any:
    if path.suffix not in (".json", ".npy"):
        raise ValueError(f"`{name}` must be a sequence or a .json or .npy file, got {str(path)!r}.")
    if not path.is_file():
        raise ValueError(f"`{name}` names the file {str(path)!r}, which does not exist.")
    try:
        if path.suffix == ".json":
            return json.loads(path.read_text())
        array = np.load(path, allow_pickle=False)  # pickles can run code
    except Exception as error:  # a broken file may raise anything
        raise ValueError(
            f"`{name}` must be a file of plain numbers, got {str(path)!r}, which cannot be read: {error} "
            "Write it again, such as by ClassCounts.save or numpy.save."
        ) from None
    if not isinstance(array, np.ndarray):
        raise ValueError(f"`{name}` must be a .npy file of one array, got {str(path)!r} of several.")
    return array


def at_least_one(counts: ArrayLike, used_for: str) -> IntArray:
    """Raise counts below 1 to 1, with a warning that names those classes.

    >>> at_least_one([30, 10], "the prior")
    array([30, 10])
    """
    counts = np.asarray(counts, dtype=np.int64)
    empty = np.flatnonzero(counts < 1)
    if empty.size:
        warnings.warn(
            f"Classes [{first_few(empty, 20)}] have no training sample; their count enters as 1 in "
            f"{used_for}.",
            stacklevel=3,
        )
    return np.maximum(counts, 1)


def outlying_values(
    counts: ArrayLike,
    alpha: float | Literal["auto"] = 1.0,
    scheme: Scheme = "rank",
    ties: Ties = "ordinal",
    gamma: float = 1.0,
) -> FloatArray:
    r"""Return each class's outlying target value (Kato & Hotta, arXiv 2107.02393, Algorithm 1).

    ``scheme='rank'`` is the paper's: :math:`v_c = \alpha r_c`, where :math:`r_c` is the rank, from 1, of the
    class when classes are sorted by count, **largest first**; the most frequent class lies nearest the
    origin. ``scheme='reciprocal'`` follows the text of sec. 3.3 instead: :math:`v_c = \alpha n_\max / n_c`.
    ``scheme='power'`` lies between equal targets and these: :math:`v_c = \alpha (n_\max / n_c)^\gamma`.

    >>> outlying_values([500, 20, 100], alpha=5)
    array([ 5., 15., 10.])
    >>> outlying_values([400, 4, 100], scheme="power", gamma=0.5)
    array([ 1., 10.,  2.])

    Args:
        counts: Samples per class, (K,).
        alpha: Distance of the first target from the origin, above 0; ``'auto'``: :func:`unit_alpha`.
        scheme: ``'rank'``, ``'reciprocal'`` or ``'power'``.
        ties: Rank of equal counts: ``'ordinal'`` keeps class order, as the paper; ``'dense'`` and
            ``'average'`` share a rank as in :func:`scipy.stats.rankdata`.
        gamma: Exponent of ``'power'``, at least 0: 0 gives equal targets, 1 those of ``'reciprocal'``.

    Returns:
        Target values, (K,), in the units of the model's raw outputs.

    Raises:
        ValueError: If an argument is out of its range.
    """
    if not isinstance(alpha, str):
        alpha = number("alpha", alpha, above=0)
    elif alpha != "auto":
        raise ValueError(f"`alpha` must be a finite number above 0 or 'auto', got {alpha!r}.")
    gamma = number("gamma", gamma, at_least=0)
    choice("ties", ties, get_args(Ties))
    choice("scheme", scheme, get_args(Scheme))
    counts = check_counts(counts)
    if scheme == "rank":
        empty = np.flatnonzero(counts == 0)
        if empty.size:
            warnings.warn(
                f"Classes [{first_few(empty, 20)}] have no training sample and are ranked last.",
                stacklevel=2,
            )
        values = _ranks(-counts, ties)
    else:
        samples = at_least_one(counts, f"scheme={scheme!r}")
        values = (samples.max() / samples) ** (gamma if scheme == "power" else 1.0)
    return (unit_alpha(counts, values) if alpha == "auto" else alpha) * values


def unit_alpha(counts: ArrayLike, values: ArrayLike) -> float:
    r"""Return the alpha that gives the targets a root mean square of 1 over the training samples.

    .. math:: \alpha = \Bigl(\sum_c \pi_c r_c^2\Bigr)^{-1/2}

    with the fraction :math:`\pi_c` of class c among the training samples and the target :math:`r_c` for
    alpha 1. At the start of training the outputs are near 0, so that the gradient on them is minus the target
    and its root mean square is 1, as with one-hot targets; that of cross entropy is
    :math:`\sqrt{1 - 1/K}`. The classifier starts alike for all losses, so the gradient that reaches the
    features is as large as theirs, and a learning rate that suits them is one to start from. The alphas of
    the paper are 15 to 47 times as large. With SGD that is a larger learning rate of the layers below the
    classifier (see :class:`~mmseol.losses.OutlyingMSELoss`), so search alpha where these learn too slowly.

    >>> round(unit_alpha([900, 100], [1, 2]), 3)
    0.877

    Args:
        counts: Samples per class, (K,).
        values: Targets for alpha 1, (K,).
    """
    fraction = check_counts(counts) / np.sum(counts)
    return float(1.0 / np.sqrt(np.sum(fraction * np.asarray(values, dtype=np.float64) ** 2)))


def _ranks(values: IntArray, ties: Ties) -> FloatArray:
    """Return the rank of each value, from 1, smallest first; ``scipy.stats`` takes a second to import."""
    _, dense, sizes = np.unique(values, return_inverse=True, return_counts=True)
    ranks = np.empty(values.size)
    if ties == "dense":
        ranks[:] = dense + 1
    elif ties == "average":
        ranks[:] = (np.cumsum(sizes) - (sizes - 1) / 2)[dense]
    else:
        ranks[np.argsort(values, kind="stable")] = np.arange(1, values.size + 1)
    return ranks


def _sum_to_classes(weights: FloatArray) -> FloatArray:
    return weights * (weights.size / weights.sum())


def median_frequency_weights(counts: ArrayLike, totals: ArrayLike | None = None) -> FloatArray:
    r"""Return median-frequency weights :math:`w_c = \mathrm{median}(f) / f_c`, (K,).

    :math:`f_c` is the fraction of class c among all pixels, void included, of the images in which it
    occurs (Eigen & Fergus, ICCV 2015; SegNet, TPAMI 2017). Without ``totals`` it is the fraction among
    all labelled pixels, which is another number.

    >>> median_frequency_weights([60, 30, 10])
    array([0.5, 1. , 3. ])
    """
    samples = at_least_one(counts, "median-frequency weights")
    whole = np.full_like(samples, samples.sum()) if totals is None else np.asarray(totals)
    if whole.shape != samples.shape:
        raise ValueError(f"`totals` must be of shape {samples.shape} as the counts, got {whole.shape}.")
    whole = np.where(whole < samples, samples.sum(), whole)  # a class that occurs in no image has total 0
    frequency = samples / whole
    return np.median(frequency) / frequency


def inverse_frequency_weights(counts: ArrayLike) -> FloatArray:
    r"""Return weights :math:`\propto 1 / n_c` that sum to K, (K,).

    >>> inverse_frequency_weights([30, 10])
    array([0.5, 1.5])
    """
    return _sum_to_classes(1.0 / at_least_one(counts, "inverse-frequency weights"))


def effective_number_weights(counts: ArrayLike, beta: float = 0.9999) -> FloatArray:
    r"""Return weights :math:`\propto (1 - \beta) / (1 - \beta^{n_c})` that sum to K, (K,).

    Cui et al., CVPR 2019, eq. 2; ``beta`` in [0, 1): 0 gives ones, values near 1 inverse frequency.

    >>> effective_number_weights([3, 1], beta=0.5)
    array([0.72727273, 1.27272727])
    """
    beta = number("beta", beta, at_least=0, below=1)
    samples = at_least_one(counts, "effective-number weights")
    if beta == 0.0:
        return np.ones(samples.size)
    # -expm1(n log b) = 1 - b^n without cancellation where n (1 - b) is small.
    return _sum_to_classes((1.0 - beta) / -np.expm1(samples * np.log(beta)))


def enet_weights(counts: ArrayLike, c: float = 1.02) -> FloatArray:
    r"""Return weights :math:`1 / \ln(c + f_k)`, (K,), with the fraction :math:`f_k` of all samples.

    Paszke et al., "ENet", 2016, sec. 4.1; with their ``c`` of 1.02 the weights lie between 1 and 50.

    >>> enet_weights([99, 1]).round(2)
    array([ 1.43, 33.83])
    """
    samples = check_counts(counts)
    return 1.0 / np.log(number("c", c, above=1) + samples / samples.sum())


def power_weights(counts: ArrayLike, power: float) -> FloatArray:
    r"""Return weights :math:`\propto n_k^{-p}` that sum to K, (K,).

    ``power`` 0 gives ones, 0.5 the inverse square root, 1 the inverse frequency.

    >>> power_weights([90, 10], power=0.5)
    array([0.5, 1.5])
    """
    power = number("power", power, at_least=0)
    samples = at_least_one(counts, "power weights")
    return _sum_to_classes((samples.max() / samples) ** power)


def class_weights(
    name: str | float, counts: ArrayLike, totals: ArrayLike | None = None, beta: float = 0.9999
) -> FloatArray:
    """Return class weights by name, one of :data:`CLASS_WEIGHTS`, or by a power of the counts, (K,).

    >>> class_weights("inverse_frequency", [30, 10]), class_weights(1.0, [30, 10])
    (array([0.5, 1.5]), array([0.5, 1.5]))

    Args:
        name: Name, or the number p of :func:`power_weights`.
        counts: Samples per class, (K,).
        totals: As of :func:`median_frequency_weights`.
        beta: As of :func:`effective_number_weights`.
    """
    if not isinstance(name, str):
        return power_weights(counts, name)
    if name == "median_frequency":
        return median_frequency_weights(counts, totals)
    if name == "inverse_frequency":
        return inverse_frequency_weights(counts)
    if name == "enet":
        return enet_weights(counts)
    choice("class_weight", name, CLASS_WEIGHTS)
    return effective_number_weights(counts, beta)
