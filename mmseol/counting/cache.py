"""Keep counts on disk, under a key made of everything that they depend on."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import sys
import warnings
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from mmseol.utils.arrays import IntArray
from mmseol.utils.files import replacing

__all__ = ["default_cache_dir", "describe", "read", "write"]


def default_cache_dir() -> Path:
    """Return ``$MMSEOL_CACHE``, or ``mmseol`` under ``$XDG_CACHE_HOME`` or ``~/.cache``.

    >>> default_cache_dir().is_dir() or not default_cache_dir().exists()
    True
    """
    if os.environ.get("MMSEOL_CACHE"):
        return Path(os.environ["MMSEOL_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmseol"


def describe(value: Any) -> str:
    """Return settings as a text that is the same in every process and differs if a setting does.

    An object, such as a transform, is described by its classes and its attributes. A class is described by
    its name and the version of its package, or by its source file if the package has no version.

    >>> describe({"label_map": {11: 255}, "size": np.int64(3)})
    '{"label_map": {"11": 255}, "size": 3}'

    Raises:
        TypeError: If there is no such text (a function, an open file, a class typed into a shell).
        ValueError: If an object contains itself.
    """
    return json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    """Return what JSON can hold in place of ``value``."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return [str(value.dtype), value.shape, hashlib.sha256(value.tobytes()).hexdigest()]
    if isinstance(value, PurePath):
        return str(value)
    if inspect.isclass(value) or inspect.isroutine(value) or not hasattr(value, "__dict__"):
        raise TypeError(f"settings of type {type(value).__name__} cannot be described")
    return [[_code(base) for base in type(value).__mro__ if base.__module__ != "builtins"], vars(value)]


def _code(kind: type) -> str:
    version = getattr(sys.modules.get(kind.__module__.partition(".")[0]), "__version__", None)
    if version is None:
        path = inspect.getsourcefile(kind)  # TypeError in a shell
        if path is None or not os.path.isfile(path):
            raise TypeError(f"{kind.__qualname__} has no source file")
        version = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return f"{kind.__module__}.{kind.__qualname__} {version}"


def read(path: Path, number: int, num_classes: int, changed: int = 0) -> IntArray | None:
    """Return the table in a cache file, (M, K + 3), or ``None`` if there is none of these sizes.

    A row holds the pixels of the K classes, those of the whole label map, its height and its width. The file
    holds a plain array and is never unpickled. A warning names a file that is broken.

    >>> read(Path("no such file.npz"), number=367, num_classes=11) is None
    True

    Args:
        path: Cache file.
        number: M.
        num_classes: K.
        changed: Time at which a label map was changed last, in nanoseconds. A cache file that is not younger
            is not read: if the clock stands or was set back, a label map may have changed afterwards without
            a new time.
    """
    try:
        if path.stat().st_mtime_ns <= changed:
            return None
        with np.load(path, allow_pickle=False) as file:
            table = file["table"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # a broken file may raise anything, and counting again is always right
        warnings.warn(f"The cached counts in {path} cannot be read ({error}); counting anew.", stacklevel=2)
        return None
    if (
        table.dtype != np.int64
        or table.shape != (number, num_classes + 3)
        or (table < 0).any()
        or (table[:, :-3].sum(1) > table[:, -3]).any()
    ):
        warnings.warn(f"The cached counts in {path} were changed; counting anew.", stacklevel=2)
        return None
    return table


def write(path: Path, table: IntArray) -> None:
    """Write a cache file, whole or not at all. If the folder cannot be written, warn.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(Path(folder) / "counts.npz", np.array([[3, 1, 6, 2, 3]]))
    ...     read(Path(folder) / "counts.npz", number=1, num_classes=2)
    array([[3, 1, 6, 2, 3]])
    """
    try:
        with replacing(path) as file:
            np.savez_compressed(file, table=table)
    except OSError as error:
        warnings.warn(
            f"The counts could not be cached in {path.parent} ({error}) and will be counted anew next time; "
            "set `cache_dir` or $MMSEOL_CACHE to a folder that can be written.",
            stacklevel=2,
        )
