"""Cross entropy weighted by how difficult each class is at present."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmseol.losses.base.stateful import StatefulLoss
from mmseol.losses.base.weighted import Normalize
from mmseol.registry import MODELS
from mmseol.utils.checks import choice, number

__all__ = ["CDBLoss", "difficulty_weights"]

Dynamic = Literal["dynamic", "dynamic_code"]


def difficulty_weights(difficulty: Tensor, tau: float | Dynamic) -> Tensor:
    r"""Return :math:`w_k = K d_k^\tau / \sum_j d_j^\tau`, (K,); ones where no class is difficult.

    Args:
        difficulty: :math:`d_k`, 1 - accuracy, within 0..1, (K,).
        tau: As in :class:`CDBLoss`.
    """
    if isinstance(tau, str):
        accuracy = 1 - difficulty
        bias = accuracy.max() / (accuracy.min() + 0.01) - 1
        power = 2 * torch.sigmoid(bias) if tau == "dynamic" else torch.sigmoid(bias + 1)
    else:
        power = difficulty.new_tensor(tau)
    raised = difficulty**power
    total = raised.sum()
    return torch.where(total > 0, raised * (difficulty.numel() / total), 1)


@MODELS.register_module()
class CDBLoss(StatefulLoss):
    r"""Class-wise difficulty-balanced cross entropy: classes weigh by what is still wrong about them.

    .. math:: L = \frac1N \sum_i -w_{y_i} \log p_{i y_i}, \qquad w_k = K \frac{d_k^\tau}{\sum_j d_j^\tau}

    where :math:`d_k` is 1 - accuracy of class k on validation data (its recall there). Source: Sinha,
    Ohashi & Nakamura, "Class-Wise Difficulty-Balanced Loss for Solving Class-Imbalance", ACCV 2020, and the
    authors' code (hitachi-rd-cv/CDB-loss). ``mmseol.ClassDifficultyHook`` tells the difficulty after each
    validation; until then every :math:`d_k` is 1 and the loss is cross entropy. A class without error has
    weight 0; if no class has an error, all weights are 1 (the authors' code gives NaN).

    Args:
        tau: Power :math:`\tau`, at least 0; 0 gives cross entropy. ``'dynamic'`` is the paper's
            :math:`2 \sigma(b)`, :math:`b = \max a / (\min a + 0.01) - 1` with accuracies :math:`a = 1 - d`.
            ``'dynamic_code'`` is :math:`\sigma(b + 1)`, which the authors' CIFAR and EGTEA scripts run.
        normalize: ``'count'`` divides by the number of valid positions (paper, CIFAR script); ``'weight'``
            by the sum of their class weights (the authors' ImageNet-LT script).
        **kwargs: Arguments of every loss, see :class:`~mmseol.losses.ClassLoss`.
    """

    required_hooks = ("mmseol.ClassDifficultyHook",)
    state_name = "class_difficulty"
    class_difficulty: Tensor | None

    def __init__(self, tau: float | Dynamic = 1.5, normalize: Normalize = "count", **kwargs: Any) -> None:
        names = get_args(Dynamic)
        self.tau: float | Dynamic = choice("tau", tau, names) if isinstance(tau, str) else number("tau", tau)
        if not isinstance(self.tau, str) and self.tau < 0:
            raise ValueError(
                f"`tau` must be at least 0, or one of {', '.join(map(repr, names))}, got {tau!r}."
            )
        self.normalize = choice("normalize", normalize, get_args(Normalize))
        super().__init__(**kwargs)

    def initial_state(self, num_classes: int) -> Tensor:
        """Return the difficulty before it is known: 1 for every class."""
        return torch.ones(num_classes, dtype=torch.float64)

    def set_class_difficulty(self, difficulty: Any) -> None:
        """Use these difficulties, 1 - accuracy of each class, (K,), from now on.

        Raises:
            ValueError: If they do not lie in [0, 1] or are not one per class.
        """
        values = difficulty.detach().cpu().numpy() if isinstance(difficulty, Tensor) else difficulty
        values = np.asarray(values, dtype=np.float64)
        size = values.size if self.class_difficulty is None else self.class_difficulty.numel()
        if values.ndim != 1 or values.size < 2 or values.size != size:
            raise ValueError(
                f"`difficulty` must be one number for each of the {max(size, 2)} classes, got shape "
                f"{values.shape}."
            )
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"`difficulty` must lie in [0, 1], got {values.tolist()}. It is 1 - accuracy.")
        self.allocate_class_counts(values.size)
        assert self.class_difficulty is not None
        self.class_difficulty.copy_(torch.from_numpy(values))

    @property
    def class_weight(self) -> Tensor | None:
        """Class weights, float64 (K,), or ``None`` until the number of classes is known."""
        return None if self.class_difficulty is None else difficulty_weights(self.class_difficulty, self.tau)

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the weighted cross entropy at every position, (N, *)."""
        assert self.class_weight is not None
        return F.cross_entropy(pred, target, weight=self.class_weight.to(pred), reduction="none")

    def divisor(self, target: Tensor, valid: Tensor) -> Tensor:
        """Return the number of valid positions, or the sum of their class weights unless labels are soft."""
        if self.normalize == "count" or target.dim() > valid.dim():
            return super().divisor(target, valid)
        assert self.class_weight is not None
        return (self.class_weight.to(target.device)[target] * valid).sum()
