"""Differences with intervals over images and over seeds, and what they say about a statement.

A run is given as the sums of what it scored in each unit of the data: an image, or several neighbouring
frames of a video. All runs see the same resamples of the units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from mmseol.analysis.statistics.paired import seed_interval
from mmseol.utils.arrays import FloatArray
from mmseol.utils.checks import choice, number, whole_number

__all__ = ["RULES", "Statement", "resampled", "spread", "statement", "unit_sums", "verdict"]

RULES = {
    "above": "supported if the interval lies above 0, refuted if below",
    "equal": "supported if the interval lies within the margin around 0, refuted if outside",
    "at least": "supported if the interval lies above minus the margin, refuted if below",
}
"""How an interval of a difference decides, by the form of the statement; else it is undecided."""

_RESAMPLES = 1000


@dataclass(frozen=True)
class Statement:
    """A statement about a difference, and what the data say.

    >>> Statement("a is better", "digits", 1.0, (0.5, 1.5), (0.2, 1.8), 3, "above", 0.0, "supported").seeds
    3

    Attributes:
        text: The statement.
        data: Data set and stage.
        difference: Mean over seeds.
        images: 95 % interval over resampled units, for these trained networks.
        by_seed: 95 % t interval over seeds; ``None`` for one seed.
        seeds: Number of seeds.
        rule: One of :data:`RULES`.
        margin: Of the rule.
        verdict: ``'supported'``, ``'refuted'`` or ``'undecided'``.
    """

    text: str
    data: str
    difference: float
    images: tuple[float, float]
    by_seed: tuple[float, float] | None
    seeds: int
    rule: str
    margin: float
    verdict: str


def verdict(low: float, high: float, rule: str, margin: float = 0.0) -> str:
    """Return what the interval of a difference says about a statement.

    >>> verdict(0.5, 2.0, "above"), verdict(-1.0, 1.5, "equal", 2.0), verdict(-3.0, 1.0, "at least", 2.0)
    ('supported', 'supported', 'undecided')

    Args:
        low: Lower end.
        high: Upper end.
        rule: One of :data:`RULES`.
        margin: Largest difference that does not matter.

    Raises:
        ValueError: If the rule is unknown or the margin negative.
    """
    choice("rule", rule, tuple(RULES))
    number("margin", margin, at_least=0)
    if rule == "equal":
        if -margin <= low and high <= margin:
            return "supported"
        return "refuted" if low > margin or high < -margin else "undecided"
    limit = -margin if rule == "at least" else margin
    if low > limit:
        return "supported"
    return "refuted" if high < limit else "undecided"


def unit_sums(values: Any, unit: Any) -> FloatArray:
    """Return the sums of the elements of each unit, (U, *).

    >>> unit_sums([1.0, 2.0, 4.0], unit=[0, 1, 1])
    array([1., 6.])

    Args:
        values: One row per element, (N, *).
        unit: Number of the unit of each element, ascending without gaps, (N,).
    """
    values, unit = np.asarray(values, dtype=np.float64), np.asarray(unit)
    starts = np.flatnonzero(np.r_[True, np.diff(unit) > 0])
    return np.add.reduceat(values, starts, axis=0)


def resampled(sums: Sequence[FloatArray], seed: int = 0, resamples: int = _RESAMPLES) -> list[FloatArray]:
    """Return the total of all units, and then of resampled units, (1 + R, *), for each of several sums.

    >>> resampled([np.ones((4, 2))], resamples=3)[0].tolist()
    [[4.0, 4.0], [4.0, 4.0], [4.0, 4.0], [4.0, 4.0]]

    Args:
        sums: Sums of the same units, (U, *) each.
        seed: Of the draw.
        resamples: R.
    """
    whole_number("resamples", resamples, at_least=1)
    weights = _weights(len(sums[0]), seed, resamples)
    return [(weights @ values.reshape(len(values), -1)).reshape(-1, *values.shape[1:]) for values in sums]


@lru_cache(maxsize=4)
def _weights(units: int, seed: int, resamples: int) -> FloatArray:
    """Return how often each unit counts: once, then as often as each resample drew it, (1 + R, U)."""
    drawn = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=resamples)
    return np.concatenate([np.ones((1, units)), drawn])


def statement(
    text: str,
    data: str,
    first: Sequence[FloatArray],
    second: Sequence[FloatArray],
    rule: str = "above",
    margin: float = 0.0,
) -> Statement:
    """Return what paired scores say about a statement on their difference.

    The wider of the two intervals decides: over resampled units, and over seeds if there are several.

    >>> scores = [np.array([90.0, 89.0, 91.0]), np.array([91.0, 90.0, 92.0])]
    >>> found = statement("a is better", "digits", scores, [score - 5 for score in scores])
    >>> found.difference, found.images, found.verdict
    (5.0, (5.0, 5.0), 'supported')

    Args:
        text: The statement.
        data: Data set and stage.
        first: Scores of each seed: of all units, then of resampled units, (1 + R,).
        second: The same of what it is compared with.
        rule: One of :data:`RULES`.
        margin: Largest difference that does not matter.
    """
    differences = np.stack([a - b for a, b in zip(first, second, strict=True)])
    low, high = np.nanquantile(differences.mean(0)[1:], [0.025, 0.975])
    images = (float(low), float(high))
    by_seed = None
    if len(differences) > 1:
        found = seed_interval([float(a[0]) for a in first], [float(b[0]) for b in second])
        if found.low is not None and found.high is not None:
            by_seed = (found.low, found.high)
    wide = [images] if by_seed is None else [images, by_seed]
    says = verdict(min(ends[0] for ends in wide), max(ends[1] for ends in wide), rule, margin)
    mean = float(differences[:, 0].mean())
    return Statement(text, data, mean, images, by_seed, len(differences), rule, margin, says)


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the standard deviation of the values of several seeds; ``None`` for one seed.

    >>> spread([1.0, 3.0]), spread([2.0])
    ((2.0, 1.4142135623730951), (2.0, None))
    """
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
