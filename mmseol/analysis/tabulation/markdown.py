"""Markdown tables of records."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mmseol.analysis.records.run_records import COSTS, SCORES, SEG_SCORES

__all__ = ["markdown", "markdown_table", "tuning_markdown"]

_LONG = 10  # rows of a benchmark that are left out


def markdown(record: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table of a record: methods in rows; classes, or scores with spread, in columns.

    A record of :mod:`mmseol.analysis.hosts` has a situation in each row; one of ``tools/benchmarks``, a list,
    has a comparison in each row.

    >>> print(markdown({"scores": {"ce": {"accuracy": [40.0, 44.0]}, "mse": {"accuracy": [41.0]}}}))
    | per cent | accuracy |
    |---|---:|
    | ce | 42.0 ± 2.8 |
    | mse | 41.0 |
    """
    if not isinstance(record, Mapping):
        return _benchmarks_markdown(record)
    if "situations" in record:
        return _situations_markdown(record)
    return _scores_markdown(record) if "scores" in record else _iou_markdown(record)


def tuning_markdown(record: Mapping[str, Any]) -> str:
    """Return a table of a record's ``tuning``: validation scores by loss (rows) and learning rate (columns).

    The best score of a loss is bold; a run without a score failed.

    >>> row = {"loss": "ce", "metric": "mIoU", "lr": 0.1, "score": 40.0}
    >>> print(tuning_markdown({"tuning": [row, {**row, "lr": 1.0, "score": None}]}))
    | validation mIoU by learning rate | 0.1 | 1 |
    |---|---:|---:|
    | ce | **40.0** | failed |
    """
    rows = record["tuning"]
    rates = sorted({row["lr"] for row in rows})
    lines = []
    for loss in dict.fromkeys(row["loss"] for row in rows):
        scores = {row["lr"]: row["score"] for row in rows if row["loss"] == loss}
        best = max(score for score in scores.values() if score is not None)
        cells = [_tuning_cell(scores[rate], best) if rate in scores else "" for rate in rates]
        lines.append([loss, *cells])
    metric = f"validation {rows[0]['metric']} by learning rate"
    return markdown_table([metric, *(f"{rate:g}" for rate in rates)], lines)


def markdown_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[int] = (0,)
) -> str:
    """Return a table; its columns are flush right but those of ``left``.

    >>> print(markdown_table(["loss", "mIoU"], [["ce", "40.0"]]))
    | loss | mIoU |
    |---|---:|
    | ce | 40.0 |
    """
    rule = "|" + "".join("---|" if i in left else "---:|" for i in range(len(headings)))
    first, *others = ("| " + " | ".join(cells) + " |" for cells in (headings, *rows))
    return "\n".join([first, rule, *others])


def _tuning_cell(score: float | None, best: float) -> str:
    if score is None:
        return "failed"
    return f"**{score:.1f}**" if score == best else f"{score:.1f}"


def _benchmarks_markdown(tables: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for table in tables:
        for row in table["rows"] if len(table["rows"]) < _LONG else []:
            cells = [f"{row[key]:.3f}" if key in row else "" for key in ("time_ratio", "memory_ratio")]
            lines.append([f"{table['title']}: {row['name']}", row["sizes"], *cells])
    return markdown_table(["step", "sizes", "time", "extra memory"], lines, left=(0, 1))


def _situations_markdown(record: Mapping[str, Any]) -> str:
    def cell(value: Any) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    rows = [
        [row["situation"], *(cell(row[key]) for key in ("right", "ours", "host")), f"`{row['component']}`"]
        for row in record["situations"]
    ]
    return markdown_table(["case", "correct", "mmseol", "built-in", "component"], rows, left=(0, 4))


def _scores_markdown(record: Mapping[str, Any]) -> str:
    known = {**SEG_SCORES, **SCORES, **{key: heading for key, (heading, _) in COSTS.items()}}
    keys = [key for key in known if any(key in row for row in record["scores"].values())]
    rows = [
        [name, *(_cell(key, row[key]) if key in row else "failed" for key in keys)]
        for name, row in record["scores"].items()
    ]
    return markdown_table(["per cent", *(known[key] for key in keys)], rows)


def _cell(key: str, values: Sequence[float]) -> str:
    if key in COSTS:
        return f"{np.median(values):.{COSTS[key][1]}f}"
    spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{spread}"


def _iou_markdown(record: Mapping[str, Any]) -> str:
    classes = list(next(iter(record["iou"].values())))
    rows = [
        [
            name,
            f"{record['mean_iou'][name]:.1f}",
            *("" if row[k] is None else f"{row[k]:.1f}" for k in classes),
        ]
        for name, row in record["iou"].items()
    ]
    return markdown_table(["IoU in per cent", "mean", *classes], rows)
