"""Deferred re-weighting: set class weights from a late epoch on."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from mmengine.hooks import Hook

from mmseol.counting.counts import CLASS_WEIGHTS, class_weights
from mmseol.hooks.run_parts import losses_with, progress
from mmseol.registry import HOOKS
from mmseol.utils.checks import choice, number, whole_number
from mmseol.utils.modules import unwrap

__all__ = ["DeferredReweightHook"]


@HOOKS.register_module()
class DeferredReweightHook(Hook):
    r"""Train with equal class weights first, and with weights from the class counts from ``begin`` on (DRW).

    Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019,
    Algorithm 1. All weights are 1 before ``begin``. The defaults are those of the authors' code for 200
    epochs: effective-number weights with :math:`\beta = 0.9999` from epoch 160 on, counted from 0;
    ``weight='inverse_frequency'`` is the text of the paper. The hook works on every loss of mmseol but
    CDBLoss, whose weights follow from the difficulty of the classes, and on others with a method
    ``set_class_weight``. It replaces the ``class_weight`` that the loss was built with; losses without that
    argument are multiplied by the weight of each element's class::

        model = dict(head=dict(loss=dict(type="mmseol.LDAMLoss", max_margin=0.5, scale=30.0)))
        custom_hooks = [
            dict(type="mmseol.ClassCountHook"),
            dict(type="mmseol.DeferredReweightHook", begin=160),
        ]

    The weights depend on the epoch alone, so that a resumed run has the right ones. For deferred
    re-sampling (DRS) use ``mmseol.DeferredSampler``.

    >>> hook = DeferredReweightHook(begin=160)
    >>> DeferredReweightHook(begin=-1)
    Traceback (most recent call last):
    ValueError: `begin` must be a whole number of at least 0, got -1.

    Args:
        begin: First epoch, or iteration, with class weights, counted from 0.
        by_epoch: Whether ``begin`` counts epochs (``True``) or iterations.
        weight: Name of the weights, or a power of the counts; see
            :func:`mmseol.counting.counts.class_weights`.
        beta: :math:`\beta` of the effective number, in [0, 1).

    Raises:
        ValueError: If an argument is out of its range, or no loss takes class weights.
        RuntimeError: If a loss does not know the class counts.
    """

    priority = "HIGH"  # after ClassCountHook, which sets the counts

    def __init__(
        self,
        begin: int = 160,
        by_epoch: bool = True,
        weight: Literal["effective_number", "inverse_frequency", "median_frequency", "enet"]
        | float = "effective_number",
        beta: float = 0.9999,
    ) -> None:
        self.begin = whole_number("begin", begin, at_least=0)
        self.by_epoch = by_epoch
        self.weight: str | float = (
            choice("weight", weight, CLASS_WEIGHTS)
            if isinstance(weight, str)
            else number("weight", weight, at_least=0)
        )
        self.beta = number("beta", beta, at_least=0, below=1)
        self._on: bool | None = None

    def before_train(self, runner: Any) -> None:
        """Set the weights of the first epoch or iteration, also after resuming."""
        losses = losses_with(unwrap(runner.model), "set_class_weight")
        if not losses:
            raise ValueError(
                "DeferredReweightHook found no loss with `set_class_weight`. Train with a loss of mmseol "
                "that takes `class_weight`, such as mmseol.CrossEntropyLoss, or leave the hook out."
            )
        for name, loss in losses:
            if getattr(loss, "class_counts", None) is None or not loss.class_counts.any():
                raise RuntimeError(
                    f"DeferredReweightHook needs the class counts, and {name} does not know them. Add "
                    "the hook that counts: custom_hooks = [dict(type='mmseol.ClassCountHook'), ...], or give "
                    "the loss class_counts=[...]."
                )
        last = runner.max_epochs if self.by_epoch else runner.max_iters
        if self.begin >= last:
            unit = "epochs" if self.by_epoch else "iterations"
            runner.logger.warning(
                f"DeferredReweightHook: `begin` is {self.begin}, but the run has {last} {unit}: the loss is "
                "never weighted."
            )
        self._on = None
        self._set(runner)

    def before_train_epoch(self, runner: Any) -> None:
        """Set the weights of the epoch."""
        if self.by_epoch:
            self._set(runner)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Set the weights of the iteration."""
        if not self.by_epoch:
            self._set(runner)

    def _set(self, runner: Any) -> None:
        on = progress(runner, self.by_epoch) >= self.begin
        if on == self._on:
            return
        for name, loss in losses_with(unwrap(runner.model), "set_class_weight"):
            counts = loss.class_counts.cpu().numpy()
            totals = loss.class_totals.cpu().numpy()
            weights = (
                class_weights(self.weight, counts, totals if totals.any() else None, self.beta)
                if on
                else np.ones(counts.size)
            )
            loss.set_class_weight(weights)
            if on:
                shown = np.array2string(weights, precision=4, threshold=20)
                runner.logger.info(f"{name}: class weights from now on: {shown}.")
        self._on = on
