"""Losses on raw outputs, one base, one contract; importable without any host."""

from mmseol.losses.base import ClassLoss
from mmseol.losses.outlying import OneHotMSELoss, OutlyingMSELoss
from mmseol.losses.reweight import CrossEntropyLoss
from mmseol.losses.weighted import WeightedClassLoss

__all__ = ["ClassLoss", "CrossEntropyLoss", "OneHotMSELoss", "OutlyingMSELoss", "WeightedClassLoss"]
