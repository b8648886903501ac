"""Find in a run what hooks work on: losses and metrics by their methods, and the training data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mmengine.model import is_model_wrapper
from torch import nn

__all__ = [
    "averaged_losses",
    "check_step",
    "counting_losses",
    "counting_metrics",
    "from_heads",
    "losses_with",
    "missing_hooks",
    "progress",
    "train_dataset",
    "train_sampler",
    "unwrap",
]


def unwrap(model: Any) -> nn.Module:
    """Return the model inside of wrappers such as ``MMDistributedDataParallel``."""
    while is_model_wrapper(model):
        model = model.module
    return model


def losses_with(model: nn.Module, method: str) -> list[tuple[str, Any]]:
    """Return the modules, with their names, that have the method."""
    return [(name, part) for name, part in model.named_modules() if callable(getattr(part, method, None))]


def counting_losses(model: nn.Module) -> list[tuple[str, Any]]:
    """Return the modules, with their names, that have ``set_class_counts``."""
    return losses_with(model, "set_class_counts")


def averaged_losses(runner: Any, method: str = "set_class_counts") -> list[Any]:
    """Return such modules inside of the averaged models that hooks (``EMAHook``) have made by now."""
    copies = [getattr(hook, "ema_model", None) for hook in runner.hooks]
    return [loss for copy in copies if isinstance(copy, nn.Module) for _, loss in losses_with(copy, method)]


def missing_hooks(runner: Any, losses: Iterable[tuple[str, Any]]) -> list[tuple[str, str]]:
    """Return the names of the losses whose ``required_hooks`` the run lacks, each with the hook's type."""
    types = {type(hook).__name__ for hook in runner.hooks}
    return [
        (name, required)
        for name, loss in losses
        for required in getattr(loss, "required_hooks", ())
        if required.rpartition(".")[-1] not in types
    ]


def counting_metrics(loop: Any) -> list[Any]:
    """Return the metrics of a validation or test loop that have ``set_class_counts``.

    A loop that is not built yet, or that the run does not have, has none.
    """
    metrics = getattr(getattr(loop, "evaluator", None), "metrics", None) or ()
    return [metric for metric in metrics if callable(getattr(metric, "set_class_counts", None))]


def train_dataset(runner: Any) -> Any:
    """Return the training data set, or ``None``; a train loop that is not built yet stays so."""
    loader = getattr(runner._train_loop, "dataloader", None)
    return getattr(loader, "dataset", None)


def train_sampler(runner: Any) -> Any:
    """Return the sampler of the training data, or ``None``."""
    return getattr(getattr(runner._train_loop, "dataloader", None), "sampler", None)


def from_heads(model: nn.Module, losses: Iterable[tuple[str, Any]], attribute: str) -> dict[str, int]:
    """Return the attribute of the nearest module above each loss that has it as a whole number, by name."""
    found = {}
    for name, _ in losses:
        while name:
            name = name.rpartition(".")[0]
            value = getattr(model.get_submodule(name), attribute, None)
            if isinstance(value, int) and not isinstance(value, bool):
                found[name or "the model"] = value
                break
    return found


def progress(runner: Any, by_epoch: bool) -> int:
    """Return the epoch, or the iteration, that is trained or comes next, counted from 0."""
    return runner.epoch if by_epoch else runner.iter


def check_step(name: str, value: Any) -> int:
    """Return an epoch or iteration.

    Raises:
        ValueError: If it is not a whole number of at least 0.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"`{name}` must be a whole number of at least 0, got {value!r}.")
    return value
