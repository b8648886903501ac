"""The contract finds deliberately wrong losses, each by the check that is meant for it."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmseol.losses import ClassLoss, DiceLoss
from mmseol.testing import check_loss, loss_checks

COMPILES = "compiles_without_graph_break"


class RightLoss(ClassLoss):
    """Cross entropy times the rarity of the label's class."""

    derived = ("rarity",)
    rarity: Tensor | None
    needs_counts = True  # type: ignore[assignment]

    def update_from_counts(self, counts: np.ndarray, totals: np.ndarray | None) -> None:
        self.set_derived("rarity", counts.max() / np.maximum(counts, 1))

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        assert self.rarity is not None
        if target.dim() < pred.dim():
            target = torch.eye(pred.shape[1])[target].movedim(-1, 1)
        return -torch.einsum(
            "nk...,k,nk...->n...", pred.log_softmax(1), self.rarity.to(pred), target.to(pred)
        )


class NameWithoutLoss(RightLoss):
    loss_name = "rarity"  # type: ignore[assignment]


class ArgumentsNotPassedOn(RightLoss):
    def __init__(self, class_counts: Any = None, sync_avg_factor: bool = False, **kwargs: Any) -> None:
        super().__init__(class_counts, **kwargs)


class IgnoredElementsInTheLoss(RightLoss):
    def evaluate(self, pred, target, weight, ignore_index, reduction, avg_factor):
        return super().evaluate(pred, target.clamp(max=pred.shape[1] - 1), weight, -1, reduction, avg_factor)


class GradientAtIgnoredElements(RightLoss):
    def evaluate(self, pred, *args):
        return super().evaluate(pred, *args) + pred.sum() - pred.sum().detach()


class IgnoredElementsInTheDivisor(RightLoss):
    def divisor(self, target, valid):
        return torch.tensor(valid.numel())


class IgnoreIndexOfTheConstructorAlone(RightLoss):
    def resolve(self, reduction_override, ignore_index):
        return super().resolve(reduction_override, None)


class NotANumberIfAllIsIgnored(RightLoss):
    def _resolve_divisor(self, target, valid, reduction, avg_factor, dtype):
        if reduction == "sum":
            return super()._resolve_divisor(target, valid, reduction, avg_factor, dtype)
        return torch.as_tensor(self.divisor(target, valid) if avg_factor is None else avg_factor, dtype=dtype)


class MoreAreValidMoreLoss(RightLoss):
    def position_loss(self, pred, target, valid):
        return super().position_loss(pred, target, valid) * valid.sum()


class MoreDimensionsMoreLoss(RightLoss):
    def position_loss(self, pred, target, valid):
        return super().position_loss(pred, target, valid) * pred.dim()


class SumInPlaceOfElements(RightLoss):
    def _reduce(self, loss, target, valid, reduction, avg_factor):
        return (
            super()
            ._reduce(loss, target, valid, "sum" if reduction == "none" else reduction, avg_factor)
            .expand(loss.shape if reduction == "none" else ())
        )


class AvgFactorIgnored(RightLoss):
    def evaluate(self, pred, target, weight, ignore_index, reduction, avg_factor):
        return super().evaluate(pred, target, weight, ignore_index, reduction, None)


class WeightIgnored(RightLoss):
    def evaluate(self, pred, target, weight, *args):
        return super().evaluate(pred, target, None, *args)


class WeightInTheDivisor(RightLoss):
    def evaluate(self, pred, target, weight, ignore_index, reduction, avg_factor):
        if weight is not None and weight.shape == target.shape and reduction == "mean":
            avg_factor = (weight * (target != ignore_index)).sum()
        return super().evaluate(pred, target, weight, ignore_index, reduction, avg_factor)


class LossWeightTwice(RightLoss):
    def evaluate(self, *args):
        return self.loss_weight * super().evaluate(*args)


