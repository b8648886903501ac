"""Layers whose outputs are cosines, and a builder that makes them the classifier of a host's head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmseol.classifiers.find import class_layers
from mmseol.registry import MODELS

__all__ = ["CosineConv1d", "CosineConv2d", "CosineLinear", "cosine_classifier_head"]

_EPS = 1e-12  # of torch's F.normalize


def _cosine(linear: Callable[[Tensor, Tensor, None], Tensor], x: Tensor, weight: Tensor, dim: int) -> Tensor:
    r"""Return :math:`\hat w_k^\top \hat x`.

    The K outputs are divided by the norm of the features, which is cheaper than dividing the features.
    Features of norm 0 have cosine 0 and no gradient.
    """
    with torch.autocast(x.device.type, enabled=False):
        half = (torch.float16, torch.bfloat16)
        x, weight = (t.float() if t.dtype in half else t for t in (x, weight))
        norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
        norm = norm.masked_fill(norm < _EPS, torch.inf)
        return linear(x, F.normalize(weight, dim=1), None) / norm


class CosineLinear(nn.Linear):
    r"""Linear classifier :math:`\cos(w_k, x)`: weights and features are divided by their norms; no bias.

    ``NormedLinear`` of Cao et al., NeurIPS 2019. Features (\*, in_features) give cosines (\*, out_features),
    computed in float32 also under autocast. The weights start with norm 1, as in the authors' code, whatever
    the host's ``init_cfg`` is: their norm does not change the outputs, but the size of the first steps.

    >>> layer = CosineLinear(2, 3)
    >>> layer.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    >>> layer(torch.tensor([[3.0, 4.0]])).detach()
    tensor([[ 0.6000,  0.8000, -0.6000]])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias=False, device=device, dtype=dtype)

    def init_weights(self) -> None:
        """Divide the weights by their norm; the hosts call this after their own initialisation."""
        _normalize(self.weight)

    def reset_parameters(self) -> None:
        """Draw random weights of norm 1."""
        super().reset_parameters()
        self.init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """Return the cosines."""
        return _cosine(F.linear, x, self.weight, -1)


class _CosineConv:
    """Cosines as outputs of a convolution of kernel 1; a mixin for torch's classes."""

    weight: Tensor
    _conv_forward: Any

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(  # type: ignore[call-arg]
            in_channels, out_channels, kernel_size=1, bias=False, device=device, dtype=dtype
        )

    def init_weights(self) -> None:
        """Divide the weights by their norm; the hosts call this after their own initialisation."""
        _normalize(self.weight)

    def reset_parameters(self) -> None:
        """Draw random weights of norm 1."""
        super().reset_parameters()  # type: ignore[misc]
        self.init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """Return the cosines."""
        return _cosine(self._conv_forward, x, self.weight, 1)


class CosineConv1d(_CosineConv, nn.Conv1d):
    """:class:`CosineLinear` at every point: (N, in_channels, P) to (N, out_channels, P).

    >>> CosineConv1d(8, 3)(torch.ones(2, 8, 5)).shape
    torch.Size([2, 3, 5])
    """


class CosineConv2d(_CosineConv, nn.Conv2d):
    """:class:`CosineLinear` at every pixel: (N, in_channels, H, W) to (N, out_channels, H, W).

    >>> CosineConv2d(8, 3)(torch.ones(2, 8, 5, 6)).shape
    torch.Size([2, 3, 5, 6])
    """


def _normalize(weight: Tensor) -> None:
    with torch.no_grad():
        weight.copy_(F.normalize(weight, dim=1))


@MODELS.register_module(name="CosineClassifierHead")
def cosine_classifier_head(
    head: Mapping[str, Any] | nn.Module, classifier: str | Sequence[str] | None = None
) -> nn.Module:
    """Build a head of either host with a cosine classifier, as :class:`~mmseol.losses.LDAMLoss` needs.

    ``dict(type='mmseol.CosineClassifierHead', head=dict(type='FCNHead', ...))`` builds that ``FCNHead`` and
    replaces its classifier. Its class, its methods and the keys of its checkpoints stay
    (``conv_seg.weight``, ``fc.weight``); the bias is removed. Prediction by argmax needs no other change.
    The scores of mmpretrain's heads are a softmax of the outputs, which is flat for cosines; use
    ``mmseol.CalibratedLinearClsHead``, which starts at the temperature of the loss.

    >>> head = nn.Module()
    >>> head.num_classes, head.fc = 4, nn.Linear(8, 4)
    >>> cosine_classifier_head(head).fc
    CosineLinear(in_features=8, out_features=4, bias=False)

    Args:
        head: Config of the head, or the head.
        classifier: Dotted names of the layers to replace; ``None``: all that
            :func:`~mmseol.classifiers.class_layers` finds.

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
    names = class_layers(head)
    if not names or classes is None:
        layers = [
            name for name, m in head.named_modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d))
        ]
        raise ValueError(
            f"`head` must have a classifier of num_classes={classes} outputs with a name that the hosts use, "
            f"such as fc or conv_seg, got {type(head).__name__} without one. If one of {layers} is it, name "
            "it: dict(type='mmseol.CosineClassifierHead', classifier=..., head=...)."
        )
    return names


def _with_cosines(layer: nn.Module, name: str) -> nn.Module:
    """Return a cosine layer with the weights, type, device and training mode of ``layer``."""
    like: dict[str, Any] = (
        {"device": layer.weight.device, "dtype": layer.weight.dtype} if hasattr(layer, "weight") else {}
    )
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
    cosine.load_state_dict({"weight": layer.weight})
    return cosine.train(layer.training)
