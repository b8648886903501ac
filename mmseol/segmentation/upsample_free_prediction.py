"""Predict label maps with mmseg's segmentors without outputs of all classes at the size of the image.

mmseg resizes the (N, K, h, w) outputs of a head to the input's size, then to the original size, and takes the
argmax. Both steps treat each class alone, so the argmax can run over a few classes at a time. Every number is
computed as mmseg computes it: label maps are equal pixel for pixel, ties included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import torch
from mmengine.hooks import Hook
from mmengine.structures import PixelData
from mmseg.models.decode_heads import DAHead, EncHead, PointHead
from mmseg.models.decode_heads.cascade_decode_head import BaseCascadeDecodeHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import CascadeEncoderDecoder, EncoderDecoder
from mmseg.models.utils import resize
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmseol.losses.ops.autograd import outside_graphs
from mmseol.registry import HOOKS
from mmseol.utils.modules import insert_class, remove_class

__all__ = ["UpsampleFreePredictionHook", "predict_upsample_free", "restore_prediction"]

# Classes at a time. torch resizes one class as it resizes 4 and more, but rounds otherwise for 3.
_CLASSES = {"cpu": 1}
_OTHERS = 32
_FEWEST = 4
# Outputs that are channels last, or of no more rows and columns than this, are resized by a kernel that
# vectorizes over the classes and rounds the last ones differently: whole vectors keep each class's place.
_SMALL = 256
_VECTORS = 32


@HOOKS.register_module()
class UpsampleFreePredictionHook(Hook):
    """Validate and test without outputs of all classes at the size of the image.

    Label maps are those of mmseg, pixel for pixel, for whole images and sliding windows. ``seg_logits`` of a
    result holds the same outputs as without the hook and computes them when they are read, so that test-time
    augmentation and everything else that reads them works on; reading them takes the memory that this hook
    saves. The log names what keeps mmseg's path, and the reason.

    While the run validates or tests, the classes of the segmentor and of its last head are subclasses.

    >>> hook = UpsampleFreePredictionHook()
    """

    def before_val(self, runner: Any) -> None:
        """Change the model."""
        for name, reason in predict_upsample_free(runner.model).items():
            name = name.removeprefix("module.") or "model"
            how = "without upsampled outputs" if reason is None else f"from upsampled outputs: {reason}"
            runner.logger.info(f"Prediction of {name} {how}.")

    def after_val(self, runner: Any) -> None:
        """Restore the model."""
        restore_prediction(runner.model)

    before_test, after_test = before_val, after_val


def predict_upsample_free(model: nn.Module) -> dict[str, str | None]:
    """Let every segmentor in the model predict without outputs of all classes at the size of the image.

    Their classes become subclasses until :func:`restore_prediction` is called.

    >>> predict_upsample_free(nn.Identity())
    {}

    Args:
        model: A segmentor, possibly wrapped or in a model of test-time augmentation.

    Returns:
        Name of each segmentor in ``model`` with the reason why it keeps mmseg's path, or ``None`` if it does
        not.
    """
    reasons = {}
    for name, part in model.named_modules():
        if isinstance(part, EncoderDecoder):
            reasons[name] = _obstacle(part)
            if reasons[name] is None:
                insert_class(part, _Segmentor)
                insert_class(_last_head(part), _Head)
    return reasons


def restore_prediction(model: nn.Module) -> None:
    """Undo :func:`predict_upsample_free`.

    >>> restore_prediction(nn.Identity())
    """
    for part in model.modules():
        for cls in (_Segmentor, _Head):
            remove_class(part, cls)


class _Window(NamedTuple):
    """Outputs of a part of the images, (N, K, h, w), and the rows and columns that they are resized to."""

    outputs: Tensor
    rows: slice
    columns: slice

    @property
    def size(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


class _Outputs:
    """Outputs of a batch at the size of the images, (N, K, H, W), computed for some classes at a time.

    >>> outputs = _Outputs([_Window(torch.zeros(1, 9, 2, 2), slice(0, 4), slice(0, 8))], (4, 8), False)
    >>> outputs.of(0, slice(0, 4)).shape
    torch.Size([1, 4, 4, 8])

    Args:
        windows: Outputs of the parts of the images.
        size: H, W.
        align_corners: As in :func:`torch.nn.functional.interpolate`.
        covered: Number of windows at each pixel, (1, 1, H, W), whose outputs are averaged; ``None`` for one
            window of all pixels.
    """

    def __init__(
        self,
        windows: list[_Window],
        size: tuple[int, int],
        align_corners: bool,
        covered: Tensor | None = None,
    ) -> None:
        self.windows, self.align_corners, self.covered = windows, align_corners, covered
        self.shape = (*windows[0].outputs.shape[:2], *size)

    @cached_property
    def finite(self) -> bool:
        """Whether no output is infinite or NaN."""
        return all(bool(part.outputs.sum(dtype=torch.float32).isfinite()) for part in self.windows)

    def of(self, image: int, classes: slice) -> Tensor:
        """Return the outputs of some classes of an image, (1, k, H, W)."""
        if self.covered is None:
            return self._resized(self.windows[0], image, classes)
        count = len(range(self.shape[1])[classes])
        total = self.covered.new_zeros((1, count, *self.shape[2:]))
        for window in self.windows:
            total[:, :, window.rows, window.columns] += self._resized(window, image, classes)
        return total / self.covered

    def _resized(self, window: _Window, image: int, classes: slice) -> Tensor:
        small = window.outputs[image : image + 1, classes]
        return resize(small, window.size, mode="bilinear", align_corners=self.align_corners, warning=False)


class _ImageOutputs:
    """Outputs of one image of a batch at its original size, as ``postprocess_result`` computes them.

    Args:
        outputs: Outputs of the batch.
        image: Index of the image.
        meta: Its meta information; ``None``: the size of the input is the original size.
        align_corners: As in :func:`torch.nn.functional.interpolate`.
    """

    def __init__(
        self, outputs: _Outputs, image: int, meta: dict[str, Any] | None, align_corners: bool
    ) -> None:
        self.outputs, self.image, self.meta, self.align_corners = outputs, image, meta, align_corners
        self.size: tuple[int, int] = tuple(outputs.shape[2:] if meta is None else meta["ori_shape"])

    def of(self, classes: slice = slice(None)) -> Tensor:
        """Return the outputs of some classes, (k, H, W)."""
        part = self.outputs.of(self.image, classes)
        if self.meta is None:
            return part[0]
        left, right, top, bottom = self.meta.get("img_padding_size", self.meta.get("padding_size", [0] * 4))
        height, width = self.outputs.shape[2:]
        part = part[:, :, top : height - bottom, left : width - right]
        if self.meta.get("flip"):
            part = part.flip({"horizontal": 3, "vertical": 2}[self.meta["flip_direction"]])
        if part.shape[2:] == self.size and self.outputs.finite:
            return part[0]  # resized to the same size, finite numbers stay what they are
        return resize(part, self.size, mode="bilinear", align_corners=self.align_corners, warning=False)[0]

    def blocks(self) -> Iterator[slice]:
        """Yield the classes that can be computed at a time, with every digit as if all were."""
        windows, classes = self.outputs.windows, self.outputs.shape[1]
        step = _CLASSES.get(windows[0].outputs.device.type, _OTHERS)
        sizes = [self.size, *(window.size for window in windows)]
        if min(map(sum, sizes)) <= _SMALL or any(
            window.outputs.is_contiguous(memory_format=torch.channels_last) for window in windows
        ):
            step = _VECTORS
        starts = list(range(0, classes, step))
        if classes < _FEWEST:
            starts = [0]
        elif step > 1 and len(starts) > 1 and classes - starts[-1] < _FEWEST:
            del starts[-1]
        yield from map(slice, starts, [*starts[1:], classes])

    def argmax(self) -> Tensor:
        """Return the class of each pixel, int64 (1, H, W): the first of the largest outputs, or of NaN."""
        classes, finite = self.outputs.shape[1], self.outputs.finite
        dtype = torch.uint8 if classes <= 256 else torch.int16 if classes <= 2**15 else torch.int32
        best = labels = torch.empty(0)
        for block in self.blocks():
            part = self.of(block)
            if block.start == 0:
                best = part.new_full(part.shape[1:], -torch.inf)
                labels = torch.zeros_like(best, dtype=dtype)
            for largest, found in _largest(part, block.start, dtype):
                better = largest > best
                if not finite:
                    better |= largest.isnan() & ~best.isnan()
                torch.maximum(best, largest, out=best)
                # A later class has a larger number: a maximum, which is faster than a choice.
                torch.maximum(labels, better.to(dtype) * found, out=labels)
        return labels[None].long()


def _largest(outputs: Tensor, start: int, dtype: torch.dtype) -> Iterator[tuple[Tensor, int | Tensor]]:
    """Yield outputs, (H, W), and their classes: each class on a CPU, elsewhere the largest of all."""
    if outputs.device.type == "cpu":
        for number, plane in enumerate(outputs, start):
            yield plane, number
    else:
        yield outputs.amax(0), (outputs.argmax(0) + start).to(dtype)


class _Segmentor(EncoderDecoder):
    """Class above a segmentor's class, whose last head is a :class:`_Head`."""

    def slide_inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Any:
        """Return the outputs of mmseg's windows, without their sum."""
        height, width = inputs.shape[2:]
        (crop_height, crop_width), (down, right) = self.test_cfg.crop_size, self.test_cfg.stride
        covered = inputs.new_zeros((1, 1, height, width))
        windows = []
        for rows in _spans(height, crop_height, down):
            for columns in _spans(width, crop_width, right):
                part = inputs[:, :, rows, columns]
                batch_img_metas[0]["img_shape"] = part.shape[2:]
                outputs = self.encode_decode(part, batch_img_metas)
                windows.append(_Window(outputs.windows[0].outputs, rows, columns))
                covered[:, :, rows, columns] += 1
        return _Outputs(windows, (height, width), self.align_corners, covered)

    @outside_graphs  # a loop over the classes would be most of what there is to compile
    def postprocess_result(self, seg_logits: Any, data_samples: list | None = None) -> list:
        """Return mmseg's samples, whose ``seg_logits`` are computed when they are read."""
        if seg_logits.shape[1] == 1:  # no argmax: a sigmoid above a threshold
            whole = [seg_logits.of(image, slice(None)) for image in range(seg_logits.shape[0])]
            return super().postprocess_result(torch.cat(whole), data_samples)
        samples = data_samples
        if samples is None:
            samples = [SegDataSample() for _ in range(seg_logits.shape[0])]
        for image, sample in enumerate(samples):
            meta = None if data_samples is None else sample.metainfo
            outputs = _ImageOutputs(seg_logits, image, meta, self.align_corners)
            labels = PixelData(data=outputs.argmax())
            sample.set_data({"seg_logits": _OnDemand(outputs), "pred_sem_seg": labels})
        return samples


