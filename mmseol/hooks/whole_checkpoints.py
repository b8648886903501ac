"""Write checkpoints whole, and resume from the newest whole one."""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log

from mmseol.registry import HOOKS
from mmseol.utils.files import replacing
from mmseol.utils.unpickling import trained_iterations

__all__ = ["BACKEND", "WholeCheckpointHook", "newest_whole_checkpoint"]

BACKEND = "mmseol.whole"
_PERIODIC = re.compile(r"(epoch|iter|stopped)_\d+\.pth")  # best ones lack the state of the optimizer


@HOOKS.register_module()
class WholeCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, with files that are written whole or not at all.

    A checkpoint is written under a temporary name and renamed when all its data are on the disk, and older
    checkpoints are removed only after that. A killed process or a full disk therefore leaves the
    checkpoints of before. torch's files contain a checksum of each tensor, which is verified when a run is
    resumed: ``resume=True`` without a file resumes from :func:`newest_whole_checkpoint`. ::

        default_hooks = dict(checkpoint=dict(type="mmseol.WholeCheckpointHook", interval=1))

    Checkpoints on remote storage (an ``out_dir`` with ``://``, or ``backend_args``) are written by mmengine.

    >>> hook = WholeCheckpointHook(interval=2, max_keep_ckpts=3)

    Args:
        interval: Epochs or iterations between two checkpoints.
        by_epoch: Whether ``interval`` counts epochs (``True``) or iterations.
        **kwargs: Further arguments of mmengine's ``CheckpointHook``.
    """

    backend_args: dict[str, Any] | None

    def __init__(self, interval: int = -1, by_epoch: bool = True, **kwargs: Any) -> None:
        super().__init__(interval, by_epoch, **kwargs)

    def before_run(self, runner: Any) -> None:
        """Choose the checkpoint that a resumed run continues from.

        Raises:
            ValueError: If the work directory has checkpoints and none is whole.
        """
        if not runner._resume or runner._load_from is not None:
            return
        chosen: list[Any] = [None, None]
        if is_main_process():
            try:
                chosen[0] = newest_whole_checkpoint(runner.work_dir)
            except ValueError as error:  # on all ranks, or the others would wait
                chosen[1] = str(error)
        broadcast_object_list(chosen)
        path, error_text = chosen
        if error_text is not None:
            raise ValueError(error_text)
        if path is not None:
            runner._load_from = str(path)
            runner.logger.info(f"Resuming from {path}.")

    def before_train(self, runner: Any) -> None:
        """Prepare the folder, and remove partial files of a killed run."""
        out_dir = runner.work_dir if self.out_dir is None else self.out_dir
        if self.backend_args is None and self.file_client_args is None and "://" not in str(out_dir):
            self.backend_args = {"backend": BACKEND}
        super().before_train(runner)
        if is_main_process() and self.backend_args == {"backend": BACKEND}:
            for partial in Path(self.out_dir).glob("*.pth*.tmp"):
                partial.unlink(missing_ok=True)

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict[str, Any]) -> None:
        with _removing_afterwards(self.file_backend):
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Any, metrics: dict[str, Any]) -> None:
        with _removing_afterwards(self.file_backend):
            super()._save_best_checkpoint(runner, metrics)


class _WholeFiles(LocalBackend):
    """Local files that are written whole; removals can be postponed."""

    postponed: ClassVar[list[str] | None] = None  # of the class: mmengine makes an object for each file

    def put(self, obj: Any, filepath: str | Path) -> None:
        """Write bytes to a file, whole or not at all."""
        with replacing(filepath) as file:
            file.write(obj)
        if self.postponed is not None and str(filepath) in self.postponed:
            self.postponed.remove(str(filepath))

    def remove(self, filepath: str | Path) -> None:
        """Remove a file, now or after the writing that is under way."""
        if self.postponed is None:
            super().remove(filepath)
        else:
            self.postponed.append(str(filepath))


register_backend(BACKEND, _WholeFiles, force=True)


@contextmanager
def _removing_afterwards(backend: Any) -> Iterator[None]:
    """Postpone the backend's removals until the block ends, and drop them if it raises."""
    if not isinstance(backend, _WholeFiles):
        yield
        return
    postponed: list[str] = []
    _WholeFiles.postponed = postponed
    try:
        yield
    finally:
        _WholeFiles.postponed = None
    for path in postponed:
        if backend.isfile(path):
            backend.remove(path)


def newest_whole_checkpoint(work_dir: str | Path) -> Path | None:
    """Return the checkpoint from which the run in ``work_dir`` can be resumed, or ``None`` if it has none.

    This is the file that ``last_checkpoint`` names, or, if that file is missing or damaged, the periodic
    checkpoint of the most iterations whose checksums are right. Damaged files are logged as warnings.

    >>> import tempfile
    >>> print(newest_whole_checkpoint(tempfile.mkdtemp()))
    None

    Raises:
        ValueError: If there are checkpoints, or ``last_checkpoint`` names one, and none is whole.
    """
    work_dir = Path(work_dir)
    pointer = work_dir / "last_checkpoint"
    named = pointer.read_text(errors="replace").strip() if pointer.is_file() else ""
    if "://" in named:
        return Path(named)  # remote storage: mmengine's own rule
    last = [Path(named)] if named else []
    folders = dict.fromkeys([work_dir, *(path.parent for path in last)])
    files = [path for folder in folders for path in folder.glob("*.pth")]
    others = [path for path in files if _PERIODIC.fullmatch(path.name)]
    newest_first = sorted(others, key=_progress, reverse=True)
    damaged: list[str] = []
    for path in dict.fromkeys([*last, *newest_first]):
        reason = _damage(path)
        if reason is None:
            for other in damaged:
                print_log(
                    f"The checkpoint {other} is skipped; resuming from {path}.", "current", logging.WARNING
                )
            return path
        damaged.append(f"{path} ({reason})")
    if damaged:
        raise ValueError(
            f"`work_dir` {str(work_dir)!r} has no whole checkpoint to resume from: {', '.join(damaged[:5])}. "
            "Name a checkpoint to resume from, or remove these files to start anew."
        )
    return None


def _progress(path: Path) -> tuple[int, int, int]:
    """Return what orders checkpoints by their training; times of files mislead where the clock was set."""
    number = int("".join(filter(str.isdigit, path.stem)))
    return trained_iterations(path), path.stat().st_mtime_ns, number


def _damage(path: Path) -> str | None:
    """Return what is wrong with the file of a checkpoint, or ``None``."""
    if not path.is_file():
        return "missing"
    try:
        with zipfile.ZipFile(path) as file:  # the format of torch.save
            wrong = file.testzip()
    except zipfile.BadZipFile:
        return "not whole"
    except (OSError, EOFError, ValueError) as error:
        return str(error)
    return None if wrong is None else f"wrong checksum of {wrong}"
