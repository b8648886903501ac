"""Data loaders of a training run: begin at a later batch, and draw each batch from a seed of its own."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import torch
from mmengine.dist import get_rank
from torch.utils.data import DataLoader, IterableDataset

from mmseol.hooks.generators import kept_generators, seed_generators

__all__ = ["EndlessBatches", "LoaderWrapper", "SeededLoader", "WithoutFirst", "inner_loader"]


class LoaderWrapper:
    """A data loader with other batches; every other attribute is that of the loader, also when it is set.

    >>> loader = LoaderWrapper(DataLoader(range(6), batch_size=2))
    >>> len(loader), loader.batch_size, type(inner_loader(loader)).__name__
    (3, 2, 'DataLoader')
    >>> loader.collate_fn = max
    >>> inner_loader(loader).collate_fn([1, 2])
    2
    """

    own: ClassVar[frozenset[str]] = frozenset({"loader"})

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name in self.own:  # a copy that is not filled yet
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.own:
            super().__setattr__(name, value)
        else:
            setattr(self.loader, name, value)


def inner_loader(loader: Any) -> Any:
    """Return the loader inside wrappers.

    >>> inner_loader(LoaderWrapper(LoaderWrapper([1, 2])))
    [1, 2]
    """
    while isinstance(loader, LoaderWrapper):
        loader = loader.loader
    return loader


class WithoutFirst(LoaderWrapper):
    """A data loader without its first batches, which are read and dropped.

    >>> list(WithoutFirst([1, 2, 3], 1))
    [2, 3]
    """

    own = frozenset({"loader", "first"})

    def __init__(self, loader: Any, first: int) -> None:
        super().__init__(loader)
        self.first = first

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.loader), self.first, None)


class SeededLoader(LoaderWrapper):
    """A data loader whose batches depend on seed, rank, epoch and number of the batch alone.

    Python's, NumPy's and torch's generators are seeded for each batch where it is loaded and collated. The
    process that trains has its own states again after each batch. Batches are therefore the same with any
    number of workers, persistent or not, and the first batches of an epoch can be skipped without loading
    them. ``epoch`` and ``first``, the number of the first batch of the next iteration, are set from outside.

    >>> class Noise(torch.utils.data.Dataset):
    ...     def __len__(self):
    ...         return 4
    ...     def __getitem__(self, index):
    ...         return torch.rand(())
    >>> loader = SeededLoader(DataLoader(Noise(), batch_size=1), seed=0)
    >>> noise = [batch.item() for batch in loader]
    >>> loader.first = 2
    >>> [batch.item() for batch in loader] == noise[2:]
    True
    >>> loader.epoch = 1
    >>> [batch.item() for batch in loader] == noise
    False

    Args:
        loader: Data loader that :meth:`fits`.
        seed: Seed of the run, at least 0.
    """

    own = frozenset({"loader", "epoch", "first", "seed", "batches"})

    def __init__(self, loader: DataLoader, seed: int) -> None:
        super().__init__(loader)
        self.epoch = self.first = 0
        self.seed = (seed, get_rank())
        self.batches = _SeededBatches(loader.batch_sampler)  # of one object: persistent workers keep it
        vars(loader)["_iterator"] = None  # workers that run already have no seeds

    @staticmethod
    def fits(loader: Any) -> bool:
        """Whether the loader's batches are lists of indices of a data set."""
        return (
            isinstance(loader, DataLoader)
            and loader.batch_sampler is not None
            and not isinstance(loader.dataset, IterableDataset)
        )

    def __iter__(self) -> Iterator[Any]:
        loader, seed = self.loader, (*self.seed, self.epoch)
        self.batches.begin, self.first = (seed, self.first), 0
        twin = copy.copy(loader)
        number = int(np.random.SeedSequence(seed).generate_state(1)[0])
        vars(twin).update(  # `DataLoader` refuses to set some of them
            dataset=_SeededItems(loader.dataset, loader.collate_fn),
            collate_fn=_as_it_is,
            batch_sampler=self.batches,
            generator=torch.Generator().manual_seed(number),
        )
        batches = iter(twin)
        vars(loader)["_iterator"] = twin._iterator  # persistent workers
        return batches


