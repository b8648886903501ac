"""The losses that ``--loss`` names, and the heads that train with them."""

from __future__ import annotations

import inspect
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope

from mmseol.registry import MODELS

__all__ = [
    "LOSSES",
    "has_boolean",
    "inside_cosine_head",
    "inside_head",
    "parse_loss",
    "parse_options",
    "resolved_loss",
    "set_loss",
    "stated_by_heads",
]

# Every loss by the name that --loss takes, with the values of its paper.
# A data set changes single values in its fragment: ``losses = dict(outlying_mse=dict(alpha=6.0))``.
LOSSES: dict[str, dict[str, Any]] = dict(
    ce=dict(type="mmseol.CrossEntropyLoss"),
    weighted_ce_median_frequency=dict(type="mmseol.CrossEntropyLoss", class_weight="median_frequency"),
    weighted_ce_inverse_frequency=dict(type="mmseol.CrossEntropyLoss", class_weight="inverse_frequency"),
    weighted_ce_effective_number=dict(
        type="mmseol.CrossEntropyLoss", class_weight="effective_number", beta=0.9999
    ),
    weighted_ce_enet=dict(type="mmseol.CrossEntropyLoss", class_weight="enet"),
    weighted_ce_power=dict(type="mmseol.CrossEntropyLoss", class_weight=0.5),
    focal=dict(type="mmseol.FocalLoss", gamma=2.0),
    weighted_focal=dict(type="mmseol.FocalLoss", gamma=2.0, class_weight="median_frequency"),
    focal_sigmoid=dict(type="mmseol.SigmoidFocalLoss", alpha=0.25, gamma=2.0),
    dice=dict(type="mmseol.DiceLoss", power=2),
    iou=dict(type="mmseol.IoULoss"),
    tversky=dict(type="mmseol.TverskyLoss", alpha=0.3, beta=0.7),
    lovasz_softmax=dict(type="mmseol.LovaszSoftmaxLoss"),
    lovasz_hinge=dict(type="mmseol.LovaszHingeLoss"),
    cdb_ce=dict(type="mmseol.CDBLoss", tau=1.5),
    equalization=dict(type="mmseol.EqualizationLoss", gamma=0.9, threshold=0.05),
    equalization_sigmoid=dict(type="mmseol.SigmoidEqualizationLoss", threshold=0.00177),
    seesaw=dict(type="mmseol.SeesawLoss", p=0.8, q=2.0),
    ghmc=dict(type="mmseol.GHMCLoss", bins=10, momentum=0.0),
    influence_balanced=dict(type="mmseol.InfluenceBalancedLoss", scale=1000.0, start_epoch=100),
    mse=dict(type="mmseol.OneHotMSELoss"),
    ldam=dict(type="mmseol.LDAMLoss", max_margin=0.5, scale=30.0),
    elm=dict(type="mmseol.EnlargedMarginLoss", enlargement=1.0, max_margin=0.5, scale=30.0),
    balanced_softmax=dict(type="mmseol.BalancedSoftmaxLoss"),
    logit_adjusted=dict(type="mmseol.LogitAdjustedLoss", tau=1.0),
    vs=dict(type="mmseol.VSLoss", gamma=0.3, tau=1.0),
    lade=dict(type="mmseol.LADELoss", remine_weight=0.1, remine_lambda=0.1),
    outlying_mse=dict(type="mmseol.OutlyingMSELoss", alpha=1.0),
)

_ONE_LOSS_PER_OUTPUT = ("DDRHead", "PIDHead")
_COSINE_HEAD = "CosineClassifierHead"


