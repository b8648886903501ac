r"""Measurements of what the outlying label does: each returns numbers, and statements with a verdict.

The formula: a squared error with the targets :math:`v_k` makes output k estimate :math:`v_k P(k \mid x)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mmseol.analysis.checkpoint_outputs import NEAREST, PLAIN, RANK, CheckpointOutputs, prior
from mmseol.analysis.estimates import output_gradients, prior_weights, probabilities, reliability
from mmseol.analysis.verdicts import averaged, resampled, statement, unit_sums
from mmseol.classifiers.decisions import DecisionTallies, Selection, select
from mmseol.counting.counts import outlying_values
from mmseol.metrics.scores import overall_score, score_tallies
from mmseol.utils.arrays import FloatArray, IntArray

__all__ = ["Case", "class_means_against_labels", "decisions", "estimates", "gradients", "held_out", "nearest_target"]

CROSS_ENTROPY, ONE_HOT, OUTLYING = "cross entropy", "one-hot MSE", "outlying MSE"
EARLY, LATE = "early", "late"
_BRIER_MARGIN, _SLOPE_MARGIN, _SCORE_MARGIN, _DISTANCE_MARGIN = 0.02, 0.25, 2.0, 0.1
_FRAMES = 5  # neighbouring frames of a video that are resampled together


@dataclass(frozen=True)
class Case:
    """The runs on one data set.

    >>> Case("digits", {}, balanced=True).score_name
    'balanced_accuracy'

    Attributes:
        name: Name of the data set.
        runs: Outputs of each split by loss and stage, one for each seed.
        balanced: Whether the held-out split has the classes in other fractions than the training data.
        segmentation: Whether elements are pixels of a video's frames.
    """

    name: str
    runs: Mapping[tuple[str, str], Sequence[Mapping[str, CheckpointOutputs]]]
    balanced: bool
    segmentation: bool = False

    @property
    def score_name(self) -> str:
        """Score of the decisions."""
        return "mIoU" if self.segmentation else "balanced_accuracy"

    def stages(self) -> Iterator[tuple[str, str]]:
        """Yield each stage with its title."""
        for stage in (EARLY, LATE):
            if any(own == stage for _, own in self.runs):
                yield stage, f"{self.name}, {stage}"

    def of(self, loss: str, stage: str, split: str = "held out") -> list[CheckpointOutputs]:
        """Return the outputs of a loss, one for each seed; empty without any."""
        return [run[split] for run in self.runs.get((loss, stage), ()) if split in run]

    def losses(self, stage: str) -> list[str]:
        """Return the losses of a stage."""
        return [loss for loss, own in self.runs if own == stage]

    def unit(self, image: IntArray) -> IntArray:
        """Return the unit of each image that is resampled as a whole."""
        return image // _FRAMES if self.segmentation else image

    def score(self, outputs: CheckpointOutputs, decision: str) -> FloatArray:
        """Return the score of a decision: of all images, then of resampled images, (1 + R,)."""
        rows = outputs.rows(decision)
        (sums,) = resampled([unit_sums(rows, self.unit(np.arange(len(rows))))])
        hits, predicted, truth = np.moveaxis(sums.astype(np.int64), -1, 0)
        return overall_score(self.score_name, score_tallies(hits, truth, predicted))

    def weights(self, outputs: CheckpointOutputs) -> FloatArray:
        """Return the weight of each element that makes the data like the training data, (N,)."""
        if not self.balanced:
            return np.ones(len(outputs.truth))
        return prior_weights(outputs.truth, outputs.counts)


def thirds(counts: IntArray) -> tuple[IntArray, IntArray]:
    """Return the third of the classes with the most and the third with the fewest training samples.

    >>> thirds(np.array([5, 9, 1]))
    (array([1]), array([2]))
    """
    order, number = np.argsort(-np.asarray(counts), kind="stable"), max(1, len(counts) // 3)
    return order[:number], order[-number:]


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
        """Return the divisor of each output with the least Brier score, (1 + R, K); NaN if it is not above 0."""
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
            loss: [_Moments(case, outputs) for outputs in case.of(loss, stage)]
            for loss in (OUTLYING, ONE_HOT, CROSS_ENTROPY)
        }
        for loss, moments in found.items():
            if not moments:
                continue
            outputs = case.of(loss, stage)
            p = [
                reliability(probabilities(o.outputs, o.targets), o.truth, 10, case.weights(o)) for o in outputs
            ]
            curves[f"{title}: {loss}"] = _curves(p, outputs[0].counts)
            row: dict[str, Any] = {"data": title, "loss": loss, "seeds": len(moments)}
            row["Brier score of P"] = averaged(_Moments.brier, moments)
            if moments[0].kind == "multiplicative":
                row["of a common divisor"] = averaged(_Moments.brier_of_common_divisor, moments)
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
                    [m.brier_of_common_divisor() for m in own],
                    [m.brier() for m in own],
                )
            )
        for loss, expected in ((OUTLYING, 1.0), (ONE_HOT, 0.0)):
            if found[loss]:
                ranks = outlying_values(case.of(loss, stage)[0].counts)
                slopes = [m.slope(ranks) for m in found[loss]]
                text = f"best divisors of {loss} grow with rank^{expected:g}"
                ones = [np.full_like(slope, expected) for slope in slopes]
                said.append(statement(text, title, slopes, ones, "equal", _SLOPE_MARGIN))
        for other in (ONE_HOT, CROSS_ENTROPY):
            first, second = _paired(found[other], own)
            if first:
                said.append(
                    statement(
                        f"outlying outputs over targets estimate P(k | x) as well as {other}",
                        title,
                        [m.brier() for m in first],
                        [m.brier() for m in second],
                        "at least",
                        _BRIER_MARGIN,
                    )
                )
    return {"rows": rows, "statements": said, "curves": curves}


def _paired(first: Sequence[Any], second: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    number = min(len(first), len(second))
    return first[:number], second[:number]


def _curves(found: Sequence[Any], counts: IntArray) -> dict[str, Any]:
    """Return mean estimate and frequency by bin, averaged over seeds, for each class, most frequent first."""
    order = np.argsort(-np.asarray(counts), kind="stable")
    return {
        name: np.mean([getattr(r, name) for r in found], axis=0)[order].round(4).tolist()
        for name in ("estimate", "frequency")
    }


def decisions(case: Case) -> dict[str, Any]:
    """Return (b): the score of every loss under the same decisions.

    >>> decisions(Case("digits", {}, balanced=True))["statements"]
    []
    """
    rows, said = [], []
    for stage, title in case.stages():
        for loss in case.losses(stage):
            outputs = case.of(loss, stage)
            row: dict[str, Any] = {"data": title, "loss": loss, "seeds": len(outputs), "score": case.score_name}
            for name in (PLAIN, prior(0), RANK, prior(1)):
                if loss != "VS" or name == PLAIN:  # its factors are not accounted for
                    row[name] = averaged(lambda o, name=name: case.score(o, name), outputs)  # type: ignore[misc]
            rows.append(row)
        for text, first, second, rule in (
            ("trained outlying MSE scores as one-hot MSE decided by P * rank", (OUTLYING, PLAIN), (ONE_HOT, RANK), "equal"),
            ("trained outlying MSE scores as cross entropy decided by P * rank", (OUTLYING, PLAIN), (CROSS_ENTROPY, RANK), "equal"),
            ("decided by P / n, outlying MSE scores as one-hot MSE", (OUTLYING, prior(1)), (ONE_HOT, prior(1)), "equal"),
            ("decided by P / n, outlying MSE scores as cross entropy", (OUTLYING, prior(1)), (CROSS_ENTROPY, prior(1)), "equal"),
            ("balanced softmax scores as cross entropy decided by P / n", ("balanced softmax", PLAIN), (CROSS_ENTROPY, prior(1)), "equal"),
            ("trained outlying MSE is better than trained cross entropy", (OUTLYING, PLAIN), (CROSS_ENTROPY, PLAIN), "above"),
            ("cross entropy decided by P / n is better than trained outlying MSE", (CROSS_ENTROPY, prior(1)), (OUTLYING, PLAIN), "above"),
            ("outlying MSE decided by P / n is better than by its argmax", (OUTLYING, prior(1)), (OUTLYING, PLAIN), "above"),
        ):  # fmt: skip
            sides = _paired(case.of(first[0], stage), case.of(second[0], stage))
            if sides[0]:
                scores = [
                    [case.score(o, side[1]) for o in outputs]
                    for side, outputs in zip((first, second), sides, strict=True)
                ]
                said.append(statement(text, title, *scores, rule, _SCORE_MARGIN if rule == "equal" else 0.0))
    return {"rows": rows, "statements": said}


def class_means_against_labels(case: Case) -> dict[str, Any]:
    """Return (c): how far the mean outputs of each class lie from its label, in units of its target.

    >>> class_means_against_labels(Case("digits", {}, balanced=True))["rows"]
    []
    """
    rows, said = [], []
    for stage, title in case.stages():
        for split, where in (("train", "training data"), ("held out", "held-out data")):
            outputs = case.of(OUTLYING, stage, split)
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
        found: dict[str, list[FloatArray]] = {}
        for loss in (CROSS_ENTROPY, ONE_HOT, OUTLYING):
            outputs = case.of(loss, stage, "train")
            if not outputs:
                continue
            masses = [_resampled_mass(case, o) for o in outputs]
            found[loss] = masses
            _, few = thirds(outputs[0].counts)
            total = np.mean([m[0] / m[0].sum() for m in masses], axis=0)
            counts = np.bincount(outputs[0].truth, minlength=len(outputs[0].counts))
            rows.append(
                {
                    "data": title,
                    "loss": loss,
                    "seeds": len(masses),
                    "fraction on wrong outputs": averaged(_wrong, masses),
                    "fraction of rare classes": averaged(lambda m, few=few: _of(m, few), masses),  # type: ignore[misc]
                    "samples of rare classes": [float(counts[few].sum() / counts.sum()), None],
                    "classes": outputs[0].classes.tolist(),
                    "counts": outputs[0].counts.tolist(),
                    "fraction by class and output": total.round(5).tolist(),
                }
            )
        for loss in (ONE_HOT, OUTLYING):
            first, second = _paired(found.get(loss, ()), found.get(CROSS_ENTROPY, ()))
            if first:
                text = f"{loss} puts more of its gradient on wrong outputs than cross entropy"
                said.append(statement(text, title, [*map(_wrong, first)], [*map(_wrong, second)]))
        if CROSS_ENTROPY in found:
            fractions = [_wrong(m) for m in found[CROSS_ENTROPY]]
            zero = [np.zeros(len(f)) for f in fractions]
            text = "cross entropy puts no gradient on wrong outputs"
            said.append(statement(text, title, fractions, zero, "equal", 0.01))
        for other in (ONE_HOT, CROSS_ENTROPY):
            first, second = _paired(found.get(OUTLYING, ()), found.get(other, ()))
            if first:
                few = thirds(case.of(OUTLYING, stage, "train")[0].counts)[1]
                text = f"rare classes have more of the gradient with outlying MSE than with {other}"
                sides = [[_of(m, few) for m in side] for side in (first, second)]
                said.append(statement(text, title, *sides))
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


def nearest_target(case: Case) -> dict[str, Any]:
    r"""Return (e): the decision for the nearest target, against the argmax and the formula.

    The squared distance of the outputs to :math:`v_k e_k` is a constant plus :math:`v_k^2 - 2 a_k v_k`. With
    :math:`a_k = v_k p_k` the nearest target is that of the largest :math:`v_k^2 (p_k - 1/2)`: the class with
    :math:`p_k > 1/2` if there is one, and else a frequent class, whose target is small.

    >>> nearest_target(Case("digits", {}, balanced=True))["rows"]
    []
    """
    rows, said = [], []
    for stage, title in case.stages():
        outputs = case.of(OUTLYING, stage)
        if not outputs:
            continue
        row: dict[str, Any] = {"data": title, "seeds": len(outputs), "score": case.score_name}
        for name in (PLAIN, prior(0), NEAREST):
            row[name] = averaged(lambda o, name=name: case.score(o, name), outputs)  # type: ignore[misc]
        facts = np.array([_nearest_facts(o) for o in outputs])
        for i, name in enumerate(
            ("differs from argmax", "a class above 1/2", "equals P there", "frequent third elsewhere")
        ):
            row[name] = [float(np.nanmean(facts[:, i])), None]
        rows.append(row)
        scores = {name: [case.score(o, name) for o in outputs] for name in (PLAIN, prior(0), NEAREST)}
        text = "the argmax is better than the nearest target"
        said.append(statement(text, title, scores[PLAIN], scores[NEAREST]))
        text = "the nearest target scores as the argmax of P"
        said.append(statement(text, title, scores[NEAREST], scores[prior(0)], "equal", _SCORE_MARGIN))
    return {"rows": rows, "statements": said}


def _nearest_facts(outputs: CheckpointOutputs) -> list[float]:
    p, values = outputs.outputs / outputs.weights, outputs.weights
    nearest = (values**2 * (p - 0.5)).argmax(1)
    sure = (p > 0.5).sum(1) == 1
    frequent, _ = thirds(outputs.counts)
    return [
        float((nearest != outputs.outputs.argmax(1)).mean()),
        float(sure.mean()),
        float((nearest == p.argmax(1))[sure].mean()) if sure.any() else float("nan"),
        float(np.isin(nearest, frequent)[~sure].mean()) if not sure.all() else float("nan"),
    ]


def held_out(case: Case) -> dict[str, Any]:
    """Return the gain of the decision tuned on the validation split, by cross-validation and held out.

    >>> held_out(Case("digits", {}, balanced=True))["rows"]
    []
    """
    rows, said = [], []
    for stage, title in case.stages():
        for loss in case.losses(stage):
            pairs = [run for run in case.runs[loss, stage] if run.keys() >= {"val", "held out"}]
            if not pairs or loss == "VS":
                continue
            names, choices = zip(*(_tuned(case, run["val"]) for run in pairs), strict=True)
            scores = [[case.score(run["held out"], name) for run in pairs] for name in (PLAIN, prior(1))]
            tuned = [case.score(run["held out"], name) for run, name in zip(pairs, names, strict=True)]
            rows.append(
                {
                    "data": title,
                    "loss": loss,
                    "seeds": len(pairs),
                    "score": case.score_name,
                    "tuned": list(names),
                    "validation, argmax": _spread([c.scores[0] for c in choices]),
                    "gain by cross-validation": _spread([c.out_of_fold - c.scores[0] for c in choices]),
                    "held out, argmax": averaged(lambda s: s, scores[0]),
                    "held out, tuned": averaged(lambda s: s, tuned),
                    "held out, P / n": averaged(lambda s: s, scores[1]),
                }
            )
            text = "the tuned decision is better than the argmax on held-out data"
            said.append(statement(f"{text}: {loss}", title, tuned, scores[0]))
            text = "P / n, without a search, is better than the argmax on held-out data"
            said.append(statement(f"{text}: {loss}", title, scores[1], scores[0]))
    return {"rows": rows, "statements": said}


def _tuned(case: Case, outputs: CheckpointOutputs) -> tuple[str, Selection]:
    """Return the decision of the family of priors that validation chooses, and what speaks for it."""
    names = [str(name) for name in outputs.decisions if str(name) not in (RANK, NEAREST)]
    number = [outputs.decisions.tolist().index(name) for name in names]
    images, classes = outputs.truth_tallies.shape
    tallies = DecisionTallies(classes, len(names), images, blocks=case.segmentation)
    for image in range(images):
        own = torch.from_numpy(outputs.tallies[image][number].transpose(2, 0, 1).astype(np.int64))
        tallies.add_counted(image, own, torch.from_numpy(outputs.truth_tallies[image].astype(np.int64)))
    selection = select(tallies, case.score_name, default=names.index(prior(1)))
    return names[selection.chosen], selection


def _spread(values: Sequence[float]) -> tuple[float, float | None]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
