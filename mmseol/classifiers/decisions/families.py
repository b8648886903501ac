r"""Decisions that give each class a factor, and what the outputs of a loss estimate.

A squared error of raw outputs makes output k a regression of its own, whose minimum is :math:`a_k = v_k P(k
\mid x)` with the target :math:`v_k`; a softmax loss has its minimum at :math:`a_k = \log w_k + \log P(k \mid
x)` up to a constant, with the class weight or minus the prior offset :math:`w_k`. A decision is
:math:`\arg\max_k m_k a_k` for the first, :math:`\arg\max_k a_k + \log m_k` for the second; both decide by
:math:`m_k w_k P(k \mid x)`. For the best accuracy on data like the training data, :math:`m_k w_k` is equal
for all classes; for the best balanced accuracy it is proportional to :math:`1 / n_k`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from mmseol.counting.counts import at_least_one, check_counts, outlying_values
from mmseol.utils.arrays import FloatArray
from mmseol.utils.checks import choice, number

__all__ = ["FAMILIES", "KINDS", "Family", "estimated_weights", "make_family"]

Kind = Literal["multiplicative", "additive"]
KINDS: tuple[Kind, ...] = ("multiplicative", "additive")
FAMILIES = ("prior", "counts", "targets")
_SOFTMAX = (  # of the hosts, where `use_sigmoid` is not set
    "CrossEntropyLoss",
    "DiceLoss",
    "LabelSmoothLoss",
    "LovaszLoss",
    "OhemCrossEntropy",
    "SeesawLoss",
    "TverskyLoss",
)


@dataclass(frozen=True)
class Family:
    r"""Decisions :math:`\log m_k = b_k + t d_k` for several strengths t.

    >>> family = Family("counts", "additive", [0.0, 0.0], [0.0, 2.0], [0.0, 1.0])
    >>> family.candidates()
    array([[ 0.,  0.],
           [-1.,  1.]])

    Attributes:
        name: Name of the family.
        kind: Whether :math:`m_k` multiplies the outputs or its logarithm is added.
        base: :math:`b_k`, (K,).
        direction: :math:`d_k`, (K,).
        strengths: t, ascending, (C,).
    """

    name: str
    kind: Kind
    base: FloatArray
    direction: FloatArray
    strengths: FloatArray

    def __post_init__(self) -> None:
        choice("kind", self.kind, KINDS)
        for name in ("base", "direction", "strengths"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        if (
            self.strengths.ndim != 1
            or not self.strengths.size
            or not np.isfinite(self.strengths).all()
            or (np.diff(self.strengths) <= 0).any()
        ):
            raise ValueError(
                f"`strengths` must be finite numbers that ascend, got {self.strengths.tolist()}."
            )

    def log_factors(self, strength: float) -> FloatArray:
        """Return :math:`\\log m_k` of one strength, (K,); a constant that makes their mean 0 is added."""
        values = self.base + strength * self.direction
        return values - values.mean()

    def candidates(self) -> FloatArray:
        """Return :math:`\\log m_k` of all strengths, (C, K)."""
        return np.stack([self.log_factors(strength) for strength in self.strengths])


def estimated_weights(loss: Any, counts: ArrayLike) -> tuple[Kind, FloatArray]:
    r"""Return how the outputs of a loss estimate :math:`P(k \mid x)`: the kind and :math:`\log w_k`, (K,).

    :math:`w_k` is the target of a squared error, the class weight of a softmax loss, or
    :math:`e^{-o_k}` for the offset :math:`o_k` of a prior in the loss. The factor of ``mmseol.VSLoss`` and
    margins are not accounted for.

    >>> from mmseol.losses import BalancedSoftmaxLoss, OutlyingMSELoss
    >>> kind, weights = estimated_weights(OutlyingMSELoss(class_counts=[90, 10]), [90, 10])
    >>> kind, np.exp(weights)
    ('multiplicative', array([1., 2.]))
    >>> kind, weights = estimated_weights(BalancedSoftmaxLoss(class_counts=[90, 10]), [90, 10])
    >>> kind, np.exp(weights).round(3)
    ('additive', array([ 1.111, 10.   ]))

    Args:
        loss: Loss module of this package or of a host.
        counts: Training samples of each class, (K,).

    Raises:
        ValueError: If the loss is neither a squared error nor known to use a softmax.
    """
    counts = check_counts(counts)
    weight = getattr(loss, "class_weight", None)
    if callable(getattr(loss, "current_class_weight", None)):
        weight = loss.current_class_weight()
    logs = np.zeros(counts.size)
    if weight is not None and not isinstance(weight, (str, dict)) and len(weight) == counts.size:
        logs = np.log(np.maximum(_numbers(weight), np.finfo(np.float64).tiny))
    if hasattr(loss, "target_values_of"):
        targets = getattr(loss, "target_values", None)
        return "multiplicative", logs if targets is None else logs + np.log(_numbers(targets))
    if getattr(loss, "offset", None) is not None:
        return "additive", logs - _numbers(loss.offset)
    if getattr(loss, "prior", None) is not None:
        return "additive", logs - np.log(_numbers(loss.prior))
    if hasattr(loss, "position_loss") or hasattr(loss, "class_loss") or type(loss).__name__ in _SOFTMAX:
        return "additive", logs
    raise ValueError(
        f"`--kind` must be given for outputs trained with {type(loss).__name__}: 'multiplicative' if they "
        "are trained on squared errors, 'additive' if they are logits of a softmax."
    )


def _numbers(values: Any) -> FloatArray:
    values = values.detach().cpu().numpy() if hasattr(values, "detach") else values
    return np.asarray(values, dtype=np.float64)


def make_family(
    name: str,
    kind: Kind,
    counts: ArrayLike,
    weights: ArrayLike | None = None,
    strengths: Sequence[float] | None = None,
) -> Family:
    r"""Return a one-parameter family of decisions by name.

    - ``'prior'``: :math:`m_k = n_k^{-t} / w_k`, so that the decision is :math:`P(k \mid x) n_k^{-t}`: 0 for
      accuracy on data like the training data, 1 for objectives where all classes count alike. Post-hoc logit
      adjustment of a cross entropy is this family.
    - ``'counts'``: :math:`m_k = n_k^{-t}`; 0 is the argmax of the outputs.
    - ``'targets'``: :math:`m_k = r_k^t` with the rank :math:`r_k`, which is the target of an outlying label;
      -1 divides outlying outputs by their targets, 1 multiplies one-hot outputs by them.

    >>> family = make_family("prior", "multiplicative", [90, 10], strengths=[0, 1])
    >>> np.exp(family.candidates()).round(2)
    array([[1.  , 1.  ],
           [0.33, 3.  ]])

    Args:
        name: ``'prior'``, ``'counts'`` or ``'targets'``.
        kind: ``'multiplicative'`` or ``'additive'``.
        counts: Training samples of each class, (K,); counts below 1 enter as 1.
        weights: :math:`\log w_k` of :func:`estimated_weights`, (K,); ``None``: zeros.
        strengths: t, in any order; ``None``: 20 values from 0 to 1.9, or 21 from -1 to 1 for targets.

    Raises:
        ValueError: If an argument is invalid.
    """
    choice("family", name, FAMILIES)
    counts = check_counts(counts)
    zeros = np.zeros(counts.size)
    grid = (np.arange(-10, 11) if name == "targets" else np.arange(20)) / 10
    given = grid.tolist() if strengths is None else strengths
    values = np.array(sorted({number("strengths", value) for value in given}))
    if name == "targets":
        return Family(name, kind, zeros, np.log(outlying_values(counts)), values)
    base = zeros if weights is None or name == "counts" else -np.asarray(weights, dtype=np.float64)
    return Family(name, kind, base, -np.log(at_least_one(counts, "the decision")), values)
