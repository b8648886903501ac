"""The command ``analyze predictions``: checkpoints -> the images on which they differ, side by side."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from mmseol.analysis.features import ClassReservoir
from mmseol.analysis.figures.side_by_side import class_figure, label_map_figure
from mmseol.analysis.figures.style import check_picture, class_styles, order_by_count, rgb, save_figure
from mmseol.experiment.checkpoint_pass import CheckpointPass, split_config, training_counts
from mmseol.metrics.scores import groups_by_terciles
from mmseol.utils.arrays import FloatArray, IntArray
from mmseol.utils.checks import choice, whole_number
from mmseol.utils.unpickling import plain_data_only

__all__ = ["class_ious", "difference"]

LEAST_PIXELS = 1e-3  # fraction of an image that a class must cover to count there


class Predicted(NamedTuple):
    """An image with its truth and the predictions of the checkpoints: label maps, or labels (1,)."""

    pixels: NDArray[np.uint8]
    truth: IntArray
    maps: list[IntArray]
    name: str


def prepare_predictions(args: Namespace) -> list[Config]:
    """Return the configs that read the split, one for each checkpoint.

    >>> prepare_predictions(Namespace(pairs=["a.py", "a.pth", "b.py"]))
    Traceback (most recent call last):
    ValueError: A config must be followed by its checkpoint, got 3 arguments: a.py, a.pth, b.py.

    Raises:
        ValueError: If an argument or a checkpoint does not fit its config, or the output exists.
        FileNotFoundError: If there is no such config, checkpoint or data.
    """
    configs, checkpoints = args.pairs[::2], args.pairs[1::2]
    if len(configs) != len(checkpoints):
        raise ValueError(
            f"A config must be followed by its checkpoint, got {len(args.pairs)} arguments: "
            f"{', '.join(args.pairs)}."
        )
    check_picture("--out", args.out)
    whole_number("--dpi", args.dpi, at_least=20)
    if args.images is not None:
        whole_number("--images", args.images, at_least=1)
    titles = args.titles or [Path(path).resolve().parent.name for path in checkpoints]
    if len(titles) != len(checkpoints) or len(set(titles)) < len(titles):
        raise ValueError(
            f"`--titles` must be {len(checkpoints)} different texts, one for each checkpoint, got "
            f"{', '.join(titles)}."
        )
    args.titles, args.loaded = titles, []
    found = []
    for config, checkpoint in zip(configs, checkpoints, strict=True):
        cfg, loaded = split_config(args, config, checkpoint)
        found.append(cfg)
        args.loaded.append(loaded)
    return found


def run_predictions(configs: Sequence[Config], args: Namespace) -> None:
    """Draw the picture, and print which images it shows.

    Raises:
        ValueError: If a checkpoint does not fit its model, the checkpoints are of different classes or data,
            or their predictions do not differ.
    """
    checkpoints = args.pairs[1::2]
    with plain_data_only(args.unsafe_load):
        passes = [
            CheckpointPass.of(cfg, path, loaded, args.device)
            for cfg, path, loaded in zip(configs, checkpoints, args.loaded, strict=True)
        ]
    del args.loaded
    classes = passes[0].classes
    for title, one in zip(args.titles, passes, strict=True):
        if one.classes != classes or not classes:
            names = [", ".join(several) or "none" for several in (classes, one.classes)]
            raise ValueError(
                "The data sets of all configs must have the same classes, got "
                f"{names[0]} for {args.titles[0]} and {names[1]} for {title}."
            )
    for name in args.classes or ():
        choice("--classes", name, classes)
    counted = None
    for one, path in zip(passes, checkpoints, strict=True):
        counted = counted or training_counts(one.model, len(classes), path, args.counts)
    if counted is None:
        raise ValueError(
            "`--counts` must be given: neither the checkpoints nor class_counts.json beside them say how "
            "many training samples each class has. `python -m mmseol count CONFIG` counts them."
        )
    counts = counted[0]
    wanted = np.isin(classes, args.classes) if args.classes else groups_by_terciles(counts) == "few"
    together = _together(passes, args.titles)
    first = next(together)
    if first.truth.ndim == 2:
        _draw_label_maps(chain([first], together), passes[0], counts, wanted, args)
    else:
        _draw_classes(chain([first], together), classes, counts, wanted, args)


def _together(passes: Sequence[CheckpointPass], titles: Sequence[str]) -> Iterator[Predicted]:
    """Yield each image once with the predictions of all checkpoints."""
    streams = [one.images("predictions" if number == 0 else None) for number, one in enumerate(passes)]
    lengths = [len(one.loader.dataset) for one in passes]
    if len(set(lengths)) > 1:
        raise ValueError(
            f"The configs must read the same images, got {', '.join(map(str, lengths))} images for "
            f"{', '.join(titles)}."
        )
    for number, several in enumerate(zip(*streams, strict=True)):
        name = str(several[0][1].metainfo.get("img_path") or f"image {number}")
        pairs = [_labels(sample, name) for _, sample in several]
        for title, (truth, _) in zip(titles, pairs, strict=True):
            if not np.array_equal(truth, pairs[0][0]):
                raise ValueError(
                    f"The configs must read the same images in the same order, got other labels for {name} "
                    f"with {title} than with {titles[0]}."
                )
        pixels, truth = several[0][0], pairs[0][0]
        if truth.ndim == 2 and pixels.shape[:2] != truth.shape:  # the pipeline resizes
            pixels = np.asarray(Image.fromarray(pixels).resize(truth.shape[::-1]))
        yield Predicted(pixels, truth, [predicted for _, predicted in pairs], name)


def _labels(sample: Any, name: str) -> tuple[IntArray, IntArray]:
    kinds = (("gt_sem_seg", "pred_sem_seg"), ("gt_label", "pred_label"))
    for truth_name, predicted_name in kinds:
        if truth_name in sample and predicted_name in sample:
            both = [getattr(sample, field) for field in (truth_name, predicted_name)]
            arrays = [getattr(one, "data", one).squeeze(0).cpu().numpy().astype(np.int64) for one in both]
            truth, predicted = (one.reshape(-1) if one.ndim < 2 else one for one in arrays)
            if truth.shape != predicted.shape:
                shapes = f"{truth.shape} and {predicted.shape}"
                raise ValueError(f"Truth and prediction must be of one shape, got {shapes} for {name}.")
            return truth, predicted
    raise ValueError(f"The data must have a label map or one class per image, got neither for {name}.")


def class_ious(truth: ArrayLike, predicted: ArrayLike, num_classes: int) -> FloatArray:
    """Return the IoU of each class in one image, per cent, (K,); NaN where too few pixels have the class.

    >>> class_ious([[0, 0, 1, 1]], [[0, 1, 1, 1]], num_classes=3).round(1).tolist()
    [50.0, 66.7, nan]

    Args:
        truth: Labels, (H, W); those outside 0..K-1 are void.
        predicted: Labels, (H, W).
        num_classes: K.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    valid = (truth >= 0) & (truth < num_classes)
    truth, predicted = truth[valid], predicted[valid]
    both = np.bincount(truth[truth == predicted], minlength=num_classes)
    own = np.bincount(truth, minlength=num_classes)
    union = own + np.bincount(predicted, minlength=num_classes) - both
    enough = own >= max(1, LEAST_PIXELS * len(truth))
    return np.where(enough, 100 * both / np.maximum(union, 1), np.nan)


