"""Metrics for any mmengine Runner: how well the rare classes fare beside the frequent ones."""

from mmseol.metrics.label_map import SegClassBalanceMetric
from mmseol.metrics.single_label import ClassBalanceMetric

__all__ = ["ClassBalanceMetric", "SegClassBalanceMetric"]
