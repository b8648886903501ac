"""Move the targets of outlying labels outwards over training."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from torch import nn

from mmseol.hooks.run_parts import averaged_losses, check_step, losses_with, progress, unwrap
from mmseol.registry import HOOKS

__all__ = ["AlphaRampHook"]


@HOOKS.register_module()
class AlphaRampHook(Hook):
    r"""Ramp ``alpha`` of outlying labels linearly from ``start`` to ``end``.

    .. math:: \alpha(t) = \alpha_0 + (\alpha_1 - \alpha_0) \, \mathrm{clip}((t - b) / (e - b), 0, 1)

    with epoch or iteration t, ``begin`` b and ``until`` e; from e on it is ``end``. Far targets give
    large first losses; a ramp starts near the origin. Not part of arXiv 2107.02393. It works on every loss
    with a method ``set_alpha``. Alpha follows from the epoch or iteration alone, so that a resumed run has
    the right one; a test uses the loss's own.

    Args:
        start: Alpha until ``begin``, above 0.
        end: Alpha from ``until`` on, above 0; ``None``: each loss's own.
        begin: Where the ramp begins, counted from 0.
        until: Where it ends, above ``begin``.
        by_epoch: Whether these count epochs, or iterations.

    Raises:
        ValueError: If an argument is out of its range, or no loss has an alpha.
    """

    priority = "HIGH"  # behind ClassCountHook, whose counts the targets follow from

    def __init__(
        self,
        start: float = 1.0,
        end: float | None = None,
        begin: int = 0,
        until: int = 10,
        by_epoch: bool = True,
    ) -> None:
        for name, value in (("start", start), ("end", end)):
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf")
            ):
                raise ValueError(f"`{name}` must be a finite number above 0, got {value!r}.")
        self.begin, self.until = check_step("begin", begin), check_step("until", until)
        if until <= begin:
            raise ValueError(f"`until` must be above `begin` ({begin}), got {until}.")
        self.start, self.end, self.by_epoch = start, end, by_epoch
        self._ends: list[float] = []

    def before_train(self, runner: Any) -> None:
        """Take down where each loss's ramp ends, and set the alpha that comes first."""
        losses = losses_with(unwrap(runner.model), "set_alpha")
        if not losses:
            raise ValueError(
                "AlphaRampHook found no loss with `set_alpha`. Train with mmseol.OutlyingMSELoss, or leave "
                "the hook out."
            )
        if not self._ends:
            self._ends = [float(loss.alpha if self.end is None else self.end) for _, loss in losses]
        self._set(runner)

    def before_train_epoch(self, runner: Any) -> None:
        """Set alpha of the epoch."""
        if self.by_epoch:
            self._set(runner)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Set alpha of the iteration."""
        if not self.by_epoch:
            self._set(runner)

    def _set(self, runner: Any) -> None:
        done = (progress(runner, self.by_epoch) - self.begin) / (self.until - self.begin)
        done = min(max(done, 0.0), 1.0)
        model = unwrap(runner.model)
        _ramp([loss for _, loss in losses_with(model, "set_alpha")], self.start, self._ends, done)
        copies = [loss for loss in averaged_losses(runner) if hasattr(loss, "set_alpha")]
        _ramp(copies, self.start, self._ends * (len(copies) // len(self._ends)), done)


def _ramp(losses: list[nn.Module], start: float, ends: list[float], done: float) -> None:
    for loss, end in zip(losses, ends, strict=True):
        alpha = end if done == 1.0 else start + done * (end - start)
        if loss.alpha != alpha:
            loss.set_alpha(alpha)  # type: ignore[operator]
