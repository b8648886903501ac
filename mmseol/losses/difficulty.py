"""Cross entropy weighted by the present difficulty of each class."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmseol.losses.base.class_loss import Normalize, Reduction, evaluate_once
from mmseol.losses.base.counted import to_numpy
from mmseol.losses.base.stateful import StatefulLoss
from mmseol.losses.ops.softmax import SoftmaxForm
from mmseol.registry import MODELS
from mmseol.utils.checks import choice, number

__all__ = ["CDBLoss", "cdb_loss", "difficulty_weights"]

Dynamic = Literal["dynamic", "dynamic_code"]


def difficulty_weights(difficulty: Tensor, tau: float | Dynamic) -> Tensor:
    r"""Return :math:`w_k = K d_k^\tau / \sum_j d_j^\tau`, (K,); ones if no class has any difficulty.

    >>> difficulty_weights(torch.tensor([0.1, 0.3]), tau=1.0)
    tensor([0.5000, 1.5000])

    Args:
        difficulty: :math:`d_k`, 1 - accuracy, within 0..1, (K,).
        tau: As of :class:`CDBLoss`.
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
    r"""Class-wise difficulty-balanced cross entropy: classes with more errors have larger weights.

    .. math:: L = \frac1N \sum_i -w_{y_i} \log p_{i y_i}, \qquad w_k = K \frac{d_k^\tau}{\sum_j d_j^\tau}

    where :math:`d_k` is 1 - accuracy of class k on validation data (its recall there). Source: Sinha,
    Ohashi & Nakamura, "Class-Wise Difficulty-Balanced Loss for Solving Class-Imbalance", ACCV 2020, and the
    authors' code (hitachi-rd-cv/CDB-loss). ``mmseol.ClassDifficultyHook`` sets the difficulty after each
    validation; until then every :math:`d_k` is 1 and the loss is cross entropy. A class without error has
    weight 0; if no class has an error, all weights are 1 (the authors' code gives NaN).

    >>> loss = CDBLoss(tau=1.0)
    >>> loss.set_class_difficulty([0.1, 0.3])
    >>> loss(torch.zeros(2, 2), torch.tensor([0, 1]), reduction_override="none")
    tensor([0.3466, 1.0397])

    Args:
        tau: Power :math:`\tau`, at least 0; 0 gives cross entropy. ``'dynamic'`` is the paper's
            :math:`2 \sigma(b)`, :math:`b = \max a / (\min a + 0.01) - 1` with accuracies :math:`a = 1 - d`.
            ``'dynamic_code'`` is :math:`\sigma(b + 1)`, which the authors' CIFAR and EGTEA scripts run.
        normalize: ``'count'`` divides by the number of valid elements (paper, CIFAR script); ``'weight'``
            by the sum of their class weights (the authors' ImageNet-LT script).
        class_counts: As of :class:`~mmseol.losses.ClassLoss`; so are the arguments after it.
    """

    exclusive_classes = True
    per_element = True  # the state changes between batches
    required_hooks = ("mmseol.ClassDifficultyHook",)
    state_name = "class_difficulty"
    class_difficulty: Tensor | None

    def __init__(
        self,
        tau: float | Dynamic = 1.5,
        normalize: Normalize = "count",
        *,
        class_counts: Any = None,
        ignore_index: int = -100,
        loss_weight: float = 1.0,
        reduction: Reduction = "mean",
        loss_name: str | None = None,
        sync_avg_factor: bool = False,
    ) -> None:
        self.tau: float | Dynamic = (
            choice("tau", tau, get_args(Dynamic)) if isinstance(tau, str) else number("tau", tau, at_least=0)
        )
        self.normalize = choice("normalize", normalize, get_args(Normalize))
        super().__init__(
            class_counts=class_counts,
            ignore_index=ignore_index,
            loss_weight=loss_weight,
            reduction=reduction,
            loss_name=loss_name,
            sync_avg_factor=sync_avg_factor,
        )

    def initial_state(self, num_classes: int) -> Tensor:
        """Return the difficulty before it is known: 1 for every class."""
        return torch.ones(num_classes, dtype=torch.float64)

    def set_class_difficulty(self, difficulty: Any) -> None:
        """Use these difficulties, 1 - accuracy of each class, (K,), from now on.

        Raises:
            ValueError: If they do not lie in [0, 1] or are not one per class.
        """
        values = np.asarray(to_numpy(difficulty), dtype=np.float64)
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

    def set_class_weight(self, class_weight: Any) -> None:
        """Refuse class weights: those of this loss follow from the difficulty of the classes.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "`class_weight` of CDBLoss cannot be set: its weights follow from the difficulty of the classes. "
            "Leave out mmseol.DeferredReweightHook, or use another loss, as mmseol.CrossEntropyLoss."
        )

    def current_class_weight(self) -> Tensor | None:
        """Return the weights of the present difficulties, float64 (K,)."""
        return self.class_weight

    def softmax_form(self) -> SoftmaxForm:
        """Return the cross entropy itself; the class weights are those of the difficulty."""
        return SoftmaxForm()

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the weighted cross entropy of every element, (N, *)."""
        return F.cross_entropy(pred, target, weight=self.class_weight_like(pred), reduction="none")


def cdb_loss(
    pred: Tensor,
    target: Tensor,
    difficulty: Any,
    tau: float | Dynamic = 1.5,
    *,
    normalize: Normalize = "count",
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Return :math:`-K \frac{d_y^\tau}{\sum_j d_j^\tau} \log p_y`, as :class:`CDBLoss`.

    >>> cdb_loss(torch.zeros(1, 2), torch.tensor([1]), difficulty=[0.1, 0.3], tau=1.0)
    tensor(1.0397)

    Args:
        pred: Raw outputs, (N, K, *).
        target: Labels, integer (N, *), or soft labels, (N, K, *).
        difficulty: :math:`d_k`, 1 - accuracy of each class, (K,).
        tau: As of :class:`CDBLoss`; so is ``normalize``.
        weight: Factor of each element, (N, *), or of each sample, (N,).
        ignore_index: Label of the elements to leave out.
        reduction: ``'mean'``, ``'sum'``, or ``'none'`` for one loss per element, (N, *).
    """

    def build() -> CDBLoss:
        loss = CDBLoss(tau, normalize, ignore_index=ignore_index, reduction=reduction)
        loss.set_class_difficulty(difficulty)
        return loss

    return evaluate_once(build, pred, target, weight)
