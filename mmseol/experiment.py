"""Config and arguments -> resolved config; the only place that edits configs.

The functions change the config they are given and know nothing of the command line. They work on
configs of mmseg and of mmpretrain, ours or anybody else's.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict

from mmseol.imbalance import class_sizes
from mmseol.registry import MODELS

__all__ = [
    "check_work_dir",
    "explain_download",
    "parse_imbalance",
    "parse_loss",
    "resolved_loss",
    "set_amp",
    "set_cpu_distributed",
    "set_data_root",
    "set_dataloader_defaults",
    "set_imbalance",
    "set_loss",
    "set_prediction_folder",
    "set_seed",
    "set_show_folder",
    "set_split",
    "set_test_time_augmentation",
]

_DATALOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
_CUT = ("seed", "protocol", "class_order", "n_max")  # what --imbalance may say beside profile and ratio
_RESULTS = ("last_checkpoint", "*.pth", "*/vis_data/scalars.json")


# -------------------------------------------------------------------- loss


def parse_loss(spec: str) -> tuple[str, dict[str, Any]]:
    """Split ``NAME[:key=value,...]`` into the name and its arguments.

    Values are Python literals where they parse as such, else strings:
    ``outlying_mse:alpha=6,ties=dense`` gives ``('outlying_mse', {'alpha': 6, 'ties': 'dense'})``.

    Raises:
        ValueError: If the part behind the colon is not of that form.
    """
    name, colon, rest = spec.partition(":")
    return name, _parse_arguments(
        rest, f"`--loss` must be NAME[:key=value,...], got {spec!r}"
    ) if colon else {}


def _parse_arguments(text: str, complaint: str) -> dict[str, Any]:
    """Return the arguments of ``key=value,...``; a comma may stand inside of a value."""
    arguments: dict[str, Any] = {}
    for item in re.split(r",(?=\w+=)", text):
        key, equals, value = item.partition("=")
        if not (equals and key.isidentifier() and value):
            raise ValueError(f"{complaint} (at {item!r}).")
        try:
            arguments[key] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            arguments[key] = value
    return arguments


def resolved_loss(spec: str, losses: dict[str, dict]) -> dict[str, Any]:
    """Return the loss config that ``NAME[:key=value,...]`` stands for.

    Args:
        spec: What a user types.
        losses: Loss configs by name, as ``configs/_base_/losses.py`` lists them.

    Raises:
        ValueError: If the name is unknown or the loss refuses its arguments.
    """
    name, arguments = parse_loss(spec)
    if name not in losses:
        raise ValueError(f"`--loss` must name one of {', '.join(sorted(losses))}, got {name!r}.")
    loss = {**losses[name], **arguments}
    try:
        MODELS.build(dict(loss))
    except (TypeError, ValueError) as error:
        raise ValueError(f"`--loss` {spec!r} cannot be built: {error}") from error
    return loss


def set_loss(cfg: Config, spec: str, fallback: dict[str, dict] | None = None) -> None:
    """Train with the loss ``NAME[:key=value,...]`` in every head, main and auxiliary.

    Names are looked up in ``cfg.losses`` (where a data set sets its own alpha), then in ``fallback``.
    Each head keeps the ``loss_weight`` it had (of its first loss, where it had several), unless the
    arguments give another. Adds ``mmseol.ClassCountHook`` where the config has none.

    Raises:
        ValueError: As :func:`resolved_loss`, or if the model has no head that takes a loss.
    """
    loss = resolved_loss(spec, {**(fallback or {}), **cfg.get("losses", {})})
    heads = list(_heads(cfg.model))
    if not heads:
        raise ValueError(
            f"`--loss` {spec!r}: cfg.model ({cfg.model.get('type')}) has no head that takes a loss."
        )
    for head, key in heads:
        old = head.get(key) or {}
        first = old[0] if isinstance(old, (list, tuple)) else old
        weight = {"loss_weight": first["loss_weight"]} if "loss_weight" in first else {}
        head[key] = ConfigDict({**weight, **loss})
    hooks = [*(cfg.get("custom_hooks") or [])]
    if not any(hook.get("type") in ("mmseol.ClassCountHook", "ClassCountHook") for hook in hooks):
        cfg.custom_hooks = [*hooks, dict(type="mmseol.ClassCountHook")]


def _heads(model: Any) -> Iterator[tuple[Any, str]]:
    """Yield every head config of the model with the key of its loss."""
    for name, key in (("decode_head", "loss_decode"), ("auxiliary_head", "loss_decode"), ("head", "loss")):
        heads = model.get(name) or []
        for head in heads if isinstance(heads, (list, tuple)) else [heads]:
            yield head, key


# -------------------------------------------------------------------- data


def set_data_root(cfg: Config, data_root: str) -> None:
    """Read every data set of the config, wrapped or not, from ``data_root``.

    Raises:
        ValueError: If ``data_root`` is not a folder.
    """
    if not Path(data_root).is_dir():
        raise ValueError(f"`--data-root` must be an existing folder, got {data_root!r}.")
    for name in _DATALOADERS:
        for dataset in _leaf_datasets((cfg.get(name) or {}).get("dataset")):
            dataset["data_root"] = data_root
    if "data_root" in cfg:
        cfg.data_root = data_root


def _leaf_datasets(dataset: Any) -> Iterator[Any]:
    if isinstance(dataset, (list, tuple)):
        for item in dataset:
            yield from _leaf_datasets(item)
    elif dataset:
        inner = [dataset[key] for key in ("dataset", "datasets") if key in dataset]
        yield from _leaf_datasets(inner) if inner else [dataset]


def parse_imbalance(spec: str) -> dict[str, Any]:
    """Split ``PROFILE:RATIO[:key=value,...]`` into arguments of ``mmseol.ImbalancedDataset``.

    ``step:10:seed=1,protocol=cao2019`` gives ``{'profile': 'step', 'ratio': 10, 'seed': 1, 'protocol':
    'cao2019'}``; further keys are ``n_max`` and ``class_order``.

    Raises:
        ValueError: If it is not of that form, or profile, ratio or a key is none.
    """
    complaint = f"`--imbalance` must be PROFILE:RATIO[:key=value,...], got {spec!r}"
    profile, _, rest = spec.partition(":")
    ratio, colon, further = rest.partition(":")
    arguments = _parse_arguments(further, complaint) if colon else {}
    unknown = sorted(set(arguments) - set(_CUT))
    if unknown:
        raise ValueError(f"{complaint}: {', '.join(unknown)} is none of {', '.join(_CUT)}.")
    try:
        number = ast.literal_eval(ratio)
    except (SyntaxError, ValueError):
        number = ratio
    try:
        class_sizes([2**60, 2**60], profile, number)
    except ValueError as error:
        raise ValueError(f"{complaint}: {error}") from error
    return {"profile": profile, "ratio": number, **arguments}


def set_imbalance(cfg: Config, spec: str) -> None:
    """Cut the training data by ``PROFILE:RATIO[:key=value,...]``; validation and test data stay.

    An ``mmseol.ImbalancedDataset`` in the training data set is given the profile and the ratio (and loses
    ``counts`` and ``indices_file``, which belong to another cut). Where there is none, the data set is
    wrapped, inside of wrappers that repeat.

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
    """Give data loaders what the hosts' own tools give them, and drop what torch refuses without workers."""
    for name in _DATALOADERS:
        loader = cfg.get(name)
        if loader is None:
            continue
        if cfg.get("default_scope") == "mmpretrain":
            loader.setdefault("pin_memory", True)
            loader.setdefault("persistent_workers", True)
            loader.setdefault("collate_fn", dict(type="default_collate"))
        if loader.get("num_workers", 0) == 0:
            loader.persistent_workers = False


