"""Samplers that show rare classes more often than the data has them.

Every sampler draws the order of a whole epoch from its seed and the epoch, the same on every rank. A rank
takes every world-size-th item, so that all have the same number. ``expected_counts`` returns the expected
number of items of each class in an epoch.
"""

from mmseol.samplers.base import EpochSampler
from mmseol.samplers.classification import (
    ClassAwareSampler,
    OverSampler,
    ProgressivelyBalancedSampler,
    UnderSampler,
)
from mmseol.samplers.deferred import DeferredSampler
from mmseol.samplers.segmentation import RareClassSampler

__all__ = [
    "ClassAwareSampler",
    "DeferredSampler",
    "EpochSampler",
    "OverSampler",
    "ProgressivelyBalancedSampler",
    "RareClassSampler",
    "UnderSampler",
]
