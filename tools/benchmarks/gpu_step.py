"""Training steps of 150 classes on a GPU: time, memory and largest batch, with and without upsampled outputs.

python -m tools.benchmarks.run --only gpu_step --out results/benchmarks
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.optim import AmpOptimWrapper
from mmseg.utils import register_all_modules
from torch.nn import functional as F

from mmseol.losses import CrossEntropyLoss
from tools.benchmarks._measure import Step, alternate, bandwidth_note, device, extra_memory, fill
from tools.benchmarks._report import row, table
from tools.benchmarks.psp_step import pspnet
from tools.benchmarks.training_step import segmentor_step

NAME = "gpu_step"
CLASSES, CROP = 150, 512
DTYPES = ("float32", "bfloat16")
MODELS = ("PSPNet-R50", "SegFormer-B0")


def loss_step(side: str, dtype: str, batch: int, size: int = CROP // 8) -> Step:
    """Return forward and backward of the cross entropy of outputs at an eighth of the labels' size."""
    pred = torch.randn(batch, CLASSES, size, size, device=device()).to(getattr(torch, dtype)).requires_grad_()
    target = fill((batch, 8 * size, 8 * size), CLASSES, 0.05)
    module = CrossEntropyLoss()

    def ours() -> None:
        pred.grad = None
        module.forward_upsampled(pred, target, ignore_index=255).backward()

    def reference() -> None:
        pred.grad = None
        large = F.interpolate(pred, target.shape[1:], mode="bilinear", align_corners=False)
        F.cross_entropy(large.float(), target, ignore_index=255).backward()

    return {"ours": ours, "reference": reference}[side]


def model_step(side: str, model: str, batch: int, crop: int = CROP) -> Step:
    """Return a training step under autocast to bfloat16 with mmseg's cross entropy."""
    register_all_modules(init_default_scope=False)
    loss = {"type": "CrossEntropyLoss"}
    cfg = pspnet(loss, crop, CLASSES, 64) if model == "PSPNet-R50" else segformer(loss, crop)
    accuracy = "exact" if side == "ours" else None
    return segmentor_step(cfg, accuracy, batch, crop, partial(AmpOptimWrapper, dtype="bfloat16"))


def segformer(loss: dict[str, Any], crop: int) -> ConfigDict:
    """Return the config of a SegFormer-B0, whose outputs are a quarter of the labels' size."""
    widths = [32, 64, 160, 256]
    return ConfigDict(
        type="EncoderDecoder",
        data_preprocessor=dict(
            type="SegDataPreProcessor", mean=[120.0] * 3, std=[58.0] * 3, size=(crop, crop)
        ),
        backbone=dict(
            type="MixVisionTransformer",
            embed_dims=32,
            num_layers=[2, 2, 2, 2],
            num_heads=[1, 2, 5, 8],
            sr_ratios=[8, 4, 2, 1],
            mlp_ratio=4,
        ),
        decode_head=dict(
            type="SegformerHead",
            in_channels=widths,
            in_index=[0, 1, 2, 3],
            channels=256,
            num_classes=CLASSES,
            norm_cfg=dict(type="BN"),
            loss_decode=loss,
        ),
        test_cfg=dict(mode="whole"),
    )


def largest_batch(side: str, model: str, most: int = 1024) -> int:
    """Return the largest batch whose step fits in memory, to a sixteenth; from 1 to ``most``."""
    fits, fails = 1, most + 1
    while fails - fits > max(1, fits // 16):
        batch = (fits + fails) // 2 if fails <= most else min(2 * fits, most)
        try:
            model_step(side, model, batch)()
            fits = batch
        except torch.cuda.OutOfMemoryError:
            fails = batch
        torch.cuda.empty_cache()
    return fits


def run(repeats: int = 20, batch: int = 16, models: Sequence[str] = MODELS) -> dict[str, Any]:
    """Return the table of this benchmark, with a reason in place of numbers where there is no GPU."""
    title = f"Training steps of {CLASSES} classes at {CROP}x{CROP} on a GPU"
    if device() != "cuda":
        rows = [row(model, f"batch {batch}", note="not run: there is no CUDA device") for model in models]
        return table(NAME, title, rows)
    rows = []
    traffic = 8 * batch * CLASSES * (CROP // 8) ** 2 + 8 * batch * CROP**2
    for dtype in DTYPES:
        given = {"dtype": dtype, "batch": batch}
        seconds = alternate({side: loss_step(side, **given) for side in ("ours", "reference")}, repeats)
        memory = [extra_memory(loss_step, {"batch": 1}, side=side, **given) for side in ("ours", "reference")]
        rows.append(
            row(
                f"cross entropy alone, {dtype}",
                f"batch {batch}",
                seconds["ours"],
                seconds["reference"],
                *memory,
                logits=4 * batch * CLASSES * CROP**2,
                note=bandwidth_note(traffic, seconds["ours"]),
            )
        )
    for model in models:
        given = {"model": model, "batch": batch}
        sides = ("ours", "reference")
        seconds = alternate({side: model_step(side, **given) for side in sides}, repeats)
        memory = [extra_memory(model_step, {"batch": 2}, side=side, **given) for side in sides]
        largest = {side: largest_batch(side, model) for side in sides}
        rows.append(
            row(
                model,
                f"batch {batch}",
                seconds["ours"],
                seconds["reference"],
                *memory,
                logits=4 * batch * CLASSES * CROP**2,
                note=f"largest batch {largest['ours']}, of the reference {largest['reference']}",
            )
        )
    return table(
        NAME,
        title,
        rows,
        "Reference: `F.interpolate` and `F.cross_entropy`, or mmseg's model without `UpsampleFreeLossHook`.\n"
        "Models run under autocast to bfloat16. The largest batch is found to a sixteenth.",
    )
