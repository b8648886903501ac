"""Work directories of runs, as the commands write them, without a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmseol.counting.counts import ClassCounts
from mmseol.metrics.class_scores import class_rows, write_scores
from mmseol.metrics.scores import score_classes, summarize

CLASSES = ("road", "pole", "car")
PIXELS = ClassCounts([9000, 10, 800], [4, 2, 3], [16000, 8000, 12000])
CONFUSION = np.array([[80, 0, 20], [5, 1, 4], [10, 0, 40]])

CONFIG = """model = dict(
    type='EncoderDecoder',
    decode_head=dict(loss_decode=dict(type='mmseol.{loss}', alpha=6)),
    auxiliary_head=dict(loss_decode=dict(type='mmseol.{loss}', loss_weight=0.4)))
optim_wrapper = dict(optimizer=dict(type='SGD', lr={lr}, weight_decay=0.0005))
train_cfg = dict(max_epochs=2)
train_dataloader = dict(batch_size=4, dataset=dict(type='mmseol.CamVidDataset', data_root='data/camvid'))
default_hooks = dict(checkpoint=dict(save_best='mIoU'))
randomness = dict(seed={seed})
"""


def write_run(folder: Path, loss: str = "OutlyingMSELoss", lr: float = 0.01, seed: int = 1) -> Path:
    """Write the work directory of a segmentation of two epochs."""
    log = folder / "20260101_000000"
    (log / "vis_data" / "vis_image").mkdir(parents=True)
    (folder / "fastfcn_r18.py").write_text(CONFIG.format(loss=loss, lr=lr, seed=seed))
    PIXELS.save(folder / "class_counts.json")
    (log / "20260101_000000.log").write_text("")
    lines: list[dict[str, Any]] = [
        {"lr": lr, "loss": 2.0 / step, "epoch": step, "iter": 10 * step, "step": 10 * step} for step in (1, 2)
    ]
    (log / "vis_data" / "scalars.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for epoch in (1, 2):
        write_evaluation(log, {"stage": "val", "epoch": epoch, "iter": 10 * epoch}, CONFUSION * epoch)
        Image.new("RGB", (40, 20), (epoch, 2, 3)).save(
            log / "vis_data" / "vis_image" / f"prediction_a_{epoch}.png"
        )
    facts = {
        "command": "tools/train.py a.py --seed 1",
        "environment": {"commit": "abc", "versions": {"torch": "2"}},
    }
    (log / "command.json").write_text(json.dumps(facts))
    return folder


def write_evaluation(folder: Path, progress: dict[str, Any], confusion: Any) -> Path:
    """Write the files of one evaluation as the metrics do."""
    scores = score_classes(confusion)
    rows = class_rows(CLASSES, scores, PIXELS.samples)
    return write_scores(folder, progress, None, {"scores": summarize(scores), "classes": rows}, confusion)
