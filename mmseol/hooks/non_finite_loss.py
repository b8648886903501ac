"""Stop a run whose loss is no longer a finite number, and say where that began."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_rank
from mmengine.hooks import Hook, LoggerHook
from torch import Tensor

from mmseol.registry import HOOKS

__all__ = ["NonFiniteLossHook"]

_REMEDY = (
    "The usual causes are a learning rate that is too high (lower it, warm up, or clip gradients with "
    "optim_wrapper=dict(clip_grad=dict(max_norm=...))), half precision (try OptimWrapper in place of "
    "AmpOptimWrapper, or bfloat16), a far target (a smaller `alpha`), and labels or images that are broken."
)


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Stop training when a loss is NaN or infinite, and name the losses and the first bad iteration.

    Losses are kept on the device and looked at every ``interval`` iterations, at the end of an epoch and
    before validation, so that no iteration waits for the device. Every rank stops if one does. A
    checkpoint is refused, before it overwrites a good one, if a loss since the last look or one of its
    parameters is not finite.

    Args:
        interval: Iterations between two looks; ``None``: that of the run's ``LoggerHook``, or 10.

    Raises:
        FloatingPointError: If a loss or a parameter is not finite.
        ValueError: If ``interval`` is not a whole number above 0.
    """

    priority = "LOW"  # after LoggerHook, which shows the bad losses; before CheckpointHook

    def __init__(self, interval: int | None = None) -> None:
        if interval is not None and (
            isinstance(interval, bool) or not isinstance(interval, int) or interval < 1
        ):
            raise ValueError(f"`interval` must be None or a whole number above 0, got {interval!r}.")
        self.interval = interval
        self._pending: list[tuple[int, list[str], list[Tensor]]] = []

    def before_train(self, runner: Any) -> None:
        """Settle the interval."""
        self._pending.clear()
        if self.interval is None:
            loggers = [hook for hook in runner.hooks if isinstance(hook, LoggerHook)]
            self.interval = loggers[0].interval if loggers else 10

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Keep the losses, and look at them every ``interval`` iterations."""
        if isinstance(outputs, Mapping):
            losses = {
                key: value.detach().float().mean() if isinstance(value, Tensor) else torch.tensor(value)
                for key, value in outputs.items()
                if "loss" in key and isinstance(value, (Tensor, float))
            }
            if losses:
                self._pending.append((runner.iter + 1, list(losses), list(losses.values())))
        if self.every_n_inner_iters(batch_idx, self.interval or 10):  # as LoggerHook counts
            self._look()

    def after_train_epoch(self, runner: Any) -> None:
        """Look at the rest of the epoch."""
        self._look()

    def before_val(self, runner: Any) -> None:
        """Look before time is spent on validation."""
        self._look()

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Refuse to save what is broken; only the first rank gets here, so it does not ask the others."""
        found = self._first_bad()
        if found is not None:
            raise _error(found, get_rank(), "The checkpoint is not saved. ")
        parameters = {name for name, _ in runner.model.named_parameters()}
        parameters |= {name.removeprefix("module.") for name in parameters}
        for name, value in checkpoint.get("state_dict", {}).items():
            if name in parameters and not torch.isfinite(value).all():
                done = checkpoint.get("meta", {}).get("iter", "?")
                raise FloatingPointError(
                    f"The parameter {name} is not finite after iteration {done}; no checkpoint is saved. "
                    f"{_REMEDY}"
                )

    def _look(self) -> None:
        """Raise on every rank if a loss of any rank is not finite."""
        reports = all_gather_object(self._first_bad())
        self._pending.clear()
        bad = [(report, rank) for rank, report in enumerate(reports) if report is not None]
        if bad:
            report, rank = min(bad)
            raise _error(report, rank)

    def _first_bad(self) -> tuple[int, list[str]] | None:
        """Return the first bad iteration, counted from 1 as in the log, and its bad losses."""
        if not self._pending:
            return None
        flat = [value for _, _, values in self._pending for value in values]
        numbers = iter(torch.stack([value.to(flat[0].device) for value in flat]).tolist())  # the one wait
        for iteration, keys, _ in self._pending:
            bad = [f"{key} = {value}" for key in keys if not isfinite(value := next(numbers))]
            if bad:
                return iteration, bad
        return None


def _error(report: tuple[int, list[str]], rank: int, consequence: str = "") -> FloatingPointError:
    iteration, losses = report
    return FloatingPointError(
        f"The loss is not finite, first at iteration {iteration} (rank {rank}): {', '.join(losses)}. "
        f"{consequence}{_REMEDY}"
    )
