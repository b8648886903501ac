"""Figures of what the outlying label does, each from its record of ``analyze outlying-label``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mmseol.analysis.figures.style import PALETTE, class_styles, loss_styles, new_figure, order_by_count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "draw_alpha",
    "draw_class_means",
    "draw_decisions",
    "draw_estimates",
    "draw_gradients",
    "draw_held_out",
    "draw_nearest_target",
]

_TITLES = {
    "ce": "cross entropy",
    "mse": "one-hot MSE",
    "outlying_mse": "outlying MSE",
    "balanced_softmax": "balanced softmax",
    "vs": "VS loss",
    "weighted_ce_inverse_frequency": "weighted cross entropy",
    "logit_adjusted": "logit adjusted",
    "balanced_accuracy": "balanced accuracy",
}
_GAINS = {"by cross-validation": "o", "held out, tuned": "^", "held out, P / n": "s"}
_DECISIONS = ("argmax", "P", "P * rank", "P / n", "nearest target")


def _late(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of trained networks; of early ones where there are no others."""
    rows = [row for row in record["rows"] if ", late" in row["data"]]
    return rows or list(record["rows"])


def _title(name: str) -> str:
    return _TITLES.get(name, name.replace("_", " "))


def draw_estimates(record: Mapping[str, Any]) -> Figure:
    """Return reliability curves: one panel for each data set and loss, one line for each class.

    >>> curve = {"estimate": [[0.1, 0.9], [0.0, 0.5]], "frequency": [[0.1, 0.8], [0.0, 0.6]]}
    >>> len(draw_estimates({"curves": {"digits, late: ce": curve}, "rows": []}).axes)
    1
    """
    names = [name for name in record["curves"] if ", late" in name] or list(record["curves"])
    data = list(dict.fromkeys(name.partition(":")[0] for name in names))
    columns = max(sum(name.startswith(f"{own}:") for name in names) for own in data) if data else 1
    with new_figure(2.5 * columns + 0.6, 2.6 * max(1, len(data)) + 0.3) as figure:
        panels = figure.subplots(max(1, len(data)), columns, squeeze=False)
        for row, own in zip(panels, data, strict=False):
            mine = [name for name in names if name.startswith(f"{own}:")]
            for panel, name in zip(row, mine, strict=False):
                curve = record["curves"][name]
                styles = class_styles(-np.arange(len(curve["estimate"])))
                for style, x, y in zip(styles, curve["estimate"], curve["frequency"], strict=True):
                    panel.plot(x, y, markersize=3, linewidth=1, **style)
                panel.plot([0, 1], [0, 1], color="black", linestyle=":", linewidth=1)
                panel.set(xlim=(-0.25, 1.25), ylim=(-0.05, 1.05))
                panel.set_title(f"{_title(own.partition(',')[0])}: {_title(name.partition(': ')[2])}")
                panel.set_xlabel("estimate of P(k | x)")
            row[0].set_ylabel("frequency of class k")
            for panel in row[len(mine) :]:
                panel.set_visible(False)
        figure.supxlabel("one line for each class, first colour: most frequent; dotted: as said", fontsize=8)
    return figure


def draw_decisions(record: Mapping[str, Any]) -> Figure:
    """Return the score of each loss under each decision, with the standard deviation over seeds.

    >>> row = {"data": "digits, late", "loss": "ce", "score": "mIoU", "argmax": [40.0, 1.0], "P": [40.0, 1.0]}
    >>> len(draw_decisions({"rows": [row]}).axes)
    1
    """
    return _dots(list(record["rows"]), lambda row: _title(row["loss"]), "loss")


def draw_nearest_target(record: Mapping[str, Any]) -> Figure:
    """Return the score of the decisions of outlying outputs.

    >>> row = {"data": "digits, late", "score": "mIoU", "argmax": [40.0, None], "nearest target": [3.0, None]}
    >>> len(draw_nearest_target({"rows": [row]}).axes)
    1
    """
    return _dots(list(record["rows"]), lambda row: "outlying MSE", "outlying_mse")


