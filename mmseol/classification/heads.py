"""Classification heads whose scores are calibrated, and test-time augmentation that averages them."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from mmpretrain.models.heads import LinearClsHead
from mmpretrain.models.tta import AverageClsScoreTTA
from mmpretrain.structures import DataSample
from torch import Tensor

from mmseol.registry import MODELS
from mmseol.utils.checks import choice, number
from mmseol.utils.precision import FullPrecisionBuffers

__all__ = ["CalibratedHeadMixin", "CalibratedLinearClsHead", "ClsScoreTTAModel", "calibrated_scores"]

Decision = Literal["argmax", "nearest"]

_RANK_SHARE = 1e-8  # fraction of a score from its rank: below float32's rounding, far above underflow


def calibrated_scores(evidence: Tensor, temperature: float | Tensor) -> Tensor:
    r"""Return :math:`p = (1 - \epsilon)\,\mathrm{softmax}(z / T) + \epsilon\, r`, strictly ordered as ``z``.

    A softmax of outputs that differ by tens underflows to equal zeros, whose order in a top-5 is arbitrary.
    :math:`r_k` falls linearly with the rank of :math:`z_k` and sums to 1; :math:`\epsilon = 10^{-8}` is too
    small to change a displayed score and keeps every rank in float64 and float32. Equal evidence ranks in
    class order.

    >>> scores = calibrated_scores(torch.tensor([[200.0, 1.0, 9.0]]), temperature=1.0)
    >>> scores.argsort(descending=True).tolist()
    [[0, 2, 1]]

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


class CalibratedHeadMixin(FullPrecisionBuffers):
    r"""Mixin for classification heads: scores are a softmax with a temperature fitted on validation data.

    The host's ``pred_score`` is a softmax of the raw outputs :math:`a`. Outputs trained on outlying labels
    are not logits: scores are 0 or 1, top-5 depends on underflowed zeros, and test-time augmentation votes.
    This mixin computes :math:`p = \mathrm{softmax}(z / T)` in float64 (see :func:`calibrated_scores`), where

    - ``decision='argmax'`` (the paper's): :math:`z = a`;
    - ``decision='nearest'``: :math:`z_k = v_k a_k - v_k^2 / 2`, so that :math:`\arg\max_k z_k = \arg\min_k
      \lVert a - v_k e_k \rVert^2` and :math:`p_k \propto \exp(-\lVert a - v_k e_k \rVert^2 / 2 T)`: the
      posterior of equally likely classes, Gaussian around their targets with variance :math:`T`.

    :math:`T` is a buffer. It starts at the loss's ``score_temperature`` if it has one (LDAM's outputs are
    cosines, whose plain softmax is flat), else at 1, and ``mmseol.TemperatureHook`` fits it. It changes
    neither the decision nor the ranking. With :math:`T = 1` and ``'argmax'``, scores differ from the
    host's by at most :math:`10^{-8}`. Put the mixin before any head with ``_get_predictions``:

    >>> from mmpretrain.models import VisionTransformerClsHead
    >>> class CalibratedViTHead(CalibratedHeadMixin, VisionTransformerClsHead):
    ...     pass
    >>> loss = dict(type="mmseol.CrossEntropyLoss")
    >>> CalibratedViTHead(num_classes=4, in_channels=8, loss=loss).temperature
    tensor(1., dtype=torch.float64)

    Args:
        decision: Decision rule, ``'argmax'`` or ``'nearest'``.
        **kwargs: Arguments of the head.

    Raises:
        ValueError: If ``decision`` is neither, or it is ``'nearest'`` and the loss has no target values.
    """

    temperature: Tensor
    loss_module: Any

    def __init__(self, *args: Any, decision: Decision = "argmax", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        choice("decision", decision, get_args(Decision))
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
        """Set the temperature.

        Raises:
            ValueError: If it is not a finite number above 0.
        """
        self.temperature.fill_(number("temperature", temperature, above=0))

    def evidence(self, cls_score: Tensor) -> Tensor:
        """Return the evidence :math:`z`, float64 (N, K), for raw outputs (N, K).

        Raises:
            RuntimeError: If ``decision='nearest'`` and the loss does not know the class counts.
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

    def full_precision_names(self) -> tuple[str, ...]:
        """Return the names of the tensors that ``half()`` must not round."""
        return ("temperature",)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        state_dict.setdefault(prefix + "temperature", self.temperature)  # a checkpoint of the plain head
        super()._load_from_state_dict(state_dict, prefix, *args)  # type: ignore[misc]


@MODELS.register_module()
class CalibratedLinearClsHead(CalibratedHeadMixin, LinearClsHead):
    """mmpretrain's linear head with the scores of :class:`CalibratedHeadMixin`.

    >>> loss = dict(type="mmseol.LDAMLoss", class_counts=[9, 5, 2, 1])
    >>> head = CalibratedLinearClsHead(num_classes=4, in_channels=8, loss=loss)
    >>> (sample,) = head.predict((torch.ones(1, 8),))
    >>> round(sample.pred_score.sum().item(), 6)
    1.0

    Args:
        num_classes: Number of classes.
        in_channels: Number of features.
        decision: As in :class:`CalibratedHeadMixin`.
        **kwargs: Further arguments of ``LinearClsHead``.
    """

    def __init__(
        self, num_classes: int, in_channels: int, decision: Decision = "argmax", **kwargs: Any
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels, decision=decision, **kwargs)


@MODELS.register_module()
class ClsScoreTTAModel(AverageClsScoreTTA):
    """Average the scores over the augmented views, and predict their argmax.

    mmpretrain's ``AverageClsScoreTTA`` averages the scores but keeps the label of the first view, which some
    metrics read. Scores must be comparable between views, as those of
    :class:`mmseol.classification.CalibratedHeadMixin` are.

    >>> from mmengine.model import BaseModel
    >>> class Net(BaseModel):
    ...     def forward(self, inputs, data_samples=None, mode="tensor"):
    ...         return inputs
    >>> model = ClsScoreTTAModel(module=Net())
    >>> views = [DataSample().set_pred_score(torch.tensor(s)) for s in ([0.6, 0.4], [0.1, 0.9])]
    >>> model.merge_preds([views])[0].pred_label
    tensor([1])
    """

    def _merge_single_sample(self, data_samples: list[DataSample]) -> Any:
        merged = super()._merge_single_sample(data_samples)
        return merged.set_pred_label(merged.pred_score.argmax(dim=0, keepdim=True))
