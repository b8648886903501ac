"""A sampler that gives way to another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import Sampler

from mmseol.registry import DATA_SAMPLERS

__all__ = ["DeferredSampler"]


@DATA_SAMPLERS.register_module()
class DeferredSampler(Sampler):
    """Draw with one sampler first, and with another from epoch ``begin`` on (deferred re-sampling, DRS).

    Cao et al., NeurIPS 2019 (LDAM), who compare it with deferred re-weighting, begin at epoch 160 of 200,
    the first being 0. The epoch is the one that mmengine tells samplers (``DistSamplerSeedHook``), so that a
    resumed run draws right; in an iteration-based run it counts passes over the data. ::

        sampler=dict(type="mmseol.DeferredSampler", begin=160, then=dict(type="mmseol.ClassAwareSampler"))

    Args:
        begin: First epoch drawn by ``then``, counted from 0.
        then: Config of the sampler from ``begin`` on, ``mmseol.ClassAwareSampler`` or, in segmentation,
            ``mmseol.RareClassSampler``.
        first: Config of the sampler before; ``None``: every item once, shuffled.
        seed: Seed of both.

    Raises:
        ValueError: If ``begin`` is negative or no whole number, or the samplers' epochs differ in length.
    """

    def __init__(
        self,
        dataset: Any,
        begin: int,
        then: dict[str, Any],
        first: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> None:
        if isinstance(begin, bool) or not isinstance(begin, int) or begin < 0:
            raise ValueError(f"`begin` must be a whole number of at least 0, got {begin!r}.")
        first = dict(type="DefaultSampler", shuffle=True) if first is None else first
        self.begin, self.epoch = begin, 0
        self.first, self.then = (
            DATA_SAMPLERS.build(config, default_args=dict(dataset=dataset, seed=seed))
            for config in (first, then)
        )
        if len(self.first) != len(self.then):
            raise ValueError(
                f"`then` must draw as many items an epoch as `first` ({len(self.first)}), got "
                f"{len(self.then)}: the Runner fixes the length of an epoch once. Give it num_samples, or "
                "take ClassAwareSampler, which draws as many as the data set has."
            )

    @property
    def current(self) -> Any:
        """The sampler of the current epoch."""
        return self.first if self.epoch < self.begin else self.then

    def __iter__(self) -> Iterator[int]:
        return iter(self.current)

    def __len__(self) -> int:
        return len(self.first)

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration draw the order of this epoch."""
        self.epoch = epoch
        self.current.set_epoch(epoch)
