"""Test-time augmentation for outputs that are scores, not logits of a softmax."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.structures import PixelData
from mmseg.models.segmentors import SegTTAModel
from mmseg.structures import SegDataSample

from mmseol.registry import MODELS

__all__ = ["SegScoreTTAModel"]


@MODELS.register_module()
class SegScoreTTAModel(SegTTAModel):
    """Average the raw outputs over the augmented views, then take the argmax.

    mmseg's ``SegTTAModel`` averages softmax probabilities. Outputs trained on outlying labels lie tens apart,
    their softmax is 0 or 1, and its average a vote of the views; the mean of the raw outputs is what mmseg's
    sliding window takes too. Each view's outputs (C, H, W) come flipped back and at the image's own size.

    Raises:
        ValueError: ``module`` has one output channel (sigmoid and threshold, no argmax).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._check_channels(getattr(self.module, "out_channels", 2))

    @staticmethod
    def _check_channels(channels: int) -> None:
        if channels < 2:
            raise ValueError(
                f"`module` must have 2 or more output channels, got out_channels={channels}, which "
                "means sigmoid and threshold: train with out_channels=num_classes, or take SegTTAModel."
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
