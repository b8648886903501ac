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
from mmseol.utils.checks import number, whole_number

__all__ = ["CheckLabelSize", "ClassAwareCrop"]


@TRANSFORMS.register_module()
class CheckLabelSize(BaseTransform):
    """Stop when a label map has another size than its image; mmseg would crop or stretch it without a word.

    Put it directly after ``LoadAnnotations``. ``CamVidDataset`` checks its files when it lists them; use
    this for other data sets and for files that are not on a local disk.

    Required keys: ``ori_shape`` (H, W), ``gt_seg_map`` (H, W). Changes nothing.

    >>> CheckLabelSize()(dict(ori_shape=(4, 6), gt_seg_map=np.zeros((4, 6)))).keys()
    dict_keys(['ori_shape', 'gt_seg_map'])

    Raises:
        ValueError: If the label map is not of shape (H, W); the text names both files and shapes.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return ``results`` unchanged."""
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
    r"""Crop around a pixel of a randomly drawn class, with rare classes drawn more often.

    The transform draws one of the classes in the label map with :math:`p_c \propto n_c^{-power}`, then one of
    the class's pixels with equal probability, and centres the crop there as far as the image allows. If the
    label map has no class, and in a fraction ``1 - prob`` of the images, it crops as mmseg's ``RandomCrop``.
    Keys are those of ``RandomCrop``: ``img`` (H, W, ...) and ``gt_seg_map`` (H, W) become at most
    ``crop_size``, and ``img_shape`` is updated. Use it in place of ``RandomCrop``, after ``RandomResize``.

    >>> crop = ClassAwareCrop(2)
    >>> labels = np.full((6, 6), 255)
    >>> labels[4, 1] = 3
    >>> int((crop(dict(img=np.zeros((6, 6, 3)), gt_seg_map=labels))["gt_seg_map"] == 3).sum())
    1

    Args:
        crop_size: Side, or height and width, in pixels.
        class_counts: Samples per class, n_c, (K,), or a file of them, such as ``class_counts.json`` of an
            earlier run; ``None``: the classes in the label map are drawn with equal probability.
        power: Exponent, at least 0; larger values prefer rare classes more.
        prob: Fraction of the images that are cropped around a class, in [0, 1].
        ignore_index: Label that is not a class.

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
        size = tuple(crop_size) if isinstance(crop_size, Sequence) else (crop_size, crop_size)
        if len(size) != 2:
            raise ValueError(f"`crop_size` must be one or two whole numbers, got {crop_size!r}.")
        size = tuple(whole_number("crop_size", side, at_least=1) for side in size)
        power = number("power", power, at_least=0)
        super().__init__(size, ignore_index=ignore_index)
        self.prob = number("prob", prob, at_least=0, at_most=1)
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
