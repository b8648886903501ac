"""Records of real runs: scores and what they were measured on; :mod:`mmseol.analysis.markdown` shows them."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmseol.metrics.scores import confusion_matrix, score_classes

__all__ = [
    "COSTS",
    "SCORES",
    "SEG_SCORES",
    "environment",
    "iou_of_maps",
    "iou_record",
    "scores_record",
    "written_scores",
]

SCORES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F",
    "worst_class": "worst class",
    "many/accuracy": "many",
    "medium/accuracy": "medium",
    "few/accuracy": "few",
}
"""Scores of ``mmseol.ClassBalanceMetric`` that tables show, with their headings; groups by accuracy."""

SEG_SCORES = {
    "mIoU": "mIoU",
    "few/mIoU": "tail mIoU",
    "macro_recall": "mean recall",
    "accuracy": "accuracy",
}
"""The same of ``mmseol.SegClassBalanceMetric``; the tail is the rarest third of the classes."""

COSTS = {"seconds": ("s / iteration", 2), "memory": ("peak memory, GB", 2)}
"""What a training run costs, with headings and digits: median seconds, and resident memory."""

_PACKAGES = ("torch", "mmengine", "mmcv", "mmsegmentation", "mmpretrain", "scikit-learn")


def environment() -> dict[str, Any]:
    """Return versions, device and commit, as every record states them."""
    versions = {}
    for name in _PACKAGES:
        for distribution in (f"onedl-{name}", name):
            try:
                versions[distribution] = version(distribution)
                break
            except PackageNotFoundError:
                continue
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    ).stdout.strip()
    return {
        "commit": commit or None,
        "device": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def iou_of_maps(
    samples: Sequence[tuple[str | Path, str | Path]], folder: str | Path, num_classes: int
) -> NDArray[np.float64]:
    """Return IoU per class, within 0..1 and NaN where absent, of predicted label maps, (K,).

    Args:
        samples: Image and label map file of each image; labels of ``num_classes`` and above are void.
        folder: Predicted label maps under the names of the label maps.

    Raises:
        FileNotFoundError: If a prediction is missing.
    """
    from PIL import Image

    confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
    for _, annotation in samples:
        paths = Path(annotation), Path(folder) / Path(annotation).name
        truth, predicted = (np.asarray(Image.open(path)) for path in paths)
        valid = truth < num_classes
        confusion += confusion_matrix(truth[valid], predicted[valid], num_classes)
    return score_classes(confusion).iou


def iou_record(
    title: str,
    commands: Sequence[str],
    classes: Sequence[str],
    iou: Mapping[str, NDArray[np.float64]],
    **extra: Any,
) -> dict[str, Any]:
    """Return a record of IoU per class, in per cent, for several methods.

    Args:
        title: What was measured, on which split.
        commands: What was run.
        classes: Names of the K classes.
        iou: IoU within 0..1, (K,), by method.
        extra: Whatever else a reader needs: seconds, epochs, notes.
    """
    rows = {
        name: {
            k: None if np.isnan(v) else round(100 * float(v), 2) for k, v in zip(classes, values, strict=True)
        }
        for name, values in iou.items()
    }
    means = {name: round(100 * float(np.nanmean(values)), 2) for name, values in iou.items()}
    return {
        "title": title,
        "commands": list(commands),
        "environment": environment(),
        **extra,
        "mean_iou": means,
        "iou": rows,
    }


def scores_record(
    title: str,
    commands: Sequence[str],
    runs: Mapping[str, Sequence[Mapping[str, float]]],
    headings: Mapping[str, str] = SCORES,
    **extra: Any,
) -> dict[str, Any]:
    """Return a record of scores, in per cent, of several methods over several runs each.

    Args:
        title: What was measured, on which split.
        commands: What was run.
        runs: The scores, and :data:`COSTS` where they are known, of each run, by method; a method whose
            runs all failed has none.
        headings: The scores to keep: :data:`SCORES` or :data:`SEG_SCORES`.
        extra: Whatever else a reader needs.
    """
    keys = [*headings, *COSTS]
    scores = {
        name: {
            key: [round(float(run[key]), 3 if key in COSTS else 2) for run in several]
            for key in keys
            if several and key in several[0]
        }
        for name, several in runs.items()
    }
    return {
        "title": title,
        "commands": list(commands),
        "environment": environment(),
        **extra,
        "scores": scores,
    }


def written_scores(folder: str | Path) -> dict[str, float]:
    """Return the test scores in per cent that ``mmseol.ClassBalanceMetric`` wrote below a work dir.

    Raises:
        FileNotFoundError: If there is not exactly one test.
    """
    found = sorted(Path(folder).glob("*/class_scores_test.json"))
    if len(found) != 1:
        raise FileNotFoundError(
            f"{str(folder)!r} must hold the class_scores_test.json of one test, got {len(found)}."
        )
    return json.loads(found[0].read_text())["scores"]
