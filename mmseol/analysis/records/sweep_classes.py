"""Scores of the classes in the records of sweeps, for figures against the training counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmseol.utils.arrays import FloatArray

__all__ = ["ClassScoreGroup", "class_score_groups"]


@dataclass(frozen=True)
class ClassScoreGroup:
    """Scores of the classes of losses that can be compared with each other.

    >>> ClassScoreGroup("digits, test", ["0", "1"], [90, 10], "recall", "images").scores
    {}

    Attributes:
        title: Config, imbalance and split.
        classes: Names of the K classes.
        counts: Training samples or pixels of each class, (K,).
        score: Name of the score.
        unit: What is counted.
        scores: Scores in per cent of each loss, (seeds, K), NaN where there is none.
    """

    title: str
    classes: Sequence[str]
    counts: Sequence[int] | None
    score: str
    unit: str
    scores: dict[str, FloatArray] = field(default_factory=dict)


def class_score_groups(record: Mapping[str, Any]) -> list[ClassScoreGroup]:
    """Return the scores of the classes of a sweep's record, one group for each config, imbalance and split.

    >>> run = dict(config="a/digits.py", imbalance=None, split="val", classes=["0", "1"], counts=[9, 1])
    >>> run |= dict(task="classification", loss="ce", epochs=5, chosen=None)
    >>> run |= dict(per_class={"last": {"recall": {"0": [90.0, 92.0], "1": [10.0, None]}}})
    >>> (group,) = class_score_groups({"checkpoint": "last", "runs": [run]})
    >>> group.title, group.scores["ce"].tolist()
    ('a/digits.py, validation', [[90.0, 10.0], [92.0, nan]])

    Args:
        record: Record of :func:`mmseol.analysis.sweep_record.sweep_record`.
    """
    groups: dict[Any, ClassScoreGroup] = {}
    for run in record["runs"]:
        found = run["per_class"].get(record["checkpoint"]) or {}
        if not found:
            continue
        ((score, by_class),) = found.items()
        split = {"val": "validation"}.get(run["split"], run["split"])
        title = ", ".join(filter(None, (run["config"], run["imbalance"], split)))
        unit = "pixels" if run["task"] == "segmentation" else "images"
        key = title, tuple(run["classes"])
        group = groups.setdefault(key, ClassScoreGroup(title, run["classes"], run["counts"], score, unit))
        group.scores[_name(run, group.scores)] = _matrix(by_class, run["classes"])
    return list(groups.values())


def _name(run: Mapping[str, Any], taken: Mapping[str, Any]) -> str:
    """Return the loss; of a further row of the loss also its epochs or a number."""
    names = [run["loss"], f"{run['loss']}, {run['epochs']} epochs"]
    names += [f"{run['loss']}, row {number}" for number in range(2, len(taken) + 3)]
    return next(name for name in names if name not in taken)


def _matrix(by_class: Mapping[str, Sequence[float | None]], classes: Sequence[str]) -> FloatArray:
    seeds = len(next(iter(by_class.values())))
    columns = [by_class.get(name, [None] * seeds) for name in classes]
    return np.array(columns, dtype=np.float64).T
