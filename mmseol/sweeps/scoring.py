"""Predictions of a test, kept for paired tests on the same images, and the scores of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from numpy.typing import NDArray

from mmseol.metrics.class_scores import class_rows
from mmseol.metrics.scores import ClassScores, confusion_matrix, score_classes
from mmseol.sweeps.curves import rounded
from mmseol.utils.files import replacing

__all__ = ["KeptPredictions", "keep_predictions"]


class KeptPredictions:
    """The predictions of one checkpoint: classes of samples, or confusion of the pixels of each image.

    >>> kept = KeptPredictions(["cat", "dog"], [(0, 0), (1, 0)])
    >>> kept.per_class()["cat"]
    {'IoU': 50.0, 'F1': 66.6667, 'precision': 50.0, 'recall': 100.0}

    Args:
        names: Names of the K classes.
        results: (truth, label) of each sample, or the confusion matrix (K, K) of each image, truth in rows.
    """

    def __init__(self, names: Sequence[str], results: Sequence[Any]) -> None:
        self.names, self.results = list(names), results

    def arrays(self) -> dict[str, NDArray[np.int64]]:
        """Return ``truth`` and ``label``, (N,), or ``tallies`` (images, K, 3): right, predicted, truth.

        >>> sorted(KeptPredictions(["cat"], [(0, 0)]).arrays())
        ['label', 'truth']
        """
        if self.results and isinstance(self.results[0], tuple):
            pairs = np.array(self.results, dtype=np.int64)
            return {"truth": pairs[:, 0], "label": pairs[:, 1]}
        confusion = self._stacked()
        tallies = [np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(1), confusion.sum(2)]
        return {"tallies": np.stack(tallies, axis=-1)}

    def per_class(self) -> dict[str, dict[str, float | None]]:
        """Return IoU, F1, precision and recall of every class in per cent; ``None`` where undefined."""
        rows = class_rows(self.names, self._scores())
        keys = ("IoU", "F1", "precision", "recall")
        return {row["class"]: {key: rounded(row[key]) for key in keys} for row in rows}

    def save(self, path: Path) -> None:
        """Write the arrays (.npz), whole or not at all."""
        arrays: dict[str, Any] = self.arrays()
        with replacing(path) as file:
            np.savez_compressed(file, **arrays)

    def _stacked(self) -> NDArray[np.int64]:
        size = len(self.names)
        return np.array(self.results, dtype=np.int64).reshape(-1, size, size)

    def _scores(self) -> ClassScores:
        arrays = self.arrays()
        if "tallies" in arrays:
            return score_classes(self._stacked().sum(0))
        return score_classes(confusion_matrix(arrays["truth"], arrays["label"], len(self.names)))


class _Keeper(BaseMetric):
    """Keep the predictions of all samples; score nothing."""

    default_prefix = "kept"

    def __init__(self, names: Sequence[str], ignore_index: int) -> None:
        super().__init__()
        self.names, self.ignore_index = names, ignore_index
        self._kept: KeptPredictions | None = None

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep the samples of a batch."""
        for sample in data_samples:
            if "pred_label" in sample:
                self.results.append((int(sample["gt_label"]), int(sample["pred_label"])))
                continue
            predicted = sample["pred_sem_seg"]["data"].squeeze(0)
            truth = sample["gt_sem_seg"]["data"].squeeze(0).to(predicted.device)
            valid = truth != self.ignore_index
            size = len(self.names)
            cells = truth[valid].long() * size + predicted[valid].long()
            self.results.append(torch.bincount(cells, minlength=size**2).reshape(size, size).cpu().numpy())

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Keep the results of all processes; there is no score."""
        self._kept = KeptPredictions(self.names, results)
        return {}

    def taken(self) -> KeptPredictions:
        """Return the predictions of the last test."""
        if self._kept is None:
            raise RuntimeError("The test has no results.")
        return self._kept


def keep_predictions(evaluator: Any) -> _Keeper:
    """Let an ``Evaluator`` keep its predictions beside its scores; return what keeps them.

    >>> from types import SimpleNamespace
    >>> evaluator = SimpleNamespace(dataset_meta={"classes": ["cat", "dog"]}, metrics=[])
    >>> keeper = keep_predictions(evaluator)
    >>> [type(metric).__name__ for metric in evaluator.metrics]
    ['_Keeper']
    """
    names = [str(name) for name in (evaluator.dataset_meta or {}).get("classes") or ()]
    if not names:
        raise ValueError("The data set must name its classes in `metainfo['classes']`, got none.")
    ignored = [getattr(metric, "ignore_index", None) for metric in evaluator.metrics]
    keeper = _Keeper(names, next((value for value in ignored if value is not None), 255))
    keeper.dataset_meta = evaluator.dataset_meta
    evaluator.metrics.append(keeper)
    return keeper
