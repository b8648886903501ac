"""Find in a run what hooks work on: losses and metrics by their methods, and the training data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mmengine.model import is_model_wrapper
from torch import nn

__all__ = [
    "averaged_losses",
    "counting_losses",
    "counting_metrics",
    "from_heads",
    "losses_with",
    "train_dataset",
    "train_sampler",
    "unwrap",
]


def unwrap(model: Any) -> nn.Module:
    """Return the model inside of wrappers such as ``MMDistributedDataParallel``."""
    while is_model_wrapper(model):
        model = model.module
    return model


def counting_losses(model: nn.Module) -> list[tuple[str, Any]]:
    """Return the modules, with their names, that have ``set_class_counts``."""
    return losses_with(model, "set_class_counts")


def losses_with(model: nn.Module, method: str) -> list[tuple[str, Any]]:
    """Return the modules, with their names, that have this method."""
    return [
        (name, module) for name, module in model.named_modules() if callable(getattr(module, method, None))
    ]


def averaged_losses(runner: Any) -> list[Any]:
    """Return such modules inside of the averaged models that hooks (``EMAHook``) have made by now."""
    copies = [getattr(hook, "ema_model", None) for hook in runner.hooks]
    return [loss for copy in copies if isinstance(copy, nn.Module) for _, loss in counting_losses(copy)]


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
