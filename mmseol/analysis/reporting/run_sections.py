"""Sections of the report of one run, or of several runs that are compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmseol.analysis.figures.distributions import distribution_figure, imbalance_rows
from mmseol.analysis.reporting.file_sections import decision_blocks, file_blocks, picture_blocks
from mmseol.analysis.reporting.page_parts import MISSING, Block, Code, Note, Report, Section, drawn
from mmseol.analysis.reporting.run_folder import RunFolder
from mmseol.analysis.reporting.score_sections import (
    class_score_blocks,
    confusion_blocks,
    curve_blocks,
    score_blocks,
)
from mmseol.analysis.tabulation.text_table import TextTable
from mmseol.experiment.config_files import read_config, shipped_configs
from mmseol.experiment.work_dir import differences
from mmseol.utils.arrays import IntArray
from mmseol.utils.text import first_few

__all__ = ["run_report"]


def run_report(runs: Sequence[RunFolder], title: str = "") -> Report:
    """Return the report of one run, or of several runs on the same classes.

    >>> from mmseol.analysis.reporting.run_folder import Evaluation
    >>> rows = [{"class": name, "training": n, "IoU": 9.0} for name, n in (("road", 90), ("car", 10))]
    >>> run = RunFolder(Path("ce"), "ce", evaluations=[Evaluation(Path("a.json"), "val", 1, 9, {}, rows)])
    >>> [section.title for section in run_report([run]).sections][:3]
    ['What ran', 'Training data', 'Scores']

    Args:
        runs: Runs in the order of the columns.
        title: Heading; ``None``: the names of the runs.

    Raises:
        ValueError: If there is no run, two have one name, or their classes differ.
    """
    if not runs:
        raise ValueError("`runs` must have at least one run, got none.")
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise ValueError(f"`runs` must have different names, got {first_few(names)}. Give NAME=WORK_DIR.")
    classes = _classes(runs)
    sections = [
        Section("What ran", _what_ran(runs)),
        Section("Training data", _training_data(runs, classes)),
        Section("Scores", score_blocks(runs)),
        Section("Scores of each class", class_score_blocks(runs, classes)),
        Section("Course of training", curve_blocks(runs, classes)),
        Section("Confusion", _each(runs, lambda run: confusion_blocks(run, classes))),
        Section("Pictures", _each(runs, picture_blocks)),
        Section("Decision", _each(runs, decision_blocks)),
        Section("Files", _each(runs, file_blocks), folded=True),
    ]
    configs = [
        Section(f"Config of {run.name}", [Code(_text(run))], folded=True) for run in runs if run.config
    ]
    sections = [section for section in sections if section.blocks]
    return Report(title or " and ".join(names), [*sections, *configs])


def _classes(runs: Sequence[RunFolder]) -> list[str]:
    """Return the names of the classes, empty if no run names them."""
    found = {run.name: run.evaluations[-1].classes for run in runs if run.evaluations}
    lists = list(found.values())
    for name, own in found.items():
        if own != lists[0]:
            raise ValueError(
                f"`runs` must have the same classes, got {len(lists[0])} ({first_few(lists[0], 3)}) of "
                f"{next(iter(found))} and {len(own)} ({first_few(own, 3)}) of {name}."
            )
    if lists:
        return lists[0]
    counts = next((run.counts for run in runs if run.counts is not None), None)
    return [] if counts is None else [str(k) for k in range(len(counts.samples))]


def _each(runs: Sequence[RunFolder], make: Callable[[RunFolder], list[Block]]) -> list[Block]:
    blocks: list[Block] = []
    for run in runs:
        blocks += make(run)
    return blocks


def _cell(value: Any) -> str:
    if value is None:
        return MISSING
    return f"{value:g}" if isinstance(value, float) else str(value)


def _what_ran(runs: Sequence[RunFolder]) -> list[Block]:
    rows = []
    for heading, value in _FACTS.items():
        cells = [value(run) for run in runs]
        if any(cell is not None for cell in cells):
            rows.append([heading, *map(_cell, cells)])
    blocks: list[Block] = [TextTable("", ["", *(run.name for run in runs)], rows, left=1 + len(runs))]
    for run in runs:
        lines = run.facts.get("command")
        blocks += [Code(str(lines))] if lines else []
        blocks += [Note(f"{run.name}: {gap}", gap=True) for gap in run.gaps]
    return blocks + (_differences(runs) if len(runs) > 1 else _own_settings(runs[0]))


def _head(number: int) -> Callable[[RunFolder], str | None]:
    def loss(run: RunFolder) -> str | None:
        return [*run.losses.values(), None, None][number]

    return loss


def _setting(*names: str) -> Callable[[RunFolder], Any]:
    def setting(run: RunFolder) -> Any:
        return next((value for name in names if (value := run.setting(name)) is not None), None)

    return setting


def _environment(name: str) -> Callable[[RunFolder], Any]:
    def value(run: RunFolder) -> Any:
        return (run.facts.get("environment") or {}).get(name)

    return value


def _versions(run: RunFolder) -> str | None:
    versions = _environment("versions")(run)
    return ", ".join(f"{name} {version}" for name, version in versions.items()) if versions else None


def _trained(run: RunFolder) -> str | None:
    last = max((line.get("iter") or 0 for line in run.scalars), default=0)
    epoch = max((line.get("epoch") or 0 for line in run.scalars), default=0)
    if not last:
        return None
    of = run.setting("train_cfg.max_epochs")
    return f"epoch {epoch}" + (f" of {of}" if of else "") + f", iteration {last}"


_FACTS: dict[str, Callable[[RunFolder], Any]] = {
    "work directory": lambda run: run.path,
    "loss": _head(0),
    "auxiliary loss": _head(1),
    "optimizer": _setting("optim_wrapper.optimizer.type"),
    "learning rate": _setting("optim_wrapper.optimizer.lr"),
    "weight decay": _setting("optim_wrapper.optimizer.weight_decay"),
    "batch size": _setting("train_dataloader.batch_size"),
    "epochs": _setting("train_cfg.max_epochs"),
    "iterations": _setting("train_cfg.max_iters"),
    "trained until": _trained,
    "seed": _setting("randomness.seed"),
    "data set": _setting("train_dataloader.dataset.type"),
    "data root": _setting("train_dataloader.dataset.data_root", "data_root"),
    "device": _environment("device"),
    "commit": _environment("commit"),
    "python": _environment("python"),
    "versions": _versions,
}


def _differences(runs: Sequence[RunFolder]) -> list[Block]:
    """Return the settings that differ between the runs."""
    first = runs[0]
    known = [run for run in runs if run.config]
    if len(known) < len(runs) or not first.config:
        return [Note("Settings are not compared: a config is missing.", gap=True)]
    changes = [differences(first.config, run.config) for run in runs]
    keys = dict.fromkeys(key for change in changes for key in change)
    if not keys:
        return [Note("The runs have the same settings.")]
    rows = []
    for key in keys:
        own = next(change[key][0] for change in changes if key in change)
        rows.append([key, *(f"{change[key][1] if key in change else own!s:.80}" for change in changes)])
    headings = ["setting", *(run.name for run in runs)]
    return [TextTable("Settings that differ", headings, rows, left=len(headings))]


def _own_settings(run: RunFolder) -> list[Block]:
    """Return the settings that differ from those of the config of mmseol with the same file name."""
    found = {name: path for name, path in shipped_configs().items() if Path(name).stem == run.config_name}
    if not run.config or len(found) != 1:
        return [Note("The config is none of mmseol's: its settings are below, not what they change.")]
    ((name, path),) = found.items()
    changed = differences(read_config(path), run.config)
    if not changed:
        return [Note(f"The settings are those of {name}.")]
    rows = [[key, f"{old!s:.80}", f"{new!s:.80}"] for key, (old, new) in changed.items()]
    return [TextTable(f"Settings that differ from {name}", ["setting", "config", "run"], rows, left=3)]


def _text(run: RunFolder) -> str:
    return json.dumps(run.config, indent=1, default=str)


def _training_data(runs: Sequence[RunFolder], classes: Sequence[str]) -> list[Block]:
    sets: dict[str, Any] = {}
    for run in runs:
        counts = run.counts if run.counts is not None else run.class_counts
        if counts is not None and not any(
            np.array_equal(_array(counts), _array(one)) for one in sets.values()
        ):
            sets[run.name] = counts
    if not sets:
        return [Note("No counts of the training data are known.", gap=True)]
    if len(sets) == 1:
        sets = {"training": next(iter(sets.values()))}
    wrong = [name for name, counts in sets.items() if len(_array(counts)) != len(classes)]
    if wrong:
        return [Note(f"The counts of {first_few(wrong)} are not those of {len(classes)} classes.", gap=True)]
    unit = runs[0].unit
    figure = distribution_figure(sets, classes, unit)
    rows = [
        [
            row["set"],
            f"{row['total']:,}",
            "infinite" if np.isinf(row["ratio"]) else f"{row['ratio']:.1f}",
            f"{row['gini']:.3f}",
            MISSING if row["gini_images"] is None else f"{row['gini_images']:.3f}",
            f"{row['tail']:.2f} %",
            str(row["empty"]),
        ]
        for row in imbalance_rows(sets)
    ]
    headings = [
        "counts",
        unit,
        "largest / smallest",
        "Gini",
        "Gini by image",
        "rarest third",
        "empty classes",
    ]
    return [drawn(figure, f"{unit} of each class, linear and logarithmic"), TextTable("", headings, rows)]


def _array(counts: Any) -> IntArray:
    return getattr(counts, "samples", counts)
