"""Seed, precision, processes and the folder of a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

__all__ = ["check_work_dir", "explain_download", "set_amp", "set_cpu_distributed", "set_seed"]

_RESULTS = ("last_checkpoint", "*.pth", "*/vis_data/scalars.json")


def set_seed(cfg: Config, seed: int) -> None:
    """Seed initialisation, data order and augmentation."""
    cfg.randomness = {**cfg.get("randomness", {}), "seed": seed}


def set_amp(cfg: Config) -> None:
    """Train in mixed precision.

    Raises:
        ValueError: If there is no device for it; mmengine has none on CPU.
    """
    if not torch.cuda.is_available():
        raise ValueError("`--amp` needs a GPU, and torch finds none. Leave it out to train in float32.")
    cfg.optim_wrapper.type = "AmpOptimWrapper"
    cfg.optim_wrapper.setdefault("loss_scale", "dynamic")


def set_cpu_distributed(cfg: Config) -> None:
    """Make a distributed run possible without a GPU.

    The hosts' launchers ask for CUDA devices, their wrapper for device ids, and SyncBN for a GPU:
    the wrapper is told that there are none and SyncBN becomes BN.
    """
    cfg.model_wrapper_cfg = dict(
        type="MMDistributedDataParallel",
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=cfg.get("find_unused_parameters", False),
    )
    _replace_type(cfg.model, ("SyncBN", "mmengine.SyncBN"), "BN")


def _replace_type(node: Any, old: tuple[str, ...], new: str) -> None:
    if isinstance(node, dict):
        if node.get("type") in old:
            node["type"] = new
        for child in node.values():
            _replace_type(child, old, new)
    elif isinstance(node, (list, tuple)):
        for child in node:
            _replace_type(child, old, new)


def explain_download(cfg: Config, error: Exception) -> str:
    """Return what a failed download means: which weights, why, and how to do without."""
    names = dict.fromkeys(
        re.findall(r"'((?:https?|open-mmlab|torchvision|mmcls|openmmlab)://[^']+)'", str(cfg.to_dict()))
    )
    return (
        f"error: could not download {', '.join(names) or 'pretrained weights'}: {error}\n"
        "Start without them: --cfg-options model.pretrained=None (or model.backbone.init_cfg=None where the "
        "config uses that), or give a file: --cfg-options model.pretrained=FILE"
    )


def check_work_dir(cfg: Config, resume: bool) -> None:
    """Refuse a work dir that holds another run, so that no result is overwritten.

    A run may be resumed where it was, with the model it had.

    Raises:
        ValueError: If the folder holds a run and ``resume`` is off, or the run's model is another.
    """
    work_dir = Path(cfg.work_dir)
    found = [path for pattern in _RESULTS for path in sorted(work_dir.glob(pattern)) if path.stat().st_size]
    if found and not resume:
        names = ", ".join(str(path.relative_to(work_dir)) for path in found[:3])
        raise ValueError(
            f"`--work-dir` {str(work_dir)!r} already holds a run ({names}). "
            "Continue it with --resume, or give another --work-dir."
        )
    for stored in sorted(work_dir.glob("*.py")) if found else ():
        if Config.fromfile(stored).get("model") != cfg.model:
            raise ValueError(
                f"`--work-dir` {str(work_dir)!r} holds a run of another model or loss ({stored.name}). "
                "Resume with the arguments it was started with, or give another --work-dir."
            )