def parse_options(items: Iterable[str]) -> dict[str, Any]:
    """Return the values of ``key=value`` items, read as ``--cfg-options`` reads them.

    >>> parse_options(["alpha=6", "per_image=false", "values=[1,2.5]", "ties=dense"])
    {'alpha': 6, 'per_image': False, 'values': [1, 2.5], 'ties': 'dense'}

    Raises:
        ValueError: If an item has no ``=`` or brackets do not match.
    """
    parsed = Namespace(options={})
    for item in items:
        try:
            DictAction([], "options")(ArgumentParser(), parsed, [item])
        except (AssertionError, ValueError) as error:
            raise ValueError(f"must be key=value with matching brackets, got {item!r}") from error
    return parsed.options


def parse_loss(spec: str) -> tuple[str, dict[str, Any]]:
    """Split ``NAME[:key=value,...]`` into the name and its arguments.

    >>> parse_loss("outlying_mse:alpha=6,ties=dense")
    ('outlying_mse', {'alpha': 6, 'ties': 'dense'})

    Raises:
        ValueError: If the part behind the colon is not of that form.
    """
    name, colon, rest = spec.partition(":")
    complaint = f"`--loss` must be NAME[:key=value,...], got {spec!r}"
    return name, parse_arguments(rest, complaint) if colon else {}


def parse_arguments(text: str, complaint: str) -> dict[str, Any]:
    """Return the arguments of ``key=value,...``; a comma may stand inside of a value."""
    items = re.split(r",(?=\w+=)", text)
    for item in items:
        key, _, value = item.partition("=")
        if not (key.isidentifier() and value):
            raise ValueError(f"{complaint} (at {item!r}).")
    try:
        return parse_options(items)
    except ValueError as error:
        raise ValueError(f"{complaint}: arguments {error}.") from error


def resolved_loss(spec: str, losses: Mapping[str, Mapping[str, Any]] = LOSSES) -> dict[str, Any]:
    """Return the loss config that ``NAME[:key=value,...]`` stands for.

    >>> resolved_loss("outlying_mse:alpha=6")
    {'type': 'mmseol.OutlyingMSELoss', 'alpha': 6}

    Args:
        spec: Name and arguments.
        losses: Loss configs by name.

    Raises:
        ValueError: If the name is unknown or the loss refuses its arguments.
    """
    return _built_loss(spec, losses, scope=None)[0]


def _built_loss(
    spec: str, losses: Mapping[str, Mapping[str, Any]], scope: str | None
) -> tuple[dict[str, Any], Any]:
    """Return the config of the loss and the loss; names without a package are those of ``scope``."""
    name, arguments = parse_loss(spec)
    if name not in losses:
        nearest = "".join(f" Did you mean {known}?" for known in get_close_matches(name, losses, n=1))
        raise ValueError(f"`--loss` must name one of {', '.join(sorted(losses))}, got {name!r}.{nearest}")
    loss = {**losses[name], **arguments}
    try:
        if str(loss.get("type")).startswith("mmseol."):
            built = MODELS.build(dict(loss))  # in the host's scope this would import the host: seconds
        else:
            with DefaultScope.overwrite_default_scope(scope):
                built = ROOT_MODELS.build(dict(loss))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"`--loss` {spec!r} cannot be built: {error}") from error
    for key, value in arguments.items():
        if has_boolean(type(built), key) and not isinstance(value, bool):
            raise ValueError(f"`--loss` {spec!r}: `{key}` must be True or False, got {value!r}.")
    return loss, built


def has_boolean(cls: type, key: str) -> bool:
    """Return whether the constructor, its own or an inherited one, takes a boolean for ``key``.

    >>> from mmseol.losses import LovaszHingeLoss
    >>> has_boolean(LovaszHingeLoss, "per_image"), has_boolean(LovaszHingeLoss, "loss_weight")
    (True, False)
    """
    for parent in cls.__mro__:
        parameter = inspect.signature(vars(parent).get("__init__", parent)).parameters.get(key)
        if parameter is not None:
            return parameter.annotation in (bool, "bool") or isinstance(parameter.default, bool)
    return False


