"""Transforms for mmseg pipelines."""

from __future__ import annotations

from typing import Any

from mmcv.transforms import BaseTransform

from mmseol.registry import TRANSFORMS

__all__ = ["CheckLabelSize"]


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
