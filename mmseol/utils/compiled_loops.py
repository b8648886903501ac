"""Loops compiled by Numba, which is optional: import what uses them where :func:`has_numba` is true."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any

__all__ = ["compiled", "has_numba"]


@lru_cache(maxsize=1)
def has_numba() -> bool:
    """Return whether Numba can be imported; it refuses NumPy of a version that it does not know.

    >>> has_numba()
    True
    """
    try:
        import_module("numba")
    except ImportError:
        return False
    return True


def compiled(*, fastmath: bool) -> Callable[[Any], Any]:
    """Return a decorator that compiles a function at its first call.

    The code is kept on disk where a folder can be written. The function runs without Python's lock.

    >>> @compiled(fastmath=False)
    ... def double(x):
    ...     return 2 * x
    >>> double(3)
    6

    Args:
        fastmath: Whether no number is NaN or infinite, and sums may be taken in another order.
    """

    def decorate(function: Any) -> Any:
        import numba  # not at the top: it is optional

        compile_cached, compile_anew = (
            numba.njit(nogil=True, fastmath=fastmath, error_model="numpy", cache=cache)
            for cache in (True, False)
        )
        try:
            return compile_cached(function)
        except RuntimeError:  # no such folder
            return compile_anew(function)

    return decorate
