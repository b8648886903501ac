"""Scoring 20 decisions in a validation against the plain validation, for 11 and 150 classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules
from torch.nn import functional as F

from mmseol.classifiers.decisions import make_family
from mmseol.hooks.tuned_decision import DecisionPass
from mmseol.metrics import SegClassBalanceMetric
from mmseol.segmentation import predict_upsample_free
from tools.benchmarks._measure import Step, alternate, device, extra_memory, fill
from tools.benchmarks._report import row, table
from tools.benchmarks.training_step import CONFIG

NAME = "decision_pass"
CAMVID, ADE20K = {"classes": 11, "height": 360, "width": 480}, {"classes": 150, "height": 512, "width": 683}
CASES: tuple[dict[str, Any], ...] = (
    CAMVID,
    ADE20K,
    {**CAMVID, "prediction": "upsample-free"},
    {**ADE20K, "prediction": "upsample-free"},
    {**CAMVID, "noise": 0.3},
    {**ADE20K, "noise": 0.3},
)
SMALL = {"height": 64, "width": 64}


def step(
    side: str, classes: int, height: int, width: int, prediction: str = "mmseg", noise: float = 0.0
) -> Step:
    """Return what a validation does with an image: forward, resize and argmax, then scores.

    The head's bias is the prior of counts that fall by 100, as an untrained squared error has it; its weights
    are large enough for nearly every pixel to change its class between the decisions. A tile of 8x8 pixels
    then has about as many possible classes as with a FastFCN-R18 trained on CamVid.

    Args:
        side: ``'20 decisions'`` or ``'reference'``.
        classes: Number of classes.
        height: H of the image.
        width: W of the image.
        prediction: ``'mmseg'``, or ``'upsample-free'`` as in the configs of this package; of both sides.
        noise: Standard deviation of noise in the small outputs, so that neighbours are not alike.
    """
    register_all_modules(init_default_scope=False)
    torch.manual_seed(0)
    counts = torch.logspace(6, 4, classes).long()
    model_cfg = Config.fromfile(CONFIG).model
    loss = ConfigDict(type="mmseol.OutlyingMSELoss", class_counts=counts.tolist())
    model_cfg.decode_head.update(num_classes=classes, loss_decode=loss)
    model_cfg.auxiliary_head.update(num_classes=classes, loss_decode=loss)
    model_cfg.data_preprocessor.size = None
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(model_cfg).to(device()).eval()
    if prediction == "upsample-free":
        predict_upsample_free(model)
    layer: Any = model.decode_head.conv_seg
    with torch.no_grad():
        layer.weight.mul_(0.3 / layer.weight.std() / layer.in_channels**0.5)
        layer.bias.copy_(counts / counts.sum())
    layer.register_forward_hook(lambda _, __, small: small + noise * torch.randn(small.shape))
    coarse = torch.rand(1, 3, height // 16, width // 16, generator=torch.Generator().manual_seed(0))
    image = (255 * F.interpolate(coarse, (height, width), mode="bilinear")[0]).byte()
    shape = (height, width)
    sample = SegDataSample(metainfo={"img_shape": shape, "ori_shape": shape, "img_path": "image.png"})
    sample.gt_sem_seg = PixelData(data=fill((1, *shape), classes, 0.04))
    data = {"inputs": [image], "data_samples": [sample]}
    if side == "reference":
        metric = SegClassBalanceMetric(num_classes=classes)

        def validate() -> None:
            with torch.no_grad():
                metric.process(data, [made.to_dict() for made in model.test_step(data)])
            metric.results.clear()

        return validate
    family = make_family("prior", "multiplicative", counts.numpy())
    counted = DecisionPass(model, "decode_head.conv_seg", [family], images=10**6)

    def score() -> None:
        with torch.no_grad():
            counted.update(model.test_step(data))

    return score


def run(repeats: int = 10, cases: Sequence[dict[str, Any]] = CASES) -> dict[str, Any]:
    """Return the table of this benchmark."""
    rows = []
    sides = ("20 decisions", "reference")
    for sizes in cases:
        name = f"20 decisions, {sizes['classes']} classes"
        name += ", upsample-free" if sizes.get("prediction") == "upsample-free" else ""
        name += ", neighbours not alike" if sizes.get("noise") else ""
        seconds = alternate({side: step(side, **sizes) for side in sides}, repeats)
        memory = {side: extra_memory(step, SMALL, side=side, **sizes) for side in sides}
        rows.append(
            row(
                name,
                f"an image of {sizes['height']}x{sizes['width']}",
                seconds["20 decisions"],
                seconds["reference"],
                memory["20 decisions"],
                memory["reference"],
                logits=4 * sizes["classes"] * sizes["height"] * sizes["width"],
                limits={"time_ratio": 1.2},
            )
        )
    return table(
        NAME,
        "Decisions scored in a validation with FastFCN-R18",
        rows,
        "Reference: the same validation with `mmseol.SegClassBalanceMetric`. Both predict as mmseg does, or\n"
        "with `mmseol.UpsampleFreePredictionHook`: only the decisions then need upsampled outputs. No\n"
        "image is kept: memory does not depend on the number of images. Images are not loaded in either.",
    )
