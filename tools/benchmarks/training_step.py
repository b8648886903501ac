"""A training step of the CamVid R18 config with our loss against the same with mmseg's cross entropy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules

from mmseol.camvid.layout import CAMVID_PIXELS
from mmseol.segmentation import upsample_free
from tools.benchmarks._measure import Step, alternate, device, extra_memory, fill
from tools.benchmarks._report import row, table

NAME = "training_step"
CONFIG = Path(__file__).parents[2] / "configs" / "camvid" / "fastfcn_r18.py"
SMALL = {"batch": 2, "crop": 32}
OUTLYING = {"type": "mmseol.OutlyingMSELoss", "alpha": 6.0, "class_counts": list(CAMVID_PIXELS)}
SIDES: dict[str, dict[str, Any]] = {
    "reference": {"loss": {"type": "CrossEntropyLoss"}},
    "cross entropy": {"loss": {"type": "CrossEntropyLoss"}, "accuracy": "exact"},
    "outlying MSE": {"loss": OUTLYING, "accuracy": "exact"},
    "outlying MSE, accuracy='off'": {"loss": OUTLYING, "accuracy": "off"},
    "outlying MSE of upsampled outputs": {"loss": OUTLYING},
}


def step(side: str, batch: int, crop: int) -> Step:
    """Return what mmengine does in an iteration: normalise the batch, forward, backward, update."""
    register_all_modules(init_default_scope=False)
    model_cfg = Config.fromfile(CONFIG).model
    loss = SIDES[side]["loss"]
    model_cfg.decode_head.loss_decode = ConfigDict(loss)
    model_cfg.auxiliary_head.loss_decode = ConfigDict({**loss, "loss_weight": 0.4})
    model_cfg.data_preprocessor.size = (crop, crop)
    return segmentor_step(model_cfg, SIDES[side].get("accuracy"), batch, crop)


def segmentor_step(
    model_cfg: Any,
    accuracy: Any,
    batch: int,
    crop: int,
    wrap: Callable[..., OptimWrapper] = OptimWrapper,
) -> Step:
    """Return a training step of a segmentor, without upsampled outputs if ``accuracy`` is given.

    ``wrap`` makes mmengine's wrapper of an ``optimizer``, which says in which precision the step runs.
    """
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(model_cfg).to(device()).train()
    if accuracy is not None:
        upsample_free(model, accuracy)
    wrapper = wrap(optimizer=torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9))
    generator = torch.Generator().manual_seed(0)
    data: dict[str, list] = {"inputs": [], "data_samples": []}
    for labels in fill((batch, crop, crop), model.num_classes, 0.04).cpu():
        sample = SegDataSample(metainfo={"img_shape": (crop, crop), "ori_shape": (crop, crop)})
        sample.gt_sem_seg = PixelData(data=labels[None])
        data["data_samples"].append(sample)
        data["inputs"].append(torch.randint(256, (3, crop, crop), generator=generator, dtype=torch.uint8))
    return lambda: model.train_step(data, wrapper)


def run(repeats: int = 20, batch: int = 4, crop: int = 320) -> dict[str, Any]:
    """Return the table of this benchmark."""
    seconds = alternate({side: step(side, batch, crop) for side in SIDES}, repeats)
    memory = {side: extra_memory(step, SMALL, side=side, batch=batch, crop=crop) for side in SIDES}
    rows = [
        row(
            side,
            f"batch {batch}, {crop}x{crop}",
            seconds[side],
            seconds["reference"],
            memory[side],
            memory["reference"],
            limits={"time_ratio": 1.02} if side == "outlying MSE" else None,
        )
        for side in SIDES
        if side != "reference"
    ]
    return table(
        NAME,
        "A training step of `configs/camvid/fastfcn_r18.py`",
        rows,
        "Reference: the same with mmseg's `CrossEntropyLoss` of upsampled outputs in both heads. Except\n"
        "for `accuracy='off'` a step includes the accuracy of all pixels, as mmseg's does. Memory is that\n"
        "of all activations.",
    )
