"""Tables of the compact record of a sweep: scores, comparisons, runs, tuning, classes.

No score is bold. With a handful of seeds several losses share the first place, and which of them is highest
changes with the seeds. Rows are sorted by the first score; the difference to one reference carries its
interval.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mmseol.analysis.records.paper import network_of
from mmseol.analysis.records.run_records import SCORES, SEG_SCORES
from mmseol.analysis.tabulation.run_text import (
    Run,
    differences,
    length_text,
    network_text,
    setting_text,
    short_name,
    values_text,
)
from mmseol.analysis.tabulation.text_table import TextTable, spread
from mmseol.utils.text import first_few

__all__ = [
    "class_tables",
    "comparison_tables",
    "score_tables",
    "setting_tables",
    "tuning_tables",
]

_MOST_CLASSES = 20
_NO_BOLD = (
    " No score is bold: where an interval covers 0, the order of the two losses may change with other images "
    "or seeds."
)


def _kind_text(kind: str) -> str:
    return {"last": "last epoch", "best_on_validation": "best epoch on validation data"}[kind]


def _groups(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    """Return the runs by config and split."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run["config"], run["split"]].append(run)
    return groups


def _headings(runs: Sequence[Run]) -> dict[str, str]:
    return SEG_SCORES if runs[0]["task"] == "segmentation" else SCORES


def _cut(run: Run) -> str:
    return run["imbalance"] or "as configured"


def _label(run: Run, runs: Sequence[Run]) -> str:
    """Return the loss, with the epochs or options that tell rows of the same loss apart."""
    same = [one for one in runs if one["loss"] == run["loss"] and one["imbalance"] == run["imbalance"]]
    if len(set(map(length_text, same))) > 1:
        return f"{run['loss']}, {length_text(run)}"
    if len(same) > 1:
        return (
            f"{run['loss']} ({values_text((run['chosen'] or {'values': {}})['values']) or 'options differ'})"
        )
    return run["loss"]


def score_tables(record: Mapping[str, Any], short: bool = False) -> list[TextTable]:
    """Return a table for each config and split: losses in rows, scores in columns; several cuts side by side.

    A loss that was tuned or failed and has no final run keeps its row.

    >>> score_tables({"runs": [], "comparisons": [], "environments": [], "checkpoint": "last", "title": ""})
    []

    Args:
        record: Record of :func:`mmseol.analysis.sweep_record.sweep_record`.
        short: Whether to show two scores and no remarks, as in a README.
    """
    groups = _groups(record["runs"])
    return [
        _ScoreTable(record, config, runs, short).text(len(groups) > 1) for (config, _), runs in groups.items()
    ]


