"""The data of a config: folder, cut and loading."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATA_SAMPLERS, DATASETS, DefaultScope

from mmseol.counting.counts import ClassCounts
from mmseol.counting.skew import batches_without
from mmseol.counting.wrappers import walk
from mmseol.datasets.imbalance import class_sizes
from mmseol.experiment.loss import has_boolean, parse_arguments, parse_options
from mmseol.utils.arrays import FloatArray
from mmseol.utils.text import first_few

__all__ = [
    "build_dataset",
    "check_files",
    "expected_without",
    "parse_imbalance",
    "set_data_root",
    "set_dataloader_defaults",
    "set_imbalance",
]

DATALOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
_CUT = ("seed", "protocol", "class_order", "n_max")  # keys of --imbalance


def set_data_root(cfg: Config, data_root: str) -> None:
    """Read every data set of the config, wrapped or not, from ``data_root``.

    >>> cfg = Config(dict(val_dataloader=dict(dataset=dict(type="ConcatDataset", datasets=[dict(type="A")]))))
    >>> set_data_root(cfg, ".")
    >>> cfg.val_dataloader.dataset.datasets
    [{'type': 'A', 'data_root': '.'}]

    Raises:
        ValueError: If ``data_root`` is not a folder.
    """
    if not Path(data_root).is_dir():
        raise ValueError(f"`--data-root` must be an existing folder, got {data_root!r}.")
    for name in DATALOADERS:
        for dataset in leaf_datasets((cfg.get(name) or {}).get("dataset")):
            dataset["data_root"] = data_root
    if "data_root" in cfg:
        cfg.data_root = data_root


def check_files(cfg: Config, names: Iterable[str]) -> None:
    """Check the folders and annotation files that the data sets of the config name.

    The hosts fail on them with errors that name neither the argument nor the file, or only when training
    starts.

    >>> data = dict(type="CustomDataset", data_root="/no/such", data_prefix="train")
    >>> check_files(Config(dict(train_dataloader=dict(dataset=data))), ["train_dataloader"])
    Traceback (most recent call last):
    ValueError: `data_prefix` of train_dataloader must be an existing folder, got '/no/such/train'. Give \
`--data-root`, or correct the config.

    Args:
        names: Data loaders to check.

    Raises:
        ValueError: If a folder or annotation file on a local disk does not exist, or a line of the annotation
            file of mmpretrain's ``CustomDataset`` does not end in a class index.
    """
    for name in names:
        for dataset in leaf_datasets((cfg.get(name) or {}).get("dataset")):
            backend = (dataset.get("backend_args") or {}).get("backend", "local")
            own_checks = _is(dataset, "CamVidDataset")
            if backend != "local" or own_checks or dataset.get("download"):
                continue
            prefix = dataset.get("data_prefix") or {}
            folders = prefix if isinstance(prefix, dict) else {"": prefix}
            for key, folder in folders.items():
                path = _local(dataset, folder)
                if path is not None and not path.is_dir():
                    argument = f"`data_prefix` of {name}" + (f" (its {key!r})" if key else "")
                    raise ValueError(
                        f"{argument} must be an existing folder, got {str(path)!r}. Give `--data-root`, or "
                        "correct the config."
                    )
            path = _local(dataset, dataset.get("ann_file"))
            if path is None:
                _check_suffix(name, dataset)
                continue
            if not path.is_file():
                raise ValueError(
                    f"`ann_file` of {name} must be an existing file, got {str(path)!r}. Give "
                    "`--data-root`, or correct the config."
                )
            if str(dataset.get("type")).endswith("CustomDataset") and dataset.get("with_label", True):
                _check_lines(path)


def _local(dataset: Any, path: Any) -> Path | None:
    """Return a path of a data set, or ``None`` if it has none or it is not on a local disk."""
    whole = os.path.join(dataset.get("data_root") or "", path) if isinstance(path, str) and path else ""
    return Path(whole) if whole and "://" not in whole else None


def _check_suffix(name: str, dataset: Any) -> None:
    """Check that the image folder of a segmentation data set has a file of its suffix."""
    prefix = dataset.get("data_prefix")
    folder = _local(dataset, prefix.get("img_path") if isinstance(prefix, dict) else None)
    suffix = dataset.get("img_suffix", ".jpg")  # mmseg's default
    if folder is None or not _is(dataset, "BaseSegDataset") or any(folder.rglob(f"*{suffix}")):
        return
    suffixes = sorted({path.suffix for path in folder.rglob("*") if path.is_file()})
    raise ValueError(
        f"`img_suffix` of {name} must be that of its images, got {suffix!r}: {str(folder)!r} holds "
        f"{'files of ' + first_few(suffixes) if suffixes else 'no file'}."
    )


def _check_lines(path: Path) -> None:
    """Check that the lines hold a file and a class index."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        parts = line.strip().rsplit(" ", 1)
        if len(parts) != 2 or not parts[1].isdecimal():
            raise ValueError(
                f"`ann_file` {str(path)!r} must hold `FILE CLASS` in each line, with the index of the class "
                f"from 0, got {line[:100]!r} in line {number}. Add the classes, or sort the images into "
                "folders of classes and leave `ann_file` out."
            )


