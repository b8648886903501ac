"""Modules of a running training: unwrap them, find averaged copies, insert a class into a built module."""

from __future__ import annotations

from functools import cache
from typing import Any

from mmengine.model import is_model_wrapper
from torch import nn

__all__ = ["averaged_copies", "insert_class", "remove_class", "unwrap"]


def unwrap(model: Any) -> nn.Module:
    """Return the model inside wrappers such as ``MMDistributedDataParallel``.

    >>> from torch import nn
    >>> unwrap(nn.Linear(3, 4))
    Linear(in_features=3, out_features=4, bias=True)
    """
    while is_model_wrapper(model):
        model = model.module
    return model


def averaged_copies(runner: Any) -> list[nn.Module]:
    """Return the averaged models that the hooks of a run (``EMAHook``) have made so far.

    >>> from types import SimpleNamespace
    >>> hooks = [SimpleNamespace(ema_model=nn.Identity()), SimpleNamespace()]
    >>> averaged_copies(SimpleNamespace(hooks=hooks))
    [Identity()]
    """
    copies = [getattr(hook, "ema_model", None) for hook in runner.hooks]
    return [copy for copy in copies if isinstance(copy, nn.Module)]


def insert_class(module: nn.Module, mixin: type, *, below: bool = False) -> None:
    """Add a class to the bases of a built module, in place; parameters, buffers and their names stay.

    The module's class becomes a subclass of its class and of ``mixin``. The subclass keeps the name of the
    module's class, because hosts look layers up by it. The module can be copied and pickled. A second call
    changes nothing.

    Args:
        module: Module to change.
        mixin: Class to add.
        below: If ``False``, methods of ``mixin`` override those of the module's class. If ``True``, they
            override those of the base that both share, where ``super()`` finds them.

    >>> class Doubled(nn.Module):
    ...     def forward(self, x):
    ...         return 2 * super().forward(x)
    >>> layer = nn.Identity()
    >>> insert_class(layer, Doubled)
    >>> layer(3), isinstance(layer, nn.Identity)
    (6, True)
    >>> remove_class(layer, Doubled)
    >>> layer(3), type(layer) is nn.Identity
    (3, True)
    """
    if not isinstance(module, mixin):
        cls: Any = type(module)
        module.__class__ = _extended(cls, mixin, below)


def remove_class(module: nn.Module, mixin: type) -> None:
    """Undo :func:`insert_class`; a module without ``mixin`` stays as it is.

    >>> layer = nn.Identity()
    >>> remove_class(layer, nn.Linear)
    >>> type(layer) is nn.Identity
    True
    """
    module.__class__ = _reduced(type(module), mixin)


@cache
def _extended(cls: Any, mixin: type, below: bool) -> Any:
    content = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__reduce__": _reduce,
        "_inserted": (cls, mixin, below),
    }
    return type(cls)(cls.__name__, (cls, mixin) if below else (mixin, cls), content)


def _reduced(cls: Any, mixin: type) -> Any:
    if "_inserted" not in vars(cls):
        return cls
    inner, inserted, below = cls._inserted
    return inner if inserted is mixin else _extended(_reduced(inner, mixin), inserted, below)


def _reduce(module: Any) -> tuple[Any, ...]:
    # The class is made at run time, so pickle cannot find it by name.
    cls, mixins = type(module), list[tuple[type, bool]]()
    while "_inserted" in vars(cls):
        cls, mixin, below = cls._inserted
        mixins.insert(0, (mixin, below))
    return _empty, (cls, *mixins), module.__dict__


def _empty(cls: Any, *mixins: tuple[type, bool]) -> Any:
    for mixin, below in mixins:
        cls = _extended(cls, mixin, below)
    return cls.__new__(cls)
