"""What every loss with class weights shares."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from mmseol.counting.counts import CLASS_WEIGHTS, class_weights, effective_number_weights, load_weights
from mmseol.losses.base.class_loss import ClassLoss
from mmseol.utils.checks import choice

__all__ = ["WeightedClassLoss"]

Normalize = Literal["weight", "count"]


class WeightedClassLoss(ClassLoss):
    """Loss whose positions are weighted by their class.

    With class weights, ``'mean'`` divides by the sum of the weights at the valid positions, as
    :func:`torch.nn.functional.cross_entropy`; soft labels are divided by their number, as there.
    A subclass multiplies by :meth:`weight_of` in its equation.

    Args:
        class_weight: Weights in class order; a ``.json`` or ``.npy`` file of them; or by name from
            the counts: ``'median_frequency'`` (Eigen & Fergus, ICCV 2015; SegNet, TPAMI 2017; without
            the totals that ``mmseol.ClassCountHook`` brings, the global frequency is used),
            ``'inverse_frequency'``, ``'effective_number'`` (Cui et al., CVPR 2019).
        beta: Of the effective number, in [0, 1).
        normalize: ``'weight'`` divides by the sum of the class weights (torch), ``'count'`` by the
            number of valid positions (Cui et al.'s code, SegNet's Caffe).
        **kwargs: Arguments of every loss, see :class:`~mmseol.losses.ClassLoss`.
    """

    derived: tuple[str, ...] = ("class_weight",)
    class_weight: Tensor | None

    def __init__(
        self,
        class_weight: Any = None,
        beta: float = 0.9999,
        normalize: Normalize = "weight",
        **kwargs: Any,
    ) -> None:
        effective_number_weights([2, 1], beta)  # refuses a beta out of range
        self.beta = beta
        self.normalize = choice("normalize", normalize, get_args(Normalize))
        self._weight_name: str | None = None
        self._given_weight: np.ndarray | None = None
        if isinstance(class_weight, str) and not class_weight.endswith((".json", ".npy")):
            self._weight_name = choice("class_weight", class_weight, CLASS_WEIGHTS)
        elif class_weight is not None:
            self._given_weight = load_weights(class_weight)
        super().__init__(**kwargs)

    @property
    def needs_counts(self) -> bool:
        """Whether the class weights come from the counts."""
        return self._weight_name is not None and self._given_weight is None

    def set_class_weight(self, class_weight: Any) -> None:
        """Use these weights, (K,), from now on, in place of those by name; for schedules."""
        self._given_weight = load_weights(class_weight)
        self.set_derived("class_weight", self._given_weight)

    def update_from_counts(self, counts: np.ndarray, totals: np.ndarray | None) -> None:
        """Work out the class weights that were asked for by name."""
        if self._weight_name is not None and self._given_weight is None:
            self.set_derived("class_weight", class_weights(self._weight_name, counts, totals, self.beta))

    def _refresh(self) -> None:
        super()._refresh()
        if self._given_weight is not None:
            self.set_derived("class_weight", self._given_weight)

    def class_weight_like(self, pred: Tensor) -> Tensor | None:
        """Return the class weights, (K,), in ``pred``'s type, or ``None`` where there are none."""
        if self.class_weight is None:
            return None
        if self.class_weight.numel() != pred.shape[1]:
            raise ValueError(
                f"`class_weight` must have one entry per class, got {self.class_weight.numel()} entries "
                f"for `pred` with {pred.shape[1]} classes."
            )
        return self.class_weight.to(pred)

    def weight_of(self, pred: Tensor, target: Tensor) -> Tensor | None:
        """Return the class weight of every position, (N, *); a soft label's is the mean over its classes."""
        weight = self.class_weight_like(pred)
        if weight is None:
            return None
        if target.dim() == pred.dim():
            return torch.einsum("nk...,k->n...", target, weight)
        return weight[target]

    def divisor(self, target: Tensor, valid: Tensor) -> Tensor:
        """Return the sum of the class weights at the valid positions, or their number."""
        soft = target.dim() > valid.dim()
        if self.class_weight is None or self.normalize == "count" or soft:
            return super().divisor(target, valid)
        weight = self.class_weight.to(target.device)[target]
        return (weight * valid).sum()
