"""Seed, epoch, rank and length of a sampler, and drawing by class."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from mmseol.utils.arrays import FloatArray, IntArray
from mmseol.utils.checks import KnownArguments, whole_number

__all__ = ["EpochSampler", "SkippingSampler", "cycle", "draw_by_class"]


class SkippingSampler(KnownArguments, Sampler):
    """A sampler of one epoch after another, which can begin at any item of them.

    >>> class InOrder(SkippingSampler):
    ...     def _order(self):
    ...         return range(4)
    ...     def __len__(self):
    ...         return 4
    >>> sampler = InOrder()
    >>> sampler.skip(6)
    >>> list(sampler), list(sampler), sampler.epoch
    ([2, 3], [0, 1, 2, 3], 1)
    """

    kind = "sampler"
    epoch = 0
    _first_epoch = 0
    _skipped = 0

    @abstractmethod
    def _order(self) -> Iterable[int]:
        """Return the items of this rank in the current epoch."""

    @abstractmethod
    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[int]:
        skipped, self._skipped = self._skipped, 0
        return islice(iter(self._order()), skipped, None)

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration draw this epoch, counted from the one that ``skip`` began in."""
        self.epoch = self._first_epoch + epoch

    def skip(self, num_samples: int) -> None:
        """Begin after so many items of this rank, counted from the first epoch on, without drawing them.

        mmengine calls it (from 0.10.12 on) when an iteration-based run is resumed, with iterations x batch
        size. If the last batch of an epoch is smaller, that is too many; ``ExactResumeHook`` is exact.

        Raises:
            ValueError: If ``num_samples`` is negative.
        """
        whole_number("num_samples", num_samples, at_least=0)
        self._first_epoch, self._skipped = divmod(num_samples, len(self))
        self.set_epoch(0)


class EpochSampler(SkippingSampler):
    """The base of the samplers: seed, epoch, rank and length. A subclass draws the order of an epoch.

    >>> class Shuffle(EpochSampler):
    ...     def _draw(self, rng):
    ...         return rng.permutation(self.total_size)
    ...     def expected_counts(self, epoch=None):
    ...         return np.array([7.0, 3.0])
    >>> sorted(Shuffle(dataset, draws=10, seed=0)) == list(range(10))
    True

    Args:
        dataset: Data set, initialised.
        draws: Items of an epoch over all ranks; rounded up to a multiple of the ranks.
        seed: The same on every rank; ``None``: rank 0 draws one.
    """

    def __init__(self, dataset: Any, draws: int, seed: int | None) -> None:
        whole_number("num_samples", draws, at_least=1)
        self.dataset = dataset
        self.rank, self.world_size = get_dist_info()
        self.seed: int = sync_random_seed() if seed is None else seed
        self.num_samples = math.ceil(draws / self.world_size)
        self.total_size = self.num_samples * self.world_size

    @abstractmethod
    def _draw(self, rng: np.random.Generator) -> IntArray:
        """Return the positions of an epoch over all ranks, shuffled, (total_size,)."""

    @abstractmethod
    def expected_counts(self, epoch: int | None = None) -> FloatArray:
        """Return how many items of an epoch over all ranks contain each class, on average, (K,).

        Args:
            epoch: ``None``: the current one.
        """

    def _order(self) -> list[int]:
        positions = self._draw(np.random.default_rng([self.seed, self.epoch]))
        return positions[self.rank :: self.world_size].tolist()

    def __len__(self) -> int:
        return self.num_samples


def cycle(rng: np.random.Generator, positions: IntArray, number: int) -> IntArray:
    """Return ``number`` of the positions; how often each occurs differs by at most one.

    >>> sorted(cycle(np.random.default_rng(0), np.array([4, 5]), 4).tolist())
    [4, 4, 5, 5]
    """
    rounds = math.ceil(number / len(positions)) if number else 0
    return np.concatenate([positions[:0], *(rng.permutation(positions) for _ in range(rounds))])[:number]


def draw_by_class(
    rng: np.random.Generator, by_class: Sequence[IntArray], probabilities: FloatArray, number: int
) -> IntArray:
    """Draw a class ``number`` times, and each time the next one of its positions in a random order.

    >>> by_class = [np.array([0, 1, 2]), np.array([3])]
    >>> draw_by_class(np.random.default_rng(0), by_class, np.array([0.0, 1.0]), number=2)
    array([3, 3])
    """
    times = rng.multinomial(number, probabilities)
    drawn = [cycle(rng, positions, n) for positions, n in zip(by_class, times, strict=True)]
    return rng.permutation(np.concatenate(drawn))
