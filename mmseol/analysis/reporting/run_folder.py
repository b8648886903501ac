"""A run as its work directory shows it: config, command, counts, evaluations, scalars, pictures."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmseol.analysis.reporting.plain_config import plain_config
from mmseol.counting.counts import ClassCounts
from mmseol.utils.arrays import FloatArray, IntArray

__all__ = ["Evaluation", "RunFolder", "is_sweep", "read_evaluations", "read_run"]

_STEP = re.compile(r"_(\d+)$")


@dataclass(frozen=True)
class Evaluation:
    """One validation or test of a run, from ``class_scores_*.json``.

    >>> rows = [{"class": "road", "training": 900, "IoU": 80.0}, {"class": "car", "training": 9, "IoU": None}]
    >>> evaluation = Evaluation(Path("class_scores_val_epoch_2.json"), "val", 2, 200, {"mIoU": 80.0}, rows)
    >>> evaluation.when, evaluation.column("IoU").tolist(), evaluation.counts.tolist()
    ('epoch 2', [80.0, nan], [900, 9])

    Attributes:
        path: JSON file.
        stage: ``'val'`` or ``'test'``.
        epoch: Epochs that were trained, ``None`` if unknown.
        iteration: Iterations that were trained, ``None`` if unknown.
        scores: Scores over all classes and of groups, in per cent.
        rows: Record of each class, as :func:`mmseol.metrics.class_scores.class_rows` makes them.
    """

    path: Path
    stage: str
    epoch: int | None
    iteration: int | None
    scores: Mapping[str, float]
    rows: Sequence[Mapping[str, Any]]

    @property
    def classes(self) -> list[str]:
        """Names of the K classes."""
        return [str(row["class"]) for row in self.rows]

    @property
    def when(self) -> str:
        """Epoch or iteration in words, of a test its work directory."""
        if self.stage == "test":
            return self.path.resolve().parent.parent.name
        if self.epoch is not None:
            return f"epoch {self.epoch}"
        return "no epoch" if self.iteration is None else f"iteration {self.iteration}"

    @property
    def title(self) -> str:
        """Stage and epoch in words."""
        return f"{'test' if self.stage == 'test' else 'validation'}, {self.when}"

    @property
    def counts(self) -> IntArray | None:
        """Training samples or pixels of each class, (K,)."""
        counts = [row.get("training") for row in self.rows]
        return None if None in counts else np.array(counts, dtype=np.int64)

    def column(self, name: str) -> FloatArray:
        """Return a score of each class in per cent, NaN where there is none, (K,)."""
        values = [row.get(name) for row in self.rows]
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

    def confusion(self) -> NDArray[Any] | None:
        """Confusion matrix with the truth in rows, (K, K), if the evaluation wrote one.

        Raises:
            ValueError: If its file is broken; nothing in it is unpickled.
        """
        path = self.path.with_suffix(".npz")
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                return np.asarray(file["confusion"])
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{str(path)!r} must hold an array `confusion`: {error}") from error


@dataclass(frozen=True)
class RunFolder:
    """A training, or a test, as its work directory shows it.

    >>> run = RunFolder(Path("work_dirs/ce"), "ce", {"model": {"head": {"loss": {"type": "FocalLoss"}}}})
    >>> run.losses, run.task, run.gaps
    ({'head': 'FocalLoss'}, 'classification', [])

    Attributes:
        path: Work directory.
        name: Name in tables and legends.
        config: Resolved config, empty if it cannot be read as data.
        config_name: File name of the config without its suffix.
        counts: Counts of the training data, ``None`` if the run wrote none.
        evaluations: Validations and tests, in the order of training.
        scalars: Lines of ``scalars.json``, in order.
        facts: ``command`` and ``environment`` as the run wrote them, or versions from its log.
        pictures: Prediction pictures of the last evaluation that has some.
        decisions: ``decision.json`` files of ``tune-decision``.
        gaps: What is missing or cannot be read, in words.
    """

    path: Path
    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    counts: ClassCounts | None = None
    evaluations: Sequence[Evaluation] = ()
    scalars: Sequence[Mapping[str, Any]] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    pictures: Sequence[Path] = ()
    decisions: Sequence[Path] = ()
    gaps: list[str] = field(default_factory=list)
    config_name: str = ""

    @property
    def validations(self) -> list[Evaluation]:
        """Validations in the course of training, in order."""
        return [one for one in self.evaluations if one.stage == "val"]

    @property
    def task(self) -> str:
        """``'segmentation'`` or ``'classification'``."""
        model = self.config.get("model") or {}
        if self.config:
            return "segmentation" if "decode_head" in model else "classification"
        pixels = self.counts is not None and not np.array_equal(self.counts.samples, self.counts.images)
        return "segmentation" if pixels else "classification"

    @property
    def class_score(self) -> str:
        """Score of a class that figures show."""
        return "IoU" if self.task == "segmentation" else "recall"

    @property
    def metric(self) -> str:
        """Score that the run chose its best checkpoint by."""
        hook = (self.config.get("default_hooks") or {}).get("checkpoint") or {}
        given = hook.get("save_best")
        if isinstance(given, str) and given != "auto":
            return given
        return "mIoU" if self.task == "segmentation" else "accuracy"

    @property
    def losses(self) -> dict[str, str]:
        """Loss of each head, with the arguments that the config gives it."""
        return dict(_losses(self.config.get("model") or {}))

    @cached_property
    def best(self) -> Evaluation | None:
        """Validation of the best score by which checkpoints are chosen; the first of equal ones."""
        scored = [one for one in self.validations if one.scores.get(self.metric) is not None]
        return max(scored, key=lambda one: one.scores[self.metric], default=None)

    @property
    def shown(self) -> Evaluation | None:
        """Evaluation that figures and tables of classes show: the test, else the best or last validation."""
        tests = [one for one in self.evaluations if one.stage == "test"]
        last = self.validations[-1] if self.validations else None
        return tests[-1] if tests else self.best or last

    @property
    def class_counts(self) -> IntArray | None:
        """Training samples or pixels of each class, (K,), as counted or as an evaluation names them."""
        if self.counts is not None:
            return self.counts.samples
        return next((one.counts for one in reversed(self.evaluations) if one.counts is not None), None)

    @property
    def unit(self) -> str:
        """What is counted."""
        return "pixels" if self.task == "segmentation" else "images"

    def setting(self, name: str) -> Any:
        """Return a setting of the config by its dotted name, ``None`` if there is none."""
        value: Any = self.config
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def curve(self, name: str) -> tuple[list[float], list[float]]:
        """Return the iterations and finite values of a scalar of training."""
        found = {
            line["iter"]: line[name]
            for line in self.scalars
            if "iter" in line and isinstance(line.get(name), (int, float)) and np.isfinite(line[name])
        }
        steps = sorted(found)
        return steps, [found[step] for step in steps]

    def not_finite(self, name: str) -> int:
        """Return the number of logged values of a scalar that are infinite or NaN."""
        values = [line.get(name) for line in self.scalars]
        return sum(isinstance(value, float) and not np.isfinite(value) for value in values)


def _losses(model: Any) -> Iterator[tuple[str, str]]:
    for head in ("decode_head", "auxiliary_head", "head"):
        parts = model.get(head)
        parts = parts if isinstance(parts, (list, tuple)) else [parts]
        for number, part in enumerate(parts):
            loss = part.get("loss_decode", part.get("loss")) if isinstance(part, Mapping) else None
            losses = loss if isinstance(loss, (list, tuple)) else [loss]
            texts = [_loss_text(one) for one in losses if isinstance(one, Mapping)]
            if texts:
                yield head + (f"[{number}]" if len(parts) > 1 else ""), " + ".join(texts)


def _loss_text(loss: Mapping[str, Any]) -> str:
    """Return ``OutlyingMSELoss(alpha=6)``."""
    arguments = ", ".join(f"{name}={value!r:.40}" for name, value in loss.items() if name != "type")
    name = str(loss.get("type", "?")).removeprefix("mmseol.")
    return f"{name}({arguments})" if arguments else name


def is_sweep(path: Path) -> bool:
    """Whether a folder is the work directory of a sweep.

    >>> is_sweep(Path("missing"))
    False
    """
    return (path / "trials").is_dir()


def read_run(path: str | Path, name: str | None = None) -> RunFolder:
    """Return what a work directory of a training or a test holds; what is missing is listed in ``gaps``.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "digits.py").write_text("model = dict(head=dict(loss=dict(type='FocalLoss')))")
    >>> read_run(folder, "focal").losses
    {'head': 'FocalLoss'}

    Args:
        path: Work directory.
        name: Name in tables and legends; ``None``: that of the folder.

    Raises:
        ValueError: If the folder holds no run.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"`work_dir` must be an existing folder, got {str(path)!r}.")
    gaps: list[str] = []
    config_name, config = _config(path, gaps)
    logs = _log_folders(path)
    scalars = [line for folder in logs for line in _scalars(folder, gaps)]
    evaluations = [one for folder in logs for one in read_evaluations(folder, gaps)]
    tests = sorted(folder for folder in path.glob("test_*") if folder.is_dir())
    evaluations += [
        one for test in tests for folder in _log_folders(test) for one in read_evaluations(folder, gaps)
    ]
    if not (config or scalars or evaluations):
        raise ValueError(
            f"`work_dir` must be the work directory of a training or a test, got {str(path)!r}: it has no "
            "config that can be read, no */vis_data/scalars.json and no */class_scores_*.json."
        )
    return RunFolder(
        path,
        name or path.resolve().name,
        config,
        _counts(path, gaps),
        _in_order(evaluations),
        scalars,
        _facts(logs, gaps),
        _pictures([*logs, *(folder for test in tests for folder in _log_folders(test))]),
        sorted([*path.glob("decision.json"), *path.glob("*_decision/decision.json")]),
        gaps,
        config_name,
    )


