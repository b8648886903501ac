r"""Measurements of what the outputs estimate: probabilities, class means against labels, gradients.

The formula: a squared error with the targets :math:`v_k` makes output k estimate :math:`v_k P(k \mid x)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmseol.analysis.outlying_label.cases import (
    CROSS_ENTROPY,
    ONE_HOT,
    OUTLYING,
    TITLES,
    Case,
    paired,
    thirds,
)
from mmseol.analysis.statistics.estimates import output_gradients, probabilities, reliability
from mmseol.analysis.statistics.verdicts import resampled, spread, statement, unit_sums
from mmseol.counting.counts import outlying_values
from mmseol.experiment.checkpoint_outputs import CheckpointOutputs
from mmseol.utils.arrays import FloatArray, IntArray

__all__ = ["class_means_against_labels", "estimates", "gradients"]

_BRIER_MARGIN, _SLOPE_MARGIN, _DISTANCE_MARGIN, _GRADIENT_MARGIN = 0.02, 0.25, 0.1, 0.01


class _Moments:
    """Sums from which the Brier score of any divisors of the outputs follows, for all resamples."""

    def __init__(self, case: Case, outputs: CheckpointOutputs) -> None:
        estimate = outputs.outputs if outputs.targets is not None else probabilities(outputs.outputs)
        weights, own = case.weights(outputs)[:, None], np.eye(len(outputs.counts))[outputs.truth]
        values = np.stack([weights * estimate**2, weights * estimate * own], 1)
        unit = case.unit(outputs.image)
        squares, self.total = resampled([unit_sums(values, unit), unit_sums(weights[:, 0], unit)])
        self.square, self.product = squares[:, 0], squares[:, 1]
        self.targets = np.ones(len(outputs.counts)) if outputs.targets is None else outputs.targets
        self.kind = outputs.kind

    def brier(self) -> FloatArray:
        """Return the Brier score of a_k / v_k, (1 + R,)."""
        errors = self.square / self.targets**2 - 2 * self.product / self.targets
        return (errors.sum(1) + self.total) / self.total

    def brier_of_common_divisor(self) -> FloatArray:
        """Return the Brier score of the outputs over the one number that suits them best."""
        return (self.total - self.product.sum(1) ** 2 / self.square.sum(1)) / self.total

    def divisors(self) -> FloatArray:
        """Return the divisor of each output with the least Brier score, (1 + R, K); NaN if not above 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            found = self.square / self.product
        return np.where(found > 0, found, np.nan)

    def slope(self, ranks: FloatArray) -> FloatArray:
        """Return the slope of the logarithms of divisors over those of the ranks, (1 + R,)."""
        y, x = np.log(self.divisors()), np.log(ranks)
        x = np.where(np.isnan(y), np.nan, x)
        x, y = x - np.nanmean(x, 1, keepdims=True), y - np.nanmean(y, 1, keepdims=True)
        return np.nansum(x * y, 1) / np.nansum(x**2, 1)


