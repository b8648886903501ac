"""A training step of PSPNet-R50 for 150 classes, with our loss against mmseg's cross entropy."""

from __future__ import annotations

from typing import Any

from mmengine.config import ConfigDict

from tools.benchmarks._measure import Step, alternate, device, extra_memory
from tools.benchmarks._report import row, table
from tools.benchmarks.training_step import segmentor_step

NAME = "psp_step"
SIDES: dict[str, dict[str, Any]] = {
    "reference": {"loss": "CrossEntropyLoss"},
    "cross entropy": {"loss": "CrossEntropyLoss", "accuracy": "exact"},
    "outlying MSE": {"loss": "mmseol.OutlyingMSELoss", "accuracy": "exact"},
    "outlying MSE of upsampled outputs": {"loss": "mmseol.OutlyingMSELoss"},
}


def step(side: str, batch: int, crop: int, classes: int, width: int) -> Step:
    """Return a training step of mmseg's PSPNet-R50 at stride 8; ``width`` is 64 in full size."""
    loss: dict[str, Any] = {"type": SIDES[side]["loss"]}
    if loss["type"].startswith("mmseol."):
        loss["class_counts"] = list(range(1, classes + 1))
    return segmentor_step(pspnet(loss, crop, classes, width), SIDES[side].get("accuracy"), batch, crop)


def pspnet(loss: dict[str, Any], crop: int, classes: int, width: int) -> ConfigDict:
    """Return the config of a PSPNet-R50 with the loss in both heads."""
    norm = {"type": "BN"}
    head = {"num_classes": classes, "norm_cfg": norm, "in_index": 3, "in_channels": 32 * width}
    model = {
        "type": "EncoderDecoder",
        "data_preprocessor": {
            "type": "SegDataPreProcessor",
            "mean": [120.0] * 3,
            "std": [58.0] * 3,
            "size": (crop, crop),
        },
        "backbone": {
            "type": "ResNetV1c",
            "depth": 50,
            "base_channels": width,
            "stem_channels": width,
            "dilations": (1, 1, 2, 4),
            "strides": (1, 2, 1, 1),
            "norm_cfg": norm,
            "contract_dilation": True,
        },
        "decode_head": {"type": "PSPHead", "channels": 8 * width, "loss_decode": loss, **head},
        "auxiliary_head": {
            "type": "FCNHead",
            **head,
            "channels": 4 * width,
            "in_index": 2,
            "in_channels": 16 * width,
            "num_convs": 1,
            "concat_input": False,
            "loss_decode": {**loss, "loss_weight": 0.4},
        },
        "test_cfg": {"mode": "whole"},
    }
    return ConfigDict(model)


def run(
    repeats: int | None = None,
    batch: int | None = None,
    crop: int | None = None,
    classes: int = 150,
    width: int = 64,
) -> dict[str, Any]:
    """Return the table of this benchmark; repeats and sizes are smaller without a GPU unless given."""
    defaults = (20, 4, 512) if device() == "cuda" else (3, 2, 256)
    given = (repeats, batch, crop)
    repeats, batch, crop = (g or default for g, default in zip(given, defaults, strict=True))
    sizes = {"batch": batch, "crop": crop, "classes": classes, "width": width}
    small = {"batch": 2, "crop": 64}
    seconds = alternate({side: step(side, **sizes) for side in SIDES}, repeats, 1)
    memory = {side: extra_memory(step, small, side=side, **sizes) for side in SIDES}
    rows = [
        row(
            side,
            f"batch {batch}, {crop}x{crop}, {classes} classes",
            seconds[side],
            seconds["reference"],
            memory[side],
            memory["reference"],
            logits=4 * batch * classes * crop * crop,
        )
        for side in SIDES
        if side != "reference"
    ]
    return table(
        NAME,
        f"A training step of PSPNet-R50, {classes} classes",
        rows,
        "Reference: mmseg's `CrossEntropyLoss` of upsampled outputs in both heads. Memory is that of all\n"
        "activations.",
    )
