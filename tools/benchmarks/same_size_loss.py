"""The loss of outputs of label size against ``F.cross_entropy``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from mmseol.losses import OutlyingMSELoss
from tools.benchmarks._measure import Step, alternate, bandwidth_note, device, extra_memory, fill
from tools.benchmarks._report import row, table

NAME = "same_size_loss"
SIZES = ({"outputs": (16, 11, 320, 320), "limits": {"time_ratio": 0.6, "copies": 1.1}},)
SMALL = {"outputs": (1, 3, 8, 8)}


def step(side: str, outputs: Sequence[int]) -> Step:
    """Return forward and backward of one side; 4 % of the pixels are ignored."""
    pred = torch.randn(*outputs, device=device(), requires_grad=True)
    target = fill((outputs[0], *outputs[2:]), outputs[1], 0.04)
    loss = OutlyingMSELoss(alpha=1.0, class_counts=list(range(1, outputs[1] + 1))).to(device())

    def ours() -> None:
        pred.grad = None
        loss(pred, target, ignore_index=255).backward()

    def reference() -> None:
        pred.grad = None
        F.cross_entropy(pred, target, ignore_index=255).backward()

    return {"ours": ours, "reference": reference}[side]


def run(repeats: int = 20, sizes: Sequence[dict[str, Any]] = SIZES) -> dict[str, Any]:
    """Return the table of this benchmark."""
    rows = []
    for size in sizes:
        n, k, h, w = size["outputs"]
        sides = ("ours", "reference")
        seconds = alternate({side: step(side, size["outputs"]) for side in sides}, repeats)
        memory = [extra_memory(step, SMALL, side=side, outputs=size["outputs"]) for side in sides]
        traffic = 8 * n * k * h * w + 8 * n * h * w  # outputs in, gradient out, int64 labels in
        rows.append(
            row(
                "outlying MSE",
                f"({n}, {k}, {h}, {w})",
                seconds["ours"],
                seconds["reference"],
                *memory,
                logits=4 * n * k * h * w,
                limits=size.get("limits"),
                note=bandwidth_note(traffic, seconds["ours"]),
            )
        )
    return table(
        NAME,
        "Loss of outputs of label size, forward and backward",
        rows,
        "Reference: `F.cross_entropy`.",
    )
