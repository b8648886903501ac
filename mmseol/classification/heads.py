"""Classification heads whose scores can be read, ranked and averaged, whatever loss the outputs come from."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from mmpretrain.models.heads import LinearClsHead
from mmpretrain.models.tta import AverageClsScoreTTA
from mmpretrain.structures import DataSample
from torch import Tensor

from mmseol.registry import MODELS

__all__ = ["CalibratedHeadMixin", "CalibratedLinearClsHead", "ClsScoreTTAModel", "calibrated_scores"]

Decision = Literal["argmax", "nearest"]

_RANK_SHARE = 1e-8  # of a score that its rank decides: below the rounding of float32, far above underflow


def calibrated_scores(evidence: Tensor, temperature: float | Tensor) -> Tensor:
    r"""Return :math:`p = (1 - \epsilon)\,\mathrm{softmax}(z / T) + \epsilon\, r`, strictly ordered as ``z``.

    A softmax of outputs that lie tens apart underflows to equal zeros, and top-5 picks among those as it
    likes. :math:`r_k` falls linearly with the rank of :math:`z_k` and sums to 1; :math:`\epsilon = 10^{-8}`
    shows in no score that is read, and keeps every rank in float64 as in float32. Equal evidence ranks in
    class order.

    Args:
        evidence: :math:`z`, (N, K).
        temperature: :math:`T`, above 0.

    Returns:
        Scores above 0 that sum to 1, float64 (N, K).
    """
    evidence = evidence.detach().double()
    classes = evidence.shape[1]
    order = evidence.argsort(dim=1, descending=True, stable=True)
    weights = torch.arange(classes, 0, -1, dtype=torch.float64, device=evidence.device)
    weights = (weights / weights.sum()).expand_as(evidence)
    ranks = torch.empty_like(evidence).scatter_(1, order, weights)
    softmax = (evidence / temperature).softmax(dim=1)
    return (1 - _RANK_SHARE) * softmax + _RANK_SHARE * ranks


class CalibratedHeadMixin:
    r"""Scores of a classification head: softmax of evidence over a temperature that validation data fit.

    The host's ``pred_score`` is a softmax of the raw outputs :math:`a`. Trained on outlying labels they are
    no logits: scores are 0 or 1, top-5 is decided among underflowed zeros, and test-time augmentation votes.
    Here :math:`p = \mathrm{softmax}(z / T)` in float64 (see :func:`calibrated_scores`), where

    - ``decision='argmax'`` (the paper's): :math:`z = a`;
    - ``decision='nearest'``: :math:`z_k = v_k a_k - v_k^2 / 2`, so that :math:`\arg\max_k z_k = \arg\min_k
      \lVert a - v_k e_k \rVert^2` and :math:`p_k \propto \exp(-\lVert a - v_k e_k \rVert^2 / 2 T)`: the
      posterior of equally likely classes, Gaussian around their targets with variance :math:`T`.

    :math:`T` is a buffer: 1, or what the loss names (``score_temperature``: LDAM's outputs are cosines, of
    which a plain softmax is flat), until ``mmseol.TemperatureHook`` fits it. It changes neither decision nor
    ranking. At 1 and with ``'argmax'`` the score is the host's to :math:`10^{-8}`, and so is it with
    other losses. Put the mixin before any head with ``_get_predictions``::

        class CalibratedViTHead(CalibratedHeadMixin, VisionTransformerClsHead): ...

    Args:
        decision: Which class is predicted, ``'argmax'`` or ``'nearest'``.
        **kwargs: Arguments of the head.

    Raises:
        ValueError: If ``decision`` is neither, or ``'nearest'`` meets a loss without target values.
    """

    temperature: Tensor
    loss_module: Any

    def __init__(self, *args: Any, decision: Decision = "argmax", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if decision not in get_args(Decision):
            raise ValueError(f"`decision` must be 'argmax' or 'nearest', got {decision!r}.")
        if decision == "nearest" and not hasattr(self.loss_module, "target_values"):
            raise ValueError(
                "`decision='nearest'` needs a loss with target values (mmseol.OutlyingMSELoss), got "
                f"{type(self.loss_module).__name__}. Use decision='argmax' with it."
            )
        self.decision = decision
        temperature = getattr(self.loss_module, "score_temperature", 1.0)
        self.register_buffer(  # type: ignore[attr-defined]
            "temperature", torch.tensor(temperature, dtype=torch.float64)
        )

    def set_temperature(self, temperature: float) -> None:
        """Use this temperature from now on.

        Raises:
            ValueError: If it is not a finite number above 0.
        """
        if not 0 < temperature < float("inf"):
            raise ValueError(f"`temperature` must be a finite number above 0, got {temperature!r}.")
        self.temperature.fill_(temperature)

    def evidence(self, cls_score: Tensor) -> Tensor:
        """Return what is ranked, :math:`z`, float64 (N, K), for raw outputs (N, K).

        Raises:
            RuntimeError: If ``decision='nearest'`` and the loss was never told the class counts.
        """
        outputs = cls_score.detach().double()
        if self.decision == "argmax":
            return outputs
        self.loss_module.require_counts(cls_score.shape[1])
        values = self.loss_module.target_values.to(outputs)
        return values * outputs - values.square() / 2

    def _get_predictions(self, cls_score: Tensor, data_samples: list[DataSample] | None) -> list[DataSample]:
        """Set ``pred_score``, float64 (K,), and ``pred_label``, (1,), of every sample."""
        scores = calibrated_scores(self.evidence(cls_score), self.temperature)
        labels = scores.argmax(dim=1, keepdim=True)
        samples = data_samples if data_samples is not None else [None] * len(scores)
        return [
            (DataSample() if sample is None else sample).set_pred_score(score).set_pred_label(label)
            for sample, score, label in zip(samples, scores, labels, strict=True)
        ]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        kept = self.temperature
        result = super()._apply(fn, recurse)  # type: ignore[misc]
        self.temperature = kept.to(self.temperature.device)  # half() must not round it
        return result

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        state_dict.setdefault(prefix + "temperature", self.temperature)  # a checkpoint of the plain head
        super()._load_from_state_dict(state_dict, prefix, *args)  # type: ignore[misc]


@MODELS.register_module()
class CalibratedLinearClsHead(CalibratedHeadMixin, LinearClsHead):
    """mmpretrain's linear head with the scores of :class:`CalibratedHeadMixin`.

    Args:
        num_classes: Number of classes.
        in_channels: Length of the features.
        decision: As in :class:`CalibratedHeadMixin`.
        **kwargs: Arguments of ``LinearClsHead``.
    """


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
