"""Train a new classifier, or scales for the old one, on the fixed features of a finished model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from mmseol.classifiers.find import find_classifier
from mmseol.registry import MODELS
from mmseol.utils.modules import insert_class

__all__ = ["classifier_retraining", "learnable_weight_scaling"]


@MODELS.register_module(name="ClassifierRetraining")
def classifier_retraining(
    model: Mapping[str, Any],
    classifier: str | None = None,
    data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
) -> nn.Module:
    """Build the host's model for training a new classifier on fixed features (cRT).

    Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR 2020, sec.
    4.1: the classifier is initialised anew and trained for a few epochs with class-balanced sampling; all
    other parameters stay. Normalisation layers use their running statistics and do not update them, and
    dropout and DropPath are off, so that the features are those of the finished model (the authors' code
    updates the statistics). ``load_from`` names the finished model; checkpoints load into the plain model. ::

        model = dict(type="mmseol.ClassifierRetraining", model=dict(type="ImageClassifier", ...))
        load_from = "work_dirs/stage_1/epoch_200.pth"

    ``tools/train.py --retrain-classifier crt CHECKPOINT`` writes that config. The model's class becomes a
    subclass of its class (:func:`~mmseol.utils.modules.insert_class`), for good.

    >>> class Model(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.backbone, self.head = nn.Linear(2, 8), nn.ModuleDict({"fc": nn.Linear(8, 4)})
    >>> model = classifier_retraining(dict(type=Model))
    >>> [name for name, value in model.named_parameters() if value.requires_grad]
    ['head.fc.weight', 'head.fc.bias']

    Args:
        model: Config of the model of the first stage.
        classifier: Name of the layer that classifies; ``None``: as
            :func:`~mmseol.classifiers.find_classifier` finds it.
        data_preprocessor: Config of the preprocessor, if ``model`` has none; the runner passes it.

    Raises:
        ValueError: If there is no such layer.
    """
    built, name = _build(model, classifier, data_preprocessor)
    for parameter, value in built.named_parameters():
        value.requires_grad_(parameter.startswith(f"{name}."))
    return _fix_features(built, _NewClassifier, name)


@MODELS.register_module(name="LearnableWeightScaling")
def learnable_weight_scaling(
    model: Mapping[str, Any],
    classifier: str | None = None,
    data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
) -> nn.Module:
    r"""Build the host's model for training one scale per class and nothing else (LWS).

    Kang et al., ICLR 2020, sec. 4.3: :math:`f_k = s_k (w_k x + b_k)`, where :math:`s_k` starts at 1 and is
    trained for a few epochs with class-balanced sampling. (The paper has no bias; the authors' code scales
    it too.) Features stay as in :func:`classifier_retraining`. Checkpoints hold the scaled weights and load
    into the plain model; for resuming they also hold the scales and the unscaled weights. The classes of
    the model and of its classifier become subclasses of their classes, for good.

    >>> class Model(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.backbone, self.head = nn.Linear(2, 8), nn.ModuleDict({"fc": nn.Linear(8, 4)})
    >>> model = learnable_weight_scaling(dict(type=Model))
    >>> [name for name, value in model.named_parameters() if value.requires_grad]
    ['head.fc.class_scale']

    Args:
        model: As in :func:`classifier_retraining`; so are ``classifier`` and ``data_preprocessor``.

    Raises:
        ValueError: If there is no such layer, or it is neither ``nn.Linear`` nor ``nn.Conv2d``.
    """
    built, name = _build(model, classifier, data_preprocessor)
    layer: Any = built.get_submodule(name)
    if type(layer) not in (nn.Linear, nn.Conv2d):
        raise ValueError(
            f"`classifier` must be nn.Linear or nn.Conv2d, got {type(layer).__name__} at {name}."
        )
    insert_class(layer, _Scaled)
    layer.class_scale = nn.Parameter(torch.ones(len(layer.weight)))
    for value in built.parameters():
        value.requires_grad_(value is layer.class_scale)
    return _fix_features(built, _FixedFeatures, name)


def _build(model: Mapping[str, Any], classifier: str | None, preprocessor: Any) -> tuple[nn.Module, str]:
    defaults = {} if preprocessor is None else {"data_preprocessor": preprocessor}
    built = MODELS.build({**defaults, **model})
    return built, find_classifier((name for name, _ in built.named_parameters()), classifier)


def _fix_features(model: Any, mixin: type[_FixedFeatures], classifier: str) -> nn.Module:
    # Not a wrapper: hosts look for attributes of the model itself.
    insert_class(model, mixin)
    model.prepare(classifier)
    return model


class _FixedFeatures(nn.Module):
    """Mixin for models whose features stay as a checkpoint has them."""

    _classifier_name: str
    _has_loaded: bool

    def prepare(self, classifier: str) -> None:
        """Set the attributes that the model's own constructor did not set."""
        self._classifier_name, self._has_loaded = classifier, False

    def train(self, mode: bool = True) -> Any:
        """Set the training mode, except in layers that would change the features."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, (_NormBase, _DropoutNd)) or hasattr(module, "drop_prob"):  # DropPath
                module.eval()
        return self

    def forward(self, *args: Any, mode: str = "tensor", **kwargs: Any) -> Any:
        """Compute as the model does; refuse to train on features without a checkpoint."""
        if mode == "loss" and not self._has_loaded:
            raise RuntimeError(
                "The features must come from a finished run, and no checkpoint was loaded. Give one: "
                "load_from='CHECKPOINT', or --retrain-classifier METHOD CHECKPOINT."
            )
        return super().forward(*args, mode=mode, **kwargs)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        self._require_features(state_dict, prefix)
        self._has_loaded = True
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _require_features(self, state_dict: dict[str, Tensor], prefix: str) -> None:
        for name, value in self.named_parameters():
            if name.startswith("auxiliary_head.") or name.endswith(".class_scale"):
                continue  # not used to predict; not in a checkpoint of the first stage
            stored = state_dict.get(prefix + name)
            there = "is missing" if stored is None else f"is of shape {tuple(stored.shape)} there"
            if stored is None or stored.shape != value.shape:
                raise ValueError(
                    f"`load_from` must be a checkpoint of this model, whose features stay as they are: "
                    f"{name} {there} and of shape {tuple(value.shape)} here. Give the config that it was "
                    "trained with."
                )


class _NewClassifier(_FixedFeatures):
    """Mixin for models that do not load the classifier of a first-stage checkpoint.

    The buffer ``new_classifier`` marks checkpoints of the second stage, whose classifier is loaded.
    """

    new_classifier: Tensor

    def prepare(self, classifier: str) -> None:
        """Set the attributes, and the mark of the second stage."""
        super().prepare(classifier)
        self.register_buffer("new_classifier", torch.ones((), dtype=torch.int64))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        if f"{prefix}new_classifier" not in state_dict:
            layer = f"{self._classifier_name}."
            for key in [key for key in state_dict if key.startswith(prefix + layer)]:
                del state_dict[key]
            own = {name: value.detach() for name, value in self.named_parameters() if name.startswith(layer)}
            own["new_classifier"] = self.new_classifier
            state_dict.update({prefix + name: value for name, value in own.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)


class _Scaled(nn.Module):
    """Mixin for layers with one scale per class; their state holds the scaled weights."""

    class_scale: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled outputs."""
        outputs = super().forward(x)
        scale = self.class_scale
        return outputs * (scale if isinstance(self, nn.Linear) else scale.view(-1, 1, 1))

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        scale = self.class_scale.detach()
        for name in ("weight", "bias"):
            plain = destination.get(f"{prefix}{name}")
            if plain is not None:
                destination[f"{prefix}unscaled_{name}"] = plain
                destination[f"{prefix}{name}"] = plain * scale.view(-1, *[1] * (plain.dim() - 1))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        state_dict.setdefault(f"{prefix}class_scale", torch.ones_like(self.class_scale))
        for name in ("weight", "bias"):
            plain = state_dict.pop(f"{prefix}unscaled_{name}", None)
            if plain is not None:
                state_dict[f"{prefix}{name}"] = plain
        super()._load_from_state_dict(state_dict, prefix, *args)
