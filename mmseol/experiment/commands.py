"""The commands ``train`` and ``test``: arguments -> config -> run."""

from __future__ import annotations

import os
from argparse import Namespace
from difflib import get_close_matches
from pathlib import Path
from urllib.error import URLError

import torch
from mmengine.config import Config

import mmseol
from mmseol.experiment.data import set_data_root, set_dataloader_defaults, set_imbalance
from mmseol.experiment.evaluation import (
    check_classifier,
    set_prediction_folder,
    set_show_folder,
    set_split,
    set_test_time_augmentation,
)
from mmseol.experiment.loss import parse_options, set_loss
from mmseol.experiment.training import (
    check_work_dir,
    explain_download,
    set_amp,
    set_classifier_retraining,
    set_cpu_distributed,
    set_seed,
)

__all__ = ["find_config", "load_config", "prepare_test", "prepare_train", "run_test", "run_train"]

_PACKAGE = Path(mmseol.__file__).parent
_CONFIGS = (_PACKAGE / ".mim" / "configs", _PACKAGE.parent / "configs")  # of a wheel, of a checkout


def find_config(name: str) -> str:
    """Return the config file ``name``, or the config of mmseol with this name.

    >>> Path(find_config("configs/cifar/resnet32_cifar10.py")).parts[-3:]
    ('configs', 'cifar', 'resnet32_cifar10.py')

    Raises:
        FileNotFoundError: If there is neither.
    """
    if Path(name).is_file():
        return name
    shipped = next(folder for folder in _CONFIGS if folder.is_dir())
    found = shipped / name.removeprefix("configs/")
    if found.is_file():
        return str(found)
    leaves = sorted(path.relative_to(shipped).as_posix() for path in shipped.glob("[!_]*/*.py"))
    nearest = get_close_matches(name, leaves, n=1)
    raise FileNotFoundError(
        f"`config` must be a config file or a config of mmseol ({', '.join(leaves)}), got {name!r}."
        + "".join(f" Did you mean {leaf}?" for leaf in nearest)
    )


def load_config(args: Namespace) -> Config:
    """Return the config with the arguments applied: loss, data, seed, stage, and last ``--cfg-options``.

    Raises:
        ValueError: If an argument does not fit the config.
        FileNotFoundError: If there is no such config.
    """
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    cfg = Config.fromfile(find_config(args.config))
    cfg.launcher = args.launcher
    if args.loss is not None:
        set_loss(cfg, args.loss)
    if args.data_root is not None:
        set_data_root(cfg, args.data_root)
    if getattr(args, "imbalance", None) is not None:
        set_imbalance(cfg, args.imbalance)
    if getattr(args, "seed", None) is not None:
        set_seed(cfg, args.seed)
    if getattr(args, "retrain_classifier", None) is not None:
        set_classifier_retraining(cfg, *args.retrain_classifier)
    if args.cfg_options is not None:
        try:
            cfg.merge_from_dict(parse_options(args.cfg_options))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"`--cfg-options`: {error}") from error
    set_dataloader_defaults(cfg)
    if args.launcher != "none" and not torch.cuda.is_available():
        set_cpu_distributed(cfg)
    return cfg


def prepare_train(args: Namespace) -> Config:
    """Return the config of the training run.

    Raises:
        ValueError: If an argument does not fit the config, or the work directory holds another run.
        FileNotFoundError: If there is no such config.
    """
    cfg = load_config(args)
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or default_work_dir(args)
    if args.amp:
        set_amp(cfg)
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == "auto" else args.resume
    if is_main():
        check_work_dir(cfg, resume=cfg.get("resume", False))
    return cfg


def run_train(cfg: Config) -> None:
    """Train.

    Raises:
        SystemExit: If pretrained weights cannot be downloaded.
    """
    from mmengine.runner import Runner  # imports OpenCV

    start_cpu_process_group(cfg.launcher)
    runner = Runner.from_cfg(cfg)
    try:
        runner.train()
    except URLError as error:
        raise SystemExit(explain_download(cfg, error)) from error


def prepare_test(args: Namespace) -> Config:
    """Return the config of the test.

    Raises:
        ValueError: If an argument does not fit the config.
        FileNotFoundError: If there is no such config or checkpoint.
    """
    if not Path(args.checkpoint).is_file():
        raise FileNotFoundError(f"`checkpoint` must be an existing file, got {args.checkpoint!r}.")
    cfg = load_config(args)
    check_classifier(cfg, args.checkpoint)
    # Not the folder of the training run: the runner writes the config it was given there.
    cfg.work_dir = args.work_dir or str(Path(args.checkpoint).parent / f"test_{args.split}")
    set_split(cfg, args.split)
    if args.tta:
        set_test_time_augmentation(cfg)
    if args.out:
        set_prediction_folder(cfg, args.out)
    if args.show_dir:
        set_show_folder(cfg, args.show_dir)
    cfg.load_from = args.checkpoint
    cfg.resume = False
    return cfg


def run_test(cfg: Config) -> None:
    """Score the checkpoint."""
    from mmengine.runner import Runner  # imports OpenCV

    start_cpu_process_group(cfg.launcher)
    Runner.from_cfg(cfg).test()


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
