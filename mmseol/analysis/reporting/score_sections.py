"""Blocks of a report about scores: tables, figures against counts, curves, confusion matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmseol.analysis.figures.class_curves import class_curve_figure, scalar_figure
from mmseol.analysis.figures.confusion_cells import confusion_figure
from mmseol.analysis.figures.score_counts import score_count_figure
from mmseol.analysis.records.run_records import SCORES, SEG_SCORES
from mmseol.analysis.reporting.page_parts import MISSING, Block, Note, drawn
from mmseol.analysis.reporting.run_folder import Evaluation, RunFolder
from mmseol.analysis.tabulation.text_table import TextTable, spread
from mmseol.experiment.work_dir import differences
from mmseol.utils.text import first_few

__all__ = ["class_score_blocks", "confusion_blocks", "curve_blocks", "score_blocks", "seed_groups"]


def seed_groups(runs: Sequence[RunFolder]) -> dict[str, list[RunFolder]]:
    """Return the runs that differ in their seed alone, by the name of the first, in order.

    >>> from pathlib import Path
    >>> first, second = (RunFolder(Path(n), n, {"randomness": {"seed": n}, "model": {}}) for n in "ab")
    >>> [len(group) for group in seed_groups([first, second]).values()]
    [2]
    """
    groups: dict[str, list[RunFolder]] = {}
    for run in runs:
        for group in groups.values():
            if run.config and not _unlike(group[0], run):
                group.append(run)
                break
        else:
            groups[run.name] = [run]
    return groups


def _unlike(first: RunFolder, second: RunFolder) -> bool:
    changed = differences(first.config, second.config)
    return not first.config or any(not name.startswith("randomness.") for name in changed)


def score_blocks(runs: Sequence[RunFolder]) -> list[Block]:
    """Return the scores over all classes, of each run and of those that differ in their seed alone.

    >>> from pathlib import Path
    >>> [block.text for block in score_blocks([RunFolder(Path("ce"), "ce")])]
    ['ce has no evaluation with class_scores_*.json.']
    """
    known = SEG_SCORES if runs[0].task == "segmentation" else SCORES
    rows: list[list[str]] = []
    gaps: list[Block] = []
    keys = [key for key in known if any(key in one.scores for run in runs for one in run.evaluations)]
    for run in runs:
        own: dict[str, Evaluation] = {}
        if run.validations:
            own["last"] = run.validations[-1]
        if run.best is not None and run.best is not own.get("last"):
            own[f"best {run.metric}"] = run.best
        own |= {f"test {n}".removesuffix(" 1"): one for n, one in enumerate(_tests(run), 1)}
        if not own:
            gaps.append(Note(f"{run.name} has no evaluation with class_scores_*.json.", gap=True))
        for kind, one in own.items():
            row = [run.name, f"{kind} ({one.when})"]
            rows.append([*row, *(f"{one.scores[key]:.2f}" if key in one.scores else MISSING for key in keys)])
    for name, group in seed_groups(runs).items():
        if len(group) > 1 and all(run.validations for run in group):
            lasts = [run.validations[-1].scores for run in group]
            cells = [spread([last[key] for last in lasts], 2) for key in keys if all(key in x for x in lasts)]
            if len(cells) == len(keys):
                rows.append([f"{name}: {len(group)} seeds", "last, mean ± deviation", *cells])
    table = TextTable("", ["run", "evaluation", *(known[key] for key in keys)], rows, left=2)
    note = Note("Per cent. The best validation is chosen on the data that it is scored on.")
    found: list[Block] = [table, note] if rows else []
    return found + gaps


def _tests(run: RunFolder) -> list[Evaluation]:
    return [one for one in run.evaluations if one.stage == "test"]


def class_score_blocks(runs: Sequence[RunFolder], classes: Sequence[str]) -> list[Block]:
    """Return the figure against counts and the table of the scores of each class; gaps are said.

    >>> from pathlib import Path
    >>> [block.gap for block in class_score_blocks([RunFolder(Path("ce"), "ce")], ["road"])]
    [True]
    """
    shown = {run.name: one for run in runs if (one := run.shown) is not None}
    if not shown:
        return [Note("There are no scores of classes: no run has an evaluation.", gap=True)]
    score = runs[0].class_score
    counts = next((found for run in runs if (found := run.class_counts) is not None), None)
    blocks: list[Block] = []
    if counts is not None and len(counts) == len(classes):
        values = {
            name: [run.shown.column(score) for run in group if run.shown is not None]
            for name, group in seed_groups(runs).items()
        }
        values = {name: value for name, value in values.items() if value}
        if any(np.isfinite(value).any() for value in values.values()):
            figure = score_count_figure(counts, values, classes, score, runs[0].unit)
            blocks.append(drawn(figure, f"{score} of each class, from the most to the least frequent"))
    else:
        blocks.append(Note("Scores are not drawn against counts: no counts are known.", gap=True))
    first = next(iter(shown.values()))
    if len(shown) == 1:
        blocks.append(_one_table(first))
    else:
        headings = ["class", "training", *shown]
        columns = [one.column(score) for one in shown.values()]
        rows = [
            [name, MISSING if counts is None else f"{int(counts[k]):,}", *(_per_cent(c[k]) for c in columns)]
            for k, name in enumerate(classes)
        ]
        blocks.append(TextTable(f"{score} in per cent", headings, rows))
    kinds = {name: one.title for name, one in shown.items()}
    blocks.append(Note("Shown: " + "; ".join(f"{name}, {kind}" for name, kind in kinds.items()) + "."))
    for name, one in shown.items():
        absent = [row["class"] for row in one.rows if row.get("IoU") is None]
        untrue = [row["class"] for row in one.rows if not row.get("truth") and row.get("IoU") is not None]
        if absent:
            blocks.append(
                Note(f"{name}: neither in the truth nor predicted: {first_few(absent, 10)}.", gap=True)
            )
        if untrue:
            blocks.append(Note(f"{name}: not in the truth: {first_few(untrue, 10)}.", gap=True))
    return blocks


def _per_cent(value: float) -> str:
    return MISSING if np.isnan(value) else f"{value:.2f}"


def _one_table(one: Evaluation) -> TextTable:
    names = [name for name in one.rows[0] if any(row.get(name) is not None for row in one.rows)]
    rows = []
    for row in one.rows:
        cells = []
        for name in names:
            value = row.get(name)
            text = (
                f"{value:,}"
                if isinstance(value, int)
                else f"{value:.2f}"
                if isinstance(value, float)
                else value
            )
            cells.append(MISSING if value is None else str(text))
        rows.append(cells)
    return TextTable("", names, rows, left=2 if "group" in names else 1)


def curve_blocks(runs: Sequence[RunFolder], classes: Sequence[str]) -> list[Block]:
    """Return the curves of the chosen score, of each class, of the loss and of the learning rate.

    >>> from pathlib import Path
    >>> [block.text for block in curve_blocks([RunFolder(Path("ce"), "ce")], ["road"])]
    ['No run has a validation with accuracy.', 'No training loss was logged.']
    """
    blocks: list[Block] = []
    metric = runs[0].metric
    curves = {run.name: _metric_curve(run, metric) for run in runs}
    if any(steps for steps, _ in curves.values()):
        blocks.append(drawn(scalar_figure(curves, f"validation {metric}", "epoch"), f"validation {metric}"))
    else:
        blocks.append(Note(f"No run has a validation with {metric}.", gap=True))
    for run in runs:
        epochs = [one for one in run.validations if one.epoch is not None or one.iteration is not None]
        score = run.class_score
        if len(epochs) > 1:
            by_epoch = all(one.epoch is not None for one in epochs)
            steps = [float((one.epoch if by_epoch else one.iteration) or 0) for one in epochs]
            values = [one.column(score) for one in epochs]
            counts = run.class_counts
            counts = counts if counts is not None and len(counts) == len(classes) else None
            unit = "epoch" if by_epoch else "iteration"
            figure = class_curve_figure(steps, values, classes, counts, score, unit, run.name)
            blocks.append(drawn(figure, f"{run.name}: {score} of each class by {unit}"))
    for name, logarithmic in (("loss", True), ("lr", False)):
        scalars = {run.name: run.curve(name) for run in runs}
        if any(steps for steps, _ in scalars.values()):
            positive = all(value > 0 for _, values in scalars.values() for value in values)
            figure = scalar_figure(scalars, name, "iteration", logarithmic=logarithmic and positive)
            blocks.append(drawn(figure, f"{name} by iteration"))
        elif name == "loss":
            blocks.append(Note("No training loss was logged.", gap=True))
    for run in runs:
        if lost := run.not_finite("loss"):
            blocks.append(Note(f"{run.name}: {lost} logged losses are not finite, and not drawn.", gap=True))
    return blocks


def _metric_curve(run: RunFolder, metric: str) -> tuple[list[float], list[float]]:
    found = [one for one in run.validations if one.epoch is not None and metric in one.scores]
    return [float(one.epoch or 0) for one in found], [one.scores[metric] for one in found]


def confusion_blocks(run: RunFolder, classes: Sequence[str]) -> list[Block]:
    """Return the confusion matrix of the evaluation that is shown, or why there is none.

    >>> from pathlib import Path
    >>> confusion_blocks(RunFolder(Path("ce"), "ce"), ["road"])
    []
    """
    one = run.shown
    if one is None:
        return []
    try:
        confusion = one.confusion()
    except ValueError as error:
        return [Note(f"{run.name}: {error}", gap=True)]
    if confusion is None:
        text = f"{run.name}: the evaluation wrote no confusion matrix; tools/test.py writes one."
        return [Note(text, gap=True)]
    try:
        figure = confusion_figure(confusion, classes, run.class_counts, f"{run.name}, {one.title}")
    except ValueError as error:
        return [Note(f"{run.name}: {error}", gap=True)]
    return [drawn(figure, f"{run.name}: confusion matrix, {one.title}")]