def estimates(case: Case) -> dict[str, Any]:
    """Return (a): Brier scores, reliability, and whether the best divisors are the targets.

    >>> estimates(Case("digits", {}, balanced=True))["rows"]
    []
    """
    rows, said, curves = [], [], {}
    for stage, title in case.stages():
        found = {
            loss: {seed: _Moments(case, outputs) for seed, outputs in case.of(loss, stage).items()}
            for loss in (OUTLYING, ONE_HOT, CROSS_ENTROPY)
        }
        for loss, by_seed in found.items():
            if not by_seed:
                continue
            moments, outputs = list(by_seed.values()), list(case.of(loss, stage).values())
            p = [
                reliability(probabilities(o.outputs, o.targets), o.truth, 10, case.weights(o))
                for o in outputs
            ]
            curves[f"{title}: {loss}"] = _curves(p, outputs[0].counts)
            row: dict[str, Any] = {"data": title, "loss": loss, "seeds": len(moments)}
            row["Brier score of P"] = spread([m.brier()[0] for m in moments])
            if moments[0].kind == "multiplicative":
                row["of a common divisor"] = spread([m.brier_of_common_divisor()[0] for m in moments])
                ratio = np.mean([m.divisors()[0] / m.targets for m in moments], axis=0)
                row["best divisor over target"] = ratio.tolist()
            row["calibration error"] = [float(np.mean([r.error().mean() for r in p])), None]
            row["calibration error of rare classes"] = [
                float(np.mean([r.error()[thirds(outputs[0].counts)[1]].mean() for r in p])),
                None,
            ]
            rows.append(row)
        own = found[OUTLYING]
        if own:
            said.append(
                statement(
                    "outlying outputs over their targets are better estimates than over one number",
                    title,
                    [m.brier_of_common_divisor() for m in own.values()],
                    [m.brier() for m in own.values()],
                )
            )
        for loss, expected in ((OUTLYING, 1.0), (ONE_HOT, 0.0)):
            if found[loss]:
                ranks = outlying_values(next(iter(case.of(loss, stage).values())).counts)
                slopes = [m.slope(ranks) for m in found[loss].values()]
                text = f"best divisors of {TITLES[loss]} grow with rank^{expected:g}"
                ones = [np.full_like(slope, expected) for slope in slopes]
                said.append(statement(text, title, slopes, ones, "equal", _SLOPE_MARGIN))
        for other in (ONE_HOT, CROSS_ENTROPY):
            first, second = paired(found[other], own)
            if first:
                said.append(
                    statement(
                        f"outlying outputs over targets estimate P as well as {TITLES[other]}",
                        title,
                        [m.brier() for m in first],
                        [m.brier() for m in second],
                        "at least",
                        _BRIER_MARGIN,
                    )
                )
    return {"rows": rows, "statements": said, "curves": curves}


def _curves(found: Sequence[Any], counts: IntArray) -> dict[str, Any]:
    """Return mean estimate and frequency by bin, averaged over seeds, for each class, most frequent first."""
    order = np.argsort(-np.asarray(counts), kind="stable")
    return {
        name: np.mean([getattr(r, name) for r in found], axis=0)[order].round(4).tolist()
        for name in ("estimate", "frequency")
    }


def class_means_against_labels(case: Case) -> dict[str, Any]:
    """Return (c): how far the mean outputs of each class lie from its label, in units of its target.

    >>> class_means_against_labels(Case("digits", {}, balanced=True))["rows"]
    []
    """
    rows, said = [], []
    for stage, title in case.stages():
        for split, where in (("train", "training data"), ("held out", "held-out data")):
            outputs = list(case.of(OUTLYING, stage, split).values())
            if not outputs:
                continue
            means = [_resampled_means(case, o) for o in outputs]  # (1 + R, K, K) in units of targets
            eye = np.eye(len(outputs[0].counts))
            distances = [np.linalg.norm(m - eye, axis=2) for m in means]
            many, few = thirds(outputs[0].counts)
            own = [np.diagonal(m, axis1=1, axis2=2) for m in means]
            rows.append(
                {
                    "data": f"{title}, {where}",
                    "seeds": len(outputs),
                    "classes": outputs[0].classes.tolist(),
                    "counts": outputs[0].counts.tolist(),
                    "own output over target": np.mean([o[0] for o in own], axis=0).round(4).tolist(),
                    "distance to label": np.mean([d[0] for d in distances], axis=0).round(4).tolist(),
                    "means": np.mean([m[0] for m in means], axis=0).round(4).tolist(),
                }
            )
            zero = [np.zeros(len(d)) for d in distances]
            for name, group in (("frequent", many), ("rare", few)):
                text = f"means of {name} classes lie at their labels, {where}"
                group_distances = [np.nanmean(d[:, group], axis=1) for d in distances]
                said.append(statement(text, title, group_distances, zero, "equal", _DISTANCE_MARGIN))
            text = f"means of rare classes lie farther from their labels than of frequent ones, {where}"
            first, second = ([np.nanmean(d[:, g], axis=1) for d in distances] for g in (few, many))
            said.append(statement(text, title, first, second))
    return {"rows": rows, "statements": said}


