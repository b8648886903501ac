"""Estimates of what trials cost, from what finished ones took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from statistics import median
from typing import Any

__all__ = ["Costs", "duration"]


class Costs:
    """Seconds per epoch, or per iteration, of finished trials, by config, imbalance and loss.

    >>> costs = Costs(seconds=10.0)
    >>> costs.seconds("a.py", None, "ce", length=3)
    30.0
    >>> costs.add({"config": "a.py", "imbalance": None, "loss": "ce", "epochs": 2, "seconds": 8.0})
    >>> costs.seconds("a.py", None, "ce", length=3), costs.seconds("a.py", None, "mse", length=3)
    (12.0, 12.0)

    Args:
        seconds: Guess where no trial of a config has finished.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.guess = seconds
        self._known: dict[tuple[Any, ...], list[float]] = defaultdict(list)

    def add(self, record: Mapping[str, Any]) -> None:
        """Take a record into account."""
        if record.get("diverged"):
            return
        per_unit = record["seconds"] / (record["epochs"] or record["iterations"])
        config, imbalance, loss = record["config"], record["imbalance"], record["loss"]
        for key in ((config, imbalance, loss), (config, imbalance), (config,)):
            self._known[key].append(per_unit)

    def seconds(self, config: str, imbalance: str | None, loss: str, length: int) -> float | None:
        """Return the estimate of a trial, or ``None`` without any."""
        for key in ((config, imbalance, loss), (config, imbalance), (config,)):
            if self._known.get(key):
                return median(self._known[key]) * length
        return None if self.guess is None else self.guess * length


def duration(seconds: float | None) -> str:
    """Return a time as text.

    >>> duration(45), duration(4000), duration(None)
    ('45 s', '1 h 07 min', 'unknown')
    """
    if seconds is None:
        return "unknown"
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
