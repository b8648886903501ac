"""Losses on raw outputs, one base, one contract; importable without any host."""

from mmseol.losses.base import ClassLoss
from mmseol.losses.difficulty import CDBLoss
from mmseol.losses.equalization import EqualizationLoss, SigmoidEqualizationLoss
from mmseol.losses.ghm import GHMCLoss
from mmseol.losses.influence import InfluenceBalancedLoss
from mmseol.losses.outlying import OneHotMSELoss, OutlyingMSELoss
from mmseol.losses.reweight import CrossEntropyLoss
from mmseol.losses.seesaw import SeesawLoss
from mmseol.losses.weighted import WeightedClassLoss

__all__ = [
    "CDBLoss",
    "ClassLoss",
    "CrossEntropyLoss",
    "EqualizationLoss",
    "GHMCLoss",
    "InfluenceBalancedLoss",
    "OneHotMSELoss",
    "OutlyingMSELoss",
    "SeesawLoss",
    "SigmoidEqualizationLoss",
    "WeightedClassLoss",
]
