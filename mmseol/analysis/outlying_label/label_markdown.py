"""Markdown tables of the records of ``analyze outlying-label``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmseol.analysis.outlying_label.cases import TITLES
from mmseol.analysis.tabulation.markdown import markdown_table
from mmseol.utils.checks import choice

__all__ = ["label_markdown"]

_HIDDEN = (
    *("classes", "counts", "means", "score", "fraction by class and output", "tuned"),
    *("test by seed", "validation by rate", "rates"),
)


def label_markdown(record: Mapping[str, Any], part: str | None) -> str:
    """Return the table of a part.

    >>> row = {"data": "digits, late", "loss": "ce", "argmax": [40.0, 1.5], "P": [0.25, None]}
    >>> print(label_markdown({"rows": [row]}, None))
    | data | loss | argmax | P |
    |---|---|---:|---:|
    | digits, late | cross entropy | 40.0 ± 1.5 | 0.250 |

    Args:
        record: Record of the command.
        part: ``'rows'``, ``'statements'``, those ``'late'`` or ``'early'`` in training, ``'runs'``, or
            ``'auto'``; ``None``: ``'rows'``.
    """
    part = choice("part", part or "rows", ("rows", "statements", "late", "early", "runs", "auto"))
    if part == "statements":
        return _statements(record)
    if part in ("late", "early"):
        return _by_data(record, part)
    if part == "runs":
        return _runs(record)
    rows = record["auto" if part == "auto" else "rows"]
    keys = list(dict.fromkeys(key for row in rows for key in row if key not in _HIDDEN))
    cells = [[_cell(row.get(key)) for key in keys] for row in rows]
    return markdown_table(
        keys, cells, left=[i for i, key in enumerate(keys) if key in ("data", "loss", "optimizer")]
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return TITLES.get(value, value.replace("_", " "))
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, (int, float)):
        return f"{value:.3g}"
    if len(value) == 2 and (value[1] is None or isinstance(value[1], float)) and isinstance(value[0], float):
        digits = 1 if abs(value[0]) >= 2 or (value[1] or 0) >= 0.5 else 3
        spread = "" if value[1] is None else f" ± {value[1]:.{digits}f}"
        return f"{value[0]:.{digits}f}{spread}"
    return " ".join("-" if number is None else f"{number:.2f}" for number in value)


def _statements(record: Mapping[str, Any]) -> str:
    rows = []
    for one in record["statements"]:
        small = abs(one["difference"]) < 2 and max(map(abs, one["images"])) < 2
        digits = 3 if small else 1

        def interval(ends: Any, digits: int = digits) -> str:
            return "" if ends is None else f"{ends[0]:+.{digits}f} to {ends[1]:+.{digits}f}"

        rows.append(
            [
                one["text"],
                one["data"],
                str(one["seeds"]),
                f"{one['difference']:+.{digits}f}",
                interval(one["images"]),
                interval(one["by_seed"]),
                f"**{one['verdict']}**" + (" (one seed)" if one["seeds"] == 1 else ""),
            ]
        )
    headings = ["statement", "data", "seeds", "difference", "over images", "over seeds", ""]
    return markdown_table(headings, rows, left=(0, 1, 6))


def _by_data(record: Mapping[str, Any], stage: str) -> str:
    """Return the statements on a stage of training, one column a data set; an interval is the wider one."""
    mine = [one for one in record["statements"] if one["data"].endswith(f", {stage}")]
    data = list(dict.fromkeys(one["data"].rpartition(",")[0] for one in mine))
    cells: dict[str, dict[str, str]] = {}
    for one in mine:
        ends = [value for pair in (one["images"], one["by_seed"]) if pair for value in pair]
        low, high = min(ends), max(ends)
        digits = 2 if max(abs(low), abs(high)) < 2 else 1
        numbers = f"{one['difference']:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
        cells.setdefault(one["text"], {})[one["data"].rpartition(",")[0]] = f"**{one['verdict']}** {numbers}"
    rows = [[text, *(row.get(name, "") for name in data)] for text, row in cells.items()]
    columns = [name.replace("_", " ") for name in data]
    return markdown_table([f"statement, {stage} in training", *columns], rows, left=range(len(data) + 1))


def _runs(record: Mapping[str, Any]) -> str:
    grouped: dict[tuple[Any, ...], list[int]] = {}
    for run in record["runs"]:
        settings = ", ".join(
            f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in run["settings"].items()
        )
        grouped.setdefault((run["data"], run["loss"], run["stage"], run["epoch"], settings), []).append(
            run["seed"]
        )
    rows = [
        [
            key[0],
            TITLES[key[1]],
            f"{key[2]}, epoch {key[3]}",
            key[4],
            ", ".join(map(str, seeds)),
        ]
        for key, seeds in grouped.items()
    ]
    return markdown_table(["data", "loss", "checkpoint", "settings", "seeds"], rows, left=(0, 1, 2, 3, 4))
