"""Settings of a training run: seed, precision, processes, second stage, work directory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict

from mmseol.utils.checks import choice

__all__ = [
    "download_names",
    "explain_download",
    "set_amp",
    "set_classifier_retraining",
    "set_cpu_distributed",
    "set_seed",
    "set_whole_checkpoints",
]

_METHODS = {"crt": ("mmseol.ClassifierRetraining", 10), "lws": ("mmseol.LearnableWeightScaling", 5)}


def set_seed(cfg: Config, seed: int) -> None:
    """Seed initialisation, data order and augmentation.

    >>> cfg = Config()
    >>> set_seed(cfg, 1)
    >>> cfg.randomness
    {'seed': 1}
    """
    cfg.randomness = {**cfg.get("randomness", {}), "seed": seed}


def set_whole_checkpoints(cfg: Config) -> None:
    """Write checkpoints whole, with the random states, and save one at SIGTERM or Ctrl-C.

    >>> cfg = Config(dict(default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=5))))
    >>> set_whole_checkpoints(cfg)
    >>> cfg.default_hooks.checkpoint.type, [hook.type for hook in cfg.custom_hooks]
    ('mmseol.WholeCheckpointHook', ['mmseol.StopSignalHook', 'mmseol.ExactResumeHook'])
    """
    checkpoint = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    if checkpoint.get("type") in ("CheckpointHook", "mmengine.CheckpointHook"):
        checkpoint["type"] = "mmseol.WholeCheckpointHook"
    hooks = list(cfg.get("custom_hooks") or [])
    for name in ("StopSignalHook", "ExactResumeHook"):
        if not any(name in str(hook["type"]) for hook in hooks):
            hooks.append(dict(type=f"mmseol.{name}"))
    cfg.custom_hooks = hooks


def set_amp(cfg: Config) -> None:
    """Train in mixed precision.

    >>> from unittest.mock import patch
    >>> cfg = Config(dict(optim_wrapper=dict(type="OptimWrapper")))
    >>> with patch("torch.cuda.is_available", return_value=True):
    ...     set_amp(cfg)
    >>> cfg.optim_wrapper
    {'type': 'AmpOptimWrapper', 'loss_scale': 'dynamic'}

    Raises:
        ValueError: If there is no GPU; mmengine has no mixed precision on a CPU.
    """
    if not torch.cuda.is_available():
        raise ValueError("`--amp` needs a GPU, and torch finds none. Leave it out to train in float32.")
    cfg.optim_wrapper.type = "AmpOptimWrapper"
    cfg.optim_wrapper.setdefault("loss_scale", "dynamic")


def set_cpu_distributed(cfg: Config) -> None:
    """Make a distributed run possible without a GPU.

    The hosts' wrapper asks for device ids and SyncBN for a GPU: the wrapper gets no ids, SyncBN becomes BN.

    >>> cfg = Config(dict(model=dict(norm_cfg=dict(type="SyncBN"))))
    >>> set_cpu_distributed(cfg)
    >>> cfg.model.norm_cfg, cfg.model_wrapper_cfg.device_ids
    ({'type': 'BN'}, None)
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


def set_classifier_retraining(cfg: Config, method: str, checkpoint: str) -> None:
    """Train a new classifier (``'crt'``), or scales of the old one (``'lws'``), on a checkpoint's features.

    As Kang et al. (ICLR 2020) and their code: class-balanced sampling, the learning rate of the config
    annealed to 0 by a cosine, over 10 epochs (cRT) or 5 (LWS). In segmentation each class is drawn alike and
    then an image that contains it. A run by iterations keeps its length and schedule.

    >>> from tempfile import NamedTemporaryFile
    >>> cfg = Config(dict(model={}, train_dataloader={}, train_cfg=dict(by_epoch=True)))
    >>> with NamedTemporaryFile() as checkpoint:
    ...     set_classifier_retraining(cfg, "crt", checkpoint.name)
    >>> cfg.model.type, cfg.train_dataloader.sampler.type, cfg.train_cfg.max_epochs
    ('mmseol.ClassifierRetraining', 'mmseol.ClassAwareSampler', 10)

    Raises:
        ValueError: If ``method`` is neither, or ``checkpoint`` is not a file.
    """
    choice("--retrain-classifier", method, _METHODS)
    if not Path(checkpoint).is_file():
        raise ValueError(f"`--retrain-classifier {method}` needs an existing checkpoint, got {checkpoint!r}.")
    builder, epochs = _METHODS[method]
    cfg.model = ConfigDict(type=builder, model=cfg.model)
    cfg.load_from = checkpoint
    cfg.train_dataloader.sampler = ConfigDict(
        dict(type="mmseol.RareClassSampler", temperature=float("inf"))
        if cfg.get("default_scope") == "mmseg"
        else dict(type="mmseol.ClassAwareSampler")
    )
    if cfg.train_cfg.get("by_epoch"):
        cfg.train_cfg.max_epochs = epochs
        cfg.param_scheduler = [ConfigDict(type="CosineAnnealingLR", eta_min=0.0, by_epoch=True)]


def explain_download(cfg: Config, error: Exception) -> str:
    """Return an error text for a failed download: the weights, the reason, and how to train without them.

    >>> cfg = Config(dict(model=dict(pretrained="open-mmlab://resnet50_v1c")))
    >>> print(explain_download(cfg, OSError("no route")).splitlines()[0])
    error: could not download open-mmlab://resnet50_v1c: no route
    """
    return (
        f"error: could not download {', '.join(download_names(cfg)) or 'pretrained weights'}: {error}\n"
        "Start without them: --cfg-options model.pretrained=None (or model.backbone.init_cfg=None where the "
        "config uses that), or give a file: --cfg-options model.pretrained=FILE"
    )


def download_names(cfg: Config) -> list[str]:
    """Return the pretrained weights that a config names by an address.

    >>> download_names(Config(dict(model=dict(pretrained="open-mmlab://resnet50_v1c"))))
    ['open-mmlab://resnet50_v1c']
    """
    pattern = r"'((?:https?|open-mmlab|torchvision|mmcls|openmmlab)://[^']+)'"
    return list(dict.fromkeys(re.findall(pattern, str(cfg))))
