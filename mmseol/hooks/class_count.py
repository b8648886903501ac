"""Count the classes of the training data for the losses and the metrics."""

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
    agreed,
    averaged_losses,
    counting_losses,
    counting_metrics,
    dependent_losses,
    from_heads,
    missing_hooks,
    train_dataset,
    train_sampler,
)
from mmseol.hooks.squared_errors import unfit_parts, watch_first_step
from mmseol.registry import HOOKS
from mmseol.utils.arrays import IntArray
from mmseol.utils.checks import choice, whole_number
from mmseol.utils.modules import unwrap

__all__ = ["ClassCountHook", "resolve_counts", "set_counts"]


@HOOKS.register_module()
class ClassCountHook(Hook):
    """Count the classes of the training data when training starts, and set them in every loss.

    A loss is any module of the model with a method ``set_class_counts(counts, totals)``. Metrics with this
    method, such as :class:`mmseol.metrics.ClassBalanceMetric`, get the counts of the losses before each
    validation and test. A run without such losses and metrics counts nothing, nor does a run that only tests.

    If training data cannot be counted and no loss depends on them (its ``needs_counts`` is false, or the
    config gives the counts), the hook warns; otherwise it stops the run. A label that is no class always
    stops the run. Counts in the config (``class_counts=``) or in a resumed checkpoint take precedence over
    the data (:func:`resolve_counts`); the log reports where they differ. The counts are logged as a table and
    written to ``class_counts.json`` in the work directory, a file that losses accept as ``class_counts``.

    With losses of squared errors (:class:`mmseol.losses.OutlyingMSELoss`), the hook also warns if the
    learning rate of SGD is too high for the first step, and if ``SegTTAModel`` or
    ``OHEMPixelSampler(thresh=...)`` take the outputs for logits of a softmax.

    The buffers for the counts are allocated before the run, ahead of ``EMAHook``, whose copy needs them too.
    They are filled after a checkpoint is loaded.

    >>> hook = ClassCountHook(count="images")
    >>> ClassCountHook(count="pixels")
    Traceback (most recent call last):
    ValueError: `count` must be one of 'samples', 'images', got 'pixels'.

    Args:
        count: Unit of the counts: ``'samples'`` (pixels in segmentation), or ``'images'`` that contain the
            class.
        num_classes: Number of classes; ``None``: that of the head that owns the loss.
        ignore_index: Label that is not counted; ``None``: that of the head that owns the loss, else 255 in
            segmentation and none in classification.
        workers: As in :func:`mmseol.counting.count_dataset`; so are ``cache`` and ``cache_dir``.
        cache: Whether to keep counts of label maps on disk.
        cache_dir: Folder for them; ``None``: ``~/.cache/mmseol``.
        check_labels: Whether each label map must have the height and width of its image, and whether the
            labels of the validation data are checked before training starts, too.

    Raises:
        ValueError: If heads, data set and ``num_classes`` disagree on the number of classes, a label
            is no class, or a label map has another size than its image.
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
        check_labels: bool = True,
    ) -> None:
        self.count = choice("count", count, ("samples", "images"))
        self.num_classes = (
            None if num_classes is None else whole_number("num_classes", num_classes, at_least=2)
        )
        self.ignore_index = ignore_index
        self._counted: IntArray | None = None
        self.check_labels = check_labels
        self.counting: dict[str, Any] = {
            "workers": workers,
            "cache": cache,
            "cache_dir": cache_dir,
            "check_sizes": check_labels,
        }

    def before_run(self, runner: Any) -> None:
        """Allocate the buffers before the model is copied or a checkpoint is loaded."""
        model = unwrap(runner.model)
        losses = counting_losses(model)
        if not losses or not isinstance(runner._train_loop, BaseLoop):
            return
        num_classes = self._resolve_num_classes(model, losses, _class_names(train_dataset(runner)))
        for _, loss in losses:
            if hasattr(loss, "allocate_class_counts"):
                loss.allocate_class_counts(num_classes)

    def before_train(self, runner: Any) -> None:
        """Count, and set the counts of every loss."""
        model = unwrap(runner.model)
        for warning in unfit_parts(model, getattr(runner, "cfg", None)):
            runner.logger.warning(warning)
        watch_first_step(runner, model)
        losses = counting_losses(model)
        if not losses and all(_given(metric) is not None for metric in counting_metrics(runner._val_loop)):
            runner.logger.debug("ClassCountHook: no loss or metric takes class counts; nothing is counted.")
            return
        start = time.perf_counter()
        counts, names = self._count(runner, model, losses)
        if counts is None:
            return
        self._counted = getattr(counts, self.count)
        if self.check_labels:
            self._check_validation(runner, model, losses, len(names))
        resumed = runner.iter > 0  # a checkpoint that is only loaded leaves 0
        for name, missing in missing_hooks((type(hook).__name__ for hook in runner.hooks), losses):
            runner.logger.warning(
                f"{name} works as described only with {missing}, and the run has none. Add "
                f"dict(type='{missing}') to custom_hooks."
            )
        for name, loss in losses:
            message = set_counts(loss, counts, self.count, resumed, names)
            if message is not None:
                replaced = _given(loss) is None and not resumed  # by the data: what fine-tuning expects
                getattr(runner.logger, "info" if replaced else "warning")(f"{name}: {message}")
        for loss in averaged_losses(runner):
            set_counts(loss, counts, self.count, resumed, names)
        self._set_metrics(runner, runner._val_loop)  # raises before the first epoch if K is wrong
        if is_main_process():
            size, seconds = len(train_dataset(runner)), time.perf_counter() - start
            title = f"Training data: {size} images, counted in {seconds:.1f} s"
            columns = derived_columns(losses) | drawn_column(train_sampler(runner), len(names))
            runner.logger.info("\n" + class_table(title, names, counts, columns))
            path = Path(runner.work_dir) / "class_counts.json"
            if not (resumed and path.exists()):
                counts.save(path)

    def before_val_epoch(self, runner: Any) -> None:
        """Set the counts of the validation's metrics."""
        self._set_metrics(runner, runner._val_loop)

    def before_test_epoch(self, runner: Any) -> None:
        """Set the counts of the test's metrics."""
        for warning in unfit_parts(unwrap(runner.model), None):
            runner.logger.warning(warning)
        self._set_metrics(runner, runner._test_loop)

    def _set_metrics(self, runner: Any, loop: Any) -> None:
        known = [_known(loss) for _, loss in counting_losses(unwrap(runner.model))]
        counts = next((counts for counts in known if counts is not None), self._counted)
        for metric in counting_metrics(loop) if counts is not None else ():
            metric.set_class_counts(counts)

    def _count(
        self, runner: Any, model: nn.Module, losses: list[tuple[str, Any]]
    ) -> tuple[ClassCounts | None, list[str]]:
        """Return the counts, or ``None`` if counting fails and no loss depends on it, and the class names."""
        dataset = train_dataset(runner)
        dependent = dependent_losses(losses)
        if dataset is None:
            if not dependent:
                return None, []
            raise RuntimeError(
                f"The losses {dependent} need class counts, but this run has no "
                "`train_dataloader` to count. Give it one, or give the losses their counts: "
                "class_counts=[...] or class_counts='class_counts.json' of another run's work directory."
            )
        ignore_index = self._resolve_ignore_index(model, losses)
        runner.logger.info("Counting the classes of the training data.")
        try:
            if callable(getattr(dataset, "full_init", None)):
                dataset.full_init()  # some data sets do not know their classes before
            names = _class_names(dataset)
            num_classes = self._resolve_num_classes(model, losses, names)
            counts = count_dataset(dataset, num_classes, ignore_index, **self.counting)
        except LabelError:
            raise
        except (TypeError, ValueError) as error:
            if dependent:
                raise
            runner.logger.warning(
                f"The training data cannot be counted; no loss of this run depends on it. {error}"
            )
            return None, []
        return counts, names if len(names) == num_classes else [str(c) for c in range(num_classes)]

    def _check_validation(
        self, runner: Any, model: nn.Module, losses: list[tuple[str, Any]], num_classes: int
    ) -> None:
        """Check labels and sizes of the validation data, so that a fault shows before the first epoch."""
        dataset = getattr(getattr(runner._val_loop, "dataloader", None), "dataset", None)
        if dataset is None:
            return
        ignore_index = self._resolve_ignore_index(model, losses)
        try:
            count_dataset(dataset, num_classes, ignore_index, **self.counting)
        except LabelError as error:
            raise LabelError(f"Validation data: {error}", error.position) from error
        except (TypeError, ValueError) as error:
            runner.logger.info(f"The labels of the validation data are not checked. {error}")

    def _resolve_ignore_index(self, model: nn.Module, losses: list[tuple[str, Any]]) -> int | None:
        if self.ignore_index is not None:
            return self.ignore_index
        return agreed("ignore_index", from_heads(model, losses, "ignore_index"))

    def _resolve_num_classes(
        self, model: nn.Module, losses: list[tuple[str, Any]], names: Sequence[str]
    ) -> int:
        if self.num_classes is not None:
            return self.num_classes
        stated = from_heads(model, losses, "num_classes")
        if names:
            stated["the data set's metainfo"] = len(names)
        num_classes = agreed("num_classes", stated)
        if num_classes is None:
            raise ValueError(
                "`num_classes` must be given to ClassCountHook, got None: no head that owns a loss has the "
                "attribute `num_classes`, and the data set's metainfo has no `classes`."
            )
        return num_classes


