"""Scores per class as a table for the log, and as JSON and CSV files."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import MessageHub, MMLogger
from numpy.typing import NDArray
from rich.table import Table

from mmseol.metrics.scores import ClassScores
from mmseol.utils.files import replacing
from mmseol.utils.text import table_text

__all__ = ["class_rows", "evaluation", "score_table", "write_scores"]

_AT_MOST = 100  # classes that are shown all
_WORST = 50  # of more: so many with the lowest F-measure


def class_rows(
    names: Sequence[str],
    scores: ClassScores,
    counts: NDArray[Any] | None = None,
    groups: NDArray[Any] | None = None,
) -> list[dict[str, Any]]:
    """Return one record per class: counts, and scores in per cent or ``None``.

    >>> from mmseol.metrics.scores import score_classes
    >>> class_rows(["road", "car"], score_classes([[8, 2], [0, 5]]))[0]["recall"]
    80.0

    Args:
        counts: Training samples or pixels of each class, (K,).
        groups: Group of each class, (K,).
    """
    return [
        {
            "class": name,
            "group": None if groups is None else str(groups[c]),
            "training": None if counts is None else int(counts[c]),
            "truth": int(scores.truth[c]),
            "predicted": int(scores.predicted[c]),
            "IoU": _per_cent(scores.iou[c]),
            "F1": _per_cent(scores.f1[c]),
            "precision": _per_cent(scores.precision[c]),
            "recall": _per_cent(scores.recall[c]),
        }
        for c, name in enumerate(names)
    ]


def _per_cent(value: float) -> float | None:
    return None if isnan(value) else 100.0 * float(value)


def score_table(title: str, rows: list[dict[str, Any]]) -> str:
    """Return one line per class; of more than 100 classes, the 50 of the lowest F-measure.

    >>> print(score_table("Scores", [{"class": "road", "F1": 80.0}, {"class": "car", "F1": None}]))
    Scores
    ┏━━━━━━━┳━━━━━━━┓
    ┃ class ┃    F1 ┃
    ┡━━━━━━━╇━━━━━━━┩
    │ road  │ 80.00 │
    │ car   │     - │
    └───────┴───────┘
    """
    table = Table(title=title, title_justify="left", title_style="")
    # Columns without any value are left out.
    headings = [heading for heading in rows[0] if any(row[heading] is not None for row in rows)]
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("class", "group") else "right")
    if len(rows) > _AT_MOST:
        table.caption = f"The {_WORST} classes of the lowest F1; all {len(rows)} are in the files."
        seen = [row for row in rows if row["F1"] is not None]
        rows = sorted(seen, key=lambda row: row["F1"])[:_WORST]
    for row in rows:
        table.add_row(*(_cell(row[heading]) for heading in headings))
    return table_text(table)


def _cell(value: str | float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"


def evaluation() -> tuple[Path | None, dict[str, Any]]:
    """Return the log folder of the run that evaluates now, and its stage, epoch and iteration.

    Epochs and iterations are those that training has finished, ``None`` if none. Outside of a Runner's
    validation or test there is no folder.

    >>> evaluation()
    (None, {'stage': None, 'epoch': None, 'iter': None})
    """
    hub = MessageHub.get_current_instance()
    stage = hub.get_info("loop_stage")
    if stage not in ("val", "test"):
        return None, {"stage": None, "epoch": None, "iter": None}
    # The hub holds the epoch and iteration that were begun last, counted from 0. An iteration-based run has
    # one epoch only, which is not reported.
    epoch = hub.get_info("epoch") if (hub.get_info("max_epochs") or 0) > 1 else None
    done = hub.get_info("iter")
    log_file = getattr(MMLogger.get_current_instance(), "log_file", None)
    progress = {
        "stage": stage,
        "epoch": None if epoch is None else epoch + 1,
        "iter": None if done is None else done + 1,
    }
    return (Path(log_file).parent if log_file else None), progress


def write_scores(
    folder: Path,
    progress: dict[str, Any],
    prefix: str | None,
    record: dict[str, Any],
    confusion: NDArray[Any] | None = None,
) -> Path:
    """Write ``record`` as JSON and its ``classes`` as CSV under a new name; return the JSON's path.

    A confusion matrix (K, K) is written beside them as ``.npz``, under the name ``confusion``.

    The name holds the metric's prefix, the stage, and, in validation, the epoch or, without epochs, the
    iteration: ``class_scores_val_epoch_3.json``.

    >>> import tempfile
    >>> progress = {"stage": "val", "epoch": 3, "iter": 300}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_scores(Path(folder), progress, None, {"classes": [{"class": "road"}]}).name
    'class_scores_val_epoch_3.json'
    """
    parts = ["class_scores", (prefix or "").replace("/", "_"), progress["stage"] or ""]
    unit = "epoch" if progress["epoch"] is not None else "iter"
    if progress["stage"] == "val" and progress[unit] is not None:
        parts.append(f"{unit}_{progress[unit]}")
    stem = "_".join(filter(None, parts))
    names = [stem, *(f"{stem}_{number}" for number in range(2, 10_000))]
    free = next(
        name
        for name in names
        if not any((folder / f"{name}{end}").exists() for end in (".json", ".csv", ".npz"))
    )
    paths = folder / f"{free}.json", folder / f"{free}.csv"
    with replacing(paths[0], "w") as file, replacing(paths[1], "w") as table:  # both or none
        json.dump({**progress, **record}, file, indent=1, allow_nan=False)
        file.flush()
        writer = csv.DictWriter(table, list(record["classes"][0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(record["classes"])
    if confusion is not None:
        with replacing(folder / f"{free}.npz") as file:
            np.savez_compressed(file, confusion=confusion)
    return paths[0]
