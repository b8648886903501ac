"""The command ``analyze features``: a checkpoint -> features and raw outputs, equally many of each class."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor, nn

from mmseol.analysis.features import ClassReservoir, Features, save_features
from mmseol.classifiers.find import find_classifier
from mmseol.experiment.checkpoint_pass import CheckpointPass, split_config, training_counts
from mmseol.metrics.base import check_range
from mmseol.utils.arrays import IntArray
from mmseol.utils.checks import whole_number
from mmseol.utils.text import table_text
from mmseol.utils.unpickling import plain_data_only
from mmseol.version import __version__

__all__ = ["Elements", "FeatureReader"]


class Elements(NamedTuple):
    """The elements of an image: the class of each, -1 for void, and a function that reads some of them.

    >>> Elements(np.zeros(1, np.int64), dict).labels
    array([0])
    """

    labels: IntArray
    read: Callable[[IntArray], Mapping[str, NDArray[Any]]]


class FeatureReader:
    """Read the input and the output of the layer that classifies, while a model predicts.

    In segmentation, both are maps smaller than the label map. At a pixel of the label map they are
    interpolated bilinearly, as mmseg resizes outputs: with a linear classifier, the outputs of a pixel are
    those of its features. Only the pixels that are asked for are interpolated.

    >>> model = nn.ModuleDict({"fc": nn.Linear(2, 3)})
    >>> reader = FeatureReader(model, "fc")
    >>> _ = model["fc"](torch.ones(4, 2))
    >>> reader.inputs.shape, reader.outputs.shape
    (torch.Size([4, 2]), torch.Size([4, 3]))
    >>> reader.close()

    Args:
        model: The host's model.
        classifier: Name of the layer that classifies.
    """

    def __init__(self, model: nn.Module, classifier: str) -> None:
        self.name, self.layer = classifier, model.get_submodule(classifier)
        head = model.get_submodule(classifier.split(".")[0])
        head = head[-1] if isinstance(head, nn.ModuleList) else head
        self.align_corners = bool(getattr(head, "align_corners", False))
        ignore = getattr(head, "ignore_index", 255)
        self.ignore_index = ignore if isinstance(ignore, int) and not isinstance(ignore, bool) else 255
        self.inputs: Tensor | None = None
        self.outputs: Tensor | None = None
        self._handle = self.layer.register_forward_hook(self._keep)

    @property
    def classes(self) -> int:
        """Return the number of classes that the layer scores."""
        weight: Any = self.layer.weight
        return len(weight)

    def close(self) -> None:
        """Remove the forward hook."""
        self._handle.remove()
        self.inputs = self.outputs = None

    def _keep(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        self.inputs, self.outputs = inputs[0].detach().float(), output.detach().float()

    def read(self, samples: Sequence[Any]) -> Iterator[Elements]:
        """Yield the elements of each image of a batch that was just predicted.

        Raises:
            ValueError: If the layer has other inputs or outputs than a classifier, or a sample has no label
                or one outside the classes.
        """
        dimensions = 4 if hasattr(samples[0], "pred_sem_seg") else 2
        shapes = [None if kept is None else tuple(kept.shape) for kept in (self.inputs, self.outputs)]
        expected = (len(samples), dimensions)
        if any(shape is None or (shape[0], len(shape)) != expected for shape in shapes):
            kind = "(N, C, H, W)" if dimensions == 4 else "(N, C)"
            raise ValueError(
                f"Inputs and outputs of {self.name} must be of shape {kind} for the {len(samples)} images of "
                f"a batch, got {shapes[0]} and {shapes[1]}. Name the layer that classifies: --classifier."
            )
        for number, sample in enumerate(samples):
            yield self._of_map(number, sample) if dimensions == 4 else self._of_image(number, sample)
        self.inputs = self.outputs = None

    def _of_image(self, number: int, sample: Any) -> Elements:
        path = sample.metainfo.get("img_path") or "an image"
        if "gt_label" not in sample or sample.gt_label.numel() != 1:
            raise ValueError(f"The data must have one class per image, got another label for {path}.")
        label = sample.gt_label.flatten().cpu().numpy().astype(np.int64)
        check_range("gt_label", int(label[0]), int(label[0]), self.classes, f" in {path}")
        inputs, outputs = (_array(kept[number : number + 1]) for kept in self._both())
        return Elements(
            label,
            lambda _: {"features": inputs, "outputs": outputs, "position": np.full((1, 2), -1, np.int64)},
        )

    def _of_map(self, number: int, sample: Any) -> Elements:
        path = sample.metainfo.get("img_path") or "an image"
        if "gt_sem_seg" not in sample:
            raise ValueError(f"The data must have label maps, got none for {path}.")
        truth = sample.gt_sem_seg.data.squeeze(0).cpu().numpy().astype(np.int64)
        if truth.shape != tuple(sample.pred_sem_seg.data.shape[-2:]):
            raise ValueError(
                "Label maps must be of the size of the predictions, "
                f"{tuple(sample.pred_sem_seg.data.shape[-2:])}, got {truth.shape} for {path}."
            )
        labels = np.where(truth == self.ignore_index, -1, truth).ravel()
        if (valid := labels[labels != -1]).size:
            check_range("gt_sem_seg", int(valid.min()), int(valid.max()), self.classes, f" in {path}")
        inputs, outputs = (kept[number] for kept in self._both())

        def read(chosen: IntArray) -> Mapping[str, NDArray[Any]]:
            position = np.stack(np.divmod(chosen, truth.shape[1]), axis=1)
            grid = sampling_grid(position, truth.shape, sample.metainfo, self.align_corners)
            values = (sample_map(one, grid, self.align_corners) for one in (inputs, outputs))
            return {**dict(zip(("features", "outputs"), values, strict=True)), "position": position}

        return Elements(labels, read)

    def _both(self) -> tuple[Tensor, Tensor]:
        assert self.inputs is not None
        assert self.outputs is not None
        return self.inputs, self.outputs


def sampling_grid(
    position: IntArray, shape: Sequence[int], meta: Mapping[str, Any], align_corners: bool
) -> Tensor:
    """Return the place of pixels of a label map in a feature map, as ``grid_sample`` takes it, (P, 2).

    Args:
        position: Row and column of each pixel, (P, 2).
        shape: Height and width of the label map.
        meta: Meta information of the sample: size of the model's input and its padding.
        align_corners: Of the head.
    """
    size = np.array((meta.get("pad_shape") or meta["img_shape"])[:2], dtype=np.float64)
    left, right, top, bottom = meta.get("img_padding_size", meta.get("padding_size", [0] * 4))
    begin, inner = np.array([top, left]), size - [top + bottom, left + right]
    full = np.array(shape[:2], dtype=np.float64)
    if align_corners:
        place = position * (inner - 1) / np.maximum(full - 1, 1) + begin
        unit = 2 * place / np.maximum(size - 1, 1) - 1
    else:
        place = (position + 0.5) * inner / full + begin
        unit = 2 * place / size - 1
    return torch.from_numpy(unit[:, ::-1].copy()).float()  # grid_sample takes columns first


def sample_map(values: Tensor, grid: Tensor, align_corners: bool) -> NDArray[np.float32]:
    """Return the values of a map (C, H, W) at P places, interpolated bilinearly, (P, C)."""
    sampled = torch.nn.functional.grid_sample(
        values[None],
        grid[None, :, None].to(values.device),
        mode="bilinear",
        padding_mode="border",
        align_corners=align_corners,
    )
    return _array(sampled[0, :, :, 0].T)


def _array(values: Tensor) -> NDArray[np.float32]:
    return values.cpu().numpy().astype(np.float32)


def prepare_features(args: Namespace) -> Config:
    """Return the config that reads the split.

    >>> prepare_features(Namespace(out="ce.npz", per_class=0))
    Traceback (most recent call last):
    ValueError: `--per-class` must be a whole number of at least 1, got 0.

    Raises:
        ValueError: If an argument or the checkpoint does not fit the config, or the output exists.
        FileNotFoundError: If there is no such config, checkpoint or data.
    """
    whole_number("--per-class", args.per_class, at_least=1)
    whole_number("--seed", args.seed, at_least=0)
    if Path(args.out).suffix != ".npz":
        raise ValueError(f"`--out` must end in .npz, got {args.out!r}.")
    if Path(args.out).exists():
        raise ValueError(f"`--out` {args.out!r} exists; name another file or remove it first.")
    cfg, args.loaded = split_config(args, args.config, args.checkpoint)
    test_cfg = cfg.model.get("test_cfg") or {}
    if test_cfg.get("mode") == "slide":  # the features of a crop are not those of the image
        cfg.model.test_cfg = dict(mode="whole")
    return cfg


def run_features(cfg: Config, args: Namespace) -> None:
    """Write the file, and print how many elements each class has.

    Raises:
        ValueError: If the checkpoint does not fit the data, or its features are not finite.
    """
    with plain_data_only(args.unsafe_load):
        source = CheckpointPass.of(cfg, args.checkpoint, args.loaded, args.device)
    del args.loaded
    classifier = find_classifier((name for name, _ in source.model.named_parameters()), args.classifier)
    reader = FeatureReader(source.model, classifier)
    classes = source.classes or tuple(str(k) for k in range(reader.classes))
    if len(classes) != reader.classes:
        raise ValueError(
            f"The data set must have the {reader.classes} classes of {classifier}, got {len(classes)}: "
            f"{', '.join(classes)}. Give the config that the checkpoint was trained with."
        )
    reservoir, image = ClassReservoir(len(classes), args.per_class, args.seed), 0
    for _, samples in source.batches("features"):
        for labels, read in reader.read(samples):
            reservoir.update(image, labels, read)
            image += 1
    reader.close()
    arrays = reservoir.arrays()
    if not arrays:
        raise ValueError(f"The {args.split} split has no labelled element of any class.")
    counted = training_counts(source.model, len(classes), args.checkpoint, args.counts)
    counts, counts_from = counted or (reservoir.seen, f"{args.split} split")
    names = ("config", "checkpoint", "split", "seed", "per_class")
    task = "classification" if (arrays["position"] < 0).all() else "segmentation"
    meta = {name: getattr(args, name) for name in names}
    meta |= {"task": task, "classifier": classifier, "counts_from": counts_from, "version": __version__}
    written = Features(**arrays, classes=classes, counts=counts, seen=reservoir.seen, meta=meta)
    save_features(args.out, written)
    print(_summary(written, args.out))


def _summary(written: Features, path: str) -> str:
    kept = np.bincount(written.label, minlength=len(written.classes))
    right = np.bincount(written.label[written.predicted == written.label], minlength=len(written.classes))
    table = Table("class", "training", "in the split", "written", "of these right")
    for k, name in enumerate(written.classes):
        percent = f"{100 * right[k] / kept[k]:.1f} %" if kept[k] else "none there"
        table.add_row(name, f"{written.counts[k]:,}", f"{written.seen[k]:,}", str(kept[k]), percent)
    return (
        table_text(table)
        + f"\nWrote {path}: {len(written.label)} features of {written.features.shape[1]} numbers."
        + f" Training counts: {written.meta['counts_from']}."
    )