def set_counts(
    loss: Any,
    counts: ClassCounts,
    unit: Literal["samples", "images"] = "samples",
    resumed: bool = False,
    names: Sequence[str] = (),
) -> str | None:
    """Set the class counts of a loss by :func:`resolve_counts`; return what the log should say.

    >>> from mmseol.losses import OutlyingMSELoss
    >>> loss = OutlyingMSELoss()
    >>> set_counts(loss, ClassCounts([90, 10], [2, 1], [100, 50]))
    >>> loss.class_counts.tolist()
    [90, 10]

    Args:
        loss: Module with ``set_class_counts(counts, totals)``.
        counts: Counts of the training data.
        unit: As ``count`` of :class:`ClassCountHook`.
        resumed: Whether a checkpoint's counts go before those of the data.
        names: Names of the classes.
    """
    data, known = getattr(counts, unit), _known(loss)
    chosen, message = resolve_counts(_given(loss), known, data, resumed, names)
    if chosen is data:
        # Without void, totals are images: every class would fill all of its images.
        pixels = unit == "samples" and not np.array_equal(counts.totals, counts.images)
        loss.set_class_counts(data, counts.totals if pixels else None)
    elif known is None or not np.array_equal(known, chosen):
        loss.set_class_counts(chosen)
    return message


