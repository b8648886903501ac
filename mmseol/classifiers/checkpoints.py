"""Write checkpoints with an adjusted classifier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mmseol.classifiers.find import find_classifier
from mmseol.classifiers.posthoc import logit_adjustment, tau_normalized
from mmseol.utils.checks import choice
from mmseol.utils.files import replacing
from mmseol.utils.unpickling import load_checkpoint

__all__ = ["Method", "adjust_checkpoint"]

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
    if Path(out).exists():
        raise FileExistsError(f"`out` must be a new file, got {str(out)!r}.")
    checkpoint = load_checkpoint(source, unsafe=unsafe_load)
    if not isinstance(checkpoint.get("state_dict"), Mapping):
        raise ValueError(f"`source` must be a checkpoint with a 'state_dict', got {str(source)!r}.")
    state, meta = dict(checkpoint["state_dict"]), dict(checkpoint.get("meta") or {})
    if "adjusted_classifier" in meta:
        raise ValueError(f"`source` {str(source)!r} is adjusted already: {meta['adjusted_classifier']}.")
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


def _adjusted_bias(state: Mapping[str, Tensor], layer: str, counts: ArrayLike | None, tau: float) -> Tensor:
    bias = state.get(f"{layer}.bias")
    if bias is None:
        raise ValueError(
            f"`method` 'logit_adjustment' goes into the bias of {layer}, which has none. Train with a bias."
        )
    adjustment = logit_adjustment(_stored_counts(state, layer) if counts is None else counts, tau)
    return (bias.double() + adjustment).to(bias.dtype)


def _stored_counts(state: Mapping[str, Tensor], layer: str) -> Any:
    stored = [value.numpy() for name, value in state.items() if _counts_of(layer, name, value)]
    if not stored:
        raise ValueError(
            "`counts` must be given, got None: no loss in the checkpoint has class counts. Give the "
            "class_counts.json of the training run's work directory."
        )
    return stored[0]
