"""Test-time augmentation whose label follows its score."""

from __future__ import annotations

from typing import Any

from mmpretrain.models.tta import AverageClsScoreTTA
from mmpretrain.structures import DataSample

from mmseol.registry import MODELS

__all__ = ["ClsScoreTTAModel"]


@MODELS.register_module()
class ClsScoreTTAModel(AverageClsScoreTTA):
    """Average the scores over the augmented views, and predict their argmax.

    mmpretrain's ``AverageClsScoreTTA`` averages the scores and leaves the label that of the first view, which
    metrics that read labels then score. Scores have to be comparable between views, as those of
    :class:`mmseol.classification.CalibratedHeadMixin` are.
    """

    def _merge_single_sample(self, data_samples: list[DataSample]) -> Any:
        merged = super()._merge_single_sample(data_samples)
        return merged.set_pred_label(merged.pred_score.argmax(dim=0, keepdim=True))
