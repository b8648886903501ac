"""Write checkpoints with an adjusted classifier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mmseol.classifiers.decisions.families import KINDS, Kind
from mmseol.classifiers.find import find_classifier
from mmseol.classifiers.posthoc import logit_adjustment, tau_normalized
from mmseol.utils.checks import choice
from mmseol.utils.files import replacing
from mmseol.utils.unpickling import load_checkpoint

__all__ = ["Method", "adjust_checkpoint", "write_decision"]

Method = Literal["tau_norm", "logit_adjustment"]


def adjust_checkpoint(
    source: str | Path,
    out: str | Path,
    method: Method,
    tau: float,
    classifier: str | None = None,
    counts: ArrayLike | None = None,
    keep_bias: bool = False,
    unsafe_load: bool = False,
) -> None:
    """Write a checkpoint with an adjusted classifier, which can be tested without this package.

    The new file holds the weights and the meta data, not the state of the optimiser. If the run averaged its
    weights, these are the averaged ones, as in a test of the checkpoint.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> state = {"head.fc.weight": torch.tensor([[3.0, 4.0], [0.0, 0.5]])}
    >>> torch.save({"meta": {}, "state_dict": state}, folder / "a.pth")
    >>> adjust_checkpoint(folder / "a.pth", folder / "b.pth", "tau_norm", tau=1.0)
    >>> torch.load(folder / "b.pth", weights_only=True)["state_dict"]["head.fc.weight"].norm(dim=1)
    tensor([1., 1.])

    Args:
        source: Checkpoint of a finished run.
        out: File to write; must not exist.
        method: ``'tau_norm'``, see :func:`~mmseol.classifiers.tau_normalized`, sets the bias to 0, as the
            authors' code does; ``'logit_adjustment'``, see :func:`~mmseol.classifiers.logit_adjustment`,
            changes the bias and is meant for logits of a softmax.
        tau: Strength of the adjustment; choose it on validation data.
        classifier: As in :func:`~mmseol.classifiers.find_classifier`.
        counts: Training samples of each class, (K,); ``None``: those of a loss in the checkpoint.
        keep_bias: Whether ``'tau_norm'`` keeps the bias.
        unsafe_load: Also read what could run code, see :func:`~mmseol.utils.unpickling.load_checkpoint`.

    Raises:
        ValueError: If an argument is invalid, the checkpoint is adjusted already, or its classifier has
            another number of outputs than its training data or its counts have classes.
        FileExistsError: If ``out`` exists.
    """
    choice("method", method, get_args(Method))
    state, meta = _read(source, out, unsafe_load)
    layer = find_classifier(state, classifier)
    _check_width(state, meta, layer, counts)
    adjust = {"method": method, "tau": tau, "classifier": layer}
    if method == "tau_norm":
        state[f"{layer}.weight"] = tau_normalized(state[f"{layer}.weight"], tau)
        if not keep_bias and f"{layer}.bias" in state:
            state[f"{layer}.bias"] = torch.zeros_like(state[f"{layer}.bias"])
    else:
        state[f"{layer}.bias"] = _adjusted_bias(state, layer, counts, tau)
    with replacing(out) as file:
        torch.save({"meta": {**meta, "adjusted_classifier": adjust}, "state_dict": state}, file)


def _check_width(
    state: Mapping[str, Tensor], meta: Mapping[str, Any], layer: str, counts: ArrayLike | None
) -> None:
    """Refuse a layer whose outputs are not the classes of the counts and of the training data."""
    width = len(state[f"{layer}.weight"])
    if counts is not None and np.size(counts) != width:
        raise ValueError(
            f"`counts` must have one entry per class, got {np.size(counts)} for the {width} classes of "
            f"{layer}."
        )
    data = dict(meta.get("dataset_meta") or {}).get("classes") or ()
    stored = {f"{name} has": value.numel() for name, value in state.items() if _counts_of(layer, name, value)}
    for owner, number in {"its training data have": len(data), **stored}.items():
        if number not in (0, width):
            raise ValueError(
                f"`source` must have one output per class, got {width} outputs of {layer}, and {owner} "
                f"{number} classes. If another layer classifies, name it with `classifier`."
            )


def _counts_of(layer: str, name: str, value: Tensor) -> bool:
    return name.startswith(f"{layer.split('.')[0]}.") and name.endswith(".class_counts") and bool(value.any())


def write_decision(
    source: str | Path,
    out: str | Path,
    kind: Kind,
    log_factors: ArrayLike,
    classifier: str | None = None,
    unsafe_load: bool = False,
) -> None:
    r"""Write a checkpoint whose classifier multiplies or adds a value per class to its outputs.

    A multiplicative decision multiplies the weights and the bias of class k by :math:`m_k`, an additive one
    adds :math:`\log m_k` to its bias. Bilinear interpolation commutes with both, so that the argmax of the
    new outputs is the decision at any size, up to rounding. The file is as of :func:`adjust_checkpoint`.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> state = {"head.fc.weight": torch.ones(2, 2), "head.fc.bias": torch.ones(2)}
    >>> torch.save({"meta": {}, "state_dict": state}, folder / "a.pth")
    >>> write_decision(folder / "a.pth", folder / "b.pth", "multiplicative", np.log([0.5, 2.0]))
    >>> torch.load(folder / "b.pth", weights_only=True)["state_dict"]["head.fc.bias"]
    tensor([0.5000, 2.0000])

    Args:
        source: Checkpoint of a finished run.
        out: File to write; must not exist.
        kind: ``'multiplicative'`` or ``'additive'``.
        log_factors: :math:`\log m_k`, (K,).
        classifier: As in :func:`~mmseol.classifiers.find_classifier`.
        unsafe_load: As of :func:`adjust_checkpoint`.

    Raises:
        ValueError: If an argument is invalid, the checkpoint is adjusted already, or an additive decision
            meets a classifier without a bias.
        FileExistsError: If ``out`` exists.
    """
    choice("kind", kind, KINDS)
    state, meta = _read(source, out, unsafe_load)
    layer = find_classifier(state, classifier)
    values = torch.from_numpy(np.array(log_factors, dtype=np.float64))
    weight, bias = state[f"{layer}.weight"], state.get(f"{layer}.bias")
    if values.shape != weight.shape[:1] or not values.isfinite().all():
        raise ValueError(
            f"`log_factors` must be one finite number for each of the {len(weight)} classes of {layer}, got "
            f"shape {tuple(values.shape)}."
        )
    if kind == "additive":
        if bias is None:
            raise ValueError(f"An additive decision goes into the bias of {layer}, which has none.")
        state[f"{layer}.bias"] = (bias.double() + values).to(bias.dtype)
    else:
        factors = values.exp()
        column = factors.view(-1, *[1] * (weight.dim() - 1))
        state[f"{layer}.weight"] = (weight.double() * column).to(weight.dtype)
        if bias is not None:
            state[f"{layer}.bias"] = (bias.double() * factors).to(bias.dtype)
    adjust = {"method": "decision", "kind": kind, "log_factors": values.tolist(), "classifier": layer}
    with replacing(out) as file:
        torch.save({"meta": {**meta, "adjusted_classifier": adjust}, "state_dict": state}, file)


def _read(source: str | Path, out: str | Path, unsafe_load: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights and the meta data of a checkpoint that is not adjusted yet."""
    if Path(out).exists():
        raise FileExistsError(f"`out` must be a new file, got {str(out)!r}.")
    checkpoint = load_checkpoint(source, unsafe=unsafe_load)
    if not isinstance(checkpoint.get("state_dict"), Mapping):
        raise ValueError(f"`source` must be a checkpoint with a 'state_dict', got {str(source)!r}.")
    state, meta = dict(checkpoint["state_dict"]), dict(checkpoint.get("meta") or {})
    if "adjusted_classifier" in meta:
        raise ValueError(f"`source` {str(source)!r} is adjusted already: {meta['adjusted_classifier']}.")
    return state, meta


def _adjusted_bias(state: Mapping[str, Tensor], layer: str, counts: ArrayLike | None, tau: float) -> Tensor:
    bias = state.get(f"{layer}.bias")
    if bias is None:
        raise ValueError(
            f"`method` 'logit_adjustment' goes into the bias of {layer}, which has none. Train with a bias."
        )
    adjustment = logit_adjustment(_stored_counts(state, layer) if counts is None else counts, tau)
    return (bias.double() + adjustment).to(bias.dtype)


def _stored_counts(state: Mapping[str, Tensor], layer: str) -> Any:
    stored = [value for name, value in state.items() if _counts_of(layer, name, value)]
    if not stored:
        raise ValueError(
            "`counts` must be given, got None: no loss in the checkpoint has class counts. Give the "
            "class_counts.json of the training run's work directory."
        )
    return stored[0]
