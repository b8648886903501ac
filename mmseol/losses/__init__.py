"""Losses on raw outputs, one base, one contract; importable without any host."""

from mmseol.losses.base.class_loss import ClassLoss
from mmseol.losses.base.region import RegionLoss
from mmseol.losses.base.weighted import WeightedClassLoss
from mmseol.losses.cross_entropy import CrossEntropyLoss
from mmseol.losses.difficulty import CDBLoss
from mmseol.losses.equalization import EqualizationLoss, SigmoidEqualizationLoss
from mmseol.losses.focal import FocalLoss, SigmoidFocalLoss
from mmseol.losses.ghm import GHMCLoss
from mmseol.losses.influence import InfluenceBalancedLoss
from mmseol.losses.lade import LADELoss
from mmseol.losses.logit_adjustment import BalancedSoftmaxLoss, LogitAdjustedLoss, VSLoss
from mmseol.losses.lovasz import LovaszHingeLoss, LovaszSoftmaxLoss
from mmseol.losses.margin import EnlargedMarginLoss, LDAMLoss
from mmseol.losses.outlying import OneHotMSELoss, OutlyingMSELoss
from mmseol.losses.overlap import DiceLoss, IoULoss, TverskyLoss
from mmseol.losses.seesaw import SeesawLoss

__all__ = [
    "BalancedSoftmaxLoss",
    "CDBLoss",
    "ClassLoss",
    "CrossEntropyLoss",
    "DiceLoss",
    "EnlargedMarginLoss",
    "EqualizationLoss",
    "FocalLoss",
    "GHMCLoss",
    "InfluenceBalancedLoss",
    "IoULoss",
    "LADELoss",
    "LDAMLoss",
    "LogitAdjustedLoss",
    "LovaszHingeLoss",
    "LovaszSoftmaxLoss",
    "OneHotMSELoss",
    "OutlyingMSELoss",
    "RegionLoss",
    "SeesawLoss",
    "SigmoidEqualizationLoss",
    "SigmoidFocalLoss",
    "TverskyLoss",
    "VSLoss",
    "WeightedClassLoss",
]
