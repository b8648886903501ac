"""Measures of how unevenly samples are spread over classes; NumPy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mmseol.counting.counts import check_counts

__all__ = ["gini", "imbalance_ratio", "tail_fraction"]


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
