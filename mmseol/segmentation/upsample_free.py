"""Compute the losses of mmseg's heads from outputs at their own size, if the loss can do that.

mmseg's decode and auxiliary heads resize their (N, K, h, w) outputs to the labels' (H, W) only for the loss
and the logged accuracy. A loss with a method ``forward_upsampled``, as every loss of this package, gives the
same value and gradient without that tensor of N*K*H*W numbers; so does :func:`host_cross_entropy` for
mmseg's own cross entropy.
"""

from __future__ import annotations

from copy import copy
from types import SimpleNamespace
from typing import Any, Literal, cast, get_args

import torch
from mmengine.hooks import Hook
from mmseg.models.decode_heads import DAHead, EncHead, STDCHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import CrossEntropyLoss as HostCrossEntropy
from mmseg.structures.sampler import OHEMPixelSampler
from torch import Tensor, nn
from torch.nn import functional as F

from mmseol.losses import CrossEntropyLoss
from mmseol.losses.base.tiled import element_losses, has_element_losses
from mmseol.losses.ops.autograd import outside_graphs
from mmseol.registry import HOOKS
from mmseol.segmentation.jpu_head import JPUEncHead
from mmseol.utils.checks import choice
from mmseol.utils.modules import insert_class, remove_class

__all__ = [
    "UpsampleFreeLossHook",
    "host_cross_entropy",
    "restore_upsampling",
    "upsample_free",
    "upsampled_accuracy",
]

Accuracy = Literal["exact", "off"]

# Their `loss_by_feat` calls super().loss_by_feat with the outputs; other overrides are unknown.
_CALLS_BASE = (BaseDecodeHead, DAHead, EncHead, STDCHead, JPUEncHead)
_STRIPS = 32


@HOOKS.register_module()
class UpsampleFreeLossHook(Hook):
    """Train without upsampled outputs in every head whose losses are ours or mmseg's cross entropy.

    Loss and gradient are those of mmseg's own path up to rounding; weights and their names do not change. The
    log lists the heads that keep mmseg's path and the reason: a ``loss_by_feat`` of its own, a loss without
    ``forward_upsampled``, or a pixel sampler other than ``OHEMPixelSampler``, which gets the pixels' losses.

    While the run trains, ``type(head)`` is a subclass of the head's class that overrides
    ``BaseDecodeHead.loss_by_feat``. The hook restores the class when training ends. Averaged models
    (``EMAHook``) compute no loss and keep their classes.

    >>> hook = UpsampleFreeLossHook(accuracy="off")

    Args:
        accuracy: ``'exact'`` logs mmseg's ``acc_seg``, computed from outputs that are upsampled in strips
            (:func:`upsampled_accuracy`); ``'off'`` logs none.

    Raises:
        ValueError: If ``accuracy`` is neither.
    """

    def __init__(self, accuracy: Accuracy = "exact") -> None:
        self.accuracy = choice("accuracy", accuracy, get_args(Accuracy))

    def before_train(self, runner: Any) -> None:
        """Change the heads, after other hooks have copied the model and before the first iteration."""
        for name, reason in upsample_free(runner.model, self.accuracy).items():
            name = name.removeprefix("module.")
            how = "without upsampled outputs." if reason is None else f"of upsampled outputs: {reason}."
            runner.logger.info(f"Loss of {name} {how}")

    def after_train(self, runner: Any) -> None:
        """Restore the heads."""
        restore_upsampling(runner.model)


def upsample_free(model: nn.Module, accuracy: Accuracy = "exact") -> dict[str, str | None]:
    """Let every head of the model compute its loss without upsampled outputs, if it can.

    The classes of these heads become subclasses until :func:`restore_upsampling` is called.

    >>> from mmseg.models import FCNHead
    >>> loss = dict(type="mmseol.OneHotMSELoss")
    >>> head = FCNHead(num_convs=1, in_channels=8, channels=8, num_classes=4, loss_decode=loss)
    >>> upsample_free(head), type(head) is FCNHead
    ({'': None}, False)
    >>> restore_upsampling(head)
    >>> type(head) is FCNHead
    True

    Args:
        model: A segmentor, possibly wrapped, or a head.
        accuracy: As in :class:`UpsampleFreeLossHook`.

    Returns:
        Name of each head in ``model`` with the reason why it keeps mmseg's path, or ``None`` if it does not.

    Raises:
        ValueError: If ``accuracy`` is neither ``'exact'`` nor ``'off'``.
    """
    choice("accuracy", accuracy, get_args(Accuracy))
    reasons = {}
    for name, head in model.named_modules():
        if isinstance(head, BaseDecodeHead) and hasattr(head, "loss_decode"):  # K-Net's outer head has none
            reasons[name] = _obstacle(head)
            if reasons[name] is None:
                insert_class(head, _UpsampleFree, below=True)
                cast(_UpsampleFree, head).train_accuracy = accuracy
    return reasons


