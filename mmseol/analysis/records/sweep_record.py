"""One compact record of a sweep: scores of each seed, what was chosen, intervals, the tuning curve.

It is committed under ``results/NAME/record.json``, and every table of the sweep is written from it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from mmseol.analysis.records.trial_records import KINDS, FailedTrial, Trial
from mmseol.analysis.statistics.paired import (
    Predictions,
    image_interval,
    load_predictions,
    resampled_scores,
    seed_interval,
)
from mmseol.utils.checks import choice

__all__ = ["check_digest", "record_digest", "sweep_record"]

_REQUESTED = ("stage", "config", "imbalance", "loss", "seed", "rung", "epochs", "iterations", "values")
_TOLERANCE = 0.011  # per cent; records round scores


def sweep_record(
    trials: Sequence[Trial],
    failed: Sequence[FailedTrial] = (),
    title: str = "",
    reference: str | None = None,
    checkpoint: str = "last",
    resamples: int = 2000,
    level: float = 0.95,
    **extra: Any,
) -> dict[str, Any]:
    """Return the compact record of the trials of one or more sweeps.

    >>> sweep_record([], title="digits")["runs"]
    []

    Args:
        trials: Records of the trials.
        failed: Trials that failed.
        title: Data set, network and split.
        reference: Loss that all others are compared with; ``None`` is ``ce`` where it was run, else the
            first.
        checkpoint: Which scores the tables show: ``'last'`` or ``'best_on_validation'``. Peers' best epoch on
            the test split is always a further column.
        resamples: Resamples of the images for an interval.
        level: Confidence of the intervals.
        extra: Further entries: commands, note.

    Raises:
        ValueError: If ``reference`` was not run, or predictions do not fit the record beside them.
    """
    choice("checkpoint", checkpoint, KINDS[:2])
    final = [trial for trial in trials if trial["stage"] == "final"]
    rows: dict[Any, list[Trial]] = defaultdict(list)
    for trial in sorted(final, key=_in_order):
        rows[trial.row].append(trial)
    groups: dict[Any, list[list[Trial]]] = defaultdict(list)
    for row in rows.values():
        groups[(*row[0].group, *row[0].length.values())].append(row)
    if reference is not None and not any(_is_loss(trial["loss"], reference) for trial in final):
        losses = ", ".join(dict.fromkeys(trial["loss"] for trial in final)) or "none"
        raise ValueError(f"`reference` must be a loss of the sweep ({losses}), got {reference!r}.")
    environments: list[dict[str, Any]] = []
    comparisons = []
    for group in groups.values():
        comparisons += _comparisons(group, reference, checkpoint, resamples, level)
    record = {
        "format": 1,
        "kind": "sweep",
        "title": title,
        "sweeps": sorted({trial["sweep"] for trial in trials}),
        **extra,
        "checkpoint": checkpoint,
        "runs": [_run(row, environments, checkpoint) for group in groups.values() for row in group],
        "comparisons": comparisons,
        "tuning": _tuning(trials),
        "failed": [
            {name: one.request.get(name) for name in _REQUESTED}
            | {"reason": " ".join(one.reason.split())[:200]}
            for one in failed
        ],
        "environments": environments,
    }
    return {**record, "digest": record_digest(record)}


def _in_order(trial: Trial) -> list[Any]:
    """Return a key that sorts by config, cut, split, loss and epochs, with ratios as numbers."""
    texts = [trial["config"], trial.record.get("imbalance") or "", trial.split, trial["loss"]]
    parts = [re.split(r"(\d+)", text) for text in texts]
    numbers = [[int(part) if part.isdigit() else part for part in text] for text in parts]
    lengths = [number or 0 for number in trial.length.values()]
    return [numbers, lengths, json.dumps(trial.values, sort_keys=True), trial["seed"]]


def _step(scored: Mapping[str, Any]) -> int | None:
    """Return the epoch or the iteration that was scored."""
    return scored.get("epoch", scored.get("iteration"))


def record_digest(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a record without its own digest, in hexadecimal digits.

    >>> record_digest({"runs": []}) == record_digest({"digest": "0", "runs": []})
    True
    """
    content = {name: value for name, value in record.items() if name != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_digest(record: Mapping[str, Any], path: str | Path) -> None:
    """Raise if a compact record was changed by hand.

    >>> check_digest({"kind": "sweep", "digest": "0"}, "results/a/record.json")
    Traceback (most recent call last):
    ValueError: results/a/record.json was changed after tools/tables.py wrote it; write it again.

    Raises:
        ValueError: If its digest is not that of its content.
    """
    if record.get("digest") != record_digest(record):
        raise ValueError(f"{path} was changed after tools/tables.py wrote it; write it again.")


def _is_loss(loss: str, name: str) -> bool:
    return name in (loss, loss.partition(":")[0])


def _run(row: Sequence[Trial], environments: list[dict[str, Any]], checkpoint: str) -> dict[str, Any]:
    first = row[0]
    data = [trial["data"] for trial in row]
    run = {name: first[name] for name in ("config", "loss", "classes")}
    run |= {
        **first.length,
        "imbalance": first.record.get("imbalance"),
        "split": first.split,
        "task": "segmentation" if _segments(first) else "classification",
        "options": first.record.get("options") or [],
        "settings": first.record.get("settings") or {},
        "seeds": [trial["seed"] for trial in row],
        "chosen": _chosen(first),
        "counts": data[0].get("counts"),
        "data": _distinct(one["digest"] for one in data),
        "subset": _distinct(one["subset_digest"] for one in data if one.get("subset_digest")),
        "versions": _distinct(trial.record.get("version") or _commit(trial) for trial in row),
        "environments": [_index(environments, trial["environment"]) for trial in row],
        "scores": {kind: _scores(row, kind) for kind in KINDS},
        "epoch": {
            kind: [_step(trial["scores"][kind]) for trial in row]
            for kind in KINDS
            if all(trial["scores"].get(kind) for trial in row)
        },
        "per_class": {checkpoint: _per_class(row, checkpoint)},
    }
    for name, fold in (("seconds", median), ("seconds_per_iteration", median), ("memory", max)):
        values = [trial.record[name] for trial in row if trial.record.get(name) is not None]
        if values:
            run[name] = round(fold(values), 3)
    return run


def _chosen(trial: Trial) -> dict[str, Any] | None:
    chosen = trial.record.get("chosen")
    if not chosen:
        return None
    return {name: chosen[name] for name in ("values", "metric", "by", "score", "at_border") if name in chosen}


def _commit(trial: Trial) -> str | None:
    return trial["environment"].get("commit")


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _index(environments: list[dict[str, Any]], environment: Mapping[str, Any]) -> int:
    if environment not in environments:
        environments.append(dict(environment))
    return environments.index(dict(environment))


def _scores(row: Sequence[Trial], kind: str) -> dict[str, list[float]]:
    """Return the scores of each seed by name; those that a seed lacks are left out."""
    scored = [(trial["scores"].get(kind) or {}).get("scores", {}) for trial in row]
    names = [name for name in scored[0] if all(name in scores for scores in scored)]
    return {name: [round(scores[name], 3) for scores in scored] for name in names}


def _per_class(row: Sequence[Trial], kind: str) -> dict[str, dict[str, list[float | None]]]:
    """Return recall, or IoU in segmentation, by class, of each seed."""
    scored = [(trial["scores"].get(kind) or {}).get("per_class") or {} for trial in row]
    name = "IoU" if _segments(row[0]) else "recall"
    rows = {
        label: [own.get(label, {}).get(name) for own in scored]
        for label in row[0]["classes"]
        if any(name in own.get(label, {}) for own in scored)
    }
    rounded = {
        label: [None if value is None else round(value, 2) for value in values]
        for label, values in rows.items()
    }
    return {name: rounded} if rounded else {}


def _segments(trial: Trial) -> bool:
    """Whether the task is segmentation: its predictions are tallies of pixels, or IoU was chosen from."""
    path = trial.path.with_name("predictions.npz")
    if path.is_file():
        return load_predictions(path, len(trial["classes"])).truth.ndim == 2
    return "IoU" in (trial.record.get("metric") or "")


def _comparisons(
    rows: Sequence[Sequence[Trial]], reference: str | None, checkpoint: str, resamples: int, level: float
) -> list[dict[str, Any]]:
    """Return the differences of each loss to the reference, by score, on common seeds and images."""
    name = reference or ("ce" if any(_is_loss(row[0]["loss"], "ce") for row in rows) else rows[0][0]["loss"])
    base = next((row for row in rows if _is_loss(row[0]["loss"], name)), None)
    if base is None or len(rows) < 2:
        return []
    found = {id(trial): _predictions(trial, checkpoint) for row in rows for trial in row}
    usable = {key: value for key, value in found.items() if value is not None and _fits(value, found, base)}
    scores = dict(
        zip(usable, resampled_scores(list(usable.values()), resamples) if usable else [], strict=True)
    )
    result = []
    for row in rows:
        if row is base:
            continue
        for score in ("mIoU", "accuracy") if _segments(base[0]) else ("accuracy", "macro_f1"):
            pairs = _pairs(row, base, checkpoint, score)
            if not pairs:
                continue
            test = seed_interval(
                [_score(a, checkpoint, score) for a, _ in pairs],
                [_score(b, checkpoint, score) for _, b in pairs],
                level,
            )
            images = None
            if all(id(trial) in scores for pair in pairs for trial in pair):
                first, second = ([scores[id(pair[i])][score] for pair in pairs] for i in (0, 1))
                images = [round(end, 2) for end in image_interval(first, second, level)]
            result.append(
                {
                    "config": row[0]["config"],
                    "imbalance": row[0].record.get("imbalance"),
                    "split": row[0].split,
                    **row[0].length,
                    "loss": row[0]["loss"],
                    "values": row[0].values,
                    "reference": base[0]["loss"],
                    "score": score,
                    "level": level,
                    "seeds": [trial["seed"] for trial, _ in pairs],
                    "difference": round(test.difference, 2),
                    "images": images,
                    "resamples": resamples if images else None,
                    "training": None
                    if test.low is None
                    else [round(test.low, 2), round(test.high or 0.0, 2)],
                    "p": None if test.p is None else float(f"{test.p:.2g}"),
                }
            )
    return result


def _pairs(row: Sequence[Trial], base: Sequence[Trial], kind: str, score: str) -> list[tuple[Trial, Trial]]:
    by_seed = {trial["seed"]: trial for trial in base}
    pairs = [(trial, by_seed[trial["seed"]]) for trial in row if trial["seed"] in by_seed]
    return [pair for pair in pairs if all(_score(trial, kind, score) is not None for trial in pair)]


def _score(trial: Trial, kind: str, score: str) -> Any:
    return ((trial["scores"].get(kind) or {}).get("scores") or {}).get(score)


def _fits(value: Predictions, found: Mapping[int, Predictions | None], base: Sequence[Trial]) -> bool:
    """Whether the images are those of the reference."""
    first = next((found[id(trial)] for trial in base if found[id(trial)] is not None), None)
    return first is not None and np.array_equal(value.truth, first.truth)


def _predictions(trial: Trial, checkpoint: str) -> Predictions | None:
    """Return the predictions beside a record, if they are of the checkpoint that is shown.

    Raises:
        ValueError: If their scores are those of no checkpoint of the record.
    """
    path = trial.path.with_name("predictions.npz")
    if not path.is_file():
        return None
    predictions = load_predictions(path, len(trial["classes"]))
    own = predictions.scores()
    kinds = [kind for kind in KINDS if trial["scores"].get(kind) and _agree(trial["scores"][kind], own)]
    if not kinds:
        raise ValueError(
            f"{str(path)!r} does not give the scores of the record beside it (accuracy "
            f"{float(own['accuracy']):.2f}). Remove its folder, and run the sweep again."
        )
    return predictions if checkpoint in kinds else None


def _agree(scored: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    names = [name for name in ("accuracy", "macro_f1", "mIoU") if name in scored["scores"]]
    return all(abs(scored["scores"][name] - float(own[name])) < _TOLERANCE for name in names)


def _tuning(trials: Iterable[Trial]) -> list[dict[str, Any]]:
    """Return the validation score of each point, by seed; ``None`` where the training diverged.

    The score is the one that the sweep chose by: of the last epoch, or of the best on validation data.
    """
    points: dict[Any, dict[str, Any]] = {}
    trials = list(trials)
    by = next((trial["chosen"].get("by") for trial in trials if trial.record.get("chosen")), None) or "last"
    for trial in trials:
        if trial["stage"] != "tune":
            continue
        metric = trial.record.get("metric")
        point = points.setdefault(
            (trial.row, trial.record.get("rung")),
            {
                "config": trial["config"],
                "imbalance": trial.record.get("imbalance"),
                "loss": trial["loss"],
                "rung": trial.record.get("rung") or 0,
                **trial.length,
                "metric": metric,
                "by": by,
                "values": trial.values,
                "scores": {},
            },
        )
        scored = trial["scores"].get(by) or {"scores": {}}
        score = None if trial.record.get("diverged") else scored["scores"].get(metric)
        point["scores"][str(trial["seed"])] = None if score is None else round(score, 2)
    return sorted(
        points.values(),
        key=lambda point: (
            str(point["config"]),
            str(point["imbalance"]),
            point["loss"],
            point["rung"],
            json.dumps(point["values"], sort_keys=True),
        ),
    )
