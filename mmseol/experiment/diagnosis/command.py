"""The command ``doctor``: check an installation, or a config before training."""

from __future__ import annotations

import json
import sys
import warnings
from argparse import Namespace
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import torch
from mmengine.config import Config
from rich.console import Console

from mmseol.experiment.commands import load_config
from mmseol.experiment.config_files import find_config
from mmseol.experiment.diagnosis.config_checks import CONFIG
from mmseol.experiment.diagnosis.data_checks import DATA
from mmseol.experiment.diagnosis.findings import Finding, Subject, error_text, run_checks
from mmseol.experiment.diagnosis.installed import INSTALLATION
from mmseol.experiment.diagnosis.model_checks import MODEL

__all__ = ["diagnose", "prepare_doctor"]

_COLORS = {"ok": "green", "warning": "yellow", "fault": "red", "skipped": "bright_black"}


def diagnose(
    cfg: Config | None = None, with_model: bool = True, device: str = "cpu", workers: int | None = None
) -> list[Finding]:
    """Return the findings of all checks of an installation and, if given, of a config.

    Nothing is trained, downloaded or written, but the cache of counts.

    >>> findings = diagnose()
    >>> findings[0].check
    'packages'

    Args:
        cfg: Resolved config of mmseg or mmpretrain.
        with_model: Whether the model is built and one iteration run.
        device: Device of the model.
        workers: Processes that read label maps, as in :func:`mmseol.counting.count_dataset`.
    """
    checks = list(INSTALLATION)
    if cfg is not None:
        checks += [*CONFIG, *DATA, *(MODEL if with_model else [])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the checks say what matters of them
        return run_checks(checks, Subject(cfg or Config(), device, workers))


def prepare_doctor(args: Namespace) -> Any:
    """Return the config with the arguments applied, the finding that it cannot be read, or ``None``.

    >>> prepare_doctor(Namespace(config=None)) is None
    True

    Raises:
        ValueError: If an argument does not fit the config.
        FileNotFoundError: If there is no such config.
    """
    if args.config is None:
        return None
    find_config(args.config)
    try:
        return load_config(args)
    except Exception as error:  # a config may raise anything
        if isinstance(error, ValueError) and str(error).startswith("`--"):
            raise
        return Finding("fault", f"the config cannot be read: {error_text(error)}", "config")


def run_doctor(cfg: Any, args: Namespace) -> None:
    """Print the findings.

    Raises:
        SystemExit: With status 1 if there is a fault.
    """
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    with redirect_stdout(sys.stderr):  # the hosts print
        if isinstance(cfg, Finding):
            findings = [*diagnose(), cfg]
        else:
            findings = diagnose(cfg, args.model, device, args.workers)
    number = {status: sum(one.status == status for one in findings) for status in _COLORS}
    if args.json:
        rows = [{"check": one.check, "status": one.status, "text": one.text} for one in findings]
        print(json.dumps({"findings": rows, "number": number}, indent=1))
    else:
        _print(findings, number)
    if number["fault"]:
        raise SystemExit(1)


def _print(findings: Sequence[Finding], number: dict[str, int]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    width = max(len(one.check) for one in findings)
    for one in findings:
        console.print(f"{one.status:<8}", style=_COLORS[one.status], end="")
        console.print(f"{one.check:<{width}}  {one.text}", markup=False)
    console.print(", ".join(f"{count} {status}" for status, count in number.items()), markup=False)
