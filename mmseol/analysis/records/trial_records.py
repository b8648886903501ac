"""The records of a sweep's trials, read as data and checked before a table is made of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

__all__ = ["KINDS", "FailedTrial", "Trial", "failed_trials", "read_trial", "read_trials"]

KINDS = ("last", "best_on_validation", "best_on_test")
"""The checkpoints that a trial scores: of the last epoch, and of the best epoch on either split."""


@dataclass(frozen=True)
class Trial:
    """The record of a finished trial.

    >>> trial = Trial(Path("trials/a1/record.json"), {"loss": "outlying_mse:alpha=6", "chosen": None})
    >>> trial["loss"], trial.values
    ('outlying_mse:alpha=6', {})
    """

    path: Path
    record: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.record[name]

    @property
    def values(self) -> dict[str, Any]:
        """Values of the tuned settings: those chosen for a final trial, those tried in a tuning trial."""
        chosen = self.record.get("chosen") or {}
        return dict(chosen.get("values") or self.record.get("values") or {})

    @property
    def split(self) -> str:
        """Split that was scored."""
        last = self["scores"].get("last")
        return last["split"] if last else "val"  # a training that diverged has no score

    @property
    def length(self) -> dict[str, int | None]:
        """``epochs`` of the training, or ``iterations``, which records of trainings by epochs may lack."""
        iterations = self.record.get("iterations")
        return {"epochs": self["epochs"]} | ({"iterations": iterations} if iterations else {})

    @property
    def row(self) -> tuple[Any, ...]:
        """What the runs of one row have in common: all but the seed."""
        values = json.dumps(self.values, sort_keys=True)
        options = json.dumps(self.record.get("options") or [], sort_keys=True)
        return (*self.group, self["loss"], *self.length.values(), options, values)

    @property
    def group(self) -> tuple[Any, ...]:
        """What losses that are compared with each other have in common."""
        return self["config"], self.record.get("imbalance"), self.split


@dataclass(frozen=True)
class FailedTrial:
    """A trial that failed: what it should have run, and why it ended.

    >>> FailedTrial(Path("trials/a1"), {"loss": "ce", "seed": 1}, "out of memory").reason
    'out of memory'
    """

    path: Path
    request: Mapping[str, Any]
    reason: str


def read_trials(work_dirs: Iterable[str | Path]) -> list[Trial]:
    """Return the trials of work directories of sweeps that have a record, by stage and path.

    >>> import tempfile
    >>> read_trials([tempfile.gettempdir() + "/no_sweep"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    FileNotFoundError: `work_dirs` must be work directories of sweeps, with a folder `trials`, got ...

    Raises:
        FileNotFoundError: If a folder is not a sweep's.
        ValueError: If a record is malformed, of another folder or sweep, or there twice; names its path.
    """
    trials: list[Trial] = []
    for work_dir in map(Path, work_dirs):
        if not (work_dir / "trials").is_dir():
            raise FileNotFoundError(
                "`work_dirs` must be work directories of sweeps, with a folder `trials`, got "
                f"{str(work_dir)!r}."
            )
        own = [read_trial(path) for path in sorted(work_dir.glob("trials/*/record.json"))]
        for trial in own[1:]:
            if trial["sweep"] != own[0]["sweep"]:
                raise ValueError(
                    f"{str(trial.path)!r} is of the sweep {trial['sweep']!r}, {str(own[0].path)!r} of "
                    f"{own[0]['sweep']!r}; a work directory must hold one sweep."
                )
        trials += own
    _refuse_twice(trials)
    return sorted(trials, key=lambda trial: (trial["stage"] == "final", str(trial.path)))


def _refuse_twice(trials: Sequence[Trial]) -> None:
    seen: dict[Any, Trial] = {}
    for trial in trials:
        run = trial["stage"], trial.record.get("rung"), trial["seed"], trial.row
        first = seen.setdefault(run, trial)
        if first is not trial:
            raise ValueError(
                f"{str(first.path)!r} and {str(trial.path)!r} record the same run (code versions "
                f"{first.record.get('version')!r} and {trial.record.get('version')!r}); remove the folder of "
                "one, or name one sweep only."
            )


def failed_trials(work_dirs: Iterable[str | Path]) -> list[FailedTrial]:
    """Return the trials that failed, by path.

    >>> import tempfile
    >>> failed_trials([tempfile.mkdtemp()])
    []

    Raises:
        ValueError: If a file is malformed.
    """
    failed = []
    for path in (p for folder in work_dirs for p in sorted(Path(folder).glob("trials/*/failed.json"))):
        if (path.parent / "record.json").is_file():
            continue
        reason = _content(path).get("reason")
        request = path.with_name("trial.json")
        failed.append(FailedTrial(path.parent, _content(request) if request.is_file() else {}, str(reason)))
    return failed


def read_trial(path: str | Path) -> Trial:
    """Return the record of one trial.

    Raises:
        ValueError: If it is not the whole record of a trial of this folder.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "record.json"
    >>> _ = path.write_text('{"format": 1, "id"')
    >>> read_trial(path)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: '...record.json' is not JSON (Expecting ':' delimiter: line 1 column 19 (char 18)). Remove ...
    """
    path = Path(path)
    record = _content(path)
    fault = _fault(record, path.parent.name)
    if fault:
        raise ValueError(
            f"{str(path)!r} is not the record of a finished trial: {fault}. Remove its folder, and run the "
            "sweep again."
        )
    return Trial(path, record)


def _content(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file; NaN and infinity are no JSON."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number of JSON")

    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except ValueError as error:
        raise ValueError(
            f"{str(path)!r} is not JSON ({error}). Remove its folder, and run the sweep again."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} must hold a JSON object, got {type(content).__name__}.")
    return content


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "format": ("1", lambda value: value == 1),
    "id": ("text", _text),
    "sweep": ("text", _text),
    "stage": ("'tune' or 'final'", lambda value: value in ("tune", "final")),
    "config": ("text", _text),
    "loss": ("text", _text),
    "seed": ("a whole number", _whole),
    "classes": ("a list of names", lambda value: isinstance(value, list) and all(map(_text, value))),
    "data": ("an object with `digest`", lambda value: isinstance(value, dict) and _text(value.get("digest"))),
    "environment": (
        "an object with `versions`",
        lambda value: isinstance(value, dict) and isinstance(value.get("versions"), dict),
    ),
    "scores": ("an object", lambda value: isinstance(value, dict)),
}


def _fault(record: Mapping[str, Any], folder: str) -> str:
    """Return what is wrong with a record, or an empty text."""
    for name, (wanted, fits) in _FIELDS.items():
        if not fits(record.get(name)):
            return f"`{name}` must be {wanted}, got {record.get(name)!r:.60}"
    units = ("epochs", "iterations")
    lengths = [record[unit] for unit in units if record.get(unit) is not None]
    if len(lengths) != 1 or not _whole(lengths[0]) or lengths[0] < 1:
        return f"`epochs` or `iterations` must be a whole number of at least 1, got {lengths!r:.60}"
    for name in ("seconds", "seconds_per_iteration", "memory"):
        if record.get(name) is not None and not _number(record[name]):
            return f"`{name}` must be a finite number or null, got {record[name]!r:.60}"
    if record["id"] != folder:
        return f"its `id` is {record['id']!r}, and its folder {folder!r}"
    imbalance, chosen = record.get("imbalance"), record.get("chosen")
    if imbalance is not None and not _text(imbalance):
        return f"`imbalance` must be text or null, got {imbalance!r:.60}"
    if chosen is not None and not (isinstance(chosen, dict) and isinstance(chosen.get("values"), dict)):
        return f"`chosen` must be null or an object with `values`, got {chosen!r:.60}"
    if chosen and chosen.get("on") != "val":
        return f"its settings must be chosen on 'val', got {chosen.get('on')!r}"
    if not (record["stage"] == "tune" and record.get("diverged")):
        # The validations of a tuning trial name no classes where the metric is the host's.
        needed = ("scores.last",) if record["stage"] == "tune" else ("classes", "scores.last")
        missing = [name for name in needed if not _at(record, name)]
        if missing:
            return f"it has no `{missing[0]}`"
    for kind in KINDS:
        scored = record["scores"].get(kind)
        if fault := scored is not None and _score_fault(scored, record):
            return f"`scores.{kind}`: {fault}"
    splits = {scored["split"] for scored in record["scores"].values() if scored}
    if len(splits) > 1 or (record["stage"] == "tune" and "test" in splits):
        return f"its scores must be of one split, in tuning of 'val', got {sorted(splits)}"
    return ""


def _at(record: Mapping[str, Any], name: str) -> Any:
    value: Any = record
    for part in name.split("."):
        value = value.get(part)
    return value


def _score_fault(scored: Any, record: Mapping[str, Any]) -> str:
    if not isinstance(scored, dict) or scored.get("split") not in ("val", "test"):
        return "must be an object with `split` 'val' or 'test'"
    scores, per_class = scored.get("scores"), scored.get("per_class") or {}
    if not isinstance(scores, dict) or not scores or not all(map(_number, scores.values())):
        return f"`scores` must be finite numbers, got {scores!r:.60}"
    if not isinstance(per_class, dict) or not set(per_class) <= set(record["classes"]):
        return "`per_class` must have the names of `classes`"
    values = [v for row in per_class.values() for v in (row.values() if isinstance(row, dict) else [""])]
    if not all(value is None or _number(value) for value in values):
        return "`per_class` must have finite numbers or null by class and score"
    return ""