def restore_upsampling(model: nn.Module) -> None:
    """Undo :func:`upsample_free`.

    >>> from mmseg.models import FCNHead
    >>> loss = dict(type="mmseol.OneHotMSELoss")
    >>> head = FCNHead(num_convs=1, in_channels=8, channels=8, num_classes=4, loss_decode=loss)
    >>> _ = upsample_free(head)
    >>> restore_upsampling(head)
    >>> type(head) is FCNHead
    True
    """
    for head in model.modules():
        if isinstance(head, _UpsampleFree):
            remove_class(head, _UpsampleFree)
            del head.train_accuracy


@torch.compiler.disable  # 32 strips of each head would be most of what there is to compile
@torch.no_grad()
def upsampled_accuracy(
    outputs: Tensor, labels: Tensor, align_corners: bool = False, ignore_index: int | None = None
) -> Tensor:
    """Return the percentage of valid pixels where the argmax of upsampled outputs is the label.

    Outputs are upsampled in 32 strips of rows, which takes a 32nd of the memory of the upsampled tensor. A
    tie between the label's output and another counts as wrong.

    >>> outputs = torch.tensor([[[[2.0, 0.0]], [[0.0, 1.0]]]])
    >>> upsampled_accuracy(outputs, torch.tensor([[[0, 0, 0, 1]]]), align_corners=True).item()
    75.0

    Args:
        outputs: Raw outputs, (N, K, h, w).
        labels: Integer labels, (N, H, W).
        align_corners: As in :func:`torch.nn.functional.interpolate`.
        ignore_index: Label of pixels to leave out, if any.

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


@outside_graphs
def host_cross_entropy(
    loss: HostCrossEntropy,
    outputs: Tensor,
    labels: Tensor,
    align_corners: bool = False,
    ignore_index: int = -100,
    weight: Tensor | None = None,
) -> Tensor:
    """Return mmseg's softmax cross entropy of upsampled outputs without upsampling all of them at once.

    Its rules of averaging are kept: over all pixels, ignored ones too, unless ``avg_non_ignore``; with class
    weights over the weights of the labels that are not ignored.

    >>> loss = HostCrossEntropy(avg_non_ignore=True)
    >>> labels = torch.tensor([[[0, 0, 255, 255]]])
    >>> host_cross_entropy(loss, torch.zeros(1, 2, 1, 2), labels, ignore_index=255)
    tensor(0.6931)

    Args:
        loss: The loss, without ``use_sigmoid`` and ``use_mask``.
        outputs: Raw outputs, (N, K, h, w).
        labels: Integer labels, (N, H, W).
        align_corners: As in :func:`torch.nn.functional.interpolate`.
        ignore_index: Label of the pixels to leave out of the sum.
        weight: Factor of each pixel, (N, H, W); not in the divisor.
    """
    count_all = loss.reduction == "mean" and loss.class_weight is None and not loss.avg_non_ignore
    return _same_as(loss).forward_upsampled(
        outputs,
        labels,
        align_corners,
        weight,
        ignore_index=ignore_index,
        avg_factor=labels.numel() if count_all else None,
    )


def hard_pixels(head: BaseDecodeHead, outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the pixels, (N, H, W), that the head's ``OHEMPixelSampler`` keeps: 1, and 0 for the others.

    mmseg's sampler chooses them, from the losses of all pixels or, with ``thresh``, from the probabilities of
    the labels. It gets them as outputs of two classes: the label and the others.

    Args:
        head: Head with a sampler.
        outputs: Raw outputs, (N, K, h, w).
        labels: Integer labels, (N, H, W).
    """
    losses = [CrossEntropyLoss()] if head.sampler.thresh is not None else map(_same_as, _losses(head))
    ignored = head.ignore_index
    total = sum(element_losses(loss, outputs, labels, ignored, head.align_corners) for loss in losses)
    assert isinstance(total, Tensor)
    sampler = copy(head.sampler)
    sampler.context = SimpleNamespace(ignore_index=ignored, loss_decode=lambda *_, **__: total)
    two = torch.stack([-total, (-torch.expm1(-total)).log()], 1)
    return sampler.sample(two, torch.where(labels == ignored, ignored, 0).unsqueeze(1))


