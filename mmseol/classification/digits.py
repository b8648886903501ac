"""Handwritten digits from scikit-learn, a real data set that needs no download."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from mmpretrain.datasets import BaseDataset

from mmseol.registry import DATASETS
from mmseol.utils.checks import choice

__all__ = ["DigitsDataset"]

_TEST_SHARE = 1 / 3


@DATASETS.register_module()
class DigitsDataset(BaseDataset):
    """1,797 digits of 8x8 (UCI's optical recognition test set), enlarged to 32x32, 10 classes.

    The test split is a third, 599 images, drawn by class with seed 0, the same on every machine. Images are
    kept in memory as uint8 (32, 32, 3), white on black, so that the pipeline needs no loading.

    >>> len(DigitsDataset(split="test"))
    599

    Args:
        split: ``'train'`` or ``'test'``.
        data_root: Not used.
        **kwargs: Further arguments of mmpretrain's ``BaseDataset``.

    Raises:
        ValueError: If ``split`` is neither.
        ImportError: If scikit-learn is not installed.
    """

    METAINFO = {"classes": tuple("0123456789")}  # noqa: RUF012

    def __init__(self, split: Literal["train", "test"] = "train", data_root: str = "", **kwargs: Any) -> None:
        self.split = choice("split", split, ("train", "test"))
        super().__init__(ann_file="", data_root="", **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return image and label of every sample, by class and then as scikit-learn has them."""
        try:
            from sklearn.datasets import load_digits
            from sklearn.model_selection import train_test_split
        except ImportError as error:
            raise ImportError("DigitsDataset needs scikit-learn: pip install scikit-learn") from error
        digits = load_digits()
        parts = train_test_split(
            np.arange(len(digits.target)), test_size=_TEST_SHARE, random_state=0, stratify=digits.target
        )
        rows = np.sort(parts[self.split == "test"])
        rows = rows[np.argsort(digits.target[rows], kind="stable")]
        pixels = np.rint(digits.images[rows] * (255 / 16)).astype(np.uint8)
        images = np.repeat(pixels.repeat(4, axis=1).repeat(4, axis=2)[..., None], 3, axis=3)
        return [
            {"img": image, "gt_label": int(label)}
            for image, label in zip(images, digits.target[rows], strict=True)
        ]