def build_dataset(cfg: Config, name: str) -> Any:
    """Return the data set of a data loader, initialised, as a Runner would build it, for its annotations.

    Nothing is downloaded, and ``mmseol.InMemoryDataset`` is left out, because it decodes every image.

    >>> data = dict(type="mmseol.ImbalancedDataset", dataset=dataset, profile="step", ratio=3)
    >>> len(build_dataset(Config(dict(train_dataloader=dict(dataset=data))), "train_dataloader"))
    9

    Raises:
        ValueError: If the config has no such data loader.
    """
    dataset = copy.deepcopy((cfg.get(name) or {}).get("dataset"))
    if not dataset:
        raise ValueError(f"`config` must have a `{name}` with a data set, got {cfg.get(name)!r}.")
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope")):
        if isinstance(dataset, dict):
            dataset = dataset["dataset"] if _is(dataset, "InMemoryDataset") else dataset
            for leaf in leaf_datasets(dataset):
                _refuse_download(leaf)
            dataset = DATASETS.build(dataset)
        if callable(getattr(dataset, "full_init", None)):
            dataset.full_init()
    return dataset


def expected_without(
    cfg: Config, dataset: Any, counts: ClassCounts, sampler: Mapping[str, Any] | None = None
) -> FloatArray:
    """Return the expected fraction of training batches without an image of each class, (K,).

    Samplers with ``expected_counts`` draw by class; their draws are taken as independent. Any other draws
    without replacement (:func:`mmseol.counting.skew.batches_without`).

    >>> cfg = Config(dict(train_dataloader=dict(batch_size=5)))
    >>> expected_without(cfg, dataset, ClassCounts([7, 3], [7, 3], [7, 3])).round(3)
    array([0.   , 0.083])

    Args:
        cfg: Config.
        dataset: Its training data.
        counts: Counts of the data.
        sampler: Config of a sampler; ``None``: that of the config.
    """
    loader = cfg.train_dataloader
    sampler = dict(loader.get("sampler") or {}) if sampler is None else dict(sampler)
    size = loader.get("batch_size", 1)
    if str(sampler.get("type")).startswith("mmseol."):
        built: Any = DATA_SAMPLERS.build({**sampler, "dataset": dataset, "seed": 0})
        if hasattr(built, "expected_counts"):
            drawn = np.asarray(built.expected_counts(), dtype=np.float64) / len(built)
            return np.clip(1 - drawn, 0, 1) ** size
    return batches_without(counts.images, len(walk(dataset)), size)


def _refuse_download(dataset: Any) -> None:
    """Set ``download=False`` where the data set has this argument."""
    name = dataset.get("type") if isinstance(dataset, dict) else None
    if isinstance(name, str):
        with DATASETS.switch_scope_and_registry(None) as registry:
            name = registry.get(name)
    if name is not None and has_boolean(name, "download"):
        dataset["download"] = False


def leaf_datasets(dataset: Any) -> Iterator[Any]:
    """Yield the innermost data sets of nested wrappers; one that is built already has none inside."""
    if isinstance(dataset, (list, tuple)):
        for item in dataset:
            yield from leaf_datasets(item)
    elif dataset:
        keys = ("dataset", "datasets") if isinstance(dataset, dict) else ()
        inner = [dataset[key] for key in keys if key in dataset]
        yield from leaf_datasets(inner) if inner else [dataset]


