"""The model of a config, and checks of a checkpoint against both."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from mmseol.utils.text import first_few

__all__ = ["build_model", "check_classifier", "check_initial_weights", "check_weights"]

_COSINE_HEAD = "CosineClassifierHead"
_MISSING = "is missing"


def build_model(cfg: Config) -> nn.Module:
    """Return the model of a config with new weights, as a Runner would build it; nothing is downloaded.

    >>> backbone, head = dict(type="LeNet5"), dict(type="ClsHead")
    >>> model = dict(type="ImageClassifier", backbone=backbone, head=head)
    >>> type(build_model(Config(dict(default_scope="mmpretrain", model=model)))).__name__
    'ImageClassifier'
    """
    model = copy.deepcopy(cfg.model)
    if cfg.get("data_preprocessor") is not None:
        model.setdefault("data_preprocessor", copy.deepcopy(cfg.data_preprocessor))
    if "pretrained" in model:
        model["pretrained"] = None
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope")):
        return MODELS.build(model)


def check_classifier(cfg: Config, path: str, checkpoint: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of cosine classifiers under plain ones, and the reverse: it loads and scores badly.

    >>> checkpoint = dict(meta=dict(cfg="head = dict(type='mmseol.CosineClassifierHead')"))
    >>> check_classifier(Config(dict(model=dict(type="A"))), "a.pth", checkpoint)
    Traceback (most recent call last):
    ValueError: `checkpoint` 'a.pth' was trained with mmseol.CosineClassifierHead, which this config lacks. \
Give the loss that it was trained with, as --loss ldam, or the config in its work directory.

    Raises:
        ValueError: If one of the config in the checkpoint and ``cfg`` has ``mmseol.CosineClassifierHead``.
    """
    trained = str((checkpoint.get("meta") or {}).get("cfg") or "")
    cosine = [_COSINE_HEAD in trained, _COSINE_HEAD in str(cfg.model)]
    remedy = "Give the loss that it was trained with, as --loss {}, or the config in its work directory."
    if cosine == [True, False]:
        raise ValueError(
            f"`checkpoint` {path!r} was trained with mmseol.{_COSINE_HEAD}, which this config lacks. "
            + remedy.format("ldam")
        )
    if trained and cosine == [False, True]:
        raise ValueError(
            f"`checkpoint` {path!r} was trained without mmseol.{_COSINE_HEAD}, which this config has. "
            + remedy.format("ce")
        )


def check_weights(model: nn.Module, path: str, checkpoint: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that leaves the classifier or most of the model with random weights.

    mmengine only logs weights that are missing or of another shape.

    >>> import torch
    >>> model = nn.ModuleDict({"head": nn.ModuleDict({"fc": nn.Linear(2, 10)})})
    >>> check_weights(model, "a.pth", {"state_dict": {"head.fc.weight": torch.zeros(11, 2)}})
    Traceback (most recent call last):
    ValueError: `checkpoint` 'a.pth' does not fit the model: head.fc.weight is of shape (11, 2) there and \
(10, 2) here. Give the config that it was trained with.

    Raises:
        ValueError: If weights of the classifier are missing or of another shape, or if the checkpoint has
            less than half of the model's weights.
    """
    weights, unfit = _unfit_weights(model, checkpoint)
    advice = "Give the config that it was trained with."
    missing = sum(reason == _MISSING for reason in unfit.values())
    if missing * 2 > len(weights):
        raise ValueError(
            f"`checkpoint` {path!r} does not fit the model: it has {len(weights) - missing} of its "
            f"{len(weights)} weights. {advice}"
        )
    for name in _classifier_weights(weights):
        if name in unfit:
            raise ValueError(f"`checkpoint` {path!r} does not fit the model: {name} {unfit[name]}. {advice}")
    if len(unfit) * 2 > len(weights):
        listed = first_few(f"{name} {reason}" for name, reason in unfit.items())
        raise ValueError(
            f"`checkpoint` {path!r} does not fit the model: {len(unfit)} of {len(weights)} weights are "
            f"missing or of another shape: {listed}. {advice}"
        )


def check_initial_weights(model: nn.Module, path: str, checkpoint: Mapping[str, Any]) -> str:
    """Return which weights a new training does not take from a checkpoint (``load_from``), or ``''``.

    >>> import torch
    >>> model = nn.ModuleDict({"neck": nn.Linear(2, 2), "head": nn.ModuleDict({"fc": nn.Linear(2, 10)})})
    >>> state = {**model.state_dict(), "head.fc.weight": torch.zeros(11, 2)}
    >>> print(check_initial_weights(model, "a.pth", {"state_dict": state}))
    `load_from` 'a.pth' has 3 of the model's 4 weights; the classifier head.fc starts from new weights. \
head.fc.weight is of shape (11, 2) there and (10, 2) here.

    Raises:
        ValueError: If the checkpoint has no weight of the model.
    """
    weights, unfit = _unfit_weights(model, checkpoint)
    if not unfit:
        return ""
    listed = first_few(f"{name} {reason}" for name, reason in unfit.items())
    if len(unfit) == len(weights):
        raise ValueError(
            f"`load_from` {path!r} has none of the model's weights: {listed}. Give a checkpoint of this "
            "model, or leave `load_from` out."
        )
    classifier = [name for name in _classifier_weights(weights) if name in unfit]
    new = f"; the classifier {classifier[0].rpartition('.')[0]} starts from new weights" if classifier else ""
    return (
        f"`load_from` {path!r} has {len(weights) - len(unfit)} of the model's {len(weights)} weights{new}. "
        f"{listed}."
    )


def _unfit_weights(
    model: nn.Module, checkpoint: Mapping[str, Any]
) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Return the shapes of the model's weights, and what is wrong with those that do not fit."""
    while isinstance(inner := getattr(model, "module", None), nn.Module):  # wrappers, test-time augmentation
        model = inner
    state = checkpoint.get("state_dict", checkpoint)
    state = {name.removeprefix("module."): value for name, value in state.items()}
    weights = {name: tuple(value.shape) for name, value in model.named_parameters()}
    unfit = {}
    for name, shape in weights.items():
        value = state.get(name)
        if not isinstance(value, Tensor):
            unfit[name] = _MISSING
        elif tuple(value.shape) != shape:
            unfit[name] = f"is of shape {tuple(value.shape)} there and {shape} here"
    return weights, unfit


def _classifier_weights(weights: Iterable[str]) -> list[str]:
    from mmseol.classifiers.find import find_classifier  # imports mmengine.model: seconds

    weights = list(weights)
    try:
        layer = find_classifier(weights)
    except ValueError:
        return []  # a head without a layer that scores the classes
    return [name for name in (f"{layer}.weight", f"{layer}.bias") if name in weights]
