"""Arithmetic on the classifier of a finished model: tau-normalisation and post-hoc logit adjustment."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mmseol.counting.counts import at_least_one, check_counts

__all__ = ["find_classifier", "logit_adjustment", "tau_normalized"]

_HEADS, _CLASSIFIERS = ("decode_head", "head"), ("conv_seg", "fc")  # of mmseg and mmpretrain


def tau_normalized(weight: Tensor, tau: float) -> Tensor:
    r"""Return :math:`\tilde w_k = w_k / \lVert w_k \rVert^\tau` for every class.

    Kang et al., ICLR 2020, sec. 4.2; ``tau=0`` changes nothing, 1 gives all classes weights of one length.

    Args:
        weight: Weights of a classifier, (K, C) or (K, C, 1, 1).
        tau: :math:`\tau`, at least 0.

    Returns:
        As ``weight``; a class whose weights are all 0 keeps them.

    Raises:
        ValueError: If ``tau`` is negative or not finite.
    """
    _check_tau(tau)
    norm = weight.flatten(1).double().norm(dim=1)
    scale = torch.where(norm > 0, norm, 1.0).pow(-tau)
    return (weight.double() * scale.view(-1, *[1] * (weight.dim() - 1))).to(weight.dtype)


def logit_adjustment(counts: ArrayLike, tau: float) -> Tensor:
    r"""Return what is added to the logits of each class, :math:`-\tau \log \pi_k`, float64 (K,).

    Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, eq. 9, post-hoc; :math:`\pi_k` is
    the share of class k in the training data, whose counts below 1 enter as 1.

    Raises:
        ValueError: If ``tau`` is negative or not finite, or the counts are none.
    """
    _check_tau(tau)
    samples = at_least_one(check_counts(counts), "logit adjustment")
    return torch.from_numpy(-tau * np.log(samples / samples.sum()))


def _check_tau(tau: float) -> None:
    """Refuse a tau below 0."""
    if isinstance(tau, bool) or not isinstance(tau, (int, float)) or not 0 <= tau < float("inf"):
        raise ValueError(f"`tau` must be a finite number of at least 0, got {tau!r}.")


def find_classifier(names: Iterable[str], classifier: str | None = None) -> str:
    """Return the name of the layer that a host's main head classifies with.

    It is ``head.fc`` in mmpretrain and ``decode_head.conv_seg`` in mmseg, the last one in a cascade.

    Args:
        names: Names of a model's parameters.
        classifier: The layer's name, where it is another.

    Raises:
        ValueError: If there is no such layer.
    """
    layers = list(dict.fromkeys(n.removesuffix(".weight") for n in names if n.endswith(".weight")))
    main = [n for n in layers if n.split(".")[0] in _HEADS and n.split(".")[-1] in _CLASSIFIERS]
    found = main[-1:] if classifier is None else [n for n in layers if n == classifier]
    if not found:
        heads = [name for name in layers if "head" in name]
        raise ValueError(
            "`classifier` must be the name of the layer that classifies, as 'head.fc' or "
            f"'decode_head.conv_seg', got {classifier!r}. Layers of heads here: {', '.join(heads) or 'none'}."
        )
    return found[0]
