"""Losses on raw outputs, one base, one contract; importable without any host."""

from mmseol.losses.base import ClassLoss
from mmseol.losses.focal import FocalLoss, SigmoidFocalLoss
from mmseol.losses.lade import LADELoss
from mmseol.losses.lovasz import LovaszHingeLoss, LovaszSoftmaxLoss
from mmseol.losses.margin import EnlargedMarginLoss, LDAMLoss
from mmseol.losses.outlying import OneHotMSELoss, OutlyingMSELoss
from mmseol.losses.overlap import DiceLoss, IoULoss, TverskyLoss
from mmseol.losses.prior import BalancedSoftmaxLoss, LogitAdjustedLoss, VSLoss
from mmseol.losses.reweight import CrossEntropyLoss
from mmseol.losses.weighted import WeightedClassLoss
from mmseol.losses.region import RegionLoss

__all__ = [
    "BalancedSoftmaxLoss",
    "ClassLoss",
    "CrossEntropyLoss",
    "DiceLoss",
    "EnlargedMarginLoss",
    "FocalLoss",
    "IoULoss",
    "LADELoss",
    "LDAMLoss",
    "LogitAdjustedLoss",
    "LovaszHingeLoss",
    "LovaszSoftmaxLoss",
    "OneHotMSELoss",
    "OutlyingMSELoss",
    "RegionLoss",
    "SigmoidFocalLoss",
    "TverskyLoss",
    "VSLoss",
    "WeightedClassLoss",
]
