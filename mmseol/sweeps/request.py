"""The request of a trial: its arguments, and what identifies it."""

from __future__ import annotations

import ast
import gc
import hashlib
import shlex
from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

import mmseol
from mmseol.analysis.tabulation.run_text import SHORT_NAMES
from mmseol.counting.cache import describe
from mmseol.counting.wrappers import walk
from mmseol.experiment.commands import load_config
from mmseol.experiment.data import leaf_datasets
from mmseol.sweeps.planner import Trial
from mmseol.sweeps.sweep_file import Sweep, with_arguments
from mmseol.version import __version__

__all__ = ["Requests", "check_held_out", "code_version", "data_digest"]

FORMAT = 1
_NOT_ARITHMETIC = ("sweeps", "analysis", "camvid", "testing.py", "__main__.py")
_NO_TEST = ("test_dataloader=None", "test_evaluator=None", "test_cfg=None")
_BY_ITERATION = (
    "default_hooks.checkpoint.by_epoch=False",
    "default_hooks.logger.type=LoggerHook",
    "default_hooks.logger.log_metric_by_epoch=False",
)
_OF_ITEM = ("sample_idx", "img_path", "seg_map_path")  # paths are digested below their data root


class Requests:
    """Make the requests of a sweep's trials.

    >>> sweep = Sweep("a", ["quickstart/digits.py"], ["ce"], epochs=3, metric="accuracy")
    >>> requests = Requests(sweep)
    >>> trial = Trial("final", "quickstart/digits.py", None, "ce", (), length=3, seed=1)
    >>> requests.settings(trial)[:2]
    ['train_cfg.max_epochs=3', 'train_cfg.val_interval=3']

    Args:
        sweep: The sweep.
        data_root: Folder from which every data set is read; ``None``: those of the configs.
    """

    def __init__(self, sweep: Sweep, data_root: str | None = None) -> None:
        self.sweep, self.data_root = sweep, data_root
        self.version = code_version()
        self._bases: dict[str, Config] = {}
        self._digests: dict[str, str] = {}
        self._made: dict[Trial, dict[str, Any]] = {}
        self._checked: set[tuple[str | None, ...]] = set()

    def of(self, trial: Trial) -> dict[str, Any]:
        """Return the content of trial.json.

        ``key`` is a hash of resolved config, data, seed and stage, ``id`` one of ``key`` and the code's
        version.

        Raises:
            ValueError: If an argument does not fit the config, or training or validation would read the test
                split.
        """
        if trial not in self._made:
            self._made[trial] = self._make(trial)
        return self._made[trial]

    def _make(self, trial: Trial) -> dict[str, Any]:
        sweep, tuning = self.sweep, trial.stage == "tune"
        values = {SHORT_NAMES.get(name, name): value for name, value in trial.values.items()}
        own = [f"{key}={value}" for key, value in values.items() if "." in key]
        arguments = {key: value for key, value in values.items() if "." not in key}  # of the loss
        given = [*sweep.options, *sweep.of_loss(sweep.options_of, trial.loss)]
        options = [*self.settings(trial), *given, *own]
        if tuning:  # it has no test split at all
            options = [*(item for item in options if not item.startswith("test_")), *_NO_TEST]
        train = {
            "config": trial.config,
            "loss": with_arguments(trial.loss, arguments),
            "imbalance": trial.imbalance,
            "data_root": self.data_root,
            "seed": trial.seed,
            "cfg_options": options,
        }
        cfg = load_config(Namespace(**train))
        of_data = [*given, *(item for item in own if not item.startswith("optim_wrapper."))]
        checked = (trial.config, trial.imbalance, *of_data)
        if checked not in self._checked:
            with_test = load_config(Namespace(**{**train, "cfg_options": of_data}))
            check_held_out(self._base(trial.config), with_test, sweep.split)
            self._checked.add(checked)
        loaders = ["train_dataloader", "val_dataloader"]
        if not tuning and sweep.split == "test":
            loaders.append("test_dataloader")
        data = {
            "digest": self._digest(cfg, loaders),
            "subset_digest": self._digest(cfg, ["train_dataloader"]),
        }
        split = "val" if tuning else sweep.split
        scoring: list[Any] = [trial.stage, split, sweep.metric, sweep.best_on_test]
        processes = sweep.processes_per_trial
        if processes > 1:
            scoring.append(processes)
        key = _hash(describe([_without_root(cfg), data, scoring]))
        return {
            "format": FORMAT,
            "id": _hash(key + self.version),
            "key": key,
            "version": self.version,
            "sweep": sweep.name,
            "stage": trial.stage,
            "rung": trial.rung,
            "config": trial.config,
            "loss": trial.loss,
            "imbalance": trial.imbalance,
            "seed": trial.seed,
            "values": trial.values,
            "options": given,
            "epochs": trial.length if sweep.unit == "epochs" else None,
            "iterations": trial.length if sweep.unit == "iterations" else None,
            "metric": sweep.metric,
            "split": split,
            "best_on_test": sweep.best_on_test and not tuning,
            "keep_checkpoints": sweep.keep_checkpoints and not tuning,
            "settings": _optimizer(cfg),
            "data": data,
            "processes": processes,
            "train": train,
            "command": _commands(train, None if tuning else split, processes),
            "chosen": None,
        }

    def settings(self, trial: Trial) -> list[str]:
        """Return the ``--cfg-options`` that the sweep itself needs: length, validations, checkpoints."""
        cfg, length = self._base(trial.config), trial.length
        by_epoch = self.sweep.unit == "epochs"
        name, default = ("max_epochs", 1) if by_epoch else ("max_iters", 1000)
        interval = min(cfg.train_cfg.get("val_interval", default), length)
        final = trial.stage == "final"
        every = self.sweep.best_on_test and final
        kept = self.sweep.keep_every if final else None
        own = kept or (1 if by_epoch and not every else interval)
        return [
            f"train_cfg.{name}={length}",
            f"train_cfg.val_interval={interval}",
            *_scaled_schedules(cfg.get("param_scheduler") or [], length / cfg.train_cfg[name], by_epoch),
            "default_hooks.checkpoint.type=mmseol.WholeCheckpointHook",
            *(() if by_epoch else _BY_ITERATION),
            f"default_hooks.checkpoint.interval={own}",
            f"default_hooks.checkpoint.max_keep_ckpts={-1 if every or kept else 1}",
            f"default_hooks.checkpoint.save_best={self.sweep.metric}",
            "default_hooks.checkpoint.rule=greater",
        ]

    def _base(self, config: str) -> Config:
        if config not in self._bases:
            self._bases[config] = load_config(Namespace(config=config, data_root=self.data_root))
        return self._bases[config]

    def _digest(self, cfg: Config, loaders: Sequence[str]) -> str:
        found = []
        for name in loaders:
            dataset = cfg[name].dataset.to_dict()
            text = describe(dataset)
            if text not in self._digests:
                self._digests[text] = data_digest(dataset, cfg.get("default_scope", "mmengine"))
            found.append(self._digests[text])
        return found[0] if len(found) == 1 else _hash(" ".join(found))


