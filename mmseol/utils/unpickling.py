"""Load checkpoints without running code from them.

A checkpoint is a pickle, and a pickle may call any function when it is read. Here it may only rebuild
tensors, arrays, plain containers and the ``HistoryBuffer`` in which mmengine keeps logged values.
``torch.load`` with ``weights_only=True`` refuses mmengine's checkpoints in torch 2.1. In later versions
mmengine reads a file that this option refuses once more without the option, and thereby runs its code.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["UNSAFE", "load_checkpoint", "plain_data_only", "trained_iterations"]

UNSAFE = "--unsafe-load"
"""Option of the commands that reads a checkpoint with all that it contains."""

_TORCH_LOAD = torch.load
_NUMPY = "numpy._core." if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else "numpy.core."
_HISTORY = ("mmengine.logging.history_buffer", "HistoryBuffer")
_STATISTICS = ("mean", "max", "min", "current")
_ALLOWED = {
    _HISTORY,
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("collections", "deque"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    (_NUMPY + "multiarray", "_reconstruct"),
    (_NUMPY + "multiarray", "scalar"),
    ("torch", "Size"),
    ("torch", "Tensor"),
    ("torch", "device"),
    ("torch.nn.parameter", "Parameter"),
    ("torch.storage", "UntypedStorage"),
    ("torch.torch_version", "TorchVersion"),
    *(
        ("torch._utils", f"_rebuild_{kind}")
        for kind in ("tensor", "tensor_v2", "parameter", "qtensor", "sparse_tensor")
    ),
    *(("builtins", name) for name in ("bool", "bytearray", "complex", "dict", "float", "frozenset")),
    *(("builtins", name) for name in ("int", "list", "range", "set", "slice", "str", "tuple")),
}


def load_checkpoint(path: str | Path, *, unsafe: bool = False) -> dict[str, Any]:
    """Return a checkpoint on the CPU: tensors and plain data.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "a.pth")
    >>> torch.save({"state_dict": {"weight": torch.ones(2)}}, path)
    >>> load_checkpoint(path)
    {'state_dict': {'weight': tensor([1., 1.])}}

    Args:
        path: Checkpoint file.
        unsafe: Read whatever the file contains, which may run code from it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a checkpoint, or contains anything but tensors and plain data.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"`checkpoint` must be an existing file, got {str(path)!r}.")
    try:
        if unsafe:
            checkpoint = _TORCH_LOAD(path, map_location="cpu", weights_only=False)
        else:
            checkpoint = _load_plain(path, map_location="cpu")
    except (AttributeError, EOFError, KeyError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(f"`checkpoint` {str(path)!r} cannot be read: {error}") from error
    if not isinstance(checkpoint, dict):
        raise ValueError(
            f"`checkpoint` must be a file with a dict, got {type(checkpoint).__name__} in {str(path)!r}."
        )
    return checkpoint


def trained_iterations(path: str | Path) -> int:
    """Return after how many iterations a checkpoint was saved, without reading its tensors; -1 if unknown.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "a.pth")
    >>> torch.save({"meta": {"iter": 30}, "state_dict": {"weight": torch.ones(2)}}, path)
    >>> trained_iterations(path), trained_iterations("missing.pth")
    (30, -1)
    """
    try:
        return int(_load_plain(str(path), map_location="cpu", mmap=True)["meta"]["iter"])
    except Exception:  # a damaged file may raise anything
        return -1


@contextmanager
def plain_data_only(unsafe: bool = False) -> Iterator[None]:
    """Replace ``torch.load``, and with it every loader of mmengine, by one that runs no code; then undo it.

    >>> with plain_data_only():
    ...     torch.load is _load_plain
    True
    >>> torch.load is _load_plain
    False

    Args:
        unsafe: Leave ``torch.load`` as it is.
    """
    before = torch.load
    if not unsafe:
        torch.load = _load_plain
    try:
        yield
    finally:
        torch.load = before


def _load_plain(f: Any, map_location: Any = None, *_: Any, mmap: Any = None, **__: Any) -> Any:
    """Load as ``torch.load`` does, but only tensors and plain data, whatever the caller asks for.

    Raises:
        ValueError: If there is anything else in the file.
    """
    if isinstance(f, (str, Path)) and zipfile.is_zipfile(f):
        with zipfile.ZipFile(f) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise ValueError(f"`checkpoint` must be tensors and plain data, got a program in {str(f)!r}.")
    options = {} if mmap is None else {"mmap": mmap}
    try:
        return _TORCH_LOAD(f, map_location, pickle_module=_PlainPickle, weights_only=False, **options)
    except _ForbiddenError as error:
        raise ValueError(
            f"`checkpoint` must be tensors and plain data, got {error} in {str(f)!r}. Reading it could run "
            f"code from the file. If you trust its author, add {UNSAFE}."
        ) from error


class _ForbiddenError(Exception):
    """A pickle asks for something that is neither tensor nor plain data."""


class _Unpickler(pickle.Unpickler):
    """Unpickler of what a checkpoint needs."""

    def find_class(self, module: str, name: str) -> Any:
        """Return an allowed function or class."""
        module = {"__builtin__": "builtins"}.get(module, module)
        module = module.replace("numpy._core.", _NUMPY).replace("numpy.core.", _NUMPY)
        if (module, name) == ("builtins", "getattr"):
            return _statistic
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        is_dtype = module == "numpy.dtypes" and name.endswith("DType") and name.isidentifier()
        if (module, name) in _ALLOWED or is_dtype:
            return super().find_class(module, name)
        raise _ForbiddenError(f"{module}.{name}")


def _statistic(owner: Any, name: str) -> Callable[..., Any]:
    """Stand for ``getattr`` in the pickle of a ``HistoryBuffer``, which names its own methods."""
    if getattr(owner, "__module__", None) != _HISTORY[0] or name not in _STATISTICS:
        raise _ForbiddenError(f"getattr(..., {name!r})")
    return getattr(owner, name)


class _PlainPickle:
    """What ``torch.load`` takes as a pickle module."""

    Unpickler = _Unpickler

    @staticmethod
    def load(file: Any, **options: Any) -> Any:
        """Read one object, as ``pickle.load`` does."""
        return _Unpickler(file, **options).load()
