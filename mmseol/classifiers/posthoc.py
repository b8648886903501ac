"""Arithmetic on the classifier of a finished model: tau-normalisation and post-hoc logit adjustment."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mmseol.counting.counts import at_least_one, check_counts
from mmseol.utils.checks import number

__all__ = ["logit_adjustment", "tau_normalized"]


def tau_normalized(weight: Tensor, tau: float) -> Tensor:
    r"""Return :math:`\tilde w_k = w_k / \lVert w_k \rVert^\tau` for every class.

    Kang et al., ICLR 2020, sec. 4.2. ``tau=0`` changes nothing; ``tau=1`` gives all classes the norm 1.

    >>> tau_normalized(torch.tensor([[3.0, 4.0], [0.0, 0.5]]), tau=1)
    tensor([[0.6000, 0.8000],
            [0.0000, 1.0000]])

    Args:
        weight: Weights of a classifier, (K, C) or (K, C, 1, 1).
        tau: :math:`\tau`, at least 0.

    Returns:
        Tensor of the shape and type of ``weight``; a class whose weights are all 0 keeps them.

    Raises:
        ValueError: If ``tau`` is negative or not finite.
    """
    tau = number("tau", tau, at_least=0)
    norm = weight.flatten(1).double().norm(dim=1)
    scale = torch.where(norm > 0, norm, 1.0).pow(-tau)
    return (weight.double() * scale.view(-1, *[1] * (weight.dim() - 1))).to(weight.dtype)


def logit_adjustment(counts: ArrayLike, tau: float) -> Tensor:
    r"""Return the summand of each class's logit, :math:`-\tau \log \pi_k`, float64 (K,).

    Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, eq. 9, post-hoc. :math:`\pi_k` is
    the fraction of class k in the training data; counts below 1 enter as 1.

    >>> logit_adjustment([90, 10], tau=1.0).round(decimals=2)
    tensor([0.1100, 2.3000], dtype=torch.float64)

    Raises:
        ValueError: If ``tau`` is negative or not finite, or the counts are invalid.
    """
    tau = number("tau", tau, at_least=0)
    samples = at_least_one(check_counts(counts), "logit adjustment")
    return torch.from_numpy(-tau * np.log(samples / samples.sum()))
