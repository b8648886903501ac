"""Increase the target values of outlying labels over training."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from torch import nn

from mmseol.hooks.run_parts import averaged_losses, losses_with, progress
from mmseol.registry import HOOKS
from mmseol.utils.checks import number, whole_number
from mmseol.utils.modules import unwrap

__all__ = ["AlphaRampHook"]


@HOOKS.register_module()
class AlphaRampHook(Hook):
    r"""Ramp ``alpha`` of outlying labels linearly from ``start`` to ``end``.

    .. math:: \alpha(t) = \alpha_0 + (\alpha_1 - \alpha_0) \, \mathrm{clip}((t - b) / (e - b), 0, 1)

    with epoch or iteration t, ``begin`` b and ``until`` e, :math:`\alpha_0` ``start`` and :math:`\alpha_1`
    ``end``. Large target values give large first losses; the ramp starts with small ones. It is not part of
    arXiv 2107.02393. The hook works on every loss with a method ``set_alpha`` and an
    ``alpha_value``. Alpha depends on the epoch or
    iteration alone, so that a resumed run has the right one; a test uses the ``alpha`` of the loss's config.

    >>> hook = AlphaRampHook(start=1.0, end=6.0, until=20)
    >>> AlphaRampHook(start=0)
    Traceback (most recent call last):
    ValueError: `start` must be a finite number above 0, got 0.

    Args:
        start: Alpha until ``begin``, above 0.
        end: Alpha from ``until`` on, above 0; ``None``: the ``alpha`` of each loss.
        begin: Epoch or iteration where the ramp begins, counted from 0.
        until: Epoch or iteration where it ends, above ``begin``.
        by_epoch: Whether these count epochs (``True``) or iterations.

    Raises:
        ValueError: If an argument is out of its range, or no loss has an alpha.
    """

    priority = "HIGH"  # after ClassCountHook: the targets depend on its counts

    def __init__(
        self,
        start: float = 1.0,
        end: float | None = None,
        begin: int = 0,
        until: int = 10,
        by_epoch: bool = True,
    ) -> None:
        self.start = number("start", start, above=0)
        self.end = None if end is None else number("end", end, above=0)
        self.begin = whole_number("begin", begin, at_least=0)
        self.until = whole_number("until", until, at_least=0)
        if until <= begin:
            raise ValueError(f"`until` must be above `begin` ({begin}), got {until}.")
        self.by_epoch = by_epoch
        self._ends: list[float] = []

    def before_train(self, runner: Any) -> None:
        """Store the last alpha of each loss, and set the first one."""
        losses = losses_with(unwrap(runner.model), "set_alpha")
        if not losses:
            raise ValueError(
                "AlphaRampHook found no loss with `set_alpha`. Train with mmseol.OutlyingMSELoss, or leave "
                "the hook out."
            )
        if not self._ends:
            self._ends = [float(loss.alpha_value if self.end is None else self.end) for _, loss in losses]
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
