"""Trials as tasks of a Ray cluster."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmseol.sweeps import remote
from mmseol.sweeps.engines import Engine, check_trial_began
from mmseol.utils.checks import number, whole_number

__all__ = ["RayEngine"]

_ANSWER = 10.0  # seconds in which a cluster must answer


class RayEngine(Engine):
    """Trials on the nodes of a Ray cluster: one task is one process with one trial.

    Needs ``pip install "mmseol[ray]"``. The nodes share the file system of the work directory and the data,
    and have the packages of this machine. Ray places the tasks and repeats none: a trial whose worker or node
    was killed comes back from :meth:`finished`, and the driver starts it again, from its last checkpoint.
    Trials stop when the driver ends.

    >>> RayEngine(gpus_per_trial=1.5)
    Traceback (most recent call last):
    ValueError: `gpus_per_trial` must be at most 1 or a whole number, got 1.5.

    Args:
        slots: Trials at a time; ``None``: as many as the cluster holds, counted anew at each start.
        preload: Not used: every trial is a fresh process.
        address: ``'HOST:PORT'`` of the cluster's head; ``'auto'``: that of ``RAY_ADDRESS``, or the cluster
            that this machine belongs to; ``'local'``: a new one on this machine, which ends with the driver.
        cpus_per_trial: Cores of a trial, and its threads.
        gpus_per_trial: GPUs of a trial: a fraction, where several share one, or a whole number. ``None``: 1
            if the cluster has GPUs, else 0.

    Raises:
        ImportError: If Ray is not installed.
        ValueError: If no cluster answers at the address, or no node has as many cores or GPUs.
    """

    command: ClassVar[Sequence[str]] = remote.TRIAL
    """Arguments of ``python`` before the folder of a trial."""

    patience: ClassVar[float] = 60.0
    """Seconds that stopped trials have to save a checkpoint."""

    def __init__(
        self,
        slots: int | None = None,
        preload: Sequence[str] = (),
        address: str = "auto",
        cpus_per_trial: int = 1,
        gpus_per_trial: float | None = None,
    ) -> None:
        self._limit = None if slots is None else whole_number("--slots", slots, at_least=1)
        self._cpus = whole_number("cpus_per_trial", cpus_per_trial, at_least=1)
        self._gpus = 0.0 if gpus_per_trial is None else number("gpus_per_trial", gpus_per_trial, at_least=0)
        if self._gpus > 1 and self._gpus % 1:
            raise ValueError(f"`gpus_per_trial` must be at most 1 or a whole number, got {gpus_per_trial}.")
        self._running: dict[Any, Path] = {}
        self._ray = _import_ray()
        _connect(self._ray, address, self._cpus * (self._limit or 0) or None)
        try:
            self._check_nodes(gpus_per_trial)
        except ValueError:
            self.close()
            raise
        self._ray.cloudpickle.register_pickle_by_value(remote)  # a node may have another version
        self._task = self._ray.remote(remote.run_as_child)

    @property
    def slots(self) -> int:  # type: ignore[override]
        """Trials that the living nodes hold at a time; at least one, which waits for a node."""
        fitting = sum(_fitting(node, self._cpus, self._gpus) for node in self._nodes())
        return max(1, fitting if self._limit is None else min(fitting, self._limit))

    def start(self, folder: Path) -> None:
        """Submit a task for the trial."""
        task = self._task.options(
            name=f"trial {Path(folder).name}", num_cpus=self._cpus, num_gpus=self._gpus, max_retries=0
        )
        settings = remote.settings_of_trials(self._cpus)
        if not self._gpus:
            settings["CUDA_VISIBLE_DEVICES"] = ""
        reference = task.remote(
            str(Path(folder).absolute()), settings, self.command, os.getcwd(), self.patience
        )
        self._running[reference] = Path(folder)

    def finished(self) -> list[Path]:
        """Return the folders whose task has ended or is lost.

        Raises:
            RuntimeError: If a node cannot run trials: it does not see the folder, or lacks a package.
        """
        if not self._running:
            return []
        ended, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        return [self._outcome(reference) for reference in ended]

    def close(self) -> None:
        """Stop all trials with a checkpoint, and leave the cluster."""
        ray, running = self._ray, list(self._running)
        if ray.is_initialized():
            for reference in running:
                ray.cancel(reference)
            if running:
                ray.wait(running, num_returns=len(running), timeout=self.patience + _ANSWER)
            ray.shutdown()
        self._running.clear()

    def _outcome(self, reference: Any) -> Path:
        folder = self._running.pop(reference)
        try:
            status = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise RuntimeError(f"Ray could not run {folder}: {error.cause}") from error
        except self._ray.exceptions.RayError:  # its worker or node was killed
            return folder
        check_trial_began(folder, status)
        return folder

    def _nodes(self) -> list[dict[str, float]]:
        """Return the resources of each node."""
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _check_nodes(self, gpus_per_trial: float | None) -> None:
        nodes = self._nodes()
        gpus, cpus = (max((node.get(name, 0) for node in nodes), default=0) for name in ("GPU", "CPU"))
        if gpus_per_trial is None:
            self._gpus = min(1.0, gpus)
        for name, wanted, most in (
            ("gpus_per_trial", self._gpus, gpus),
            ("cpus_per_trial", self._cpus, cpus),
        ):
            if wanted > most:
                raise ValueError(
                    f"`{name}` must be at most {most:g}, which the largest node has, got {wanted:g}."
                )


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1"
    )  # no GPU is visible to trials without one
    try:
        import ray
    except ImportError as error:
        raise ImportError('The engine `ray` needs Ray: pip install "mmseol[ray]".') from error
    return ray


def _connect(ray: Any, address: str, cpus: int | None) -> None:
    """Join a cluster; Ray itself waits minutes for one that is not there."""
    handler = signal.getsignal(signal.SIGTERM)
    address = os.environ.get("RAY_ADDRESS", "auto") if address == "auto" else address
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        options |= {"num_cpus": cpus, "include_dashboard": False}
    elif address != "auto":
        _check_answer(address)
    try:
        ray.init(address=address, **options)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"`--address` must name a running Ray cluster, got {address!r}: {reason} {_HELP}"
        ) from error
    finally:
        signal.signal(signal.SIGTERM, handler)  # Ray sets its own


_HELP = "Start one by `ray start --head`, or use `--address local` for one on this machine alone."


def _check_answer(address: str) -> None:
    """Raise if no cluster answers."""
    host, _, port = address.rpartition(":")
    problem = f"`--address` must be 'auto', 'local' or 'HOST:PORT' of a running Ray cluster, got {address!r}"
    if not host or not port.isdecimal() or "/" in host:
        raise ValueError(f"{problem}.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"{problem}: {error}. {_HELP}") from error
    check = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        answered = subprocess.run(check, capture_output=True, timeout=_ANSWER).returncode == 0
    except subprocess.TimeoutExpired:
        answered = False
    if not answered:
        raise ValueError(f"{problem}: what answers there is no Ray cluster of this version. {_HELP}")


def _fitting(node: dict[str, float], cpus: int, gpus: float) -> int:
    """Return the number of trials that fit on a node; a fraction lies on one GPU."""
    fitting = int(node.get("CPU", 0)) // cpus
    if gpus > 1:
        fitting = min(fitting, int(node.get("GPU", 0) // gpus))
    elif gpus > 0:
        fitting = min(fitting, int(node.get("GPU", 0)) * int(1 / gpus + 1e-9))
    return fitting
