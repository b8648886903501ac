"""Sweep files: a docstring as a lab note, and assignments of literals, which are read and never executed."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmseol.analysis.tabulation.run_text import SHORT_NAMES
from mmseol.experiment.config_files import find_config
from mmseol.experiment.data import parse_imbalance
from mmseol.experiment.loss import known_losses, parse_loss, parse_options, resolved_loss
from mmseol.utils.checks import boolean, choice, number, whole_number

__all__ = ["Sweep", "find_sweep", "read_sweep"]

_OWN = {  # settings that a field of the sweep sets
    "train_cfg.max_epochs": "epochs",
    "train_cfg.max_iters": "iterations",
    "randomness.seed": "seeds",
    "default_hooks.checkpoint.save_best": "metric",
}


@dataclass(frozen=True)
class Sweep:
    """A question, and the trials that answer it: the assignments of a sweep file.

    >>> sweep = Sweep("mine", ["quickstart/digits.py"], ["ce", "mse"], epochs=60, metric="accuracy")
    >>> sweep.grid("ce"), sweep.rungs
    ([{}], [])
    >>> Sweep("mine", [], ["ce"], epochs=60, metric="accuracy")
    Traceback (most recent call last):
    ValueError: `configs` must be a list with at least one entry, got [].

    Attributes:
        name: Name of the file without its ending.
        configs: Config files, or configs of mmseol by name.
        losses: What ``--loss`` takes, one entry per row of the final table.
        epochs: Epochs of the final trainings; ``None`` where the configs train by iterations.
        metric: Validation score that chooses points and checkpoints; higher is better.
        iterations: Iterations of the final trainings, in place of ``epochs``.
        seeds: Seeds of the final trainings.
        imbalances: What ``--imbalance`` takes; ``None`` leaves the config's data as they are.
        tune: Values of each tuned setting, by its key in the config; ``lr`` and ``wd`` are short names.
        tune_losses: Further or other values by loss: its own arguments, or keys of ``tune``.
        points: Points of the grid that each loss tries, the same number for all; ``None``: as many as the
            loss with the smallest grid has. Of a larger grid, they are drawn.
        draw_seed: Seed of that draw.
        rungs: Successive halving, ``[{"epochs": 10, "keep": 2}, {"epochs": 40, "keep": 1}]``, or with
            ``iterations``; the same for every loss. Empty: one rung as long as the final trainings.
        tuning_seeds: Seeds of every point; its score is their mean.
        choose_by: Validation score of a point: after the ``'last'`` epoch, or ``'best_on_validation'``.
        split: Split of the final scores, ``'test'`` or ``'val'``.
        best_on_test: Whether to score the checkpoint of every validation on the test split, too, for the
            number that peers report.
        options: ``--cfg-options`` of every trial.
        options_of: Further ones by loss.
        processes_per_trial: Processes that train together, started by PyTorch's launcher; each has the
            batch size of the config, and a GPU where there are any.
        seconds_per_epoch: Guess for the estimates before any trial has finished.
        seconds_per_iteration: The same for trainings by iterations.
        keep_checkpoints: Whether the last and the best checkpoint of final trainings stay on disk.
        keep_every: Epochs, or iterations, between further checkpoints that stay; ``None``: none.
        note: Docstring of the file.
    """

    name: str
    configs: Sequence[str]
    losses: Sequence[str]
    epochs: int | None
    metric: str
    iterations: int | None = None
    seeds: Sequence[int] = (1,)
    imbalances: Sequence[str | None] = (None,)
    tune: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    tune_losses: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)
    points: int | None = None
    draw_seed: int = 0
    rungs: Sequence[Mapping[str, int]] = field(default_factory=list)
    tuning_seeds: Sequence[int] = (0,)
    choose_by: str = "last"
    split: str = "test"
    best_on_test: bool = False
    options: Sequence[str] = ()
    options_of: Mapping[str, Sequence[str]] = field(default_factory=dict)
    processes_per_trial: int = 1
    seconds_per_epoch: float | None = None
    seconds_per_iteration: float | None = None
    keep_checkpoints: bool = False
    keep_every: int | None = None
    note: str = ""

    def __post_init__(self) -> None:
        for name in ("configs", "losses", "seeds", "imbalances", "tuning_seeds", "options", "rungs"):
            _check_list(name, getattr(self, name), empty=name in ("options", "rungs"))
        if (self.epochs is None) == (self.iterations is None):
            raise ValueError(
                "`epochs` or `iterations` must be given, whichever the configs train by, and not both, got "
                f"{self.epochs!r} and {self.iterations!r}."
            )
        whole_number(self.unit, self.length, at_least=1)
        whole_number("processes_per_trial", self.processes_per_trial, at_least=1)
        for name in ("seeds", "tuning_seeds"):
            for seed in getattr(self, name):
                whole_number(name, seed, at_least=0)
        if self.points is not None:
            whole_number("points", self.points, at_least=1)
        for name in ("seconds_per_epoch", "seconds_per_iteration"):
            if getattr(self, name) is not None:
                number(name, getattr(self, name), above=0)
        choice("choose_by", self.choose_by, ("last", "best_on_validation"))
        choice("split", self.split, ("test", "val"))
        for name in ("best_on_test", "keep_checkpoints"):
            boolean(name, getattr(self, name))
        if self.keep_every is not None:
            whole_number("keep_every", self.keep_every, at_least=1)
            if not self.keep_checkpoints or self.best_on_test:
                raise ValueError(
                    "`keep_every` needs `keep_checkpoints = True`, and no `best_on_test`, which keeps one of "
                    "each validation."
                )
        if not (isinstance(self.metric, str) and self.metric):
            raise ValueError(f"`metric` must be the name of a validation score, got {self.metric!r}.")
        if self.best_on_test and self.split != "test":
            raise ValueError("`best_on_test` needs `split = 'test'`; with 'val' the test split stays closed.")
        self._check_tuning()
        self._check_options()

    def _check_tuning(self) -> None:
        for of, grid in [
            ("tune", self.tune),
            *((f"tune_losses[{k!r}]", v) for k, v in self.tune_losses.items()),
        ]:
            if not isinstance(grid, Mapping):
                raise ValueError(f"`{of}` must be a dict of lists of values, got {grid!r}.")
            for key, values in grid.items():
                _check_list(f"{of}[{key!r}]", values)
                if not all(isinstance(value, (bool, int, float, str)) for value in values):
                    raise ValueError(f"`{of}[{key!r}]` must hold numbers or strings, got {values!r}.")
        unknown = [name for name in self.tune_losses if name not in self._loss_names()]
        if unknown:
            raise ValueError(
                f"`tune_losses` must name losses of `losses`, got {unknown[0]!r}."
                f"{_nearest(unknown[0], self._loss_names())}"
            )
        if not self.tune and not self.tune_losses:
            if self.rungs or self.points is not None:
                raise ValueError("`rungs` and `points` need something to `tune`.")
            return
        sizes = {loss: len(self.grid(loss)) for loss in self.losses}
        smallest = min(sizes, key=lambda loss: sizes[loss])
        if self.points is not None and self.points > sizes[smallest]:
            raise ValueError(
                f"`points` must be at most {sizes[smallest]}, the grid of {smallest!r}, got {self.points}: "
                "every loss tries the same number. Give more values, or fewer points."
            )
        self._check_rungs(sizes[smallest] if self.points is None else self.points)

    @property
    def unit(self) -> str:
        """``'epochs'`` or ``'iterations'``, in which the length of a training is given."""
        return "iterations" if self.epochs is None else "epochs"

    @property
    def length(self) -> int:
        """Epochs or iterations of the final trainings."""
        return (self.iterations if self.epochs is None else self.epochs) or 0

    @property
    def seconds_per_unit(self) -> float | None:
        """Guess of the seconds that an epoch or an iteration takes."""
        return self.seconds_per_iteration if self.epochs is None else self.seconds_per_epoch

    def _check_rungs(self, points: int) -> None:
        before, length = points, 0
        for rung in self.rungs:
            if not isinstance(rung, Mapping) or set(rung) != {self.unit, "keep"}:
                raise ValueError(f'`rungs` must hold {{"{self.unit}": .., "keep": ..}}, got {rung!r}.')
            whole_number(f"rungs: {self.unit}", rung[self.unit], at_least=max(length, 1))
            whole_number("rungs: keep", rung["keep"], at_least=1, at_most=before)
            before, length = rung["keep"], rung[self.unit]
        if self.rungs and before != 1:
            raise ValueError(f"`rungs` must keep 1 point in the end, got {before}.")

    def _check_options(self) -> None:
        unknown = [name for name in self.options_of if name not in self._loss_names()]
        if unknown:
            raise ValueError(
                f"`options_of` must name losses of `losses`, got {unknown[0]!r}."
                f"{_nearest(unknown[0], self._loss_names())}"
            )
        for item in [*self.options, *(item for items in self.options_of.values() for item in items)]:
            if not isinstance(item, str):
                raise ValueError(f"`options` must hold strings KEY=VALUE, got {item!r}.")
            key = item.partition("=")[0]
            if key in _OWN:
                raise ValueError(f"`options` must not set {key}; set `{_OWN[key]}` of the sweep.")
            parse_options([item])
        tuned = {SHORT_NAMES.get(key, key) for key in self.tune}
        twice = tuned & {item.partition("=")[0] for item in self.options}
        if twice:
            raise ValueError(f"`options` must not set what `tune` does, got {', '.join(sorted(twice))}.")

    def _loss_names(self) -> list[str]:
        return [*self.losses, *(parse_loss(loss)[0] for loss in self.losses)]

    def of_loss(self, table: Mapping[str, Any], loss: str) -> Any:
        """Return the entry of ``tune_losses`` or ``options_of`` for a loss: by its whole text, or its name.

        >>> sweep = Sweep("a", ["a.py"], ["focal:gamma=1"], epochs=1, metric="mIoU")
        >>> sweep.of_loss({"focal": ["a=1"]}, "focal:gamma=1")
        ['a=1']
        """
        return table.get(loss, table.get(parse_loss(loss)[0], ()))

    def values(self, loss: str) -> dict[str, Sequence[Any]]:
        """Return the tuned settings of a loss with their values.

        >>> tune = {"lr": [0.1, 1.0]}
        >>> own = {"outlying_mse": {"alpha": [1, 6]}}
        >>> sweep = Sweep("a", ["a.py"], ["outlying_mse"], 1, "mIoU", tune=tune, tune_losses=own)
        >>> sweep.values("outlying_mse")
        {'lr': [0.1, 1.0], 'alpha': [1, 6]}
        """
        return {**self.tune, **dict(self.of_loss(self.tune_losses, loss) or {})}

    def grid(self, loss: str) -> list[dict[str, Any]]:
        """Return all points of a loss, the last setting changing fastest.

        >>> Sweep("a", ["a.py"], ["ce"], 1, "mIoU", tune={"lr": [0.1, 1.0]}).grid("ce")
        [{'lr': 0.1}, {'lr': 1.0}]
        """
        values = self.values(loss)
        return [dict(zip(values, point, strict=True)) for point in product(*values.values())]

    def number_of_points(self) -> int:
        """Return the number of points that every loss tries.

        >>> Sweep("a", ["a.py"], ["ce"], 1, "mIoU", tune={"lr": [0.1, 1.0]}).number_of_points()
        2
        """
        sizes = [prod(len(values) for values in self.values(loss).values()) for loss in self.losses]
        return min(sizes) if self.points is None else self.points

    def tuning_rungs(self) -> list[Mapping[str, int]]:
        """Return the rungs; one of the whole length if the file has none; none without anything to tune.

        >>> Sweep("a", ["a.py"], ["ce"], 7, "mIoU", tune={"lr": [0.1, 1.0]}).tuning_rungs()
        [{'epochs': 7, 'keep': 1}]
        """
        if not self.tune and not self.tune_losses:
            return []
        return list(self.rungs) or [{self.unit: self.length, "keep": 1}]


def find_sweep(name: str) -> Path:
    """Return the sweep file ``name``, or the one of mmseol with this name.

    >>> find_sweep("sweeps/digits.py").name
    'digits.py'

    Raises:
        FileNotFoundError: If there is neither.
    """
    if Path(name).is_file():
        return Path(name)
    folder = Path(find_config("quickstart/digits.py")).parents[1]
    for path in (folder / name.removeprefix("configs/"), folder / "sweeps" / name):
        if path.is_file():
            return path
    known = [f"sweeps/{path.name}" for path in sorted((folder / "sweeps").glob("*.py"))]
    raise FileNotFoundError(
        f"`file` must be a sweep file or one of mmseol ({', '.join(known)}), got {name!r}."
        f"{_nearest(name, known)}"
    )


def read_sweep(path: str | Path, check: bool = True) -> Sweep:
    """Return the sweep of a file, with its names checked: configs, losses, arguments, imbalances.

    >>> read_sweep(find_sweep("sweeps/digits.py")).metric
    'accuracy'

    Args:
        path: Sweep file.
        check: Whether configs and losses are looked up.

    Raises:
        ValueError: If a line is no assignment of a literal, a name is unknown or a value is invalid.
        FileNotFoundError: If there is no such file or config.
    """
    path = Path(path)
    assigned = _assignments(path)
    if "iterations" in assigned:
        assigned.setdefault("epochs", None)
    known = {one.name: one for one in fields(Sweep) if one.name not in ("name", "note")}
    for name in assigned:
        if name not in known:
            raise ValueError(
                f"{path}: `{name}` is no field of a sweep.{_nearest(name, known)} "
                f"The fields are {', '.join(known)}."
            )
    missing = [
        name
        for name, one in known.items()
        if one.default is MISSING and one.default_factory is MISSING and name not in assigned
    ]
    if missing:
        raise ValueError(f"{path}: `{missing[0]}` must be given; a sweep needs {', '.join(missing)}.")
    note = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    try:
        sweep = Sweep(name=path.stem, note=note, **assigned)
        if check:
            _check_names(sweep)
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"{path}: {error}") from error
    return sweep


def _assignments(path: Path) -> dict[str, Any]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg}") from error
    found: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # the docstring
        where = f"{path}, line {node.lineno}"
        if not (isinstance(node, ast.Assign) and len(node.targets) == 1):
            raise ValueError(f"{where}: a sweep file holds assignments `name = value` alone.")
        name = getattr(node.targets[0], "id", None)
        try:
            value = ast.literal_eval(node.value)
        except ValueError as error:
            raise ValueError(
                f"{where}: `{name}` must be a literal (numbers, strings, lists, {{...}}); "
                "nothing is executed."
            ) from error
        if name is None or name in found:
            raise ValueError(f"{where}: each name is assigned once, got {ast.unparse(node.targets[0])}.")
        found[name] = value
    return found


def _check_names(sweep: Sweep) -> None:
    """Look up configs, imbalances, losses and their tuned arguments."""
    for imbalance in sweep.imbalances:
        if imbalance is not None:
            parse_imbalance(imbalance)
    for config in sweep.configs:
        cfg = Config.fromfile(find_config(config))
        unit = "epochs" if cfg.train_cfg.get("by_epoch") or "max_epochs" in cfg.train_cfg else "iterations"
        if unit != sweep.unit:
            raise ValueError(
                f"`configs`: {config!r} trains by {unit}. Give `{unit} = ...`, here and in `rungs`, in place "
                f"of `{sweep.unit}`; a sweep has configs of one kind."
            )
        losses = known_losses(cfg)
        for loss in sweep.losses:
            own = [key for key in sweep.values(loss) if "." not in key and key not in SHORT_NAMES]
            for key in own:
                for value in sweep.values(loss)[key]:
                    resolved_loss(with_arguments(loss, {key: value}), losses)
            resolved_loss(loss, losses)


def with_arguments(loss: str, values: Mapping[str, Any]) -> str:
    """Return the text of a loss with further arguments, which replace those that it has.

    >>> with_arguments("outlying_mse:alpha=1,ties=dense", {"alpha": 6})
    'outlying_mse:alpha=6,ties=dense'
    """
    name, arguments = parse_loss(loss)
    arguments = {**arguments, **values}
    text = ",".join(f"{key}={_as_text(value)}" for key, value in arguments.items())
    return f"{name}:{text}" if text else name


def _as_text(value: Any) -> str:
    return repr(value).replace(" ", "").replace("'", "") if isinstance(value, (list, tuple)) else str(value)


def _check_list(name: str, value: Any, empty: bool = False) -> None:
    if not isinstance(value, (list, tuple)) or not (value or empty):
        raise ValueError(f"`{name}` must be a list with at least one entry, got {value!r}.")
    texts = [repr(item) for item in value]
    if len(set(texts)) < len(texts):
        raise ValueError(f"`{name}` must hold each entry once, got {value!r}.")


def _nearest(name: str, known: Any) -> str:
    found = get_close_matches(name, list(known), n=1)
    return f" Did you mean {found[0]}?" if found else ""
