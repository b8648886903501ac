"""What the command-line tools share: the arguments OpenMMLab users know, and config loading by them."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path

import torch
from mmengine.config import Config, DictAction

from mmseol import experiment

__all__ = ["add_run_arguments", "default_work_dir", "is_main", "load_config", "start_cpu_process_group"]

_LOSSES = Path(__file__).parents[1] / "configs" / "_base_" / "losses.py"


def add_run_arguments(parser: ArgumentParser) -> None:
    """Add the arguments that training and testing have in common."""
    parser.add_argument("--work-dir", help="folder of logs and checkpoints")
    parser.add_argument("--loss", metavar="NAME[:key=value,...]", help="loss of every head, by name")
    parser.add_argument("--data-root", metavar="DIR", help="read every data set from this folder")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help="change single settings of the config; applied last",
    )
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)  # torch.distributed.launch


def load_config(args: Namespace) -> Config:
    """Return the config with the arguments applied: loss, data, seed, stage, and last ``--cfg-options``.

    Raises:
        ValueError: If an argument does not fit the config.
        FileNotFoundError: If there is no such config.
    """
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    cfg = Config.fromfile(args.config)
    cfg.launcher = args.launcher
    if args.loss is not None:
        fallback = Config.fromfile(_LOSSES).losses if _LOSSES.is_file() else None
        experiment.set_loss(cfg, args.loss, fallback)
    if args.data_root is not None:
        experiment.set_data_root(cfg, args.data_root)
    if getattr(args, "imbalance", None) is not None:
        experiment.set_imbalance(cfg, args.imbalance)
    if getattr(args, "seed", None) is not None:
        experiment.set_seed(cfg, args.seed)
    if getattr(args, "retrain_classifier", None) is not None:
        experiment.set_classifier_retraining(cfg, *args.retrain_classifier)
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    experiment.set_dataloader_defaults(cfg)
    if args.launcher != "none" and not torch.cuda.is_available():
        experiment.set_cpu_distributed(cfg)
    return cfg


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
    """Whether this is the first process of the launcher, or the only one; known before any group exists."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0))) == 0
