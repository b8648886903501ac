"""Comparison of two losses on the same seeds and the same images: intervals of the difference of a score.

Two sources of chance are kept apart. Resampled images say how far the difference may be due to the images of
the split, for these trained networks. Seeds say how far it may be due to initialisation and data order.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats

from mmseol.metrics.scores import mean_scores, score_tallies
from mmseol.utils.arrays import FloatArray, IntArray
from mmseol.utils.checks import number, whole_number

__all__ = [
    "Predictions",
    "SeedInterval",
    "image_interval",
    "load_predictions",
    "resampled_scores",
    "seed_interval",
]

_BATCH = 4_000_000  # weights of images held at a time


@dataclass(frozen=True, eq=False)
class Predictions:
    """What one run predicted on each image of a split.

    >>> predictions = Predictions.of_labels(label=[0, 1, 1], truth=[0, 0, 1], num_classes=2)
    >>> round(float(predictions.scores()["accuracy"]), 2)
    66.67

    Attributes:
        tallies: Elements of each image that are right, predicted, in the truth: (images, 3 K).
        truth: What must be equal where images are: labels (images,), or pixels of each class (images, K).
        num_classes: K.
    """

    tallies: Any
    truth: IntArray
    num_classes: int

    @classmethod
    def of_labels(cls, label: Any, truth: Any, num_classes: int) -> Predictions:
        """Return the predictions of a classifier.

        Raises:
            ValueError: If labels are not whole numbers of one dimension within 0..K-1.
        """
        label, truth = (
            _labels(name, value, num_classes) for name, value in (("label", label), ("truth", truth))
        )
        if label.shape != truth.shape:
            raise ValueError(f"`label` must be of shape {truth.shape} as `truth`, got {label.shape}.")
        images = np.arange(len(truth))
        hit = label == truth
        rows = np.concatenate([images[hit], images, images])
        columns = np.concatenate([truth[hit], num_classes + label, 2 * num_classes + truth])
        ones = np.ones(len(rows))
        shape = (len(truth), 3 * num_classes)
        return cls(sparse.csr_matrix((ones, (rows, columns)), shape=shape), truth, num_classes)

    @classmethod
    def of_tallies(cls, tallies: Any, num_classes: int) -> Predictions:
        """Return the predictions of a segmentation model: pixels right, predicted, in the truth.

        Raises:
            ValueError: If ``tallies`` are not whole numbers of shape (images, K, 3) with right pixels of at
                most the predicted and the true ones.
        """
        array = np.asarray(tallies)
        if array.dtype.kind not in "iu" or array.ndim != 3 or array.shape[1:] != (num_classes, 3):
            raise ValueError(
                f"`tallies` must be whole numbers of shape (images, {num_classes}, 3), got {array.dtype} of "
                f"shape {array.shape}."
            )
        if (array < 0).any() or (array[..., :1] > array[..., 1:]).any():
            raise ValueError("`tallies` must hold right pixels of at most the predicted and the true ones.")
        flat = array.transpose(0, 2, 1).reshape(len(array), -1)
        return cls(flat.astype(np.float64), array[..., 2].astype(np.int64), num_classes)

    def scores(self, weights: FloatArray | None = None) -> dict[str, FloatArray]:
        """Return the scores in per cent.

        Args:
            weights: Number of times that each image counts, (R, images); ``None`` counts each once.

        Returns:
            The means of :func:`mmseol.metrics.scores.summarize` over all classes, of shape (R,) or ().
        """
        weights = np.ones(len(self.truth)) if weights is None else weights
        sums = np.rint((self.tallies.T @ weights.T).T).astype(np.int64)
        hits, predicted, truth = np.split(sums, 3, axis=-1)
        return {
            name: 100 * values for name, values in mean_scores(score_tallies(hits, truth, predicted)).items()
        }


def _labels(name: str, value: Any, num_classes: int) -> IntArray:
    array = np.asarray(value)
    if array.dtype.kind not in "iu" or array.ndim != 1 or not array.size:
        raise ValueError(
            f"`{name}` must be whole numbers of shape (N,), got {array.dtype} of shape {array.shape}."
        )
    if array.min() < 0 or array.max() >= num_classes:
        wrong = array[(array < 0) | (array >= num_classes)][0]
        raise ValueError(f"`{name}` must lie within 0..{num_classes - 1}, got {wrong}.")
    return array.astype(np.int64)


def load_predictions(path: str | Path, num_classes: int) -> Predictions:
    """Return the predictions of a file, with ``label`` and ``truth`` (N,) or ``tallies`` (images, K, 3).

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "predictions.npz"
    >>> np.savez(path, label=[0, 1], truth=[0, 0])
    >>> load_predictions(path, num_classes=2).truth
    array([0, 0])

    Raises:
        ValueError: If the file holds something else; nothing in it is unpickled.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{str(path)!r} must be a file of predictions (.npz): {error}") from error
    try:
        if arrays.keys() >= {"label", "truth"}:
            return Predictions.of_labels(arrays["label"], arrays["truth"], num_classes)
        if "tallies" in arrays:
            return Predictions.of_tallies(arrays["tallies"], num_classes)
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: {error}") from error
    raise ValueError(
        f"{str(path)!r} must hold `label` and `truth`, or `tallies`, got {', '.join(arrays) or 'nothing'}."
    )