def set_split(cfg: Config, split: str) -> None:
    """Let the test loop read the validation split, or leave it the test split.

    Raises:
        ValueError: If ``split`` is neither, or the config does not have it.
    """
    if split not in ("val", "test"):
        raise ValueError(f"`--split` must be 'val' or 'test', got {split!r}.")
    if cfg.get(f"{split}_dataloader") is None:
        raise ValueError(f"`--split {split}`: the config has no {split}_dataloader.")
    if split == "val":
        cfg.test_dataloader = cfg.val_dataloader
        cfg.test_evaluator = cfg.val_evaluator
        cfg.test_cfg = cfg.get("test_cfg") or dict()


def set_prediction_folder(cfg: Config, folder: str) -> None:
    """Write the predicted label maps into ``folder``, which must be empty or new.

    Raises:
        ValueError: If the folder holds files.
    """
    _require_empty("--out", folder)
    cfg.test_evaluator["output_dir"] = folder
    cfg.test_evaluator["keep_results"] = True


def set_show_folder(cfg: Config, folder: str) -> None:
    """Write pictures of the predictions into ``folder``, which must be empty or new.

    Raises:
        ValueError: If the folder holds files, or the config has no visualization hook.
    """
    _require_empty("--show-dir", folder)
    hook = cfg.get("default_hooks", {}).get("visualization")
    if hook is None:
        raise ValueError("`--show-dir` needs `default_hooks.visualization` in the config.")
    hook["draw" if "SegVisualizationHook" in hook["type"] else "enable"] = True
    cfg.visualizer["save_dir"] = folder


