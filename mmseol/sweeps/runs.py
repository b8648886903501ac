"""What the processes of a trial do: train with one Runner, score checkpoints with another.

Both do what ``tools/train.py`` and ``tools/test.py`` do with the arguments in the request.
"""

from __future__ import annotations

import re
import shutil
import signal
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from mmseol.experiment.commands import is_main, load_config, prepare_train, run_train
from mmseol.experiment.data import check_files
from mmseol.experiment.evaluation import set_split
from mmseol.experiment.work_dir import lock_work_dir
from mmseol.sweeps.curves import validation_curve
from mmseol.sweeps.scoring import keep_predictions
from mmseol.utils.files import read_json, write_json
from mmseol.utils.processes import peak_memory
from mmseol.utils.unpickling import plain_data_only

__all__ = ["arguments", "best_step", "checkpoints", "formatting_once", "score", "train", "unit_of"]

_LAUNCHERS_SIGNALS = [
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT") if hasattr(signal, name)
]


def arguments(trial: Mapping[str, Any], **further: Any) -> Namespace:
    """Return the arguments of ``tools/train.py`` that the request of a trial stands for.

    >>> arguments({"train": {"config": "a.py", "loss": "ce"}}, work_dir="b").loss
    'ce'
    """
    defaults = dict(imbalance=None, data_root=None, seed=None, retrain_classifier=None, cfg_options=None)
    common = dict(launcher="none", local_rank=0, amp=False, unsafe_load=False, force_resume=False)
    return Namespace(**{**defaults, **common, **trial["train"], **further})


def train(folder: Path, trial: Mapping[str, Any]) -> None:
    """Train, or continue a training, in ``folder/train``; write ``train.json``.

    A training whose loss is not finite has ended, too: the file says that it diverged. With ``processes`` in
    the request, PyTorch's launcher starts as many, as ``torchrun`` does.

    >>> from inspect import signature
    >>> list(signature(train).parameters)
    ['folder', 'trial']

    Raises:
        ValueError: If the arguments of the request do not fit its config.
        RuntimeError: If one of several processes fails.
    """
    work_dir = folder / "train"
    if work_dir.exists() and not list(work_dir.glob("*.pth")):
        shutil.rmtree(work_dir)  # ended before its first checkpoint
    resume = "auto" if work_dir.exists() else None
    processes = trial.get("processes", 1)
    if processes == 1:
        _train_process(folder, trial, resume, "none")
        return
    gpus = torch.cuda.device_count()
    if 0 < gpus < processes:
        raise ValueError(
            f"`processes_per_trial` must be at most the GPUs of a trial, which are {gpus}, got {processes}: "
            f"--engine-options gpus_per_trial={processes}"
        )
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # a free port
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=1,
    )
    _wait_for_lock(work_dir)
    handlers = {number: signal.getsignal(number) for number in _LAUNCHERS_SIGNALS}
    try:
        elastic_launch(settings, _train_process)(folder, trial, resume, "pytorch")
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        message: Any = failure.message
        text = str(message["message"] if isinstance(message, dict) else message).strip()
        raise RuntimeError(f"rank {rank}: {text.splitlines()[-1] if text else 'no message'}") from error
    finally:
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)  # the launcher leaves its own


def _wait_for_lock(work_dir: Path, patience: float = 60.0) -> None:
    """Wait for processes of a killed launcher, which end by themselves."""
    deadline = time.monotonic() + patience
    while work_dir.exists():
        try:
            with lock_work_dir(work_dir):
                return
        except ValueError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def _train_process(folder: Path, trial: Mapping[str, Any], resume: str | None, launcher: str) -> None:
    """Train in this process, the only one or one of the launcher's."""
    args = arguments(trial, work_dir=str(folder / "train"), resume=resume, launcher=launcher)
    diverged = None
    try:
        with formatting_once():
            run_train(prepare_train(args), args)
    except FloatingPointError as error:  # NonFiniteLossHook
        diverged = str(error)
    if torch.cuda.is_available():
        memory: float | None = torch.cuda.max_memory_allocated() / 1e9
    else:
        memory = peak_memory()
    if is_main():
        write_json(folder / "train.json", {"diverged": diverged, "memory": memory})


def score(folder: Path, trial: Mapping[str, Any]) -> None:
    """Score the checkpoints of a final trial; write ``predictions.npz`` and ``score.json``.

    The predictions are those of the last checkpoint. A tuning trial has the scores of its own validation, and
    nothing is opened.

    >>> from inspect import signature
    >>> list(signature(score).parameters)
    ['folder', 'trial']

    Raises:
        FloatingPointError: If the training of a final trial diverged.
        FileNotFoundError: If a checkpoint is missing.
    """
    if trial["stage"] == "tune":
        write_json(folder / "score.json", {})
        return
    diverged = (read_json(folder / "train.json") or {}).get("diverged")
    if diverged:
        raise FloatingPointError(diverged)
    paths = checkpoints(folder / "train", trial)
    cfg = load_config(arguments(trial))
    cfg.work_dir = str(folder / "score")
    shutil.rmtree(cfg.work_dir, ignore_errors=True)  # of an interrupted scoring
    set_split(cfg, trial["split"])
    check_files(cfg, ("test_dataloader",))
    cfg.train_dataloader = cfg.train_cfg = cfg.optim_wrapper = cfg.param_scheduler = None
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.resume = False
    results = _scores_of(cfg, paths, unit_of(trial))
    if trial["best_on_test"]:
        metric = trial["metric"]
        validated = [name for name in results if name.startswith(("epoch_", "iter_"))]
        results["best_on_test"] = max(
            (results[name] for name in validated), key=lambda one: one["scores"][metric]
        )
        for name in validated:
            del results[name]
    last = results["last"]["predictions"]
    last.save(folder / "predictions.npz")
    for result in results.values():
        result["split"] = trial["split"]
        result["per_class"] = result.pop("predictions").per_class()
    write_json(folder / "score.json", {"classes": last.names, "scores": results})


