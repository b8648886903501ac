r"""What outputs estimate: probabilities, their reliability, class means against labels, gradients by output.

Outputs trained on squared errors with the targets :math:`v_k` estimate :math:`v_k P(k \mid x)`, those of a
softmax loss :math:`\log P(k \mid x)` up to a constant. Labels have no ignored elements.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax

from mmseol.utils.arrays import FloatArray, IntArray
from mmseol.utils.checks import whole_number

__all__ = [
    "Reliability",
    "brier_scores",
    "class_means",
    "distance_to_labels",
    "gradient_mass",
    "probabilities",
    "reliability",
]


@dataclass(frozen=True)
class Reliability:
    """Estimates against frequencies in bins of equally many elements; every array has shape (K, bins).

    >>> found = reliability([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.1, 0.9]], [0, 0, 1, 1], bins=2)
    >>> found.estimate[0], found.frequency[0], found.error().round(3)
    (array([0.15, 0.8 ]), array([0., 1.]), array([0.175, 0.175]))

    Attributes:
        estimate: Mean estimate of the probability of the class.
        frequency: Fraction of the elements that are of the class.
        number: Number of elements.
    """

    estimate: FloatArray
    frequency: FloatArray
    number: IntArray

    def error(self) -> FloatArray:
        """Return the expected calibration error of each class, (K,): the mean distance over elements."""
        distance = np.abs(self.estimate - self.frequency) * self.number
        return distance.sum(1) / self.number.sum(1)


def probabilities(outputs: ArrayLike, targets: ArrayLike | None = None) -> FloatArray:
    r"""Return the estimates of :math:`P(k \mid x)`: :math:`a_k / v_k`, or the softmax, (N, K).

    Estimates :math:`a_k / v_k` need not lie within 0..1 nor sum to 1.

    >>> probabilities([[0.9, 0.4], [0.2, 1.8]], targets=[1, 2])
    array([[0.9, 0.2],
           [0.2, 0.9]])

    Args:
        outputs: Raw outputs, (N, K).
        targets: Target :math:`v_k` of each class for squared errors, (K,); ``None`` for softmax losses.

    Raises:
        ValueError: If the shapes do not fit.
    """
    outputs = np.asarray(outputs, dtype=np.float64)
    if targets is None:
        return softmax(outputs, axis=1)
    return outputs / _targets(targets, outputs)


def _targets(targets: ArrayLike, outputs: FloatArray) -> FloatArray:
    values = np.asarray(targets, dtype=np.float64)
    if outputs.ndim != 2 or values.shape != outputs.shape[1:]:
        raise ValueError(
            f"`targets` must be one number for each class of outputs (N, K), got shape {values.shape} for "
            f"{outputs.shape}."
        )
    return values


def _one_hot(truth: ArrayLike, shape: tuple[int, ...]) -> FloatArray:
    labels = np.asarray(truth)
    if labels.shape != shape[:1] or labels.size == 0 or labels.min() < 0 or labels.max() >= shape[1]:
        raise ValueError(
            f"`truth` must be classes 0 to {shape[1] - 1} of shape {shape[:1]}, got shape {labels.shape}."
        )
    return np.eye(shape[1])[labels]


def reliability(estimates: ArrayLike, truth: ArrayLike, bins: int = 10) -> Reliability:
    """Return the reliability of each class's estimates, in bins of equally many elements.

    >>> reliability([[0.9, 0.1], [0.2, 0.8]], [0, 1], bins=1).frequency
    array([[0.5],
           [0.5]])

    Args:
        estimates: Estimated probabilities, (N, K).
        truth: Labels, (N,).
        bins: Number of bins, at most N.

    Raises:
        ValueError: If an argument is invalid.
    """
    estimates = np.asarray(estimates, dtype=np.float64)
    own = _one_hot(truth, estimates.shape)
    whole_number("bins", bins, at_least=1, at_most=len(estimates))
    order = np.argsort(estimates, axis=0, kind="stable")
    parts = np.array_split(np.arange(len(estimates)), bins)
    columns = [np.take_along_axis(values, order, 0).T for values in (estimates, own)]
    means = [np.stack([column[:, part].mean(1) for part in parts], axis=1) for column in columns]
    number = np.tile([len(part) for part in parts], (estimates.shape[1], 1))
    return Reliability(means[0], means[1], number)


def brier_scores(estimates: ArrayLike, truth: ArrayLike) -> FloatArray:
    """Return the Brier score of each class's estimates, the mean squared distance to 0 or 1, (K,).

    Their sum is the Brier score of the whole estimate (Brier, 1950).

    >>> brier_scores([[0.9, 0.1], [0.5, 0.5]], [0, 1]).round(3)
    array([0.13, 0.13])
    """
    estimates = np.asarray(estimates, dtype=np.float64)
    return ((estimates - _one_hot(truth, estimates.shape)) ** 2).mean(0)


def class_means(outputs: ArrayLike, truth: ArrayLike) -> FloatArray:
    """Return the mean outputs of the elements of each class, (K, K), one class per row; NaN without any.

    >>> class_means([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8]], [0, 0, 1])
    array([[0.8, 0.2],
           [0.2, 0.8]])
    """
    outputs = np.asarray(outputs, dtype=np.float64)
    own = _one_hot(truth, outputs.shape)
    number = own.sum(0)[:, None]
    return np.divide(own.T @ outputs, number, out=np.full(own.shape[1:] * 2, np.nan), where=number > 0)


def distance_to_labels(means: ArrayLike, targets: ArrayLike) -> FloatArray:
    r"""Return how far the mean of each class lies from its label, in units of its target, (K,).

    :math:`\lVert \bar a_c - v_c e_c \rVert / v_c`: 0 where Figure 4 of arXiv 2107.02393 is right, and about 1
    for a class that is never told apart.

    >>> distance_to_labels([[0.8, 0.2], [1.0, 0.0]], targets=[1, 2]).round(3)
    array([0.283, 1.118])
    """
    means = np.asarray(means, dtype=np.float64)
    values = _targets(targets, means)
    return np.linalg.norm(means - np.diag(values), axis=1) / values


def gradient_mass(outputs: ArrayLike, truth: ArrayLike, targets: ArrayLike | None = None) -> FloatArray:
    r"""Return the mean size of the gradient on each output for the elements of each class, (K, K).

    The gradient is :math:`a - v_y e_y` for squared errors and :math:`\mathrm{softmax}(a) - e_y` for cross
    entropy; one class of elements per row, one output per column (Figure 2 of arXiv 2107.02393).

    >>> gradient_mass([[0.9, 0.1], [0.5, 0.5]], [0, 1], targets=[1, 2])
    array([[0.1, 0.1],
           [0.5, 1.5]])

    Args:
        outputs: Raw outputs, (N, K).
        truth: Labels, (N,).
        targets: As of :func:`probabilities`.
    """
    outputs = np.asarray(outputs, dtype=np.float64)
    own = _one_hot(truth, outputs.shape)
    if targets is None:
        return class_means(np.abs(softmax(outputs, axis=1) - own), truth)
    return class_means(np.abs(outputs - own * _targets(targets, outputs)), truth)
