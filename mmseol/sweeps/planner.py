"""What a sweep needs next: a pure function of the sweep and of the trials that have finished."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import inf
from statistics import fmean
from typing import Any

import numpy as np

from mmseol.sweeps.sweep_file import Sweep

__all__ = ["Choice", "Later", "Trial", "choose", "later", "plan", "points"]

Point = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Trial:
    """One training and its scores, as the sweep asks for it.

    >>> Trial("tune", "a.py", None, "ce", (("lr", 0.1),), length=10, seed=0, rung=0).values
    {'lr': 0.1}

    Attributes:
        stage: ``'tune'`` or ``'final'``.
        config: As in the sweep; so are ``imbalance`` and ``loss``.
        point: Tuned settings and their values.
        length: Epochs or iterations of the training, in the sweep's unit.
        seed: Seed of the training.
        rung: Number of the rung, ``None`` in the final stage.
    """

    stage: str
    config: str
    imbalance: str | None
    loss: str
    point: Point
    length: int
    seed: int
    rung: int | None = None

    @property
    def values(self) -> dict[str, Any]:
        """Return the tuned settings and their values."""
        return dict(self.point)


Results = Mapping[Trial, float]
"""Validation score of every finished trial, ``-inf`` where the training diverged; any number in ``final``."""


@dataclass(frozen=True)
class Choice:
    """The point that a loss trains its final models with.

    >>> Choice(point=(("lr", 0.1),), score=71.5, trials=()).score
    71.5

    Attributes:
        point: The point; empty without tuning.
        score: Its validation score in the last rung; ``None`` without tuning.
        trials: The tuning trials that it was chosen from.
        at_border: Its settings whose value is the lowest or the highest of the grid.
    """

    point: Point
    score: float | None
    trials: tuple[Trial, ...]
    at_border: tuple[str, ...] = ()


@dataclass(frozen=True)
class Later:
    """Trials that depend on results which are not there yet.

    >>> Later("a.py", None, "ce", "final", length=60, number=3).number
    3
    """

    config: str
    imbalance: str | None
    loss: str
    stage: str
    length: int
    number: int


def points(sweep: Sweep, loss: str) -> list[Point]:
    """Return the points that a loss tries: its grid, or a seeded draw from it, in the order of the grid.

    Losses with grids of the same size draw the same places.

    >>> sweep = Sweep("a", ["a.py"], ["ce"], 1, "mIoU", tune={"lr": [0.1, 0.3, 1.0]}, points=2)
    >>> points(sweep, "ce")
    [(('lr', 0.1),), (('lr', 1.0),)]
    """
    grid, number = sweep.grid(loss), sweep.number_of_points()
    places = np.random.default_rng(sweep.draw_seed).permutation(len(grid))[:number]
    return [tuple(grid[place].items()) for place in sorted(places.tolist())]


def plan(sweep: Sweep, results: Results) -> list[Trial]:
    """Return the trials that may run now and have no result.

    That is rung 0 first, the next rung of a loss when its rung is complete, and the final seeds when its
    point is chosen. The first seed of all losses comes before the second.

    >>> sweep = Sweep("a", ["a.py"], ["ce"], 5, "mIoU", tune={"lr": [0.1, 1.0]}, seeds=[1, 2])
    >>> first = plan(sweep, {})
    >>> [(trial.stage, trial.values) for trial in first]
    [('tune', {'lr': 0.1}), ('tune', {'lr': 1.0})]
    >>> [(trial.stage, trial.values, trial.seed) for trial in plan(sweep, dict(zip(first, [40.0, 50.0])))]
    [('final', {'lr': 1.0}, 1), ('final', {'lr': 1.0}, 2)]

    Args:
        sweep: The sweep.
        results: Scores of the finished trials.
    """
    found = []
    for group in _groups(sweep):
        trials, _, _ = _progress(sweep, group, results)
        found += [trial for trial in trials if trial not in results]
    return sorted(found, key=lambda trial: (trial.stage == "final", trial.rung or 0, trial.seed))


def later(sweep: Sweep, results: Results) -> list[Later]:
    """Return what comes after the trials of :func:`plan`.

    >>> sweep = Sweep("a", ["a.py"], ["ce"], 5, "mIoU", tune={"lr": [0.1, 1.0]}, seeds=[1, 2])
    >>> [(group.stage, group.number) for group in later(sweep, {})]
    [('final', 2)]
    """
    found = []
    for config, imbalance, loss in _groups(sweep):
        _, complete, choice = _progress(sweep, (config, imbalance, loss), results)
        if choice is not None or complete < 0:
            continue
        rungs = sweep.tuning_rungs()
        for number in range(complete + 1, len(rungs)):
            trials = rungs[number - 1]["keep"] * len(sweep.tuning_seeds)
            found.append(Later(config, imbalance, loss, "tune", rungs[number][sweep.unit], trials))
        found.append(Later(config, imbalance, loss, "final", sweep.length, len(sweep.seeds)))
    return found


def choose(sweep: Sweep, config: str, imbalance: str | None, loss: str, results: Results) -> Choice | None:
    """Return the choice of a loss, or ``None`` while its tuning goes on or if all its points diverged.

    Of equal scores, the lowest learning rate is chosen.

    >>> sweep = Sweep("a", ["a.py"], ["ce"], 5, "mIoU", tune={"lr": [0.1, 1.0]})
    >>> choose(sweep, "a.py", None, "ce", dict.fromkeys(plan(sweep, {}), 40.0)).at_border
    ('lr',)
    """
    return _progress(sweep, (config, imbalance, loss), results)[2]


def _groups(sweep: Sweep) -> Iterator[tuple[str, str | None, str]]:
    yield from product(sweep.configs, sweep.imbalances, sweep.losses)


def _progress(
    sweep: Sweep, group: tuple[str, str | None, str], results: Results
) -> tuple[list[Trial], int, Choice | None]:
    """Return the trials of a loss that are determined, the rung that it is in, and its choice.

    The rung is -1 if all points diverged.
    """
    config, imbalance, loss = group
    trials: list[Trial] = []
    rungs = sweep.tuning_rungs()
    kept: list[Point] = points(sweep, loss) if rungs else [()]
    score: float | None = None
    for number, rung in enumerate(rungs):
        of_point = {
            point: [
                Trial("tune", config, imbalance, loss, point, rung[sweep.unit], seed, number)
                for seed in sweep.tuning_seeds
            ]
            for point in kept
        }
        trials += [trial for seeds in of_point.values() for trial in seeds]
        if any(trial not in results for trial in trials):
            return trials, number, None
        scores = {point: fmean(results[trial] for trial in seeds) for point, seeds in of_point.items()}
        trained = [point for point in kept if scores[point] > -inf]
        if not trained:
            return trials, -1, None
        best = sorted(trained, key=lambda point: (-scores[point], dict(point).get("lr", 0)))
        kept, score = best[: rung["keep"]], scores[best[0]]
    (point,) = kept[:1]
    choice = Choice(point, score, tuple(trials), _at_border(sweep.values(loss), point))
    final = [Trial("final", config, imbalance, loss, point, sweep.length, seed) for seed in sweep.seeds]
    return [*trials, *final], len(rungs), choice


def _at_border(values: Mapping[str, Any], point: Point) -> tuple[str, ...]:
    """Return the settings of a point whose number is the lowest or the highest of several."""
    found = []
    for name, value in point:
        numbers = [one for one in values[name] if isinstance(one, (int, float)) and not isinstance(one, bool)]
        if len(numbers) == len(values[name]) > 1 and value in (min(numbers), max(numbers)):
            found.append(name)
    return tuple(found)
