"""Losses of outputs below label size: ``forward_upsampled`` against upsampling and a loss."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from mmengine.config import ConfigDict
from torch.nn import functional as F

from mmseol.experiment import LOSSES
from mmseol.registry import MODELS
from tools.benchmarks._measure import Step, alternate, bandwidth_note, device, extra_memory, fill, in_parallel
from tools.benchmarks._report import row, table

NAME = "upsampled_loss"
SMALL = {"outputs": (1, 3, 4, 4), "label": (8, 8)}
# Outputs and labels: CamVid crops, Cityscapes crops, ADE20K at an eighth and at a quarter.
CAMVID = {"outputs": (16, 11, 40, 40), "label": (320, 320)}
CITYSCAPES = {"outputs": (4, 19, 64, 128), "label": (512, 1024)}
ADE = {"outputs": (4, 150, 64, 64), "label": (512, 512)}
ADE_QUARTER = {"outputs": (2, 150, 128, 128), "label": (512, 512)}
SOFTMAX = ("balanced_softmax", "logit_adjusted", "vs", "focal", "weighted_ce_median_frequency")
REGIONS = ("dice", "iou", "tversky")
OTHERS = ("ldam", "elm", "lade", "equalization", "equalization_sigmoid", "seesaw", "ghmc", "focal_sigmoid")


def _size(
    shape: dict[str, Any], loss: str, time: float, memory: float, reference: str = "ce"
) -> dict[str, Any]:
    limits = {"time_ratio": time, "memory_ratio": memory}
    return {**shape, "loss": loss, "reference": reference, "limits": limits}


SIZES = (
    _size(CAMVID, "outlying_mse", 0.133, 0.033),
    _size(ADE, "outlying_mse", 0.023, 0.018),
    _size(CAMVID, "ce", 0.20, 0.05),
    _size(CITYSCAPES, "ce", 0.16, 0.03),
    _size(ADE, "ce", 0.10, 0.012),
    _size(ADE_QUARTER, "ce", 0.18, 0.035),
    *(_size(CAMVID, loss, 1.3 * 0.20, 0.05) for loss in SOFTMAX),
    *(_size(CITYSCAPES, loss, 1.3 * 0.16, 0.03) for loss in SOFTMAX),
    *(_size(ADE, loss, 1.3 * 0.10, 0.012) for loss in SOFTMAX),
    *(_size(ADE_QUARTER, loss, 1.3 * 0.18, 0.035) for loss in SOFTMAX),
    *(_size(shape, loss, 0.45, 0.12, "itself") for shape in (CAMVID, ADE) for loss in REGIONS),
    *(_size(shape, loss, 0.5, 0.12, "itself") for shape in (CAMVID, ADE) for loss in OTHERS),
)


def step(
    side: str,
    outputs: Sequence[int],
    label: Sequence[int],
    loss: str = "outlying_mse",
    reference: str = "ce",
) -> Step:
    """Return forward and backward of one side; 5 % of the pixels are ignored.

    Args:
        side: ``'ours'`` or ``'reference'``.
        outputs: N, K, h, w.
        label: H, W.
        loss: Name of the loss.
        reference: What follows upsampling in the reference, ``'ce'`` or ``'itself'``.
    """
    pred = torch.randn(*outputs, device=device(), requires_grad=True)
    target = fill((outputs[0], *label), outputs[1], 0.05)
    counts = list(range(1, outputs[1] + 1))
    module: Any = MODELS.build(ConfigDict(LOSSES[loss], class_counts=counts)).to(device())

    def ours() -> None:
        pred.grad = None
        module.forward_upsampled(pred, target, ignore_index=255).backward()

    def upsampled() -> None:
        pred.grad = None
        large = F.interpolate(pred, tuple(label), mode="bilinear", align_corners=False)
        compute = module if reference == "itself" else F.cross_entropy
        compute(large, target, ignore_index=255).backward()

    return {"ours": ours, "reference": upsampled}[side]


def run(repeats: int = 5, sizes: Sequence[dict[str, Any]] = SIZES) -> dict[str, Any]:
    """Return the table of this benchmark."""
    cases = [{key: value for key, value in size.items() if key != "limits"} for size in sizes]
    seconds = [
        alternate({side: step(side, **case) for side in ("ours", "reference")}, repeats, 1) for case in cases
    ]
    references = [  # the loss makes no difference to a reference that is cross entropy
        case if case.get("reference") == "itself" else {**case, "loss": "ce"} for case in cases
    ]
    memory = in_parallel(
        partial(extra_memory, step, SMALL),
        [{"side": "ours", **case} for case in cases] + [{"side": "reference", **case} for case in references],
    )
    rows = []
    for i, (size, taken) in enumerate(zip(sizes, seconds, strict=True)):
        (n, k, h, w), (height, width) = size["outputs"], size["label"]
        traffic = 8 * n * k * h * w + 8 * n * height * width  # outputs in, gradient out, int64 labels in
        against = " against itself" if size.get("reference") == "itself" else ""
        rows.append(
            row(
                size.get("loss", "outlying_mse") + against,
                f"({n}, {k}, {h}, {w}) to {height}x{width}",
                taken["ours"],
                taken["reference"],
                memory[i],
                memory[len(cases) + i],
                logits=4 * n * k * height * width,
                limits=size.get("limits"),
                note=bandwidth_note(traffic, taken["ours"]),
            )
        )
    return table(
        NAME,
        "Losses of outputs below label size, forward and backward",
        rows,
        "Reference: `F.interpolate` to label size, then `F.cross_entropy` or, where named, the loss itself.",
    )
