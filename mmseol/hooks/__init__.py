"""Hooks and schedules for any mmengine Runner. They find losses by their methods, not by their classes."""

from mmseol.hooks.alpha_ramp import AlphaRampHook
from mmseol.hooks.class_count import ClassCountHook
from mmseol.hooks.class_difficulty import ClassDifficultyHook
from mmseol.hooks.classifier_features import ClassifierFeatureHook, feed_features
from mmseol.hooks.deferred_reweight import DeferredReweightHook
from mmseol.hooks.exact_resume import ExactResumeHook
from mmseol.hooks.learning_rate import PolynomialLR
from mmseol.hooks.non_finite_loss import NonFiniteLossHook
from mmseol.hooks.stop_signals import StopSignalHook
from mmseol.hooks.tuned_decision import TunedDecisionHook
from mmseol.hooks.whole_checkpoints import WholeCheckpointHook, newest_whole_checkpoint

__all__ = [
    "AlphaRampHook",
    "ClassCountHook",
    "ClassDifficultyHook",
    "ClassifierFeatureHook",
    "DeferredReweightHook",
    "ExactResumeHook",
    "NonFiniteLossHook",
    "PolynomialLR",
    "StopSignalHook",
    "TunedDecisionHook",
    "WholeCheckpointHook",
    "feed_features",
    "newest_whole_checkpoint",
]
