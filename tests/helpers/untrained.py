"""Checkpoints of random weights, for commands that read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmseol.experiment.config_files import set_options

SCENE_OPTIONS = (  # of the toy scenes, for a small model
    "val_dataloader.num_workers=0",
    "val_dataloader.persistent_workers=False",
    "model.decode_head.jpu_channels=8",
    "model.decode_head.channels=8",
)


def untrained(config: str | Path, folder: Path, seed: int = 0, *options: str) -> str:
    """Write a checkpoint into a folder, and return its path."""
    cfg: Any = Config.fromfile(config)
    set_options(cfg, options)
    if cfg.get("data_preprocessor"):
        cfg.model.data_preprocessor = cfg.data_preprocessor
    folder.mkdir(exist_ok=True)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        torch.manual_seed(seed)
        torch.save({"state_dict": MODELS.build(cfg.model).state_dict()}, folder / "random.pth")
    return str(folder / "random.pth")