def known_losses(cfg: Config) -> dict[str, dict[str, Any]]:
    """Return the losses by name: :data:`LOSSES` with the changes and additions of ``cfg.losses``.

    An entry with a ``type`` of its own stands alone, one without changes single values.

    >>> cfg = Config(dict(losses=dict(outlying_mse=dict(alpha=6), mine=dict(type="mmseg.DiceLoss"))))
    >>> losses = known_losses(cfg)
    >>> losses["outlying_mse"], losses["mine"]
    ({'type': 'mmseol.OutlyingMSELoss', 'alpha': 6}, {'type': 'mmseg.DiceLoss'})
    """
    losses = dict(LOSSES)
    for name, changes in (cfg.get("losses") or {}).items():
        losses[name] = {**({} if "type" in changes else losses.get(name, {})), **changes}
    return losses


def set_loss(cfg: Config, spec: str) -> None:
    """Train with the loss ``NAME[:key=value,...]`` in every head, main and auxiliary.

    Names are those of :data:`LOSSES`, changed by ``cfg.losses`` (where a data set sets its own alpha).
    A head keeps the ``loss_weight`` it had (of its first loss, where it had several), unless the
    arguments give another. Heads with other classes than the main head's, as STDC's for boundaries, keep
    their loss; DDRNet's and PIDNet's heads, which have one loss per output, get one for each but the
    boundary. A loss of cosines (``cosine_outputs``: LDAM) puts the head into ``mmseol.CosineClassifierHead``,
    any other takes it out. Adds the hooks that the loss requires where the config lacks them:
    ``mmseol.ClassCountHook`` for a loss that takes class counts.

    >>> head = dict(type="LinearClsHead", num_classes=10, loss=dict(type="CrossEntropyLoss"))
    >>> cfg = Config(dict(model=dict(type="ImageClassifier", head=head)))
    >>> set_loss(cfg, "outlying_mse:alpha=5")
    >>> cfg.model.head.loss, cfg.custom_hooks
    ({'type': 'mmseol.OutlyingMSELoss', 'alpha': 5}, [{'type': 'mmseol.ClassCountHook'}])

    Raises:
        ValueError: As :func:`resolved_loss`, or if the model has no head that takes a loss.
    """
    loss, built = _built_loss(spec, known_losses(cfg), cfg.get("default_scope"))
    cosines = getattr(built, "cosine_outputs", False)
    heads = list(_heads(cfg.model))
    if not heads:
        raise ValueError(
            f"`--loss` {spec!r}: cfg.model ({cfg.model.get('type')}) has no head that takes a loss."
        )
    for head, key in heads:
        if "loss_mask" in head:
            raise ValueError(
                f"`--loss` {spec!r}: {head.get('type')} scores masks, not the classes of pixels."
            )
        if not cosines:
            _take_out_of_cosine_head(head)
        _set_head_loss(inside_cosine_head(head), key, loss)
        if cosines:
            _put_into_cosine_head(head)
    counted = ("mmseol.ClassCountHook",) if hasattr(built, "set_class_counts") else ()
    for name in (*counted, *getattr(built, "required_hooks", ())):
        hooks = [*(cfg.get("custom_hooks") or [])]
        if not any(_bare_type(hook) == name.rpartition(".")[-1] for hook in hooks):
            cfg.custom_hooks = [*hooks, dict(type=name)]


def _set_head_loss(head: Any, key: str, loss: dict[str, Any]) -> None:
    old = head.get(key) or {}
    if _bare_type(head) in _ONE_LOSS_PER_OUTPUT:
        ignore = {"ignore_index": head.get("ignore_index", 255)}  # these heads pass none
        head[key] = [
            one if _bare_type(one) == "BoundaryLoss" else _in_place_of(one, {**ignore, **loss}) for one in old
        ]
    else:
        head[key] = _in_place_of(old[0] if isinstance(old, (list, tuple)) else old, loss)


