"""Made records of trials, whose scores are those of made predictions, by scikit-learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, jaccard_score, recall_score

CLASSES = ("cat", "dog", "emu")
TRUTH = np.random.default_rng(0).integers(0, len(CLASSES), 120)
SEG_TRUTH = np.random.default_rng(1).integers(0, len(CLASSES), (12, 40))
CONFIG = "cifar/resnet34_cifar10.py"
ENVIRONMENT = {"commit": "abc", "device": "2 CPU cores", "python": "3.11", "versions": {"torch": "2.1"}}


def predict(truth: NDArray[np.int64], seed: int, wrong: float) -> NDArray[np.int64]:
    """Return labels of which a fraction is drawn at random."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(truth.shape) < wrong, rng.integers(0, len(CLASSES), truth.shape), truth)


def sklearn_scores(truth: NDArray[np.int64], label: NDArray[np.int64]) -> dict[str, float]:
    """Return scores in per cent."""
    truth, label = truth.ravel(), label.ravel()
    return {
        "accuracy": 100 * accuracy_score(truth, label),
        "macro_f1": 100 * f1_score(truth, label, average="macro"),
        "macro_recall": 100 * recall_score(truth, label, average="macro"),
        "mIoU": 100 * jaccard_score(truth, label, average="macro"),
    }


def tallies(truth: NDArray[np.int64], label: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the pixels of each image that are right, predicted, in the truth: (images, K, 3)."""
    one = np.arange(len(CLASSES))
    is_truth, is_label = truth[..., None] == one, label[..., None] == one
    return np.stack([(is_truth & is_label).sum(1), is_label.sum(1), is_truth.sum(1)], axis=-1)


def write_trial(work_dir: Path, loss: str = "ce", seed: int = 1, wrong: float = 0.5, **changes: Any) -> Path:
    """Write the record and the predictions of one trial; return the path of the record.

    Args:
        wrong: Fraction of the labels drawn at random.
        changes: Entries of the record; ``segmentation=True`` makes tallies, ``best_on_test=1.0`` adds that
            to the scores as those of the best epoch on the test split.
    """
    segmentation = changes.pop("segmentation", False)
    better = changes.pop("best_on_test", None)
    truth = SEG_TRUTH if segmentation else TRUTH
    label = predict(truth, 100 * seed + len(loss), wrong)
    stage = changes.get("stage", "final")
    split = changes.pop("split", "val" if stage == "tune" else "test")
    scores = sklearn_scores(truth, label)
    recalls = 100 * recall_score(truth.ravel(), label.ravel(), average=None)
    ious = 100 * jaccard_score(truth.ravel(), label.ravel(), average=None)
    per_class = {
        name: {"recall": float(recall), "IoU": float(iou)}
        for name, recall, iou in zip(CLASSES, recalls, ious, strict=True)
    }
    last = {"split": split, "epoch": 20, "scores": scores, "per_class": per_class}
    values = changes.pop("values", {"lr": 0.1})
    record = {
        "format": 1,
        "sweep": "made",
        "stage": stage,
        "rung": 0 if stage == "tune" else None,
        "config": CONFIG,
        "loss": loss,
        "imbalance": "long_tailed:100",
        "seed": seed,
        "options": ["model.backbone.depth=18"],
        "epochs": 20,
        "metric": "mIoU" if segmentation else "accuracy",
        "version": "v1",
        "values": values,
        "chosen": {"on": "val", "metric": "accuracy", "values": values, "score": 50.0}
        if stage == "final"
        else None,
        "data": {"digest": "d1", "subset_digest": "s1", "counts": [90, 9, 1]},
        "classes": list(CLASSES),
        "scores": {
            "last": last,
            "best_on_validation": {**last, "epoch": 15},
            "best_on_test": better
            and {**last, "scores": {name: value + better for name, value in scores.items()}},
        },
        "seconds": 60.0,
        "memory": 1.5,
        "environment": ENVIRONMENT,
        **changes,
    }
    identity = "_".join(map(str, (record["sweep"], stage, record["rung"], loss.replace(":", "-"), seed)))
    identity += f"_{record['imbalance']}_{record['epochs']}_{sorted(values.items())}"
    record.setdefault("id", "".join(c if c.isalnum() else "-" for c in identity))
    folder = work_dir / "trials" / record["id"]
    folder.mkdir(parents=True)
    if stage == "final":
        arrays = {"tallies": tallies(truth, label)} if segmentation else {"truth": truth, "label": label}
        np.savez(folder / "predictions.npz", **arrays)
    path = folder / "record.json"
    path.write_text(json.dumps(record))
    return path
