"""Losses of raw outputs, as classes and as functions; importable without MMSegmentation and MMPretrain.

A class keeps settings, class counts and state; the function of the same name computes the same value from
its arguments alone. In a plain PyTorch loop:

>>> import torch
>>> loss = OutlyingMSELoss(alpha=2.0, class_counts=[900, 100])
>>> loss(torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 1]))
tensor(0.2500)
>>> outlying_mse(torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 1]), values=[2.0, 4.0])
tensor(0.2500)
"""

from mmseol.losses.base.class_loss import ClassLoss
from mmseol.losses.base.quadratic import QuadraticLoss
from mmseol.losses.base.region import RegionLoss
from mmseol.losses.base.stateful import StatefulLoss
from mmseol.losses.base.weighted import WeightedClassLoss
from mmseol.losses.cross_entropy import CrossEntropyLoss, cross_entropy, upsampled_cross_entropy
from mmseol.losses.difficulty import CDBLoss, cdb_loss
from mmseol.losses.equalization import (
    EqualizationLoss,
    SigmoidEqualizationLoss,
    equalization_loss,
    sigmoid_equalization_loss,
)
from mmseol.losses.focal import FocalLoss, SigmoidFocalLoss, focal_loss, sigmoid_focal_loss
from mmseol.losses.ghm import GHMCLoss, ghmc_loss
from mmseol.losses.influence import InfluenceBalancedLoss, influence_balanced_loss
from mmseol.losses.lade import LADELoss, lade_loss
from mmseol.losses.logit_adjustment import (
    BalancedSoftmaxLoss,
    LogitAdjustedLoss,
    VSLoss,
    balanced_softmax_loss,
    logit_adjusted_loss,
    vs_loss,
)
from mmseol.losses.lovasz import LovaszHingeLoss, LovaszSoftmaxLoss, lovasz_hinge_loss, lovasz_softmax_loss
from mmseol.losses.margin import EnlargedMarginLoss, LDAMLoss, enlarged_margin_loss, ldam_loss
from mmseol.losses.outlying import OneHotMSELoss, OutlyingMSELoss, one_hot_mse, outlying_mse
from mmseol.losses.overlap import DiceLoss, IoULoss, TverskyLoss, dice_loss, iou_loss, tversky_loss
from mmseol.losses.seesaw import SeesawLoss, seesaw_loss

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
    "QuadraticLoss",
    "RegionLoss",
    "SeesawLoss",
    "SigmoidEqualizationLoss",
    "SigmoidFocalLoss",
    "StatefulLoss",
    "TverskyLoss",
    "VSLoss",
    "WeightedClassLoss",
    "balanced_softmax_loss",
    "cdb_loss",
    "cross_entropy",
    "dice_loss",
    "enlarged_margin_loss",
    "equalization_loss",
    "focal_loss",
    "ghmc_loss",
    "influence_balanced_loss",
    "iou_loss",
    "lade_loss",
    "ldam_loss",
    "logit_adjusted_loss",
    "lovasz_hinge_loss",
    "lovasz_softmax_loss",
    "one_hot_mse",
    "outlying_mse",
    "seesaw_loss",
    "sigmoid_equalization_loss",
    "sigmoid_focal_loss",
    "tversky_loss",
    "upsampled_cross_entropy",
    "vs_loss",
]
