"""Seed, epoch, rank and length of a sampler, and drawing by class."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from mmseol.utils.arrays import FloatArray, IntArray

__all__ = ["EpochSampler", "cycle", "draw_by_class"]


class EpochSampler(Sampler):
    """What all samplers share: seed, epoch, rank and length.

    Args:
        dataset: The data set, initialised.
        draws: Items of an epoch over all ranks; rounded up to a multiple of the ranks.
        seed: Alike on every rank; ``None``: rank 0 draws one.
    """

    def __init__(self, dataset: Any, draws: int, seed: int | None) -> None:
        if isinstance(draws, bool) or not isinstance(draws, (int, np.integer)) or draws < 1:
            raise ValueError(f"`num_samples` must be a whole number of at least 1, got {draws!r}.")
        self.dataset = dataset
        self.rank, self.world_size = get_dist_info()
        self.seed: int = sync_random_seed() if seed is None else seed
        self.epoch = 0
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

    def __iter__(self) -> Iterator[int]:
        positions = self._draw(np.random.default_rng([self.seed, self.epoch]))
        return iter(positions[self.rank :: self.world_size].tolist())

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration draw the order of this epoch."""
        self.epoch = epoch


def cycle(rng: np.random.Generator, positions: IntArray, number: int) -> IntArray:
    """Return ``number`` of the positions, each as often as the others or once more."""
    rounds = math.ceil(number / len(positions)) if number else 0
    return np.concatenate([positions[:0], *(rng.permutation(positions) for _ in range(rounds))])[:number]


def draw_by_class(
    rng: np.random.Generator, by_class: Sequence[IntArray], probabilities: FloatArray, number: int
) -> IntArray:
    """Draw a class ``number`` times, then one of its positions each time, running through all of them."""
    times = rng.multinomial(number, probabilities)
    drawn = [cycle(rng, positions, n) for positions, n in zip(by_class, times, strict=True)]
    return rng.permutation(np.concatenate(drawn))
