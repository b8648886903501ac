"""A sampler for segmentation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmseol.counting import count_label_maps
from mmseol.counting.items import class_names
from mmseol.counting.wrappers import is_segmentation, walk
from mmseol.registry import DATA_SAMPLERS
from mmseol.samplers.base import EpochSampler, draw_by_class
from mmseol.utils.arrays import FloatArray, IntArray
from mmseol.utils.checks import number, whole_number

__all__ = ["RareClassSampler"]


@DATA_SAMPLERS.register_module()
class RareClassSampler(EpochSampler):
    r"""Draw a class, rare ones more often, then an image that contains it; segmentation.

    :math:`P(c) = \mathrm{softmax}_c((1 - f_c) / T)` with :math:`f_c` the class's fraction of the labelled
    pixels (DAFormer, Hoyer, Dai and Van Gool, CVPR 2022, sec. 3.3), over the classes that some image
    contains. In distributed runs every rank has to build it, as a Runner does. ::

        sampler=dict(type="mmseol.RareClassSampler", temperature=0.01)

    >>> sampler = RareClassSampler(road_scenes, temperature=1.0, seed=0)  # one of four has a bicyclist
    >>> sampler.probabilities.round(2)
    array([0.29, 0.71])

    Args:
        dataset: Data set with label maps; a config leaves it out.
        temperature: T, above 0; ``float('inf')`` draws every class alike.
        min_pixels: Pixels of the class that an image must have to count as containing it; 3000 in DAFormer's
            configs, whose images are large.
        ignore_index: Label that is no class.
        num_samples: Items of an epoch over all ranks; ``None``: as many as the data set has.
        seed: Seed of the draws, the same on every rank; ``None``: rank 0 draws one.

    Raises:
        TypeError: If the data set has no label maps.
        ValueError: If an argument is out of range, or no image has ``min_pixels`` of any class.
    """

    def __init__(
        self,
        dataset: Any,
        temperature: float = 0.01,
        min_pixels: int = 1,
        ignore_index: int = 255,
        num_samples: int | None = None,
        seed: int | None = None,
    ) -> None:
        if temperature != float("inf"):
            number("temperature", temperature, above=0)
        whole_number("min_pixels", min_pixels, at_least=1)
        items = walk(dataset)
        if not is_segmentation(items):
            raise TypeError(
                f"RareClassSampler needs label maps (`seg_map_path`), got {type(dataset).__name__} without. "
                "For classification take ClassAwareSampler."
            )
        super().__init__(dataset, len(dataset) if num_samples is None else num_samples, seed)
        maps = count_label_maps(items, len(class_names(dataset)), ignore_index)
        pixels = maps.counts[maps.rows]  # (N, K)
        self.contains = pixels >= min_pixels
        self.by_class = [np.flatnonzero(column) for column in self.contains.T]
        self.probabilities = _rare_first(pixels.sum(0), np.any(self.contains, axis=0), temperature)

    def expected_counts(self, epoch: int | None = None) -> FloatArray:
        """Return how many images of an epoch over all ranks contain each class, on average, (K,)."""
        times = self.contains.sum(0)
        per_image = self.contains @ (self.probabilities / np.maximum(times, 1))
        return self.total_size * (per_image @ self.contains)

    def _draw(self, rng: np.random.Generator) -> IntArray:
        return draw_by_class(rng, self.by_class, self.probabilities, self.total_size)


def _rare_first(pixels: IntArray, present: NDArray[np.bool_], temperature: float) -> FloatArray:
    """Return DAFormer's probability of each class, 0 where no image contains it, (K,)."""
    if not present.any():
        raise ValueError("`min_pixels` must be reached by some class of some image, got none. Lower it.")
    scores = (1 - pixels / pixels.sum()) / temperature
    weights = np.where(present, np.exp(scores - scores[present].max()), 0.0)
    return weights / weights.sum()
