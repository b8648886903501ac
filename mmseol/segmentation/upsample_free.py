"""Losses of mmseg's heads from the outputs at their own size, where the loss allows it.

mmseg's decode and auxiliary heads resize their (N, K, h, w) outputs to the labels' (H, W) for nothing but the
loss and the logged accuracy. A loss with a method ``forward_upsampled`` has the same value and gradient
without that tensor of N*K*H*W numbers.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, cast, get_args

import torch
from mmengine.hooks import Hook
from mmseg.models.decode_heads import DAHead, EncHead, STDCHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn
from torch.nn import functional as F

from mmseol.registry import HOOKS
from mmseol.segmentation.jpu_head import JPUEncHead

__all__ = ["UpsampleFreeLossHook", "upsample_free", "upsampled_accuracy"]

Accuracy = Literal["exact", "off"]

# These hand their outputs to super().loss_by_feat; any other override may do anything.
_CALLS_BASE = (BaseDecodeHead, DAHead, EncHead, STDCHead, JPUEncHead)
_STRIPS = 32


@HOOKS.register_module()
class UpsampleFreeLossHook(Hook):
    """Train without upsampled outputs in every head whose losses have ``forward_upsampled``.

    Loss and gradient are those of mmseg's own path up to rounding; weights and their names do not change. The
    log says once which heads keep mmseg's path, and why: a pixel sampler, a ``loss_by_feat`` of its own, or
    a loss without the method.

    Args:
        accuracy: ``'exact'`` logs mmseg's ``acc_seg``, of outputs that are upsampled one strip at a time
            (:func:`upsampled_accuracy`); ``'off'`` logs none.

    Raises:
        ValueError: If ``accuracy`` is neither.
    """

    def __init__(self, accuracy: Accuracy = "exact") -> None:
        self.accuracy = _checked(accuracy)

    def before_train(self, runner: Any) -> None:
        """Set the heads, after hooks have copied the model and before the first iteration."""
        for name, reason in upsample_free(runner.model, self.accuracy).items():
            name = name.removeprefix("module.")
            how = "without upsampled outputs." if reason is None else f"of upsampled outputs: {reason}."
            runner.logger.info(f"Loss of {name} {how}")


def upsample_free(model: nn.Module, accuracy: Accuracy = "exact") -> dict[str, str | None]:
    """Let every head of the model that can compute its loss without upsampled outputs do so.

    Args:
        model: A segmentor, possibly wrapped, or a head.
        accuracy: As in :class:`UpsampleFreeLossHook`.

    Returns:
        Name of each head of ``model``: ``None``, or why it keeps mmseg's path.

    Raises:
        ValueError: If ``accuracy`` is neither ``'exact'`` nor ``'off'``.
    """
    _checked(accuracy)
    reasons = {}
    for name, head in model.named_modules():
        if isinstance(head, BaseDecodeHead) and hasattr(head, "loss_decode"):  # K-Net's outer head has none
            cls: Any = type(head)
            reasons[name] = _obstacle(head)
            if reasons[name] is None:
                if not isinstance(head, _UpsampleFree):
                    head.__class__ = _upsample_free_class(cls)
                cast(_UpsampleFree, head).train_accuracy = accuracy
    return reasons


@torch.compiler.disable  # 32 strips of each head would be most of what there is to compile
@torch.no_grad()
def upsampled_accuracy(
    outputs: Tensor, labels: Tensor, align_corners: bool = False, ignore_index: int | None = None
) -> Tensor:
    """Return the share of valid pixels, in per cent, where the argmax of upsampled outputs is the label.

    Rows are upsampled in 32 strips, so that it takes a 32nd of the memory of the upsampled tensor. A tie of
    the label's output with another counts as wrong.

    Args:
        outputs: Raw outputs, (N, K, h, w).
        labels: Integer labels, (N, H, W).
        align_corners: As in :func:`torch.nn.functional.interpolate`.
        ignore_index: Label that is left out, if any.

    Returns:
        A scalar; 100 if every pixel is ignored, as in mmseg.
    """
    outputs = outputs.float()
    height, width = labels.shape[1:]
    index = labels.long().clamp(0, outputs.shape[1] - 1).unsqueeze(1)
    valid = torch.ones_like(labels, dtype=torch.bool) if ignore_index is None else labels != ignore_index
    countable = (valid & (labels == index.squeeze(1))).unsqueeze(1)
    low, high, fraction = _neighbours(outputs.shape[2], height, align_corners, outputs.device)
    correct = torch.zeros((), dtype=torch.long, device=outputs.device)
    step = -(-height // _STRIPS)
    for start in range(0, height, step):
        rows = slice(start, start + step)
        strip = torch.lerp(outputs[:, :, low[rows]], outputs[:, :, high[rows]], fraction[rows, None])
        strip = F.interpolate(
            strip, (strip.shape[2], width), mode="bilinear", align_corners=align_corners
        )  # (N, K, step, W)
        own = strip.gather(1, index[:, :, rows])
        others = strip.scatter_(1, index[:, :, rows], -torch.inf).amax(1, keepdim=True)
        correct += ((own > others) & countable[:, :, rows]).sum()
    eps = torch.finfo(torch.float32).eps
    return 100 * (correct + eps) / (valid.sum() + eps)


class _UpsampleFree(BaseDecodeHead):
    """What stands between a head's class and ``BaseDecodeHead``, where ``super().loss_by_feat`` finds it."""

    train_accuracy: Accuracy

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: list) -> dict[str, Tensor]:
        """Return mmseg's losses of outputs (N, K, h, w) at their own size."""
        labels = self._stack_batch_gt(batch_data_samples).squeeze(1)
        small, large = seg_logits.shape[2:], labels.shape[1:]
        if small == large or small[0] > large[0] or small[1] > large[1]:
            return super().loss_by_feat(seg_logits, batch_data_samples)
        losses: dict[str, Tensor] = {}
        for loss in _losses(self):
            value = loss.forward_upsampled(
                seg_logits, labels, align_corners=self.align_corners, ignore_index=self.ignore_index
            )
            losses[loss.loss_name] = losses[loss.loss_name] + value if loss.loss_name in losses else value
        if self.train_accuracy == "exact":
            losses["acc_seg"] = upsampled_accuracy(seg_logits, labels, self.align_corners, self.ignore_index)
        return losses

    def __reduce__(self) -> tuple[Any, ...]:
        # The class is made at run time, so pickle cannot find it by name.
        return _empty, (type(self).__bases__[0],), self.__dict__


