"""Set the difficulty of each class in the losses after every validation."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmengine.dist import broadcast_object_list
from mmengine.hooks import Hook
from torch import Tensor

from mmseol.hooks.run_parts import averaged_losses, from_heads, losses_with, validation_was_due
from mmseol.registry import HOOKS
from mmseol.utils.arrays import FloatArray
from mmseol.utils.modules import unwrap

__all__ = ["ClassDifficultyHook"]

_SAVED_AS = "class_difficulty_iter"
_NO_RECALL = (
    "`ClassDifficultyHook` needs the recall of each class, and no metric of the validation computes it. Add "
    "dict(type='mmseol.ClassBalanceMetric') (classification) or dict(type='mmseol.SegClassBalanceMetric') "
    "(segmentation) to val_evaluator, or mmpretrain's SingleLabelMetric(average=None). A metric of your own "
    "sets `class_recall`, (K,), in compute_metrics."
)


@HOOKS.register_module()
class ClassDifficultyHook(Hook):
    """Set the difficulty of each class, 1 - its accuracy (recall) in the validation, in every loss.

    A loss is any module of the model with a method ``set_class_difficulty(difficulty)``, such as
    :class:`mmseol.losses.CDBLoss`; without one the hook does nothing. The recall comes from the first metric
    that gives it: ``mmseol.ClassBalanceMetric``, ``mmseol.SegClassBalanceMetric``, mmpretrain's
    ``SingleLabelMetric(average=None)`` or ``ConfusionMatrix``. A class without validation samples keeps its
    difficulty. All ranks and averaged models (``EMAHook``) get the same values; with ``EMAHook`` the averaged
    weights are validated.

    A new training starts at difficulty 1, with or without ``load_from``. If the checkpoint was saved just
    before a scheduled validation, a resumed run validates first, so that it continues exactly like an
    uninterrupted one.

    >>> hook = ClassDifficultyHook()

    Raises:
        RuntimeError: If a loss takes difficulties and no validation or no metric gives the recalls.
    """

    priority = "VERY_HIGH"  # allocates the buffers before EMAHook copies the model

    def __init__(self) -> None:
        self._known_at: int | None = None
        self._resumed = False
        self._training = False

    def before_run(self, runner: Any) -> None:
        """Allocate the buffers before the model is copied or a checkpoint is loaded."""
        model = unwrap(runner.model)
        for name, loss in losses_with(model, "set_class_difficulty"):
            for num_classes in from_heads(model, [(name, loss)], "num_classes").values():
                loss.allocate_class_counts(num_classes)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Read the iteration of the validation that the stored difficulty comes from."""
        self._known_at = checkpoint.get("meta", {}).get(_SAVED_AS)

    def before_train(self, runner: Any) -> None:
        """Check that a validation gives recalls, and start at difficulty 1."""
        losses = _losses(runner)
        self._training = bool(losses)
        if not losses:
            return
        if runner.val_loop is None:
            raise RuntimeError(
                "`ClassDifficultyHook` needs a validation, and the run has none. Give it val_dataloader, "
                "val_cfg and val_evaluator, or remove the hook and the loss."
            )
        if not any(_gives_recall(metric) for metric in runner.val_loop.evaluator.metrics):
            raise RuntimeError(_NO_RECALL)
        self._resumed = runner.iter > 0  # a checkpoint that is only loaded leaves 0
        if not self._resumed:
            for loss in losses:
                if loss.class_difficulty is not None:
                    loss.set_class_difficulty(np.ones(loss.class_difficulty.numel()))

    def before_train_epoch(self, runner: Any) -> None:
        """Run the validation that was due when the resumed checkpoint was saved."""
        resumed, self._resumed = self._resumed, False
        if resumed and self._known_at != runner.iter and validation_was_due(runner.train_loop):
            runner.logger.info("The checkpoint was saved before a scheduled validation; validating now.")
            runner.val_loop.run()

    def after_val_epoch(self, runner: Any, metrics: dict[str, Any] | None = None) -> None:
        """Set the difficulty from the recalls of the validation."""
        if not self._training:
            return
        found = [_recall(runner.val_loop.evaluator.metrics, metrics or {})]
        broadcast_object_list(found)  # our metrics compute it on the main process alone
        recall = found[0]
        if recall is None:
            raise RuntimeError(_NO_RECALL)
        for loss in _losses(runner):
            before = loss.class_difficulty
            kept = np.ones(recall.size) if before is None else before.detach().cpu().numpy()
            if kept.size != recall.size:
                raise ValueError(
                    f"The validation's metric must score the {kept.size} classes of the model's head, got "
                    f"{recall.size}. Correct num_classes or the data set's classes."
                )
            loss.set_class_difficulty(np.where(np.isnan(recall), kept, 1 - recall))
        self._known_at = runner.iter
        hardest = int(np.nanargmin(recall))
        runner.logger.info(
            f"Class difficulty is set from this validation: mean {1 - np.nanmean(recall):.3f}, largest "
            f"{1 - recall[hardest]:.3f} (class {hardest})."
        )

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Store the iteration of the validation that the difficulty comes from."""
        if self._known_at is not None:
            checkpoint["meta"][_SAVED_AS] = self._known_at


def _losses(runner: Any) -> list[Any]:
    losses = [loss for _, loss in losses_with(unwrap(runner.model), "set_class_difficulty")]
    return losses + averaged_losses(runner, "set_class_difficulty")


def _gives_recall(metric: Any) -> bool:
    if hasattr(metric, "class_recall") or type(metric).__name__ == "ConfusionMatrix":
        return True
    return getattr(metric, "average", "macro") is None and "recall" in getattr(metric, "items", ())


def _recall(metrics: list[Any], results: dict[str, Any]) -> FloatArray | None:
    """Return the recall of each class within 0..1, NaN where the truth lacks it, (K,)."""
    for metric in metrics:
        if getattr(metric, "class_recall", None) is not None:
            return np.asarray(metric.class_recall, dtype=np.float64)
    for key, value in results.items():
        if key.endswith("recall_classwise"):
            return np.asarray(value, dtype=np.float64) / 100
        if key == "confusion_matrix/result" and isinstance(value, Tensor):
            matrix = value.cpu().double().numpy()
            with np.errstate(invalid="ignore"):
                return np.diag(matrix) / matrix.sum(1)
    return None
