"""Losses on raw outputs, one base, one contract; importable without any host."""

from mmseol.losses.base import ClassLoss
from mmseol.losses.lade import LADELoss
from mmseol.losses.margin import EnlargedMarginLoss, LDAMLoss
from mmseol.losses.outlying import OneHotMSELoss, OutlyingMSELoss
from mmseol.losses.prior import BalancedSoftmaxLoss, LogitAdjustedLoss, VSLoss
from mmseol.losses.reweight import CrossEntropyLoss
from mmseol.losses.weighted import WeightedClassLoss

__all__ = [
    "BalancedSoftmaxLoss",
    "ClassLoss",
    "CrossEntropyLoss",
    "EnlargedMarginLoss",
    "LADELoss",
    "LDAMLoss",
    "LogitAdjustedLoss",
    "OneHotMSELoss",
    "OutlyingMSELoss",
    "VSLoss",
    "WeightedClassLoss",
]
