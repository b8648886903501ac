"""Sections of the report of sweeps: the tables of their record, and scores against counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmseol.analysis.figures.distributions import distribution_figure
from mmseol.analysis.figures.score_counts import score_count_figure
from mmseol.analysis.records.sweep_classes import class_score_groups
from mmseol.analysis.reporting.page_parts import Block, Code, Note, Report, Section, drawn
from mmseol.analysis.tabulation.sweep_report import tables_of

__all__ = ["sweep_report"]

_PARTS = {
    "scores": "Scores",
    "comparison": "Differences",
    "classes": "Classes",
    "tuning": "Tuning",
    "runs": "Runs",
}


def sweep_report(record: Mapping[str, Any], title: str = "") -> Report:
    """Return the report of the record of one or more sweeps.

    >>> record = {"title": "Digits", "sweeps": ["digits"], "runs": [], "comparisons": [], "tuning": [],
    ...           "environments": [], "failed": [], "checkpoint": "last"}
    >>> [section.title for section in sweep_report(record).sections]
    ['What ran']

    Args:
        record: Record of :func:`mmseol.analysis.sweep_record.sweep_record`.
        title: Heading; empty: that of the record.
    """
    ran: list[Block] = [Note(record["note"])] if record.get("note") else []
    ran += [Code("\n".join(record["commands"]))] if record.get("commands") else []
    ran += [Note(_environment(one)) for one in record["environments"]]
    ran += [
        Note(f"Failed: {one['loss']}, seed {one['seed']}: {one['reason']}", gap=True)
        for one in record["failed"]
    ]
    ran += [] if record["runs"] else [Note("No final training is finished yet.", gap=True)]
    sections = [Section("What ran", ran), Section("Training data and classes", _figures(record))]
    for part, heading in _PARTS.items():
        sections.append(
            Section(heading, list(tables_of(record, part)) if record["runs"] or record["tuning"] else [])
        )
    heading = title or record.get("title") or "Sweep " + " and ".join(record["sweeps"])
    return Report(heading, [section for section in sections if section.blocks])


def _environment(one: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in (one.get("versions") or {}).items())
    return f"{one.get('device')}; commit {one.get('commit')}; python {one.get('python')}, {versions}."


def _figures(record: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    drawn_counts: list[Any] = []
    for group in class_score_groups(record):
        if group.counts is None:
            blocks.append(Note(f"{group.title}: the records have no training counts.", gap=True))
            continue
        if list(group.counts) not in drawn_counts:
            drawn_counts.append(list(group.counts))
            figure = distribution_figure({"training": group.counts}, group.classes, group.unit, group.title)
            blocks.append(drawn(figure, f"{group.unit} of each class, {group.title}"))
        if not any(np.isfinite(values).any() for values in group.scores.values()):
            blocks.append(Note(f"{group.title}: no class has a score.", gap=True))
            continue
        figure = score_count_figure(
            group.counts, group.scores, group.classes, group.score, group.unit, group.title
        )
        blocks.append(
            drawn(figure, f"{group.score} of each class, mean and deviation over seeds, {group.title}")
        )
    return blocks
