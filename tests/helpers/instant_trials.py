"""Trials without training, for tests of the driver and of tools that use it."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from mmseol.sweeps.engines import Engine
from mmseol.sweeps.planner import Trial
from mmseol.utils.files import read_json, write_json


class PlainRequests:
    """Requests without configs."""

    def __init__(self, version: str = "1") -> None:
        self.version = version

    def of(self, trial: Trial) -> dict:
        key = sha256(repr(trial).encode()).hexdigest()[:16]
        names = ("stage", "config", "imbalance", "loss", "seed", "values")
        facts = {"epochs": trial.length, **{name: getattr(trial, name) for name in names}}
        return {"id": f"{key}-{self.version}", "key": key, "version": self.version, **facts}


class Instant(Engine):
    """Finish every trial at once, with the learning rate as its score, and 10 s an epoch."""

    def __init__(self, slots: int = 2, outcome: Callable[[Path, dict], bool] | None = None) -> None:
        self.slots, self.outcome = slots, outcome
        self.started: list[dict] = []
        self.ended: list[Path] = []
        self.closed = False

    def start(self, folder: Path) -> None:
        request = read_json(folder / "trial.json")
        self.started.append(request)
        assert len(self.ended) < self.slots
        self.ended.append(folder)
        if self.outcome is not None and self.outcome(folder, request):
            return
        scores = {"last": {"scores": {"mIoU": request["values"].get("lr", 0.0)}}}
        record = {**request, "metric": "mIoU", "scores": scores, "seconds": 10 * request["epochs"]}
        write_json(folder / "record.json", record)

    def finished(self) -> list[Path]:
        ended, self.ended = self.ended, []
        return ended

    def close(self) -> None:
        self.closed = True
