"""Peak memory of a training step of PSPNet-R50 with 150 classes on a GPU."""

from __future__ import annotations

from typing import Any

from measure import Step, alternate, device, extra_memory
from mmengine.config import ConfigDict
from report import row, table
from training_step import segmentor_step

NAME = "psp_step"
SIDES: dict[str, dict[str, Any]] = {
    "reference": {"loss": "CrossEntropyLoss"},
    "outlying MSE": {"loss": "mmseol.OutlyingMSELoss", "accuracy": "exact"},
    "outlying MSE of upsampled outputs": {"loss": "mmseol.OutlyingMSELoss"},
}


def step(side: str, batch: int, crop: int, classes: int, width: int) -> Step:
    """Return a training step of mmseg's PSPNet-R50 at stride 8; ``width`` is 64 in full size."""
    loss: dict[str, Any] = {"type": SIDES[side]["loss"]}
    if loss["type"].startswith("mmseol."):
        loss["class_counts"] = list(range(1, classes + 1))
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
    return segmentor_step(ConfigDict(model), SIDES[side].get("accuracy"), batch, crop)


def run(
    repeats: int = 20, batch: int = 4, crop: int = 512, classes: int = 150, width: int = 64
) -> dict[str, Any]:
    """Return the table of this benchmark; without rows where there is no GPU and the size is the full one."""
    rows = []
    if device() == "cuda" or width < 64:
        sizes = {"batch": batch, "crop": crop, "classes": classes, "width": width}
        small = {"batch": 2, "crop": 64}
        seconds = alternate({side: step(side, **sizes) for side in SIDES}, repeats)
        memory = {side: extra_memory(f"{NAME}:step", small, side=side, **sizes) for side in SIDES}
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
        "A training step of PSPNet-R50, 150 classes",
        rows,
        "Reference: mmseg's `CrossEntropyLoss`." + ("" if rows else " Not measured: needs a GPU."),
    )
