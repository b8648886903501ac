"""Pictures of the predictions of the same images after every validation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import all_gather_object, get_world_size, is_main_process
from mmengine.hooks import Hook
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mmseol.analysis.figures.style import class_styles, rgb
from mmseol.analysis.live.class_scalars import evaluation_step
from mmseol.analysis.pictures import NEUTRAL, captioned, input_image, overlay
from mmseol.counting.wrappers import walk
from mmseol.registry import HOOKS
from mmseol.utils.checks import KnownArguments, whole_number

__all__ = ["PredictionPicturesHook", "picture_of"]

_LABELS = 0.75  # weight of the label colours against the image


@HOOKS.register_module()
class PredictionPicturesHook(KnownArguments, Hook):
    """Draw image, truth and prediction of the same images after every validation, and after a test.

    The pictures go to all backends of the visualizer as ``prediction_NAME``. In segmentation the palette is
    that of the data set's metainfo. Distributed processes send theirs to the main one, which alone writes.

    >>> PredictionPicturesHook(images=[0, 7]).images
    [0, 7]

    Args:
        number: Images, evenly spaced over the data set.
        images: Indices of the images instead.
        interval: Draw every so many validations.

    Raises:
        ValueError: If an argument is invalid, or the data set has no such image.
    """

    kind = "hook"
    priority = "LOW"

    def __init__(self, number: int = 4, images: Sequence[int] | None = None, interval: int = 1) -> None:
        self.number = whole_number("number", number, at_least=1)
        self.images = None if images is None else [whole_number("images", i, at_least=0) for i in images]
        self.interval = whole_number("interval", interval, at_least=1)
        self._validations = 0
        self._wanted: dict[Any, int] = {}
        self._drawn: dict[int, tuple[str, NDArray[np.uint8]]] = {}

    def before_val_epoch(self, runner: Any) -> None:
        """Choose the images."""
        due = self._validations % self.interval == 0
        self._validations += 1
        self._choose(runner.val_dataloader.dataset if due else None)

    def before_test_epoch(self, runner: Any) -> None:
        """Choose the images."""
        self._choose(runner.test_dataloader.dataset)

    def _choose(self, dataset: Any) -> None:
        self._drawn, self._wanted = {}, {}
        if dataset is None:
            return
        size = len(dataset)
        chosen = self.images
        if chosen is None:
            chosen = np.unique(np.linspace(0, size - 1, min(self.number, size)).astype(int)).tolist()
        wrong = [i for i in chosen if i >= size]
        if wrong:
            raise ValueError(
                f"`images` must be indices below {size}, the size of the data set, got {wrong[0]}."
            )
        items = walk(dataset)  # the pipeline stores the path or index of the innermost data set
        self._wanted = {_key(items.info(i)): i for i in chosen}

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Draw the chosen images of the batch."""
        for place, sample in enumerate(outputs or ()):
            known = sample.metainfo
            index = self._wanted.get(_key(known))
            if index is not None and index not in self._drawn:
                meta = runner.visualizer.dataset_meta or {}
                image = input_image(data_batch["inputs"][place], runner.model)
                picture = picture_of(image, sample, meta)
                if picture is not None:
                    self._drawn[index] = _name(known, index), picture

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Draw the chosen images of the batch."""
        self.after_val_iter(runner, batch_idx, data_batch, outputs)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Write the pictures."""
        parts = [self._drawn]
        if get_world_size() > 1:
            parts = all_gather_object(self._drawn)
        if not is_main_process():
            return
        drawn = {index: picture for part in parts for index, picture in part.items()}
        step = evaluation_step(runner)
        for _, (name, picture) in sorted(drawn.items()):
            for backend in runner.visualizer._vis_backends.values():
                # MLflow takes the name for that of a file, and has one file for all steps.
                file = f"_{step}.png" if type(backend).__name__ == "MLflowVisBackend" else ""
                backend.add_image(name + file, picture, step)

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Write the pictures."""
        self.after_val_epoch(runner, metrics)


def _key(info: Mapping[str, Any]) -> Any:
    """Return what an image is found by: its path, or its index where images have no files."""
    return info.get("img_path") or info.get("sample_idx")


def _name(info: Mapping[str, Any], index: int) -> str:
    stem = Path(info["img_path"]).stem if info.get("img_path") else f"{index}"
    return f"prediction_{re.sub(r'[^A-Za-z0-9_.-]', '_', stem)}"


def picture_of(image: NDArray[np.uint8], sample: Any, meta: Mapping[str, Any]) -> NDArray[np.uint8] | None:
    """Return image, truth and prediction side by side, or an image with its classes; ``None`` of other tasks.

    >>> import torch
    >>> from mmengine.structures import BaseDataElement
    >>> sample = BaseDataElement(pred_label=torch.tensor([1]), gt_label=torch.tensor([0]))
    >>> picture_of(np.zeros((8, 16, 3), np.uint8), sample, {"classes": ["cat", "dog"]}).shape
    (96, 160, 3)

    Args:
        image: RGB, (H, W, 3).
        sample: Data sample of mmseg or mmpretrain with a prediction.
        meta: Metainfo of the data set: ``classes``, ``palette``.
    """
    classes = [str(name) for name in meta.get("classes") or ()]
    if "pred_sem_seg" in sample:
        maps = {"prediction": sample.pred_sem_seg.data.squeeze(0).cpu().numpy()}
        if "gt_sem_seg" in sample:
            maps = {"truth": sample.gt_sem_seg.data.squeeze(0).cpu().numpy(), **maps}
        return _side_by_side(image, maps, meta.get("palette"), classes)
    if "pred_label" in sample and sample.pred_label.numel() == 1:
        text = _class(sample.pred_label, classes)
        if "gt_label" in sample and sample.gt_label.numel() == 1:
            text += f" (truth: {_class(sample.gt_label, classes)})"
        return captioned(image, text)
    return None


def _class(label: Any, classes: Sequence[str]) -> str:
    number = int(label)
    return classes[number] if number < len(classes) else str(number)


def _side_by_side(
    image: NDArray[np.uint8], maps: Mapping[str, NDArray[Any]], palette: Any, classes: Sequence[str]
) -> NDArray[np.uint8]:
    height, width = maps["prediction"].shape
    if image.shape[:2] != (height, width):
        image = np.asarray(Image.fromarray(image).resize((width, height)))
    most = max(len(classes), *(int(one[one < 255].max(initial=0)) + 1 for one in maps.values()))
    known = palette is not None and len(palette) >= most
    colors = np.asarray(palette if known else rgb(class_styles(range(most, 0, -1))), dtype=np.uint8)
    panels = {"image": image, **{name: overlay(image, one, colors, _LABELS) for name, one in maps.items()}}
    gap = np.full((height, 4, 3), 255, np.uint8)
    columns = [column for panel in panels.values() for column in (panel, gap)][:-1]
    strip = captioned(np.concatenate(columns, axis=1), " | ".join(panels))
    shown = np.unique(np.concatenate([one.ravel() for one in maps.values()]))
    entries = [(_class(k, classes), tuple(colors[k].tolist())) for k in shown if 0 <= k < most]
    return np.concatenate([strip, _legend(entries, strip.shape[1])])


def _legend(entries: Sequence[tuple[str, tuple[int, ...]]], width: int) -> NDArray[np.uint8]:
    """Return the colours and names of classes in rows, (H, width, 3)."""
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    places, x, y = [], 3, 2
    for name, color in entries:
        size = 16 + int(draw.textlength(name)) + 10
        if x + size > width and x > 3:
            x, y = 3, y + 15
        places.append((x, y, name, color))
        x += size
    picture = Image.new("RGB", (width, y + 17), NEUTRAL)
    draw = ImageDraw.Draw(picture)
    for x, y, name, color in places:
        draw.rectangle((x, y + 1, x + 11, y + 11), fill=color, outline=(90, 90, 90))
        draw.text((x + 16, y), name, fill=(0, 0, 0))
    return np.asarray(picture)
