"""The base of every loss and the bases of kinds of losses: weighted, stateful, region and quadratic."""

from mmseol.losses.base.class_loss import ClassLoss, Normalize, Reduction
from mmseol.losses.base.counted import CountedModule
from mmseol.losses.base.quadratic import QuadraticLoss
from mmseol.losses.base.region import RegionLoss
from mmseol.losses.base.stateful import StatefulLoss
from mmseol.losses.base.weighted import WeightedClassLoss

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
