"""Losses on raw outputs, one base, one contract; importable without any host."""

from mmseol.losses.base import ClassLoss
from mmseol.losses.focal import FocalLoss, SigmoidFocalLoss
from mmseol.losses.lovasz import LovaszHingeLoss, LovaszSoftmaxLoss
from mmseol.losses.outlying import OneHotMSELoss, OutlyingMSELoss
from mmseol.losses.overlap import DiceLoss, IoULoss, TverskyLoss
from mmseol.losses.region import RegionLoss
from mmseol.losses.reweight import CrossEntropyLoss
from mmseol.losses.weighted import WeightedClassLoss

__all__ = [
    "ClassLoss",
    "CrossEntropyLoss",
    "DiceLoss",
    "FocalLoss",
    "IoULoss",
    "LovaszHingeLoss",
    "LovaszSoftmaxLoss",
    "OneHotMSELoss",
    "OutlyingMSELoss",
    "RegionLoss",
    "SigmoidFocalLoss",
    "TverskyLoss",
    "WeightedClassLoss",
]
