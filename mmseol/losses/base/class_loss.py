"""The base of every loss: shapes, ignored elements, weights, reduction, precision and counts, once."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar, Literal, get_args

import torch
from mmengine.dist import all_reduce
from torch import Tensor
from torch.nn import functional as F

from mmseol.counting.counts import load_weights
from mmseol.losses.base.counted import CountedModule, to_numpy
from mmseol.losses.base.tiled import evaluate_tiles, fits_tiles, grid_divisor, is_large, visit_elements
from mmseol.losses.ops.autograd import limit_half_gradients, outside_graphs
from mmseol.losses.ops.inputs import (
    Labels,
    check_shapes,
    check_sums,
    expand_weight,
    is_compiling,
    lift,
    mask_ignored,
)
from mmseol.losses.ops.softmax import SoftmaxForm
from mmseol.losses.ops.tiles import LabelGrid
from mmseol.utils.checks import KnownArguments, boolean, choice, number

__all__ = ["ClassLoss", "Normalize", "Reduction", "evaluate_once"]

Reduction = Literal["none", "mean", "sum"]
Normalize = Literal["weight", "count"]


class ClassLoss(KnownArguments, CountedModule):
    """Loss of raw outputs against class labels, averaged over the elements that are not ignored.

    An element is a sample in classification and a pixel in segmentation. A subclass writes its equation in
    :meth:`position_loss` and, if something follows from the counts, :meth:`update_from_counts`; everything
    else is done here, alike for all losses. A loss that is no sum over elements overrides
    :meth:`evaluate`. A subclass stores its settings before it calls ``super().__init__``, which may already
    use them.

    >>> import torch
    >>> class SquaredHinge(ClassLoss):
    ...     def position_loss(self, pred, target, valid):
    ...         return (1 - pred.gather(1, target.unsqueeze(1)).squeeze(1)).relu().square()
    >>> SquaredHinge(ignore_index=255)(torch.tensor([[0.5, 0.0], [9.0, 9.0]]), torch.tensor([0, 255]))
    tensor(0.2500)

    Args:
        class_counts: Training samples (pixels in segmentation) of each class in class order, or a
            ``.json`` or ``.npy`` file of them; with ``None``, ``mmseol.ClassCountHook`` counts them.
        ignore_index: Label of the elements to leave out, unless the call passes another.
            mmseg's heads pass their own (255); mmpretrain's pass none.
        loss_weight: Factor of the result.
        reduction: ``'none'`` returns one loss per element, ``'mean'`` divides by ``avg_factor`` or, without
            one, by :meth:`divisor`; ``'sum'`` adds them up.
        loss_name: Key in the log; mmseg optimises only losses whose key contains ``loss``.
        sync_avg_factor: Whether to average the divisor over ranks, so that ranks with unequal numbers of
            valid elements together give the loss of one process with the whole batch.

    Raises:
        ValueError: If an argument is out of its range, with the argument's name and value.
    """

    soft_targets: ClassVar[bool] = True
    """Whether the equation is defined for soft labels, (N, K, *), as those of mixup and label smoothing.

    It is not for EnlargedMarginLoss (the margin belongs to one label and its strongest rival), SeesawLoss
    (it counts labels), LovaszSoftmaxLoss and LovaszHingeLoss (they sort errors of pixels in or out of a
    class).
    """

    exclusive_classes: ClassVar[bool] = False
    """Whether an element has one class, so that soft labels must sum to 1 and multi-hot labels are refused.

    True for the losses on the softmax and for the squared errors. Multi-hot labels are for SigmoidFocalLoss,
    SigmoidEqualizationLoss and GHMCLoss, whose classes are binary problems of their own.
    """

    takes_avg_factor: ClassVar[bool] = True
    """Whether ``avg_factor`` replaces the divisor; a loss normalised over its batch ignores it."""

    lifts_precision: ClassVar[bool] = False
    """Whether :meth:`evaluate` converts half precision to float32 itself, chunk by chunk."""

    required_hooks: ClassVar[tuple[str, ...]] = ()
    """Types of the hooks that the loss needs beside ``mmseol.ClassCountHook``."""

    per_element: ClassVar[bool] = True
    """Whether :meth:`position_loss` needs nothing but an element's own outputs and label, so that a batch can
    be evaluated in parts. False for sums over the batch, and by default for losses with a state."""

    adds_elements: ClassVar[bool] = True
    """Whether this class's own :meth:`evaluate` adds :meth:`position_loss` of all elements. Not inherited: a
    class that overrides :meth:`evaluate` must say so itself."""

    normalize: Normalize = "weight"
    """With class weights, whether ``'mean'`` divides by their sum or by the number of elements."""

    # On the class: a pickled module of an earlier version has no such attributes.
    _class_factor: Tensor | None = None
    _sums_checked: bool = False

    def __init__(
        self,
        class_counts: Any = None,
        ignore_index: int = -100,
        loss_weight: float = 1.0,
        reduction: Reduction = "mean",
        loss_name: str | None = None,
        sync_avg_factor: bool = False,
    ) -> None:
        self.ignore_index = ignore_index
        self.loss_weight = number("loss_weight", loss_weight)
        self.reduction = choice("reduction", reduction, get_args(Reduction))
        self.sync_avg_factor = boolean("sync_avg_factor", sync_avg_factor)
        self._loss_name = loss_name or default_loss_name(type(self))
        super().__init__(class_counts)

    @property
    def loss_name(self) -> str:
        """Key under which mmseg logs this loss."""
        return self._loss_name

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the loss of every element (position).

        Args:
            pred: Raw outputs in float32 or float64, (N, K, *); zero where ignored.
            target: Labels in [0, K), (N, *), 0 where ignored; or soft labels, (N, K, *).
            valid: Mask of the elements that are not ignored, (N, *), for sums over the batch.

        Returns:
            Losses, (N, *); values at ignored elements are discarded.
        """
        raise NotImplementedError

    def softmax_form(self) -> SoftmaxForm | None:
        """Return the equation as a function of the softmax cross entropy, if it is one, or ``None``.

        Large batches are then evaluated without autograd over classes. Hard labels only; the class weights
        are added here. A subclass that overrides :meth:`position_loss` must override this too, or it counts
        as ``None``.
        """
        return None

    def observe(self, labels: Labels) -> None:
        """See the labels of a batch before any of its elements is evaluated, for losses with a state."""

    def full_precision_names(self) -> tuple[str, ...]:
        """Return the names of the tensors that ``half()`` must not round, the class weights among them."""
        return (*super().full_precision_names(), "_class_factor")

    def set_class_weight(self, class_weight: Any) -> None:
        """Multiply the loss of each element by the weight of its class from now on, as deferred re-weighting.

        ``'mean'`` then divides by the sum of the weights of the valid elements, as every loss with class
        weights. A checkpoint does not hold the weights: ``mmseol.DeferredReweightHook`` sets them again when
        a run resumes. Losses with an argument ``class_weight`` use these weights in its place. CDBLoss takes
        none, because its weights follow from the difficulty of the classes.

        >>> import torch
        >>> from mmseol.losses import OneHotMSELoss
        >>> loss = OneHotMSELoss(reduction="none")
        >>> loss.set_class_weight([1.0, 3.0])
        >>> loss(torch.zeros(2, 2), torch.tensor([0, 1]))
        tensor([0.5000, 1.5000])

        Args:
            class_weight: Weights, (K,).

        Raises:
            ValueError: If the weights are invalid, or the loss takes none.
        """
        self._class_factor = torch.from_numpy(load_weights(to_numpy(class_weight))).to(self._anchor.device)

    def current_class_weight(self) -> Tensor | None:
        """Return the class weights of this call, float64 (K,), or ``None`` if there are none."""
        return self._class_factor

    def class_weight_like(self, pred: Tensor) -> Tensor | None:
        """Return the class weights, (K,), with ``pred``'s dtype and device, or ``None`` without any.

        Raises:
            ValueError: If they are not one per class.
        """
        weight = self.current_class_weight()
        if weight is None:
            return None
        if weight.numel() != pred.shape[1]:
            raise ValueError(
                f"`class_weight` must have one entry per class, got {weight.numel()} entries "
                f"for `pred` with {pred.shape[1]} classes."
            )
        return weight.to(pred)

    def weight_of(self, pred: Tensor, target: Tensor) -> Tensor | None:
        """Return the class weight of every element, (N, *); that of a soft label is the weighted mean."""
        weight = self.class_weight_like(pred)
        if weight is None:
            return None
        if target.dim() == pred.dim():
            return torch.einsum("nk...,k->n...", target, weight)
        return weight[target]

    def divisor(self, target: Tensor, valid: Tensor) -> Tensor:
        """Return the divisor of ``reduction='mean'``.

        It is the number of valid elements or, with class weights, hard labels and
        ``normalize='weight'``, the sum of the weights of the valid elements.
        """
        weight = None
        if self.normalize == "weight" and target.dim() == valid.dim():
            weight = self.current_class_weight()
        if weight is None:
            return valid.count_nonzero()
        return (weight.to(target.device)[target] * valid).sum()

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: Reduction | None = None,
    ) -> Tensor:
        """Return the loss.

        Args:
            pred: Raw outputs, (N, K, *) with K >= 2; half precision is converted to float32. A gradient
                beyond float16's range is limited to it, relative to the factor of a gradient scaler.
            target: Labels, integer (N, *), or soft or multi-hot labels, (N, K, *).
            weight: Factor of each element, (N, *), or of each sample, (N,); not in the divisor.
            ignore_index: Label to ignore in this call instead of the constructor's.
            avg_factor: Divisor of ``'mean'`` in place of :meth:`divisor`, unless the loss is normalised
                over its batch (:attr:`takes_avg_factor`).
            reduction_override: Reduction of this call instead of the constructor's.

        Returns:
            A scalar, or (N, *) for ``'none'``. If all elements are ignored: 0 with zero gradient.

        Raises:
            ValueError: If shapes, types or labels do not fit, with the argument's name and value.
            RuntimeError: If the loss needs class counts and has none.
        """
        reduction, ignore_index = self.resolve(reduction_override, ignore_index)
        check_shapes(pred, target, weight)
        if target.dim() == pred.dim() and not self.soft_targets:
            raise ValueError(
                f"`target` of {type(self).__name__} must hold integer labels, (N, *), got soft labels "
                f"{tuple(target.shape)}. Train without mixup, cutmix and label smoothing, or use a loss "
                "that is defined for them."
            )
        self.require_counts(pred.shape[1])
        self.check_exclusive(pred, target)
        with torch.autocast(pred.device.type, enabled=False):
            lifted = pred if self.lifts_precision else lift(pred)
            loss = self.loss_weight * self.evaluate(
                lifted, target, weight, ignore_index, reduction, avg_factor if self.takes_avg_factor else None
            )
            if not self.lifts_precision:
                limit_half_gradients(loss, (lifted, pred.dtype))
            return loss

    def check_exclusive(self, pred: Tensor, target: Tensor) -> None:
        """Raise if soft labels do not sum to 1 where they must, on a GPU in the first call alone.

        The check waits for the device.
        """
        if not self.exclusive_classes or target.dim() != pred.dim() or (pred.is_cuda and self._sums_checked):
            return
        check_sums(target, type(self).__name__)
        self._sums_checked = True

    def resolve(
        self, reduction_override: Reduction | None, ignore_index: int | None
    ) -> tuple[Reduction, int]:
        """Return the reduction and the ignored label of a call."""
        reduction = self.reduction
        if reduction_override is not None:
            reduction = choice("reduction_override", reduction_override, get_args(Reduction))
        return reduction, self.ignore_index if ignore_index is None else ignore_index

    def evaluate(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None,
        ignore_index: int,
        reduction: Reduction,
        avg_factor: float | Tensor | None,
    ) -> Tensor:
        """Return the loss before ``loss_weight``; arguments as in :meth:`forward`, checked and resolved."""
        if is_large(pred) and not is_compiling() and fits_tiles(self, target, pred.dim(), weight, reduction):
            return evaluate_tiles(self, pred, target, weight, ignore_index, reduction, avg_factor)
        pred, target, valid = mask_ignored(pred, target, ignore_index)
        if target.dim() < pred.dim():
            self.observe(Labels(target, valid, pred.shape[1], ignore_index))
        loss = torch.where(valid, self.position_loss(pred, target, valid), 0)
        if self._class_factor is not None:
            class_weight = self.weight_of(pred, target)
            assert class_weight is not None
            loss = loss * class_weight
        if weight is not None:
            loss = loss * expand_weight(weight, loss)
        return self._reduce(loss, target, valid, reduction, avg_factor)

    def evaluate_grid(
        self, grid: LabelGrid, reduction: Reduction, avg_factor: float | Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the loss before ``loss_weight`` of outputs that exist one tile at a time, and its gradient.

        A loss with sums over the batch overrides this: it visits the tiles once for the sums and once for
        the gradient. Gradients are not recorded.

        Args:
            grid: Outputs, labels and weights of pixels.
            reduction: ``'mean'`` or ``'sum'``.
            avg_factor: As in :meth:`forward`.

        Returns:
            A scalar, and the gradient by the outputs if ``grid.requires_grad``, otherwise ``None``.
        """
        self.observe(grid.labels)
        return visit_elements(self, grid, grid_divisor(self, grid, reduction, avg_factor))

    def forward_upsampled(
        self,
        pred: Tensor,
        target: Tensor,
        align_corners: bool = False,
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: Reduction | None = None,
    ) -> Tensor:
        """Return the loss of bilinearly upsampled outputs, exactly, without upsampling all of them at once.

        The value and the gradient are those of ``forward(F.interpolate(pred, (H, W), mode='bilinear',
        align_corners=align_corners), target, ...)`` up to rounding, for any two sizes. Soft labels,
        ``'none'``, weights that require a gradient and losses whose elements depend on each other (unless
        they override :meth:`evaluate_grid`) need the upsampled outputs, which are then computed.

        >>> import torch
        >>> from mmseol.losses import OneHotMSELoss
        >>> pred, target = torch.zeros(1, 3, 2, 2), torch.ones(1, 8, 8, dtype=torch.long)
        >>> OneHotMSELoss().forward_upsampled(pred, target)
        tensor(0.5000)

        Args:
            pred: Raw outputs, (N, K, h, w).
            target: Labels, integer (N, H, W), or soft or multi-hot labels, (N, K, H, W).
            align_corners: As in :func:`torch.nn.functional.interpolate`.
            weight: Factor of each pixel, (N, H, W), or of each sample, (N,); not in the divisor.
            ignore_index: As in :meth:`forward`.
            avg_factor: As in :meth:`forward`.
            reduction_override: As in :meth:`forward`.

        Returns:
            A scalar, or (N, H, W) for ``'none'``.

        Raises:
            ValueError: As :meth:`forward`.
        """
        if pred.dim() != 4 or target.dim() not in (3, 4):
            raise ValueError(
                "`pred` must be (N, K, h, w) and `target` (N, H, W) or (N, K, H, W), got "
                f"{tuple(pred.shape)} and {tuple(target.shape)}."
            )
        reduction, ignore_index = self.resolve(reduction_override, ignore_index)
        size = target.shape[-2:]
        with torch.autocast(pred.device.type, enabled=False):
            if size == pred.shape[-2:] or not self.fits_upsampled(
                pred, target, weight, reduction, align_corners
            ):
                lifted = lift(pred)
                large = F.interpolate(lifted, size, mode="bilinear", align_corners=align_corners)
                loss = self(large, target, weight, ignore_index, avg_factor, reduction)
                limit_half_gradients(loss, (lifted, pred.dtype))
                return loss
            check_shapes(pred[..., :1, :1].expand(-1, -1, *size), target, weight)
            self.require_counts(pred.shape[1])
            factor = avg_factor if self.takes_avg_factor else None
            return self.evaluate_upsampled(
                pred, target, weight, ignore_index, reduction, factor, align_corners
            )

    def fits_upsampled(
        self, pred: Tensor, target: Tensor, weight: Tensor | None, reduction: str, align_corners: bool
    ) -> bool:
        """Return whether a call of :meth:`forward_upsampled` can do without upsampled outputs."""
        return fits_tiles(self, target, 4, weight, reduction)

    def evaluate_upsampled(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None,
        ignore_index: int,
        reduction: Reduction,
        avg_factor: float | Tensor | None,
        align_corners: bool,
    ) -> Tensor:
        """Return the loss of a call that :meth:`fits_upsampled`; its arguments are checked and resolved."""
        return self.loss_weight * evaluate_tiles(
            self, pred, target, weight, ignore_index, reduction, avg_factor, align_corners
        )

    def _reduce(
        self, loss: Tensor, target: Tensor, valid: Tensor, reduction: str, avg_factor: float | Tensor | None
    ) -> Tensor:
        if reduction == "none":
            return loss
        return loss.sum() / self._resolve_divisor(target, valid, reduction, avg_factor, loss.dtype)

    def _resolve_divisor(
        self,
        target: Tensor,
        valid: Tensor,
        reduction: str,
        avg_factor: float | Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        if reduction == "sum":
            if avg_factor is not None:
                raise ValueError(f"`avg_factor` goes with reduction='mean', got {avg_factor} with 'sum'.")
            return torch.ones((), dtype=dtype, device=valid.device)
        divisor = self.divisor(target, valid) if avg_factor is None else avg_factor
        divisor = torch.as_tensor(divisor, dtype=dtype, device=valid.device).detach()
        if self.sync_avg_factor:
            divisor = divisor.clone()
            all_reduce(divisor, op="mean")
        return torch.where(divisor == 0, 1, divisor)


@outside_graphs
def evaluate_once(
    build: Callable[..., ClassLoss],
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """Return the loss of ``build(*args, **kwargs)``: the body of the losses as functions.

    A function and its class thus share one code path. Within ``torch.compile`` the function runs eagerly,
    because the compiler does not trace how a loss is built; a loss that is built before is compiled whole.

    >>> from mmseol.losses import OneHotMSELoss
    >>> evaluate_once(OneHotMSELoss, torch.zeros(2, 3), torch.tensor([0, 1]), None, reduction="sum")
    tensor(1.)
    """
    return build(*args, **kwargs)(pred, target, weight)


def default_loss_name(cls: type) -> str:
    """Return ``'loss_'`` and the class name in snake case.

    >>> from mmseol.losses import OutlyingMSELoss
    >>> default_loss_name(OutlyingMSELoss)
    'loss_outlying_mse'
    """
    name = re.sub(r"Loss$", "", cls.__name__).replace("IoU", "Iou")
    return "loss_" + re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
