"""Tiny segmentation and classification data sets on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS
from PIL import Image

SIZE = (8, 10)


@DATASETS.register_module()
class FourClassDataset(BaseSegDataset):
    """Classes a to d; the file's label 9 is void."""

    METAINFO = {"classes": ("a", "b", "c", "d"), "palette": [[i] * 3 for i in range(4)]}  # noqa: RUF012

    @classmethod
    def get_label_map(cls, new_classes: Any = None) -> dict[int, int]:
        return {**(super().get_label_map(new_classes) or {}), 9: 255}


class LabelDataset(BaseDataset):
    """Data set of labels without images; a list of lists has several labels per item."""

    METAINFO = {"classes": ("a", "b", "c", "d")}  # noqa: RUF012

    def __init__(self, labels: list[Any], **kwargs: Any) -> None:
        self.labels = labels
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        return [{"img_path": f"{i}.jpg", "gt_label": label} for i, label in enumerate(self.labels)]

    def get_cat_ids(self, idx: int) -> list[int]:
        return np.atleast_1d(self.get_data_info(idx)["gt_label"]).tolist()

    def prepare_data(self, idx: int) -> None:
        raise AssertionError("counting must not call the pipeline")


def write_maps(root: Path, number: int = 12, seed: int = 0) -> Path:
    """Write images that cannot be decoded, and label maps in which class d is rare and 255 and 9 are void."""
    rng = np.random.default_rng(seed)
    for folder in ("img", "ann"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i in range(number):
        (root / "img" / f"{i:03}.png").write_bytes(b"no image")
        present = rng.choice(4, size=rng.integers(1, 5), replace=False, p=[0.4, 0.3, 0.2, 0.1])
        labels = rng.choice([*present, 9, 255], size=SIZE).astype(np.uint8)
        Image.fromarray(labels).save(root / "ann" / f"{i:03}.png")
    return root


def write_images(root: Path, number: int = 12) -> None:
    """Replace the images by ones that can be decoded."""
    rng = np.random.default_rng(1)
    for i in range(number):
        Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(root / "img" / f"{i:03}.png")


def write_class_folders(root: Path, classes: int, number: int = 2) -> Path:
    """Write ``number`` images of 32x32 into a folder per class."""
    rng = np.random.default_rng(2)
    for k in range(classes):
        (root / f"class{k:02}").mkdir(parents=True, exist_ok=True)
        for i in range(number):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"class{k:02}" / f"{i}.png")
    return root


def seg_dataset(root: Path, **kwargs: Any) -> FourClassDataset:
    """Return the data set over :func:`write_maps`."""
    return FourClassDataset(**seg_config(root, **kwargs))


def seg_config(root: Path, **kwargs: Any) -> dict[str, Any]:
    """Return the arguments of :class:`FourClassDataset`."""
    return {
        "data_root": str(root),
        "data_prefix": {"img_path": "img", "seg_map_path": "ann"},
        "img_suffix": ".png",
        "pipeline": [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}],
        **kwargs,
    }