def _dots(rows: list[dict[str, Any]], label: Any, loss: str) -> Figure:
    data = list(dict.fromkeys(row["data"] for row in rows)) or [""]
    columns = min(3, len(data))
    lines = -(-len(data) // columns)
    with new_figure(max(5.5, 3.3 * columns), 2.7 * lines + 0.6) as figure:
        panels = figure.subplots(lines, columns, squeeze=False).ravel()
        styles = loss_styles([row.get("loss", loss) for row in rows])
        for panel, name in zip(panels, data, strict=False):
            mine = [row for row in rows if row["data"] == name]
            decisions = [d for d in _DECISIONS if any(d in row for row in mine)]
            for i, row in enumerate(mine):
                shown = [d for d in decisions if d in row]
                x = np.array([decisions.index(d) for d in shown]) + 0.12 * (i - (len(mine) - 1) / 2)
                style = {**styles[row.get("loss", loss)], "linestyle": "none"}
                spread = [row[d][1] or 0 for d in shown]
                panel.errorbar(x, [row[d][0] for d in shown], spread, markersize=5, label=label(row), **style)
            panel.set_xticks(range(len(decisions)), decisions, rotation=20)
            panel.set_title(_title(name))
            panel.set_ylabel(f"{_title(mine[0]['score'])}, %" if mine else "")
            panel.grid(axis="y", alpha=0.3)
        for panel in panels[len(data) :]:
            panel.set_visible(False)
        handles: dict[str, Any] = {}
        for panel in panels[: len(data)]:
            handles |= {text: handle for handle, text in zip(*panel.get_legend_handles_labels(), strict=True)}
        if handles:
            figure.legend(
                handles=list(handles.values()),
                labels=list(handles),
                loc="outside lower center",
                ncols=len(handles),
            )
    return figure


def draw_class_means(record: Mapping[str, Any]) -> Figure:
    """Return the mean own output of each class over its target, on training and on held-out data.

    >>> row = {"data": "digits, late, held-out data", "classes": ["a", "b"], "counts": [9, 1]}
    >>> len(draw_class_means({"rows": [{**row, "own output over target": [0.9, 0.2]}]}).axes)
    1
    """
    rows = _late(record)
    data = list(dict.fromkeys(row["data"].partition(",")[0] for row in rows)) or [""]
    with new_figure(3.4 * len(data) + 0.3, 2.9) as figure:
        panels = figure.subplots(1, len(data), sharey=True, squeeze=False)[0]
        for panel, name in zip(panels, data, strict=True):
            mine = [row for row in rows if row["data"].partition(",")[0] == name]
            for row, color, marker in zip(mine, (PALETTE[0], PALETTE[1]), ("o", "^"), strict=False):
                order = order_by_count(row["counts"])
                values = [row["own output over target"][k] for k in order]
                label = row["data"].rpartition(", ")[2]
                shown = [np.nan if value is None else value for value in values]
                panel.plot(shown, marker=marker, color=color, label=label)
                panel.set_xticks(range(len(order)), [row["classes"][k] for k in order], rotation=60)
            panel.axhline(1, color="black", linestyle=":", linewidth=1)
            panel.set_title(_title(name))
            panel.set_xlabel("class, most frequent first")
            panel.legend()
        panels[0].set_ylabel("mean own output / target")
        panels[0].set_ylim(bottom=0)
    return figure


def draw_gradients(record: Mapping[str, Any]) -> Figure:
    """Return the part of the gradient on true and wrong outputs, by class of the element.

    Data sets with one loss are left out if another has several.

    >>> row = {"data": "digits, late", "loss": "ce", "classes": ["a", "b"], "counts": [9, 1]}
    >>> row["fraction by class and output"] = [[0.25, 0.25], [0.25, 0.25]]
    >>> len(draw_gradients({"rows": [row]}).axes)
    1
    """
    losses_of: dict[str, set[str]] = {}
    for row in record["rows"]:
        losses_of.setdefault(row["data"], set()).add(row["loss"])
    several = [name for name, own in losses_of.items() if len(own) > 1] or list(losses_of)
    rows = [row for row in record["rows"] if row["data"] in several]
    data = several or [""]
    losses = list(dict.fromkeys(row["loss"] for row in rows)) or [""]
    with new_figure(2.6 * len(losses) + 0.6, 2.1 * len(data) + 0.8) as figure:
        panels = figure.subplots(len(data), len(losses), sharey="row", squeeze=False)
        for row in rows:
            panel = panels[data.index(row["data"]), losses.index(row["loss"])]
            order = order_by_count(row["counts"])
            mass = 100 * np.array(row["fraction by class and output"])[order][:, order]
            own = np.diag(mass)
            x = np.arange(len(order))
            panel.bar(x, own, color=PALETTE[0], label="on the true output")
            panel.bar(x, mass.sum(1) - own, bottom=own, color=PALETTE[4], label="on wrong outputs")
            samples = np.array(row["counts"])[order]
            panel.plot(x, 100 * samples / samples.sum(), "k_", markersize=9, label="training elements")
            panel.set_title(f"{_title(row['data'])}: {_title(row['loss'])}", fontsize=8)
            panel.set_xticks(x, [row["classes"][k] for k in order], rotation=60, fontsize=6)
        for panel in panels[:, 0]:
            panel.set_ylabel("% of the gradient")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        if handles:
            figure.legend(handles=handles, labels=labels, loc="outside lower center", ncols=3)
    return figure


def draw_held_out(record: Mapping[str, Any]) -> Figure:
    """Return the gain of the tuned decision over the argmax: by cross-validation, and on held-out data.

    >>> row = {"data": "digits, late", "loss": "ce", "score": "mIoU", "gain by cross-validation": [2.0, 1.0]}
    >>> row |= {f"held out, {name}": [41.0, 1.0] for name in ("argmax", "tuned", "P / n")}
    >>> len(draw_held_out({"rows": [row], "statements": []}).axes)
    1
    """
    rows = _late(record)
    data = list(dict.fromkeys(row["data"] for row in rows)) or [""]
    with new_figure(max(5.5, 3.4 * len(data) + 0.3), 3.4) as figure:
        panels = figure.subplots(1, len(data), squeeze=False)[0]
        for panel, name in zip(panels, data, strict=True):
            mine = [row for row in rows if row["data"] == name]
            for i, (title, marker) in enumerate(_GAINS.items()):
                for j, row in enumerate(mine):
                    gain, error = _gain(row, title, record["statements"])
                    style: Any = {"marker": marker, "color": PALETTE[i], "linestyle": "none", "markersize": 5}
                    label = title if j == 0 else None
                    panel.errorbar([j + 0.2 * (i - 1)], [gain], error, label=label, **style)
            panel.axhline(0, color="black", linewidth=1, linestyle=":")
            titles = [_title(row["loss"]) for row in mine]
            panel.set_xticks(range(len(mine)), titles, rotation=30, ha="right", rotation_mode="anchor")
            panel.set_title(_title(name.partition(",")[0]))
            panel.set_ylabel(f"gain in {_title(mine[0]['score'])}, points" if mine else "")
        handles, labels = panels[0].get_legend_handles_labels()
        if handles:
            figure.legend(handles=handles, labels=labels, loc="outside lower center", ncols=3)
    return figure


def _gain(row: Mapping[str, Any], title: str, statements: Sequence[Mapping[str, Any]]) -> tuple[float, Any]:
    """Return a gain, and the lengths of its interval over images if a statement has it."""
    if title not in row:
        return row["gain by cross-validation"][0], None
    value = row[title][0] - row["held out, argmax"][0]
    begin = "the tuned" if title.endswith("tuned") else "P / n"
    for one in statements:
        own = one["text"].startswith(begin) and one["text"].endswith(f": {_title(row['loss'])}")
        if own and one["data"] == row["data"]:
            low, high = one["images"]
            return value, [[max(0.0, value - low)], [max(0.0, high - value)]]
    return value, None


def draw_alpha(record: Mapping[str, Any]) -> Figure:
    """Return the validation accuracy over the learning rate for each alpha, one panel an optimizer.

    >>> row = {"optimizer": "SGD", "alpha": "auto", "rates": [0.1, 1.0], "validation by rate": [80.0, 70.0]}
    >>> len(draw_alpha({"rows": [row]}).axes)
    1
    """
    optimizers = list(dict.fromkeys(row["optimizer"] for row in record["rows"])) or [""]
    with new_figure(3.4 * len(optimizers) + 1.4, 3.0) as figure:
        panels = figure.subplots(1, len(optimizers), sharey=True, squeeze=False)[0]
        for panel, name in zip(panels, optimizers, strict=True):
            mine = [row for row in record["rows"] if row["optimizer"] == name]
            for row, style in zip(mine, class_styles(-np.arange(len(mine))), strict=True):
                label = f"alpha {row['alpha']}"
                panel.plot(row["rates"], row["validation by rate"], label=label, markersize=4, **style)
            panel.set_xscale("log")
            panel.set_title(_title(name))
            panel.set_xlabel("learning rate")
        panels[0].set_ylabel("validation accuracy, %")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles=handles, labels=labels, loc="outside right center")
    return figure
