"""A sampler that another one replaces during training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mmengine.dataset import DefaultSampler

from mmseol.registry import DATA_SAMPLERS
from mmseol.samplers.base import SkippingSampler
from mmseol.utils.checks import whole_number

__all__ = ["DeferredSampler"]


@DATA_SAMPLERS.register_module()
class DeferredSampler(SkippingSampler):
    """Draw with one sampler first, and with another from epoch ``begin`` on (deferred re-sampling, DRS).

    Cao et al., NeurIPS 2019 (LDAM), compare it with deferred re-weighting and begin at epoch 160 of 200,
    counted from 0. mmengine sets the epoch of a sampler (``DistSamplerSeedHook``), also in a resumed run; in
    an iteration-based run it counts passes over the data. ::

        sampler=dict(type="mmseol.DeferredSampler", begin=160, then=dict(type="mmseol.ClassAwareSampler"))

    >>> sampler = DeferredSampler(dataset, begin=2, then=dict(type="mmseol.ClassAwareSampler"), seed=0)
    >>> sampler.set_epoch(2)
    >>> type(sampler.current).__name__
    'ClassAwareSampler'

    Args:
        dataset: Data set; a config leaves it out.
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
        whole_number("begin", begin, at_least=0)
        self.begin = begin
        default = dict(dataset=dataset, seed=seed)
        self.first = DATA_SAMPLERS.build(first, default_args=default) if first else DefaultSampler(**default)
        self.then = DATA_SAMPLERS.build(then, default_args=default)
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

    def _order(self) -> Iterable[int]:
        return self.current

    def __len__(self) -> int:
        return len(self.first)

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration draw this epoch, counted from the one that ``skip`` began in."""
        super().set_epoch(epoch)
        self.current.set_epoch(self.epoch)