class _UpsampleFree(BaseDecodeHead):
    """Class between a head's class and ``BaseDecodeHead``, where ``super().loss_by_feat`` finds it."""

    train_accuracy: Accuracy

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: list) -> dict[str, Tensor]:
        """Return mmseg's losses of outputs (N, K, h, w) at their own size."""
        labels = self._stack_batch_gt(batch_data_samples).squeeze(1)
        small, large = seg_logits.shape[2:], labels.shape[1:]
        if small == large or small[0] > large[0] or small[1] > large[1]:
            return super().loss_by_feat(seg_logits, batch_data_samples)
        losses: dict[str, Tensor] = {}
        weight = None if self.sampler is None else hard_pixels(self, seg_logits, labels)
        for loss in _losses(self):
            given = dict(align_corners=self.align_corners, ignore_index=self.ignore_index, weight=weight)
            if isinstance(loss, HostCrossEntropy):
                value = host_cross_entropy(loss, seg_logits, labels, **given)
            else:
                value = loss.forward_upsampled(seg_logits, labels, **given)
            losses[loss.loss_name] = losses[loss.loss_name] + value if loss.loss_name in losses else value
        if self.train_accuracy == "exact":
            losses["acc_seg"] = upsampled_accuracy(seg_logits, labels, self.align_corners, self.ignore_index)
        return losses


def _obstacle(head: BaseDecodeHead) -> str | None:
    """Return why the head needs upsampled outputs, or ``None``."""
    sampler = getattr(head, "sampler", None)
    if sampler is not None and getattr(type(sampler), "sample", None) is not OHEMPixelSampler.sample:
        return f"{type(sampler).__name__} samples pixels of them"
    if not isinstance(head, _UpsampleFree) and type(head).loss_by_feat not in [
        cls.loss_by_feat for cls in _CALLS_BASE
    ]:
        return f"{type(head).__name__} has its own `loss_by_feat`"
    without = [type(loss).__name__ for loss in _losses(head) if not _has_forward_upsampled(loss)]
    if without:
        return f"{', '.join(without)} has no `forward_upsampled`"
    if sampler is not None and sampler.thresh is None:
        without = [type(loss).__name__ for loss in _losses(head) if not has_element_losses(_same_as(loss))]
        return f"{', '.join(without)} has no loss of each pixel by tiles to sample by" if without else None
    return None


def _has_forward_upsampled(loss: Any) -> bool:
    if isinstance(loss, HostCrossEntropy):
        return type(loss).forward is HostCrossEntropy.forward and not (loss.use_sigmoid or loss.use_mask)
    return hasattr(loss, "forward_upsampled")


def _same_as(loss: Any) -> Any:
    """Return a loss of ours in place of mmseg's cross entropy, apart from its divisor."""
    if not isinstance(loss, HostCrossEntropy):
        return loss
    return CrossEntropyLoss(loss.class_weight, loss_weight=loss.loss_weight, reduction=loss.reduction)


def _losses(head: BaseDecodeHead) -> list[Any]:
    return list(head.loss_decode) if isinstance(head.loss_decode, nn.ModuleList) else [head.loss_decode]


def _neighbours(
    small: int, large: int, align_corners: bool, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two source rows of each upsampled row and its distance from the first, as torch does."""
    rows = torch.arange(large, dtype=torch.float32, device=device)
    if align_corners:
        position = rows * ((small - 1) / max(large - 1, 1))
    else:
        position = ((rows + 0.5) * (small / large) - 0.5).clamp(min=0)
    low = position.floor().long().clamp(max=small - 1)
    return low, (low + 1).clamp(max=small - 1), position - low
