"""Checks of the data of a config: classes, labels, sizes, and classes without a sample."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mmseol.counting import LabelError, count_label_maps
from mmseol.counting.wrappers import is_segmentation, walk
from mmseol.experiment.counted_classes import count_split, skew_text
from mmseol.experiment.data import build_dataset, leaf_datasets
from mmseol.experiment.diagnosis.findings import Check, Finding, Subject, Unavailable, error_text
from mmseol.experiment.loss import named_heads, stated_by_heads
from mmseol.hooks.run_parts import agreed
from mmseol.utils.text import first_few

__all__ = ["DATA"]

_OTHER_CLASSES = ("STDCHead",)  # scores boundaries
_LOOKED_AT = 2000  # image files of a classification data set


def training_data(subject: Subject) -> Iterator[Finding]:
    """Build the training data."""
    yield from _data(subject, "train")


def validation_data(subject: Subject) -> Iterator[Finding]:
    """Build the validation data."""
    yield from _data(subject, "val")


def _data(subject: Subject, split: str) -> Iterator[Finding]:
    name = f"{split}_dataloader"
    if not subject.cfg.get(name):
        yield Finding("skipped" if split == "val" else "warning", f"the config has no {name}")
        return
    if name in subject.missing:
        raise Unavailable(f"the files of {name}")
    try:
        dataset = build_dataset(subject.cfg, name)
        items = walk(dataset)
    except Exception as error:
        leaves = list(leaf_datasets(subject.cfg[name].get("dataset")))
        if "download=True" in str(error) and any(leaf.get("download") is not False for leaf in leaves):
            yield Finding("warning", f"the data of {name} are not there; training would download them")
        else:
            yield Finding("fault", f"the data set of {name} cannot be built: {error_text(error)}")
        return
    subject.datasets[split] = dataset
    yield Finding("ok", f"{len(items)} images")


def classes(subject: Subject) -> Iterator[Finding]:
    """Compare the numbers of classes of data, heads and preprocessor."""
    cfg = subject.cfg
    model = cfg.get("model") or {}
    others = [name for name, head, _ in named_heads(model) if head.get("type") in _OTHER_CLASSES]
    stated = {
        name: number for name, number in stated_by_heads(cfg, "num_classes").items() if name not in others
    }
    for split, dataset in subject.datasets.items():
        names = (getattr(dataset, "metainfo", None) or {}).get("classes")
        if names:
            stated[f"the {split} data"] = len(names)
    preprocessor = model.get("data_preprocessor") or cfg.get("data_preprocessor") or {}
    if isinstance(preprocessor.get("num_classes"), int):
        stated["data_preprocessor"] = preprocessor["num_classes"]
    try:
        number = agreed("num_classes", stated)
    except ValueError as error:
        yield Finding("fault", str(error).partition(" Correct the config")[0] + " Correct the config.")
        return
    if number is None:
        yield Finding("skipped", "neither the heads nor the data tell the number of classes")
        return
    found = [*_outputs(subject, number), *_top_k(subject, number)]
    yield from found or [Finding("ok", f"{number} classes in {', '.join(stated)}")]


def _outputs(subject: Subject, number: int) -> Iterator[Finding]:
    """Squared errors need one output per class; one output means sigmoid and a threshold."""
    squared = {name.rpartition(".")[0] for name, loss in subject.losses if hasattr(loss, "curvature")}
    for name, head, _ in named_heads(subject.cfg.get("model") or {}):
        if head.get("out_channels") == 1 and name in squared:
            yield Finding(
                "fault",
                f"{name} has out_channels=1, a sigmoid with a threshold, which squared errors do not fit. "
                f"Leave out_channels out, with num_classes={max(number, 2)}.",
            )


def _top_k(subject: Subject, number: int) -> Iterator[Finding]:
    owners = [
        ("head", head) for name, head, key in named_heads(subject.cfg.get("model") or {}) if key == "loss"
    ]
    for name in ("val_evaluator", "test_evaluator"):
        evaluators = subject.cfg.get(name) or []
        owners += [
            (name, one) for one in (evaluators if isinstance(evaluators, (list, tuple)) else [evaluators])
        ]
    for name, owner in owners:
        ks = np.atleast_1d(owner.get("topk", 1)).tolist()
        if max(ks) > number and not (name == "head" and not owner.get("cal_acc")):
            yield Finding(
                "fault",
                f"{name} asks for the top {max(ks)} of {number} classes, and the validation will fail. Set "
                f"its topk=(1,).",
            )


def training_labels(subject: Subject) -> Iterator[Finding]:
    """Count the training data; a label that is no class, or a file that cannot be read, shows here."""
    subject.require("train")
    try:
        subject.names, subject.counts = count_split(
            subject.cfg, "train", subject.datasets["train"], workers=subject.workers
        )
    except (LabelError, TypeError, ValueError) as error:
        yield Finding("fault", str(error))
        return
    yield Finding("ok", skew_text(subject.names, subject.counts))


def validation_labels(subject: Subject) -> Iterator[Finding]:
    """Count the validation data, and look for classes that it lacks."""
    dataset = subject.require("val")
    try:
        names, counts = count_split(subject.cfg, "val", dataset, workers=subject.workers)
    except (LabelError, TypeError, ValueError) as error:
        yield Finding("fault", str(error))
        return
    absent = [name for name, number in zip(names, counts.samples, strict=True) if not number]
    if absent:
        yield Finding(
            "warning",
            f"the validation data lack {first_few(absent)}: nothing can be chosen for these. Hold out "
            "other images, as with mmseol.StratifiedHoldOut.",
        )
    else:
        yield Finding("ok", f"every class occurs in {counts.images.min()} images or more")


def empty_classes(subject: Subject) -> Iterator[Finding]:
    """Look for classes without a training sample, with their usual causes, and for mostly ignored labels."""
    counts, names = subject.require("counts"), subject.names
    empty = [name for name, number in zip(names, counts.samples, strict=True) if not number]
    dataset = subject.datasets["train"]
    segmentation = is_segmentation(dataset)
    ignored = _ignored(subject) if segmentation else 0.0
    if empty:
        hints = []
        if ignored > 0 and len(names) == 2:
            hints.append("a binary mask must hold 0 and 1; of 0 and 255, 255 is ignored")
        if segmentation and any(
            getattr(leaf, "reduce_zero_label", False) for leaf, _ in walk(dataset).leaves
        ):
            hints.append("reduce_zero_label=True ignores the label 0 and lowers all others by 1")
        text = f" ({'; '.join(hints)})" if hints else ""
        yield Finding(
            "warning",
            f"without a training sample: {first_few(empty)}. Check labels, `label_map` and the order of "
            f"`classes`{text}.",
        )
    if ignored > 0.5:
        yield Finding(
            "warning",
            f"{100 * ignored:.0f} % of the pixels have the ignored label. Check the label maps, "
            "`reduce_zero_label` and `ignore_index`.",
        )
    if not empty and ignored <= 0.5:
        more = f", {100 * ignored:.1f} % of the pixels are ignored" if segmentation else ""
        yield Finding("ok", f"every class has training samples{more}")


def _ignored(subject: Subject) -> float:
    """Return the fraction of ignored pixels."""
    ignore = next(iter(stated_by_heads(subject.cfg, "ignore_index").values()), 255)
    dataset = subject.datasets["train"]
    maps = count_label_maps(dataset, len(subject.names), ignore, subject.workers)
    times = np.bincount(maps.rows, minlength=len(maps.sizes))
    return 1 - float((times @ maps.counts).sum() / (times @ maps.sizes))


def images(subject: Subject) -> Iterator[Finding]:
    """Look for the images, and compare their sizes with those of the label maps."""
    dataset = subject.require("train")
    items = walk(dataset)
    if is_segmentation(items):
        subject.require("counts")
        try:
            count_split(subject.cfg, "train", dataset, workers=subject.workers, check_sizes=True)
        except LabelError as error:
            yield Finding("fault", str(error))
            return
        yield Finding("ok", "label maps have the sizes of their images")
        return
    positions = np.unique(np.linspace(0, len(items) - 1, min(len(items), _LOOKED_AT)).astype(int))
    paths = [str(items.info(int(position)).get("img_path") or "") for position in positions]
    missing = [path for path in paths if path and "://" not in path and not Path(path).is_file()]
    if missing:
        yield Finding(
            "fault",
            f"{len(missing)} of {len(paths)} image files looked for do not exist: {first_few(missing)}. "
            "Check `data_root`, `data_prefix` and `ann_file`.",
        )
    else:
        held = "" if any(paths) else "; the data set holds its images itself"
        yield Finding("ok", f"{len(paths)} images looked for exist{held}")


DATA: list[Check] = [
    training_data,
    validation_data,
    classes,
    training_labels,
    validation_labels,
    empty_classes,
    images,
]
