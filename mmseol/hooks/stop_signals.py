"""Save a checkpoint and stop when the process is asked to end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import BaseLoop, EpochBasedTrainLoop

from mmseol.hooks.exact_resume import ExactResumeHook
from mmseol.hooks.train_loaders import SeededLoader, WithoutFirst, inner_loader
from mmseol.hooks.whole_checkpoints import BACKEND
from mmseol.registry import HOOKS
from mmseol.utils.checks import choice
from mmseol.utils.files import replacing

__all__ = ["StopSignalHook"]

_SIGNALS = ("SIGTERM", "SIGINT")
_SAVED_AS = "trained_batches"


@HOOKS.register_module()
class StopSignalHook(Hook):
    """Save a checkpoint at the next iteration after SIGTERM or Ctrl-C, and end the process.

    The checkpoint is ``stopped_ITERATION.pth`` in the work directory; ``resume=True`` continues from it. A
    run by epochs skips the batches of the interrupted epoch that it has trained already. With
    :class:`ExactResumeHook` it does not load them, and equals an uninterrupted run to the last digit. The
    stop waits until accumulated gradients (``accumulative_counts``) are applied. The process ends with
    status 128 + signal number, which is 143 after SIGTERM and 130 after Ctrl-C, so that a scheduler can
    start the same command again (``torchrun`` reports the status of its processes in its own way). A second
    signal ends the process at once.

    In distributed runs all ranks stop at the same iteration if one of them gets the signal. Worker processes
    of the data loaders do not react to signals that are sent to the whole group of processes, as Slurm and
    terminals do. During validation the run continues until the next training iteration.

    Between ``before_train`` and ``after_train`` the hook changes the handlers of these signals and the
    ``worker_init_fn`` of the run's data loaders, and in the resumed epoch the loop's ``run_iter``, which then
    gets the number of the batch in the whole epoch; afterwards it restores them. It also wraps the loop's
    ``run``, so that they are restored when a run ends by an exception.

    >>> hook = StopSignalHook(signals=["SIGTERM"])

    Args:
        signals: Names of the signals, ``'SIGTERM'``, ``'SIGINT'`` (Ctrl-C) or both.

    Raises:
        ValueError: If there is another name.
    """

    priority = "VERY_LOW"

    def __init__(self, signals: Sequence[str] = _SIGNALS) -> None:
        self.signals = [getattr(signal, choice("signals", name, _SIGNALS)) for name in signals]
        self._received = self._trained = 0
        self._agreed: torch.Tensor | None = None
        self._handlers: dict[int, Any] = {}
        self._worker_inits: list[tuple[Any, Any]] = []

    def before_run(self, runner: Any) -> None:
        """Wrap the loop's ``run``: hooks are not called when a run ends by an exception."""
        loop = runner._train_loop
        if isinstance(loop, BaseLoop) and "run" not in vars(loop):
            vars(loop)["run"] = partial(self._run_and_restore, loop.run, loop)

    def _run_and_restore(self, run: Callable[[], Any], loop: BaseLoop) -> Any:
        try:
            return run()
        finally:
            vars(loop).pop("run", None)
            vars(loop).pop("run_iter", None)
            self._restore()

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Read how many batches of its epoch the checkpoint has seen."""
        self._trained = checkpoint.get("meta", {}).get(_SAVED_AS, 0)

    def before_train(self, runner: Any) -> None:
        """Install the handlers, and skip what a resumed run has trained of its epoch."""
        self._restore()
        self._received, self._agreed = 0, None
        self._skip_trained_batches(runner)
        if threading.current_thread() is not threading.main_thread():
            runner.logger.warning("StopSignalHook does nothing outside the main thread.")
            return
        for number in self.signals:
            self._handlers[number] = signal.signal(number, self._receive)
        for loop in (runner._train_loop, runner._val_loop):
            loader = inner_loader(getattr(loop, "dataloader", None))
            if isinstance(loader, torch.utils.data.DataLoader):
                self._worker_inits.append((loader, loader.worker_init_fn))
                loader.worker_init_fn = partial(_outlive_signals, loader.worker_init_fn)

    def after_train_epoch(self, runner: Any) -> None:
        """Use all batches again after the first epoch."""
        loop = runner.train_loop
        vars(loop).pop("run_iter", None)
        if isinstance(loop.dataloader, WithoutFirst):
            loop.dataloader = loop.dataloader.loader

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Save and stop if a rank has received a signal."""
        number = self._agree()
        if not number or _accumulating(runner.optim_wrapper):
            return
        name = signal.Signals(number).name
        if runner.iter + 1 >= runner.max_iters:
            runner.logger.warning(f"Received {name} in the last iteration; the run ends by itself.")
            return
        filename = f"stopped_{runner.iter + 1}.pth"
        meta = {"epoch": runner.epoch, "iter": runner.iter + 1, _SAVED_AS: batch_idx + 1}
        runner.logger.warning(f"Received {name}: saving {filename} and stopping. Continue with resume=True.")
        for hook in runner.hooks:
            if isinstance(hook, ExactResumeHook) and get_world_size() > 1:
                hook.gather(runner, runner.iter + 1)
        runner.save_checkpoint(
            runner.work_dir, filename, meta=meta, by_epoch=False, backend_args={"backend": BACKEND}
        )
        if is_main_process():
            with replacing(Path(runner.work_dir) / "last_checkpoint", "w") as file:
                file.write(str(Path(runner.work_dir) / filename))
            _remove_older(runner.work_dir)
        self._restore()
        _end_workers()
        raise SystemExit(128 + number)

    def after_train(self, runner: Any) -> None:
        """Remove checkpoints of earlier stops; the handlers are restored after the loop."""
        if is_main_process():
            _remove_older(runner.work_dir)

    def _skip_trained_batches(self, runner: Any) -> None:
        loop = runner.train_loop
        if isinstance(loop, EpochBasedTrainLoop) and runner.iter and self._trained:
            # Loops by iterations skip by themselves.
            runner.logger.info(f"Skipping {self._trained} batches of the epoch, which are trained already.")
            if isinstance(loop.dataloader, SeededLoader):
                loop.dataloader.first = self._trained
            else:
                loop.dataloader = WithoutFirst(loop.dataloader, self._trained)
            vars(loop)["run_iter"] = partial(_run_later_iter, loop.run_iter, self._trained)
        self._trained = 0

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        signal.signal(number, self._handlers.get(number) or signal.SIG_DFL)  # a second one acts at once

    def _agree(self) -> int:
        """Return the signal at which all ranks stop now, or 0."""
        if get_world_size() == 1:
            return self._received
        # Read one iteration later, so that no rank waits for the device.
        agreed, self._agreed = self._agreed, torch.tensor(self._received, device=get_device())
        all_reduce(self._agreed, "max")
        return 0 if agreed is None else int(agreed)

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)
        for loader, init in self._worker_inits:
            loader.worker_init_fn = init
        self._handlers, self._worker_inits = {}, []


