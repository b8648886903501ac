"""Measures of how unevenly samples are spread over classes; NumPy alone."""

from __future__ import annotations

from math import exp, lgamma

import numpy as np
from numpy.typing import ArrayLike

from mmseol.counting.counts import check_counts
from mmseol.utils.arrays import FloatArray
from mmseol.utils.checks import whole_number

__all__ = ["batches_without", "gini", "imbalance_ratio", "tail_fraction"]


def imbalance_ratio(counts: ArrayLike) -> float:
    """Return the largest count over the smallest; infinite if a class has no sample.

    >>> imbalance_ratio([90, 30, 10])
    9.0

    Args:
        counts: Samples (pixels or images) per class, (K,).

    Raises:
        ValueError: If the counts are not at least two whole numbers, none negative, not all zero.
    """
    samples = check_counts(counts)
    return float(samples.max() / samples.min()) if samples.min() else float("inf")


def gini(counts: ArrayLike) -> float:
    r"""Return the Gini coefficient: 0 for equal counts, :math:`1 - 1/K` if one class has every sample.

    .. math:: G = \frac{\sum_i \sum_j |n_i - n_j|}{2 K \sum_i n_i}

    >>> gini([5, 5, 5]), gini([9, 0, 0])
    (0.0, 0.6666666666666666)

    Args:
        counts: Samples (pixels or images) per class, (K,).

    Raises:
        ValueError: As :func:`imbalance_ratio`.
    """
    samples = np.sort(check_counts(counts)).astype(np.float64)
    ranks = np.arange(1, samples.size + 1)  # each sample of rank r enters r - 1 times plus, K - r times minus
    return float(np.sum((2 * ranks - samples.size - 1) * samples) / (samples.size * samples.sum()))


def tail_fraction(counts: ArrayLike) -> float:
    """Return the fraction of the samples that are of the rarest third of the classes, at least of one class.

    >>> tail_fraction([60, 30, 10])
    0.1

    Args:
        counts: Samples (pixels or images) per class, (K,).

    Raises:
        ValueError: As :func:`imbalance_ratio`.
    """
    samples = np.sort(check_counts(counts))
    return float(samples[: max(1, samples.size // 3)].sum() / samples.sum())


def batches_without(images: ArrayLike, total: int, batch_size: int) -> FloatArray:
    r"""Return the expected fraction of batches with no image of each class, (K,).

    Batches are drawn without replacement: :math:`\binom{N - n_c}{B} / \binom{N}{B}`, a hypergeometric
    probability. It holds for whole images; a crop may miss a class that its image has.

    >>> batches_without([5, 1], total=5, batch_size=2)
    array([0. , 0.6])

    Args:
        images: Images that contain each class, (K,).
        total: Images of the data set, N.
        batch_size: B; at most N of them are drawn.

    Raises:
        ValueError: If a number is out of range.
    """
    total = whole_number("total", total, at_least=1)
    drawn = min(whole_number("batch_size", batch_size, at_least=1), total)
    if np.max(images) > total:
        raise ValueError(f"`images` must be at most `total` ({total}), got {int(np.max(images))}.")
    others = [total - int(n) for n in np.asarray(images)]
    whole = _log_choices(total, drawn)
    return np.array([exp(_log_choices(n, drawn) - whole) if n >= drawn else 0.0 for n in others])


def _log_choices(number: int, drawn: int) -> float:
    return lgamma(number + 1) - lgamma(drawn + 1) - lgamma(number - drawn + 1)
