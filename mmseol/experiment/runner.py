"""mmengine's ``Runner`` as the commands use it: log folders of their own, checkpoints that fit the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from mmseol.analysis.records.run_records import environment
from mmseol.experiment.weights import check_classifier, check_initial_weights, check_weights
from mmseol.utils.files import replacing

__all__ = ["CommandRunner", "LoadedWeightsHook", "write_command"]


class CommandRunner(Runner):
    """A ``Runner`` that shares its log folder and its logger with no other run.

    mmengine names the log folder and the logger by the second in which a run begins. Of two runs with the
    same name, the second would overwrite the log of the first.

    >>> import tempfile
    >>> from torch import nn
    >>> folder = tempfile.mkdtemp()
    >>> first, second = (CommandRunner(nn.Linear(1, 1), folder, log_level="ERROR") for _ in range(2))
    >>> first.log_dir == second.log_dir
    False
    """

    def setup_env(self, env_cfg: dict[str, Any]) -> None:
        """Set up the processes, and choose a name that no other log folder has."""
        super().setup_env(env_cfg)
        name = [self._free_name() if is_main_process() else ""]
        broadcast_object_list(name)
        self._timestamp = name[0]

    def _free_name(self) -> str:
        begin = self.cfg.get("experiment_name") or Path(self.cfg.filename or "").stem
        number = 1
        while True:
            name = self._timestamp if number == 1 else f"{self._timestamp}_{number}"
            number += 1
            if MMLogger.check_instance_created(f"{begin}_{name}" if begin else name):
                continue  # of another folder, in this process
            try:
                Path(self.work_dir, name).mkdir(parents=True)
            except FileExistsError:
                continue
            return name


def write_command(folder: str | Path, command: str | None) -> None:
    """Write the command of a run and its environment to ``command.json`` in the folder of its log.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_command(folder, "tools/train.py digits.py")
    >>> json.loads((folder / "command.json").read_text())["command"]
    'tools/train.py digits.py'
    """
    facts = {"command": command, "environment": environment()}
    with replacing(Path(folder) / "command.json", "w") as file:
        file.write(json.dumps(facts, indent=1) + "\n")


class LoadedWeightsHook(Hook):
    """Check the checkpoint that a run starts from, before its weights are set.

    A resumed run needs all weights of the classifier, a new training (``load_from``) at least one weight of
    the model; the log says what a new training does not take.

    >>> hook = LoadedWeightsHook()
    """

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Refuse or log what does not fit."""
        path = str(runner._load_from)
        if runner._resume:
            check_classifier(runner.cfg, path, checkpoint)
            check_weights(runner.model, path, checkpoint)
        elif text := check_initial_weights(runner.model, path, checkpoint):
            runner.logger.warning(text)