class SoftLabelsHalved(RightLoss):
    def position_loss(self, pred, target, valid):
        return super().position_loss(pred, target, valid) * (0.5 if target.dim() == pred.dim() else 1)


class GradientOfSomethingElse(RightLoss):
    def position_loss(self, pred, target, valid):
        loss = super().position_loss(pred, target, valid)
        return loss * pred.detach().std(1)


class HalfPrecisionKept(RightLoss):
    lifts_precision: ClassVar[bool] = True


class ExponentialOverflows(RightLoss):
    def position_loss(self, pred, target, valid):
        shift = pred.exp().sum(1).log()
        return super().position_loss(pred, target, valid) + shift - shift.detach()


class DividesByACountOfZero(RightLoss):
    def update_from_counts(self, counts, totals):
        with np.errstate(divide="ignore"):
            self.set_derived("rarity", counts.max() / counts)


class NotANumberBecomesZero(RightLoss):
    def position_loss(self, pred, target, valid):
        return super().position_loss(pred, target, valid).nan_to_num(posinf=1.0)


class FirstClassCountsTwice(RightLoss):
    def position_loss(self, pred, target, valid):
        first = target[:, 0] if target.dim() == pred.dim() else (target == 0)
        return super().position_loss(pred, target, valid) * (1 + first)


class CountsOfTheConstructorAlone(RightLoss):
    def __init__(self, class_counts: Any = None, **kwargs: Any) -> None:
        super().__init__(class_counts, **kwargs)
        self._rarity_at_first = self.rarity

    def position_loss(self, pred, target, valid):
        self.rarity = torch.ones(pred.shape[1]) if self._rarity_at_first is None else self._rarity_at_first
        return super().position_loss(pred, target, valid)


class CountsInHalfPrecision(RightLoss):
    def _apply(self, fn: Any, recurse: bool = True) -> nn.Module:
        super()._apply(fn, recurse)
        self.class_counts = fn(self.class_counts.float()).clamp(max=6e4).long()
        return self


class BranchesOnValues(RightLoss):
    def position_loss(self, pred, target, valid):
        loss = super().position_loss(pred, target, valid)
        return loss if loss.sum() > 0 else -loss


class InputsUnchecked(RightLoss):
    def forward(self, pred, target, *args, **kwargs):
        return super().forward(
            pred, target.reshape(-1, *target.shape[1:])[: len(pred)].long(), *args, **kwargs
        )


class ReductionUnchecked(RightLoss):
    def __init__(self, class_counts: Any = None, reduction: Any = "mean", **kwargs: Any) -> None:
        reduction = reduction if reduction in ("none", "mean", "sum") else "mean"
        super().__init__(class_counts, reduction=reduction, **kwargs)


class CountsOfAnyNumber(RightLoss):
    def set_class_counts(self, counts: Any, totals: Any = None) -> None:
        self.class_counts = None
        super().set_class_counts(counts, totals)


class CountsInANewTensor(RightLoss):
    def set_class_counts(self, counts: Any, totals: Any = None) -> None:
        super().set_class_counts(counts, totals)
        self.class_counts = self.class_counts.clone()


class CountsFromListsAlone(RightLoss):
    def __init__(self, class_counts: Any = None, **kwargs: Any) -> None:
        super().__init__(None if class_counts is None else np.asarray(class_counts), **kwargs)


class RarityOfOneIfNobodyCounted(RightLoss):
    def require_counts(self, num_classes: int) -> None:
        if not self.counted:
            self.set_derived("rarity", np.ones(num_classes))


