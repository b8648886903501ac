"""The recorded runs as rows that can be compared: one per loss of a record, beside cross entropy."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import mmseol
from mmseol.analysis.records.paper import dataset_of
from mmseol.analysis.records.run_records import SCORES, SEG_SCORES
from mmseol.analysis.statistics.paired import SeedInterval, seed_interval

__all__ = [
    "Comparison",
    "RecordedRun",
    "compare",
    "evidence",
    "read_records",
    "recorded_runs",
    "records_folder",
]

_PACKAGE = Path(mmseol.__file__).parent
_TITLES = {  # rows of records that name losses by a title
    "cross entropy": "ce",
    "MSE": "mse",
    "one-hot MSE": "mse",
    "outlying MSE": "outlying_mse",
}
_SCRIPTS = {  # commands that name their config in another file
    "tools/quickstart.sh": "quickstart/toy_camvid.py",
    "tools/quickstart_digits.sh": "quickstart/digits.py",
}
REFERENCE = "ce"
HEADLINES = {"segmentation": "mIoU", "classification": "accuracy"}
TAILS = {"segmentation": "few/mIoU", "classification": "few/accuracy"}  # scores of the rare classes


@dataclass(frozen=True)
class RecordedRun:
    """One loss of a record: the scores of its seeds in per cent, and how it was trained.

    >>> RecordedRun("toy", "Toy", "segmentation", "ce", {"mIoU": (40.0, 44.0)}).mean("mIoU")
    42.0

    Attributes:
        record: Folder of the record in ``results``.
        title: Data set, network and split.
        task: ``'segmentation'`` or ``'classification'``.
        loss: Name as of ``--loss``, with arguments.
        scores: Scores by name, one per seed.
        config: Config below ``configs``.
        imbalance: Cut of the training data, as of ``--imbalance``; ``None``: the config's.
        classes: Names of the classes, where the record has them.
        values: Settings chosen on validation data, by short name.
        detail: What a row of the record says beside its loss.
        tuned: Whether each loss of the record was tuned.
        intervals: Interval over images of the difference to cross entropy, by score.
    """

    record: str
    title: str
    task: str
    loss: str
    scores: Mapping[str, tuple[float, ...]]
    config: str | None = None
    imbalance: str | None = None
    classes: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    detail: str = ""
    tuned: bool = False
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def mean(self, score: str) -> float:
        """Return the mean of a score over seeds; NaN where there is none."""
        return float(np.mean(self.scores[score])) if self.scores.get(score) else float("nan")

    @property
    def name(self) -> str:
        """Name of the loss without arguments."""
        return self.loss.partition(":")[0]

    @property
    def headline(self) -> str:
        """Score that losses are compared by."""
        return HEADLINES[self.task]

    @property
    def tail(self) -> str:
        """Score of the rare classes."""
        return TAILS[self.task]


def records_folder() -> Path | None:
    """Return the folder of the records, of a wheel or of a checkout; ``None`` if there is none.

    >>> (records_folder() / "quickstart" / "record.json").is_file()
    True
    """
    folders = (_PACKAGE / ".mim" / "results", _PACKAGE.parent / "results")
    return next((folder for folder in folders if any(folder.glob("*/record.json"))), None)


def read_records(folder: str | Path | None = None) -> dict[str, Any]:
    """Return the content of every ``NAME/record.json`` by NAME.

    >>> "losses_digits" in read_records()
    True

    Args:
        folder: Folder of the records; ``None``: :func:`records_folder`.

    Raises:
        ValueError: If a record is not JSON.
    """
    root = records_folder() if folder is None else Path(folder)
    records = {}
    for path in sorted(root.glob("*/record.json")) if root else []:
        try:
            records[path.parent.name] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"The record {str(path)!r} cannot be read: {error}") from error
    return records


def recorded_runs(records: Mapping[str, Any]) -> list[RecordedRun]:
    """Return the losses of all records that compare losses, in order.

    >>> record = {"title": "Toy", "commands": [], "mean_iou": {"cross entropy": 40.0, "by hand": 30.0}}
    >>> [(run.loss, run.scores) for run in recorded_runs({"toy": record})]
    [('ce', {'mIoU': (40.0,)})]

    Args:
        records: Records by name.
    """
    found: list[RecordedRun] = []
    for name, record in records.items():
        if not isinstance(record, Mapping):
            continue  # of benchmarks
        if record.get("kind") == "sweep":
            found += _of_sweep(name, record)
        elif "scores" in record or "mean_iou" in record:
            found += _of_scores(name, record)
    return found


def _of_sweep(name: str, record: Mapping[str, Any]) -> Iterator[RecordedRun]:
    kind = record.get("checkpoint", "last")
    for run in record["runs"]:
        scores = run["scores"].get(kind) or {}
        same = ("config", "imbalance", "split", "epochs", "loss")
        intervals = {
            one["score"]: (one["images"][0], one["images"][1])
            for one in record.get("comparisons", [])
            if one["reference"] == REFERENCE
            and one.get("images")
            and all(one[key] == run[key] for key in same)
        }
        chosen = run["chosen"] or {}
        border = " and ".join(chosen.get("at_border") or [])
        yield RecordedRun(
            name,
            f"{record['title']}, {run['split']} split",
            run["task"],
            run["loss"],
            {score: tuple(values) for score, values in scores.items()},
            run["config"],
            run["imbalance"],
            tuple(run["classes"]),
            chosen.get("values") or {},
            f"{border} at the border of the grid" if border else "",
            tuned=True,
            intervals=intervals,
        )


def _of_scores(name: str, record: Mapping[str, Any]) -> Iterator[RecordedRun]:
    """Yield the rows of a record whose keys are names or titles of losses."""
    if "scores" in record:
        rows = {
            row: {
                score: tuple(values) for score, values in scores.items() if score in {**SCORES, **SEG_SCORES}
            }
            for row, scores in record["scores"].items()
        }
    else:
        rows = {row: {"mIoU": (value,)} for row, value in record["mean_iou"].items()}
    task = "segmentation" if any("mIoU" in scores for scores in rows.values()) else "classification"
    config, imbalance = _of_commands(record.get("commands") or [])
    tuning = record.get("tuning") or []
    for row, scores in rows.items():
        title, _, detail = row.partition(", ")
        loss = _TITLES.get(title, row if re.fullmatch(r"[a-z0-9_]+(:\S+)?", row) else None)
        if loss is None:
            continue
        alpha = re.search(r"alpha ([\d.e-]+)", detail)
        yield RecordedRun(
            name,
            record["title"],
            task,
            f"{loss}:alpha={alpha[1]}" if alpha else loss,
            scores,
            config,
            imbalance,
            tuple(next(iter(record["iou"].values()))) if "iou" in record else (),
            _settings(detail) or _best(tuning, loss),
            detail,
            tuned=bool(tuning),
        )


def _of_commands(commands: Sequence[str]) -> tuple[str | None, str | None]:
    """Return the config and the cut of the training data that commands name."""
    text = "\n".join(commands)
    script = next((config for name, config in _SCRIPTS.items() if name in text), None)
    config = re.search(r"configs/(\S+\.py)", text)
    cut = re.search(r"--imbalance (\S+)", text)
    return (config[1] if config else script), (cut[1] if cut else None)


def _settings(detail: str) -> dict[str, float]:
    rate = re.search(r"learning rate ([\d.e-]+)", detail)
    return {"lr": float(rate[1])} if rate else {}


def _best(tuning: Iterable[Mapping[str, Any]], loss: str) -> dict[str, float]:
    """Return the learning rate of a loss with the best validation score; of equal scores, the lowest."""
    points = [one for one in tuning if one.get("loss") == loss and one.get("score") is not None]
    return {"lr": min(points, key=lambda one: (-one["score"], one["lr"]))["lr"]} if points else {}


@dataclass(frozen=True)
class Comparison:
    """A loss beside the best cross entropy of the same record.

    >>> runs = [RecordedRun("r", "", "segmentation", loss, {"mIoU": scores})
    ...         for loss, scores in (("ce", (40.0, 41.0)), ("mse", (42.0, 43.0)))]
    >>> comparison = compare(runs)[0]
    >>> comparison.run.loss, comparison.difference
    ('mse', 2.0)

    Attributes:
        run: The loss.
        reference: Cross entropy.
        difference: Difference of the means of the headline score.
        seeds: Interval over seeds; its ends are ``None`` for one seed.
        references: Runs of cross entropy of which ``reference`` is the best.
    """

    run: RecordedRun
    reference: RecordedRun
    difference: float
    seeds: SeedInterval | None
    references: int

    @property
    def certain(self) -> bool:
        """Whether there are several seeds and the interval over them does not cover 0."""
        return self.seeds is not None and self.seeds.low is not None and self.seeds.low > 0


def compare(runs: Sequence[RecordedRun]) -> list[Comparison]:
    """Return the losses of one record beside its best cross entropy, best first.

    A loss that stands there several times enters with its best row; rows of decisions are left out. Without
    cross entropy the list is empty.

    >>> compare([])
    []

    Args:
        runs: Runs of one record, config and cut.
    """
    best: dict[str, RecordedRun] = {}
    losses = [run for run in runs if "nearest" not in run.detail and run.scores.get(run.headline)]
    for run in losses:
        if run.name not in best or run.mean(run.headline) > best[run.name].mean(run.headline):
            best[run.name] = run
    reference = best.pop(REFERENCE, None)
    if reference is None:
        return []
    number = sum(run.name == REFERENCE for run in losses)
    score = reference.headline
    found = []
    for run in best.values():
        first, second = run.scores[score], reference.scores[score]
        seeds = seed_interval(first, second) if len(first) == len(second) else None
        found.append(Comparison(run, reference, run.mean(score) - reference.mean(score), seeds, number))
    return sorted(found, key=lambda one: -one.difference)


def evidence(
    runs: Iterable[RecordedRun], task: str, config: str | None, classes: Sequence[str]
) -> list[tuple[int, list[Comparison]]]:
    """Return the comparisons of each record of the task, with how near its data are: strongest first.

    3: the same config; 2: another config of the same data set; 1: the same names of classes; 0: other data.
    Of equal rank, records whose losses were tuned come first, then those with more seeds, then those with
    more runs of cross entropy.

    >>> runs = recorded_runs(read_records())
    >>> [(rank, found[0].run.record) for rank, found in evidence(runs, "segmentation", "a.py", ["x"])][0][0]
    0

    Args:
        runs: Recorded runs.
        task: ``'segmentation'`` or ``'classification'``.
        config: Path of the config of interest.
        classes: Names of its classes.
    """
    groups: dict[tuple[Any, ...], list[RecordedRun]] = {}
    for run in runs:
        if run.task == task:
            groups.setdefault((run.record, run.config, run.imbalance, run.title), []).append(run)
    known = {run.config: run.classes for group in groups.values() for run in group if run.classes}
    found = []
    for group in groups.values():
        own = group[0].classes or known.get(group[0].config, ())
        found.append((_nearness(group[0], config, bool(own) and own == tuple(classes)), compare(group)))
    return sorted((one for one in found if one[1]), key=_strength)


def _strength(group: tuple[int, list[Comparison]]) -> tuple[int, ...]:
    rank, comparisons = group
    first = comparisons[0]
    return -rank, -first.run.tuned, -len(first.reference.scores[first.reference.headline]), -first.references


def _nearness(run: RecordedRun, config: str | None, same_classes: bool) -> int:
    path = (config or "").replace("\\", "/")
    if run.config and path and f"/{path}".endswith(f"/{run.config}"):
        return 3
    if run.config and dataset_of(run.config) is not None and dataset_of(run.config) == dataset_of(path):
        return 2
    return int(same_classes)
