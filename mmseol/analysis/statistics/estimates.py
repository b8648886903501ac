r"""What outputs estimate: probabilities, their reliability, class means against labels, gradients by output.

Outputs trained on squared errors with the targets :math:`v_k` estimate :math:`v_k P(k \mid x)`, those of a
softmax loss :math:`\log P(k \mid x)` up to a constant. Labels have no ignored elements.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax

from mmseol.utils.arrays import FloatArray
from mmseol.utils.checks import whole_number

__all__ = [
    "Reliability",
    "brier_scores",
    "class_means",
    "distance_to_labels",
    "fitted_targets",
    "gradient_mass",
    "output_gradients",
    "prior_weights",
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
        number: Number of elements, or the sum of their weights.
    """

    estimate: FloatArray
    frequency: FloatArray
    number: FloatArray

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


def prior_weights(truth: ArrayLike, counts: ArrayLike) -> FloatArray:
    r"""Return the weight of each element that gives the classes the frequencies of the training data, (N,).

    Outputs estimate the probabilities of the training data. A balanced test split therefore judges them only
    with the weights :math:`\pi_y / \hat\pi_y`, whose mean is 1. Classes that are absent from ``truth`` are
    left out.

    >>> prior_weights([0, 0, 1, 1], counts=[30, 10])
    array([1.5, 1.5, 0.5, 0.5])

    Args:
        truth: Labels, (N,).
        counts: Training samples of each class, (K,).
    """
    counts = np.asarray(counts, dtype=np.float64)
    own = _one_hot(truth, (len(np.asarray(truth)), len(counts)))
    weights = own @ np.divide(counts, own.sum(0), out=np.zeros(len(counts)), where=own.sum(0) > 0)
    return weights / weights.mean()


def _element_weights(weights: ArrayLike | None, number: int) -> FloatArray:
    values = np.ones(number) if weights is None else np.asarray(weights, dtype=np.float64)
    if values.shape != (number,) or not (values >= 0).all() or not values.sum():
        raise ValueError(
            f"`weights` must be {number} numbers of at least 0 that are not all 0, got shape {values.shape}."
        )
    return values


def reliability(
    estimates: ArrayLike, truth: ArrayLike, bins: int = 10, weights: ArrayLike | None = None
) -> Reliability:
    """Return the reliability of each class's estimates, in bins of equally many elements.

    >>> reliability([[0.9, 0.1], [0.2, 0.8]], [0, 1], bins=1).frequency
    array([[0.5],
           [0.5]])

    Args:
        estimates: Estimated probabilities, (N, K).
        truth: Labels, (N,).
        bins: Number of bins, at most N.
        weights: Weight of each element in the means, (N,), as of :func:`prior_weights`.

    Raises:
        ValueError: If an argument is invalid.
    """
    estimates = np.asarray(estimates, dtype=np.float64)
    own = _one_hot(truth, estimates.shape)
    whole_number("bins", bins, at_least=1, at_most=len(estimates))
    factors = np.broadcast_to(_element_weights(weights, len(estimates))[:, None], estimates.shape)
    order = np.argsort(estimates, axis=0, kind="stable")
    parts = np.array_split(np.arange(len(estimates)), bins)
    columns = [
        np.take_along_axis(values, order, 0).T for values in (factors, factors * estimates, factors * own)
    ]
    sums = [np.stack([column[:, part].sum(1) for part in parts], axis=1) for column in columns]
    size = np.where(sums[0] > 0, sums[0], 1)
    return Reliability(sums[1] / size, sums[2] / size, sums[0])


def brier_scores(estimates: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None) -> FloatArray:
    """Return the Brier score of each class's estimates, the mean squared distance to 0 or 1, (K,).

    Their sum is the Brier score of the whole estimate (Brier, 1950).

    >>> brier_scores([[0.9, 0.1], [0.5, 0.5]], [0, 1]).round(3)
    array([0.13, 0.13])

    Args:
        estimates: Estimated probabilities, (N, K).
        truth: Labels, (N,).
        weights: As of :func:`reliability`.
    """
    estimates = np.asarray(estimates, dtype=np.float64)
    errors = (estimates - _one_hot(truth, estimates.shape)) ** 2
    return np.average(errors, axis=0, weights=_element_weights(weights, len(estimates)))


def fitted_targets(outputs: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None) -> FloatArray:
    r"""Return the divisor of each output that gives the estimate with the least Brier score, (K,).

    If :math:`a_k = v_k P(k \mid x)`, it is the target :math:`v_k`.

    >>> fitted_targets([[2.0, 0.0], [0.0, 4.0], [0.0, 4.0]], [0, 1, 1])
    array([2., 4.])

    Args:
        outputs: Raw outputs, (N, K).
        truth: Labels, (N,).
        weights: As of :func:`reliability`.
    """
    outputs = np.asarray(outputs, dtype=np.float64)
    own = _one_hot(truth, outputs.shape)
    factors = _element_weights(weights, len(outputs))[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        return (factors * outputs**2).sum(0) / (factors * outputs * own).sum(0)


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


def output_gradients(outputs: ArrayLike, truth: ArrayLike, targets: ArrayLike | None = None) -> FloatArray:
    r"""Return the gradient of the loss of each element on the outputs, (N, K).

    It is :math:`a - v_y e_y` for squared errors and :math:`\mathrm{softmax}(a) - e_y` for cross entropy.

    >>> output_gradients([[0.9, 0.1], [0.5, 0.5]], [0, 1], targets=[1, 2]).round(3)
    array([[-0.1,  0.1],
           [ 0.5, -1.5]])

    Args:
        outputs: Raw outputs, (N, K).
        truth: Labels, (N,).
        targets: As of :func:`probabilities`.
    """
    outputs = np.asarray(outputs, dtype=np.float64)
    own = _one_hot(truth, outputs.shape)
    if targets is None:
        return softmax(outputs, axis=1) - own
    return outputs - own * _targets(targets, outputs)


def gradient_mass(outputs: ArrayLike, truth: ArrayLike, targets: ArrayLike | None = None) -> FloatArray:
    r"""Return the mean size of :func:`output_gradients` for the elements of each class, (K, K).

    One class of elements per row, one output per column (Figure 2 of arXiv 2107.02393).

    >>> gradient_mass([[0.9, 0.1], [0.5, 0.5]], [0, 1], targets=[1, 2])
    array([[0.1, 0.1],
           [0.5, 1.5]])

    Args:
        outputs: As of :func:`output_gradients`; so are the other arguments.
    """
    return class_means(np.abs(output_gradients(outputs, truth, targets)), truth)
