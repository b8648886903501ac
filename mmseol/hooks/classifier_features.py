"""Pass the input of each head's classifier to the losses of the head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmseol.classifiers.find import head_of_loss
from mmseol.hooks.run_parts import losses_with
from mmseol.registry import HOOKS
from mmseol.utils.modules import unwrap

__all__ = ["ClassifierFeatureHook", "feed_features"]


@HOOKS.register_module()
class ClassifierFeatureHook(Hook):
    """Pass the input of its head's classifier to every loss, in each training step.

    A loss is any module of the model with a method ``set_features(features, align_corners)``, such as
    :class:`mmseol.losses.InfluenceBalancedLoss`; without one the hook does nothing. Each head, main or
    auxiliary, feeds its own losses, from the moment when they want features. The hook calls a loss's
    ``set_epoch``, if it has one, with the epoch before each iteration (in iteration-based runs: the number of
    passes over the data). It passes nothing in validation and test.

    The hook adds forward hooks to the classifiers after ``EMAHook`` has copied the model, and removes them
    when training ends.

    >>> hook = ClassifierFeatureHook(classifier="layers.head")
    >>> hook.classifier
    ('layers.head',)

    Args:
        classifier: Name of the classifier within a head, dotted if it is nested, or several names of which
            the first that exists is taken. ``None``: the hosts' names, see
            :mod:`mmseol.classifiers.find`.

    Raises:
        ValueError: If no head around a loss has a classifier of these names.
    """

    def __init__(self, classifier: str | Sequence[str] | None = None) -> None:
        self.classifier = _names(classifier)
        self._handles: list[RemovableHandle] = []

    def before_train(self, runner: Any) -> None:
        """Add the forward hooks."""
        self._remove()
        model = unwrap(runner.model)
        self._handles = feed_features(model, self.classifier)
        for name, loss in losses_with(model, "set_features"):
            start, epochs = getattr(loss, "start_epoch", 0), self._epochs(runner, runner.max_iters)
            if start >= epochs:
                runner.logger.warning(
                    f"{name}: `start_epoch` is {start}, but the run ends after {epochs} epochs: it trains "
                    "with plain cross entropy throughout. Choose an earlier start."
                )

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Set the number of finished epochs."""
        for _, loss in losses_with(unwrap(runner.model), "set_features") if self._handles else ():
            if hasattr(loss, "set_epoch"):
                loss.set_epoch(self._epochs(runner, runner.iter))

    def after_train(self, runner: Any) -> None:
        """Remove the forward hooks."""
        self._remove()

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _epochs(self, runner: Any, iterations: int) -> int:
        return iterations // len(runner.train_dataloader)


def feed_features(model: nn.Module, classifier: str | Sequence[str] | None = None) -> list[RemovableHandle]:
    """Pass the classifiers' inputs to the losses of ``model`` until the returned handles are removed.

    >>> from mmseol.losses import InfluenceBalancedLoss
    >>> loss = InfluenceBalancedLoss(class_counts=[90, 10])
    >>> model = nn.ModuleDict({"fc": nn.Linear(8, 2), "loss": loss})
    >>> (handle,) = feed_features(model)
    >>> loss(model["fc"](torch.ones(1, 8)), torch.tensor([1])).shape
    torch.Size([])
    >>> handle.remove()

    Args:
        model: Model that contains losses and classifiers.
        classifier: As in :class:`ClassifierFeatureHook`.

    Raises:
        ValueError: If no head around a loss has a classifier of these names.
    """
    classifier = _names(classifier)
    handles = []
    for name, loss in losses_with(model, "set_features"):
        head, layer = head_of_loss(model, name, classifier)
        handles.append(layer.register_forward_pre_hook(_feeder(loss, head)))
    return handles


def _names(classifier: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if classifier is None:
        return None
    return (classifier,) if isinstance(classifier, str) else tuple(classifier)


def _feeder(loss: Any, head: nn.Module) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    align_corners = bool(getattr(head, "align_corners", False))

    def feed(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # In validation no loss would read them.
        if module.training and torch.is_grad_enabled() and getattr(loss, "wants_features", True):
            loss.set_features(inputs[0], align_corners)

    return feed
