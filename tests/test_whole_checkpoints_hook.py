"""Checkpoints under kills, full disks and damage."""

from __future__ import annotations

import os
import resource
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.forked_runs import start, status_of
from helpers.tiny_runner import TinyModel, log_of, tiny_runner
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner
from torch import nn

from mmseol.hooks import WholeCheckpointHook, newest_whole_checkpoint
from mmseol.hooks.whole_checkpoints import BACKEND, _damage, _removing_afterwards, _WholeFiles
from mmseol.utils.files import replacing

CE = {"type": "mmseol.CrossEntropyLoss"}


def runner_of(work_dir: Path, epochs: int = 3, hook: dict[str, Any] | None = None, **kwargs: Any) -> Runner:
    torch.manual_seed(0)
    model = TinyModel([CE], [CE])
    checkpoint = {"type": "mmseol.WholeCheckpointHook", "interval": 1, **(hook or {})}
    options = dict(default_hooks={"checkpoint": checkpoint}, randomness={"seed": 0})
    return tiny_runner(work_dir, model, epochs=epochs, **options, **kwargs)


def cut(path: Path, part: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])


def flip(path: Path) -> None:
    """Change one bit of a weight."""
    data = bytearray(path.read_bytes())
    weight = torch.load(path, weights_only=False)["state_dict"]["decode_head.fc.weight"]
    at = data.find(weight.numpy().tobytes())
    assert at > 0
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [cut, flip, Path.unlink])
def test_resume_falls_back_to_the_newest_whole_checkpoint(tmp_path: Path, harm: Any) -> None:
    runner_of(tmp_path, 3).train()
    assert newest_whole_checkpoint(tmp_path) == tmp_path / "epoch_3.pth"
    harm(tmp_path / "epoch_3.pth")
    assert newest_whole_checkpoint(tmp_path) == tmp_path / "epoch_2.pth"
    runner = runner_of(tmp_path, 4, resume=True)
    runner.train()
    assert runner.epoch == 4
    assert f"Resuming from {tmp_path / 'epoch_2.pth'}" in log_of(runner)
    assert _damage(tmp_path / "epoch_3.pth") is None  # trained again


def test_a_lost_or_empty_pointer_is_no_obstacle(tmp_path: Path) -> None:
    runner_of(tmp_path, 2).train()
    for damage in (lambda path: path.write_text(""), Path.unlink):
        damage(tmp_path / "last_checkpoint")
        assert newest_whole_checkpoint(tmp_path) == tmp_path / "epoch_2.pth"


@pytest.mark.parametrize("step", [0, -1000], ids=["stands", "goes back"])
def test_the_newest_checkpoint_is_found_without_a_clock(tmp_path: Path, step: int) -> None:
    names = [f"epoch_{epoch}.pth" for epoch in (8, 9, 10)] + ["stopped_1040.pth", "epoch_11.pth"]
    for number, (name, iterations) in enumerate(zip(names, (800, 900, 1000, 1040, 1100), strict=True)):
        torch.save({"meta": {"iter": iterations}, "state_dict": {}}, tmp_path / name)
        os.utime(tmp_path / name, (10**9 + step * number,) * 2)
    for name in reversed(names):
        assert newest_whole_checkpoint(tmp_path) == tmp_path / name
        (tmp_path / name).unlink()


def test_nothing_whole_stops_instead_of_starting_anew(tmp_path: Path) -> None:
    runner_of(tmp_path, 2).train()
    for path in tmp_path.glob("*.pth"):
        cut(path, 0.9)
    with pytest.raises(ValueError, match=r"no whole checkpoint to resume from: .*epoch_2\.pth \(not whole"):
        runner_of(tmp_path, 3, resume=True).train()
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == ["epoch_1.pth", "epoch_2.pth"]
    runner = runner_of(tmp_path / "new", 1, resume=True)  # the first start of a command with --resume
    runner.train()
    assert runner.epoch == 1


def test_best_and_adjusted_checkpoints_are_not_resumed(tmp_path: Path) -> None:
    runner_of(tmp_path, 1).train()
    for name in ("best_accuracy_epoch_1.pth", "epoch_1_tau_norm_1.pth", "b.pth"):
        torch.save({"state_dict": {}}, tmp_path / name)
    (tmp_path / "last_checkpoint").unlink()
    assert newest_whole_checkpoint(tmp_path) == tmp_path / "epoch_1.pth"


def test_a_named_checkpoint_is_the_users_choice(tmp_path: Path) -> None:
    runner_of(tmp_path, 2).train()
    runner = runner_of(tmp_path, 3, resume=True, load_from=str(tmp_path / "epoch_1.pth"))
    runner.train()
    assert runner._load_from == str(tmp_path / "epoch_1.pth")


