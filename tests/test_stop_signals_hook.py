"""SIGTERM and Ctrl-C in real processes, and the runs that continue after them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.distributed import run_ranks
from helpers.forked_runs import start, status_of
from helpers.tiny_runner import LABELS, TinyModel, log_of, tiny_runner
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmseol.hooks import StopSignalHook, stop_signals
from mmseol.hooks.stop_signals import _accumulating, _outlive_signals, _remove_older
from mmseol.hooks.train_loaders import SeededLoader
from mmseol.hooks.whole_checkpoints import BACKEND

CE = {"type": "mmseol.CrossEntropyLoss"}


class SignalAt(Hook):
    """Send a signal to this process, or to its group, in the middle of an iteration, counted from 1."""

    def __init__(self, iteration: int, number: int, group: bool = False, rank: int = 0) -> None:
        self.iteration, self.number, self.group, self.rank = iteration, number, group, rank

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter + 1 == self.iteration and runner.rank == self.rank:
            os.killpg(os.getpgrp(), self.number) if self.group else os.kill(os.getpid(), self.number)


class Batches(Hook):
    """Note the labels of every batch."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, list[int]]] = []

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.seen.append((runner.iter, torch.stack(list(data_batch["label"])).tolist()))


def runner_of(work_dir: Path, hooks: list[Any], by_epoch: bool = True, **kwargs: Any) -> Runner:
    torch.manual_seed(0)
    cycle = {"by_epoch": True, "max_epochs": 3} if by_epoch else {"by_epoch": False, "max_iters": 12}
    checkpoint = {
        "type": "mmseol.WholeCheckpointHook",
        "by_epoch": by_epoch,
        "interval": 1 if by_epoch else 100,
    }
    options = dict(
        default_hooks={"checkpoint": checkpoint},
        custom_hooks=[{"type": "mmseol.StopSignalHook"}, *hooks],
        train_cfg={**cycle, "val_interval": 1000},
        randomness={"seed": 0},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}},
        param_scheduler=[{"type": "LinearLR", "by_epoch": False, "end": 12}],
    )
    runner = tiny_runner(work_dir, TinyModel([CE], [CE]), LABELS, **{**options, **kwargs})
    if not by_epoch:
        runner._train_dataloader["sampler"] = {"type": "InfiniteSampler", "shuffle": True}
    return runner


def _train(work_dir: Path, hooks: list[Any], by_epoch: bool, workers: int = 0) -> None:
    runner = runner_of(work_dir, hooks, by_epoch)
    if workers:
        runner._train_dataloader.update(num_workers=workers, persistent_workers=True)
    runner.train()
    os._exit(0)


@pytest.mark.parametrize("by_epoch", [True, False])
@pytest.mark.parametrize("stop", [1, 6, 8])  # the first, within the second epoch, at its end
def test_a_stopped_run_continues_as_if_it_had_not_been(tmp_path: Path, stop: int, by_epoch: bool) -> None:
    whole = Batches()
    uninterrupted = runner_of(tmp_path / "whole", [whole], by_epoch)
    uninterrupted.train()

    process = start(_train, tmp_path / "run", [SignalAt(stop, signal.SIGTERM)], by_epoch)
    assert status_of(process) == 128 + signal.SIGTERM
    saved = torch.load(tmp_path / "run" / f"stopped_{stop}.pth", weights_only=False)
    assert saved["meta"]["iter"] == stop
    rest = Batches()
    resumed = runner_of(tmp_path / "run", [rest], by_epoch, resume=True)
    resumed.train()
    assert rest.seen == whole.seen[stop:]
    assert resumed.iter == uninterrupted.iter == 12
    for name, value in uninterrupted.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    assert not list((tmp_path / "run").glob("stopped_*.pth"))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_workers_outlive_a_signal_to_the_group(tmp_path: Path, number: int, status: int) -> None:
    process = start(_train, tmp_path, [SignalAt(6, number, group=True)], True, 2)
    assert status_of(process) == status
    assert (tmp_path / "stopped_6.pth").is_file()


