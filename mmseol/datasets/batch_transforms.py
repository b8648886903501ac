"""mmpretrain's augmentations of small images, applied to a whole batch at once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

__all__ = ["BatchRandomCrop", "BatchRandomFlip", "BatchTransform", "batch_transform", "split_pipeline"]

Images = NDArray[Any]
Meta = dict[str, Sequence[Any]]
_MMCV, _MMPRETRAIN = "mmcv.transforms", "mmpretrain.datasets.transforms"
_PACK = f"{_MMPRETRAIN}.formatting.PackInputs"
# The same for an image every time, so that once is enough.
_FIXED = (
    f"{_MMCV}.loading.LoadImageFromFile",
    f"{_MMCV}.processing.Resize",
    f"{_MMCV}.processing.CenterCrop",
    f"{_MMPRETRAIN}.processing.ResizeEdge",
)


_AXES = {"horizontal": (-1,), "vertical": (-2,), "diagonal": (-2, -1)}


class BatchTransform(Protocol):
    """An augmentation of a batch of images, (B, C, H, W), which it may overwrite.

    It draws from numpy's global state, as the hosts' transforms do, so that seeds and workers act alike.

    >>> class Invert:
    ...     def __call__(self, images):
    ...         return 255 - images, {}
    >>> invert: BatchTransform = Invert()
    >>> invert(np.array([[[[0, 255]]]]))
    (array([[[[255,   0]]]]), {})
    """

    def __call__(self, images: Images) -> tuple[Images, Meta]:
        """Return the new images and the meta values that the stock transform would record, B per key."""


class BatchRandomCrop:
    """mmpretrain's ``RandomCrop``: every offset that fits into the padded image is equally likely.

    >>> from types import SimpleNamespace
    >>> stock = SimpleNamespace(pad_if_needed=False, crop_size=(2, 2), transform=lambda results: results)
    >>> crop = BatchRandomCrop(stock, shape=(1, 4, 4))
    >>> crop(np.zeros((5, 1, 4, 4), np.uint8))[0].shape
    (5, 1, 2, 2)

    Args:
        transform: The stock transform.
        shape: C, H and W of the images.

    Raises:
        ValueError: If the transform has ``pad_if_needed``.
    """

    def __init__(self, transform: Any, shape: tuple[int, int, int]) -> None:
        if transform.pad_if_needed:
            raise ValueError(
                "`pad_if_needed` of RandomCrop must be False in an InMemoryDataset, got True. Its images "
                "have one size: give `padding` instead."
            )
        channels, height, width = shape
        # Padding a black and a white image shows the border and its values, whatever the arguments.
        dark, bright = (
            _whole(transform, np.full((height, width, channels), value, np.uint8)) for value in (0, 255)
        )
        rows, columns = np.nonzero((dark != bright).all(0))
        self.top, self.left = rows.min(), columns.min()
        self._padded = dark[None]  # reused, with its border, by every batch
        self.size = tuple(np.minimum(transform.crop_size, dark.shape[1:]).tolist())
        self.noted = (*self.size, channels)

    def __call__(self, images: Images) -> tuple[Images, Meta]:
        """Return crops (B, C, h, w)."""
        number, _, height, width = images.shape
        if len(self._padded) < number or self._padded.dtype != images.dtype:
            self._padded = np.repeat(self._padded[:1], number, axis=0).astype(images.dtype)
        padded = self._padded[:number]
        padded[:, :, self.top : self.top + height, self.left : self.left + width] = images
        windows = sliding_window_view(padded, self.size, axis=(2, 3))
        y = np.random.randint(0, windows.shape[2], number)  # noqa: NPY002
        x = np.random.randint(0, windows.shape[3], number)  # noqa: NPY002
        return windows[np.arange(number), :, y, x], {"img_shape": [self.noted] * number}


def _whole(crop: Any, image: Images) -> Images:
    """Return an image, (H, W, C), after only the padding of ``crop``, (C, H', W')."""
    whole = copy.copy(crop)
    whole.crop_size = (2**30, 2**30)  # cut to what there is
    state = np.random.get_state()  # noqa: NPY002
    padded = whole.transform({"img": image})["img"]
    np.random.set_state(state)  # noqa: NPY002
    return np.atleast_3d(padded).transpose(2, 0, 1)


class BatchRandomFlip:
    """mmcv's ``RandomFlip`` of images.

    >>> from types import SimpleNamespace
    >>> flip = BatchRandomFlip(SimpleNamespace(direction="horizontal", prob=1.0), shape=(1, 1, 3))
    >>> flip(np.array([[[[1, 2, 3]]]]))[0]
    array([[[[3, 2, 1]]]])

    Args:
        transform: The stock transform.
        shape: C, H and W of the images.
    """

    def __init__(self, transform: Any, shape: tuple[int, int, int]) -> None:
        one = isinstance(transform.direction, str)
        self.directions = [transform.direction] if one else list(transform.direction)
        number = len(self.directions)
        prob = transform.prob
        if isinstance(prob, float):
            self.probabilities = [*[prob / number] * number, 1 - prob]
        else:
            self.probabilities = [*prob, 1 - sum(prob)]

    def __call__(self, images: Images) -> tuple[Images, Meta]:
        """Flip images in place."""
        names = [*self.directions, None]
        chosen = np.random.choice(len(names), len(images), p=self.probabilities)  # noqa: NPY002
        for number, direction in enumerate(self.directions):
            flipped = np.flatnonzero(chosen == number)
            images[flipped] = np.flip(images[flipped], _AXES[direction])
        directions = [names[number] for number in chosen]
        return images, {"flip": [name is not None for name in directions], "flip_direction": directions}


_BATCH: dict[str, Callable[[Any, tuple[int, int, int]], BatchTransform]] = {
    f"{_MMPRETRAIN}.processing.RandomCrop": BatchRandomCrop,
    f"{_MMCV}.processing.RandomFlip": BatchRandomFlip,
}


def batch_transform(transform: Any, shape: tuple[int, int, int]) -> BatchTransform:
    """Return the version for batches of a stock transform, for images of a shape (C, H, W).

    >>> from mmcv.transforms import RandomFlip
    >>> flip = batch_transform(RandomFlip(prob=1.0), shape=(1, 1, 3))
    >>> flip(np.array([[[[1, 2, 3]]]]))[0]
    array([[[[3, 2, 1]]]])
    """
    return _BATCH[_name(transform)](transform, shape)


def split_pipeline(transforms: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], Any]:
    """Return the transforms to run once per image, those to run on batches, and ``PackInputs``.

    >>> from mmcv.transforms import RandomFlip
    >>> split_pipeline([RandomFlip(prob=0.5)])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: `pipeline` in an InMemoryDataset must be LoadImageFromFile, ...

    Raises:
        ValueError: If a transform is of another kind, or the order is another.
    """
    names = [_name(transform) for transform in transforms]
    fixed = next((n for n, name in enumerate(names) if name not in _FIXED), len(names))
    wrong = [name for name in names[fixed:-1] if name not in _BATCH]
    wrong += [name for name in names[-1:] if name != _PACK]
    if wrong or not names:
        raise ValueError(
            f"`pipeline` in an InMemoryDataset must be {_listed(_FIXED)}, then {_listed(_BATCH)}, then "
            f"PackInputs, all of them the host's own classes, got {names}: "
            f"{wrong[0] if wrong else 'PackInputs'} has no version for whole batches or is not at its place. "
            "Use the data set without InMemoryDataset, and its data loader without "
            "`collate_fn=dict(type='mmseol.whole_batch')`."
        )
    return transforms[:fixed], transforms[fixed:-1], transforms[-1]


def _name(transform: Any) -> str:
    return f"{type(transform).__module__}.{type(transform).__qualname__}"


def _listed(names: Any) -> str:
    return ", ".join(name.rpartition(".")[2] for name in names)
