"""Checks of a config alone: names, losses, hooks, and settings of the training."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

import mmengine.registry
import torch
from mmengine.registry import MODELS, Registry
from mmengine.runner import Runner

import mmseol.registry
from mmseol.experiment.config_files import check_packages, types_in
from mmseol.experiment.data import DATALOADERS, check_files
from mmseol.experiment.diagnosis.findings import Check, Finding, Subject, error_text
from mmseol.experiment.loss import named_heads
from mmseol.experiment.training import download_names
from mmseol.experiment.weights import check_classifier
from mmseol.hooks.run_parts import dependent_losses, missing_hooks
from mmseol.utils.text import first_few
from mmseol.utils.unpickling import load_checkpoint

__all__ = ["CONFIG"]

_FOREIGN = ("Albu", "Albumentations")  # their `transforms` are names of Albumentations
_SCOPES = ("mmseg", "mmpretrain", "mmdet", "mmengine")


def names(subject: Subject) -> Iterator[Finding]:
    """Look up every ``type`` of the config, as the hosts would."""
    cfg = subject.cfg
    scope = cfg.get("default_scope")
    if scope not in _SCOPES:
        yield Finding(
            "warning" if scope else "fault",
            f"default_scope is {scope!r}: names without a package are looked up there. Set "
            "default_scope = 'mmseg' or 'mmpretrain'.",
        )
    try:
        check_packages(cfg)
    except ValueError as error:
        yield Finding("fault", str(error))
        return
    registries = _registries(scope)
    known = dict.fromkeys(name for one in registries for name in one.module_dict)
    read = [cfg.get(key) for key in inspect.signature(Runner).parameters]
    wanted = dict.fromkeys(types_in(_without_foreign([*read, cfg.get("data_preprocessor")])))
    unknown = [name for name in wanted if all(one.get(name) is None for one in registries)]
    for name in unknown:
        yield Finding("fault", f"type={name!r} is not registered. {_where(name, known)}")
    if not unknown:
        yield Finding("ok", f"all {len(wanted)} types of the config are registered")


def _registries(scope: str | None) -> list[Registry]:
    """Return the registries of the scope and mmengine's, which know those of all scopes by prefix."""
    modules = [mmengine.registry]
    if scope in ("mmseg", "mmpretrain", "mmdet"):
        modules.insert(0, import_module(f"{scope}.registry"))
    found: list[Registry] = []
    for module in modules:
        found += [one for one in vars(module).values() if isinstance(one, Registry) and one not in found]
    for one in found:
        one.import_from_location()
    return found


def _without_foreign(node: Any) -> Any:
    """Return the settings without those that another package reads (Albumentations)."""
    if isinstance(node, dict):
        foreign = ("transforms",) if _bare(node) in _FOREIGN else ()
        return {key: _without_foreign(value) for key, value in node.items() if key not in foreign}
    if isinstance(node, (list, tuple)):
        return [_without_foreign(value) for value in node]
    return node


def _bare(node: Any) -> str:
    return str(node.get("type")).rpartition(".")[-1]


