"""Fit the temperature of calibrated heads on validation data."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from torch import Tensor, nn

from mmseol.classification.heads import CalibratedHeadMixin
from mmseol.registry import HOOKS
from mmseol.utils.modules import averaged_copies

__all__ = ["TemperatureHook", "fit_temperature"]

_LOG_BOUNDS = (-7.0, 14.0)  # separable data give T = 0, random scores give infinity


def fit_temperature(evidence: Any, labels: Any) -> float:
    r"""Return the temperature :math:`T` that minimises :math:`-\sum_i \log \mathrm{softmax}(z_i / T)_{y_i}`.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017; :math:`\log T` within [-7, 14].

    >>> evidence = np.log([[0.75, 0.25]] * 4)
    >>> round(fit_temperature(10 * evidence, [0, 0, 0, 1]), 3)
    10.0

    Args:
        evidence: :math:`z`, (N, K).
        labels: Classes :math:`y`, integers (N,).

    Raises:
        ValueError: If there is no sample, shapes do not fit, or the evidence is not finite.
    """
    evidence, labels = np.asarray(evidence, dtype=np.float64), np.asarray(labels)
    if evidence.ndim != 2 or labels.shape != evidence.shape[:1] or not len(labels):
        raise ValueError(
            f"`evidence` must be (N, K) and `labels` (N,) with N above 0, got {evidence.shape} and "
            f"{labels.shape}."
        )
    if not np.isfinite(evidence).all():
        raise ValueError("`evidence` must be finite, got NaN or infinity. Did training diverge?")
    centred = evidence - evidence[np.arange(len(labels)), labels, None]

    def loss(log_temperature: float) -> float:
        return float(logsumexp(centred / np.exp(log_temperature), axis=1).mean())

    return float(np.exp(minimize_scalar(loss, bounds=_LOG_BOUNDS, method="bounded").x))


@HOOKS.register_module()
class TemperatureHook(Hook):
    """Fit the temperature of the model's calibrated heads after every validation, and keep it in the model.

    The scores of that validation still use the previous temperature; decisions and rankings never depend on
    it. The best checkpoint (``save_best``) is written after the fit and holds the fitted temperature; a
    periodic checkpoint is written before the validation and holds the previous one. Without a calibrated
    head the hook does nothing.

    >>> hook = TemperatureHook()
    """

    priority = "HIGH"  # before EMAHook swaps the weights back and CheckpointHook saves the best

    def __init__(self) -> None:
        self._heads: list[CalibratedHeadMixin] = []
        self._handles: list[Any] = []
        self._evidence: list[list[Tensor]] = []
        self._labels: list[Tensor] = []

    def before_val_epoch(self, runner: Any) -> None:
        """Start to collect the heads' outputs."""
        self._stop()
        self._heads = _calibrated(runner.model)
        self._evidence = [[] for _ in self._heads]
        self._labels = []
        for head, kept in zip(self._heads, self._evidence, strict=True):
            assert isinstance(head, nn.Module)
            self._handles.append(head.register_forward_hook(_keep(kept)))

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Collect the labels."""
        if self._heads:
            self._labels += [sample.gt_label.cpu() for sample in outputs or ()]

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Fit on the samples of all ranks, and set the temperature on each."""
        heads, collected, labels = self._heads, self._evidence, self._labels
        self._stop()
        for head, kept in zip(heads, collected, strict=True):
            own = (torch.cat(kept), torch.cat(labels)) if kept and labels else None
            parts = [part for part in all_gather_object(own) if part is not None]
            if not parts:
                continue
            evidence, truth = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
            temperature = fit_temperature(evidence, truth)
            head.set_temperature(temperature)
            for copy in averaged_copies(runner):
                for averaged in _calibrated(copy):
                    averaged.set_temperature(temperature)
            runner.logger.info(
                f"Temperature of the scores, fitted on {len(truth)} samples: {temperature:.4g}"
            )

    def _stop(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._heads, self._evidence, self._labels = [], [], [], []


def _keep(kept: list[Tensor]) -> Any:
    def hook(head: CalibratedHeadMixin, inputs: Any, outputs: Tensor) -> None:
        kept.append(head.evidence(outputs).cpu())

    return hook


def _calibrated(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, CalibratedHeadMixin)]
