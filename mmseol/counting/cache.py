"""Counts kept on disk under a key made of everything that they follow from."""

from __future__ import annotations

import hashlib
import inspect
import os
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from mmseol.utils.arrays import IntArray
from mmseol.utils.files import replacing

__all__ = ["default_cache_dir", "describe", "read", "write"]


def default_cache_dir() -> Path:
    """Return ``$MMSEOL_CACHE``, or ``mmseol`` under ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if os.environ.get("MMSEOL_CACHE"):
        return Path(os.environ["MMSEOL_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmseol"


def describe(value: Any) -> str:
    """Return a text that differs whenever settings or code of ``value`` do, alike in every process.

    Raises:
        TypeError: If that cannot be said of ``value`` (a lambda, an open file, a class typed into a shell).
    """
    if value is None or isinstance(value, (bool, int, float, str, bytes, PurePath, np.generic)):
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"array {value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{describe(key)}: {describe(item)}" for key, item in value.items())
        return f"{type(value).__name__} {{{inner}}}"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__} [{', '.join(map(describe, value))}]"
    if inspect.isclass(value) or (inspect.isfunction(value) and "<" not in value.__qualname__):
        return f"{value.__module__}.{value.__qualname__} {_source_digest(value)}"
    if inspect.isroutine(value) or not hasattr(value, "__dict__"):
        raise TypeError(f"settings of type {type(value).__name__} have no lasting description")
    code = [describe(base) for base in type(value).__mro__ if base.__module__ != "builtins"]
    return f"object {code} {describe(vars(value))}"


def _source_digest(code: Any) -> str:
    """Return the digest of the file in which a class or function is written."""
    if getattr(code, "__module__", None) in ("abc", "typing"):
        return ""
    path = inspect.getsourcefile(code)  # TypeError where there is none
    if path is None or not os.path.isfile(path):
        raise TypeError(f"{code!r} has no source file")
    return _file_digest(path, os.stat(path).st_mtime_ns)


@lru_cache
def _file_digest(path: str, mtime: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def read(path: Path, shape: tuple[int, int]) -> tuple[IntArray, IntArray] | None:
    """Return the counts, of the given shape (M, K), and sizes, (M,), in a cache file, or ``None``.

    A file that is there but broken is reported by a warning.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            counts, sizes = file["counts"], file["sizes"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # whatever is wrong with the file, the answer is to count
        warnings.warn(f"The cached counts in {path} cannot be read ({error}); counting anew.", stacklevel=2)
        return None
    if (
        counts.dtype != np.int64
        or sizes.dtype != np.int64
        or counts.shape != shape
        or sizes.shape != shape[:1]
        or (counts < 0).any()
        or (counts.sum(1) > sizes).any()
    ):
        warnings.warn(f"The cached counts in {path} are not what was written; counting anew.", stacklevel=2)
        return None
    return counts, sizes


def write(path: Path, counts: IntArray, sizes: IntArray) -> None:
    """Write a cache file, whole or not at all; a folder that takes no files costs a warning."""
    try:
        with replacing(path) as file:
            np.savez_compressed(file, counts=counts, sizes=sizes)
    except OSError as error:
        warnings.warn(
            f"The counts could not be cached in {path.parent} ({error}) and will be counted anew next time; "
            "set `cache_dir` or $MMSEOL_CACHE to a folder that can be written.",
            stacklevel=2,
        )
