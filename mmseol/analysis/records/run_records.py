"""Records of real runs: scores, commands, environment; ``analysis.tabulation.markdown`` prints them."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmseol.metrics.scores import confusion_matrix, score_classes

__all__ = [
    "COSTS",
    "SCORES",
    "SEG_SCORES",
    "environment",
    "installed_versions",
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
"""Scores of ``mmseol.ClassBalanceMetric`` in tables, with their headings."""

SEG_SCORES = {
    "mIoU": "mIoU",
    "few/mIoU": "tail mIoU",
    "macro_recall": "mean recall",
    "accuracy": "accuracy",
}
"""Scores of ``mmseol.SegClassBalanceMetric`` in tables; the tail is the rarest third of the classes."""

COSTS = {"seconds": ("s / iteration", 2), "memory": ("peak memory, GB", 2)}
"""Median seconds and peak resident memory of a training run, with their headings and digits."""

_PACKAGES = ("torch", "mmengine", "mmcv", "mmsegmentation", "mmpretrain", "scikit-learn")


def environment() -> dict[str, Any]:
    """Return the versions, device and commit that every record names.

    mmengine's ``collect_env`` takes seconds, imports OpenCV and does not know the hosts' versions.

    >>> sorted(environment())
    ['commit', 'device', 'python', 'versions']
    """
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    ).stdout.strip()
    return {
        "commit": commit or None,
        "device": _device(),
        "python": platform.python_version(),
        "versions": installed_versions(),
    }


def installed_versions() -> dict[str, str]:
    """Return the version of each package that a result depends on, maintained and original ones.

    >>> "torch" in installed_versions()
    True
    """
    versions = {}
    for name in _PACKAGES:
        for distribution in (f"onedl-{name}", name):
            try:
                versions[distribution] = version(distribution)
            except PackageNotFoundError:
                continue
    return versions


def _device() -> str:
    if torch.cuda.is_available():
        names = Counter(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return ", ".join(f"{number} {name}" if number > 1 else name for name, number in names.items())
    return f"{os.cpu_count()} CPU cores, {platform.machine()}"


def iou_of_maps(
    samples: Sequence[tuple[str | Path, str | Path]], folder: str | Path, num_classes: int
) -> NDArray[np.float64]:
    """Return the IoU of each class within 0..1, NaN for a class absent from truth and prediction, (K,).

    >>> import tempfile
    >>> from PIL import Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name, labels in (("truth", [0, 0, 1, 255]), ("predicted", [0, 1, 1, 1])):
    ...     (folder / name).mkdir()
    ...     Image.fromarray(np.array([labels], np.uint8)).save(folder / name / "a.png")
    >>> iou_of_maps([("a.jpg", folder / "truth" / "a.png")], folder / "predicted", num_classes=2).tolist()
    [0.5, 0.5]

    Args:
        samples: Image and label map file of each image; labels of ``num_classes`` and above are void.
        folder: Folder of predicted label maps, named as the label maps of ``samples``.
        num_classes: K.

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
    """Return a record of the IoU of each class, in per cent, for several methods.

    >>> iou_record("toy, test split", ["run"], ["road", "car"], {"ce": np.array([0.5, 0.25])})["mean_iou"]
    {'ce': 37.5}

    Args:
        title: Data set, model and split.
        commands: Command lines of the runs.
        classes: Names of the K classes.
        iou: IoU within 0..1, (K,), by method.
        extra: Further entries: seconds, epochs, notes.
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
    """Return a record of the scores, in per cent, of several methods with several runs each.

    >>> runs = {"ce": [{"accuracy": 40.0}, {"accuracy": 44.0}]}
    >>> scores_record("digits, test split", ["run"], runs)["scores"]
    {'ce': {'accuracy': [40.0, 44.0]}}

    Args:
        title: Data set, model and split.
        commands: Command lines of the runs.
        runs: Scores, and :data:`COSTS` if known, of each run, by method; empty if all runs failed.
        headings: Scores to keep: :data:`SCORES` or :data:`SEG_SCORES`.
        extra: Further entries.
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
    """Return the test scores in per cent that ``mmseol.ClassBalanceMetric`` wrote into a work directory.

    >>> import tempfile
    >>> (folder := Path(tempfile.mkdtemp()) / "20260101_000000").mkdir()
    >>> _ = (folder / "class_scores_test.json").write_text('{"scores": {"accuracy": 40.0}}')
    >>> written_scores(folder.parent)
    {'accuracy': 40.0}

    Raises:
        FileNotFoundError: If it does not hold the scores of exactly one test.
    """
    found = sorted(Path(folder).glob("*/class_scores_test.json"))
    if len(found) != 1:
        raise FileNotFoundError(
            f"{str(folder)!r} must hold the class_scores_test.json of one test, got {len(found)}."
        )
    return json.loads(found[0].read_text())["scores"]