def resampled_scores(
    runs: Sequence[Predictions], resamples: int = 2000, seed: int = 0
) -> list[dict[str, FloatArray]]:
    """Return the scores of each run on resampled images, (resamples,) each; all runs see the same resamples.

    A resample draws as many images as there are, with replacement.

    >>> run = Predictions.of_labels(label=[0, 1, 1], truth=[0, 0, 1], num_classes=2)
    >>> resampled_scores([run], resamples=3)[0]["accuracy"].shape
    (3,)

    Args:
        runs: Predictions on the same images in the same order.
        seed: Seed of the draw.

    Raises:
        ValueError: If the images differ.
    """
    whole_number("resamples", resamples, at_least=1)
    for run in runs[1:]:
        if not np.array_equal(run.truth, runs[0].truth):
            raise ValueError("`runs` must be predictions on the same images in the same order.")
    parts: list[list[dict[str, FloatArray]]] = [[] for _ in runs]
    for weights in _weights(len(runs[0].truth), resamples, np.random.default_rng(seed)):
        for run, own in zip(runs, parts, strict=True):
            own.append(run.scores(weights))
    return [{name: np.concatenate([part[name] for part in own]) for name in own[0]} for own in parts]


def _weights(images: int, resamples: int, rng: np.random.Generator) -> Iterator[FloatArray]:
    """Yield how often each image was drawn, in batches of shape (resamples of the batch, images)."""
    at_once = max(1, _BATCH // images)
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = rng.integers(images, size=(rows, images)) + images * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * images)
        yield counts.reshape(rows, images).astype(np.float64)


def image_interval(
    first: Sequence[NDArray[Any]], second: Sequence[NDArray[Any]], level: float = 0.95
) -> tuple[float, float]:
    """Return the percentile interval of the difference first - second, averaged over seeds.

    >>> scores = [np.linspace(40, 41, 101)]
    >>> low, high = image_interval(scores, [np.full(101, 30.0)])
    >>> round(low, 3), round(high, 3)
    (10.025, 10.975)

    Args:
        first: One score of :func:`resampled_scores` for each seed, (resamples,) each.
        second: The same of the other loss, for the same seeds and resamples.
        level: Fraction of the resampled differences within the interval.
    """
    number("level", level, above=0, below=1)
    differences = np.mean([a - b for a, b in zip(first, second, strict=True)], axis=0)
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


class SeedInterval(NamedTuple):
    """Mean difference over seeds, and its t interval.

    >>> SeedInterval(2, 1.0, -5.4, 7.4, 0.3).seeds
    2

    Attributes:
        seeds: Number of pairs.
        difference: Mean of the differences.
        low: Lower end; ``None`` for a single seed.
        high: Upper end.
        p: Two-sided p value of the paired t test; ``None`` for one seed or equal differences.
    """

    seeds: int
    difference: float
    low: float | None
    high: float | None
    p: float | None


def seed_interval(first: Sequence[float], second: Sequence[float], level: float = 0.95) -> SeedInterval:
    """Return the paired t interval of the difference first - second over seeds.

    With three seeds the interval is 4.3 standard errors wide to each side, with two 12.7. No rank test is
    given: with fewer than six pairs it cannot reach p < 0.05.

    >>> result = seed_interval([41.0, 42.0, 44.0], [40.0, 40.0, 41.0])
    >>> result.seeds, result.difference, round(result.low, 2), round(result.high, 2)
    (3, 2.0, -0.48, 4.48)

    Args:
        first: Score of each seed.
        second: Score of the other loss, for the same seeds.
        level: Confidence.

    Raises:
        ValueError: If the numbers of seeds differ, or there is none.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(
            f"`first` and `second` must have a score for each seed, got {len(first)} and {len(second)}."
        )
    number("level", level, above=0, below=1)
    differences = np.subtract(first, second, dtype=np.float64)
    mean = float(differences.mean())
    if len(differences) == 1:
        return SeedInterval(1, mean, None, None, None)
    if np.ptp(differences) == 0:
        return SeedInterval(len(differences), mean, mean, mean, None)
    test = stats.ttest_rel(first, second)
    low, high = test.confidence_interval(level)
    return SeedInterval(len(differences), mean, float(low), float(high), float(test.pvalue))
