"""Work that either succeeds on every rank or fails on every rank, so that none waits for one that failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mmengine.dist import all_gather_object

__all__ = ["LabelError", "agree", "check_alike"]

Result = TypeVar("Result")


class LabelError(ValueError):
    """What is wrong with the labels at a position of the data set."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


def agree(work: Callable[[], Result]) -> Result:
    """Return ``work()``; where it fails on any rank, raise on all what failed first in data set order."""
    result: Result
    caught = None
    try:
        result = work()
    except Exception as error:
        caught = error
    mine = None if caught is None else (getattr(caught, "position", -1), str(caught))
    failures = [failure for failure in all_gather_object(mine) if failure is not None]
    if not failures:
        return result
    if caught is not None and mine == min(failures):
        raise caught
    raise ValueError(min(failures)[1])


def check_alike(what: str, value: object) -> None:
    """Raise on all ranks if ``value`` is not the same on all of them."""
    values = all_gather_object(value)
    if any(other != values[0] for other in values):
        raise ValueError(
            f"{what} must be the same on every rank, got {values}. Check the data on every node."
        )
