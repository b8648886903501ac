"""Classifiers whose outputs are cosines, and a builder that gives them to any head of either host."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmseol.registry import MODELS

__all__ = ["CosineConv1d", "CosineConv2d", "CosineLinear", "cosine_classifier_head"]

_EPS = 1e-12  # of torch's F.normalize


def _cosine(linear: Callable[[Tensor, Tensor, None], Tensor], x: Tensor, weight: Tensor, dim: int) -> Tensor:
    r"""Return :math:`\hat w_k^\top \hat x`, for which the outputs are divided by the features' length.

    Dividing K outputs is cheaper than dividing the features. Features of length 0 have cosine 0 and no
    gradient.
    """
    with torch.autocast(x.device.type, enabled=False):
        half = (torch.float16, torch.bfloat16)
        x, weight = (t.float() if t.dtype in half else t for t in (x, weight))
        length = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
        length = length.masked_fill(length < _EPS, torch.inf)
        return linear(x, F.normalize(weight, dim=1), None) / length


class CosineLinear(nn.Linear):
    r"""Linear classifier :math:`\cos(w_k, x)`: weights and features are of unit length, without a bias.

    ``NormedLinear`` of Cao et al., NeurIPS 2019. Features (\*, in_features) give cosines (\*, out_features),
    computed in float32 also under autocast. The weights start at unit length, as there, whatever the
    host's ``init_cfg``: their length decides no output, but the size of the first steps.
    """

    def __init__(self, in_features: int, out_features: int, **kwargs: Any) -> None:
        super().__init__(in_features, out_features, bias=False, **kwargs)

    def init_weights(self) -> None:
        """Bring the weights to unit length; the hosts call this after their own initialisation."""
        _to_unit_length(self.weight)

    def reset_parameters(self) -> None:
        """Draw directions, of unit length."""
        super().reset_parameters()
        self.init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """Return the cosines."""
        return _cosine(F.linear, x, self.weight, -1)


class _CosineConv:
    """What the convolutions of kernel 1 share; mixed into one of torch's."""

    weight: Tensor
    _conv_forward: Any

    def __init__(self, in_channels: int, out_channels: int, **kwargs: Any) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1, bias=False, **kwargs)  # type: ignore[call-arg]

    def init_weights(self) -> None:
        """Bring the weights to unit length; the hosts call this after their own initialisation."""
        _to_unit_length(self.weight)

    def reset_parameters(self) -> None:
        """Draw directions, of unit length."""
        super().reset_parameters()  # type: ignore[misc]
        self.init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """Return the cosines."""
        return _cosine(self._conv_forward, x, self.weight, 1)


class CosineConv1d(_CosineConv, nn.Conv1d):
    """:class:`CosineLinear` at every point: (N, in_channels, P) to (N, out_channels, P)."""


class CosineConv2d(_CosineConv, nn.Conv2d):
    """:class:`CosineLinear` at every pixel: (N, in_channels, H, W) to (N, out_channels, H, W)."""


def _to_unit_length(weight: Tensor) -> None:
    with torch.no_grad():
        weight.copy_(F.normalize(weight, dim=1))


@MODELS.register_module(name="CosineClassifierHead")
def cosine_classifier_head(
    head: Mapping[str, Any] | nn.Module, classifier: str | Sequence[str] | None = None
) -> nn.Module:
    """Build a head of either host with a classifier of cosines, as :class:`~mmseol.losses.LDAMLoss` needs.

    ``dict(type='mmseol.CosineClassifierHead', head=dict(type='FCNHead', ...))`` is that ``FCNHead``: its
    class, its methods and the keys of its checkpoints stay (``conv_seg.weight``, ``fc.weight``); the bias
    goes. Argmax needs no other change. mmpretrain's plain heads take a softmax of the outputs for their
    scores, which is flat for cosines: ``mmseol.CalibratedLinearClsHead`` starts at the temperature of the
    loss instead.

    Args:
        head: Config of the head, or the head.
        classifier: Dotted names of the layers to replace, for heads that call them by other names, as
            ``'layers.head'`` in ``VisionTransformerClsHead``. ``None`` takes those with one output per class
            that are named ``fc`` (mmpretrain) or end in ``conv_seg``, ``cls_seg`` or ``fc_seg`` (mmseg).

    Raises:
        TypeError: If ``head`` is neither.
        ValueError: If the head has no such layer, or it is neither linear nor a convolution of kernel 1.
    """
    if isinstance(head, Mapping):
        head = MODELS.build(head)
    if not isinstance(head, nn.Module):
        raise TypeError(f"`head` must be the config of a head, dict(type=...), or a head, got {head!r}.")
    names = [classifier] if isinstance(classifier, str) else classifier
    for name in _classifiers(head) if names is None else names:
        parent, _, own = name.rpartition(".")
        try:
            layer = head.get_submodule(name)
        except AttributeError as error:
            raise ValueError(
                f"`classifier` must name layers of {type(head).__name__}, got {name!r}."
            ) from error
        setattr(head.get_submodule(parent), own, _with_cosines(layer, f"{type(head).__name__}.{name}"))
    return head


def _classifiers(head: nn.Module) -> list[str]:
    """Return the names of the layers that score the classes."""
    classes = getattr(head, "num_classes", None)
    names = [
        name
        for name, layer in head.named_children()
        if re.fullmatch(r"fc|(\w+_)?(conv|cls|fc)_seg", name)
        and classes in (getattr(layer, "out_features", None), getattr(layer, "out_channels", None))
    ]
    if not names or classes is None:
        layers = [
            name for name, m in head.named_modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d))
        ]
        raise ValueError(
            f"`head` must have a classifier of num_classes={classes} outputs named fc or conv_seg, got "
            f"{type(head).__name__} without one. If one of {layers} is it, name it: "
            "dict(type='mmseol.CosineClassifierHead', classifier=..., head=...)."
        )
    return names


def _with_cosines(layer: nn.Module, name: str) -> nn.Module:
    """Return the layer that takes its place, with the same weights, type, device and mode."""
    like = {"device": layer.weight.device, "dtype": layer.weight.dtype} if hasattr(layer, "weight") else {}
    cosine: nn.Module
    if isinstance(layer, nn.Linear):
        cosine = CosineLinear(layer.in_features, layer.out_features, **like)
    elif (
        isinstance(layer, (nn.Conv1d, nn.Conv2d))
        and set(layer.kernel_size) == {1} == set(layer.stride)
        and layer.groups == 1
    ):
        kind = CosineConv1d if isinstance(layer, nn.Conv1d) else CosineConv2d
        cosine = kind(layer.in_channels, layer.out_channels, **like)
    else:
        raise ValueError(
            f"`classifier` must be linear or a convolution of kernel 1 and stride 1, got {name}: {layer}."
        )
    cosine.load_state_dict({"weight": layer.weight.detach()})
    return cosine.train(layer.training)
