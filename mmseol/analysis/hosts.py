"""Cases of imbalanced data on which built-in components of MMSegmentation and MMPretrain fail.

Each case runs the built-in component and ours, and computes the correct value from its definition with torch,
scikit-learn or NumPy. The hosts' components are built by their registries; cases of a host that is not
installed are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from io import StringIO
from typing import Any

import mmengine.registry
import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement, PixelData
from sklearn.metrics import f1_score
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Situation", "situations", "situations_record"]

Value = float | int | str
VOID = 255


@dataclass(frozen=True)
class Situation:
    """One case, a row of the table.

    >>> Situation("focal loss of 3 classes", "mmseg.FocalLoss", right=0.1, host="RuntimeError", ours=0.1).host
    'RuntimeError'

    Attributes:
        situation: Description of the case.
        component: Name of the host's component.
        right: Correct value by definition.
        host: Value of the host's component, or the type of the exception that it raises.
        ours: Value of our component.
    """

    situation: str
    component: str
    right: Value
    host: Value
    ours: Value


def _build(name: str, **kwargs: Any) -> Any:
    registry = "METRICS" if name.endswith("Metric") else "MODELS"
    return getattr(mmengine.registry, registry).build(dict(type=name, **kwargs))


def _attempt(function: Callable[[], Any]) -> Value:
    """Return the value of a host's component, or the type of the exception that it raises."""
    try:
        return _plain(function())
    except Exception as error:
        return type(error).__name__


def _plain(value: Any) -> float | int:
    value = value.item() if hasattr(value, "item") else value
    return value if isinstance(value, int) else float(value)


def _outputs(labels: Tensor) -> Tensor:
    """Return random outputs of 3 classes, 2 higher at the labels, (N, 3, H, W)."""
    wanted = F.one_hot(labels, 3).movedim(-1, 1)
    return 2 * wanted + torch.randn(wanted.shape, generator=torch.Generator().manual_seed(0))


def _labels(rare: int = 100) -> Tensor:
    """Return labels of 10,000 pixels: 5,000 of class 0, ``rare`` of class 2, the others 1, (1, 100, 100)."""
    labels = torch.ones(10_000, dtype=torch.int64)
    labels[:5000] = 0
    labels[10_000 - rare :] = 2
    return labels.view(1, 100, 100)


def _ignored_pixels() -> Iterator[Situation]:
    host, ours = _build("mmseg.CrossEntropyLoss"), _build("mmseol.CrossEntropyLoss")
    for percent in (0, 50, 90):
        labels = _labels()
        outputs = _outputs(labels)
        labels.view(-1)[
            torch.randperm(10_000, generator=torch.Generator().manual_seed(1))[: 100 * percent]
        ] = VOID
        yield Situation(
            f"cross entropy, {percent} % of the pixels ignored",
            "mmseg.CrossEntropyLoss",
            _plain(F.cross_entropy(outputs, labels, ignore_index=VOID)),
            _attempt(lambda: host(outputs, labels, ignore_index=VOID)),  # noqa: B023
            _plain(ours(outputs, labels, ignore_index=VOID)),
        )


def _weights_with_void() -> Iterator[Situation]:
    weight = [0.2, 0.8, 2.0]
    labels = _labels()
    outputs = _outputs(labels)
    labels[:, :10] = VOID
    ours = _build("mmseol.CrossEntropyLoss", class_weight=weight)
    for title, options in (("", {}), (", avg_non_ignore=True", {"avg_non_ignore": True})):
        host = _build("mmseg.CrossEntropyLoss", class_weight=weight, **options)
        yield Situation(
            f"cross entropy with class weights where label 255 is ignored, on a CPU{title}",
            "mmseg.CrossEntropyLoss",
            _plain(F.cross_entropy(outputs, labels, torch.tensor(weight), ignore_index=VOID)),
            _attempt(lambda: host(outputs, labels, ignore_index=VOID)),  # noqa: B023
            _plain(ours(outputs, labels, ignore_index=VOID)),
        )


def _focal_on_cpu() -> Iterator[Situation]:
    labels = _labels()
    outputs = _outputs(labels)
    p = outputs.softmax(1).gather(1, labels[:, None])[:, 0]
    yield Situation(
        "focal loss of 3 classes, on a CPU",
        "mmseg.FocalLoss",
        _plain((-((1 - p) ** 2) * p.log()).mean()),
        _attempt(lambda: _build("mmseg.FocalLoss")(outputs, labels)),
        _plain(_build("mmseol.FocalLoss", gamma=2.0)(outputs, labels, ignore_index=VOID)),
    )


