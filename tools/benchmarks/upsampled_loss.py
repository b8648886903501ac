"""The loss of outputs below label size: ``forward_upsampled`` against upsampling and cross entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from mmseol.losses import OutlyingMSELoss
from tools.benchmarks._measure import Step, alternate, bandwidth_note, device, extra_memory, fill
from tools.benchmarks._report import row, table

NAME = "upsampled_loss"
SIZES = (
    {"outputs": (16, 11, 40, 40), "label": 320, "limits": {"time_ratio": 0.15, "memory_ratio": 0.12}},
    {"outputs": (4, 150, 64, 64), "label": 512, "limits": {"time_ratio": 0.03, "memory_ratio": 0.04}},
)
SMALL = {"outputs": (1, 3, 4, 4), "label": 8}


def step(side: str, outputs: Sequence[int], label: int) -> Step:
    """Return forward and backward of one side; 4 % of the pixels are ignored."""
    pred = torch.randn(*outputs, device=device(), requires_grad=True)
    target = fill((outputs[0], label, label), outputs[1], 0.04)
    loss = OutlyingMSELoss(alpha=1.0, class_counts=list(range(1, outputs[1] + 1))).to(device())

    def ours() -> None:
        pred.grad = None
        loss.forward_upsampled(pred, target, ignore_index=255).backward()

    def reference() -> None:
        pred.grad = None
        large = F.interpolate(pred, (label, label), mode="bilinear", align_corners=False)
        F.cross_entropy(large, target, ignore_index=255).backward()

    return {"ours": ours, "reference": reference}[side]


def run(repeats: int = 20, sizes: Sequence[dict[str, Any]] = SIZES) -> dict[str, Any]:
    """Return the table of this benchmark."""
    rows = []
    for size in sizes:
        (n, k, h, w), label = size["outputs"], size["label"]
        given = {"outputs": size["outputs"], "label": label}
        seconds = alternate({side: step(side, **given) for side in ("ours", "reference")}, repeats)
        memory = [extra_memory(step, SMALL, side=side, **given) for side in ("ours", "reference")]
        traffic = 8 * n * k * h * w + 8 * n * label * label  # outputs in, gradient out, int64 labels in
        rows.append(
            row(
                "outlying MSE, not upsampled",
                f"({n}, {k}, {h}, {w}) to {label}x{label}",
                seconds["ours"],
                seconds["reference"],
                *memory,
                logits=4 * n * k * label * label,
                limits=size.get("limits"),
                note=bandwidth_note(traffic, seconds["ours"]),
            )
        )
    return table(
        NAME,
        "Loss of outputs below label size, forward and backward",
        rows,
        "Reference: `F.interpolate` to label size and `F.cross_entropy`.",
    )