class _ScoreTable:
    """The runs of one config and split as a table."""

    def __init__(self, record: Mapping[str, Any], config: str, runs: Sequence[Run], short: bool) -> None:
        self.record, self.config, self.runs, self.short = record, config, runs, short
        self.split = runs[0]["split"]
        self.cuts = list(dict.fromkeys(_cut(run) for run in runs))
        self.texts = _headings(runs)
        names = [name for name in self.texts if any(name in _shown(run, record) for run in runs)]
        self.names = names if len(self.cuts) == 1 and not short else names[:2]
        self.peers = not short and any(run["scores"]["best_on_test"] for run in runs)
        self.compared = {
            (c["loss"], length_text(c), str(c["imbalance"]), str(c["values"])): c
            for c in (record["comparisons"] if len(self.cuts) == 1 else [])
            if (c["config"], c["split"], c["score"]) == (config, self.split, self.names[0])
        }

    def text(self, titled: bool) -> TextTable:
        rows: dict[str, dict[str, Run]] = defaultdict(dict)
        for run in self.runs:
            rows[_label(run, self.runs)][_cut(run)] = run
        first = self.cuts[0]
        order = sorted(rows, key=lambda label: -_mean(rows[label].get(first), self.names[0], self.record))
        lines = [self._line(label, rows[label]) for label in [*order, *self._missing()]]
        title = f"{network_of(self.config)}, {self.split} split" if titled else ""
        return TextTable(title, self._headings(), lines, self._notes(), left=2)

    def _missing(self) -> list[str]:
        """Return the losses that were tuned or failed and have no final run."""
        others = [*self.record.get("tuning", ()), *self.record.get("failed", ())]
        tried = [one["loss"] for one in others if one["config"] == self.config]
        known = {run["loss"] for run in self.record["runs"] if run["config"] == self.config}
        return [loss for loss in dict.fromkeys(tried) if loss not in known]

    def _headings(self) -> list[str]:
        one = len(self.cuts) == 1
        texts = ["loss", "chosen", "seeds"]
        texts += [self.texts[name] + ("" if one else f", {cut}") for name in self.names for cut in self.cuts]
        first = self.texts[self.names[0]]
        for comparison in list(self.compared.values())[:1]:
            texts.append(f"Δ {first} to {comparison['reference']} [{100 * comparison['level']:g} %]")
        if self.peers:
            texts += [
                f"{first}{'' if one else f', {cut}'}, best epoch on test, as peers print it"
                for cut in self.cuts
            ]
        return texts

    def _line(self, label: str, own: Mapping[str, Run]) -> list[str]:
        seeds = " / ".join(dict.fromkeys(str(len(run["seeds"])) for run in own.values())) or "0"
        line = [label, _chosen_text(list(own.values())), seeds]
        line += [_cell(own.get(cut), name, self.record) for name in self.names for cut in self.cuts]
        if self.compared:
            line.append(self._difference(own[self.cuts[0]]) if own else "-")
        if self.peers:
            line += [_cell(own.get(cut), self.names[0], self.record, "best_on_test") for cut in self.cuts]
        return line

    def _difference(self, run: Run) -> str:
        values = (run["chosen"] or {"values": {}})["values"]
        found = self.compared.get((run["loss"], length_text(run), str(run["imbalance"]), str(values)))
        if found is None:
            references = {comparison["reference"] for comparison in self.compared.values()}
            return "reference" if run["loss"] in references else "-"
        interval = f" {_interval(found['images'])}" if found["images"] else ""
        return f"{found['difference']:+.1f}{interval}"

    def _notes(self) -> list[str]:
        lengths = set(map(length_text, self.runs))
        what = [*lengths] if len(lengths) == 1 else []
        what += dict.fromkeys(network_text(run) for run in self.runs)
        notes = [
            f"{self.split.capitalize()} split, {_kind_text(self.record['checkpoint'])}, per cent, mean and "
            f"standard deviation over seeds; {', '.join(what)}."
        ]
        for comparison in list(self.compared.values())[:1]:
            notes.append(
                f"Δ is the difference to {comparison['reference']} on the same seeds and images, with the "
                f"bootstrap interval over images, for these trained networks.{'' if self.short else _NO_BOLD}"
            )
        failed = [
            f"{one['loss']}, seed {one['seed']} ({one['reason']})"
            for one in self.record.get("failed", ())
            if one["stage"] == "final" and one["config"] == self.config
        ]
        notes += [f"Failed: {first_few(failed)}."] if failed else []
        return notes + differences(self.runs, self.record["environments"])


def _shown(run: Run, record: Mapping[str, Any], kind: str | None = None) -> Mapping[str, list[float]]:
    return run["scores"].get(kind or record["checkpoint"]) or {}


def _mean(run: Run | None, name: str, record: Mapping[str, Any]) -> float:
    values = _shown(run, record).get(name) if run else None
    return float(np.mean(values)) if values else -1.0


def _cell(run: Run | None, name: str, record: Mapping[str, Any], kind: str | None = None) -> str:
    if run is None:
        return "no runs"
    values = _shown(run, record, kind).get(name)
    return spread(values) if values else "not scored"


def _chosen_text(runs: Sequence[Run]) -> str:
    texts = dict.fromkeys(values_text((run["chosen"] or {"values": {}})["values"]) for run in runs)
    return " / ".join(texts) or "-"


def _interval(ends: Sequence[float]) -> str:
    return f"[{ends[0]:+.1f}, {ends[1]:+.1f}]"


