"""Samplers for classification."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from mmseol.counting.items import class_names, single_labels
from mmseol.registry import DATA_SAMPLERS
from mmseol.samplers.base import EpochSampler, cycle, draw_by_class
from mmseol.utils.arrays import FloatArray, IntArray
from mmseol.utils.checks import number, whole_number

__all__ = ["ClassAwareSampler", "OverSampler", "ProgressivelyBalancedSampler", "UnderSampler"]


def _positions(dataset: Any, user: str) -> list[IntArray]:
    """Return the positions of the items of each class, K arrays."""
    labels = single_labels(dataset, user)
    return [np.flatnonzero(labels == c) for c in range(len(class_names(dataset)))]


@DATA_SAMPLERS.register_module()
class ClassAwareSampler(EpochSampler):
    r"""Draw a class with :math:`p_j = n_j^q / \sum_i n_i^q`, then one of its images; classification.

    Kang et al. (Decoupling, ICLR 2020, eq. 1): ``power=0`` takes every class alike (class-balanced, Shen et
    al., ECCV 2016), ``0.5`` is square-root sampling, ``1`` takes every image alike. Within an epoch the
    images of a class come up in turn. Classes without images are never drawn.

    >>> ClassAwareSampler(dataset, seed=0).expected_counts()  # of seven cats and three dogs
    array([5., 5.])

    Args:
        dataset: Data set with one class per image; a config leaves it out.
        power: q, at least 0.
        num_samples: Items of an epoch over all ranks; ``None``: as many as the data set has.
        seed: Seed of the draws, the same on every rank; ``None``: rank 0 draws one.

    Raises:
        TypeError: If the data set has no class labels.
        ValueError: If an argument is out of range.
    """

    def __init__(
        self, dataset: Any, power: float = 0.0, num_samples: int | None = None, seed: int | None = None
    ) -> None:
        self.power = number("power", power, at_least=0)
        super().__init__(dataset, len(dataset) if num_samples is None else num_samples, seed)
        self.by_class = _positions(dataset, type(self).__name__)
        self.class_counts = np.array([len(positions) for positions in self.by_class])

    def probabilities(self, epoch: int | None = None) -> FloatArray:
        """Return the probability of each class in an epoch, (K,)."""
        return _power_law(self.class_counts, self.power)

    def expected_counts(self, epoch: int | None = None) -> FloatArray:
        """Return how many items of an epoch over all ranks are of each class, on average, (K,)."""
        return self.total_size * self.probabilities(epoch)

    def _draw(self, rng: np.random.Generator) -> IntArray:
        return draw_by_class(rng, self.by_class, self.probabilities(), self.total_size)


def _power_law(counts: IntArray, power: float) -> FloatArray:
    weights = np.where(counts > 0, (counts / counts.max()) ** power, 0.0)
    return weights / weights.sum()


@DATA_SAMPLERS.register_module()
class ProgressivelyBalancedSampler(ClassAwareSampler):
    r"""Draw every image alike at first, and every class alike at the end; classification.

    :math:`p_j^{PB}(t) = (1 - t/T) \, p_j^{IB} + (t/T) \, p_j^{CB}` (Kang et al., ICLR 2020, eq. 2), with
    epoch t of T; after T it stays class-balanced.

    >>> sampler = ProgressivelyBalancedSampler(dataset, max_epochs=10, seed=0)
    >>> sampler.expected_counts(epoch=0), sampler.expected_counts(epoch=10)
    (array([7., 3.]), array([5., 5.]))

    Args:
        dataset: As in :class:`ClassAwareSampler`; so are ``num_samples`` and ``seed``.
        max_epochs: T, the epochs of training, at least 1.

    Raises:
        TypeError: If the data set has no class labels.
        ValueError: If an argument is out of range.
    """

    def __init__(
        self, dataset: Any, max_epochs: int, num_samples: int | None = None, seed: int | None = None
    ) -> None:
        self.max_epochs = whole_number("max_epochs", max_epochs, at_least=1)
        super().__init__(dataset, 0.0, num_samples, seed)

    def probabilities(self, epoch: int | None = None) -> FloatArray:
        """Return the probability of each class in an epoch, (K,)."""
        t = min((self.epoch if epoch is None else epoch) / self.max_epochs, 1.0)
        return (1 - t) * _power_law(self.class_counts, 1.0) + t * _power_law(self.class_counts, 0.0)


class _EqualSampler(EpochSampler):
    """Draw the same number of images of each class that has any, in a new order every epoch."""

    def __init__(self, dataset: Any, seed: int | None = None) -> None:
        self.by_class = _positions(dataset, type(self).__name__)
        self.class_counts = np.array([len(positions) for positions in self.by_class])
        self.present = self.class_counts > 0
        self.per_class = self._per_class(self.class_counts[self.present])
        super().__init__(dataset, self.per_class * int(self.present.sum()), seed)

    @abstractmethod
    def _per_class(self, counts: IntArray) -> int:
        """Return how many images of each class an epoch holds."""

    def expected_counts(self, epoch: int | None = None) -> FloatArray:
        """Return how many items of an epoch over all ranks are of each class, on average, (K,)."""
        return self.total_size * self.present / self.present.sum()

    def _draw(self, rng: np.random.Generator) -> IntArray:
        drawn = [cycle(rng, positions, self.per_class) for positions in self.by_class if len(positions)]
        order = rng.permutation(np.concatenate(drawn))
        return np.resize(order, self.total_size)  # repeats the first ones to fill the last round of ranks


@DATA_SAMPLERS.register_module()
class UnderSampler(_EqualSampler):
    """Take as many images of each class as the rarest has, other ones every epoch; classification.

    Classes without images are left out.

    >>> len(UnderSampler(dataset, seed=0))  # three cats and three dogs
    6

    Args:
        dataset: As in :class:`ClassAwareSampler`; so is ``seed``.

    Raises:
        TypeError: If the data set has no class labels.
    """

    def _per_class(self, counts: IntArray) -> int:
        return int(counts.min())


@DATA_SAMPLERS.register_module()
class OverSampler(_EqualSampler):
    """Take every image, and repeat those of rarer classes up to the size of the largest; classification.

    Within an epoch, the repetitions of two images of a class differ by at most one. Classes without images
    are left out.

    >>> len(OverSampler(dataset, seed=0))  # seven cats and three dogs, repeated to seven
    14

    Args:
        dataset: As in :class:`ClassAwareSampler`; so is ``seed``.

    Raises:
        TypeError: If the data set has no class labels.
    """

    def _per_class(self, counts: IntArray) -> int:
        return int(counts.max())