def _log_folders(path: Path) -> list[Path]:
    """Return the folders of the starts of a run, in order of time: of files that only a run writes."""
    found = {child.parent for pattern in ("*/*.log", "*/class_scores_*.json") for child in path.glob(pattern)}
    found |= {child.parent.parent for child in path.glob("*/vis_data/scalars.json")}
    return sorted(folder for folder in found if not folder.name.startswith("test_"))


def _config(path: Path, gaps: list[str]) -> tuple[str, Mapping[str, Any]]:
    """Return name and content of the config that the run began with, not of one that resumed it."""
    files = sorted(path.glob("*.py"), key=lambda file: ("_resumed_" in file.stem, file.stat().st_mtime))
    if not files:
        gaps.append("The folder has no config.")
        return "", {}
    try:
        return files[0].stem, plain_config(files[0])
    except ValueError as error:
        gaps.append(f"The config is not read: {error}")
        return "", {}


def _scalars(folder: Path, gaps: list[str]) -> list[dict[str, Any]]:
    lines = []
    path = folder / "vis_data" / "scalars.json"
    for number, text in enumerate(path.read_text().splitlines() if path.is_file() else ()):
        try:
            line = json.loads(text)
        except ValueError:  # the last line of a run that was killed
            gaps.append(f"Line {number + 1} of {path.name} in {folder.name} is broken.")
            continue
        lines += [line] if isinstance(line, dict) else []
    return lines


