"""Scores for imbalanced segmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mmseol.metrics.base import BalanceMetric, check_range
from mmseol.registry import METRICS
from mmseol.utils.files import replacing

__all__ = ["SegClassBalanceMetric"]


@METRICS.register_module()
class SegClassBalanceMetric(BalanceMetric):
    """Segmentation scores that show the rare classes, over the pixels of all images.

    As :class:`ClassBalanceMetric`, but the groups are thirds of the classes by training pixels unless
    ``limits`` are given. Data samples hold label maps (1, H, W) in ``gt_sem_seg`` and ``pred_sem_seg``.

    >>> metric = SegClassBalanceMetric(class_counts=[900, 10], num_classes=2, prefix="val")
    >>> truth, predicted = torch.tensor([[[0, 0, 1, 255]]]), torch.tensor([[[0, 0, 0, 0]]])
    >>> metric.process({}, [dict(gt_sem_seg=dict(data=truth), pred_sem_seg=dict(data=predicted))])
    >>> round(metric.evaluate(size=1)["val/mIoU"], 1)
    33.3

    Args:
        ignore_index: Label of the pixels that are not scored.
        class_counts: As in :class:`ClassBalanceMetric`; so are ``num_classes``, ``limits``, ``table_dir``
            and the arguments of mmengine's ``BaseMetric``.
        output_dir: Folder for the predicted label maps, as PNG under the images' names; with
            ``reduce_zero_label`` one is added to them, as ``IoUMetric`` does.
        keep_results: ``False`` writes no label maps.
        format_only: Only write the label maps, for data without truth.
        image_root: Folder of the images, whose subfolders ``output_dir`` gets, too; ``None``: label maps have
            the images' names alone, and images of one name in two folders replace each other.

    Raises:
        ValueError: If an argument or a label is invalid.
    """

    def __init__(
        self,
        ignore_index: int = 255,
        class_counts: Any = None,
        num_classes: int | None = None,
        limits: tuple[int, int] | None = None,
        table_dir: str | Path | None = None,
        output_dir: str | Path | None = None,
        keep_results: bool = True,
        format_only: bool = False,
        collect_device: str = "cpu",
        prefix: str | None = None,
        collect_dir: str | None = None,
        image_root: str | Path | None = None,
    ) -> None:
        super().__init__(class_counts, num_classes, limits, table_dir, collect_device, prefix, collect_dir)
        self.image_root = None if image_root is None else Path(image_root)
        self.ignore_index = ignore_index
        self.output_dir = Path(output_dir) if output_dir is not None and keep_results else None
        self.format_only = format_only
        if format_only and self.output_dir is None:
            raise ValueError(
                "`output_dir` must be given with `format_only=True`, got None or no results kept."
            )

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep the nonzero cells of each image's confusion matrix, and write its label map."""
        for sample in data_samples:
            predicted = sample["pred_sem_seg"]["data"].squeeze(0)
            if not self.format_only:
                self.results.append(self._cells(sample, predicted, len(self.names())))
            if self.output_dir is not None:
                image = Path(sample["img_path"])
                nested = self.image_root is not None and image.is_relative_to(self.image_root)
                name = image.relative_to(self.image_root) if nested else Path(image.name)  # type: ignore[arg-type]
                _write_map(self.output_dir / name.with_suffix(".png"), sample, predicted)

    def _cells(
        self, sample: Mapping[str, Any], predicted: Tensor, num_classes: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the values of ``truth * K + predicted`` and their numbers of pixels, (M,) each."""
        path = sample.get("img_path", "an image")
        if "gt_sem_seg" not in sample:
            raise ValueError(
                f"Data samples must have `gt_sem_seg`, got none for {path}. Load annotations in the "
                "pipeline, or only write label maps: format_only=True with output_dir."
            )
        truth = sample["gt_sem_seg"]["data"].squeeze(0).to(predicted.device)
        if truth.shape != predicted.shape:
            raise ValueError(
                f"`pred_sem_seg` must be of shape {tuple(truth.shape)} as `gt_sem_seg`, got "
                f"{tuple(predicted.shape)} for {path}."
            )
        valid = truth != self.ignore_index
        truth, predicted = truth[valid].long(), predicted[valid].long()
        if truth.numel() == 0:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        for name, labels in (("gt_sem_seg", truth), ("pred_sem_seg", predicted)):
            low, high = torch.stack(torch.aminmax(labels)).tolist()
            check_range(name, low, high, num_classes, f" in {path}")
        counts = torch.bincount(truth * num_classes + predicted, minlength=num_classes**2)
        cells = counts.nonzero().squeeze(1)
        return cells.cpu().numpy(), counts[cells].cpu().numpy()

    def confusion(self, results: list[Any], num_classes: int) -> NDArray[np.int64]:
        """Return the sum of the images' confusion matrices."""
        confusion = np.zeros(num_classes**2, dtype=np.int64)
        for cells, numbers in results:
            confusion[cells] += numbers
        return confusion.reshape(num_classes, num_classes)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Return the scores in per cent, or nothing with ``format_only``."""
        if self.format_only:
            self.log(f"Label maps are written to {self.output_dir}.")
            return {}
        return super().compute_metrics(results)


def _write_map(path: Path, sample: Mapping[str, Any], predicted: Tensor) -> None:
    labels = predicted.cpu().numpy() + bool(sample.get("reduce_zero_label", False))
    labels = labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.uint16)
    with replacing(path) as file:
        Image.fromarray(labels).save(file, format="png")
