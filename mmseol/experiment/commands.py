"""The commands ``train`` and ``test``: arguments -> config -> run."""

from __future__ import annotations

import os
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path
from urllib.error import URLError

import torch
from mmengine.config import Config

from mmseol.experiment.config_files import (
    check_bases,
    check_packages,
    find_config,
    read_config,
    set_options,
)
from mmseol.experiment.data import check_files, set_data_root, set_dataloader_defaults, set_imbalance
from mmseol.experiment.evaluation import (
    require_empty,
    set_prediction_folder,
    set_show_folder,
    set_split,
    set_test_time_augmentation,
)
from mmseol.experiment.loss import set_loss
from mmseol.experiment.training import (
    explain_download,
    set_amp,
    set_classifier_retraining,
    set_cpu_distributed,
    set_seed,
    set_whole_checkpoints,
)
from mmseol.experiment.weights import check_classifier, check_weights
from mmseol.experiment.work_dir import check_work_dir, lock_work_dir, resumed_config
from mmseol.utils.unpickling import load_checkpoint, plain_data_only

__all__ = ["load_config", "prepare_test", "prepare_train"]


def load_config(args: Namespace) -> Config:
    """Return the config with the arguments applied: loss, data, seed, stage, and last ``--cfg-options``.

    >>> load_config(Namespace(config="cifar/resnet32_cifar10.py", loss="focal:gamma=1", seed=1)).randomness
    {'seed': 1}

    Raises:
        ValueError: If an argument does not fit the config.
        FileNotFoundError: If there is no such config.
    """
    given = {name: value for name, value in vars(args).items() if value is not None}
    os.environ.setdefault("LOCAL_RANK", str(given.get("local_rank", 0)))
    path = find_config(args.config)
    check_bases(path)
    cfg = read_config(path)
    cfg.launcher = given.get("launcher", "none")
    if "loss" in given:
        set_loss(cfg, args.loss)
    if "data_root" in given:
        set_data_root(cfg, args.data_root)
    if "imbalance" in given:
        set_imbalance(cfg, args.imbalance)
    if "seed" in given:
        set_seed(cfg, args.seed)
    if "retrain_classifier" in given:
        set_classifier_retraining(cfg, *args.retrain_classifier)
    if "cfg_options" in given:
        set_options(cfg, args.cfg_options)
    check_packages(cfg)
    set_dataloader_defaults(cfg)
    if cfg.launcher != "none" and not torch.cuda.is_available():
        set_cpu_distributed(cfg)
    return cfg


def prepare_train(args: Namespace) -> Config:
    """Return the config of the training run.

    >>> prepare_train(Namespace(config="missing.py"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    FileNotFoundError: `config` must be a config file or a config of mmseol (...), got 'missing.py'...

    Raises:
        ValueError: If an argument does not fit the config.
        FileNotFoundError: If there is no such config or checkpoint.
    """
    cfg = load_config(args)
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or default_work_dir(args)
    set_whole_checkpoints(cfg)
    if args.amp:
        set_amp(cfg)
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == "auto" else args.resume
    check_files(cfg, ("train_dataloader", "val_dataloader"))
    if args.retrain_classifier:
        path = args.retrain_classifier[1]
        check_classifier(cfg, path, load_checkpoint(path, unsafe=args.unsafe_load))
    if is_main():
        check_work_dir(cfg, cfg.get("resume", False), args.force_resume)
    return cfg


def run_train(cfg: Config, args: Namespace) -> None:
    """Train.

    Raises:
        SystemExit: If pretrained weights cannot be downloaded.
        ValueError: If another run holds the work directory, or the checkpoint does not fit the model.
    """
    from mmseol.experiment.runner import CommandRunner, LoadedWeightsHook, write_command  # imports OpenCV

    with plain_data_only(args.unsafe_load), lock_work_dir(cfg.work_dir) if is_main() else nullcontext():
        changed = check_work_dir(cfg, cfg.get("resume", False), args.force_resume) if is_main() else ""
        if cfg.get("resume", False):
            cfg = resumed_config(cfg)
        start_cpu_process_group(cfg.launcher)
        runner = CommandRunner.from_cfg(cfg)
        runner.register_hook(LoadedWeightsHook())
        if is_main():
            write_command(runner.log_dir, getattr(args, "command_line", None))
        if changed:
            runner.logger.warning("The run goes on with other settings:\n" + changed)
        try:
            runner.train()
        except URLError as error:
            raise SystemExit(explain_download(cfg, error)) from error


def prepare_test(args: Namespace) -> Config:
    """Return the config of the test.

    >>> prepare_test(Namespace(config="cifar/resnet32_cifar10.py", checkpoint="a.pth", unsafe_load=False))
    Traceback (most recent call last):
    FileNotFoundError: `checkpoint` must be an existing file, got 'a.pth'.

    Raises:
        ValueError: If an argument or the checkpoint does not fit the config.
        FileNotFoundError: If there is no such config or checkpoint.
    """
    args.loaded = load_checkpoint(args.checkpoint, unsafe=args.unsafe_load)
    cfg = load_config(args)
    check_classifier(cfg, args.checkpoint, args.loaded)
    # Not the folder of the training run: the runner writes the config it was given there.
    cfg.work_dir = args.work_dir or str(Path(args.checkpoint).parent / f"test_{args.split}")
    set_split(cfg, args.split)
    if args.tta:
        set_test_time_augmentation(cfg)
    classification = cfg.get("default_scope") == "mmpretrain"
    for argument, folder, set_folder in (
        ("--out", args.out, set_prediction_folder),
        ("--show-dir", args.show_dir, set_show_folder),
    ):
        if folder is not None:
            require_empty(argument, folder)
            if not classification:
                set_folder(cfg, folder)
    check_files(cfg, ("test_dataloader",))
    cfg.load_from = args.checkpoint
    cfg.resume = False
    return cfg


def run_test(cfg: Config, args: Namespace) -> None:
    """Score the checkpoint.

    Raises:
        ValueError: If the checkpoint does not fit the model.
    """
    from mmseol.experiment.runner import CommandRunner  # imports OpenCV

    with plain_data_only(args.unsafe_load):
        start_cpu_process_group(cfg.launcher)
        runner = CommandRunner.from_cfg(cfg)
        check_weights(runner.model, args.checkpoint, args.loaded)
        del args.loaded
        if cfg.get("default_scope") == "mmpretrain" and (args.out or args.show_dir):
            from mmseol.experiment.class_predictions import add_writer

            add_writer(runner, args.out, args.show_dir)
        runner.test()


def default_work_dir(args: Namespace) -> str:
    """Return ``work_dirs/CONFIG``, and below it a folder for each loss, imbalance, second stage and seed."""
    specs = [spec for spec in (args.loss, args.imbalance) if spec is not None]
    parts = [spec.replace(":", "-").replace("/", "_") for spec in specs]
    parts += (getattr(args, "retrain_classifier", None) or [])[:1]
    parts += [] if args.seed is None else [f"seed{args.seed}"]
    return str(Path("work_dirs", Path(args.config).stem, *(["_".join(parts)] if parts else [])))


def start_cpu_process_group(launcher: str) -> None:
    """Join the process group over gloo where there is no GPU; mmengine's launcher would ask for one."""
    if launcher == "pytorch" and not torch.cuda.is_available() and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")


def is_main() -> bool:
    """Whether this process is the launcher's first or only one; works before a process group exists."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0))) == 0
