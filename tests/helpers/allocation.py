"""Steps for tests of memory measurement; imports little, for processes that last a moment."""

from __future__ import annotations

from collections.abc import Callable

import torch


def allocate(mb: int) -> Callable[[], None]:
    """Return a step that keeps so many megabytes, and drops as many before."""
    kept = []

    def step() -> None:
        torch.ones(mb * 250_000)
        kept.append(torch.ones(mb * 250_000))

    return step


def refuse() -> Callable[[], None]:
    """Fail."""
    raise ValueError("refused")