def _require_empty(argument: str, folder: str) -> None:
    if Path(folder).exists() and any(Path(folder).iterdir()):
        raise ValueError(f"`{argument}` must be a new or empty folder, got {folder!r}.")


def set_test_time_augmentation(cfg: Config) -> None:
    """Average over the views of ``cfg.tta_pipeline``: raw outputs in segmentation, scores in classification.

    Raises:
        ValueError: If the config has no ``tta_model`` and ``tta_pipeline``.
    """
    if "tta_model" not in cfg or "tta_pipeline" not in cfg:
        raise ValueError("`--tta` needs `tta_model` and `tta_pipeline` in the config; see configs/_base_.")
    for dataset in _leaf_datasets(cfg.test_dataloader.dataset):
        dataset["pipeline"] = cfg.tta_pipeline
    cfg.tta_model.module = cfg.model
    cfg.model = cfg.tta_model


# -------------------------------------------------------------------- run


def set_seed(cfg: Config, seed: int) -> None:
    """Seed initialisation, data order and augmentation."""
    cfg.randomness = {**cfg.get("randomness", {}), "seed": seed}


def set_amp(cfg: Config) -> None:
    """Train in mixed precision.

    Raises:
        ValueError: If there is no device for it; mmengine has none on CPU.
    """
    if not torch.cuda.is_available():
        raise ValueError("`--amp` needs a GPU, and torch finds none. Leave it out to train in float32.")
    cfg.optim_wrapper.type = "AmpOptimWrapper"
    cfg.optim_wrapper.setdefault("loss_scale", "dynamic")


def set_cpu_distributed(cfg: Config) -> None:
    """Make a distributed run possible without a GPU.

    The hosts' launchers ask for CUDA devices, their wrapper for device ids, and SyncBN for a GPU:
    the wrapper is told that there are none and SyncBN becomes BN.
    """
    cfg.model_wrapper_cfg = dict(
        type="MMDistributedDataParallel",
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=cfg.get("find_unused_parameters", False),
    )
    _replace_type(cfg.model, ("SyncBN", "mmengine.SyncBN"), "BN")


def _replace_type(node: Any, old: tuple[str, ...], new: str) -> None:
    if isinstance(node, dict):
        if node.get("type") in old:
            node["type"] = new
        for child in node.values():
            _replace_type(child, old, new)
    elif isinstance(node, (list, tuple)):
        for child in node:
            _replace_type(child, old, new)


def explain_download(cfg: Config, error: Exception) -> str:
    """Return what a failed download means: which weights, why, and how to do without."""
    names = dict.fromkeys(
        re.findall(r"'((?:https?|open-mmlab|torchvision|mmcls|openmmlab)://[^']+)'", str(cfg.to_dict()))
    )
    return (
        f"error: could not download {', '.join(names) or 'pretrained weights'}: {error}\n"
        "Start without them: --cfg-options model.pretrained=None (or model.backbone.init_cfg=None where the "
        "config uses that), or give a file: --cfg-options model.pretrained=FILE"
    )


def check_work_dir(cfg: Config, resume: bool) -> None:
    """Refuse a work dir that holds another run, so that no result is overwritten.

    A run may be resumed where it was, with the model it had.

    Raises:
        ValueError: If the folder holds a run and ``resume`` is off, or the run's model is another.
    """
    work_dir = Path(cfg.work_dir)
    found = [path for pattern in _RESULTS for path in sorted(work_dir.glob(pattern)) if path.stat().st_size]
    if found and not resume:
        names = ", ".join(str(path.relative_to(work_dir)) for path in found[:3])
        raise ValueError(
            f"`--work-dir` {str(work_dir)!r} already holds a run ({names}). "
            "Continue it with --resume, or give another --work-dir."
        )
    for stored in sorted(work_dir.glob("*.py")) if found else ():
        if Config.fromfile(stored).get("model") != cfg.model:
            raise ValueError(
                f"`--work-dir` {str(work_dir)!r} holds a run of another model or loss ({stored.name}). "
                "Resume with the arguments it was started with, or give another --work-dir."
            )
