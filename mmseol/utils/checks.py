"""Checks of arguments, each with an error that names the argument, its value and the allowed values."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from math import isfinite
from numbers import Integral, Real
from typing import Any, ClassVar

__all__ = ["KnownArguments", "boolean", "check_keywords", "choice", "number", "whole_number"]


def number(
    name: str,
    value: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> float:
    """Return ``value`` as a float.

    >>> number("tau", 1, at_least=0)
    1.0
    >>> number("tau", -1, at_least=0)
    Traceback (most recent call last):
    ValueError: `tau` must be a finite number of at least 0, got -1.

    Raises:
        ValueError: If it is not a finite number within the bounds; a bool is not a number.
    """
    bounds = _bounds(at_least, above, at_most, below)
    fits = isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)
    if fits and all(within(value) for _, within in bounds):
        return float(value)
    raise ValueError(f"`{name}` must be a finite number{_describe(bounds)}, got {value!r}.")


def whole_number(
    name: str,
    value: Any,
    *,
    at_least: int | None = None,
    at_most: int | None = None,
    below: int | None = None,
) -> int:
    """Return ``value`` as an int.

    >>> whole_number("begin", 1.5, at_least=0)
    Traceback (most recent call last):
    ValueError: `begin` must be a whole number of at least 0, got 1.5.

    Raises:
        ValueError: If it is not an integer within the bounds; a bool is not an integer.
    """
    bounds = _bounds(at_least, None, at_most, below)
    fits = isinstance(value, Integral) and not isinstance(value, bool)
    if fits and all(within(value) for _, within in bounds):
        return int(value)
    raise ValueError(f"`{name}` must be a whole number{_describe(bounds)}, got {value!r}.")


def boolean(name: str, value: Any) -> bool:
    """Return ``value``; the string ``'false'`` is true to Python and is refused.

    >>> boolean("per_image", "false")
    Traceback (most recent call last):
    ValueError: `per_image` must be True or False, got 'false'.

    Raises:
        ValueError: If it is neither True nor False.
    """
    if value is not True and value is not False:
        raise ValueError(f"`{name}` must be True or False, got {value!r}.")
    return value


def choice(name: str, value: Any, choices: Collection[str]) -> Any:
    """Return ``value``.

    >>> choice("reduction", "avg", ("none", "mean", "sum"))
    Traceback (most recent call last):
    ValueError: `reduction` must be one of 'none', 'mean', 'sum', got 'avg'.

    Raises:
        ValueError: If it is not one of ``choices``.
    """
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}.")
    return value


class KnownArguments:
    """Mixin whose constructor refuses unknown arguments with a message that lists the known ones.

    Put it before the other bases. A subclass whose constructor takes ``**kwargs`` is not checked, because it
    may handle any name itself.

    >>> class Loss(KnownArguments):
    ...     def __init__(self, alpha=1.0, ignore_index=-100): ...
    >>> Loss(alhpa=6)
    Traceback (most recent call last):
    TypeError: `Loss` has no argument `alhpa`. Did you mean `alpha`? Its arguments are alpha, ignore_index.
    """

    kind: ClassVar[str] = "loss"
    """Noun of the class in the message."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Check the names of the arguments; pickle and copy call it without any."""
        check_keywords(cls, kwargs, cls.kind)
        return super().__new__(cls)


def check_keywords(cls: type, keywords: Iterable[str], kind: str) -> None:
    """Raise unless the constructor of ``cls`` has an argument of each name.

    >>> check_keywords(KeyError, ["use_sigmoid"], "loss")
    >>> class Loss:
    ...     def __init__(self, alpha=1.0): ...
    >>> check_keywords(Loss, ["use_sigmoid"], "loss")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    TypeError: `Loss` has no argument `use_sigmoid`. Perhaps merged with the config's previous ...

    Args:
        cls: A class; with ``**kwargs`` in its constructor, nothing is checked.
        keywords: Names of the arguments in the call.
        kind: Noun of the class in the message.

    Raises:
        TypeError: If the constructor has no argument of that name, with the nearest spelling. Without any,
            the name most likely comes from the config that was merged, and the message says how to replace
            that config.
    """
    parameters = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    known = [name for name in parameters if name != "self"]
    unknown = [name for name in keywords if name not in known]
    if not unknown:
        return
    near = {name: get_close_matches(name, known, n=1, cutoff=0.75) for name in unknown}
    hints = [f"Did you mean `{match[0]}`?" for match in near.values() if match]
    if not all(near.values()):
        hints.append(
            f"Perhaps merged with the config's previous {kind}; add `_delete_=True`: "
            f"dict(_delete_=True, type='mmseol.{cls.__name__}', ...)."
        )
    noun = "argument" if len(unknown) == 1 else "arguments"
    raise TypeError(
        f"`{cls.__name__}` has no {noun} {', '.join(f'`{name}`' for name in unknown)}. {' '.join(hints)} "
        f"Its arguments are {', '.join(known)}."
    )


def _bounds(at_least: Any, above: Any, at_most: Any, below: Any) -> list[tuple[str, Any]]:
    bounds = [
        (f"of at least {at_least}", at_least, lambda value: value >= at_least),
        (f"above {above}", above, lambda value: value > above),
        (f"at most {at_most}", at_most, lambda value: value <= at_most),
        (f"below {below}", below, lambda value: value < below),
    ]
    return [(words, within) for words, bound, within in bounds if bound is not None]


def _describe(bounds: list[tuple[str, Any]]) -> str:
    return "".join(f" {'and ' * (n > 0)}{words}" for n, (words, _) in enumerate(bounds))