def _scores_of(cfg: Config, paths: Mapping[str, tuple[Path, int]], unit: str) -> dict[str, dict[str, Any]]:
    """Return epoch or iteration, scores and predictions of every checkpoint; each is scored once."""
    from mmengine.runner import Runner  # imports OpenCV

    done: dict[int, dict[str, Any]] = {}
    with plain_data_only(False):
        runner = Runner.from_cfg(cfg)
        kept = keep_predictions(runner.test_loop.evaluator)
        for path, step in paths.values():
            if step in done:
                continue
            if not done:
                runner._load_from = str(path)
                scores = runner.test()
            else:
                runner.load_checkpoint(str(path))
                scores = runner.test_loop.run()
            done[step] = {
                unit: step,
                "scores": {name: float(value) for name, value in scores.items()},
                "predictions": kept.taken(),
            }
    return {name: dict(done[step]) for name, (_, step) in paths.items()}


@contextmanager
def formatting_once() -> Iterator[None]:
    """Let yapf format equal texts once.

    mmengine formats the whole config for every checkpoint, which takes longer than an epoch of a small
    training. The function of yapf is replaced inside the block.

    >>> with formatting_once():
    ...     pass
    """
    from yapf.yapflib import yapf_api

    original, known = yapf_api.FormatCode, {}

    def format_code(text: str, *args: Any, **kwargs: Any) -> Any:
        key = repr((text, args, sorted(kwargs.items())))
        if key not in known:
            known[key] = original(text, *args, **kwargs)
        return known[key]

    yapf_api.FormatCode = format_code
    try:
        yield
    finally:
        yapf_api.FormatCode = original


def unit_of(trial: Mapping[str, Any]) -> str:
    """Return ``'epoch'`` or ``'iteration'``, by which a request or record gives the length of its training.

    >>> unit_of({"epochs": None, "iterations": 80000})
    'iteration'
    """
    return "iteration" if trial["epochs"] is None else "epoch"


def checkpoints(work_dir: Path, trial: Mapping[str, Any]) -> dict[str, tuple[Path, int]]:
    """Return file and epoch, or iteration, of the checkpoints to score.

    They are the last one, and the best on validation data.
    With ``best_on_test`` in the request also one of each validation, as ``epoch_N`` or ``iter_N``.

    >>> import tempfile
    >>> work_dir = Path(tempfile.mkdtemp())
    >>> for name in ("epoch_4.pth", "best_accuracy_epoch_2.pth"):
    ...     (work_dir / name).touch()
    >>> found = checkpoints(work_dir, {"epochs": 4, "metric": "accuracy", "best_on_test": False})
    >>> {name: path.name for name, (path, epoch) in found.items()}
    {'last': 'epoch_4.pth', 'best_on_validation': 'best_accuracy_epoch_2.pth'}

    Raises:
        FileNotFoundError: If one is missing.
    """
    unit = unit_of(trial)
    short, length = ("iter" if unit == "iteration" else unit), trial[f"{unit}s"]
    found = {"last": (work_dir / f"{short}_{length}.pth", length)}
    best = list(work_dir.glob(f"best_*_{short}_*.pth"))
    chosen = best_step(validation_curve(work_dir, unit), trial["metric"], unit)
    for path in sorted(best, key=lambda path: path.stat().st_mtime):
        found["best_on_validation"] = (path, int(re.findall(r"\d+", path.stem)[-1]))
    for path in best:
        if chosen is not None and path.stem.endswith(f"_{short}_{chosen}"):
            found["best_on_validation"] = (path, chosen)
    found.setdefault("best_on_validation", (work_dir / f"best_{trial['metric']}_{short}_N.pth", 0))
    if trial["best_on_test"]:
        for path in work_dir.glob(f"{short}_*.pth"):
            found[path.stem] = (path, int(path.stem.removeprefix(f"{short}_")))
    for path, _ in found.values():
        if not path.is_file():
            raise FileNotFoundError(f"The training has left no checkpoint {str(path)!r}.")
    return found


def best_step(curve: list[dict[str, Any]], metric: str, unit: str = "epoch") -> int | None:
    """Return the validation with the highest score, the first of equal ones; ``None`` without validations.

    >>> best_step([{"epoch": 1, "mIoU": 3.0}, {"epoch": 2, "mIoU": 4.0}, {"epoch": 3, "mIoU": 4.0}], "mIoU")
    2
    """
    scored = [point for point in curve if metric in point]
    return max(scored, key=lambda point: point[metric])[unit] if scored else None