def _run_later_iter(run_iter: Callable[..., None], first: int, batch_idx: int, data_batch: Any) -> None:
    """Run an iteration of a loop that counts its batches from the first one that is not skipped."""
    run_iter(first + batch_idx, data_batch)


def _accumulating(optim_wrapper: Any) -> bool:
    """Whether there are gradients that wait for further ones; a checkpoint would lose them."""
    wrappers = optim_wrapper.values() if isinstance(optim_wrapper, OptimWrapperDict) else [optim_wrapper]
    return any(wrapper._inner_count % wrapper._accumulative_counts for wrapper in wrappers)


def _end_workers() -> None:
    """End the workers of data loaders, for which this process would wait before it exits."""
    watched = hasattr(signal, "SIGCHLD")  # not on Windows
    # torch's handler would report the end of a worker as a failure, in the middle of the exit.
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if watched else None
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
            child.join()
    if watched:
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


def _remove_older(work_dir: str) -> None:
    """Remove the checkpoints of stops, except the one from which the run would be resumed."""
    pointer = Path(work_dir) / "last_checkpoint"
    kept = Path(pointer.read_text().strip()).name if pointer.is_file() else ""
    for path in Path(work_dir).glob("stopped_*.pth"):
        if path.name != kept:
            path.unlink()


def _outlive_signals(init: Callable[[int], None] | None, worker_id: int) -> None:
    """Initialise a worker process that ends with its parent, not with a signal to the group."""
    if init is not None:
        init(worker_id)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on Windows and macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