def parse_imbalance(spec: str) -> dict[str, Any]:
    """Split ``PROFILE:RATIO[:key=value,...]`` into arguments of ``mmseol.ImbalancedDataset``.

    Keys are ``seed``, ``protocol``, ``class_order`` and ``n_max``.

    >>> parse_imbalance("step:10:seed=1,protocol=cao2019")
    {'profile': 'step', 'ratio': 10, 'seed': 1, 'protocol': 'cao2019'}

    Raises:
        ValueError: If it is not of that form, or if the profile, the ratio or a key is unknown.
    """
    complaint = f"`--imbalance` must be PROFILE:RATIO[:key=value,...], got {spec!r}"
    profile, _, rest = spec.partition(":")
    ratio, colon, further = rest.partition(":")
    arguments = parse_arguments(further, complaint) if colon else {}
    unknown = sorted(set(arguments) - set(_CUT))
    if unknown:
        raise ValueError(f"{complaint}: {', '.join(unknown)} is none of {', '.join(_CUT)}.")
    number = parse_options([f"ratio={ratio}"])["ratio"]
    try:
        class_sizes([2**60, 2**60], profile, number)
    except ValueError as error:
        raise ValueError(f"{complaint}: {error}") from error
    return {"profile": profile, "ratio": number, **arguments}


def set_imbalance(cfg: Config, spec: str) -> None:
    """Cut the training data by ``PROFILE:RATIO[:key=value,...]``; validation and test data stay whole.

    An ``mmseol.ImbalancedDataset`` in the config takes the profile and the ratio and loses the ``counts`` and
    ``indices_file`` of its old cut. A config without one gets one, inside of wrappers that repeat.

    >>> cfg = Config(dict(train_dataloader=dict(dataset=dict(type="CIFAR10"))))
    >>> set_imbalance(cfg, "step:10")
    >>> cut = cfg.train_dataloader.dataset
    >>> cut.type, cut.profile, cut.ratio, cut.dataset
    ('mmseol.ImbalancedDataset', 'step', 10, {'type': 'CIFAR10'})

    Raises:
        ValueError: As :func:`parse_imbalance`, or if the config has no training data set or several cuts.
    """
    arguments = parse_imbalance(spec)
    dataset = (cfg.get("train_dataloader") or {}).get("dataset")
    if not dataset:
        raise ValueError(f"`--imbalance {spec}` cuts training data, but the config has no train_dataloader.")
    cuts = [node for node in _wrappers(dataset) if _is(node, "ImbalancedDataset")]
    if len(cuts) > 1:
        raise ValueError(f"`--imbalance {spec}` needs one ImbalancedDataset to change, got {len(cuts)}.")
    if cuts:
        for key in ("counts", "indices_file", *_CUT):
            cuts[0].pop(key, None)
        cuts[0].update(arguments)
        return
    owner, key = cfg.train_dataloader, "dataset"
    while "dataset" in owner[key] and not _is(owner[key], "HoldOut"):
        owner, key = owner[key], "dataset"
    owner[key] = ConfigDict(type="mmseol.ImbalancedDataset", dataset=owner[key], **arguments)


def _wrappers(dataset: Any) -> Iterator[Any]:
    """Yield the data set and all data sets inside of it."""
    if isinstance(dataset, (list, tuple)):
        for item in dataset:
            yield from _wrappers(item)
    elif dataset:
        yield dataset
        for key in ("dataset", "datasets"):
            yield from _wrappers(dataset.get(key))


def _is(dataset: Any, name: str) -> bool:
    return str(dataset.get("type")).rpartition(".")[2] == name


def set_dataloader_defaults(cfg: Config) -> None:
    """Set the loader settings that the hosts' own tools set; drop ``persistent_workers`` without workers.

    >>> cfg = Config(dict(train_dataloader=dict(num_workers=0, persistent_workers=True)))
    >>> set_dataloader_defaults(cfg)
    >>> cfg.train_dataloader.persistent_workers
    False
    """
    for name in DATALOADERS:
        loader = cfg.get(name)
        if loader is None:
            continue
        if cfg.get("default_scope") == "mmpretrain":
            loader.setdefault("pin_memory", True)
            loader.setdefault("persistent_workers", True)
            loader.setdefault("collate_fn", dict(type="default_collate"))
        if loader.get("num_workers", 0) == 0:
            loader.persistent_workers = False
