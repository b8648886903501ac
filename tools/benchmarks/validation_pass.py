"""Label maps of a validation image from a head of many classes, with and without outputs of its size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules
from torch import Tensor, nn

from mmseol.segmentation import predict_upsample_free
from tools.benchmarks._measure import Step, alternate, device, extra_memory
from tools.benchmarks._report import row, table

NAME = "validation_pass"
LIMITS = {"time_ratio": 0.5, "memory_ratio": 0.05}
CASES: tuple[dict[str, Any], ...] = (
    {"classes": 150, "stride": 8, "size": (512, 512), "limits": LIMITS},
    {"classes": 150, "stride": 4, "size": (512, 683), "limits": LIMITS},
    {"classes": 19, "stride": 8, "size": (1024, 2048)},
)
SMALL = {"size": (64, 64)}
WIDTH = 512


class _Features(nn.Module):
    """Features of ``WIDTH`` channels that are there already."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x]


def step(side: str, classes: int, stride: int, size: Sequence[int]) -> Step:
    """Return the classifier, resizing and argmax of one image, as mmseg validates it.

    Args:
        side: ``'ours'`` or ``'reference'``.
        classes: Number of classes.
        stride: Rows of the image for each row of outputs.
        size: H, W.
    """
    register_all_modules(init_default_scope=False)
    torch.manual_seed(0)
    head = {"type": "FCNHead", "num_convs": 0, "concat_input": False, "in_index": 0, "num_classes": classes}
    cfg = {
        "type": "EncoderDecoder",
        "backbone": {"type": _Features},
        "decode_head": {**head, "in_channels": WIDTH, "channels": WIDTH},
        "test_cfg": {"mode": "whole"},
    }
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(ConfigDict(cfg)).to(device()).eval()
    nn.init.normal_(model.decode_head.conv_seg.weight)
    if side == "ours":
        predict_upsample_free(model)
    features = torch.randn(1, WIDTH, size[0] // stride, size[1] // stride, device=device())
    shape = tuple(size)

    @torch.no_grad()
    def predict() -> None:
        sample = SegDataSample(metainfo={"img_shape": shape, "ori_shape": shape})
        model.predict(features, [sample])

    return predict


def run(repeats: int = 10, cases: Sequence[dict[str, Any]] = CASES) -> dict[str, Any]:
    """Return the table of this benchmark."""
    rows = []
    for case in cases:
        sizes = {key: value for key, value in case.items() if key != "limits"}
        seconds = alternate({side: step(side, **sizes) for side in ("ours", "reference")}, repeats)
        memory = [extra_memory(step, SMALL, side=side, **sizes) for side in ("ours", "reference")]
        height, width = case["size"]
        rows.append(
            row(
                f"{case['classes']} classes at stride {case['stride']}",
                f"an image of {height}x{width}",
                seconds["ours"],
                seconds["reference"],
                *memory,
                logits=4 * case["classes"] * height * width,
                limits=case.get("limits"),
            )
        )
    return table(
        NAME,
        "Label maps of a validation",
        rows,
        "Reference: mmseg's `predict`: a 1x1 convolution of 512 channels, resizing twice and the argmax.",
    )