def inside_head(cfg: Config, key: str) -> str:
    """Return the key of a setting, changed if it is one of a head in a ``mmseol.CosineClassifierHead``.

    >>> head = dict(type="mmseol.CosineClassifierHead", head=dict(type="LinearClsHead", in_channels=512))
    >>> cfg = Config(dict(model=dict(head=head)))
    >>> inside_head(cfg, "model.head.in_channels"), inside_head(cfg, "model.head.classifier")
    ('model.head.head.in_channels', 'model.head.classifier')
    """
    for name, head, _ in named_heads(cfg.get("model") or {}):
        before, own = f"model.{name}.", key.removeprefix(f"model.{name}.")
        if own != key and inside_cosine_head(head) is not head:
            return key if own.partition(".")[0] in ("type", "head", "classifier") else f"{before}head.{own}"
    return key


def inside_cosine_head(head: Any) -> Any:
    """Return the config of the head that a ``mmseol.CosineClassifierHead`` holds, or the head itself.

    >>> inside_cosine_head(dict(type="mmseol.CosineClassifierHead", head=dict(type="FCNHead")))
    {'type': 'FCNHead'}
    """
    return head["head"] if _bare_type(head) == _COSINE_HEAD else head


def _put_into_cosine_head(head: Any) -> None:
    if _bare_type(head) != _COSINE_HEAD:  # one of the config may name its classifier, and stays
        inside = ConfigDict(head)
        head.clear()
        head.update(type=f"mmseol.{_COSINE_HEAD}", head=inside)


def _take_out_of_cosine_head(head: Any) -> None:
    inside = inside_cosine_head(head)
    if inside is not head:
        head.clear()
        head.update(inside)


def _in_place_of(old: Any, loss: dict[str, Any]) -> ConfigDict:
    weight = {"loss_weight": old["loss_weight"]} if "loss_weight" in old else {}
    return ConfigDict({**weight, **loss})


def _bare_type(node: Any) -> str:
    return str(node.get("type")).rpartition(".")[-1]


def stated_by_heads(cfg: Config, attribute: str) -> dict[str, int]:
    """Return an integer argument of every head that has it, by head.

    Heads of mmseg ignore the label 255 if they do not say another.

    >>> head = dict(type="FCNHead", num_classes=11, loss_decode=dict(type="CrossEntropyLoss"))
    >>> cfg = Config(dict(model=dict(decode_head=head, auxiliary_head=[dict(head)])))
    >>> stated_by_heads(cfg, "num_classes"), stated_by_heads(cfg, "ignore_index")
    ({'decode_head': 11, 'auxiliary_head.0': 11}, {'decode_head': 255, 'auxiliary_head.0': 255})
    """
    stated = {}
    for name, head, key in named_heads(cfg.get("model") or {}):
        value = inside_cosine_head(head).get(attribute)
        if value is None and attribute == "ignore_index" and key == "loss_decode":
            value = 255
        if isinstance(value, int):
            stated[name] = value
    return stated


def _heads(model: Any) -> Iterator[tuple[Any, str]]:
    """Yield the config of every head with the main head's classes, and the key of its loss."""
    found = [(head, key) for _, head, key in named_heads(model)]
    classes = [inside_cosine_head(head).get("num_classes") for head, _ in found]
    yield from (pair for pair, own in zip(found, classes, strict=True) if own == classes[0])


def named_heads(model: Any) -> Iterator[tuple[str, Any, str]]:
    """Yield the name and the config of every head, and the key of its loss, the main head first.

    >>> [(name, key) for name, _, key in named_heads(dict(head=dict(type="LinearClsHead")))]
    [('head', 'loss')]
    """
    for name, key in (("decode_head", "loss_decode"), ("head", "loss"), ("auxiliary_head", "loss_decode")):
        heads = model.get(name) or []
        if isinstance(heads, (list, tuple)):
            yield from ((f"{name}.{i}", head, key) for i, head in enumerate(heads))
        else:
            yield name, heads, key
