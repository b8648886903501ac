"""Wrappers that cut, split and repeat any mmengine data set by its classes, or hold it in memory."""

from mmseol.datasets.base import SubsetDataset
from mmseol.datasets.imbalanced import ImbalancedDataset
from mmseol.datasets.in_memory import InMemoryDataset, whole_batch
from mmseol.datasets.repeat_rare import RepeatRareDataset
from mmseol.datasets.splits import HoldOut, StratifiedHoldOut, StratifiedKFold

__all__ = [
    "HoldOut",
    "ImbalancedDataset",
    "InMemoryDataset",
    "RepeatRareDataset",
    "StratifiedHoldOut",
    "StratifiedKFold",
    "SubsetDataset",
    "whole_batch",
]
