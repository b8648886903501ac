"""The base of the metrics for imbalanced data: classes, training counts, groups and the report."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from numpy.typing import NDArray

from mmseol.counting.counts import check_counts, load_counts
from mmseol.metrics.class_scores import class_rows, evaluation, score_table, write_scores
from mmseol.metrics.scores import groups_by_limits, groups_by_terciles, score_classes, summarize
from mmseol.utils.checks import KnownArguments, whole_number
from mmseol.utils.text import first_few

__all__ = ["BalanceMetric", "check_range"]

_NO_COUNTS = (
    "No training counts are known, so there are no scores by group (many, medium, few). Add "
    "dict(type='mmseol.ClassCountHook') to custom_hooks, or give the metric class_counts=[...] or "
    "class_counts='class_counts.json' of the training run's work directory."
)


class BalanceMetric(KnownArguments, BaseMetric):
    """The base of both metrics: classes, training counts, groups and the report.

    A subclass appends one result per data sample in ``process`` and sums them in ``confusion``: mmengine
    drops the samples that a distributed sampler repeats from the end of the results. See
    :class:`mmseol.metrics.ClassBalanceMetric` for an example.

    >>> from mmseol.metrics import ClassBalanceMetric
    >>> metric: BalanceMetric = ClassBalanceMetric(class_counts=[900, 10])
    >>> metric.dataset_meta = {"classes": ("road", "pole")}
    >>> metric.names()
    ['road', 'pole']
    """

    kind = "metric"

    def __init__(
        self,
        class_counts: Any,
        num_classes: int | None,
        limits: tuple[int, int] | None,
        table_dir: str | Path | None,
        collect_device: str,
        prefix: str | None,
        collect_dir: str | None,
    ) -> None:
        super().__init__(collect_device, prefix, collect_dir)
        if num_classes is not None:
            whole_number("num_classes", num_classes, at_least=2)
        if limits is not None and not (len(limits) == 2 and 0 < limits[0] <= limits[1]):
            raise ValueError(
                f"`limits` must be None or two counts (few below, many above), the first above 0 and not "
                f"above the second, got {limits!r}."
            )
        self.num_classes = num_classes
        self.limits = None if limits is None else (limits[0], limits[1])
        self.table_dir = None if table_dir is None else Path(table_dir)
        self.given_counts = None if class_counts is None else load_counts(class_counts)
        self._counts = self.given_counts
        self.class_recall: NDArray[np.float64] | None = None
        """Recall of each class in the last evaluation, 0 to 1, NaN if the truth lacks the class, (K,).

        ``None`` in all processes but the main one, which alone has the results of all samples.
        """
        self.class_rows: list[dict[str, Any]] | None = None
        """Scores of each class in the last evaluation, as :func:`class_rows` returns them; else ``None``."""
        self._warned = False
        self._check_lengths()

    def set_class_counts(self, counts: Any, totals: Any = None) -> None:
        """Group the classes by these training counts, (K,), unless the constructor has set others."""
        if self.given_counts is None:
            self._counts = check_counts(counts)
            self._check_lengths()

    @property
    def dataset_meta(self) -> Any:
        """Meta information of the data set; the runner sets it."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: Any) -> None:
        self._dataset_meta = dataset_meta
        self._check_lengths()

    def _check_lengths(self) -> None:
        names = list((self._dataset_meta or {}).get("classes") or ())
        if names and self.num_classes not in (None, len(names)):
            raise ValueError(
                f"`num_classes` must be that of the data set, {len(names)}, got {self.num_classes}. "
                "Leave it out."
            )
        size = len(names) or self.num_classes
        if self._counts is not None and size is not None:
            check_counts(self._counts, size)

    def names(self) -> list[str]:
        """Return the names of the K classes; their numbers if the data set does not name them."""
        number = self.num_classes or (0 if self._counts is None else len(self._counts))
        names = (self._dataset_meta or {}).get("classes") or range(number)
        if len(names) == 0:
            raise ValueError(
                f"`num_classes` must be given to {type(self).__name__}, got None: the data set's metainfo "
                "names no classes."
            )
        return [str(name) for name in names]

    def confusion(self, results: list[Any], num_classes: int) -> NDArray[np.int64]:
        """Return the confusion matrix (K, K) of the results of all samples, with the truth in rows."""
        raise NotImplementedError

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Return the scores in per cent; log them per class, and write them to JSON and CSV."""
        names = self.names()
        confusion = self.confusion(results, len(names))
        scores = score_classes(confusion)
        self.class_recall = scores.recall
        groups, rule = self._groups()
        summary = summarize(scores, groups)
        self.class_rows = rows = class_rows(names, scores, self._counts, groups)
        text = score_table("Scores per class in per cent" + (f" (groups: {rule})" if rule else ""), rows)
        absent = [name for name, seen in zip(names, scores.seen, strict=True) if not seen]
        if absent:
            text += f"\nNeither in the truth nor predicted, left out of every mean: {first_few(absent, 10)}."
        self.log(f"{type(self).__name__}:\n{text}")
        folder, progress = evaluation()
        folder = self.table_dir or folder
        if folder is not None:
            record = {"scores": summary, "groups": rule, "absent": absent, "classes": rows}
            path = write_scores(folder, progress, self.prefix, record, confusion)
            self.log(f"Scores per class are written to {path} and .csv.")
        return summary

    def _groups(self) -> tuple[NDArray[np.str_] | None, str | None]:
        """Return the group of each class, (K,), and the rule in words."""
        if self._counts is None:
            if not self._warned:
                self.log(_NO_COUNTS, logging.WARNING)
            self._warned = True
            return None, None
        if self.limits is None:
            return groups_by_terciles(self._counts), "thirds of the classes by training count"
        few, many = self.limits
        rule = f"training count above {many}: many, below {few}: few"
        return groups_by_limits(self._counts, self.limits), rule

    def log(self, text: str, level: int = logging.INFO) -> None:
        """Write to the run's log."""
        print_log(text, logger="current", level=level)


def check_range(name: str, low: int, high: int, num_classes: int, where: str = "") -> None:
    """Check that the least and the greatest label are classes.

    >>> check_range("gt_label", 0, 4, num_classes=4)
    Traceback (most recent call last):
    ValueError: `gt_label` must be classes 0 to 3, got 4. Check the head's num_classes and the data set's \
classes, `label_map`, `reduce_zero_label` and `ignore_index`.

    Raises:
        ValueError: If one is not.
    """
    if low < 0 or high >= num_classes:
        wrong = low if low < 0 else high
        raise ValueError(
            f"`{name}` must be classes 0 to {num_classes - 1}, got {wrong}{where}. Check the head's "
            "num_classes and the data set's classes, `label_map`, `reduce_zero_label` and `ignore_index`."
        )