class Fail(Hook):
    """Let the saving of an epoch fail."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        if checkpoint["meta"]["epoch"] == self.epoch:
            raise OSError("no space left")


@pytest.mark.parametrize(
    ("kind", "left"), [("mmseol.WholeCheckpointHook", ["epoch_1.pth"]), ("CheckpointHook", [])]
)
def test_old_checkpoints_go_after_new_ones_are_written(tmp_path: Path, kind: str, left: list[str]) -> None:
    hook = {"type": kind, "max_keep_ckpts": 1}
    runner = runner_of(tmp_path, 3, hook, custom_hooks=[Fail(2)])
    with pytest.raises(OSError, match="no space"):
        runner.train()
    assert [path.name for path in tmp_path.glob("*.pth")] == left  # mmengine's removes the only one
    runner_of(tmp_path / "b", 3, hook).train()
    assert [path.name for path in (tmp_path / "b").glob("*.pth")] == ["epoch_3.pth"]


def test_keeps_the_same_files_as_the_hosts_hook(tmp_path: Path) -> None:
    names = {}
    for kind in ("mmseol.WholeCheckpointHook", "CheckpointHook"):
        runner_of(tmp_path / kind, 4, {"type": kind, "max_keep_ckpts": 2}).train()
        states = {path.name: torch.load(path, weights_only=False) for path in (tmp_path / kind).glob("*.pth")}
        names[kind] = {name: state["state_dict"] for name, state in states.items()}
    torch.testing.assert_close(*names.values(), rtol=0, atol=0)
    assert sorted(names["CheckpointHook"]) == ["epoch_3.pth", "epoch_4.pth"]


def _save_large_files(folder: Path) -> None:
    class Large(TinyModel):
        def __init__(self) -> None:
            super().__init__([CE], [CE])
            self.ballast = nn.Linear(1000, 4000)

    hook = {"type": "mmseol.WholeCheckpointHook", "by_epoch": False, "interval": 1, "max_keep_ckpts": 2}
    tiny_runner(folder, Large(), epochs=1000, default_hooks={"checkpoint": hook}).train()


@pytest.mark.parametrize("attempt", range(3))
def test_a_kill_leaves_whole_checkpoints_alone(tmp_path: Path, attempt: int) -> None:
    process = start(_save_large_files, tmp_path)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("*.pth"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.017 * attempt)
    os.kill(process.pid, signal.SIGKILL)
    assert status_of(process) == -signal.SIGKILL
    files = sorted(tmp_path.glob("*.pth"))
    assert files
    assert [_damage(path) for path in files] == [None] * len(files)
    assert newest_whole_checkpoint(tmp_path) in files


def _fill_the_disk(folder: Path) -> None:
    runner_of(folder, 1).train()
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))  # as a full disk: write fails
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        runner_of(folder, 2, resume=True).train()
    except OSError:
        os._exit(7)


def test_a_full_disk_leaves_the_checkpoints_of_before(tmp_path: Path) -> None:
    assert status_of(start(_fill_the_disk, tmp_path)) == 7
    assert [path.name for path in tmp_path.glob("*.pth*")] == ["epoch_1.pth"]
    assert newest_whole_checkpoint(tmp_path) == tmp_path / "epoch_1.pth"


def test_partial_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    partial = tmp_path / "epoch_1.pthabcdefgh.tmp"
    partial.write_bytes(b"half")
    runner_of(tmp_path, 1).train()
    assert not partial.exists()


def test_files_are_synced_before_they_get_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)

        def spy(*args: Any, name: str = name, original: Any = original) -> Any:
            events.append(name)
            return original(*args)

        monkeypatch.setattr(os, name, spy)
    with replacing(tmp_path / "a.txt", "w") as file:
        file.write("a")
    assert events == ["fsync", "replace", "fsync"]  # the file, its name, the folder


# ------------------------------------------------------------------ without a run


def write_checkpoint(path: Path, iteration: int) -> Path:
    torch.save({"meta": {"iter": iteration}, "state_dict": {"weight": torch.ones(3)}}, path)
    return path


def test_the_pointer_goes_before_checkpoints_of_more_iterations(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    named = write_checkpoint(tmp_path / "elsewhere" / "mine.pth", 1)
    write_checkpoint(tmp_path / "iter_30.pth", 30)
    write_checkpoint(tmp_path / "elsewhere" / "epoch_9.pth", 50)
    write_checkpoint(tmp_path / "best_epoch_70.pth", 70)
    pointer = tmp_path / "last_checkpoint"
    assert newest_whole_checkpoint(tmp_path) == tmp_path / "iter_30.pth"
    pointer.write_text(f"{named}\n")
    assert newest_whole_checkpoint(str(tmp_path)) == named
    cut(named)  # then those beside it count, too
    assert newest_whole_checkpoint(tmp_path) == tmp_path / "elsewhere" / "epoch_9.pth"
    pointer.write_text("s3://bucket/epoch_3.pth")
    assert str(newest_whole_checkpoint(tmp_path)).startswith("s3:")  # left to mmengine


def test_the_last_of_equal_iterations_is_taken(tmp_path: Path) -> None:
    first, second = (write_checkpoint(tmp_path / f"epoch_{k}.pth", 5) for k in (3, 2))
    os.utime(first, ns=(10**18, 10**18))
    os.utime(second, ns=(10**18 + 1, 10**18 + 1))
    assert newest_whole_checkpoint(tmp_path) == second
    os.utime(second, ns=(10**18, 10**18))
    assert newest_whole_checkpoint(tmp_path) == first


def test_what_is_damaged_is_listed(tmp_path: Path) -> None:
    for k in range(1, 8):
        cut(write_checkpoint(tmp_path / f"epoch_{k}.pth", k))
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "gone.pth"))
    with pytest.raises(ValueError, match=r"has no whole checkpoint to resume from") as caught:
        newest_whole_checkpoint(tmp_path)
    text = str(caught.value)
    assert f"{tmp_path / 'gone.pth'} (missing), " in text
    assert text.count("(not whole)") == 4  # five in all
    assert _damage(tmp_path / "gone.pth") == "missing"
    (tmp_path / "folder.pth").mkdir()
    assert _damage(tmp_path / "folder.pth") == "missing"
    whole = write_checkpoint(tmp_path / "iter_1.pth", 1)
    assert _damage(whole) is None
    data = whole.read_bytes()
    at = data.find(torch.ones(3).numpy().tobytes())
    whole.write_bytes(data[:at] + b"x" + data[at + 1 :])
    assert "wrong checksum of" in str(_damage(whole))


class Stub:
    """What the hook uses of a Runner before the training."""

    def __init__(self, work_dir: Path, resume: bool, load_from: str | None) -> None:
        self.work_dir, self._resume, self._load_from = str(work_dir), resume, load_from
        self.lines: list[str] = []
        self.logger, self.info = self, self.lines.append


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("named", [None, "mine.pth"])
def test_only_a_resumed_run_without_a_file_looks_for_one(tmp_path: Path, resume: bool, named: Any) -> None:
    hook = WholeCheckpointHook()
    empty = Stub(tmp_path, resume, named)
    hook.before_run(empty)
    assert empty._load_from == named
    path = write_checkpoint(tmp_path / "epoch_1.pth", 1)
    runner = Stub(tmp_path, resume, named)
    hook.before_run(runner)
    looked = resume and named is None
    assert runner._load_from == (str(path) if looked else named)
    assert runner.lines == ([f"Resuming from {path}."] if looked else [])
    cut(path)
    if looked:
        with pytest.raises(ValueError, match="has no whole checkpoint"):
            hook.before_run(Stub(tmp_path, resume, named))


@pytest.mark.parametrize(
    ("settings", "ours"),
    [
        ({}, True),
        ({"out_dir": "local"}, True),
        ({"out_dir": "remote://folder"}, False),
        ({"backend_args": {"backend": "local"}}, False),
    ],
)
def test_local_checkpoints_alone_are_written_by_us(
    tmp_path: Path, settings: dict[str, Any], ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    if settings.get("out_dir") == "local":
        settings = {"out_dir": str(tmp_path)}
    seen: list[Any] = []

    def prepare(self: Any, runner: Any) -> None:
        seen.append(self.backend_args)
        self.out_dir = str(folder)  # mmengine puts the name of the work directory below

    monkeypatch.setattr(CheckpointHook, "before_train", prepare)
    folder.mkdir()
    for name in ("epoch_1.pth.x.tmp", "epoch_1.pth", "other.tmp"):
        (folder / name).touch()
    WholeCheckpointHook(**settings).before_train(Stub(folder, False, None))
    assert (seen == [{"backend": BACKEND}]) == ours
    left = {path.name for path in folder.iterdir()}
    assert left == {"epoch_1.pth", "other.tmp"} | (set() if ours else {"epoch_1.pth.x.tmp"})


def test_removals_wait_for_the_writing_that_is_under_way(tmp_path: Path) -> None:
    backend = _WholeFiles()
    paths = [tmp_path / f"{k}.pth" for k in range(4)]
    for path in paths:
        path.write_bytes(b"old")
    backend.remove(paths[0])
    assert not paths[0].exists()
    with _removing_afterwards(backend):
        backend.remove(paths[1])
        backend.remove(str(paths[2]))
        assert paths[1].exists()
        backend.put(b"new", paths[2])  # written again: it stays
        paths[3].unlink()
        backend.remove(paths[3])
        backend.remove(tmp_path / "none.pth")
    assert [path.exists() for path in paths] == [False, False, True, False]
    assert paths[2].read_bytes() == b"new"
    with suppress(OSError), _removing_afterwards(backend):
        backend.remove(paths[2])
        raise OSError("full")
    assert paths[2].exists()
    backend.remove(paths[2])  # at once again
    assert not paths[2].exists()
    with _removing_afterwards(object()):  # another backend
        pass
