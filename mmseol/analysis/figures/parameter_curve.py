"""Validation score of a loss by one of its parameters: numbers and a picture."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmseol.analysis.tabulation.run_text import length_text
from mmseol.analysis.tabulation.text_table import spread
from mmseol.utils.files import replacing

__all__ = ["draw_curve", "parameter_curve", "value_sweep"]


def value_sweep(
    config: str, loss: str, parameter: str, values: Sequence[float], question: str, **fields: Any
) -> str:
    """Return the text of a sweep file with a loss for each value of a parameter, scored on validation data.

    >>> text = value_sweep("camvid/fastfcn_r18.py", "outlying_mse", "alpha", [1, 6], "Which?", epochs=16)
    >>> text.splitlines()[3:]
    ["losses = ['outlying_mse:alpha=1', 'outlying_mse:alpha=6']", "split = 'val'", 'epochs = 16']

    Args:
        config: Config file, or a config of mmseol.
        loss: Loss, with its other arguments.
        parameter: Argument of the loss.
        values: Its values.
        question: Docstring of the file.
        fields: Further fields of the sweep; ``None`` leaves one out.

    Raises:
        ValueError: If there are fewer than two values, or one is there twice.
    """
    if len(set(values)) < 2 or len(set(values)) < len(values):
        raise ValueError(f"`values` must be at least two different numbers, got {list(values)}.")
    colon = "," if ":" in loss else ":"
    losses = [f"{loss}{colon}{parameter}={value:g}" for value in values]
    fields = {"configs": [config], "losses": losses, "split": "val", **fields}
    lines = [f"{name} = {value!r}" for name, value in fields.items() if value is not None]
    return "\n".join([f'"""{question}"""', "", *lines, ""])


def parameter_curve(record: Mapping[str, Any], parameter: str, metric: str | None = None) -> dict[str, Any]:
    """Return the score of every value of a parameter, by seed, for every loss and cut that has several.

    >>> def run(alpha, scores):
    ...     return {"loss": f"outlying_mse:alpha={alpha}", "config": "a.py", "imbalance": None,
    ...             "split": "val", "epochs": 5, "seeds": [1, 2], "scores": {"last": {"mIoU": scores}},
    ...             "chosen": {"metric": "mIoU", "values": {"lr": 0.1}}}
    >>> record = {"checkpoint": "last", "runs": [run(6, [40.0, 44.0]), run(1, [30.0, 31.0])]}
    >>> curve = parameter_curve(record, "alpha")["curves"][0]
    >>> [(point["value"], point["mean"]) for point in curve["points"]], curve["best"]
    ([(1, 30.5), (6, 42.0)], 6)

    Args:
        record: Record of :func:`mmseol.analysis.sweep_record.sweep_record`.
        parameter: Argument of the loss, in ``NAME:parameter=value``.
        metric: Score; ``None`` is the one that chooses on validation data.

    Raises:
        ValueError: If a run is of the test split, which chooses nothing, or fewer than two values were run.
    """
    curves: dict[Any, dict[str, Any]] = {}
    for run in record["runs"]:
        name, value = _split(run["loss"], parameter)
        if value is None:
            continue
        if run["split"] != "val":
            raise ValueError(
                f"`record` must have scores of validation data, got those of {run['split']} of "
                f"{run['loss']!r}: a value that is chosen on the test split cannot be scored there."
            )
        score = metric or (run["chosen"] or {}).get("metric") or _headline(run, record)
        scores = run["scores"][record["checkpoint"]].get(score)
        if not scores:
            raise ValueError(f"`metric` must be a score of the runs, got {score!r}.")
        key = name, run["config"], run["imbalance"], length_text(run)
        curve = curves.setdefault(
            key,
            dict(zip(("loss", "config", "imbalance", "length"), key, strict=True))
            | {"metric": score, "points": []},
        )
        curve["points"].append(
            {
                "value": value,
                "mean": round(float(np.mean(scores)), 2),
                "std": round(float(np.std(scores, ddof=1)), 2) if len(scores) > 1 else None,
                "scores": dict(zip(map(str, run["seeds"]), scores, strict=True)),
                "settings": (run["chosen"] or {"values": {}})["values"],
            }
        )
    found = [curve for curve in curves.values() if len(curve["points"]) > 1]
    if not found:
        raise ValueError(f"`record` must have runs of several values of `{parameter}`, got none.")
    for curve in found:
        curve["points"].sort(key=lambda point: point["value"])
        curve["best"] = max(curve["points"], key=lambda point: point["mean"])["value"]
    return {"parameter": parameter, "checkpoint": record["checkpoint"], "curves": found}


def _split(loss: str, parameter: str) -> tuple[str, float | int | None]:
    """Return the loss without the parameter, and the parameter's value."""
    name, _, arguments = loss.partition(":")
    items = [item for item in re.split(r",(?=\w+=)", arguments) if item]
    value = next((item.partition("=")[2] for item in items if item.partition("=")[0] == parameter), None)
    others = [item for item in items if item.partition("=")[0] != parameter]
    try:
        number = None if value is None else float(value)
    except ValueError:
        return loss, None
    if number is not None and number.is_integer():
        number = int(number)
    return name + (f":{','.join(others)}" if others else ""), number


