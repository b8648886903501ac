"""Steps for tests of memory measurement; few imports, because fresh processes load them."""

from __future__ import annotations

from collections.abc import Callable

import torch


def allocate(mb: int) -> Callable[[], None]:
    """Return a step that allocates and frees ``mb`` megabytes, then allocates and keeps as many."""
    kept = []

    def step() -> None:
        torch.ones(mb * 250_000)
        kept.append(torch.ones(mb * 250_000))

    return step


def refuse() -> Callable[[], None]:
    """Raise an error."""
    raise ValueError("refused")