def comparison_tables(record: Mapping[str, Any]) -> list[TextTable]:
    """Return a table of the paired differences to the reference, with the intervals over images and seeds.

    >>> row = {"config": "a.py", "imbalance": None, "split": "test", "epochs": 1, "loss": "mse", "values": {},
    ...        "reference": "ce", "score": "accuracy", "level": 0.95, "seeds": [1, 2, 3], "difference": -1.5,
    ...        "images": [-2.5, -0.5], "resamples": 2000, "training": [-4.0, 1.0], "p": 0.12}
    >>> comparison_tables({"comparisons": [row]})[0].rows[0][3:]
    ['-1.5', '[-2.5, -0.5]', '[-4.0, +1.0]', '3']
    """
    rows = record["comparisons"]
    if not rows:
        return []
    several = len({(row["config"], row["imbalance"], row["split"], length_text(row)) for row in rows}) > 1
    lines = []
    for row in rows:
        where = [f"{network_of(row['config'])}, {row['imbalance'] or row['split']}, {length_text(row)}"]
        lines.append(
            [
                *(where if several else []),
                row["loss"],
                row["reference"],
                {**SEG_SCORES, **SCORES}.get(row["score"], row["score"]),
                f"{row['difference']:+.1f}",
                _interval(row["images"]) if row["images"] else "no predictions",
                _interval(row["training"]) if row["training"] else "one seed",
                str(len(row["seeds"])),
            ]
        )
    level = f"{100 * rows[0]['level']:g} %"
    headings = ["loss", "reference", "score", "Δ", f"images [{level}]", f"seeds [{level}]", "pairs of seeds"]
    number = max(row["resamples"] or 0 for row in rows)
    notes = [
        f"Δ: mean difference on the same seeds and images. Images: percentile interval over {number} paired "
        "resamples of the images, for these trained networks. Seeds: paired t interval over seeds; with 2 "
        "seeds it is 12.7 standard errors wide to each side, with 3 4.3. Each interval is of one comparison: "
        f"of {len(rows)}, about {(1 - rows[0]['level']) * len(rows):.1f} miss the true difference by chance."
    ]
    return [TextTable("", [*(["run"] if several else []), *headings], lines, notes, left=4 if several else 3)]


def setting_tables(record: Mapping[str, Any]) -> list[TextTable]:
    """Return a table of what was run: network, cut, length, settings, seeds, time and memory of each row.

    >>> setting_tables({"runs": [], "environments": []})
    []
    """
    runs = record["runs"]
    if not runs:
        return []
    lines = []
    for run in runs:
        chosen = run["chosen"] or {"values": {}}
        others = {k: v for k, v in chosen["values"].items() if short_name(k) not in ("lr", "wd")}
        border = chosen.get("at_border") or []
        hours = run.get("seconds")
        lines.append(
            [
                *(run["loss"], network_text(run), _cut(run), run["split"], length_text(run)),
                setting_text(run, "lr"),
                setting_text(run, "wd"),
                values_text(others) or "-",
                ", ".join(short_name(name) for name in border) or "-",
                ", ".join(map(str, run["seeds"])),
                "-" if hours is None else f"{hours / 60:.1f}",
                f"{run['memory']:.1f}" if run.get("memory") else "-",
            ]
        )
    headings = ["loss", "network", "cut", "split", "length", "learning rate", "weight decay", "other"]
    headings += ["at the grid's border", "seeds", "minutes a run", "memory, GB"]
    return [TextTable("", headings, lines, differences(runs, record["environments"]), left=4)]


