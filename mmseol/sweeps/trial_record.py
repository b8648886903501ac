"""The record of a finished trial: plain JSON, composed from the request and from what its processes wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmseol.analysis.records.run_records import environment
from mmseol.sweeps.curves import class_scores, loss_curve, seconds_per_iteration, validation_curve
from mmseol.sweeps.runs import best_step, unit_of
from mmseol.utils.files import read_json

__all__ = ["FORMAT", "trial_record"]

FORMAT = 1
"""Version of the layout of trial.json and record.json."""

_REQUEST = (
    *("format", "id", "key", "version", "sweep", "stage", "rung", "config", "loss", "imbalance", "seed"),
    *("values", "options", "settings", "epochs", "iterations", "metric", "processes", "command", "chosen"),
)


def trial_record(folder: Path, attempts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the record of a trial whose processes have ended.

    >>> from inspect import signature
    >>> list(signature(trial_record).parameters)
    ['folder', 'attempts']

    Args:
        folder: Folder of the trial.
        attempts: ``begin`` and ``end`` of every process that worked on it, in seconds.
    """
    trial = read_json(folder / "trial.json")
    trained = read_json(folder / "train.json")
    scored = read_json(folder / "score.json")
    work_dir = folder / "train"
    validation = validation_curve(work_dir, unit_of(trial))
    counts = read_json(work_dir / "class_counts.json")
    if trial["stage"] == "tune":
        scored = {"scores": _validation_scores(work_dir, validation, trial, trained["diverged"])}
    scores = {"last": None, "best_on_validation": None, "best_on_test": None, **scored["scores"]}
    last = scores["last"] or {"per_class": {}}
    return {
        **{name: trial.get(name) for name in _REQUEST},
        "data": {**trial["data"], "counts": counts and counts["samples"]},
        "classes": scored.get("classes") or list(last["per_class"]),
        "scores": scores,
        "diverged": trained["diverged"],
        "curves": {"validation": validation, "loss": loss_curve(work_dir)},
        "seconds": round(sum(attempt["end"] - attempt["begin"] for attempt in attempts), 2),
        "attempts": len(attempts),
        "seconds_per_iteration": seconds_per_iteration(work_dir),
        "memory": trained["memory"],
        "environment": environment(),
    }


def _validation_scores(
    work_dir: Path, curve: list[dict[str, Any]], trial: Mapping[str, Any], diverged: str | None
) -> dict[str, Any]:
    """Return the scores of the training's own last and best validation."""
    unit = unit_of(trial)
    by_step = {point[unit]: point for point in curve}
    steps = {"last": trial[f"{unit}s"], "best_on_validation": best_step(curve, trial["metric"], unit)}
    return {
        name: {
            "split": "val",
            unit: step,
            "scores": {key: value for key, value in by_step[step].items() if key != unit},
            "per_class": class_scores(work_dir, step, unit),
        }
        for name, step in steps.items()
        if step in by_step and diverged is None
    }