def difference(ious: ArrayLike, wanted: ArrayLike) -> float:
    """Return how much losses differ on an image: the mean over classes of best minus worst IoU, per cent.

    For a single loss it is the mean of 100 - IoU. Classes that the image lacks do not count.

    >>> difference([[50, 0, np.nan], [80, 40, np.nan]], wanted=[False, True, True])
    40.0

    Args:
        ious: IoU of each loss and class, (M, K).
        wanted: Whether each class counts, (K,).
    """
    chosen = np.asarray(ious, dtype=np.float64)[:, np.asarray(wanted, dtype=bool)]
    chosen = chosen[:, ~np.isnan(chosen).any(0)]
    if not chosen.size:
        return -1.0
    spread = 100 - chosen[0] if len(chosen) == 1 else chosen.max(0) - chosen.min(0)
    return float(spread.mean())


def _draw_label_maps(
    images: Iterable[Predicted],
    source: CheckpointPass,
    counts: IntArray,
    wanted: NDArray[np.bool_],
    args: Namespace,
) -> None:
    classes = source.classes
    wished, number_of_images = args.images or 4, len(source.loader.dataset)
    best: dict[int, tuple[float, Predicted, FloatArray]] = {}  # of each stretch: frames of a video are alike
    for number, one in enumerate(images):
        ious = np.stack([class_ious(one.truth, predicted, len(classes)) for predicted in one.maps])
        value, stretch = difference(ious, wanted), number * wished // number_of_images
        if value >= 0 and (stretch not in best or value > best[stretch][0]):
            best[stretch] = (value, one, ious)
    names = ", ".join(name for name, own in zip(classes, wanted, strict=True) if own)
    if not best:
        raise ValueError(
            f"The {args.split} split must have an image with enough pixels of {names}, got none. Name other "
            "--classes."
        )
    kept = [best[stretch] for stretch in sorted(best)]
    palette: Any = rgb(class_styles(counts))
    if args.palette == "data":
        if source.palette is None:
            raise ValueError("`--palette data` needs a data set with a palette, got one without.")
        palette = source.palette
    shown = [one for _, one, _ in kept]
    maps = {title: [one.maps[i] for one in shown] for i, title in enumerate(args.titles)}
    captions = [_caption(one.name, ious, wanted, classes, args.titles) for _, one, ious in kept]
    figure = label_map_figure(
        [one.pixels for one in shown],
        [one.truth for one in shown],
        maps,
        classes,
        palette,
        errors=True,
        captions=captions,
        order=order_by_count(counts).tolist(),
    )
    save_figure(figure, args.out, args.dpi)
    print("\n".join(captions))
    print(
        f"Wrote {args.out}: of each of {wished} equal stretches of the {args.split} split, the image whose "
        f"predictions differ most on {names}."
    )


