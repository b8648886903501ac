"""The command ``count``: the classes of a config's data, without a model."""

from __future__ import annotations

import json
import warnings
from argparse import Namespace
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from mmseol.counting import count_dataset
from mmseol.counting.counts import CLASS_WEIGHTS, ClassCounts, class_weights
from mmseol.counting.skew import gini, imbalance_ratio
from mmseol.experiment.commands import load_config
from mmseol.experiment.data import build_dataset, check_files
from mmseol.experiment.evaluation import require_empty
from mmseol.experiment.loss import stated_by_heads
from mmseol.hooks.class_table import class_table
from mmseol.utils.files import replacing
from mmseol.utils.text import first_few

__all__ = ["count_split", "named_weights", "prepare_count", "skew_text"]

_POWER = 0.5  # of the weights by a power of the counts
_HEADINGS = {
    "median_frequency": "median freq.",
    "inverse_frequency": "inverse freq.",
    "effective_number": "effective no.",
    "enet": "ENet",
    f"power_{_POWER}": f"power {_POWER}",
}


def count_split(
    cfg: Config, split: str = "train", dataset: Any = None, **settings: Any
) -> tuple[list[str], ClassCounts]:
    """Return the names of the classes of a split and their counts.

    The classes are those of the data set's metainfo or, if it has none, those of the model's heads; ignored
    labels are those of the heads.

    >>> cfg = Config(dict(train_dataloader=dict(dataset=dataset)))
    >>> names, counts = count_split(cfg)
    >>> names, counts.samples
    (['cat', 'dog'], array([7, 3]))

    Args:
        cfg: Config of mmseg or mmpretrain.
        split: ``'train'``, ``'val'`` or ``'test'``.
        dataset: The data set of the split, if it is built already.
        settings: ``workers``, ``cache``, ``cache_dir``, ``progress`` and ``check_sizes`` of
            :func:`mmseol.counting.count_dataset`.

    Raises:
        ValueError: If the config has no such split, the number of classes is not known, or a label is missing
            or no class.
    """
    dataset = build_dataset(cfg, f"{split}_dataloader") if dataset is None else dataset
    names = [str(name) for name in (getattr(dataset, "metainfo", None) or {}).get("classes") or ()]
    classes = len(names) or next(iter(stated_by_heads(cfg, "num_classes").values()), None)
    if classes is None:
        raise ValueError(
            "`config` must tell the classes, got a data set without `metainfo['classes']` and a model "
            "without `num_classes`. Give the data set metainfo=dict(classes=(...))."
        )
    ignore_index = next(iter(stated_by_heads(cfg, "ignore_index").values()), None)
    counts = count_dataset(dataset, classes, ignore_index, **settings)
    return names or [str(k) for k in range(classes)], counts


def named_weights(counts: ClassCounts) -> dict[str, list[float]]:
    """Return the class weights by each name that losses take, and by the power 0.5, (K,) each.

    The count of a class without a sample enters as 1.

    >>> named_weights(ClassCounts([90, 10], [2, 1], [100, 50]))["inverse_frequency"]
    [0.2, 1.8]
    """
    totals = None if np.array_equal(counts.totals, counts.images) else counts.totals
    kinds: dict[str, Any] = {**{name: name for name in CLASS_WEIGHTS}, f"power_{_POWER}": _POWER}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # skew_text names the classes without a sample
        weights = {name: class_weights(kind, counts.samples, totals) for name, kind in kinds.items()}
    return {name: [float(f"{value:.6g}") for value in values] for name, values in weights.items()}


def skew_text(names: Sequence[str], counts: ClassCounts) -> str:
    """Return the imbalance ratio, the Gini coefficients and the classes without a sample, as a sentence.

    >>> skew_text(["road", "pole"], ClassCounts([90, 10], [2, 1], [100, 50]))
    'Imbalance ratio 9.0 (road : pole); Gini coefficient 0.400 by pixel, 0.167 by image.'
    """
    samples = counts.samples
    pixels = not np.array_equal(samples, counts.images)
    largest, smallest = names[int(samples.argmax())], names[int(samples.argmin())]
    parts = [f"Imbalance ratio {imbalance_ratio(samples):.1f} ({largest} : {smallest})"]
    kinds = {"by pixel": samples, "by image": counts.images} if pixels else {"by image": samples}
    parts.append("Gini coefficient " + ", ".join(f"{gini(n):.3f} {kind}" for kind, n in kinds.items()))
    empty = [name for name, number in zip(names, samples, strict=True) if number == 0]
    without = f" Without a sample: {first_few(empty, 20)}." if empty else ""
    return "; ".join(parts) + "." + without


def prepare_count(args: Namespace) -> Config:
    """Return the config with the arguments applied.

    >>> prepare_count(Namespace(config="missing.py", out=None))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    FileNotFoundError: `config` must be a config file or a config of mmseol (...), got 'missing.py'...

    Raises:
        ValueError: If an argument does not fit the config, or a file of its data is missing.
        FileNotFoundError: If there is no such config.
    """
    if args.out is not None:
        require_empty("--out", args.out)
    cfg = load_config(args)
    check_files(cfg, [f"{split}_dataloader" for split in args.split])
    return cfg


def run_count(cfg: Config, args: Namespace) -> None:
    """Print the counts of each split; write them, and the weights of the training data, into ``--out``."""
    counted = {split: count_split(cfg, split, workers=args.workers) for split in args.split}
    for split, (names, counts) in counted.items():
        weights = named_weights(counts) if split == "train" else {}
        columns = {_HEADINGS[name]: values for name, values in weights.items()}
        print(class_table(f"{split.capitalize()} data", names, counts, columns))
        print(skew_text(names, counts) + "\n")
    if args.out is not None:
        print(f"Wrote {', '.join(_write(Path(args.out), counted))} into {args.out}.")


def _write(folder: Path, counted: Mapping[str, tuple[list[str], ClassCounts]]) -> list[str]:
    written = []
    for split, (names, counts) in counted.items():
        suffix = "" if split == "train" else f"_{split}"
        written.append(f"class_counts{suffix}.json")
        counts.save(folder / written[-1])
        if split == "train":
            written.append("class_weights.json")
            with replacing(folder / written[-1], "w") as file:
                file.write(json.dumps({"classes": names, **named_weights(counts)}, indent=1) + "\n")
    return [*written, *_draw(folder, counted)]


def _draw(folder: Path, counted: Mapping[str, tuple[list[str], ClassCounts]]) -> list[str]:
    """Draw the splits that have the same classes side by side; return the name of the picture."""
    if find_spec("matplotlib") is None:
        print("Without matplotlib there is no picture; install it: pip install 'mmseol[analysis]'.")
        return []
    from mmseol.analysis.figures.distributions import distribution_figure
    from mmseol.analysis.figures.style import save_figure

    names, first = next(iter(counted.values()))
    sets = {split: counts for split, (own, counts) in counted.items() if own == names}
    unit = "images" if np.array_equal(first.samples, first.images) else "pixels"
    save_figure(distribution_figure(sets, names, unit), folder / "class_counts.png")
    return ["class_counts.png"]
