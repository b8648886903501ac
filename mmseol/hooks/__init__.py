"""Hooks for any mmengine Runner; they find losses by their methods, not by their classes."""

from mmseol.hooks.class_count import ClassCountHook
from mmseol.hooks.class_difficulty import ClassDifficultyHook
from mmseol.hooks.classifier_features import ClassifierFeatureHook, feed_features
from mmseol.hooks.non_finite_loss import NonFiniteLossHook

__all__ = [
    "ClassCountHook",
    "ClassDifficultyHook",
    "ClassifierFeatureHook",
    "NonFiniteLossHook",
    "feed_features",
]