def _headline(run: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    scores = run["scores"][record["checkpoint"]]
    return "mIoU" if run.get("task") == "segmentation" else next(iter(scores), "accuracy")


def draw_curve(path: str | Path, curves: Mapping[str, Any], title: str = "") -> Path:
    """Save a picture of curves: mean over seeds as a line, each seed as a dot, the standard deviation shaded.

    The axis of the parameter is logarithmic where its values are more evenly spaced that way.

    >>> import tempfile
    >>> points = [{"value": v, "mean": v, "std": 1.0, "scores": {"1": v}} for v in (1, 2)]
    >>> curve = {"loss": "outlying_mse", "imbalance": None, "metric": "mIoU", "points": points, "best": 2}
    >>> path = Path(tempfile.mkdtemp()) / "curve.png"
    >>> draw_curve(path, {"parameter": "alpha", "curves": [curve]}).name
    'curve.png'

    Args:
        path: PNG file; an existing one is replaced.
        curves: Result of :func:`parameter_curve`.
        title: Text above the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    ticks = sorted({point["value"] for curve in curves["curves"] for point in curve["points"]})
    metrics = dict.fromkeys(curve["metric"] for curve in curves["curves"])
    for number, curve in enumerate(curves["curves"]):
        color = f"C{number}"
        values = [point["value"] for point in curve["points"]]
        means = np.array([point["mean"] for point in curve["points"]])
        spreads = np.array([point["std"] or 0.0 for point in curve["points"]])
        axis.fill_between(values, means - spreads, means + spreads, color=color, alpha=0.18, linewidth=0)
        axis.plot(values, means, color=color, marker="o", markersize=4, label=_label(curve))
        for point in curve["points"]:
            seeds = list(point["scores"].values())
            axis.plot([point["value"]] * len(seeds), seeds, ".", color=color, alpha=0.5, markersize=5)
        best = next(point for point in curve["points"] if point["value"] == curve["best"])
        axis.plot(best["value"], best["mean"], marker="o", markersize=11, fillstyle="none", color=color)
    if ticks[0] > 0 and _unevenness(np.log(ticks).tolist()) < _unevenness(ticks):
        axis.set_xscale("log")
    shown = ticks if len(ticks) <= 12 else ticks[:: -(-len(ticks) // 12)]
    axis.xaxis.set_major_locator(FixedLocator(shown))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_xlabel(curves["parameter"])
    axis.set_ylabel(f"validation {', '.join(metrics)}, per cent")
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    if title:
        axis.set_title(title, fontsize=10)
    axis.legend(frameon=False, fontsize=9)
    path = Path(path)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=150)
    return path


def _unevenness(values: Sequence[float]) -> float:
    """Return the coefficient of variation of the distances, rounded: equal distances give 0."""
    distances = np.diff(values)
    return round(float(np.std(distances) / np.mean(distances)), 6)


def _label(curve: Mapping[str, Any]) -> str:
    best = next(point for point in curve["points"] if point["value"] == curve["best"])
    where = f", {curve['imbalance']}" if curve["imbalance"] else ""
    return f"{curve['loss']}{where}: {spread(list(best['scores'].values()))} at {curve['best']:g} (circle)"
