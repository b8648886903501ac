"""Count the training data's classes and tell the losses and the metrics."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop
from torch import nn

from mmseol.counting import LabelError, count_dataset
from mmseol.counting.counts import ClassCounts
from mmseol.hooks.class_table import class_table, derived_columns, drawn_column
from mmseol.hooks.run_parts import (
    averaged_losses,
    counting_losses,
    counting_metrics,
    from_heads,
    missing_hooks,
    train_dataset,
    train_sampler,
    unwrap,
)
from mmseol.registry import HOOKS
from mmseol.utils.arrays import IntArray

__all__ = ["ClassCountHook"]


@HOOKS.register_module()
class ClassCountHook(Hook):
    """Count the classes of the training data when training starts, and tell every loss.

    A loss is any module of the model with a method ``set_class_counts(counts, totals)``. Metrics with such
    a method, as :class:`mmseol.metrics.ClassBalanceMetric`, are told before each validation and test what
    the losses know, from the data or from the checkpoint. A run with neither counts nothing, and neither
    does one that only tests. Where no loss depends on the counts (by its ``needs_counts``, or because the
    config gives them), training data that cannot be counted are only warned of; labels that are no class
    always stop the run.
    Counts that the config gave a loss (``class_counts=``) stay, and so do those of a resumed run; where
    they disagree with the data, the log says so. What was counted is shown in the log and written to
    ``class_counts.json`` in the work directory, which losses take as ``class_counts``.

    Buffers for the counts are made before the run, ahead of ``EMAHook``, whose copy must have them too;
    they are filled after a checkpoint is loaded.

    Args:
        count: What losses and metrics are told: ``'samples'`` (pixels in segmentation), or ``'images'``
            that contain the class.
        num_classes: ``None``: as the head that owns the loss.
        ignore_index: Label that is not counted; ``None``: as the head that owns the loss, else 255 in
            segmentation and nothing in classification.
        workers: As in :func:`mmseol.counting.count_dataset`; so are ``cache`` and ``cache_dir``.
        cache: Whether counts of label maps are kept on disk.
        cache_dir: Where; ``None``: ``~/.cache/mmseol``.

    Raises:
        ValueError: If heads, data set and ``num_classes`` disagree on the number of classes, or a label
            is no class.
        RuntimeError: If a loss needs counts and there is no training data to count.
    """

    priority = "VERY_HIGH"

    def __init__(
        self,
        count: Literal["samples", "images"] = "samples",
        num_classes: int | None = None,
        ignore_index: int | None = None,
        workers: int | None = None,
        cache: bool = True,
        cache_dir: str | Path | None = None,
    ) -> None:
        if count not in ("samples", "images"):
            raise ValueError(f"`count` must be 'samples' or 'images', got {count!r}.")
        self.count = count
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self._counted: IntArray | None = None
        self.counting: dict[str, Any] = {"workers": workers, "cache": cache, "cache_dir": cache_dir}

    def before_run(self, runner: Any) -> None:
        """Make room for the counts before the model is copied or a checkpoint is loaded."""
        model = unwrap(runner.model)
        losses = counting_losses(model)
        if not losses or not isinstance(runner._train_loop, BaseLoop):
            return
        num_classes = self._resolve_num_classes(model, losses, _class_names(train_dataset(runner)))
        for _, loss in losses:
            if hasattr(loss, "allocate_class_counts"):
                loss.allocate_class_counts(num_classes)

    def before_train(self, runner: Any) -> None:
        """Count, and tell every loss what it does not know by then."""
        model = unwrap(runner.model)
        losses = counting_losses(model)
        if not losses and all(_given(metric) is not None for metric in counting_metrics(runner._val_loop)):
            runner.logger.debug("ClassCountHook: no loss or metric takes class counts; nothing is counted.")
            return
        start = time.perf_counter()
        counts, names = self._count(runner, model, losses)
        if counts is None:
            return
        self._counted = getattr(counts, self.count)
        resumed = runner.iter > 0  # a checkpoint that is only loaded leaves 0
        for name, missing in missing_hooks(runner, losses):
            runner.logger.warning(
                f"{name} needs {missing} to be what its name says, and the run has none. Add "
                f"dict(type='{missing}') to custom_hooks."
            )
        for name, loss in losses:
            self._tell(runner, name, loss, counts, names, resumed)
        for loss in averaged_losses(runner):
            self._tell(None, "", loss, counts, names, resumed)
        self._tell_metrics(runner, runner._val_loop)  # a wrong number of classes shows before the first epoch
        if is_main_process():
            size, seconds = len(train_dataset(runner)), time.perf_counter() - start
            title = f"Training data: {size} images, counted in {seconds:.1f} s"
            columns = derived_columns(losses) | drawn_column(train_sampler(runner), len(names))
            runner.logger.info("\n" + class_table(title, names, counts, columns))
            path = Path(runner.work_dir) / "class_counts.json"
            if not (resumed and path.exists()):
                counts.save(path)

    def before_val_epoch(self, runner: Any) -> None:
        """Tell the validation's metrics what the losses know."""
        self._tell_metrics(runner, runner._val_loop)

    def before_test_epoch(self, runner: Any) -> None:
        """Tell the test's metrics what the losses know."""
        self._tell_metrics(runner, runner._test_loop)

    def _tell_metrics(self, runner: Any, loop: Any) -> None:
        known = [_known(loss) for _, loss in counting_losses(unwrap(runner.model))]
        counts = next((counts for counts in known if counts is not None), self._counted)
        for metric in counting_metrics(loop) if counts is not None else ():
            metric.set_class_counts(counts)

    def _count(
        self, runner: Any, model: nn.Module, losses: list[tuple[str, Any]]
    ) -> tuple[ClassCounts | None, list[str]]:
        """Return the counts, or ``None`` if there are none and no loss depends on them; and class names."""
        dataset = train_dataset(runner)
        dependent = [
            name for name, loss in losses if getattr(loss, "needs_counts", True) and _given(loss) is None
        ]
        if dataset is None:
            if not dependent:
                return None, []
            raise RuntimeError(
                f"The losses {dependent} need class counts, but this run has no "
                "`train_dataloader` to count. Give it one, or give the losses their counts: "
                "class_counts=[...] or class_counts='class_counts.json' of another run's work directory."
            )
        ignore_index = self.ignore_index
        if ignore_index is None:
            ignore_index = _one("ignore_index", from_heads(model, losses, "ignore_index"))
        runner.logger.info("Counting the classes of the training data.")
        try:
            if callable(getattr(dataset, "full_init", None)):
                dataset.full_init()  # only then some data sets know their classes
            names = _class_names(dataset)
            num_classes = self._resolve_num_classes(model, losses, names)
            counts = count_dataset(dataset, num_classes, ignore_index, **self.counting)
        except LabelError:
            raise
        except (TypeError, ValueError) as error:
            if dependent:
                raise
            runner.logger.warning(f"No loss depends on the class counts of the data, which failed: {error}")
            return None, []
        return counts, names if len(names) == num_classes else [str(c) for c in range(num_classes)]

    def _resolve_num_classes(
        self, model: nn.Module, losses: list[tuple[str, Any]], names: Sequence[str]
    ) -> int:
        if self.num_classes is not None:
            return self.num_classes
        told = from_heads(model, losses, "num_classes")
        if names:
            told["the data set's metainfo"] = len(names)
        num_classes = _one("num_classes", told)
        if num_classes is None:
            raise ValueError(
                "`num_classes` must be given to ClassCountHook, got None: neither a head that owns a loss "
                "nor the data set's metainfo tells the number of classes."
            )
        return num_classes

    def _tell(
        self, runner: Any, name: str, loss: Any, counts: ClassCounts, names: Sequence[str], resumed: bool
    ) -> None:
        """Tell one loss its counts unless it has better ones; without ``runner`` in silence."""
        data = getattr(counts, self.count)
        given, known = _given(loss), _known(loss)

        def say(level: str, text: str, other: IntArray) -> None:
            if runner is not None and not np.array_equal(other, data):
                getattr(runner.logger, level)(f"{name}: {text} {_difference(names, other, data)}")

        if resumed and known is not None:
            say(
                "warning",
                "the resumed checkpoint was trained with class counts that differ from this run's data, and "
                "keeps them. Start a new run (load_from without resume) if the data was changed on purpose.",
                known,
            )
        elif given is not None:
            say("warning", "class_counts of the config are used, though the data differs.", given)
            if known is None or not np.array_equal(known, given):
                loss.set_class_counts(given)  # a loaded checkpoint brought others
        else:
            if known is not None:
                say("info", "the loaded checkpoint's class counts give way to this run's data.", known)
            # Without void, totals are images: every class would fill all of its images.
            pixels = self.count == "samples" and not np.array_equal(counts.totals, counts.images)
            loss.set_class_counts(data, counts.totals if pixels else None)


