"""Data sets, transforms, heads and models for segmentation; the only package that imports mmseg."""

from mmseol.segmentation.camvid_dataset import CamVidDataset
from mmseol.segmentation.jpu_head import JPUHead
from mmseol.segmentation.transforms import CheckLabelSize, ClassAwareCrop
from mmseol.segmentation.tta import SegScoreTTAModel
from mmseol.segmentation.upsample_free import UpsampleFreeLossHook, restore_upsampling, upsample_free
from mmseol.segmentation.upsample_free_prediction import (
    UpsampleFreePredictionHook,
    predict_upsample_free,
    restore_prediction,
)

__all__ = [
    "CamVidDataset",
    "CheckLabelSize",
    "ClassAwareCrop",
    "JPUHead",
    "SegScoreTTAModel",
    "UpsampleFreeLossHook",
    "UpsampleFreePredictionHook",
    "predict_upsample_free",
    "restore_prediction",
    "restore_upsampling",
    "upsample_free",
]
