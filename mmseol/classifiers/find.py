"""Find the layer that scores the classes, in a built head or among the names in a checkpoint.

Hosts name it ``conv_seg`` (mmseg's ``BaseDecodeHead``), ``fc_seg`` (``PointHead``), ``fc`` (mmpretrain's
linear heads), ``layers.1.fc`` (``StackedLinearClsHead``), ``layers.head`` (``VisionTransformerClsHead``),
``norm_product`` (``ArcFaceClsHead``), ``head`` (``EfficientFormerClsHead``), ``head.linear``
(``LeViTClsHead``) and ``fc2`` (``VigClsHead``); ``cls_seg`` is a common name in other heads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

__all__ = ["class_layers", "find_classifier", "head_of_loss"]

# Names within a head; an earlier pattern wins, and of one pattern the last layer.
_MAIN = (
    r"conv_seg",
    r"fc",
    r"cls_seg",
    r"fc_seg",
    r"layers\.\d+\.fc",
    r"layers\.head",
    r"norm_product",
    r"head(\.linear)?",
    r"fc2",
)
_NESTED = r".+\.(conv_seg|fc)"  # in heads that hold heads: K-Net, multi-task
_TWIN = r"layers\.head_dist|head_dist(\.linear)?|dist_head"  # its scores are averaged with the main layer's
_SIDE = r"fc|(\w+_)?(conv|cls|fc)_seg"  # layers for further outputs, e.g. DAHead's `pam_conv_seg`
_MAIN_HEADS = re.compile(r"((?:decode_head|head)(?:\.\d+)?)\.(.+)")  # of mmseg and mmpretrain


def find_classifier(names: Iterable[str], classifier: str | None = None) -> str:
    """Return the name of the layer with which a host's main head classifies.

    This is for example ``head.fc`` in mmpretrain and ``decode_head.conv_seg`` in mmseg; in a cascade of heads
    the layer of the last one.

    >>> find_classifier(["backbone.fc.weight", "head.layers.head.weight", "head.layers.head.bias"])
    'head.layers.head'
    >>> find_classifier(["decode_head.0.conv_seg.weight", "decode_head.1.fc_seg.weight"])
    'decode_head.1.fc_seg'

    Args:
        names: Names of a model's parameters, as in its ``state_dict()``.
        classifier: Name of the layer, if it is not one of those above.

    Raises:
        ValueError: If there is no such layer, or two layers classify together (a distilled head).
    """
    layers = list(dict.fromkeys(n.removesuffix(".weight") for n in names if n.endswith(".weight")))
    found = _main_layer(layers) if classifier is None else classifier
    if found is None or found not in layers:
        heads = [name for name in layers if "head" in name]
        raise ValueError(
            "`classifier` must be the name of the layer that classifies, as 'head.fc' or "
            f"'decode_head.conv_seg', got {classifier!r}. Layers of heads here: {', '.join(heads) or 'none'}."
        )
    return found


def head_of_loss(
    model: nn.Module, loss: str, classifier: Sequence[str] | None = None
) -> tuple[nn.Module, nn.Module]:
    """Return the nearest module that contains a loss and a classifier, and the classifier.

    >>> head = nn.ModuleDict({"fc": nn.Linear(3, 4), "loss": nn.CrossEntropyLoss()})
    >>> head_of_loss(nn.ModuleDict({"head": head}), "head.loss")[1]
    Linear(in_features=3, out_features=4, bias=True)

    Args:
        model: Model.
        loss: Name of the loss in the model.
        classifier: Names of the classifier within the head, of which the first that exists is taken;
            ``None``: the hosts' names.

    Raises:
        ValueError: If no module that contains the loss has a classifier.
    """
    name = loss
    while name:
        name = name.rpartition(".")[0]
        head = model.get_submodule(name)
        layer = _own_layer(head) if classifier is None else _first_layer(head, classifier)
        if layer is not None:
            return head, layer
    tried = "None" if classifier is None else ", ".join(map(repr, classifier))
    raise ValueError(
        f"`classifier` must name the last layer of the head that owns the loss {loss}, got {tried}, and no "
        "such layer is there. Name it: dict(type='mmseol.ClassifierFeatureHook', classifier=...)."
    )


def class_layers(head: nn.Module) -> list[str]:
    """Return the names of all layers of a head with one output per class, in the head's order.

    >>> head = nn.Module()
    >>> head.num_classes, head.conv_seg, head.aux_cls_seg = 4, nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)
    >>> class_layers(head)
    ['conv_seg', 'aux_cls_seg']
    """
    names = [name for name, layer in head.named_modules() if _scores_classes(head, layer)]
    main = _preferred(names)
    return [name for name in names if name == main or re.fullmatch(f"{_SIDE}|{_TWIN}", name)]


def _main_layer(layers: list[str]) -> str | None:
    """Return the classifier of the last main head that has one."""
    heads: dict[str, list[str]] = {}
    for layer in layers:
        if match := _MAIN_HEADS.fullmatch(layer):
            heads.setdefault(match[1], []).append(match[2])
    for head, names in reversed(heads.items()):
        if any(re.fullmatch(_TWIN, name) for name in names):
            return None
        if found := _preferred(names, (*_MAIN, _NESTED)):
            return f"{head}.{found}"
    return None


def _preferred(names: Iterable[str], patterns: Sequence[str] = _MAIN) -> str | None:
    names = list(names)
    for pattern in patterns:
        if found := [name for name in names if re.fullmatch(pattern, name)]:
            return found[-1]
    return None


def _own_layer(head: nn.Module) -> nn.Module | None:
    """Return the layer with one of the hosts' names that alone scores the classes."""
    direct = _first_layer(head, ("conv_seg", "fc"))  # of any type
    if direct is not None:
        return direct
    names = [name for name, layer in head.named_modules() if _scores_classes(head, layer)]
    main = _preferred(names)
    if main is None or any(re.fullmatch(_TWIN, name) for name in names):
        return None
    return head.get_submodule(main)


def _first_layer(head: nn.Module, names: Iterable[str]) -> nn.Module | None:
    for name in names:
        try:
            return head.get_submodule(name)
        except AttributeError:
            continue
    return None


def _scores_classes(head: nn.Module, layer: nn.Module) -> bool:
    """Tell whether a layer has one output per class, where the head says how many classes there are."""
    width = getattr(layer, "out_features", getattr(layer, "out_channels", None))
    classes = getattr(head, "num_classes", width)
    return isinstance(getattr(layer, "weight", None), Tensor) and width is not None and width == classes