@cache
def _upsample_free_class(cls: Any) -> Any:
    return type(cls)(f"UpsampleFree{cls.__name__}", (cls, _UpsampleFree), {"__module__": __name__})


def _empty(cls: Any) -> Any:
    made = _upsample_free_class(cls)
    return made.__new__(made)


def _obstacle(head: BaseDecodeHead) -> str | None:
    """Return why the head needs upsampled outputs, or ``None``."""
    if getattr(head, "sampler", None) is not None:
        return f"{type(head.sampler).__name__} samples pixels of them"
    if not isinstance(head, _UpsampleFree) and type(head).loss_by_feat not in [
        cls.loss_by_feat for cls in _CALLS_BASE
    ]:
        return f"{type(head).__name__} has its own `loss_by_feat`"
    without = [type(loss).__name__ for loss in _losses(head) if not hasattr(loss, "forward_upsampled")]
    return f"{', '.join(without)} has no `forward_upsampled`" if without else None


def _losses(head: BaseDecodeHead) -> list[Any]:
    return list(head.loss_decode) if isinstance(head.loss_decode, nn.ModuleList) else [head.loss_decode]


def _neighbours(
    small: int, large: int, align_corners: bool, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two source rows of each upsampled row, and how far it lies from the first, as torch does."""
    rows = torch.arange(large, dtype=torch.float32, device=device)
    if align_corners:
        position = rows * ((small - 1) / max(large - 1, 1))
    else:
        position = ((rows + 0.5) * (small / large) - 0.5).clamp(min=0)
    low = position.floor().long().clamp(max=small - 1)
    return low, (low + 1).clamp(max=small - 1), position - low


def _checked(accuracy: Any) -> Accuracy:
    if accuracy not in get_args(Accuracy):
        raise ValueError(f"`accuracy` must be one of {', '.join(get_args(Accuracy))}, got {accuracy!r}.")
    return cast(Accuracy, accuracy)