def class_tables(record: Mapping[str, Any]) -> list[TextTable]:
    """Return the recall, or IoU, of each class, for each config and cut of at most 20 classes.

    >>> class_tables({"runs": [], "checkpoint": "last"})
    []
    """
    groups: dict[Any, list[Run]] = defaultdict(list)
    for run in record["runs"]:
        groups[run["config"], run["imbalance"], run["split"]].append(run)
    tables = []
    for (config, imbalance, split), runs in groups.items():
        found = [run["per_class"].get(record["checkpoint"]) or {} for run in runs]
        name = next((name for own in found for name in own), None)
        classes = runs[0]["classes"]
        if name is None or len(classes) > _MOST_CLASSES:
            continue
        rows = []
        for run, own in zip(runs, found, strict=True):
            values = [[v for v in own.get(name, {}).get(k) or [] if v is not None] for k in classes]
            rows.append([_label(run, runs), *(f"{np.mean(v):.1f}" if v else "-" for v in values)])
        counts = runs[0]["counts"]
        if counts:
            numbers = counts.values() if isinstance(counts, Mapping) else counts
            rows.insert(0, ["training samples", *(f"{number:,}" for number in numbers)])
        title = f"{network_of(config)}, {imbalance or split}" if len(groups) > 1 else ""
        tables.append(TextTable(title, [f"{name} in per cent", *classes], rows))
    return tables


def _length(point: Mapping[str, Any]) -> int:
    return point["epochs"] or point["iterations"]


def tuning_tables(record: Mapping[str, Any]) -> list[TextTable]:
    """Return the validation scores of the tuning stage: losses in rows, learning rates in columns.

    Points of further settings have rows of their own, and so has every rung. The score chosen from is the
    mean over the tuning seeds.

    >>> point = {"config": "a.py", "imbalance": None, "loss": "ce", "rung": 0, "epochs": 5,
    ...          "metric": "mIoU", "values": {"lr": 0.1}, "scores": {"1": 40.0}}
    >>> table = tuning_tables({"tuning": [point, {**point, "values": {"lr": 1.0}, "scores": {"1": None}}]})[0]
    >>> table.headings, table.rows
    (['loss', 'epochs', 'lr 0.1', 'lr 1'], [['ce', '5', '40.0', 'diverged']])
    """
    groups: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    failed = [one for one in record.get("failed", ()) if one["stage"] == "tune"]
    for point in [*record["tuning"], *failed]:
        groups[point["config"], point["imbalance"]].append(point)
    chosen = {
        (run["config"], run["imbalance"], run["loss"]): run["chosen"]["values"]
        for run in record.get("runs", ())
        if run["chosen"]
    }
    tables = []
    for (config, imbalance), points in groups.items():
        rates = sorted({rate for rate in map(_rate, points) if rate is not None})
        last = {
            point["loss"]: max(_length(p) for p in points if p["loss"] == point["loss"]) for point in points
        }
        rows: dict[tuple[str, int, str], dict[float | None, str]] = defaultdict(dict)
        for point in points:
            others = {k: v for k, v in point["values"].items() if short_name(k) != "lr"}
            text = _tuned_text(point)
            if chosen.get((config, imbalance, point["loss"])) == point["values"]:
                text += " *" if _length(point) == last[point["loss"]] else ""
            rows[point["loss"], _length(point), values_text(others)][_rate(point)] = text
        further = any(others for _, _, others in rows)
        columns: list[float | None] = [*rates] or [None]
        lines = [
            [loss, *([others or "-"] if further else []), str(length)]
            + [cells.get(rate, "") for rate in columns]
            for (loss, length, others), cells in sorted(rows.items())
        ]
        unit = length_text(points[0]).split()[1]
        headings = ["loss", *(["with"] if further else []), unit]
        metric, by = (points[0].get(name) for name in ("metric", "by"))
        headings += [f"lr {rate:g}" for rate in rates] or [f"validation {metric}"]
        note = f"Validation {metric} in per cent, {_kind_text(by or 'last')}; * is the chosen point."
        title = f"{network_of(config)}, {imbalance or 'as configured'}" if len(groups) > 1 else ""
        tables.append(TextTable(title, headings, lines, [note], left=2 if further else 1))
    return tables


def _tuned_text(point: Mapping[str, Any]) -> str:
    if "reason" in point:
        return "failed"
    scores = list(point["scores"].values())
    return "diverged" if None in scores else spread(scores)


def _rate(point: Mapping[str, Any]) -> float | None:
    return next((v for k, v in point["values"].items() if short_name(k) == "lr"), None)
