"""Stop a run when its loss is not finite, and name the first bad iteration."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_rank
from mmengine.hooks import Hook, LoggerHook
from torch import Tensor

from mmseol.registry import HOOKS
from mmseol.utils.checks import whole_number
from mmseol.utils.modules import unwrap

__all__ = ["NonFiniteLossHook"]

_STATISTICS = (".running_mean", ".running_var")  # other buffers may hold infinity by intention
_REMEDY = (
    "The usual causes are a learning rate that is too high (lower it, warm up, or clip gradients with "
    "optim_wrapper=dict(clip_grad=dict(max_norm=...))), half precision (try OptimWrapper in place of "
    "AmpOptimWrapper, or bfloat16), large target values (lower `alpha`), and broken labels or images."
)


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Stop training when a loss is NaN or infinite, and name the losses and the first bad iteration.

    The hook keeps the losses on the device and checks them every ``interval`` iterations, at the end of an
    epoch and before validation, so that most iterations do not wait for the device. All ranks stop if one
    does. No checkpoint is saved, and none is overwritten, if a loss since the last check, a parameter, an
    averaged parameter (``EMAHook``) or a running mean or variance is not finite.

    >>> hook = NonFiniteLossHook(interval=50)

    Args:
        interval: Iterations between two checks; ``None``: that of the run's ``LoggerHook``, or 10.

    Raises:
        FloatingPointError: If a loss or a parameter is not finite.
        ValueError: If ``interval`` is not an integer of at least 1.
    """

    priority = "LOW"  # after LoggerHook, which logs the losses; before CheckpointHook

    def __init__(self, interval: int | None = None) -> None:
        self.interval = None if interval is None else whole_number("interval", interval, at_least=1)
        self._pending: list[tuple[int, list[str], list[Tensor]]] = []

    def before_train(self, runner: Any) -> None:
        """Set the interval."""
        self._pending.clear()
        if self.interval is None:
            loggers = [hook for hook in runner.hooks if isinstance(hook, LoggerHook)]
            self.interval = loggers[0].interval if loggers else 10

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Keep the losses, and check them every ``interval`` iterations."""
        if isinstance(outputs, Mapping):
            losses = {
                key: value.detach().float().mean() if isinstance(value, Tensor) else torch.tensor(value)
                for key, value in outputs.items()
                if "loss" in key and isinstance(value, (Tensor, float))
            }
            if losses:
                self._pending.append((runner.iter + 1, list(losses), list(losses.values())))
        assert self.interval is not None
        if self.every_n_inner_iters(batch_idx, self.interval):  # as LoggerHook counts
            self._check()

    def after_train_epoch(self, runner: Any) -> None:
        """Check the last losses of the epoch."""
        self._check()

    def before_val(self, runner: Any) -> None:
        """Check before time is spent on validation."""
        self._check()

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Refuse to save a broken state. Only the first rank calls this, so it must not communicate."""
        found = self._first_bad()
        if found is not None:
            raise _error(found, get_rank(), "The checkpoint is not saved. ")
        parameters = {name for name, _ in unwrap(runner.model).named_parameters()}
        for part in ("state_dict", "ema_state_dict"):
            for name, value in checkpoint.get(part, {}).items():
                weight = name.removeprefix("module.") in parameters or name.endswith(_STATISTICS)
                if weight and not torch.isfinite(value).all():
                    done = checkpoint.get("meta", {}).get("iter", "?")
                    raise FloatingPointError(
                        f"The parameter {name} is not finite after iteration {done}; no checkpoint is saved. "
                        f"{_REMEDY}"
                    )

    def _check(self) -> None:
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
