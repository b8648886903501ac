"""Every loss, forward and backward, against mmseg's own cross entropy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict

from mmseol.experiment import LOSSES
from mmseol.losses.base.class_loss import ClassLoss
from mmseol.registry import MODELS
from tools.benchmarks._measure import Step, alternate, device, extra_memory, fill, in_parallel
from tools.benchmarks._report import row, table

NAME = "all_losses"
OUTPUTS = (16, 11, 320, 320)
SMALL = {"outputs": (1, 11, 8, 8)}
LIMITS = {"time_ratio": 1.5, "copies": 1.2}
OWN_LIMITS = {"mmseol.CrossEntropyLoss": {"time_ratio": 1.0, "copies": 1.2}}  # of the reference's name
LOVASZ = {"time_ratio": 8, "copies": 3}
OWN_LIMITS |= {"mmseol.LovaszSoftmaxLoss": LOVASZ, "mmseol.LovaszHingeLoss": LOVASZ}
REFERENCE = "mmseg.CrossEntropyLoss"
# Why a loss takes more than the limits.
REASONS = {
    "lovasz_softmax": "sorts the pixels of every class",
    "lovasz_hinge": "sorts the pixels of every class",
    "lade": "a pass over the outputs for the sums, and one for a softmax and exponentials with gradient",
    "elm": "searches the strongest wrong class on a copy of the outputs",
    "seesaw": "a softmax without gradient beside the one with",
    "equalization": "draws a number for every output of a tail class",
    "ghmc": "a pass over the outputs for a histogram, and one for softplus and sigmoid",
}


def losses() -> dict[str, dict[str, Any]]:
    """Return the losses by the names of ``--loss``, and every further loss by its class."""
    named = {name: dict(cfg) for name, cfg in LOSSES.items()}
    MODELS.import_from_location()
    types = {cfg["type"] for cfg in named.values()}
    for name, cls in MODELS.module_dict.items():
        if isinstance(cls, type) and issubclass(cls, ClassLoss) and f"mmseol.{name}" not in types:
            named[name] = {"type": f"mmseol.{name}"}
    return named


def step(loss: str, outputs: Sequence[int]) -> Step:
    """Return forward and backward of a loss by its name, or of mmseg's cross entropy."""
    if loss == REFERENCE:
        from mmseg.models.losses import CrossEntropyLoss

        module: Any = CrossEntropyLoss(avg_non_ignore=True)
    else:
        module = MODELS.build(ConfigDict(losses()[loss]))
        counts = np.geomspace(10**7, 10**5, outputs[1]).astype(np.int64)
        module.set_class_counts(counts, counts * 3)
    module = module.to(device())
    pred = torch.randn(*outputs, device=device(), requires_grad=True)
    target = fill((outputs[0], *outputs[2:]), outputs[1], 0.04)

    features = None
    if hasattr(module, "set_features"):  # as ClassifierFeatureHook does, at an eighth of the labels' size
        features = torch.randn(outputs[0], 64, *(max(side // 8, 1) for side in outputs[2:]), device=device())

    def forward_and_backward() -> None:
        pred.grad = None
        if features is not None:
            module.set_features(features)
        module(pred, target, ignore_index=255).backward()

    return forward_and_backward


def run(
    repeats: int = 7, outputs: Sequence[int] = OUTPUTS, only: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return the table of this benchmark, the losses of ``only`` or all."""
    n, k, h, w = outputs
    cfgs = losses()
    names = list(only or cfgs)
    reference = step(REFERENCE, outputs)
    seconds: dict[str, dict[str, list[float]]] = {}
    failed: dict[str, str] = {}
    for loss in names:
        try:
            seconds[loss] = alternate({"ours": step(loss, outputs), "reference": reference}, repeats, 1)
        except (RuntimeError, ValueError) as error:  # it needs more than outputs and labels
            failed[loss] = str(error).splitlines()[0]
    measured = [REFERENCE, *seconds]
    calls = [{"loss": loss, "outputs": outputs} for loss in measured]
    memory = dict(zip(measured, in_parallel(partial(extra_memory, step, SMALL), calls), strict=True))
    rows = []
    for loss in names:
        if loss in failed:
            rows.append(row(loss, f"({n}, {k}, {h}, {w})", note=f"not run: {failed[loss]}"))
            continue
        made = row(
            loss,
            f"({n}, {k}, {h}, {w})",
            seconds[loss]["ours"],
            seconds[loss]["reference"],
            memory[loss],
            memory[REFERENCE],
            logits=4 * n * k * h * w,
            limits=OWN_LIMITS.get(cfgs[loss]["type"], LIMITS),
        )
        if made["over"] and loss in REASONS:
            made["note"] = REASONS[loss]
        rows.append(made)
    return table(
        NAME,
        "Every loss on outputs of label size, forward and backward",
        rows,
        "Reference: mmseg's `CrossEntropyLoss(avg_non_ignore=True)`.",
    )
