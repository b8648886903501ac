"""Metrics for any mmengine Runner: how well the rare classes fare beside the frequent ones."""

from mmseol.metrics.classification import ClassBalanceMetric
from mmseol.metrics.segmentation import SegClassBalanceMetric

__all__ = ["ClassBalanceMetric", "SegClassBalanceMetric"]
