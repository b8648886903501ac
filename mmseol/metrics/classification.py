"""Scores for imbalanced classification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmseol.metrics.base import BalanceMetric, check_range
from mmseol.metrics.scores import confusion_matrix
from mmseol.registry import METRICS

__all__ = ["ClassBalanceMetric"]


@METRICS.register_module()
class ClassBalanceMetric(BalanceMetric):
    """Classification scores that show the rare classes: F-measure, G-mean, worst class and others.

    Keys, formulas and absent classes are those of :func:`mmseol.metrics.scores.summarize`, in per cent.
    ``many/...``, ``medium/...`` and ``few/...`` group the classes by their training counts, which
    ``ClassCountHook`` sets unless ``class_counts`` is given. The scores of each class are logged and written
    to ``class_scores_*.json`` and ``.csv``.
    Data samples hold one class in ``gt_label`` and one in ``pred_label`` (argmax of the outputs), as
    mmpretrain's single-label heads return them.

    >>> metric = ClassBalanceMetric(class_counts=[900, 10], num_classes=2, prefix="val")
    >>> zero, one = torch.tensor([0]), torch.tensor([1])
    >>> metric.process({}, [dict(gt_label=label, pred_label=zero) for label in (zero, zero, one)])
    >>> scores = metric.evaluate(size=3)
    >>> round(scores["val/accuracy"], 1), scores["val/balanced_accuracy"], scores["val/few/accuracy"]
    (66.7, 50.0, 0.0)

    Args:
        class_counts: Training samples of each class: a sequence, or a .json or .npy file.
        num_classes: Only where the data set's metainfo names no classes.
        limits: Few-shot is below the first, many-shot above the second; ``None``: thirds of the classes
            by count, as :func:`mmseol.metrics.scores.groups_by_terciles`.
        table_dir: Folder of the JSON and CSV files; ``None``: that of the run's log.
        collect_device: As in mmengine's ``BaseMetric``; so are ``prefix`` and ``collect_dir``.

    Raises:
        ValueError: If an argument or a label is invalid.
    """

    def __init__(
        self,
        class_counts: Any = None,
        num_classes: int | None = None,
        limits: tuple[int, int] | None = (20, 100),
        table_dir: str | Path | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(class_counts, num_classes, limits, table_dir, collect_device, prefix, collect_dir)

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep the true and the predicted class of each sample."""
        size = len(self.names())
        columns = []
        for key in ("gt_label", "pred_label"):
            # One transfer from the device for the whole batch.
            labels = torch.stack([_one_label(sample, key) for sample in data_samples]).tolist()
            check_range(key, min(labels), max(labels), size)
            columns.append(labels)
        self.results.extend(zip(*columns, strict=True))

    def confusion(self, results: list[tuple[int, int]], num_classes: int) -> NDArray[np.int64]:
        """Return the confusion matrix of the pairs."""
        pairs = np.array(results, dtype=np.int64).reshape(-1, 2)
        return confusion_matrix(pairs[:, 0], pairs[:, 1], num_classes)


def _one_label(sample: Mapping[str, Any], key: str) -> Tensor:
    """Return the only label of a sample, of shape ()."""
    label = sample.get(key)
    if not isinstance(label, Tensor) or label.numel() != 1 or label.is_floating_point():
        got = "none" if label is None else str(label.tolist() if isinstance(label, Tensor) else label)
        raise ValueError(
            f"`{key}` must be one class per sample, got {got} beside {sorted(sample)}. Soft and multi-label "
            "truth has no confusion matrix; use the host's multi-label metrics there."
        )
    return label.reshape(()).long()
