"""The command ``predict``: image -> label map, drawn over the image."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from mmseol.analysis.pictures import overlay
from mmseol.experiment.commands import find_config
from mmseol.experiment.data import leaf_datasets
from mmseol.experiment.loss import parse_options
from mmseol.utils.files import replacing

__all__ = ["prepare_predict", "run_predict"]

_LABEL_STEPS = ("LoadAnnotations", "CheckLabelSize")


def prepare_predict(args: Namespace) -> tuple[Config, Namespace]:
    """Return the config of the model, and the arguments.

    Raises:
        ValueError: If the picture exists.
        FileNotFoundError: If there is no such config, checkpoint or image.
    """
    for name in ("checkpoint", "image"):
        if not Path(getattr(args, name)).is_file():
            raise FileNotFoundError(f"`{name}` must be an existing file, got {getattr(args, name)!r}.")
    if Path(args.out).exists():
        raise ValueError(f"`--out` {args.out!r} exists; name another file or remove it first.")
    cfg = Config.fromfile(find_config(args.config))
    cfg.merge_from_dict(parse_options(args.cfg_options or []))
    return cfg, args


def run_predict(prepared: tuple[Config, Namespace]) -> None:
    """Predict the image and write the picture."""
    from mmengine.dataset import Compose, pseudo_collate  # import OpenCV
    from mmengine.runner import load_checkpoint

    cfg, args = prepared
    init_default_scope(cfg.get("default_scope", "mmengine"))
    cfg.model.pretrained = None
    model = MODELS.build(cfg.model)
    meta = load_checkpoint(model, args.checkpoint, map_location="cpu")["meta"]["dataset_meta"]
    model = model.to(args.device).eval()
    steps = next(leaf_datasets(cfg.test_dataloader.dataset)).pipeline
    pipeline = Compose([step for step in steps if step["type"].rpartition(".")[-1] not in _LABEL_STEPS])
    with torch.no_grad():
        (result,) = model.test_step(pseudo_collate([pipeline(dict(img_path=args.image))]))
    label_map = result.pred_sem_seg.data[0].cpu().numpy()
    image = np.asarray(Image.open(args.image).convert("RGB"))
    with replacing(args.out) as file:
        Image.fromarray(overlay(image, label_map, meta["palette"], args.opacity)).save(file, format="png")
    print(f"Wrote {args.out}.")
