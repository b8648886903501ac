"""Hand to the losses the features that the classifier of their head reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmseol.hooks.run_parts import losses_with, unwrap
from mmseol.registry import HOOKS

__all__ = ["ClassifierFeatureHook", "feed_features"]

_CLASSIFIERS = ("conv_seg", "fc")


@HOOKS.register_module()
class ClassifierFeatureHook(Hook):
    """Hand every loss the features that the classifier of its own head reads, in each training step.

    A loss is any module of the model with a method ``set_features(features, align_corners)``, as
    :class:`mmseol.losses.InfluenceBalancedLoss`; without one the hook does nothing. Main and auxiliary heads
    each feed their own losses, as soon as those want features; where a loss has ``set_epoch``, it is told the
    epoch before each iteration (in iteration-based runs: passes over the data). Nothing is handed over in
    validation and test. The hook enters the model after ``EMAHook`` copied it and leaves it when training
    ends.

    Args:
        classifier: Names of the classifier within a head, the first that it has is taken: mmseg's decode
            heads have ``conv_seg``, mmpretrain's linear heads ``fc``; a dotted name reaches further down, as
            ``'layers.head'`` of mmpretrain's ``VisionTransformerClsHead``.

    Raises:
        ValueError: If no head above a loss has a classifier of these names.
    """

    def __init__(self, classifier: Sequence[str] = _CLASSIFIERS) -> None:
        self.classifier = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        self._handles: list[RemovableHandle] = []

    def before_train(self, runner: Any) -> None:
        """Enter the model."""
        self._leave()
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
        """Tell the losses how many epochs are done."""
        for _, loss in losses_with(unwrap(runner.model), "set_features") if self._handles else ():
            if hasattr(loss, "set_epoch"):
                loss.set_epoch(self._epochs(runner, runner.iter))

    def after_train(self, runner: Any) -> None:
        """Leave the model."""
        self._leave()

    def _leave(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _epochs(self, runner: Any, iterations: int) -> int:
        return iterations // len(runner.train_dataloader)


def feed_features(model: nn.Module, classifier: Sequence[str] = _CLASSIFIERS) -> list[RemovableHandle]:
    """Hand the features to the losses of ``model`` from now on, until the returned handles are removed.

    Args:
        classifier: As in :class:`ClassifierFeatureHook`.

    Raises:
        ValueError: If no head above a loss has a classifier of these names.
    """
    handles = []
    for name, loss in losses_with(model, "set_features"):
        head, layer = _classifier_above(model, name, classifier)
        handles.append(layer.register_forward_pre_hook(_feeder(loss, head)))
    return handles


def _classifier_above(model: nn.Module, name: str, classifier: Sequence[str]) -> tuple[nn.Module, nn.Module]:
    """Return the nearest module above the loss ``name`` that has a classifier, and that."""
    above = name
    while above:
        above = above.rpartition(".")[0]
        head = model.get_submodule(above)
        for path in classifier:
            try:
                return head, head.get_submodule(path)
            except AttributeError:
                continue
    raise ValueError(
        f"`classifier` must name the last layer of the head that owns the loss {name}, got "
        f"{', '.join(map(repr, classifier))}, and it has none of these. Say it to the hook: "
        "dict(type='mmseol.ClassifierFeatureHook', classifier=...)."
    )


def _feeder(loss: Any, head: nn.Module) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    align_corners = bool(getattr(head, "align_corners", False))

    def feed(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # Validation would keep what nobody evaluates.
        if module.training and torch.is_grad_enabled() and getattr(loss, "wants_features", True):
            loss.set_features(inputs[0], align_corners)

    return feed
