"""Transforms for mmseg pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from mmseg.datasets.transforms import RandomCrop

from mmseol.counting.counts import at_least_one, load_counts
from mmseol.registry import TRANSFORMS

__all__ = ["CheckLabelSize", "ClassAwareCrop"]


@TRANSFORMS.register_module()
class CheckLabelSize(BaseTransform):
    """Stop when a label map is not as large as its image; mmseg would crop or stretch it in silence.

    Stands directly after ``LoadAnnotations``. ``CamVidDataset`` checks its files when it lists them; this
    is for other data sets, and for files that are not on a local disk.

    Required keys: ``ori_shape`` (H, W), ``gt_seg_map`` (H, W). Changes nothing.

    Raises:
        ValueError: If the label map is not of shape (H, W); both files and shapes are named.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return ``results`` as they are."""
        if "gt_seg_map" not in results or "ori_shape" not in results:
            raise ValueError(
                "`CheckLabelSize` must stand after LoadImageFromFile and LoadAnnotations in the pipeline, "
                f"got results with the keys {sorted(results)}."
            )
        image, label = tuple(results["ori_shape"][:2]), results["gt_seg_map"].shape
        if label != image:
            remedy = (
                "Resize one of them (labels by nearest neighbour)."
                if len(label) == 2
                else "A label map has one channel of class numbers: convert colour labels first."
            )
            raise ValueError(
                f"The label map {results.get('seg_map_path')!r} is of shape {label}, but its image "
                f"{results.get('img_path')!r} is of shape {image} (H, W). {remedy}"
            )
        return results


@TRANSFORMS.register_module()
class ClassAwareCrop(RandomCrop):
    r"""Crop around a pixel of a class that is drawn rare ones first.

    One of the classes in the label map is drawn with :math:`p_c \propto n_c^{-power}`, then one of its
    pixels, alike; the crop is centred there as far as the image allows. Without any class in the label map,
    and in a share ``1 - prob`` of the images, the crop is mmseg's ``RandomCrop``, whose keys it has: ``img``
    (H, W, ...) and ``gt_seg_map`` (H, W) become at most ``crop_size``, ``img_shape`` follows. It stands where
    ``RandomCrop`` would, behind ``RandomResize``.

    Args:
        crop_size: Side, or height and width, in pixels.
        class_counts: Samples per class, n_c, (K,), or a file of them, such as ``class_counts.json`` of an
            earlier run; ``None``: classes in the label map are drawn alike.
        power: How strongly rare classes come first, at least 0.
        prob: Share of the images that are cropped so, in [0, 1].
        ignore_index: Label that is no class.

    Raises:
        ValueError: If an argument is out of range, there is no label map, or it holds a label that has no
            count.
    """

    def __init__(
        self,
        crop_size: int | Sequence[int],
        class_counts: Sequence[int] | str | Path | None = None,
        power: float = 1.0,
        prob: float = 1.0,
        ignore_index: int = 255,
    ) -> None:
        size = (crop_size, crop_size) if isinstance(crop_size, int) else tuple(crop_size)
        if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
            raise ValueError(f"`crop_size` must be one or two whole numbers above 0, got {crop_size!r}.")
        if isinstance(power, bool) or not isinstance(power, (int, float)) or not 0 <= power < np.inf:
            raise ValueError(f"`power` must be a finite number of at least 0, got {power!r}.")
        if isinstance(prob, bool) or not isinstance(prob, (int, float)) or not 0 <= prob <= 1:
            raise ValueError(f"`prob` must lie in [0, 1], got {prob!r}.")
        super().__init__(size, ignore_index=ignore_index)
        self.prob = prob
        self.rarity = None
        if class_counts is not None:
            counts = at_least_one(load_counts(class_counts), "ClassAwareCrop")
            self.rarity = (counts.min() / counts) ** power

    @cache_randomness
    def crop_bbox(self, results: dict[str, Any]) -> tuple[int, int, int, int]:
        """Return top, bottom, left and right of the crop, in pixels."""
        if "gt_seg_map" not in results:
            raise ValueError(
                "`ClassAwareCrop` must stand after LoadAnnotations in the pipeline, got results with the "
                f"keys {sorted(results)}."
            )
        labels = results["gt_seg_map"]
        present = np.unique(labels)
        present = present[present != self.ignore_index]
        if not present.size or np.random.rand() >= self.prob:  # noqa: NPY002  the workers' seeded state
            return super().crop_bbox(results)
        drawn = np.random.choice(present, p=self._probabilities(present))  # noqa: NPY002
        pixels = np.flatnonzero(labels == drawn)
        pixel = np.unravel_index(np.random.choice(pixels), labels.shape)  # noqa: NPY002
        starts = [
            int(np.clip(at - size // 2, 0, max(whole - size, 0)))
            for at, size, whole in zip(pixel, self.crop_size, labels.shape, strict=True)
        ]
        return starts[0], starts[0] + self.crop_size[0], starts[1], starts[1] + self.crop_size[1]

    def _probabilities(self, present: np.ndarray) -> np.ndarray:
        """Return the probability of each class in a label map."""
        if self.rarity is None:
            return np.full(len(present), 1 / len(present))
        if present.max() >= len(self.rarity) or present.min() < 0:
            raise ValueError(
                f"`class_counts` must have an entry for every label but {self.ignore_index}, got "
                f"{len(self.rarity)} entries for a label map with the labels {present.tolist()}."
            )
        weights = self.rarity[present]
        return weights / weights.sum()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(crop_size={self.crop_size}, prob={self.prob})"