def _optimizer(cfg: Config) -> dict[str, Any]:
    """Return the optimizer of the resolved config, its learning rate and weight decay, for tables.

    What the config leaves open has the value of torch's optimizer of this name.
    """
    optimizer = (cfg.get("optim_wrapper") or {}).get("optimizer") or {}
    name = str(optimizer.get("type", ""))
    known = signature(getattr(torch.optim, name)).parameters if hasattr(torch.optim, name) else {}
    found = {"optimizer": name}
    for key in ("lr", "weight_decay"):
        if key in optimizer:
            found[key] = optimizer[key]
        elif key in known and isinstance(known[key].default, (int, float)):
            found[key] = known[key].default
    return found


def _scaled_schedules(schedules: Any, factor: float, by_epoch: bool) -> list[str]:
    """Return the options that shorten the schedules of the training's unit with fixed ends or milestones."""
    if factor == 1:
        return []
    found = []
    alone = isinstance(schedules, Mapping)
    for number, schedule in enumerate([schedules] if alone else schedules):
        if schedule.get("by_epoch", True) != by_epoch:
            continue  # such as a warmup by iterations in a training by epochs
        name = "param_scheduler" if alone else f"param_scheduler.{number}"
        for key in ("begin", "end", "T_max", "step_size"):
            if schedule.get(key):
                found.append(f"{name}.{key}={max(1, round(schedule[key] * factor))}")
        if schedule.get("milestones"):
            scaled = [max(1, round(milestone * factor)) for milestone in schedule["milestones"]]
            found.append(f"{name}.milestones={scaled}".replace(" ", ""))
    return found


