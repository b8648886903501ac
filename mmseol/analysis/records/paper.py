"""The results that arXiv 2107.02393 and the literature print, read from ``paper_tables.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

__all__ = ["Column", "PrintedRow", "PrintedTable", "dataset_of", "network_of", "printed_tables"]

_FILE = Path(__file__).with_name("paper_tables.json")
_CIFAR = ("cifar100", "cifar10")
_FOLDERS = {"food101": "food101_lt", "camvid": "camvid"}


class Column(NamedTuple):
    """A column of a printed table: one score on one cut of one data set.

    >>> Column("cifar10", "step:10", "accuracy").heading
    'step 10'
    """

    dataset: str
    imbalance: str | None
    score: str

    @property
    def heading(self) -> str:
        """Text above the column."""
        if self.imbalance:
            return self.imbalance.replace("long_tailed:", "long-tailed ").replace("step:", "step ")
        return {"macro_f1": "F-measure"}.get(self.score, self.score)


class PrintedRow(NamedTuple):
    """A row of a printed table.

    >>> PrintedRow("vs, weight decay tuned", "vs", None, True, {}).loss
    'vs'

    Attributes:
        label: Text before the row.
        loss: Name of the loss, as ``--loss`` takes it.
        alpha: Its alpha, for outlying MSE.
        tuned: Whether weight decay was tuned, where the table tells.
        values: Mean and, if printed, standard deviation in per cent, by column.
    """

    label: str
    loss: str
    alpha: float | None
    tuned: bool | None
    values: Mapping[Column, tuple[float, ...]]


@dataclass(frozen=True)
class PrintedTable:
    """A printed table: its columns and rows, and where it was printed.

    >>> table = printed_tables()["6"]
    >>> table.title, [row.loss for row in table.rows][-1], table.rows[-1].values[table.columns[0]]
    ('Mean IoU on CamVid', 'outlying_mse', (72.69, 0.19))

    Attributes:
        network: The only network that the table is of, if it names one.
    """

    name: str
    title: str
    source: str
    columns: tuple[Column, ...]
    rows: tuple[PrintedRow, ...]
    network: str | None


@cache
def printed_tables() -> dict[str, PrintedTable]:
    """Return the paper's tables, ``'1'`` to ``'7'``, and ``'lt'``, the literature's on long-tailed CIFAR.

    >>> row = printed_tables()["1"].rows[0]
    >>> row.loss, row.values[Column("cifar10", "long_tailed:100", "accuracy")]
    ('ce', (44.5, 0.53))
    """
    content = json.loads(_FILE.read_text(encoding="utf-8"))
    return {
        name: _table(name, table, content["source"], content["alpha"])
        for name, table in content["tables"].items()
    }


def _table(name: str, table: Mapping[str, Any], source: str, alphas: Mapping[str, float]) -> PrintedTable:
    rows = []
    for label, cells in table["rows"].items():
        loss, _, state = label.partition(", ")
        alpha = alphas.get(table.get("dataset", "")) if loss == "outlying_mse" else None
        if name == "7":  # its rows are alphas
            label, loss, alpha = f"outlying_mse:alpha={label}", "outlying_mse", float(label)
        tuned = state.endswith("tuned") if name == "lt" and loss == "vs" else None
        values = {_column(table, key): tuple(value) for key, value in cells.items()}
        rows.append(PrintedRow(label, loss, alpha, tuned, values))
    columns = tuple(dict.fromkeys(column for row in rows for column in row.values))
    return PrintedTable(
        name, table["title"], table.get("source", source), columns, tuple(rows), table.get("network")
    )


def _column(table: Mapping[str, Any], key: str) -> Column:
    if "imbalance" in table:
        return Column(key, table["imbalance"], table["metric"])
    if "metric" in table:
        return Column(table["dataset"], key, table["metric"])
    return Column(table["dataset"], None, key)


def dataset_of(config: str) -> str | None:
    """Return the paper's name of the data set of one of our configs, ``None`` for another config.

    >>> [dataset_of(config) for config in ("cifar/resnet34_cifar10.py", "camvid/fastfcn_r18.py", "a.py")]
    ['cifar10', 'camvid', None]
    """
    path = PurePosixPath(config.replace("\\", "/"))
    for name in _CIFAR:
        if path.stem.endswith(f"_{name}"):
            return name
    return _FOLDERS.get(path.parent.name)


def network_of(config: str) -> str:
    """Return the network that the name of a config names.

    >>> network_of("configs/cifar/resnet34_stem3x3_cifar10.py"), network_of("camvid/fastfcn_r18.py")
    ('resnet34_stem3x3', 'fastfcn_r18')
    """
    stem = PurePosixPath(config.replace("\\", "/")).stem
    return next((stem.removesuffix(f"_{name}") for name in _CIFAR if stem.endswith(f"_{name}")), stem)