def read_evaluations(folder: Path, gaps: list[str] | None = None) -> list[Evaluation]:
    """Return the evaluations that a folder has files of; files of another kind are listed in ``gaps``.

    >>> read_evaluations(Path("missing"))
    []
    """
    found = []
    for path in sorted(folder.glob("class_scores_*.json"), key=_version):
        try:
            record = json.loads(path.read_text())
            rows, scores = record["classes"], record["scores"]
            fits = isinstance(rows, list) and rows and all("class" in row for row in rows)
            if not fits or not isinstance(scores, dict):
                raise ValueError("it has no `classes` or no `scores`")
        except (ValueError, KeyError, TypeError) as error:
            if gaps is not None:
                gaps.append(f"{path.name} in {folder.name} is not read: {error}.")
            continue
        stage, epoch, iteration = (record.get(name) for name in ("stage", "epoch", "iter"))
        found.append(Evaluation(path, stage or "val", epoch, iteration, scores, rows))
    return found


def _version(path: Path) -> tuple[int, str]:
    """Return a key that sorts epochs and repeated evaluations by number."""
    return int(match[1]) if (match := _STEP.search(path.stem)) else 0, path.name


def _in_order(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Return validations by epoch, then tests; of several of one epoch the last, as of a resumed run."""
    found: dict[Any, Evaluation] = {}
    for one in evaluations:
        key = (one.stage, one.epoch, one.iteration) if one.stage == "val" else one.path
        found[key] = one
    return sorted(
        found.values(), key=lambda one: (one.stage != "val", one.epoch or 0, one.iteration or 0, one.path)
    )


def _counts(path: Path, gaps: list[str]) -> ClassCounts | None:
    file = path / "class_counts.json"
    if not file.is_file():
        gaps.append("The folder has no class_counts.json: the run did not count its training data.")
        return None
    try:
        return ClassCounts.load(file)
    except ValueError as error:
        gaps.append(f"The counts are not read: {error}")
        return None


_LOGGED = {
    "torch": r"^\s+PyTorch: (\S+)$",
    "mmengine": r"^\s+MMEngine: (\S+)$",
    "python": r"^\s+Python: (\S+)",
}


def _facts(logs: Sequence[Path], gaps: list[str]) -> dict[str, Any]:
    """Return the first command and environment that a run wrote, else the versions in its log."""
    for folder in logs:
        try:
            facts = json.loads((folder / "command.json").read_text())
        except (OSError, ValueError):
            continue
        if isinstance(facts, dict):
            return facts
    gaps.append("The command was not written by this run.")
    for log in (file for folder in logs for file in sorted(folder.glob("*.log"))):
        with log.open(errors="replace") as file:
            head = file.read(20_000)
        versions = {
            name: match[1]
            for name, pattern in _LOGGED.items()
            if (match := re.search(pattern, head, re.MULTILINE))
        }
        if versions:
            return {"environment": {"versions": versions}}
    return {}


def _pictures(folders: Sequence[Path]) -> list[Path]:
    """Return the pictures of the last step that a run drew predictions at."""
    found = [path for folder in folders for path in folder.glob("vis_data/vis_image/*.png")]
    steps = {path: int(match[1]) for path in found if (match := _STEP.search(path.stem))}
    last = max(steps.values(), default=None)
    return sorted(path for path, step in steps.items() if step == last)
