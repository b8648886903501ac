"""The second stage of two-stage training."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config, ConfigDict

__all__ = ["set_classifier_retraining"]

_METHODS = {"crt": ("mmseol.ClassifierRetraining", 10), "lws": ("mmseol.LearnableWeightScaling", 5)}


def set_classifier_retraining(cfg: Config, method: str, checkpoint: str) -> None:
    """Train a new classifier (``'crt'``), or scales of the old one (``'lws'``), on a checkpoint's features.

    As Kang et al. (ICLR 2020) and their code: class-balanced sampling, the learning rate of the config
    annealed to 0 by a cosine, over 10 epochs (cRT) or 5 (LWS). In segmentation each class is drawn alike and
    then an image that contains it. A run by iterations keeps its length and schedule.

    Raises:
        ValueError: If ``method`` is neither, or ``checkpoint`` is no file.
    """
    if method not in _METHODS:
        raise ValueError(f"`--retrain-classifier` must be one of {', '.join(_METHODS)}, got {method!r}.")
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