def resolve_counts(
    given: IntArray | None,
    known: IntArray | None,
    data: IntArray,
    resumed: bool,
    names: Sequence[str] | None = None,
) -> tuple[IntArray, str | None]:
    """Return the class counts that a loss trains with, and a message if the counts disagree.

    The counts of the config come first, then those of a resumed checkpoint, then those of the data.

    >>> counts, message = resolve_counts(np.array([7, 3]), None, np.array([8, 3]), resumed=False)
    >>> counts.tolist()
    [7, 3]
    >>> print(message)
    class_counts of the config are used, though the data differs. Classes that differ: 0 7 (data: 8).

    Args:
        given: Counts of the config, (K,), or ``None``.
        known: Counts of the checkpoint, (K,), or ``None``.
        data: Counts of the training data, (K,).
        resumed: Whether the run goes on with the checkpoint (``True``) or only loads its weights.
        names: Class names for the message.
    """
    if given is not None:
        counts = other = given
        text = "class_counts of the config are used, though the data differs."
    elif resumed and known is not None:
        counts = other = known
        text = (
            "the resumed checkpoint was trained with class counts that differ from this run's data, and "
            "keeps them. Start a new run (load_from without resume) if the data was changed on purpose."
        )
    else:
        counts, other = data, data if known is None else known
        text = "the class counts of this run's data replace those of the loaded checkpoint."
    if np.array_equal(other, data):
        return counts, None
    return counts, f"{text} {_difference(names or [str(c) for c in range(data.size)], other, data)}"


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


def _difference(names: Sequence[str], other: IntArray, data: IntArray) -> str:
    if other.shape != data.shape:
        return f"They have {other.size} classes, the data has {data.size}."
    classes = np.flatnonzero(other != data)
    listed = ", ".join(f"{names[c]} {other[c]} (data: {data[c]})" for c in classes[:10])
    return f"Classes that differ: {listed}{', ...' if classes.size > 10 else ''}."
