"""Small heads and a segmentor of mmseg, with features and labels for them."""

from __future__ import annotations

from typing import Any

import mmseg.models  # noqa: F401  (registers the heads)
import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

K, STAGES, SIZE = 4, (8, 12, 16), 16
COUNTS = [4000, 900, 200, 30]
LOSSES = {
    "outlying": dict(type="mmseol.OutlyingMSELoss", alpha=2.0, class_counts=COUNTS),
    "one_hot": dict(type="mmseol.OneHotMSELoss", class_counts=COUNTS),
    "ce": dict(type="mmseol.CrossEntropyLoss", class_counts=COUNTS),
    "weighted_ce": dict(type="mmseol.CrossEntropyLoss", class_weight="median_frequency", class_counts=COUNTS),
}
HEADS = {
    "FCNHead": dict(in_channels=16, in_index=2, num_convs=1),
    "PSPHead": dict(in_channels=16, in_index=2, pool_scales=(1, 2)),
    "ASPPHead": dict(in_channels=16, in_index=2, dilations=(1, 2)),
    "UPerHead": dict(in_channels=STAGES, in_index=(0, 1, 2), pool_scales=(1, 2)),
}


def build(kind: str, loss: Any, **kwargs: Any) -> nn.Module:
    """Return a head of K classes."""
    head = dict(type=kind, channels=8, num_classes=K, norm_cfg=dict(type="BN"), dropout_ratio=0)
    return MODELS.build(ConfigDict({**head, **HEADS.get(kind, {}), "loss_decode": loss, **kwargs}))


def features() -> list[Tensor]:
    """Return feature maps of two images, one for each stage."""
    return [torch.randn(2, c, 8 >> i, 8 >> i) for i, c in enumerate(STAGES)]


def samples() -> list[SegDataSample]:
    """Return two label maps: each class in its own band of rows, the first rows void."""
    label = (torch.arange(SIZE)[:, None] * K // SIZE).expand(SIZE, SIZE).clone()
    label[:2] = 255
    out = []
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(img_shape=(SIZE, SIZE), ori_shape=(SIZE, SIZE)))
        sample.gt_sem_seg = PixelData(data=label[None].clone())
        out.append(sample)
    return out


def segmentor(loss: str) -> nn.Module:
    """Return a segmentor with a main and an auxiliary head of one of the losses."""
    backbone = dict(type="ResNetV1c", depth=18, base_channels=8, stem_channels=8, norm_cfg=dict(type="BN"))
    head = dict(
        type="FCNHead", in_channels=64, in_index=3, channels=8, num_classes=K, norm_cfg=dict(type="BN")
    )
    aux = dict(head, in_channels=32, in_index=2)
    cfg = dict(
        type="EncoderDecoder",
        data_preprocessor=dict(type="SegDataPreProcessor", size=(32, 32), std=[50.0] * 3, mean=[120.0] * 3),
        backbone=backbone,
        decode_head=dict(head, loss_decode=LOSSES[loss]),
        auxiliary_head=[dict(aux, loss_decode=dict(LOSSES[loss], loss_weight=0.4))],
        test_cfg=dict(mode="whole"),
    )
    return MODELS.build(ConfigDict(cfg))
