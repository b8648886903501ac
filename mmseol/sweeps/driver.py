"""The driver: start what the plan allows while slots are free, until nothing is left."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from mmseol.sweeps.costs import Costs, duration
from mmseol.sweeps.engines import Engine
from mmseol.sweeps.planner import Later, Trial, choose, later, plan
from mmseol.sweeps.request import Requests
from mmseol.sweeps.sweep_file import Sweep
from mmseol.sweeps.trial import fail, state
from mmseol.sweeps.work_folder import WorkFolder, reason_of, score_of
from mmseol.utils.files import read_json, write_json

__all__ = ["Driver"]

_POLL = 0.5  # seconds between two looks at the engine
_RESCAN = 10.0  # seconds between two looks at the trials of other drivers
_STARTS = 3  # of a trial that ends without record or failure


class Driver:
    """Run a sweep on an engine; the folder is the only state, so that another driver may work on it, too.

    >>> from inspect import signature
    >>> list(signature(Driver).parameters)[:3]
    ['sweep', 'folder', 'requests']

    Args:
        sweep: The sweep.
        folder: Its folder.
        requests: Maker of the trials' requests.
        only: Losses, configs or imbalances to run; empty: all.
        any_version: Whether finished trials of other versions of the code count.
        say: Where messages go.
    """

    def __init__(
        self,
        sweep: Sweep,
        folder: WorkFolder,
        requests: Requests,
        only: Collection[str] = (),
        any_version: bool = False,
        say: Callable[[str], None] = print,
    ) -> None:
        self.sweep, self.folder, self.requests = sweep, folder, requests
        self.only, self.any_version, self.say = only, any_version, say
        self.costs = Costs(sweep.seconds_per_unit)
        self.results: dict[Trial, float] = {}
        self.failed: dict[Trial, str] = {}
        self.by_key: dict[str, list[str]] = {}
        for _, request in folder.trials():
            self.by_key.setdefault(request["key"], []).append(request["id"])

    def look(self) -> dict[Trial, str]:
        """Read what has finished; return the state of every trial that may run now and has not."""
        while True:
            states: dict[Trial, str] = {}
            new = False
            for trial in self._needed():
                path = self.path(trial)
                record = read_json(path / "record.json")
                if record is not None:
                    self.results[trial] = (
                        score_of(record, self.sweep.choose_by) if trial.stage == "tune" else 0.0
                    )
                    self.costs.add(record)
                    new = True
                else:
                    states[trial] = state(path)
            if not new:
                self.failed = {
                    trial: reason_of(self.path(trial)) for trial, one in states.items() if one == "failed"
                }
                return states

    def _needed(self) -> list[Trial]:
        return [trial for trial in plan(self.sweep, self.results) if self._wanted(trial)]

    def path(self, trial: Trial) -> Path:
        """Return the folder of a trial; with ``any_version``, of a finished one of another version."""
        request = self.requests.of(trial)
        own = self.folder.trial(request["id"])
        if self.any_version and state(own) != "done":
            for name in self.by_key.get(request["key"], []):
                if state(self.folder.trial(name)) == "done":
                    return self.folder.trial(name)
        return own

    def other_versions(self) -> int:
        """Return the number of finished trials that would count if their code had this version."""
        number = 0
        for trial in self._needed():
            request = self.requests.of(trial)
            others = [name for name in self.by_key.get(request["key"], []) if name != request["id"]]
            number += any(state(self.folder.trial(name)) == "done" for name in others)
        return number

    def estimate(self, trial: Trial | Later) -> float | None:
        """Return the seconds that a trial will take."""
        return self.costs.seconds(trial.config, trial.imbalance, trial.loss, trial.length)

    def remaining(self, states: Mapping[Trial, str]) -> tuple[int, float | None]:
        """Return number and seconds of the trials that are left, now and later."""
        groups: list[tuple[float | None, int]] = [
            (self.estimate(trial), 1) for trial, one in states.items() if one != "failed"
        ]
        for group in later(self.sweep, self.results):
            if self._wanted(group):
                groups.append((self.estimate(group), group.number))
        number = sum(count for _, count in groups)
        if any(seconds is None for seconds, _ in groups):
            return number, None
        return number, sum((seconds or 0.0) * count for seconds, count in groups)

    def prepare(self, trial: Trial) -> Path:
        """Write the request of a trial, with what was chosen for it; return its folder."""
        request = dict(self.requests.of(trial))
        if trial.stage == "final":
            request["chosen"] = self._chosen(trial)
        return self.folder.prepare(request)

    def _chosen(self, trial: Trial) -> dict[str, Any] | None:
        choice = choose(self.sweep, trial.config, trial.imbalance, trial.loss, self.results)
        if choice is None or not choice.trials:
            return None
        return {
            "on": "val",
            "metric": self.sweep.metric,
            "by": self.sweep.choose_by,
            "values": dict(choice.point),
            "score": choice.score,
            "at_border": list(choice.at_border),
            "trials": [self.path(one).name for one in choice.trials],
        }

    def _wanted(self, trial: Trial | Later) -> bool:
        if not self.only:
            return True
        kinds = (
            (trial.loss, self.sweep.losses),
            (trial.config, self.sweep.configs),
            (trial.imbalance, self.sweep.imbalances),
        )
        return all(
            value in self.only or not any(name in all_of for name in self.only) for value, all_of in kinds
        )

    def run(self, engine: Engine, budget: float | None = None) -> dict[Trial, str]:
        """Run until nothing is left, or until the budget is spent; return the states of what is left.

        Args:
            engine: Where trials run; it is closed at the end, in whatever way that comes.
            budget: Hours after which nothing should run any more; trials whose estimate does not fit are not
                started.
        """
        began = time.monotonic()
        running: dict[Path, tuple[Trial, float]] = {}
        starts: Counter[Path] = Counter()
        said_budget = False
        try:
            states = self._looked(engine)
            scanned = time.monotonic()
            while True:
                for trial in [trial for trial, one in states.items() if one in ("waiting", "interrupted")]:
                    if len(running) >= engine.slots:
                        break
                    if self.path(trial) in running:
                        continue
                    if budget is not None and self._beyond(budget, began, trial):
                        if not said_budget:
                            self.say("The budget is spent: nothing more is started.")
                        said_budget = True
                        continue
                    folder = self.prepare(trial)
                    if starts[folder] >= _STARTS:
                        fail(folder, f"ended {_STARTS} times without a record: {reason_of(folder)}")
                        states = self._looked(engine)
                        break
                    starts[folder] += 1
                    engine.start(folder)
                    running[folder] = (trial, time.monotonic())
                    self.say(f"started   {self._text(trial)}  {folder.name}")
                ended = engine.finished()
                for folder in ended:
                    if folder in running:
                        ended_trial, start = running.pop(folder)
                        self._say_end(ended_trial, folder, time.monotonic() - start)
                if ended or time.monotonic() - scanned > _RESCAN:
                    states = self._looked(engine)
                    scanned = time.monotonic()
                    continue
                startable = [one for one in states.values() if one in ("waiting", "interrupted")]
                elsewhere = [one for one in states.values() if one == "running"]
                if not running and (said_budget or not (startable or elsewhere)):
                    return states
                time.sleep(_POLL)
        finally:
            engine.close()

    def _looked(self, engine: Engine) -> dict[Trial, str]:
        states = self.look()
        number, seconds = self.remaining(states)
        content = {
            "sweep": self.sweep.name,
            "version": self.requests.version,
            "slots": engine.slots,
            "trials": [self.requests.of(trial)["id"] for trial in states],
            "done": len(self.results),
            "left": number,
            "seconds_left": None if seconds is None else round(seconds / engine.slots, 1),
            "other_versions": 0 if self.any_version else self.other_versions(),
            "time": time.time(),
        }
        write_json(self.folder.path / "plan.json", content)
        return states

    def _beyond(self, budget: float, began: float, trial: Trial) -> bool:
        return time.monotonic() - began + (self.estimate(trial) or 0.0) > 3600 * budget

    def _say_end(self, trial: Trial, folder: Path, seconds: float) -> None:
        outcome = state(folder)
        text = f"{outcome:<9} {self._text(trial)}  {duration(seconds)}"
        record = read_json(folder / "record.json")
        if record is not None and trial.stage == "tune":
            score = score_of(record, self.sweep.choose_by)
            text += f"  {self.sweep.metric} {score:.2f}"
        elif outcome == "failed":
            text += f"  {reason_of(folder)}"
        self.say(text)
        sys.stdout.flush()

    def _text(self, trial: Trial) -> str:
        values = " ".join(f"{name}={value}" for name, value in trial.point)
        parts = [
            trial.stage if trial.rung is None else f"{trial.stage} {trial.rung}",
            trial.loss,
            trial.imbalance,
        ]
        parts += [values, f"{trial.length} {self.sweep.unit}", f"seed {trial.seed}"]
        return "  ".join(part for part in parts if part)