class _SeededBatch(list[Any]):
    """Indices of a batch, with the seed to load it with."""

    seed: tuple[int, ...] = ()


class _SeededBatches:
    """Batch sampler that adds a seed to each batch."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches
        self.begin: tuple[tuple[int, ...], int] = ((), 0)

    def __iter__(self) -> Iterator[_SeededBatch]:
        seed, first = self.begin
        restart(getattr(self.batches, "sampler", None))
        for number, indices in enumerate(islice(iter(self.batches), first, None), first):
            batch = _SeededBatch(indices)
            batch.seed = (*seed, number)
            yield batch

    def __len__(self) -> int:
        return len(self.batches)


class _SeededItems:
    """Data set of whole batches: load and collate with the seed of the batch."""

    def __init__(self, dataset: Any, collate: Any) -> None:
        self.dataset, self.collate = dataset, collate

    def __getitems__(self, batch: _SeededBatch) -> Any:
        with kept_generators():
            seed_generators(*batch.seed)
            if callable(getattr(self.dataset, "__getitems__", None)):
                return self.collate(self.dataset.__getitems__(list(batch)))
            return self.collate([self.dataset[index] for index in batch])

    def __len__(self) -> int:
        return len(self.dataset)


def _as_it_is(batch: Any) -> Any:
    return batch


def restart(sampler: Any) -> None:
    """Make mmengine's ``InfiniteSampler`` begin anew; other samplers do at every iteration.

    >>> from mmengine.dataset import InfiniteSampler
    >>> sampler = InfiniteSampler(range(3), shuffle=False)
    >>> first = next(iter(sampler))
    >>> restart(sampler)
    >>> next(iter(sampler)) == first == 0
    True
    """
    if hasattr(sampler, "_indices_of_rank") and hasattr(sampler, "indices"):
        sampler.indices = sampler._indices_of_rank()


class EndlessBatches:
    """Batches of one pass over the data after another, from any iteration on, for ``IterBasedTrainLoop``.

    The position is found by indices alone; no skipped batch is loaded. A pass over the data is an epoch of
    sampler and loader, as in mmengine.

    >>> loader = SeededLoader(DataLoader(range(6), batch_size=2), seed=0)
    >>> batches = EndlessBatches(loader, trained=4, passed=0)  # the second pass is at its second batch
    >>> next(batches), next(batches), next(batches)
    (tensor([2, 3]), tensor([4, 5]), tensor([0, 1]))

    Args:
        loader: Loader of the run.
        trained: Iterations that a resumed run has trained.
        passed: How many of the first batches the loop asks for only to skip them (mmengine up to 0.10.7).
    """

    def __init__(self, loader: SeededLoader, trained: int, passed: int) -> None:
        self.loader, self.passed = loader, passed
        self.iterator: Iterator[Any] | None = None
        with kept_generators():
            self._seek(trained)

    def __iter__(self) -> EndlessBatches:
        return self

    def __next__(self) -> Any:
        if self.passed:
            self.passed -= 1
            return None
        if self.iterator is None:
            self._begin_pass(self.loader.epoch)  # hooks have set the sampler to epoch 0 since
            self.iterator = iter(self.loader)
        try:
            return next(self.iterator)
        except StopIteration:
            self._begin_pass(self.loader.epoch + 1)
            self.iterator = iter(self.loader)
            return next(self.iterator)

    def skip_iter(self, num_iters: int) -> None:
        """Do nothing: the position is right already (mmengine from 0.10.12 on)."""

    def _seek(self, trained: int) -> None:
        self._begin_pass(0)
        batches = self.loader.loader.batch_sampler
        if trained:
            restart(getattr(batches, "sampler", None))
            length = sum(1 for _ in islice(iter(batches), trained))
            if 0 < length < trained:
                epoch, trained = divmod(trained, length)
                self._begin_pass(epoch)
        self.loader.first = trained

    def _begin_pass(self, epoch: int) -> None:
        self.loader.epoch = epoch
        samplers: list[Any] = [self.loader.sampler, getattr(self.loader.batch_sampler, "sampler", None)]
        for sampler in samplers:
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
                return