def _class_names(dataset: Any) -> list[str]:
    metainfo = getattr(dataset, "metainfo", None) or {}
    return [str(name) for name in metainfo.get("classes") or ()]


def _given(loss: Any) -> IntArray | None:
    given = getattr(loss, "given_counts", None)
    return None if given is None else np.asarray(given, dtype=np.int64)


def _known(loss: Any) -> IntArray | None:
    counts = getattr(loss, "class_counts", None)
    counts = None if counts is None else counts.detach().cpu().numpy()
    return counts if counts is not None and counts.any() else None


def _one(attribute: str, told: dict[str, int]) -> int | None:
    if len(set(told.values())) > 1:
        raise ValueError(
            f"`{attribute}` must be the same for all losses that share class counts, got "
            f"{', '.join(f'{value} from {owner}' for owner, value in told.items())}. Correct the config, or "
            f"say it to the hook: dict(type='mmseol.ClassCountHook', {attribute}=...)."
        )
    return next(iter(told.values()), None)


def _difference(names: Sequence[str], other: IntArray, data: IntArray) -> str:
    if other.shape != data.shape:
        return f"They have {other.size} classes, the data has {data.size}."
    classes = np.flatnonzero(other != data)
    listed = ", ".join(f"{names[c]} {other[c]} (data: {data[c]})" for c in classes[:10])
    return f"Classes that differ: {listed}{', ...' if classes.size > 10 else ''}."
