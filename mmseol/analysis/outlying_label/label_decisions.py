"""Measurements of decisions: trained against changed afterwards, nearest target, tuned and held out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mmseol.analysis.outlying_label.cases import (
    BALANCED,
    CROSS_ENTROPY,
    ONE_HOT,
    OUTLYING,
    TITLES,
    VS,
    Case,
    paired,
    thirds,
)
from mmseol.analysis.statistics.verdicts import spread, statement
from mmseol.classifiers.decisions import DecisionTallies, Selection, select
from mmseol.experiment.checkpoint_outputs import NEAREST, PLAIN, RANK, CheckpointOutputs, prior

__all__ = ["decisions", "held_out", "nearest_target"]

_SCORE_MARGIN = 2.0
_N = prior(1)
_COMPARISONS = (
    ("trained outlying MSE = one-hot MSE decided by P * rank", (OUTLYING, PLAIN), (ONE_HOT, RANK), "equal"),
    (
        "trained outlying MSE = cross entropy decided by P * rank",
        (OUTLYING, PLAIN),
        (CROSS_ENTROPY, RANK),
        "equal",
    ),
    ("decided by P / n, outlying MSE = one-hot MSE", (OUTLYING, _N), (ONE_HOT, _N), "equal"),
    ("decided by P / n, outlying MSE = cross entropy", (OUTLYING, _N), (CROSS_ENTROPY, _N), "equal"),
    ("balanced softmax = cross entropy decided by P / n", (BALANCED, PLAIN), (CROSS_ENTROPY, _N), "equal"),
    ("trained outlying MSE > trained cross entropy", (OUTLYING, PLAIN), (CROSS_ENTROPY, PLAIN), "above"),
    (
        "cross entropy decided by P / n > trained outlying MSE",
        (CROSS_ENTROPY, _N),
        (OUTLYING, PLAIN),
        "above",
    ),
    ("outlying MSE decided by P / n > by its argmax", (OUTLYING, _N), (OUTLYING, PLAIN), "above"),
)


def decisions(case: Case) -> dict[str, Any]:
    """Return (b): the score of every loss under the same decisions.

    >>> decisions(Case("digits", {}, balanced=True))["statements"]
    []
    """
    rows, said = [], []
    for stage, title in case.stages():
        for loss in case.losses(stage):
            outputs = list(case.of(loss, stage).values())
            row: dict[str, Any] = {
                "data": title,
                "loss": loss,
                "seeds": len(outputs),
                "score": case.score_name,
            }
            for name in (PLAIN, prior(0), RANK, prior(1)):
                if loss != VS or name == PLAIN:  # its factors are not accounted for
                    row[name] = spread([case.score(o, name)[0] for o in outputs])
            rows.append(row)
        for text, first, second, rule in _COMPARISONS:
            sides = paired(case.of(first[0], stage), case.of(second[0], stage))
            if sides[0]:
                left, right = (
                    [case.score(o, side[1]) for o in outputs]
                    for side, outputs in zip((first, second), sides, strict=True)
                )
                margin = _SCORE_MARGIN if rule == "equal" else 0.0
                said.append(statement(text, title, left, right, rule, margin))
    return {"rows": rows, "statements": said}


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
        outputs = list(case.of(OUTLYING, stage).values())
        if not outputs:
            continue
        row: dict[str, Any] = {"data": title, "seeds": len(outputs), "score": case.score_name}
        for name in (PLAIN, prior(0), NEAREST):
            row[name] = spread([case.score(o, name)[0] for o in outputs])
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
            pairs = [run for run in case.runs[loss, stage].values() if run.keys() >= {"val", "held out"}]
            if not pairs or loss == VS:
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
                    "validation, argmax": spread([c.scores[0] for c in choices]),
                    "gain by cross-validation": spread([c.out_of_fold - c.scores[0] for c in choices]),
                    "held out, argmax": spread([s[0] for s in scores[0]]),
                    "held out, tuned": spread([s[0] for s in tuned]),
                    "held out, P / n": spread([s[0] for s in scores[1]]),
                }
            )
            text = "the tuned decision is better than the argmax on held-out data"
            said.append(statement(f"{text}: {TITLES.get(loss, loss)}", title, tuned, scores[0]))
            text = "P / n, without a search, is better than the argmax on held-out data"
            said.append(statement(f"{text}: {TITLES.get(loss, loss)}", title, scores[1], scores[0]))
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
