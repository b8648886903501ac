"""Our runs beside the numbers that the paper and the literature print."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmseol.analysis.records.paper import (
    Column,
    PrintedRow,
    PrintedTable,
    dataset_of,
    network_of,
    printed_tables,
)
from mmseol.analysis.tabulation.run_text import (
    Run,
    differences,
    length_text,
    network_text,
    setting_text,
    values_text,
)
from mmseol.analysis.tabulation.text_table import TextTable, spread
from mmseol.utils.checks import choice

__all__ = ["beside_printed", "paper_table"]

_AS_CONFIGURED = {"cifar10": "long_tailed:100", "cifar100": "long_tailed:100"}


def beside_printed(record: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the rows of a printed table, each with our runs of the same loss, as plain data.

    >>> rows = beside_printed({"runs": [], "checkpoint": "last"}, "6")
    >>> rows[-1]["loss"], rows[-1]["printed"], rows[-1]["ours"]
    ('outlying_mse', {'mIoU': [72.69, 0.19]}, [])

    Args:
        record: Record of :func:`mmseol.analysis.sweep_record.sweep_record`.
        name: ``'1'`` to ``'7'``, or ``'lt'`` for the literature's on long-tailed CIFAR.

    Returns:
        By row: ``loss``, ``printed`` by column, and ``ours``: network, length, weight decay, chosen values,
        and by column seeds, mean, standard deviation, difference to the printed mean and, if known, the mean
        at the epoch that is best on the test split.
    """
    choice("name", name, printed_tables())
    table = printed_tables()[name]
    rows = []
    for row in table.rows:
        found = _runs_by_row(record, table, row)
        ours = [_our_row(row, columns, table, record["checkpoint"]) for columns in found.values()]
        printed = {_text(column, table): list(values) for column, values in row.values.items()}
        rows.append({"loss": row.label, "printed": printed, "ours": ours})
    return rows


def _runs_by_row(
    record: Mapping[str, Any], table: PrintedTable, row: PrintedRow
) -> dict[Any, dict[Column, Run]]:
    """Return our runs of a printed row by network, cut, epochs and split; then by column."""
    found: dict[Any, dict[Column, Run]] = defaultdict(dict)
    for run in record["runs"]:
        dataset = dataset_of(run["config"])
        profile, further = _cut(run, dataset)
        if not _is_row(run, row, table):
            continue
        network = network_text(run) + (f", {further}" if further else "")
        key: tuple[Any, ...] = (network, run["loss"], length_text(run), run["split"])
        for column in table.columns:
            if column.dataset == dataset and column.imbalance in (None, profile):
                while column in found[key]:  # rows of other options
                    key = (*key, "again")
                found[key][column] = run
    return {key: columns for key, columns in found.items() if columns}


def _cut(run: Run, dataset: str | None) -> tuple[str | None, str]:
    """Return the imbalance as ``PROFILE:RATIO``, and its further arguments."""
    imbalance = run["imbalance"] or _AS_CONFIGURED.get(dataset or "")
    if imbalance is None:
        return None, ""
    profile, ratio, further = [*imbalance.split(":", 2), "", ""][:3]
    return f"{profile}:{ratio}", further


def _is_row(run: Run, row: PrintedRow, table: PrintedTable) -> bool:
    loss, _, arguments = run["loss"].partition(":")
    network = network_of(run["config"]).split("_")
    chosen = (run["chosen"] or {"values": {}})["values"]
    if loss != row.loss or (table.network and network[0] != table.network):
        return False
    if table.name == "lt" and ("drw" in network) != ("DRW" in row.label):
        return False
    if row.tuned is not None and row.tuned != any(key.endswith(("wd", "weight_decay")) for key in chosen):
        return False
    if row.alpha is None or ("alpha" in chosen and table.name != "7"):
        return True
    given = dict(item.split("=", 1) for item in arguments.split(",") if "=" in item).get("alpha")
    own = chosen.get("alpha", given)
    if own is None:  # the data set's alpha is the paper's
        own = printed_tables()["6"].rows[-1].alpha if table.name == "7" else row.alpha
    return float(own) == row.alpha


def _text(column: Column, table: PrintedTable) -> str:
    return column.dataset if table.name == "lt" else column.heading


