"""Which loss the heads train with."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config, ConfigDict

from mmseol.registry import MODELS

__all__ = ["parse_loss", "resolved_loss", "set_loss"]


_ONE_LOSS_PER_OUTPUT = ("DDRHead", "PIDHead")
_COSINE_HEAD = "CosineClassifierHead"


def parse_loss(spec: str) -> tuple[str, dict[str, Any]]:
    """Split ``NAME[:key=value,...]`` into the name and its arguments.

    Values are Python literals where they parse as such, else strings:
    ``outlying_mse:alpha=6,ties=dense`` gives ``('outlying_mse', {'alpha': 6, 'ties': 'dense'})``.

    Raises:
        ValueError: If the part behind the colon is not of that form.
    """
    name, colon, rest = spec.partition(":")
    return name, parse_arguments(
        rest, f"`--loss` must be NAME[:key=value,...], got {spec!r}"
    ) if colon else {}


def parse_arguments(text: str, complaint: str) -> dict[str, Any]:
    """Return the arguments of ``key=value,...``; a comma may stand inside of a value."""
    arguments: dict[str, Any] = {}
    for item in re.split(r",(?=\w+=)", text):
        key, equals, value = item.partition("=")
        if not (equals and key.isidentifier() and value):
            raise ValueError(f"{complaint} (at {item!r}).")
        try:
            arguments[key] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            arguments[key] = value
    return arguments


def resolved_loss(spec: str, losses: dict[str, dict]) -> dict[str, Any]:
    """Return the loss config that ``NAME[:key=value,...]`` stands for.

    Args:
        spec: What a user types.
        losses: Loss configs by name, as ``configs/_base_/losses.py`` lists them.

    Raises:
        ValueError: If the name is unknown or the loss refuses its arguments.
    """
    name, arguments = parse_loss(spec)
    if name not in losses:
        raise ValueError(f"`--loss` must name one of {', '.join(sorted(losses))}, got {name!r}.")
    loss = {**losses[name], **arguments}
    try:
        MODELS.build(dict(loss))
    except (TypeError, ValueError) as error:
        raise ValueError(f"`--loss` {spec!r} cannot be built: {error}") from error
    return loss


def set_loss(cfg: Config, spec: str, fallback: dict[str, dict] | None = None) -> None:
    """Train with the loss ``NAME[:key=value,...]`` in every head, main and auxiliary.

    Names are looked up in ``cfg.losses`` (where a data set sets its own alpha), then in ``fallback``.
    A head keeps the ``loss_weight`` it had (of its first loss, where it had several), unless the
    arguments give another. Heads with other classes than the main head's, as STDC's for boundaries, keep
    their loss; DDRNet's and PIDNet's heads, which have one loss per output, get one for each but the
    boundary. A loss of cosines (``cosine_outputs``: LDAM) puts the head into ``mmseol.CosineClassifierHead``,
    any other takes it out. Adds ``mmseol.ClassCountHook``, and what else the loss requires, where the
    config has none.

    Raises:
        ValueError: As :func:`resolved_loss`, or if the model has no head that takes a loss.
    """
    loss = resolved_loss(spec, {**(fallback or {}), **cfg.get("losses", {})})
    cosines = getattr(MODELS.build(dict(loss)), "cosine_outputs", False)
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
        _set_head_loss(_inside_cosine_head(head), key, loss)
        if cosines:
            _put_into_cosine_head(head)
    for name in ("mmseol.ClassCountHook", *MODELS.get(loss["type"]).required_hooks):
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


def _inside_cosine_head(head: Any) -> Any:
    return head["head"] if _bare_type(head) == _COSINE_HEAD else head


def _put_into_cosine_head(head: Any) -> None:
    if _bare_type(head) != _COSINE_HEAD:  # one of the config may name its classifier, and stays
        inside = ConfigDict(head)
        head.clear()
        head.update(type=f"mmseol.{_COSINE_HEAD}", head=inside)


def _take_out_of_cosine_head(head: Any) -> None:
    inside = _inside_cosine_head(head)
    if inside is not head:
        head.clear()
        head.update(inside)


def _in_place_of(old: Any, loss: dict[str, Any]) -> ConfigDict:
    weight = {"loss_weight": old["loss_weight"]} if "loss_weight" in old else {}
    return ConfigDict({**weight, **loss})


def _bare_type(node: Any) -> str:
    return str(node.get("type")).rpartition(".")[-1]


def _heads(model: Any) -> Iterator[tuple[Any, str]]:
    """Yield the config of every head with the main head's classes, and the key of its loss."""
    found = []
    for name, key in (("decode_head", "loss_decode"), ("head", "loss"), ("auxiliary_head", "loss_decode")):
        heads = model.get(name) or []
        found += [(head, key) for head in (heads if isinstance(heads, (list, tuple)) else [heads])]
    classes = [_inside_cosine_head(head).get("num_classes") for head, _ in found]
    yield from (pair for pair, own in zip(found, classes, strict=True) if own == classes[0])
