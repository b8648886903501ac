"""Label maps for the tests of the metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

NAMES = ("sky", "road", "pole", "bicyclist")


def map_sample(truth: Any, predicted: Any, name: str = "a.png") -> SegDataSample:
    """Return the data sample of one image from truth and prediction, (H, W) each."""
    sample = SegDataSample(
        gt_sem_seg=PixelData(data=torch.as_tensor(truth)[None]),
        pred_sem_seg=PixelData(data=torch.as_tensor(predicted)[None]),
    )
    sample.set_metainfo({"img_path": f"somewhere/{name}"})
    return sample


def random_maps(number: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return truth with void and predictions, of unequal sizes."""
    rng = np.random.default_rng(seed)
    shapes = [(5 + i, 9) for i in range(number)]
    return [(rng.choice([0, 1, 2, 3, 255], shape), rng.integers(0, 4, shape)) for shape in shapes]