def _our_row(
    row: PrintedRow, columns: Mapping[Column, Run], table: PrintedTable, kind: str
) -> dict[str, Any]:
    runs = list(columns.values())
    cells = {}
    for column, run in columns.items():
        values = (run["scores"][kind] or {}).get(column.score) or []
        peers = (run["scores"]["best_on_test"] or {}).get(column.score) or []
        if values:
            cells[_text(column, table)] = {
                "seeds": run["seeds"],
                "values": values,
                "mean": round(float(np.mean(values)), 2),
                "std": round(float(np.std(values, ddof=1)), 2) if len(values) > 1 else None,
                "difference": round(float(np.mean(values)) - row.values[column][0], 2),
                "best_on_test": peers or None,
            }
    return {
        "loss": runs[0]["loss"],
        "network": network_text(runs[0]) + "".join(f", {text}" for text in _further(runs)),
        "split": runs[0]["split"],
        "length": length_text(runs[0]),
        "weight_decay": " / ".join(dict.fromkeys(setting_text(run, "wd") for run in runs)),
        "chosen": " / ".join(
            dict.fromkeys(values_text((run["chosen"] or {"values": {}})["values"]) or "-" for run in runs)
        ),
        "seeds": " / ".join(dict.fromkeys(str(len(run["seeds"])) for run in runs)),
        "cells": cells,
    }


def _further(runs: Sequence[Run]) -> list[str]:
    return [text for text in dict.fromkeys(_cut(run, None)[1] for run in runs) if text]


def paper_table(record: Mapping[str, Any], name: str) -> TextTable:
    """Return a printed table with our rows below each of its rows; a cell without runs says so.

    >>> table = paper_table({"runs": [], "environments": [], "checkpoint": "last"}, "6")
    >>> [row[-1] for row in table.rows[-2:]]
    ['72.69 ± 0.19', 'no runs']

    Args:
        record: Record of :func:`mmseol.analysis.sweep_record.sweep_record`.
        name: ``'1'`` to ``'7'``, or ``'lt'``.
    """
    rows = beside_printed(record, name)
    table = printed_tables()[name]
    columns = [_text(column, table) for column in table.columns]
    lines: list[list[str]] = []
    for row in rows:
        cells = [_printed(row["printed"].get(column)) for column in columns]
        lines.append([row["loss"], "printed", "", "", "", "", "", *cells])
        for own in row["ours"] or [None]:
            lines += _our_lines(own, columns)
    headings = ["loss", "", "network", "length", "weight decay", "chosen", "seeds", *columns]
    used = [
        run
        for run in record["runs"]
        if any(
            run in columns.values() for r in table.rows for columns in _runs_by_row(record, table, r).values()
        )
    ]
    where = "" if name == "lt" else f"Table {name}. "
    notes = [f"Printed: {table.source}. Ours: {_kinds(record)}, difference to the printed mean."]
    if any(run["split"] != "test" for run in used):
        notes.append("The printed scores are of the test split; rows of ours marked val are not.")
    return TextTable(
        f"{where}{table.title}", headings, lines, [*notes, *differences(used, record["environments"])], left=6
    )


def _kinds(record: Mapping[str, Any]) -> str:
    last = record["checkpoint"] == "last"
    return (
        f"{'last epoch' if last else 'best epoch on validation data'}, mean and standard deviation over seeds"
    )


def _printed(values: Sequence[float] | None) -> str:
    return "" if values is None else " ± ".join(f"{value:.2f}" for value in values)


def _our_lines(own: Mapping[str, Any] | None, columns: Sequence[str]) -> list[list[str]]:
    if own is None:
        return [["", "ours", "", "", "", "", "", *("no runs" for _ in columns)]]
    what = "ours" + ("" if own["split"] == "test" else f" ({own['split']})")
    how = [own["network"], own["length"], own["weight_decay"], own["chosen"], own["seeds"]]
    cells = []
    for column in columns:
        cell = own["cells"].get(column)
        cells.append(f"{spread(cell['values'], 2)} ({cell['difference']:+.2f})" if cell else "no runs")
    lines = [["", what, *how, *cells]]
    if any(cell["best_on_test"] for cell in own["cells"].values()):
        peers = [own["cells"].get(column) for column in columns]
        cells = [spread(cell["best_on_test"], 2) if cell and cell["best_on_test"] else "" for cell in peers]
        lines.append(["", "ours, best epoch on test, as peers print it", *how, *cells])
    return lines
