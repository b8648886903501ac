"""Train the classifier of a finished model anew, or scale it, on features that stay."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from mmseol.classifiers.posthoc import find_classifier
from mmseol.registry import MODELS

__all__ = ["ClassifierRetraining", "LearnableWeightScaling"]


@MODELS.register_module()
def ClassifierRetraining(model: dict[str, Any], classifier: str | None = None, **kwargs: Any) -> nn.Module:
    """Return the host's model, set up to train a new classifier on features that stay (cRT).

    Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR 2020, sec.
    4.1: the classifier starts anew and is trained for a few epochs with class-balanced sampling; all other
    parameters stay. Normalisation uses its running statistics and leaves them, and there is no dropout, so
    that the features are those of the finished model (the authors' code lets the statistics move). The
    features come from ``load_from``; checkpoints load into the plain model. ::

        model = dict(type="mmseol.ClassifierRetraining", model=dict(type="ImageClassifier", ...))
        load_from = "work_dirs/stage_1/epoch_200.pth"

    ``tools/train.py --retrain-classifier crt CHECKPOINT`` writes that config.

    Args:
        model: Config of the model of the first stage.
        classifier: Name of the layer that classifies; ``None``: ``head.fc`` or ``decode_head.conv_seg``.
        kwargs: What the runner adds to a model's config.

    Raises:
        ValueError: If there is no such layer.
    """
    built = MODELS.build({**kwargs, **model})
    name = find_classifier((name for name, _ in built.named_parameters()), classifier)
    for parameter, value in built.named_parameters():
        value.requires_grad_(parameter.startswith(f"{name}."))
    return _mixed(built, _NewClassifier, name)


@MODELS.register_module()
def LearnableWeightScaling(model: dict[str, Any], classifier: str | None = None, **kwargs: Any) -> nn.Module:
    r"""Return the host's model, set up to learn nothing but one scale for each class (LWS).

    Kang et al., ICLR 2020, sec. 4.3: :math:`f_k = s_k (w_k x + b_k)`, where :math:`s_k` starts at 1 and is
    trained for a few epochs with class-balanced sampling. (The paper has no bias; the authors' code scales
    it too.) All else is as in :func:`ClassifierRetraining`. Checkpoints hold the scaled weights and load
    into the plain model; to be resumed, they hold scales and plain weights as well.

    Args:
        model: As in :func:`ClassifierRetraining`; so is ``classifier``.
        kwargs: What the runner adds to a model's config.

    Raises:
        ValueError: If there is no such layer, or it is neither ``nn.Linear`` nor ``nn.Conv2d``.
    """
    built = MODELS.build({**kwargs, **model})
    name = find_classifier((name for name, _ in built.named_parameters()), classifier)
    layer = built.get_submodule(name)
    kinds = {nn.Linear: _ScaledLinear, nn.Conv2d: _ScaledConv2d}
    if type(layer) not in kinds:
        raise ValueError(
            f"`classifier` must be nn.Linear or nn.Conv2d, got {type(layer).__name__} at {name}."
        )
    layer.__class__ = kinds[type(layer)]
    layer.class_scale = nn.Parameter(torch.ones(len(layer.weight)))
    for value in built.parameters():
        value.requires_grad_(value is layer.class_scale)
    return _mixed(built, _FixedFeatures, name)


def _mixed(model: nn.Module, mixin: type[_FixedFeatures], classifier: str) -> nn.Module:
    """Put a mixin before the class of a model, in place: hosts look for attributes that a wrapper hides."""
    cls = type(model)
    names = {"classifier": classifier, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    model.__class__ = type(cls.__name__, (mixin, cls), names)
    assert isinstance(model, _FixedFeatures)
    model.prepare()
    return model


class _FixedFeatures(nn.Module):
    """Mixin of models whose features stay as a checkpoint has them."""

    classifier: str
    _has_loaded: bool

    def prepare(self) -> None:
        """Set up what the model did not have."""
        self._has_loaded = False

    def train(self, mode: bool = True) -> Any:
        """Train, with layers that train differently as in a test."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, (_NormBase, _DropoutNd)) or hasattr(module, "drop_prob"):
                module.eval()
        return self

    def forward(self, *args: Any, mode: str = "tensor", **kwargs: Any) -> Any:
        """Refuse to train on features that nobody trained."""
        if mode == "loss" and not self._has_loaded:
            raise RuntimeError(
                "The features must come from a finished run, and no checkpoint was loaded. Give one: "
                "load_from='CHECKPOINT', or --retrain-classifier METHOD CHECKPOINT."
            )
        return super().forward(*args, mode=mode, **kwargs)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        self._has_loaded = True
        super()._load_from_state_dict(state_dict, prefix, *args)


class _NewClassifier(_FixedFeatures):
    """Mixin that leaves out the classifier of a checkpoint of the first stage.

    A buffer tells the checkpoints of the second stage, so that these are resumed and tested with theirs.
    """

    new_classifier: Tensor

    def prepare(self) -> None:
        """Add the mark of the second stage."""
        super().prepare()
        self.register_buffer("new_classifier", torch.ones((), dtype=torch.int64))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        if f"{prefix}new_classifier" not in state_dict:
            for key in [key for key in state_dict if key.startswith(f"{prefix}{self.classifier}.")]:
                del state_dict[key]
            state_dict[f"{prefix}new_classifier"] = self.new_classifier
        super()._load_from_state_dict(state_dict, prefix, *args)


class _Scaled(nn.Module):
    """Mixin of layers with a scale for each class; their state holds the scaled weights, as a plain layer."""

    class_scale: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled outputs."""
        outputs = super().forward(x)
        return outputs * self._like(self.class_scale, outputs)

    def _like(self, scale: Tensor, outputs: Tensor) -> Tensor:
        return scale if isinstance(self, nn.Linear) else scale.view(-1, 1, 1)

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        scale = self.class_scale.detach()
        for name in ("weight", "bias"):
            plain = destination.get(f"{prefix}{name}")
            if plain is not None:
                destination[f"{prefix}unscaled_{name}"] = plain
                destination[f"{prefix}{name}"] = plain.detach() * scale.view(-1, *[1] * (plain.dim() - 1))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        state_dict.setdefault(f"{prefix}class_scale", torch.ones_like(self.class_scale))
        for name in ("weight", "bias"):
            plain = state_dict.pop(f"{prefix}unscaled_{name}", None)
            if plain is not None:
                state_dict[f"{prefix}{name}"] = plain
        super()._load_from_state_dict(state_dict, prefix, *args)


class _ScaledLinear(_Scaled, nn.Linear):
    """Linear layer with a scale for each class."""


class _ScaledConv2d(_Scaled, nn.Conv2d):
    """Convolution with a scale for each class."""
