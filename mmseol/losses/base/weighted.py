"""The base of every loss with class weights in its equation."""

from __future__ import annotations

from numbers import Real
from typing import Any, get_args

import numpy as np
from torch import Tensor

from mmseol.counting.counts import CLASS_WEIGHTS, class_weights, load_weights
from mmseol.losses.base.class_loss import ClassLoss, Normalize, Reduction
from mmseol.losses.base.counted import to_numpy
from mmseol.utils.checks import choice, number

__all__ = ["WeightedClassLoss"]


class WeightedClassLoss(ClassLoss):
    """Loss whose elements are weighted by their class.

    With class weights, ``'mean'`` divides by the sum of the weights of the valid elements, as
    :func:`torch.nn.functional.cross_entropy`; soft labels are divided by their number, as there.
    A subclass multiplies by :meth:`weight_of` in its equation.

    >>> import torch
    >>> class Distance(WeightedClassLoss):
    ...     def position_loss(self, pred, target, valid):
    ...         return self.weight_of(pred, target) * (1 - pred.gather(1, target.unsqueeze(1)).squeeze(1))
    >>> Distance(class_weight=[1.0, 3.0])(torch.zeros(2, 2), torch.tensor([0, 1]))
    tensor(1.)

    Args:
        class_weight: Weights in class order; a ``.json`` or ``.npy`` file of them; or by name from
            the counts: ``'median_frequency'`` (Eigen & Fergus, ICCV 2015; SegNet, TPAMI 2017; without
            the totals that ``mmseol.ClassCountHook`` counts, the global frequency is used),
            ``'inverse_frequency'``, ``'effective_number'`` (Cui et al., CVPR 2019), ``'enet'`` (Paszke et
            al., 2016); or a number p, for weights proportional to :math:`n_c^{-p}`.
        beta: Of the effective number, in [0, 1).
        normalize: ``'weight'`` divides by the sum of the class weights (torch), ``'count'`` by the
            number of valid elements (Cui et al.'s code, SegNet's Caffe).
        class_counts: As of :class:`~mmseol.losses.ClassLoss`; so are the arguments after it.
    """

    derived: tuple[str, ...] = ("class_weight",)
    class_weight: Tensor | None

    def __init__(
        self,
        class_weight: Any = None,
        beta: float = 0.9999,
        normalize: Normalize = "weight",
        *,
        class_counts: Any = None,
        ignore_index: int = -100,
        loss_weight: float = 1.0,
        reduction: Reduction = "mean",
        loss_name: str | None = None,
        sync_avg_factor: bool = False,
    ) -> None:
        self.beta = number("beta", beta, at_least=0, below=1)
        self.normalize = choice("normalize", normalize, get_args(Normalize))
        self._weight_name: str | float | None = None
        self._given_weight: np.ndarray | None = None
        if isinstance(class_weight, str) and not class_weight.endswith((".json", ".npy")):
            self._weight_name = choice("class_weight", class_weight, CLASS_WEIGHTS)
        elif isinstance(class_weight, Real) and not isinstance(class_weight, bool):
            self._weight_name = number("class_weight", class_weight, at_least=0)
        elif class_weight is not None:
            self._given_weight = load_weights(to_numpy(class_weight))
        super().__init__(
            class_counts=class_counts,
            ignore_index=ignore_index,
            loss_weight=loss_weight,
            reduction=reduction,
            loss_name=loss_name,
            sync_avg_factor=sync_avg_factor,
        )

    @property
    def needs_counts(self) -> bool:
        """Whether the loss or its class weights follow from the counts."""
        return self.counts_required or (self._weight_name is not None and self._given_weight is None)

    def set_class_weight(self, class_weight: Any) -> None:
        """Use these weights, (K,), from now on, in place of those by name; for schedules."""
        self._given_weight = load_weights(to_numpy(class_weight))
        self.set_derived("class_weight", self._given_weight)

    def current_class_weight(self) -> Tensor | None:
        """Return the class weights, float64 (K,), or ``None`` if there are none."""
        return self.class_weight

    def update_from_counts(self, counts: np.ndarray, totals: np.ndarray | None) -> None:
        """Compute the class weights that were given by name."""
        if self._weight_name is not None and self._given_weight is None:
            self.set_derived("class_weight", class_weights(self._weight_name, counts, totals, self.beta))

    def _refresh(self) -> None:
        super()._refresh()
        if self._given_weight is not None:
            self.set_derived("class_weight", self._given_weight)