def test_two_stops_leave_one_checkpoint(tmp_path: Path) -> None:
    for stop in (2, 7):
        hooks = [SignalAt(stop, signal.SIGTERM)]
        assert status_of(start(_resume, tmp_path, hooks)) == 143
        assert [path.name for path in tmp_path.glob("stopped_*.pth")] == [f"stopped_{stop}.pth"]
        assert (tmp_path / "last_checkpoint").read_text() == str(tmp_path / f"stopped_{stop}.pth")
    assert torch.load(tmp_path / "stopped_7.pth", weights_only=False)["meta"]["trained_batches"] == 3


def _resume(work_dir: Path, hooks: list[Any]) -> None:
    runner_of(work_dir, hooks, resume=True).train()


class Slow(Hook):
    """Let an iteration last."""

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        (Path(runner.work_dir) / "began").touch()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            time.sleep(0.01)


def test_a_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    process = start(_train, tmp_path, [Slow()], True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "began").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(0.2)
    assert process.is_alive()
    os.kill(process.pid, signal.SIGTERM)
    assert status_of(process, 20) == -signal.SIGTERM


def test_handlers_and_loaders_are_restored(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    runner = runner_of(tmp_path, [])
    runner.train()
    init = runner.train_dataloader.worker_init_fn
    assert "_outlive_signals" not in str(init)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


class Fail(Hook):
    """Raise in the middle of a run."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter == 5:
            raise self.error


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
def test_handlers_and_loaders_are_restored_after_an_exception(tmp_path: Path, error: BaseException) -> None:
    """In a notebook the first Ctrl-C after a failed run would do nothing."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    runner = runner_of(tmp_path, [Fail(error)])
    with pytest.raises(type(error)):
        runner.train()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert "_outlive_signals" not in str(runner.train_dataloader.worker_init_fn)
    assert not {"run", "run_iter"} & set(vars(runner.train_loop))
    runner = runner_of(tmp_path / "again", [])
    runner.train()
    assert not {"run", "run_iter"} & set(vars(runner.train_loop))
    assert runner.iter == 12


def test_a_loop_that_raises_in_a_resumed_epoch_is_restored() -> None:
    loop = SimpleNamespace(run=1, run_iter=2, dataloader=3)

    def fail() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        StopSignalHook()._run_and_restore(fail, loop)  # type: ignore[arg-type]
    assert vars(loop) == {"dataloader": 3}


def test_the_last_iteration_ends_by_itself(tmp_path: Path) -> None:
    runner = runner_of(tmp_path, [SignalAt(12, signal.SIGTERM)])
    runner.train()
    assert not list(tmp_path.glob("stopped_*.pth"))


def _stop_on(rank: int, folder: str) -> tuple[Any, int]:
    wrapper = {"type": "MMDistributedDataParallel", "device_ids": None, "broadcast_buffers": False}
    hooks = [SignalAt(2, signal.SIGTERM, rank=1)]
    runner = runner_of(Path(folder), hooks, cfg=ConfigDict(model_wrapper_cfg=wrapper), launcher="pytorch")
    try:
        runner.train()
    except SystemExit as error:
        return error.code, runner.iter + 1
    return None, runner.iter


def test_all_ranks_stop_at_one_iteration_if_one_is_asked_to(tmp_path: Path) -> None:
    one, two = run_ranks(_stop_on, str(tmp_path))
    assert one == two == (143, 3)  # the ranks agree one iteration later
    assert (tmp_path / "stopped_3.pth").is_file()


def test_outside_the_main_thread_the_run_goes_on_without_it(tmp_path: Path) -> None:
    """Python sets handlers in the main thread alone; a notebook or a service may train in another."""
    runner = runner_of(tmp_path, [])
    before = signal.getsignal(signal.SIGTERM)
    thread = Thread(target=runner.train)
    thread.start()
    thread.join()
    assert runner.epoch == 3
    assert signal.getsignal(signal.SIGTERM) is before
    assert "StopSignalHook does nothing outside the main thread" in log_of(runner)


def _initialise_a_worker(rank: int, work_dir: Path) -> list[int]:
    seeded: list[int] = []
    runner = runner_of(work_dir, [])
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.train_dataloader.worker_init_fn = seeded.append
    StopSignalHook().before_train(runner)
    runner.train_dataloader.worker_init_fn(3)  # what torch calls in the worker with this number
    return seeded


def test_workers_are_still_initialised_as_the_loader_asks(tmp_path: Path) -> None:
    """mmengine seeds the workers of a run there."""
    assert run_ranks(_initialise_a_worker, tmp_path, world=1) == [[3]]


def test_wrong_names() -> None:
    with pytest.raises(ValueError, match=r"`signals` must be one of 'SIGTERM', 'SIGINT', got 'SIGKILL'"):
        StopSignalHook(["SIGKILL"])


# ------------------------------------------------------------------ without a process that ends


def wrapper(inner: int, counts: int) -> Any:
    return SimpleNamespace(_inner_count=inner, _accumulative_counts=counts)


def test_gradients_that_wait_for_others_are_not_lost() -> None:
    assert not _accumulating(wrapper(6, 3))
    assert _accumulating(wrapper(7, 3))
    several = OptimWrapperDict.__new__(OptimWrapperDict)
    for second, waits in ((wrapper(6, 2), False), (wrapper(7, 2), True)):
        several.optim_wrappers = {"a": wrapper(4, 2), "b": second}
        assert _accumulating(several) is waits


def test_the_checkpoint_to_resume_from_stays(tmp_path: Path) -> None:
    names = ["stopped_1.pth", "stopped_2.pth", "epoch_1.pth"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "last_checkpoint").write_text("/moved/stopped_2.pth\n")
    _remove_older(str(tmp_path))
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == ["epoch_1.pth", "stopped_2.pth"]
    (tmp_path / "last_checkpoint").unlink()
    _remove_older(str(tmp_path))
    assert [path.name for path in tmp_path.glob("*.pth")] == ["epoch_1.pth"]


def test_ranks_stop_one_iteration_after_one_of_them_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    hook = StopSignalHook()
    monkeypatch.setattr(stop_signals, "get_world_size", lambda: 1)
    hook._received = 15
    assert hook._agree() == 15  # at once, alone
    monkeypatch.setattr(stop_signals, "get_world_size", lambda: 2)
    monkeypatch.setattr(stop_signals, "get_device", lambda: "cpu")
    others, operations = [0, 2, 0], []

    def reduce(value: torch.Tensor, operation: str) -> None:
        operations.append(operation)
        value.clamp_(min=others.pop(0))

    monkeypatch.setattr(stop_signals, "all_reduce", reduce)
    hook._received, hook._agreed = 0, None
    assert [hook._agree() for _ in range(3)] == [0, 0, 2]
    assert operations == ["max"] * 3


class Saved:
    """A Runner that notes what it saves."""

    def __init__(self, work_dir: Path, iteration: int) -> None:
        self.work_dir, self.iter, self.epoch, self.max_iters = str(work_dir), iteration, 1, 8
        self.optim_wrapper, self.hooks, self.logger = wrapper(0, 1), [], self
        self.warnings: list[str] = []
        self.warning = self.warnings.append
        self.saved: list[Any] = []

    def save_checkpoint(self, *arguments: Any, **settings: Any) -> None:
        self.saved.append((arguments, settings))


def test_a_stop_saves_where_it_is(tmp_path: Path) -> None:
    hook, runner = StopSignalHook(), Saved(tmp_path, 4)
    (tmp_path / "stopped_2.pth").touch()
    hook.after_train_iter(runner, batch_idx=1)  # nothing was received
    hook._received = signal.SIGINT
    runner.optim_wrapper = wrapper(1, 2)
    hook.after_train_iter(runner, batch_idx=1)  # gradients wait
    assert runner.saved == runner.warnings == []
    runner.optim_wrapper = wrapper(2, 2)
    runner.iter = 7
    hook.after_train_iter(runner, batch_idx=1)
    assert runner.warnings == ["Received SIGINT in the last iteration; the run ends by itself."]
    assert runner.saved == []
    runner.iter = 6
    with pytest.raises(SystemExit) as caught:
        hook.after_train_iter(runner, batch_idx=1)
    assert caught.value.code == 130
    ((arguments, settings),) = runner.saved
    assert arguments == (str(tmp_path), "stopped_7.pth")
    meta = {"epoch": 1, "iter": 7, "trained_batches": 2}
    assert settings == dict(meta=meta, by_epoch=False, backend_args={"backend": BACKEND})
    assert runner.warnings[1:] == [
        "Received SIGINT: saving stopped_7.pth and stopping. Continue with resume=True."
    ]
    assert (tmp_path / "last_checkpoint").read_text() == str(tmp_path / "stopped_7.pth")
    assert not list(tmp_path.glob("stopped_2.pth"))


def epoch_loop(dataloader: Any) -> Any:
    loop: Any = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    loop.dataloader, ran = dataloader, []
    loop.run_iter = lambda number, batch: ran.append((number, batch))
    loop.ran = ran
    return loop


@pytest.mark.parametrize(("trained", "iteration"), [(2, 6), (0, 6), (2, 0)])
def test_a_resumed_epoch_begins_at_its_next_batch(trained: int, iteration: int) -> None:
    logged: list[str] = []
    hook, loop = StopSignalHook(), epoch_loop([10, 20, 30])
    runner = SimpleNamespace(train_loop=loop, iter=iteration, logger=SimpleNamespace(info=logged.append))
    hook.after_load_checkpoint(runner, {"meta": {"trained_batches": trained}})
    hook._skip_trained_batches(runner)
    skips = bool(trained and iteration)
    assert list(loop.dataloader) == ([30] if skips else [10, 20, 30])
    loop.run_iter(0, "batch")
    assert loop.ran == [(2 if skips else 0, "batch")]
    assert len(logged) == skips
    hook.after_train_epoch(runner)
    assert loop.dataloader == [10, 20, 30]
    assert hook._trained == 0
    hook.after_load_checkpoint(runner, {})
    assert hook._trained == 0
    if skips:
        seeded = SeededLoader(torch.utils.data.DataLoader(range(6), batch_size=2), seed=0)
        again = SimpleNamespace(train_loop=epoch_loop(seeded), iter=6, logger=runner.logger)
        hook._trained = 2
        hook._skip_trained_batches(again)
        assert again.train_loop.dataloader is seeded
        assert seeded.first == 2


def test_a_second_signal_meets_the_handler_of_before() -> None:
    before = signal.getsignal(signal.SIGTERM)
    hook = StopSignalHook(["SIGTERM"])
    try:
        for handler in (signal.SIG_IGN, None):
            hook._handlers = {signal.SIGTERM: handler}
            signal.signal(signal.SIGTERM, hook._receive)
            hook._receive(signal.SIGTERM, None)
            assert hook._received == signal.SIGTERM
            assert signal.getsignal(signal.SIGTERM) == (handler or signal.SIG_DFL)
        hook._restore()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert hook._handlers == {}
    finally:
        signal.signal(signal.SIGTERM, before)


def _work(folder: Path) -> None:
    _outlive_signals(lambda number: (folder / str(number)).touch(), 3)
    (folder / "began").touch()
    time.sleep(60)


def test_a_worker_ends_with_its_parent_alone(tmp_path: Path) -> None:
    """Signals of others to the group do nothing; the parent's SIGTERM, as torch sends it, ends the worker."""
    worker = start(_work, tmp_path)
    while not (tmp_path / "began").exists():
        assert worker.is_alive()
        time.sleep(0.005)
    assert (tmp_path / "3").exists()
    os.kill(worker.pid, signal.SIGINT)
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)  # of another process
    worker.join(0.1)
    assert worker.is_alive()
    os.kill(worker.pid, signal.SIGTERM)
    assert status_of(worker, 20) == 0
