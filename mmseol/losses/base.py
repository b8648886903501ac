"""The base of every loss: shapes, ignored positions, weights, reduction, precision and counts, once."""

from __future__ import annotations

import re
from typing import Any, Literal, get_args

import numpy as np
import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from mmseol.counts import check_counts, load_counts

__all__ = ["ClassLoss", "Reduction"]

Reduction = Literal["none", "mean", "sum"]

# torch 2.1 has it in a private place only.
_is_compiling = getattr(torch.compiler, "is_compiling", None) or torch._utils.is_compiling

_UNCOUNTED = (
    "`{name}` needs the number of training samples of each class and was never told. Let the hook count:\n"
    "    custom_hooks = [dict(type='mmseol.ClassCountHook')]\n"
    "or give them: loss=dict(type='mmseol.{name}', class_counts=[...])."
)


class ClassLoss(nn.Module):
    """Loss of raw outputs against class labels, averaged over the positions that are not ignored.

    A subclass writes its equation in :meth:`position_loss` and, where something follows from the
    counts, :meth:`update_from_counts`; the rest is done here, alike for all losses. It stores its
    settings before it calls ``super().__init__``, which may already work with them.

    Counts live in the int64 buffers ``class_counts`` and ``class_totals`` of shape (K,), which
    checkpoints and averaged models carry; they are ``None`` until K is known and zero until counted.

    Args:
        class_counts: Training samples (pixels in segmentation) of each class in class order, or a
            ``.json`` or ``.npy`` file of them; ``None`` leaves it to ``mmseol.ClassCountHook``.
        ignore_index: Label of positions that contribute to nothing, unless the call names another.
            mmseg's heads pass their own (255); mmpretrain's pass none.
        loss_weight: Factor of the result.
        reduction: ``'none'`` keeps the positions, ``'mean'`` divides by ``avg_factor`` or, without
            one, by :meth:`divisor`; ``'sum'`` adds up.
        loss_name: Key in the log; mmseg optimises only what has ``loss`` in its key.
        sync_avg_factor: Whether the divisor is averaged over ranks, so that unequal numbers of valid
            positions on the ranks give what one process with the whole batch would.

    Raises:
        ValueError: If an argument is out of its range, with the argument's name and value.
    """

    derived: tuple[str, ...] = ()
    """Names of the buffers that :meth:`update_from_counts` fills with :meth:`set_derived`."""

    class_counts: Tensor | None
    class_totals: Tensor | None
    _anchor: Tensor

    def __init__(
        self,
        class_counts: Any = None,
        ignore_index: int = -100,
        loss_weight: float = 1.0,
        reduction: Reduction = "mean",
        loss_name: str | None = None,
        sync_avg_factor: bool = False,
    ) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.loss_weight = number("loss_weight", loss_weight)
        self.reduction = choice("reduction", reduction, get_args(Reduction))
        self.sync_avg_factor = sync_avg_factor
        self._loss_name = loss_name or default_loss_name(type(self))
        self.register_buffer("class_counts", None)
        self.register_buffer("class_totals", None)
        self.register_buffer("_anchor", torch.empty(0), persistent=False)  # knows the module's device
        for name in self.derived:
            self.register_buffer(name, None, persistent=False)
        self._given_counts = None if class_counts is None else load_counts(class_counts)
        if self._given_counts is None:
            self._refresh()
        else:
            self.set_class_counts(self._given_counts)

    # ---------------------------------------------------------------- counts

    @property
    def loss_name(self) -> str:
        """Key under which mmseg logs this loss."""
        return self._loss_name

    @property
    def needs_counts(self) -> bool:
        """Whether the loss cannot be evaluated without class counts."""
        return False

    @property
    def given_counts(self) -> np.ndarray | None:
        """Counts passed to the constructor, int64 (K,), or ``None``."""
        return self._given_counts

    @property
    def counted(self) -> bool:
        """Whether the loss knows its class counts."""
        return self.class_counts is not None and bool(self.class_counts.any())

    def allocate_class_counts(self, num_classes: int) -> None:
        """Create zero buffers for ``num_classes`` classes, before a model is copied or loaded."""
        if self.class_counts is not None and self.class_counts.numel() == num_classes:
            return
        if self._given_counts is not None:
            check_counts(self._given_counts, num_classes)
        for name in ("class_counts", "class_totals"):
            setattr(self, name, torch.zeros(num_classes, dtype=torch.int64, device=self._anchor.device))
        self._counted = False

    def set_class_counts(self, counts: Any, totals: Any = None) -> None:
        """Fill the counts in place.

        Args:
            counts: Training samples per class, (K,).
            totals: Pixels, void included, of the images that contain each class, (K,); SegNet's
                median frequency needs them.

        Raises:
            ValueError: If the counts are no valid counts or not as many as the model has classes.
        """
        known = None if self.class_counts is None else self.class_counts.numel()
        counts = check_counts(_to_numpy(counts), known)
        self.allocate_class_counts(counts.size)
        totals = (
            np.zeros_like(counts)
            if totals is None
            else check_counts(_to_numpy(totals), counts.size, "totals")
        )
        assert self.class_counts is not None
        assert self.class_totals is not None
        self.class_counts.copy_(torch.from_numpy(counts))
        self.class_totals.copy_(torch.from_numpy(totals))
        self._refresh()

    def update_from_counts(self, counts: np.ndarray, totals: np.ndarray | None) -> None:
        """Work out what follows from the counts, both int64 (K,), with :meth:`set_derived`."""

    def set_derived(self, name: str, values: Any) -> None:
        """Keep ``values`` in the non-persistent float64 buffer ``name``, in place where the shape allows."""
        values = torch.as_tensor(np.asarray(values, dtype=np.float64))
        buffer = getattr(self, name)
        if buffer is None or buffer.shape != values.shape or buffer.dtype != values.dtype:
            setattr(self, name, values.to(self._anchor.device))
        else:
            buffer.copy_(values)

    def _refresh(self) -> None:
        self._counted = self.counted
        if self._counted:
            totals = _to_numpy(self.class_totals)
            self.update_from_counts(_to_numpy(self.class_counts), totals if totals.any() else None)

    def _require_counts(self, num_classes: int) -> None:
        if self.class_counts is not None and self.class_counts.numel() != num_classes:
            raise ValueError(
                f"`pred` has {num_classes} classes, but `class_counts` has "
                f"{self.class_counts.numel()} entries. "
                "Count the data set with the classes of the model's head (num_classes)."
            )
        if not self._counted:
            if self.class_counts is not None and self.counted:
                self._refresh()  # an averaged copy of the model got the counts in place
            elif self.needs_counts:
                raise RuntimeError(_UNCOUNTED.format(name=type(self).__name__))

    def _apply(self, fn: Any, recurse: bool = True) -> ClassLoss:
        super()._apply(fn, recurse)
        if not (self.class_counts is not None and self.class_counts.is_meta):
            self._refresh()  # half() must not round what follows from the counts
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        for name in ("class_counts", "class_totals"):
            stored = state_dict.get(prefix + name)
            if stored is not None and getattr(self, name) is None:
                setattr(self, name, torch.zeros_like(stored, device=self._anchor.device))
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._refresh()

    # ---------------------------------------------------------------- forward

    def position_loss(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the loss of every position.

        Args:
            pred: Raw outputs in float32 or float64, (N, K, *); zero where ignored.
            target: Labels in [0, K), (N, *), 0 where ignored; or soft labels, (N, K, *).

        Returns:
            Losses, (N, *); what stands at ignored positions does not matter.
        """
        raise NotImplementedError

    def divisor(self, target: Tensor, valid: Tensor) -> Tensor:
        """Return what ``reduction='mean'`` divides by: the number of valid positions."""
        return valid.sum()

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
            pred: Raw outputs, (N, K, *) with K >= 2; half precision is lifted to float32.
            target: Labels, integer (N, *), or soft or multi-hot labels, (N, K, *).
            weight: Factor of each position, (N, *), or of each sample, (N,); not in the divisor.
            ignore_index: Label to ignore in this call instead of the constructor's.
            avg_factor: Divisor of ``'mean'`` in place of :meth:`divisor`.
            reduction_override: Reduction of this call instead of the constructor's.

        Returns:
            A scalar, or (N, *) for ``'none'``. If all positions are ignored: 0 with zero gradient.

        Raises:
            ValueError: If shapes, types or labels do not fit, with the argument's name and value.
            RuntimeError: If the loss needs class counts and was never told.
        """
        reduction = self.reduction
        if reduction_override is not None:
            reduction = choice("reduction_override", reduction_override, get_args(Reduction))
        ignore_index = self.ignore_index if ignore_index is None else ignore_index
        _check_shapes(pred, target, weight)
        self._require_counts(pred.shape[1])
        with torch.autocast(pred.device.type, enabled=False):
            pred = pred.float() if pred.dtype in (torch.float16, torch.bfloat16) else pred
            pred, target, valid = _mask(pred, target, ignore_index)
            loss = torch.where(valid, self.position_loss(pred, target), 0)
            if weight is not None:
                loss = loss * _expand(weight, loss)
            return self.loss_weight * self._reduce(loss, target, valid, reduction, avg_factor)

    def _reduce(
        self, loss: Tensor, target: Tensor, valid: Tensor, reduction: str, avg_factor: float | Tensor | None
    ) -> Tensor:
        if reduction == "none":
            return loss
        if reduction == "sum":
            if avg_factor is not None:
                raise ValueError(f"`avg_factor` goes with reduction='mean', got {avg_factor} with 'sum'.")
            return loss.sum()
        divisor = self.divisor(target, valid) if avg_factor is None else avg_factor
        divisor = torch.as_tensor(divisor, dtype=loss.dtype, device=loss.device).detach()
        if self.sync_avg_factor:
            divisor = divisor.clone()
            all_reduce(divisor, op="mean")
        return loss.sum() / torch.where(divisor == 0, 1, divisor)


def default_loss_name(cls: type) -> str:
    """Return ``'loss_'`` and the class's name in snake case: ``OutlyingMSELoss``, ``loss_outlying_mse``."""
    name = re.sub(r"Loss$", "", cls.__name__).replace("IoU", "Iou")
    return "loss_" + re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _mask(pred: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    if target.dim() == pred.dim():
        valid = torch.ones_like(pred[:, 0], dtype=torch.bool)
        return pred, target.to(pred.dtype), valid
    valid = target != ignore_index
    target = torch.where(valid, target, 0).long()
    if target.device.type == "cpu" and target.numel() and not _is_compiling():
        low, high = (bound.item() for bound in torch.aminmax(target))
        if low < 0 or high >= pred.shape[1]:
            raise ValueError(
                f"`target` must lie in [0, {pred.shape[1]}) or equal `ignore_index` ({ignore_index}), got "
                f"{low if low < 0 else high}. Correct the labels, the head's num_classes or `ignore_index`."
            )
    return torch.where(valid.unsqueeze(1), pred, 0), target, valid


def _check_shapes(pred: Tensor, target: Tensor, weight: Tensor | None) -> None:
    if pred.dim() < 2 or not pred.is_floating_point():
        raise ValueError(f"`pred` must be floating-point (N, K, *), got {pred.dtype} {tuple(pred.shape)}.")
    if pred.shape[1] < 2:
        raise ValueError(
            f"`pred` must have at least 2 classes, got shape {tuple(pred.shape)}. A head with out_channels=1 "
            "is a sigmoid with a threshold; use num_classes=2 and out_channels=2."
        )
    positions = pred.shape[:1] + pred.shape[2:]
    if target.dim() == pred.dim():
        if target.shape != pred.shape:
            raise ValueError(
                f"soft `target` must be of `pred`'s shape {tuple(pred.shape)}, got {tuple(target.shape)}."
            )
    elif target.shape != positions:
        raise ValueError(
            f"`target` must be of shape {tuple(positions)} (labels) or {tuple(pred.shape)} (soft labels) "
            f"for `pred` of shape {tuple(pred.shape)}, got {tuple(target.shape)}."
        )
    elif target.is_floating_point() or target.dtype == torch.bool:
        raise ValueError(
            f"`target` of shape {tuple(target.shape)} must hold integer labels, got {target.dtype}."
        )
    if weight is not None and weight.shape not in (positions, pred.shape[:1]):
        raise ValueError(
            f"`weight` must be of shape {tuple(positions)} or ({pred.shape[0]},), got {tuple(weight.shape)}."
        )


def _expand(weight: Tensor, loss: Tensor) -> Tensor:
    return weight.to(loss.dtype).reshape(weight.shape + (1,) * (loss.dim() - weight.dim()))


def _to_numpy(values: Any) -> Any:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values


def choice(name: str, value: Any, choices: tuple[str, ...]) -> Any:
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}.")
    return value


def number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
        raise ValueError(f"`{name}` must be a finite number, got {value!r}.")
    return float(value)
