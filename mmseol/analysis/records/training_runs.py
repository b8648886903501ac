"""Learning rates and validation scores of training runs, from their work directories."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

__all__ = ["best_validation", "tuning_rows"]


def best_validation(work_dir: Path) -> dict[str, Any]:
    """Return learning rate ``lr``, ``metric`` and its best validation ``score`` of a training run.

    >>> import tempfile
    >>> work_dir = Path(tempfile.mkdtemp())
    >>> checkpoint = "default_hooks = dict(checkpoint=dict(save_best='mIoU'))"
    >>> _ = (work_dir / "toy.py").write_text(f"optim_wrapper = dict(optimizer=dict(lr=0.1))\\n{checkpoint}")
    >>> (work_dir / "now" / "vis_data").mkdir(parents=True)
    >>> _ = (work_dir / "now" / "vis_data" / "scalars.json").write_text('{"mIoU": 3.0}\\n{"mIoU": 2.0}')
    >>> best_validation(work_dir)
    {'lr': 0.1, 'metric': 'mIoU', 'score': 3.0}

    Args:
        work_dir: Work directory of ``tools/train.py``.

    Raises:
        ValueError: If the folder is not the work directory of one run.
    """
    configs = list(work_dir.glob("*.py"))
    if len(configs) != 1:
        raise ValueError(f"`work_dir` must be that of one training run, got {str(work_dir)!r}.")
    cfg = Config.fromfile(configs[0])
    metric = cfg.default_hooks.checkpoint.save_best
    scores = [line[metric] for line in _scalars(work_dir) if metric in line]
    score = round(max(scores), 2) if scores else None
    return {"lr": cfg.optim_wrapper.optimizer.lr, "metric": metric, "score": score}


def tuning_rows(runs: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row of :func:`best_validation` for each run, with its ``loss``, by loss and learning rate.

    >>> import tempfile
    >>> work_dir = Path(tempfile.mkdtemp())
    >>> checkpoint = "default_hooks = dict(checkpoint=dict(save_best='mIoU'))"
    >>> _ = (work_dir / "toy.py").write_text(f"optim_wrapper = dict(optimizer=dict(lr=0.1))\\n{checkpoint}")
    >>> (work_dir / "now" / "vis_data").mkdir(parents=True)
    >>> _ = (work_dir / "now" / "vis_data" / "scalars.json").write_text('{"mIoU": 3.0}')
    >>> tuning_rows([f"ce={work_dir}"])
    [{'loss': 'ce', 'lr': 0.1, 'metric': 'mIoU', 'score': 3.0}]

    Args:
        runs: ``LOSS=DIR,DIR,...`` with the work directories of a loss.

    Raises:
        ValueError: If an item has another form or a folder is not the work directory of one run.
    """
    rows = []
    for item in runs:
        loss, _, folders = item.partition("=")
        if not (loss and folders):
            raise ValueError(f"`runs` must be LOSS=DIR,DIR,..., got {item!r}.")
        of_loss = [{"loss": loss, **best_validation(Path(folder))} for folder in folders.split(",")]
        rows += sorted(of_loss, key=lambda row: row["lr"])
    return rows


def _scalars(work_dir: Path) -> list[dict[str, Any]]:
    logs = list(work_dir.glob("*/vis_data/scalars.json"))
    if len(logs) != 1:
        raise ValueError(f"`work_dir` must be that of one training run, got {str(work_dir)!r}.")
    return [json.loads(line) for line in logs[0].read_text().splitlines()]
