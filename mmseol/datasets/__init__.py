"""Wrappers that cut, split and repeat any mmengine data set by its classes."""

from mmseol.datasets.imbalanced import ImbalancedDataset
from mmseol.datasets.repeat_rare import RepeatRareDataset
from mmseol.datasets.splits import HoldOut, StratifiedHoldOut, StratifiedKFold
from mmseol.datasets.subset import SubsetDataset

__all__ = [
    "HoldOut",
    "ImbalancedDataset",
    "RepeatRareDataset",
    "StratifiedHoldOut",
    "StratifiedKFold",
    "SubsetDataset",
]
