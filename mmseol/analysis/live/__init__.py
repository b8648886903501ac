"""Hooks that show a run while it trains, and draw its report when it ends."""

from mmseol.analysis.live.class_scalars import ClassScalarsHook
from mmseol.analysis.live.prediction_pictures import PredictionPicturesHook
from mmseol.analysis.live.report_hook import ReportHook

__all__ = ["ClassScalarsHook", "PredictionPicturesHook", "ReportHook"]