WRONG: dict[type[ClassLoss], str] = {
    NameWithoutLoss: "has_a_name_that_mmseg_optimises",
    ArgumentsNotPassedOn: "takes_the_arguments_of_every_loss",
    IgnoredElementsInTheLoss: "ignored_elements_change_nothing",
    GradientAtIgnoredElements: "ignored_elements_change_nothing",
    IgnoredElementsInTheDivisor: "ignored_elements_equal_their_absence",
    IgnoreIndexOfTheConstructorAlone: "the_call_overrides_the_constructors_ignore_index",
    NotANumberIfAllIsIgnored: "all_ignored_gives_zero_and_zero_gradient",
    MoreDimensionsMoreLoss: "any_shape_equals_flattened",
    SumInPlaceOfElements: "reductions_and_avg_factor_agree",
    AvgFactorIgnored: "reductions_and_avg_factor_agree",
    WeightIgnored: "weight_scales_elements_and_stays_out_of_the_divisor",
    WeightInTheDivisor: "weight_scales_elements_and_stays_out_of_the_divisor",
    LossWeightTwice: "loss_weight_is_linear",
    SoftLabelsHalved: "soft_labels_of_one_class_equal_labels",
    MoreAreValidMoreLoss: "upsampled_outputs_are_not_needed",
    GradientOfSomethingElse: "gradient_is_the_difference_quotient",
    HalfPrecisionKept: "half_precision_is_lifted",
    ExponentialOverflows: "finite_at_small_and_large_outputs",
    DividesByACountOfZero: "two_and_many_classes_one_without_samples",
    NotANumberBecomesZero: "non_finite_outputs_are_never_masked",
    FirstClassCountsTwice: "permuting_classes_with_their_counts_changes_nothing",
    CountsOfTheConstructorAlone: "counts_survive_checkpoint_copy_and_averaging",
    CountsInHalfPrecision: "large_counts_stay_exact_in_half_precision_modules",
    BranchesOnValues: COMPILES,
    InputsUnchecked: "wrong_inputs_are_named",
    ReductionUnchecked: "wrong_settings_are_named",
    CountsOfAnyNumber: "counts_must_fit_the_number_of_classes",
    CountsInANewTensor: "counts_must_fit_the_number_of_classes",
    CountsFromListsAlone: "counts_are_read_from_files",
    RarityOfOneIfNobodyCounted: "use_without_counts_says_what_to_do",
}


@pytest.mark.parametrize("num_classes", [3, 5])
def test_a_right_loss_passes(num_classes: int) -> None:
    check_loss(RightLoss, num_classes)


def test_every_check_has_a_wrong_loss() -> None:
    assert set(WRONG.values()) == {check.name for check in loss_checks()}


@pytest.mark.parametrize(("loss", "name"), WRONG.items(), ids=lambda value: getattr(value, "__name__", None))
def test_a_wrong_loss_fails(loss: type[ClassLoss], name: str) -> None:
    skip = {} if name == COMPILES else {COMPILES: "takes seconds"}
    with pytest.raises(AssertionError, match=rf"(?m)^{loss.__name__} fails {name}: "):
        check_loss(loss, skip=skip)


def test_exceptions_have_a_reason() -> None:
    checks = {check.name: check for check in loss_checks()}
    assert "from all elements" in checks["weight_scales_elements_and_stays_out_of_the_divisor"].exception(
        DiceLoss
    )
    assert checks["reductions_and_avg_factor_agree"].exception(RightLoss) is None
    with pytest.raises(AssertionError, match="LossWeightTwice fails loss_weight_is_linear"):
        check_loss(LossWeightTwice, skip={COMPILES: "takes seconds"})
    check_loss(
        LossWeightTwice, skip={COMPILES: "takes seconds", "loss_weight_is_linear": "squared on purpose"}
    )


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"`skip` must name checks among .*, got speed\."):
        check_loss(RightLoss, skip={"speed": "measured elsewhere"})
    with pytest.raises(ValueError, match="`num_classes` must be a whole number of at least 3, got 2"):
        check_loss(RightLoss, 2)
    with pytest.raises(ValueError, match=r"`loss` must be a subclass of mmseol\.losses\.ClassLoss"):
        check_loss(nn.CrossEntropyLoss)  # type: ignore[arg-type]
