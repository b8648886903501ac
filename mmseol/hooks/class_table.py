"""Format the class counts of a run as a table for its log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from rich.table import Table
from torch import Tensor

from mmseol.counting.counts import ClassCounts
from mmseol.utils.text import table_text

__all__ = ["class_table", "derived_columns", "drawn_column"]

_AT_MOST = 100  # classes in a full table
_EACH_END = 25  # most and least frequent classes in a shortened table
_DERIVED = {"target_values": "target value", "class_weight": "class weight", "margins": "margin"}


def derived_columns(modules: Iterable[tuple[str, Any]]) -> dict[str, list[float]]:
    """Return the values that the losses derive from the counts, (K,) each, by heading; equal columns once.

    >>> from mmseol.losses import OutlyingMSELoss
    >>> derived_columns([("head.loss", OutlyingMSELoss(class_counts=[90, 10]))])
    {'target value': [1.0, 2.0]}
    """
    found: list[tuple[str, str, list[float]]] = []
    for name, module in modules:
        for attribute, heading in _DERIVED.items():
            values = getattr(module, attribute, None)
            if isinstance(values, Tensor) and values.dim() == 1:
                column = values.detach().cpu().tolist()
                if all((heading, column) != (other, known) for other, _, known in found):
                    found.append((heading, name, column))
    headings = [heading for heading, _, _ in found]
    return {
        heading if headings.count(heading) == 1 else f"{heading} ({name})": column
        for heading, name, column in found
    }


def drawn_column(sampler: Any, num_classes: int) -> dict[str, list[float]]:
    """Return the number of images of each class that a sampler expects to draw in an epoch, by heading.

    Samplers without ``expected_counts`` give no column.

    >>> from types import SimpleNamespace
    >>> drawn_column(SimpleNamespace(expected_counts=lambda: [5, 5]), num_classes=2)
    {'drawn an epoch': [5.0, 5.0]}
    """
    if not callable(getattr(sampler, "expected_counts", None)):
        return {}
    expected = np.asarray(sampler.expected_counts(), dtype=np.float64)
    return {"drawn an epoch": expected.tolist()} if expected.shape == (num_classes,) else {}


def class_table(
    title: str, names: Sequence[str], counts: ClassCounts, columns: dict[str, list[float]]
) -> str:
    """Return one line per class: name, samples, their fraction, images, and ``columns``; (K,) each.

    Of more than 100 classes, it lists the 25 most and the 25 least frequent.

    >>> counts = ClassCounts(*[np.array([90, 10])] * 3)
    >>> print(class_table("2 classes", ["road", "pole"], counts, {"margin": [0.1, 0.5]}))
    2 classes
    ┏━━━━━━━┳━━━━━━━━┳━━━━━━━━━┳━━━━━━━━┓
    ┃ class ┃ images ┃   share ┃ margin ┃
    ┡━━━━━━━╇━━━━━━━━╇━━━━━━━━━╇━━━━━━━━┩
    │ road  │     90 │ 90.00 % │    0.1 │
    │ pole  │     10 │ 10.00 % │    0.5 │
    └───────┴────────┴─────────┴────────┘
    """
    table = Table(title=title, title_justify="left", title_style="")
    pixels = not np.array_equal(counts.samples, counts.images)
    headings = ["pixels", "share", "images"] if pixels else ["images", "share"]
    table.add_column("class")
    for heading in [*headings, *columns]:
        table.add_column(heading, justify="right")
    order = np.arange(len(names))
    if len(names) > _AT_MOST:
        order = np.argsort(-counts.samples, kind="stable")
        table.caption = f"{len(names) - 2 * _EACH_END} classes of medium frequency are not shown."
        order = np.concatenate([order[:_EACH_END], order[-_EACH_END:]])
    whole = max(int(counts.samples.sum()), 1)
    for place, c in enumerate(order.tolist()):
        row = [f"{counts.samples[c]:,}", f"{100 * counts.samples[c] / whole:.2f} %"]
        row += [f"{counts.images[c]:,}"] if pixels else []
        row += [f"{column[c]:.4g}" for column in columns.values()]
        table.add_row(names[c], *row, end_section=len(names) > _AT_MOST and place == _EACH_END - 1)
    return table_text(table)
