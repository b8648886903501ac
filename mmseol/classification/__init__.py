"""Heads, hooks, batch augments, backbones and data sets for classification; imports mmpretrain."""

from mmseol.classification.batch_augments import (
    RICAP,
    MixedConcat,
    Random2x2,
    SamplePairing,
    VHBCPlus,
    VHMixup,
)
from mmseol.classification.cifar import CIFAR10, CIFAR100
from mmseol.classification.digits import DigitsDataset
from mmseol.classification.heads import CalibratedHeadMixin, CalibratedLinearClsHead, ClsScoreTTAModel
from mmseol.classification.resnet_cifar import SmallResNet
from mmseol.classification.temperature import TemperatureHook, fit_temperature

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "RICAP",
    "CalibratedHeadMixin",
    "CalibratedLinearClsHead",
    "ClsScoreTTAModel",
    "DigitsDataset",
    "MixedConcat",
    "Random2x2",
    "SamplePairing",
    "SmallResNet",
    "TemperatureHook",
    "VHBCPlus",
    "VHMixup",
    "fit_temperature",
]
