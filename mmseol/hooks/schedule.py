"""Where a run stands, for hooks that follow a schedule."""

from __future__ import annotations

from typing import Any

__all__ = ["check_step", "progress"]


def progress(runner: Any, by_epoch: bool) -> int:
    """Return the epoch, or the iteration, that is trained or comes next, counted from 0."""
    return runner.epoch if by_epoch else runner.iter


def check_step(name: str, value: Any) -> int:
    """Return an epoch or iteration.

    Raises:
        ValueError: If it is not a whole number of at least 0.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"`{name}` must be a whole number of at least 0, got {value!r}.")
    return value
