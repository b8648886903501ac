"""The base of every loss and the kinds of losses that stand on it."""

from mmseol.losses.base.class_loss import ClassLoss, Reduction
from mmseol.losses.base.counted import CountedModule
from mmseol.losses.base.quadratic import QuadraticLoss
from mmseol.losses.base.region import RegionLoss
from mmseol.losses.base.stateful import StatefulLoss
from mmseol.losses.base.weighted import Normalize, WeightedClassLoss

__all__ = [
    "ClassLoss",
    "CountedModule",
    "Normalize",
    "QuadraticLoss",
    "Reduction",
    "RegionLoss",
    "StatefulLoss",
    "WeightedClassLoss",
]
