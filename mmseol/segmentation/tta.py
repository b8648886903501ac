"""Test-time augmentation for outputs that are not logits of a softmax."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.structures import PixelData
from mmseg.models.segmentors import SegTTAModel
from mmseg.structures import SegDataSample
from torch import nn

from mmseol.registry import MODELS

__all__ = ["SegScoreTTAModel"]


@MODELS.register_module()
class SegScoreTTAModel(SegTTAModel):
    """Average the raw outputs over the augmented views, then take the argmax.

    mmseg's ``SegTTAModel`` averages softmax probabilities. Outputs trained on outlying labels differ by tens,
    so that their softmax is 0 or 1 and the average is a vote of the views. mmseg's sliding window averages
    raw outputs too. The outputs of a view, (C, H, W), are flipped back and resized to the image's size.

    >>> view = SegDataSample(seg_logits=PixelData(data=torch.tensor([[[40.0]], [[0.0]]])))
    >>> other = SegDataSample(seg_logits=PixelData(data=torch.tensor([[[0.0]], [[30.0]]])))
    >>> from mmengine.model import BaseModel
    >>> class Net(BaseModel):
    ...     def forward(self, inputs, data_samples=None, mode="tensor"):
    ...         return inputs
    >>> model = SegScoreTTAModel(module=Net())
    >>> model.merge_preds([[view, other]])[0].pred_sem_seg.data.item()
    0

    Args:
        module: The segmentor, or its config.
        data_preprocessor: As in mmengine's ``BaseTTAModel``.

    Raises:
        ValueError: If ``module`` has one output channel (sigmoid and threshold instead of argmax).
    """

    def __init__(self, module: dict[str, Any] | nn.Module, data_preprocessor: Any = None) -> None:
        super().__init__(module, data_preprocessor)
        self._check_channels(getattr(self.module, "out_channels", 2))

    @staticmethod
    def _check_channels(channels: int) -> None:
        if channels < 2:
            raise ValueError(
                f"`module` must have 2 or more output channels, got out_channels={channels}, which "
                "means sigmoid and threshold: train with out_channels=num_classes, or use SegTTAModel."
            )

    def merge_preds(self, data_samples_list: list[list[SegDataSample]]) -> list[SegDataSample]:
        """Return one sample per image: the first view's, ``seg_logits`` (C, H, W) the mean over its views and
        ``pred_sem_seg`` (1, H, W) their argmax."""
        merged = []
        for views in data_samples_list:
            outputs = torch.stack([view.seg_logits.data.float() for view in views]).mean(dim=0)
            self._check_channels(outputs.shape[0])
            views[0].set_data(
                {
                    "seg_logits": PixelData(data=outputs),
                    "pred_sem_seg": PixelData(data=outputs.argmax(dim=0, keepdim=True)),
                }
            )
            merged.append(views[0])
        return merged