def _where(name: str, known: dict[str, None]) -> str:
    bare = name.rpartition(".")[-1]
    ours = [one for one in vars(mmseol.registry).values() if isinstance(one, Registry)]
    if any(one.get(f"mmseol.{bare}") is not None for one in ours):
        return f"Write type='mmseol.{bare}'."
    near = get_close_matches(bare, known, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{hint}Of a class of yours, import the module: custom_imports=dict(imports=['package.module'])."


def losses(subject: Subject) -> Iterator[Finding]:
    """Build the loss of every head alone; a stock loss that was merged into ours shows here."""
    broken = False
    for name, head, key in named_heads(subject.cfg.get("model") or {}):
        inner = head.get("head", head) if key not in head else head  # of a CosineClassifierHead
        settings = inner.get(key)
        for one in settings if isinstance(settings, (list, tuple)) else [settings]:
            if not isinstance(one, dict):
                continue
            try:
                subject.losses.append((f"{name}.{key}", MODELS.build(dict(one))))
            except Exception as error:
                broken = True
                yield Finding("fault", f"{name}.{key} cannot be built: {error_text(error)}")
    if subject.losses and not broken:
        kinds = dict.fromkeys(type(loss).__name__ for _, loss in subject.losses)
        yield Finding("ok", f"{', '.join(kinds)} of {len(subject.losses)} head(s) can be built")
    elif not broken:
        yield Finding("skipped", "no head of the config names its loss")


def hooks_of_losses(subject: Subject) -> Iterator[Finding]:
    """Look whether losses that need class counts, or other hooks, will get them."""
    counting = [(name, loss) for name, loss in subject.losses if hasattr(loss, "set_class_counts")]
    types = [_bare(hook) for hook in subject.cfg.get("custom_hooks") or []]
    dependent = [] if "ClassCountHook" in types else dependent_losses(counting)
    missing = missing_hooks(types, counting)
    for name in dependent:
        yield Finding(
            "fault",
            f"{name} needs class counts, and nothing gives them. Add dict(type='mmseol.ClassCountHook') to "
            "custom_hooks, or class_counts=[...] to the loss.",
        )
    for name, hook in missing:
        yield Finding(
            "warning",
            f"{name} works as described only with {hook}. Add dict(type='{hook}') to custom_hooks.",
        )
    if not dependent and not missing:
        counted = "ClassCountHook counts the data" if "ClassCountHook" in types else "none needs counts"
        yield Finding("ok", f"losses get the hooks that they need; {counted}")


def files(subject: Subject) -> Iterator[Finding]:
    """Look for the folders and annotation files of all data sets."""
    present = [name for name in DATALOADERS if subject.cfg.get(name)]
    for name in present:
        try:
            check_files(subject.cfg, [name])
        except ValueError as error:
            subject.missing.append(name)
            yield Finding("fault" if name != "test_dataloader" else "warning", str(error))
    if not subject.missing:
        yield Finding("ok", f"the files of {first_few(present)} exist")


def weights(subject: Subject) -> Iterator[Finding]:
    """Look for the weights that training starts from."""
    cfg = subject.cfg
    start = cfg.get("load_from")
    if isinstance(start, str) and "://" not in start:
        try:
            check_classifier(cfg, start, load_checkpoint(start))
        except (OSError, ValueError) as error:
            yield Finding("fault", f"`load_from` {start!r}: {error}")
            return
    local = [path for path in _paths(cfg.get("model")) if "://" not in path and not Path(path).is_file()]
    for path in local:
        yield Finding("fault", f"the pretrained weights {path!r} do not exist. Correct the config.")
    remote = download_names(cfg)
    if remote:
        yield Finding(
            "ok", f"training loads {first_few(remote)}, from the network if it is not in PyTorch's cache"
        )
    elif not local:
        yield Finding("ok", f"training starts from {start or 'new weights'}")


def _paths(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("pretrained", "checkpoint") and isinstance(value, str):
                yield value
            else:
                yield from _paths(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _paths(value)


def loaders(subject: Subject) -> Iterator[Finding]:
    """Look at batch size, workers, and augmentations that every epoch repeats."""
    cfg = subject.cfg
    loader = cfg.get("train_dataloader") or {}
    if not loader:
        yield Finding("skipped", "the config has no train_dataloader")
        return
    size, workers = loader.get("batch_size", 1), loader.get("num_workers", 0)
    before = 0
    norms = [name for name in types_in(cfg.get("model")) if name in ("BN", "BN2d", "SyncBN")]
    if size == 1 and norms:
        before += 1
        yield Finding(
            "warning",
            f"the training batch has one image and the model {norms[0]}, which fails on maps of 1x1 and has "
            "poor statistics. Set train_dataloader.batch_size to at least 2.",
        )
    by_epoch = (cfg.get("train_cfg") or {}).get("by_epoch", False)
    if workers and by_epoch and not loader.get("persistent_workers"):
        before += 1
        yield Finding(
            "warning",
            "mmengine seeds the workers alike at every start, so that each epoch repeats the augmentations. "
            "Set train_dataloader.persistent_workers=True.",
        )
    if workers > (os.cpu_count() or 1):
        before += 1
        yield Finding(
            "warning",
            f"{workers} workers on {os.cpu_count()} cores. Lower train_dataloader.num_workers.",
        )
    if not before:
        yield Finding("ok", f"batch size {size}, workers {workers}")


def precision(subject: Subject) -> Iterator[Finding]:
    """Look for mixed precision without a GPU."""
    kind = str((subject.cfg.get("optim_wrapper") or {}).get("type"))
    if "Amp" in kind and not torch.cuda.is_available():
        yield Finding(
            "fault", f"{kind} needs a GPU, and PyTorch finds none. Set optim_wrapper.type='OptimWrapper'."
        )
    else:
        yield Finding("ok", "mixed precision" if "Amp" in kind else "float32")


def scaled_rate(subject: Subject) -> Iterator[Finding]:
    """Compare the batch with the one that a stock config's learning rate was chosen for."""
    cfg = subject.cfg
    base = (cfg.get("auto_scale_lr") or {}).get("base_batch_size")
    size = (cfg.get("train_dataloader") or {}).get("batch_size")
    enabled = (cfg.get("auto_scale_lr") or {}).get("enable")
    gpus = max(1, torch.cuda.device_count())
    if not base or not size or enabled or base <= size * gpus * 2:
        chosen = f"the learning rate was chosen for batches of {base}"
        yield Finding("ok", chosen if base else "auto_scale_lr names no batch of the learning rate")
        return
    yield Finding(
        "warning",
        f"the learning rate was chosen for batches of {base}, and {size} images on {gpus} device(s) make "
        f"{size * gpus}. Multiply it by {size * gpus / base:g}, or set auto_scale_lr.enable=True.",
    )


CONFIG: list[Check] = [
    names,
    losses,
    hooks_of_losses,
    files,
    weights,
    loaders,
    precision,
    scaled_rate,
]
