"""Scores of the classes as scalars of the run's visualizer."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook, LoggerHook
from mmengine.logging import print_log

from mmseol.registry import HOOKS
from mmseol.utils.checks import KnownArguments, choice, whole_number

__all__ = ["ClassScalarsHook", "evaluation_step", "scalar_names"]

_SCORES = ("IoU", "F1", "precision", "recall")
_NO_ROWS = (
    "ClassScalarsHook has no scores of classes: no metric of this evaluation is mmseol.SegClassBalanceMetric "
    "or mmseol.ClassBalanceMetric."
)


@HOOKS.register_module()
class ClassScalarsHook(KnownArguments, Hook):
    """Write the scores of each class as scalars, as ``IoU.car``, to all backends of the visualizer.

    The scores come from ``mmseol.SegClassBalanceMetric`` or ``mmseol.ClassBalanceMetric``, which give
    mmengine those of groups, as ``few/mIoU``, themselves. A class neither in the truth nor predicted has no
    scalar. Of distributed processes, the main one writes.

    >>> ClassScalarsHook(scores=["recall"]).scores
    ['recall']

    Args:
        scores: ``'IoU'``, ``'F1'``, ``'precision'``, ``'recall'``.
        at_most: Classes that are written, those with the fewest training samples first; 0 writes all.
        separator: Between score and class: ``'.'``, or ``'/'``, by which TensorBoard and WandB show all
            classes of a score in one group.

    Raises:
        ValueError: If an argument is unknown.
    """

    kind = "hook"
    priority = "LOW"

    def __init__(
        self, scores: Sequence[str] = ("IoU", "recall"), at_most: int = 0, separator: str = "."
    ) -> None:
        self.scores = [choice("scores", score, _SCORES) for score in scores]
        self.at_most = whole_number("at_most", at_most, at_least=0)
        self.separator = choice("separator", separator, (".", "/"))
        self._warned = False

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Write the scores of a validation."""
        self._write(runner, runner.val_loop.evaluator.metrics)

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Write the scores of a test."""
        self._write(runner, runner.test_loop.evaluator.metrics)

    @master_only
    def _write(self, runner: Any, metrics: Sequence[Any]) -> None:
        found = [metric for metric in metrics if getattr(metric, "class_rows", None)]
        if not found and not self._warned:
            self._warned = True
            print_log(_NO_ROWS, logger="current", level=logging.WARNING)
        for metric in found:
            scalars = self._scalars(metric.class_rows)
            prefix = f"{metric.prefix}/" if metric.prefix else ""
            named = {f"{prefix}{name}": value for name, value in scalars.items()}
            if named:
                runner.visualizer.add_scalars(named, step=evaluation_step(runner))

    def _scalars(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        names = scalar_names([str(row["class"]) for row in rows])
        pairs = list(zip(names, rows, strict=True))
        if self.at_most and len(pairs) > self.at_most:
            pairs = sorted(pairs, key=lambda pair: pair[1]["training"] or 0)[: self.at_most]
        return {
            f"{score}{self.separator}{name}": row[score]
            for score in self.scores
            for name, row in pairs
            if row[score] is not None
        }


def scalar_names(classes: Sequence[str]) -> list[str]:
    """Return the names of the classes in characters that every backend takes, all different.

    MLflow refuses all but letters, digits, ``_``, ``-``, ``.``, blanks and ``/``; a slash would be a group in
    TensorBoard.

    >>> scalar_names(["car", "bus/tram", "bus tram", "bus-tram"])
    ['car', 'bus_tram', 'bus_tram_2', 'bus-tram']
    """
    names: list[str] = []
    for one in classes:
        plain = re.sub(r"[^A-Za-z0-9_.-]", "_", one)
        tried = [plain, *(f"{plain}_{number}" for number in range(2, len(classes) + 2))]
        names.append(next(name for name in tried if name not in names))
    return names


def evaluation_step(runner: Any) -> int:
    """Return the step at which mmengine's logger writes the scores of an evaluation.

    That is the epoch, or the iteration with ``log_metric_by_epoch=False``; 0 without a training.

    >>> from types import SimpleNamespace
    >>> evaluation_step(SimpleNamespace(_train_loop=None, hooks=[]))
    0
    """
    if runner._train_loop is None or isinstance(runner._train_loop, dict):
        return 0  # reading the epoch would build the training
    loggers = [hook for hook in runner.hooks if isinstance(hook, LoggerHook)]
    by_epoch = all(hook.log_metric_by_epoch for hook in loggers)
    return int(runner.epoch if by_epoch else runner.iter)