def _missed_class() -> Iterator[Situation]:
    host, ours = _build("mmseg.DiceLoss", use_sigmoid=False), _build("mmseol.DiceLoss", power=2)
    labels = _labels()
    outputs = 20 * F.one_hot(labels.clamp(max=1), 3).movedim(-1, 1).float()
    p, t = outputs.softmax(1), F.one_hot(labels, 3).movedim(-1, 1)
    dice = 2 * (p * t).sum((0, 2, 3)) / (p.square().sum((0, 2, 3)) + t.sum((0, 2, 3)))
    yield Situation(
        "Dice loss when one of 3 classes, 1 % of the pixels, is missed entirely",
        "mmseg.DiceLoss",
        _plain((1 - dice).mean()),
        _attempt(lambda: host(outputs, labels, ignore_index=VOID)),
        _plain(ours(outputs, labels, ignore_index=VOID)),
    )
    labels[:, :50] = VOID
    other = outputs.clone()
    other[:, :, :50] = 0
    yield Situation(
        "change of the Dice loss when the outputs change at ignored pixels only",
        "mmseg.DiceLoss",
        0.0,
        _attempt(lambda: abs(host(other, labels) - host(outputs, labels))),
        abs(_plain(ours(other, labels, ignore_index=VOID) - ours(outputs, labels, ignore_index=VOID))),
    )


def _never_predicted() -> Iterator[Situation]:
    truth = _labels()
    predicted = truth.clamp(max=1)
    sample = dict(gt_sem_seg=dict(data=truth), pred_sem_seg=dict(data=predicted))

    def score(name: str, key: str, **kwargs: Any) -> float:
        metric = _build(name, **kwargs)
        metric.dataset_meta = dict(classes=("a", "b", "c"))
        metric.process({}, [sample])
        return float(metric.compute_metrics(metric.results)[key])

    yield Situation(
        "macro F-measure in per cent when one of 3 classes is never predicted",
        "mmseg.IoUMetric",
        100 * float(f1_score(truth.flatten(), predicted.flatten(), average="macro", zero_division=0)),
        _attempt(lambda: score("mmseg.IoUMetric", "mFscore", iou_metrics=["mFscore"])),
        score("mmseol.SegClassBalanceMetric", "macro_f1"),
    )


def _top_five() -> Iterator[Situation]:
    samples, classes = 500, 100
    rng = np.random.default_rng(0)
    outputs = torch.from_numpy(rng.normal(0, 10, (samples, classes))).float()
    first = torch.from_numpy(rng.integers(0, classes, samples))
    outputs[torch.arange(samples), first] += 5.0 * (first + 1)  # outlying labels of alpha 5
    best = outputs.topk(5).indices
    labels = best[torch.arange(samples), torch.from_numpy(rng.integers(0, 5, samples))]

    def accuracy(name: str) -> float:
        head = _build(name, num_classes=classes, in_channels=1, loss=dict(type="mmseol.OutlyingMSELoss"))
        scores = torch.stack([sample.pred_score for sample in head._get_predictions(outputs, None)])
        return 100 * (scores.topk(5).indices == labels[:, None]).any(1).double().mean().item()

    yield Situation(
        "top-5 accuracy in per cent from the scores of outlying outputs, labels among the 5 highest",
        "mmpretrain.LinearClsHead",
        100.0,
        _attempt(lambda: accuracy("mmpretrain.LinearClsHead")),
        accuracy("mmseol.CalibratedLinearClsHead"),
    )


class _TwoChannels(BaseModel):
    """The attributes of a model that test-time augmentation reads."""

    out_channels = 2

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


def _augmented_views() -> Iterator[Situation]:
    views = torch.tensor([[30.0, 20.0], [30.0, 20.0], [0.0, 60.0]])

    def predicted(name: str) -> int:
        samples = [
            BaseDataElement(metainfo=dict(img_path="a.png"), seg_logits=PixelData(data=view.view(2, 1, 1)))
            for view in views
        ]
        (merged,) = _build(name, module=_TwoChannels()).merge_preds([samples])
        return int(merged.pred_sem_seg.data.item())

    yield Situation(
        "class predicted from three views with outlying outputs (30, 20), (30, 20) and (0, 60)",
        "mmseg.SegTTAModel",
        int(views.mean(0).argmax()),
        _attempt(lambda: predicted("mmseg.SegTTAModel")),
        predicted("mmseol.SegScoreTTAModel"),
    )


_SEG = _ignored_pixels, _weights_with_void, _focal_on_cpu, _missed_class, _never_predicted, _augmented_views
_CASES = {"mmseg": _SEG, "mmpretrain": (_top_five,)}


def situations() -> list[Situation]:
    """Run all cases of the installed hosts.

    >>> all(isinstance(case.ours, (int, float)) for case in situations())
    True
    """
    with redirect_stdout(StringIO()):  # metrics print their tables
        return [
            row
            for host, cases in _CASES.items()
            if find_spec(host) is not None
            for case in cases
            for row in case()
        ]


def situations_record(environment: dict[str, Any], commands: list[str]) -> dict[str, Any]:
    """Return the record of :func:`situations`.

    >>> situations_record({}, ["python run.py"])["commands"]
    ['python run.py']

    Args:
        environment: See :func:`mmseol.analysis.records.run_records.environment`.
        commands: Command lines of the run.
    """
    return {
        "title": "Cases where built-in MMSegmentation and MMPretrain components fail on imbalanced data",
        "commands": commands,
        "environment": environment,
        "situations": [asdict(row) for row in situations()],
    }