def _resampled_means(case: Case, outputs: CheckpointOutputs) -> FloatArray:
    own = np.eye(len(outputs.counts))[outputs.truth]
    values = own[:, :, None] * (outputs.outputs / outputs.weights)[:, None]
    # Column k is in units of its own target; a row is brought to units of the target of its class.
    unit = case.unit(outputs.image)
    sums, number = resampled([unit_sums(values, unit), unit_sums(own, unit)])
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums / number[..., None]
    return means * (outputs.weights / outputs.weights[:, None])


def gradients(case: Case) -> dict[str, Any]:
    """Return (d): the gradient on each output by the class of the element, on training data.

    >>> gradients(Case("digits", {}, balanced=True))["rows"]
    []
    """
    rows, said = [], []
    for stage, title in case.stages():
        found: dict[str, dict[int, FloatArray]] = {}
        for loss in (CROSS_ENTROPY, ONE_HOT, OUTLYING):
            by_seed = case.of(loss, stage, "train")
            if not by_seed:
                continue
            found[loss] = {seed: _resampled_mass(case, o) for seed, o in by_seed.items()}
            outputs, masses = list(by_seed.values()), list(found[loss].values())
            _, few = thirds(outputs[0].counts)
            total = np.mean([m[0] / m[0].sum() for m in masses], axis=0)
            counts = np.bincount(outputs[0].truth, minlength=len(outputs[0].counts))
            rows.append(
                {
                    "data": title,
                    "loss": loss,
                    "seeds": len(masses),
                    "fraction on wrong outputs": spread([_wrong(m)[0] for m in masses]),
                    "fraction of rare classes": spread([_of(m, few)[0] for m in masses]),
                    "samples of rare classes": [float(counts[few].sum() / counts.sum()), None],
                    "classes": outputs[0].classes.tolist(),
                    "counts": outputs[0].counts.tolist(),
                    "fraction by class and output": total.round(5).tolist(),
                }
            )
        for loss in (ONE_HOT, OUTLYING):
            first, second = paired(found.get(loss, {}), found.get(CROSS_ENTROPY, {}))
            if first:
                text = f"{TITLES[loss]} puts more of its gradient on wrong outputs than cross entropy"
                said.append(statement(text, title, [*map(_wrong, first)], [*map(_wrong, second)]))
        if CROSS_ENTROPY in found:
            fractions = [_wrong(m) for m in found[CROSS_ENTROPY].values()]
            zero = [np.zeros(len(f)) for f in fractions]
            text = "cross entropy puts no gradient on wrong outputs"
            said.append(statement(text, title, fractions, zero, "equal", _GRADIENT_MARGIN))
        for other in (ONE_HOT, CROSS_ENTROPY):
            first, second = paired(found.get(OUTLYING, {}), found.get(other, {}))
            if first:
                few = thirds(next(iter(case.of(OUTLYING, stage, "train").values())).counts)[1]
                text = f"rare classes have more of the gradient with outlying MSE than with {TITLES[other]}"
                left, right = ([_of(m, few) for m in side] for side in (first, second))
                said.append(statement(text, title, left, right))
    return {"rows": rows, "statements": said}


def _resampled_mass(case: Case, outputs: CheckpointOutputs) -> FloatArray:
    """Return the summed size of the gradient by class of the element and output, (1 + R, K, K)."""
    size = np.abs(output_gradients(outputs.outputs, outputs.truth, outputs.targets))
    values = np.eye(len(outputs.counts))[outputs.truth][:, :, None] * size[:, None]
    (sums,) = resampled([unit_sums(values, case.unit(outputs.image))])
    return sums


def _wrong(mass: FloatArray) -> FloatArray:
    """Return the fraction of the gradient that is on outputs of other classes."""
    total = mass.sum((1, 2))
    return (total - np.trace(mass, axis1=1, axis2=2)) / total


def _of(mass: FloatArray, classes: IntArray) -> FloatArray:
    """Return the fraction of the gradient that elements of these classes have."""
    return mass[:, classes].sum((1, 2)) / mass.sum((1, 2))
