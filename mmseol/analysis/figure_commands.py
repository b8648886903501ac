"""The subcommands ``distribution``, ``scores``, ``confusion`` and ``curves`` of ``analyze``."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from mmseol.analysis.figures.style import check_picture, save_figure
from mmseol.analysis.records.sweep_classes import ClassScoreGroup, class_score_groups
from mmseol.analysis.reporting.run_folder import RunFolder, is_sweep, read_evaluations, read_run
from mmseol.analysis.reporting.score_sections import seed_groups
from mmseol.counting.counts import ClassCounts, load_counts
from mmseol.metrics.scores import confusion_matrix
from mmseol.utils.text import first_few

__all__ = ["named_source", "score_group"]

_CLASS_SCORES = ("IoU", "F1", "precision", "recall")


def named_source(text: str) -> tuple[str | None, Path]:
    """Return name and path of ``NAME=PATH``, or no name of a path.

    >>> named_source("ce=work_dirs/ce"), named_source("work_dirs/ce")
    (('ce', PosixPath('work_dirs/ce')), (None, PosixPath('work_dirs/ce')))
    """
    name, equals, path = text.partition("=")
    if not equals or Path(text).exists():
        return None, Path(text)
    return name, Path(path)


# ------------------------------------------------------------ distribution


def prepare_distribution(args: Namespace) -> tuple[Any, list[str], str]:
    """Return the counts of each source, the names of the classes, and the unit.

    Raises:
        ValueError: If the picture cannot be written, or sources have other classes or no counts.
    """
    check_picture("--out", args.out)
    sets: dict[str, Any] = {}
    known: dict[str, list[str]] = {}
    for source in args.sources:
        name, path = named_source(source)
        for own, names, counts in _counted(args, name, path):
            if own in sets:
                raise ValueError(f"`sources` must have different names, got {own!r} twice. Give NAME=SOURCE.")
            sets[own] = counts
            if names:
                known[own] = names
    names = args.classes or next(iter(known.values()), [])
    sizes = {name: len(getattr(counts, "samples", counts)) for name, counts in sets.items()}
    names = names or [str(k) for k in range(next(iter(sizes.values())))]
    wrong = [name for name, size in sizes.items() if size != len(names)]
    wrong += [name for name, own in known.items() if not args.classes and own != list(names)]
    if wrong:
        raise ValueError(
            f"`sources` must have the same classes ({len(names)}: {first_few(names, 3)}), got others of "
            f"{first_few(dict.fromkeys(wrong))}."
        )
    return sets, names, args.unit or _unit(sets)


def _counted(args: Namespace, name: str | None, path: Path) -> list[tuple[str, list[str], Any]]:
    """Return name, names of the classes, if known, and counts of the sets of one source."""
    if path.is_dir():
        run = read_run(path, name)
        counts = run.counts if run.counts is not None else run.class_counts
        if counts is None:
            raise ValueError(
                f"`sources` must have class counts, got the work directory {str(path)!r} without."
            )
        return [(run.name, run.evaluations[-1].classes if run.evaluations else [], counts)]
    if path.suffix in (".json", ".npy"):
        try:
            return [(name or path.stem, [], ClassCounts.load(path))]
        except ValueError:  # a list, or an array
            return [(name or path.stem, [], load_counts(path))]
    from mmseol.experiment.commands import load_config
    from mmseol.experiment.counted_classes import count_split
    from mmseol.experiment.data import check_files

    cfg = load_config(Namespace(**{**vars(args), "config": str(path)}))
    check_files(cfg, [f"{split}_dataloader" for split in args.split])
    found = []
    for split in args.split:
        names, counts = count_split(cfg, split)
        own = f"{name or path.stem} {split}" if len(args.split) > 1 else name or path.stem
        found.append((own, names, counts))
    return found


def _unit(sets: dict[str, Any]) -> str:
    pixels = [
        isinstance(counts, ClassCounts) and not np.array_equal(counts.samples, counts.images)
        for counts in sets.values()
    ]
    return "pixels" if all(pixels) else "samples" if any(pixels) else "images"


def run_distribution(prepared: tuple[Any, list[str], str], args: Namespace) -> None:
    """Draw the counts of each class."""
    from mmseol.analysis.figures.distributions import distribution_figure

    sets, names, unit = prepared
    _write(distribution_figure(sets, names, unit, args.title), args)


# ------------------------------------------------------------------ scores


def prepare_scores(args: Namespace) -> ClassScoreGroup:
    """Return the scores of the classes of each loss.

    Raises:
        ValueError: If the picture cannot be written, or the sources have no such scores or no counts.
    """
    check_picture("--out", args.out)
    group = score_group(args.sources, args.score, args.only)
    if args.counts:
        counts = load_counts(args.counts)
        if len(counts) != len(group.classes):
            raise ValueError(f"`--counts` must be {len(group.classes)} numbers, got {len(counts)}.")
        group = ClassScoreGroup(
            group.title, group.classes, counts.tolist(), group.score, group.unit, group.scores
        )
    if group.counts is None:
        raise ValueError("`sources` name no training counts. Give --counts class_counts.json.")
    return group


def score_group(sources: list[str], score: str | None = None, only: str | None = None) -> ClassScoreGroup:
    """Return the scores of the classes from work directories of runs, those of sweeps, or one record.

    Runs that differ in their seed alone become one line.

    >>> score_group(["missing"])
    Traceback (most recent call last):
    ValueError: `work_dir` must be an existing folder, got 'missing'.

    Args:
        sources: ``[NAME=]PATH`` each.
        score: ``'IoU'``, ``'F1'``, ``'precision'`` or ``'recall'``; ``None`` is that of the task.
        only: Part of the title of the group to take, if a record has several.

    Raises:
        ValueError: If there are none, or of several groups.
    """
    paths = [named_source(source) for source in sources]
    if any(path.is_file() for _, path in paths) or all(is_sweep(path) for _, path in paths):
        return _of_record([path for _, path in paths], score, only)
    runs = [read_run(path, name) for name, path in paths]
    return _of_runs(runs, score or runs[0].class_score)


def _of_runs(runs: list[RunFolder], score: str) -> ClassScoreGroup:
    for run in runs:
        if run.shown is None:
            raise ValueError(f"`sources` must have evaluations, got none in {str(run.path)!r}.")
    shown = {run.name: run.shown for run in runs if run.shown is not None}
    first = next(iter(shown.values()))
    for name, one in shown.items():
        if one.classes != first.classes:
            raise ValueError(f"`sources` must have the same classes, got others of {name!r}.")
    if not any(score in row for row in first.rows):
        raise ValueError(f"`--score` must be one of {', '.join(_CLASS_SCORES)}, got {score!r}.")
    counts = next((found for run in runs if (found := run.class_counts) is not None), None)
    scores = {
        name: np.stack([shown[run.name].column(score) for run in group])
        for name, group in seed_groups(runs).items()
    }
    return ClassScoreGroup("", first.classes, counts, score, runs[0].unit, scores)  # type: ignore[arg-type]


def _of_record(paths: list[Path], score: str | None, only: str | None) -> ClassScoreGroup:
    from mmseol.analysis.records.sweep_record import sweep_record
    from mmseol.analysis.records.trial_records import read_trials

    if len(paths) == 1 and paths[0].is_file():
        record = json.loads(paths[0].read_text(encoding="utf-8"))
        if not isinstance(record, dict) or record.get("kind") != "sweep":
            raise ValueError(
                f"{str(paths[0])!r} must be the record of a sweep, as `tables --record` writes it."
            )
    else:
        trials = [trial for trial in read_trials(paths) if trial["stage"] == "final"]
        record = sweep_record(trials, resamples=1)
    groups = [group for group in class_score_groups(record) if (only or "") in group.title]
    if len(groups) != 1:
        titles = first_few((repr(group.title) for group in groups), 10) or "none"
        raise ValueError(
            f"`sources` must have scores of one config, imbalance and split, got {titles}. "
            "Choose one with --only PART_OF_ITS_TITLE."
        )
    if score not in (None, groups[0].score):
        raise ValueError(f"`--score` must be {groups[0].score!r} of a sweep's record, got {score!r}.")
    return groups[0]


def run_scores(group: ClassScoreGroup, args: Namespace) -> None:
    """Draw the score of each class against its count."""
    from mmseol.analysis.figures.score_counts import score_count_figure

    assert group.counts is not None
    figure = score_count_figure(
        group.counts, group.scores, group.classes, group.score, group.unit, args.title or group.title
    )
    _write(figure, args)


# --------------------------------------------------------------- confusion


def prepare_confusion(args: Namespace) -> Any:
    """Return a confusion matrix, the names of its classes and their counts.

    Raises:
        ValueError: If the picture cannot be written, or the source has no confusion matrix.
    """
    check_picture("--out", args.out)
    path = Path(args.source)
    predictions = path / "predictions.npz"
    if path.is_dir() and predictions.is_file() and (path / "record.json").is_file():
        return _of_trial(path)
    if path.suffix == ".json" and path.is_file():
        found = [one for one in read_evaluations(path.parent) if one.path == path]
        evaluation, counts = (found[0], found[0].counts) if found else (None, None)
    else:
        run = read_run(path)
        evaluation, counts = run.shown, run.class_counts
    confusion = None if evaluation is None else evaluation.confusion()
    if evaluation is None or confusion is None:
        raise ValueError(
            f"`source` must have a confusion matrix (.npz) beside its class_scores_*.json, got "
            f"{args.source!r}. Score the checkpoint with tools/test.py, and give its work directory."
        )
    return confusion, evaluation.classes, counts


def _of_trial(path: Path) -> Any:
    """Return the confusion matrix of a trial of a sweep, from the class of each image."""
    from mmseol.analysis.records.trial_records import read_trial

    trial = read_trial(path / "record.json")
    with np.load(path / "predictions.npz", allow_pickle=False) as file:
        if not {"label", "truth"} <= set(file.files):
            raise ValueError(
                f"`source` must be of a classification: {str(path)!r} has pixels right and predicted, not "
                "which class they are taken for. Score its checkpoint with tools/test.py."
            )
        confusion = confusion_matrix(file["truth"], file["label"], len(trial["classes"]))
    return confusion, trial["classes"], trial["data"].get("counts")


def run_confusion(prepared: Any, args: Namespace) -> None:
    """Draw the confusion matrix in per cent of the truth."""
    from mmseol.analysis.figures.confusion_cells import confusion_figure

    confusion, names, counts = prepared
    _write(confusion_figure(confusion, names, counts, args.title), args)


# ------------------------------------------------------------------ curves


def prepare_curves(args: Namespace) -> Any:
    """Return the validations of a run: steps, scores, classes, counts, score and unit of the steps.

    Raises:
        ValueError: If the picture cannot be written, or the run has no validation.
    """
    check_picture("--out", args.out)
    run = read_run(args.work_dir)
    if not run.validations:
        raise ValueError(
            f"`work_dir` must have validations (class_scores_val_*.json), got none in {str(run.path)!r}."
        )
    score = args.score or run.class_score
    by_epoch = all(one.epoch is not None for one in run.validations)
    steps = [float((one.epoch if by_epoch else one.iteration) or 0) for one in run.validations]
    scores = np.stack([one.column(score) for one in run.validations])
    return (
        steps,
        scores,
        run.validations[-1].classes,
        run.class_counts,
        score,
        "epoch" if by_epoch else "iteration",
    )


def run_curves(prepared: Any, args: Namespace) -> None:
    """Draw the score of each class over the course of training."""
    from mmseol.analysis.figures.class_curves import class_curve_figure

    steps, scores, names, counts, score, unit = prepared
    _write(class_curve_figure(steps, scores, names, counts, score, unit, args.title), args)


def _write(figure: Any, args: Namespace) -> None:
    print(f"Wrote {save_figure(figure, args.out)}.")
