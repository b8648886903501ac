"""Hold small images in memory, and augment and collate them by whole batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from mmengine.dataset import default_collate
from numpy.typing import NDArray
from torch import Tensor

from mmseol.counting.wrappers import walk
from mmseol.datasets.base import SubsetDataset
from mmseol.datasets.batch_transforms import batch_transform, split_pipeline
from mmseol.registry import DATASETS, FUNCTIONS
from mmseol.utils.arrays import IntArray
from mmseol.utils.checks import whole_number

__all__ = ["InMemoryDataset", "whole_batch"]


@dataclass
class _Batch:
    """A whole batch, in place of the list of samples that data loaders collate."""

    inputs: Tensor
    data_samples: list[Any]

    def __getitem__(self, index: int) -> NoReturn:
        raise TypeError(
            "InMemoryDataset yields whole batches: the data loader must be given "
            "collate_fn=dict(type='mmseol.whole_batch')."
        )


@FUNCTIONS.register_module()
def whole_batch(batch: Any) -> Any:
    """Return a batch of :class:`InMemoryDataset` as a dict; collate a list of samples as the hosts do.

    >>> whole_batch([{"inputs": torch.zeros(3, 2, 2)}] * 4)["inputs"].shape
    torch.Size([4, 3, 2, 2])
    """
    return dict(vars(batch)) if isinstance(batch, _Batch) else default_collate(batch)


@DATASETS.register_module()
class InMemoryDataset(SubsetDataset):
    """A classification data set that decodes its images once and returns whole batches.

    Batches are those of the wrapped data set's own ``pipeline``: the same images, labels and meta
    information, and with random augmentations the same distribution. ``LoadImageFromFile``, ``Resize``,
    ``ResizeEdge`` and ``CenterCrop`` may come first and run once per image; then ``RandomCrop`` and
    ``RandomFlip``, which run on the batch and draw from numpy's global state as they do for one image; last
    ``PackInputs``. It has to be the outermost wrapper, and the data loader needs
    ``collate_fn=dict(type='mmseol.whole_batch')``; ``num_workers=0`` is fastest. ::

        train_dataloader = dict(
            num_workers=0,
            collate_fn=dict(type="mmseol.whole_batch"),
            dataset=dict(type="mmseol.InMemoryDataset", dataset=dict(type="CIFAR10", ...)),
        )

    >>> InMemoryDataset(dataset)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: `pipeline` in an InMemoryDataset must be LoadImageFromFile, ...

    Args:
        dataset: Data set, wrapper or the config of one; wrappers are looked through, and an image that they
            repeat is held once.
        max_bytes: Memory that the images may take.

    Raises:
        ValueError: If the pipeline holds another transform, there are several pipelines, images differ in
            size, or they take more than ``max_bytes``.
    """

    def __init__(self, dataset: Any, max_bytes: int = 8 * 2**30, lazy_init: bool = False) -> None:
        self.max_bytes = whole_number("max_bytes", max_bytes, at_least=1)
        super().__init__(dataset, lazy_init)

    def _select(self) -> IntArray:
        items = walk(self.dataset)
        if len(items.leaves) > 1:
            raise ValueError(
                f"`dataset` of InMemoryDataset must hold one data set, got {len(items.leaves)} joined. Join "
                "the images in one data set."
            )
        source = items.leaves[0][0]
        index, self._rows = np.unique(items.index, return_inverse=True)
        fixed, random, pack = split_pipeline(getattr(getattr(source, "pipeline", None), "transforms", []))
        self._load(source, index.tolist(), [*fixed, pack])
        shape = self._images.shape[1:]
        self._augment, self._noted = [], set()
        for transform in random:
            self._augment.append(batch_transform(transform, shape))
            images, meta = self._augment[-1](np.empty((0, *shape), self._images.dtype))
            shape = images.shape[1:]
            self._noted |= meta.keys() & set(pack.meta_keys)
        for sample in self._samples:
            sample.set_metainfo(dict.fromkeys(self._noted))
        return np.arange(len(self._rows))

    def _load(self, source: Any, index: list[int], transforms: Sequence[Any]) -> None:
        """Fill the images, (M, C, H, W), and the packed samples of the positions in ``source``."""
        self._samples = []
        for row, position in enumerate(index):
            results = source.get_data_info(position)
            for transform in transforms:
                results = transform(results)
            image = results["inputs"].numpy()
            if row == 0:
                _check_memory(image, len(index), self.max_bytes)
                self._images = np.empty((len(index), *image.shape), image.dtype)
            if image.shape != self._images.shape[1:]:
                raise ValueError(
                    f"Images in an InMemoryDataset must have one size (C, H, W), got {image.shape} for item "
                    f"{position} of {type(source).__name__} after {self._images.shape[1:]}. Put a Resize or "
                    "CenterCrop before the augmentations."
                )
            self._images[row] = image
            self._samples.append(results["data_samples"])

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """Return a batch for :func:`whole_batch`: inputs (B, C, H, W) and a list of B data samples."""
        rows = self._rows[self.indices[np.asarray(indices)]]
        images = self._images[rows]  # a copy, which augmentations may overwrite
        noted: dict[str, Sequence[Any]] = {}
        for augment in self._augment:
            images, meta = augment(images)
            noted.update({key: values for key, values in meta.items() if key in self._noted})
        samples = _copies([self._samples[row] for row in rows], noted)
        return _Batch(inputs=torch.from_numpy(np.ascontiguousarray(images)), data_samples=samples)

    def prepare_data(self, idx: int) -> dict[str, Any]:
        """Return one item, as the wrapped data set does."""
        batch = self.__getitems__([idx])
        return {"inputs": batch.inputs[0], "data_samples": batch.data_samples[0]}


def _check_memory(image: NDArray[Any], number: int, max_bytes: int) -> None:
    if image.nbytes * number > max_bytes:
        raise ValueError(
            f"`max_bytes` of InMemoryDataset must be at least {image.nbytes * number} for {number} images of "
            f"shape {image.shape}, got {max_bytes}. Raise it if there is enough memory, or use the data set "
            "without the wrapper."
        )


def _copies(samples: list[Any], noted: dict[str, Sequence[Any]]) -> list[Any]:
    """Return copies of data samples, because models write into them, with new values of meta keys.

    The samples' own ``clone`` also copies their contents and would take most of the time of a batch.
    """
    copies = []
    meta = zip(*noted.values(), strict=True) if noted else [()] * len(samples)
    for sample, values in zip(samples, meta, strict=True):
        copied = object.__new__(type(sample))
        state = vars(copied)
        state.update(vars(sample))
        state["_metainfo_fields"] = sample._metainfo_fields.copy()
        state["_data_fields"] = sample._data_fields.copy()
        state.update(zip(noted, values, strict=True))
        copies.append(copied)
    return copies