def _caption(
    name: str, ious: FloatArray, wanted: NDArray[np.bool_], classes: Sequence[str], titles: Sequence[str]
) -> str:
    """Return the image's name, and the IoU of the two classes that differ most."""
    spread = np.where(wanted, ious.max(0) - ious.min(0) if len(ious) > 1 else 100 - ious[0], np.nan)
    order = np.argsort(-np.nan_to_num(spread, nan=-1), kind="stable")[:2]
    parts = []
    for place, k in enumerate(order.tolist()):
        if spread[k] > 0 or (place == 0 and spread[k] == 0):
            values = ", ".join(
                f"{value:.0f} ({title})" for value, title in zip(ious[:, k], titles, strict=True)
            )
            parts.append(f"{classes[k]} {values}")
    return f"{Path(name).name}    IoU in per cent: {';  '.join(parts)}"


def _draw_classes(
    images: Iterable[Predicted],
    classes: Sequence[str],
    counts: IntArray,
    wanted: NDArray[np.bool_],
    args: Namespace,
) -> None:
    wanted = wanted if args.classes else np.ones(len(classes), dtype=bool)
    wished, total = args.images or 18, 0
    reservoir = ClassReservoir(len(classes), wished)
    for total, one in enumerate(images):
        right = [int(predicted[0]) == int(one.truth[0]) for predicted in one.maps]
        differs = len(set(right)) > 1 if len(right) > 1 else not right[0]
        label = one.truth if differs and wanted[one.truth[0]] else np.array([-1])
        reservoir.update(total, label, partial(_held, one))
    arrays = reservoir.arrays()
    if not arrays:
        raise ValueError(
            f"The {args.split} split must have an image on which one checkpoint is right and another wrong, "
            f"got none among its {total + 1} images."
        )
    chosen = _round_robin(arrays["label"], order_by_count(counts)[::-1], wished)
    shown = [arrays["kept"][i] for i in chosen]
    which = "a loss is wrong and another right" if len(args.titles) > 1 else "it is wrong"
    note = f"{len(chosen)} of the {reservoir.seen.sum()} images where {which}, rarest classes first"
    figure = class_figure(
        [kept.pixels for kept in shown],
        [classes[int(kept.truth[0])] for kept in shown],
        {title: [classes[int(kept.maps[i][0])] for kept in shown] for i, title in enumerate(args.titles)},
        note=note,
    )
    save_figure(figure, args.out, args.dpi)
    print(f"Wrote {args.out}: {note}; {total + 1} images were read.")


def _held(kept: Predicted, _: IntArray) -> Mapping[str, NDArray[Any]]:
    held = np.empty(1, dtype=object)
    held[0] = kept
    return {"kept": held}


def _round_robin(label: IntArray, order: IntArray, number: int) -> list[int]:
    """Return elements of each class in turn, in the order of the classes, then by class."""
    turns = {k: np.flatnonzero(label == k).tolist() for k in order.tolist()}
    taken = dict.fromkeys(turns, 0)
    for _ in range(number):
        open_classes = [k for k in turns if taken[k] < len(turns[k])]
        if not open_classes:
            break
        taken[min(open_classes, key=lambda k: taken[k])] += 1
    return [i for k in turns for i in turns[k][: taken[k]]]
