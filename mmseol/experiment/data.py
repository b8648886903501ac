"""The data of a config: folder, cut and loading."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from mmseol.datasets.imbalance import class_sizes
from mmseol.experiment.loss import parse_arguments, parse_options

__all__ = ["parse_imbalance", "set_data_root", "set_dataloader_defaults", "set_imbalance"]

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


def leaf_datasets(dataset: Any) -> Iterator[Any]:
    """Yield the innermost data sets of nested wrappers."""
    if isinstance(dataset, (list, tuple)):
        for item in dataset:
            yield from leaf_datasets(item)
    elif dataset:
        inner = [dataset[key] for key in ("dataset", "datasets") if key in dataset]
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
    return str(dataset.get("type")).removeprefix("mmseol.") == name


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