def check_held_out(base: Config, cfg: Config, split: str) -> None:
    """Refuse settings by which training or validation would read the test split.

    Data sets are compared by their settings without the pipeline. Where a config has one data set for
    validation and test, ``split='val'`` is the only choice.

    >>> data = [dict(dataset=dict(type="A", split=split)) for split in ("train", "val", "test")]
    >>> names = ("train_dataloader", "val_dataloader", "test_dataloader")
    >>> base = Config(dict(zip(names, data)))
    >>> check_held_out(base, base, "test")
    >>> changed = Config(dict(zip(names, [data[0], data[2], data[2]])))
    >>> check_held_out(base, changed, "test")
    Traceback (most recent call last):
    ValueError: `val_dataloader` reads the test split, which tuning and selection may not. Remove the \
option that sets it.

    Args:
        base: The config as it is.
        cfg: The config with the options of the sweep.
        split: Split of the final scores.

    Raises:
        ValueError: If one of them would.
    """
    if base.get("test_dataloader") is None:
        if split == "test":
            raise ValueError("`split = 'test'`: the config has no test_dataloader. Set split = 'val'.")
        return
    loaders = [one.test_dataloader for one in (base, cfg) if one.get("test_dataloader") is not None]
    tests = [_without_pipeline(loader.dataset) for loader in loaders]
    if _without_pipeline(base.val_dataloader.dataset) == tests[0]:
        if split == "test":
            raise ValueError(
                "`split = 'test'`: validation and test data of the config are the same, so nothing would be "
                "held out. Set split = 'val', or hold out validation data (mmseol.HoldOut)."
            )
        return
    for name in ("train_dataloader", "val_dataloader"):
        dataset = cfg[name].dataset
        parts = [dataset, *leaf_datasets(dataset)]
        if any(_without_pipeline(part) in tests for part in parts):
            raise ValueError(
                f"`{name}` reads the test split, which tuning and selection may not. Remove the option "
                "that sets it."
            )


def _without_pipeline(node: Any) -> Any:
    if isinstance(node, Mapping):
        skipped = ("pipeline", "test_mode", "lazy_init", "metainfo")
        return {key: _without_pipeline(value) for key, value in node.items() if key not in skipped}
    if isinstance(node, (list, tuple)):
        return [_without_pipeline(item) for item in node]
    return node


def _without_root(cfg: Config) -> dict[str, Any]:
    """Return the settings without the folder of the data, whose content has a digest of its own."""
    plain = Config(cfg._cfg_dict.to_dict())
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for dataset in leaf_datasets((plain.get(name) or {}).get("dataset")):
            dataset.pop("data_root", None)
    settings = plain._cfg_dict.to_dict()
    for name in ("data_root", "work_dir", "launcher"):
        settings.pop(name, None)
    return settings


def data_digest(config: Mapping[str, Any], scope: str) -> str:
    """Return a digest of the items of a data set: names, sizes and labels of their files, or their arrays.

    Times of files do not enter, so that a copy of the data is the same data.

    >>> digits = dict(type="mmseol.DigitsDataset", split="test", pipeline=[])
    >>> data_digest(digits, "mmpretrain") == data_digest(digits, "mmpretrain")
    True

    Args:
        config: Config of the data set.
        scope: Default scope of the config.
    """
    digest = hashlib.sha256()
    gc.freeze()  # mmengine's data sets collect garbage, which takes longer than anything else here
    try:
        with DefaultScope.overwrite_default_scope(scope):
            dataset = DATASETS.build(dict(config))
        items = walk(dataset)
    finally:
        gc.unfreeze()
    for position in range(len(items)):
        info = items.info(position)
        root = str(getattr(items.at(position)[0], "data_root", "") or "")
        facts: dict[str, Any] = {key: value for key, value in info.items() if key not in _OF_ITEM}
        for key in ("img_path", "seg_map_path"):
            if info.get(key):
                facts[key] = _file_facts(str(info[key]), root)
        digest.update(describe(facts).encode() + b"\n")
    return digest.hexdigest()[:16]


def _file_facts(path: str, root: str) -> list[Any]:
    file = Path(path)
    size = file.stat().st_size if file.is_file() else None
    return [path.removeprefix(root).lstrip("/") if root else path, size]


@cache
def code_version() -> str:
    """Return the package's version and a digest of the code that a training can depend on.

    Comments, docstrings and layout do not enter, nor do sweeps, tables and pictures.

    >>> code_version().startswith(__version__ + "+")
    True
    """
    digest = hashlib.sha256()
    folder = Path(mmseol.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder)
        if name.parts[0] in _NOT_ARITHMETIC:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
                node.body[0] = ast.Pass()
        digest.update(f"{name.as_posix()} {ast.dump(tree)}\n".encode())
    return f"{__version__}+{digest.hexdigest()[:10]}"


def _commands(train: Mapping[str, Any], split: str | None, processes: int) -> list[str]:
    """Return the command lines that do the same by hand."""
    shared = []
    for name in ("loss", "imbalance", "data_root", "seed"):
        if train[name] is not None:
            shared += [f"--{name.replace('_', '-')}", str(train[name])]
    options = ["--cfg-options", *train["cfg_options"]]
    if processes > 1:
        words = ["tools/dist_train.sh", train["config"], str(processes), *shared, *options]
    else:
        words = ["tools/train.py", train["config"], *shared, *options]
    commands = [shlex.join(words)]
    if split is not None:
        again = [
            word
            for name in ("loss", "data_root")
            if train[name] is not None
            for word in (f"--{name.replace('_', '-')}", str(train[name]))
        ]
        words = ["tools/test.py", train["config"], "CHECKPOINT", "--split", split, *again, *options]
        commands.append(shlex.join(words))
    return commands


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