class _Head(BaseDecodeHead):
    """Class above a head's class, whose outputs stay at their own size."""

    @outside_graphs  # torch 2.1 cannot trace tensors without data
    def predict_by_feat(self, seg_logits: Tensor, batch_img_metas: list[dict]) -> Any:
        """Return the outputs with the size that mmseg resizes them to."""
        height, width = super().predict_by_feat(seg_logits.to("meta"), batch_img_metas).shape[2:]
        window = _Window(seg_logits, slice(0, height), slice(0, width))
        return _Outputs([window], (height, width), self.align_corners)


class _OnDemand(PixelData):
    """Outputs of an image, ``data`` (K, H, W), computed at every reading."""

    def __init__(self, outputs: _ImageOutputs) -> None:
        super().__init__()
        object.__setattr__(self, "_outputs", outputs)
        self._data_fields.add("data")

    @property
    def data(self) -> Tensor:
        """Outputs, (K, H, W)."""
        return self._outputs.of()

    @property
    def shape(self) -> tuple[int, int]:
        """H, W."""
        return self._outputs.size

    def new(self, **kwargs: Any) -> PixelData:
        """Return a copy that holds the outputs, as after ``to`` or ``cpu``."""
        return PixelData(data=self.data).new(**kwargs)

    def __getitem__(self, item: Any) -> PixelData:
        return PixelData(data=self.data)[item]

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that computes the outputs when they are read."""
        return _DictOnDemand(self)


class _DictOnDemand(dict[str, Any]):
    def __init__(self, element: PixelData) -> None:
        super().__init__()
        self.element = element

    def __missing__(self, key: str) -> Any:
        return dict(self.items())[key]

    def get(self, key: str, default: Any = None) -> Any:
        """Return the outputs for the key ``data``."""
        return dict(self.items()).get(key, default)

    def items(self) -> Any:
        """Return the outputs with their key."""
        return self.element.items()


def _spans(size: int, crop: int, stride: int) -> list[slice]:
    """Return the rows or columns of mmseg's windows.

    >>> _spans(size=10, crop=6, stride=3)
    [slice(0, 6, None), slice(3, 9, None), slice(4, 10, None)]
    """
    count = max(size - crop + stride - 1, 0) // stride + 1
    stops = [min(number * stride + crop, size) for number in range(count)]
    return [slice(max(stop - crop, 0), stop) for stop in stops]


def _last_head(model: EncoderDecoder) -> Any:
    head = model.decode_head
    return head[-1] if isinstance(head, nn.ModuleList) else head


def _obstacle(model: EncoderDecoder) -> str | None:
    """Return why the segmentor needs upsampled outputs, or ``None``."""
    if isinstance(model, _Segmentor):
        return None
    for part, known in ((model, _SEGMENTOR_METHODS), (_last_head(model), _HEAD_METHODS)):
        for name, functions in known.items():
            if getattr(type(part), name, None) not in functions:
                return f"{type(part).__name__} has its own `{name}`"
    return None


# Methods that pass outputs on, or resize them as this module does; other overrides are unknown.
_SEGMENTOR_METHODS: dict[str, list[Callable[..., Any]]] = {
    **{
        name: [getattr(EncoderDecoder, name)]
        for name in ("predict", "inference", "whole_inference", "slide_inference", "postprocess_result")
    },
    "encode_decode": [EncoderDecoder.encode_decode, CascadeEncoderDecoder.encode_decode],
}
_HEAD_METHODS: dict[str, list[Callable[..., Any]]] = {
    "predict": [cls.predict for cls in (BaseDecodeHead, BaseCascadeDecodeHead, DAHead, EncHead, PointHead)],
    "predict_by_feat": [BaseDecodeHead.predict_by_feat],
}
