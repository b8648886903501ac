"""Curves of a training from its logs, over all of its continuations."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, median
from typing import Any

__all__ = ["class_scores", "loss_curve", "rounded", "seconds_per_iteration", "validation_curve"]

_NOT_SCORES = ("step", "time", "data_time")


def validation_curve(work_dir: str | Path, unit: str = "epoch") -> list[dict[str, Any]]:
    """Return ``epoch``, or ``iteration``, and scores of every validation.

    Those of a continued run replace earlier ones.

    >>> import tempfile
    >>> log = Path(tempfile.mkdtemp()) / "20260101_000000" / "vis_data" / "scalars.json"
    >>> log.parent.mkdir(parents=True)
    >>> _ = log.write_text('{"mIoU": 3.0, "time": 0.1, "step": 2}')
    >>> validation_curve(log.parents[2])
    [{'epoch': 2, 'mIoU': 3.0}]
    """
    points = {}
    for line in _lines(work_dir):
        scores = {key: value for key, value in line.items() if key not in _NOT_SCORES}
        if "loss" not in line and scores:
            points[line["step"]] = {unit: line["step"], **scores}
    return [points[step] for step in sorted(points)]


def loss_curve(work_dir: str | Path) -> list[list[float]]:
    """Return ``[epoch, mean of the logged losses]`` of every epoch, or the same of iterations.

    NaN and infinite losses are left out, and so is an epoch that has only such.

    >>> loss_curve("new_folder")
    []
    """
    lines = [line for line in _lines(work_dir) if "loss" in line]
    by_step = {line["step"]: (line.get("epoch", line["step"]), line["loss"]) for line in lines}
    losses = defaultdict(list)
    for _, (epoch, loss) in sorted(by_step.items()):
        if loss is not None:
            losses[epoch].append(loss)
    return [[epoch, round(fmean(values), 6)] for epoch, values in losses.items()]


def seconds_per_iteration(work_dir: str | Path) -> float | None:
    """Return the median of the logged seconds of a training iteration.

    >>> seconds_per_iteration("new_folder") is None
    True
    """
    times = [line["time"] for line in _lines(work_dir) if "loss" in line and "time" in line]
    return round(median(times), 4) if times else None


def class_scores(work_dir: str | Path, step: int, unit: str = "epoch") -> dict[str, dict[str, float | None]]:
    """Return the scores of each class in a validation, if mmseol's metric wrote them.

    >>> class_scores("new_folder", step=3)
    {}
    """
    short = "iter" if unit == "iteration" else unit
    found = sorted(Path(work_dir).glob(f"*/class_scores_val_{short}_{step}.json"))
    found = found or sorted(Path(work_dir).glob("*/class_scores_val_iter_*.json"))  # of a single epoch
    rows = json.loads(found[-1].read_text())["classes"] if found else []
    names = ("IoU", "F1", "precision", "recall")
    return {row["class"]: {name: rounded(row[name]) for name in names if name in row} for row in rows}


def rounded(value: float | None) -> float | None:
    """Return a score with four digits.

    >>> rounded(66.66667), rounded(None)
    (66.6667, None)
    """
    return None if value is None else round(float(value), 4)


def _lines(work_dir: str | Path) -> Iterator[dict[str, Any]]:
    for path in sorted(Path(work_dir).glob("*/vis_data/scalars.json")):
        for line in path.read_text().splitlines():
            try:
                yield json.loads(line, parse_constant=lambda _: None)
            except ValueError:  # the last line of a killed process
                continue
