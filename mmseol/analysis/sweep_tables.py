"""Tables of the compact record of a sweep: scores, comparisons, runs, tuning, classes.

No score is bold. With a handful of seeds several losses share the first place, and which of them is highest
changes with the seeds. Rows are sorted by the first score; the difference to one reference carries its
interval.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mmseol.analysis.paper import network_of
from mmseol.analysis.records import SCORES, SEG_SCORES
from mmseol.analysis.text_table import TextTable, spread
from mmseol.utils.text import first_few

__all__ = [
    "class_tables",
    "comparison_tables",
    "differences",
    "network_text",
    "score_tables",
    "setting_tables",
    "tuning_tables",
    "values_text",
    "weight_decay_text",
]

_MOST_CLASSES = 20
_SHORT = {"optim_wrapper.optimizer.lr": "lr", "optim_wrapper.optimizer.weight_decay": "wd"}
_NO_BOLD = (
    "No score is bold: where an interval covers 0, the order of the two losses may change with other images "
    "or seeds."
)
Run = Mapping[str, Any]


def values_text(values: Mapping[str, Any]) -> str:
    """Return settings as ``lr 0.1, wd 0.0005``.

    >>> values_text({"optim_wrapper.optimizer.lr": 0.1, "alpha": 6})
    'lr 0.1, alpha 6'
    """
    return ", ".join(f"{_SHORT.get(name, name)} {_number(value)}" for name, value in values.items())


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def _setting(run: Run, short: str) -> str:
    """Return a setting of the optimizer: chosen on validation, an option, or the config's."""
    chosen = (run["chosen"] or {"values": {}})["values"]
    for name, value in chosen.items():
        if _SHORT.get(name, name) == short:
            return _number(value)
    for option in run["options"]:
        name, _, value = str(option).partition("=")
        if _SHORT.get(name) == short:
            return value
    value = run["settings"].get({"wd": "weight_decay"}.get(short, short))
    return "config's" if value is None else _number(value)


def weight_decay_text(run: Run) -> str:
    """Return the weight decay of a run, ``"config's"`` where the record does not say it.

    >>> weight_decay_text({"chosen": {"values": {"wd": 5e-4}}, "options": [], "settings": {}})
    '0.0005'
    """
    return _setting(run, "wd")


def network_text(run: Run) -> str:
    """Return the network of the config, with the options that change the model.

    >>> network_text({"config": "cifar/resnet34_cifar10.py", "options": ["model.backbone.depth=18", "a.b=1"]})
    'resnet34 (backbone.depth=18)'
    """
    changed = [str(option).removeprefix("model.") for option in run["options"] if _is_model(option)]
    return network_of(run["config"]) + (f" ({', '.join(changed)})" if changed else "")


def _is_model(option: Any) -> bool:
    return str(option).startswith("model.") and not re.match(
        r"model\.(.*\.)?(loss|loss_decode)\.", str(option)
    )


def _kind_text(kind: str) -> str:
    return {"last": "last epoch", "best_on_validation": "best epoch on validation data"}[kind]


def _groups(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    """Return the runs by config and split."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run["config"], run["split"]].append(run)
    return groups


def _headings(runs: Sequence[Run]) -> dict[str, str]:
    return SEG_SCORES if runs[0]["task"] == "segmentation" else SCORES


def _cut(run: Run) -> str:
    return run["imbalance"] or "as configured"


def _label(run: Run, runs: Sequence[Run]) -> str:
    """Return the loss, with the epochs or options that tell rows of the same loss apart."""
    same = [one for one in runs if one["loss"] == run["loss"] and one["imbalance"] == run["imbalance"]]
    if len({one["epochs"] for one in same}) > 1:
        return f"{run['loss']}, {run['epochs']} epochs"
    if len(same) > 1:
        return (
            f"{run['loss']} ({values_text((run['chosen'] or {'values': {}})['values']) or 'options differ'})"
        )
    return run["loss"]


def differences(runs: Sequence[Run], environments: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for everything that should be equal in a table and is not.

    >>> run = {"loss": "ce", "imbalance": None, "epochs": 20, "split": "val", "seeds": [1], "versions": ["a"],
    ...        "environments": [0], "data": ["d"], "subset": [], "config": "a.py"}
    >>> differences([run, {**run, "loss": "mse", "epochs": 40}], [{"device": "2 CPU cores"}])
    ['Epochs differ: 20 (ce), 40 (mse).']
    """
    kinds: dict[str, Callable[[Run], list[Any]]] = {
        "Epochs": lambda run: [run["epochs"]],
        "Splits": lambda run: [run["split"]],
        "Seeds": lambda run: [", ".join(map(str, run["seeds"]))],
        "Code versions": lambda run: run["versions"],
        "Devices": lambda run: [environments[i].get("device") for i in run["environments"]],
        "Versions of torch": lambda run: [
            (environments[i].get("versions") or {}).get("torch") for i in run["environments"]
        ],
    }
    notes = []
    for name, values_of in kinds.items():
        notes += _differing(name, [(value, run["loss"]) for run in runs for value in values_of(run)])
    cuts: dict[Any, list[Run]] = defaultdict(list)
    for run in runs:
        cuts[run["config"], run["imbalance"]].append(run)
    for own in cuts.values():
        for name, key in (("Data", "data"), ("Training subsets", "subset")):
            notes += _differing(name, [(digest[:8], run["loss"]) for run in own for digest in run[key]])
    return notes


def _differing(name: str, pairs: Iterable[tuple[Any, str]]) -> list[str]:
    losses: dict[Any, dict[str, None]] = defaultdict(dict)
    for value, loss in pairs:
        losses[value][loss] = None
    if len(losses) < 2:
        return []
    parts = [f"{value} ({first_few(names)})" for value, names in losses.items()]
    return [f"{name} differ: {first_few(parts)}."]


def score_tables(record: Mapping[str, Any]) -> list[TextTable]:
    """Return a table for each config and split: losses in rows, scores in columns; several cuts side by side.

    Args:
        record: Record of :func:`mmseol.analysis.sweep_record.sweep_record`.

    >>> score_tables({"runs": [], "comparisons": [], "environments": [], "checkpoint": "last", "title": ""})
    []
    """
    groups = _groups(record["runs"])
    tables = []
    for (config, split), runs in groups.items():
        cuts = list(dict.fromkeys(_cut(run) for run in runs))
        one = len(cuts) == 1
        headings = _headings(runs)
        names = [name for name in headings if any(name in _shown(run, record) for run in runs)]
        names = names if one else names[:2]
        columns = [(name, cut) for name in names for cut in cuts]
        rows: dict[str, dict[str, Run]] = defaultdict(dict)
        for run in runs:
            rows[_label(run, runs)][_cut(run)] = run
        order = sorted(rows, key=lambda label: -_mean(rows[label].get(cuts[0]), names[0], record))
        compared = {
            (c["loss"], c["epochs"], str(c["imbalance"]), str(c["values"])): c
            for c in record["comparisons"]
            if (c["config"], c["split"], c["score"]) == (config, split, names[0])
        }
        reference, level = next(((c["reference"], c["level"]) for c in compared.values()), (None, 0.0))
        lines = []
        for label in order:
            own = rows[label]
            seeds = " / ".join(dict.fromkeys(str(len(run["seeds"])) for run in own.values()))
            line = [label, _chosen_text(list(own.values())), seeds]
            line += [_cell(own.get(cut), name, record) for name, cut in columns]
            if reference and one:
                line.append(_difference_text(_compared(own[cuts[0]], compared), own[cuts[0]], reference))
            if any(run["scores"]["best_on_test"] for run in runs):
                line += [_cell(own.get(cut), names[0], record, "best_on_test") for cut in cuts]
            lines.append(line)
        texts = [headings[name] + ("" if one else f", {cut}") for name, cut in columns]
        texts += [f"Δ {headings[names[0]]} to {reference} [{100 * level:g} %]"] if reference and one else []
        if any(run["scores"]["best_on_test"] for run in runs):
            texts += [
                f"{headings[names[0]]}{'' if one else f', {cut}'}, best epoch on test, as peers print it"
                for cut in cuts
            ]
        epochs = {run["epochs"] for run in runs}
        what = [f"{runs[0]['epochs']} epochs"] if len(epochs) == 1 else []
        what += dict.fromkeys(network_text(run) for run in runs)
        notes = [
            f"{split.capitalize()} split, {_kind_text(record['checkpoint'])}, per cent, mean and standard "
            f"deviation over seeds; {', '.join(what)}."
        ]
        if reference and one:
            notes.append(
                f"Δ is the difference to {reference} on the same seeds and images, with the bootstrap "
                f"interval over images, for these trained networks. {_NO_BOLD}"
            )
        notes += differences(runs, record["environments"])
        title = f"{network_of(config)}, {split} split" if len(groups) > 1 else ""
        tables.append(TextTable(title, ["loss", "chosen", "seeds", *texts], lines, notes, left=2))
    return tables


def _shown(run: Run, record: Mapping[str, Any], kind: str | None = None) -> Mapping[str, list[float]]:
    return run["scores"].get(kind or record["checkpoint"]) or {}


def _mean(run: Run | None, name: str, record: Mapping[str, Any]) -> float:
    values = _shown(run, record).get(name) if run else None
    return float(np.mean(values)) if values else -1.0


def _cell(run: Run | None, name: str, record: Mapping[str, Any], kind: str | None = None) -> str:
    if run is None:
        return "no runs"
    values = _shown(run, record, kind).get(name)
    return spread(values) if values else "not scored"


def _chosen_text(runs: Sequence[Run]) -> str:
    texts = dict.fromkeys(values_text((run["chosen"] or {"values": {}})["values"]) for run in runs)
    return " / ".join(texts) or "-"


def _compared(run: Run, compared: Mapping[Any, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    values = (run["chosen"] or {"values": {}})["values"]
    return compared.get((run["loss"], run["epochs"], str(run["imbalance"]), str(values)))


def _difference_text(comparison: Mapping[str, Any] | None, run: Run, reference: str) -> str:
    if comparison is None:
        return "reference" if run["loss"] == reference else "-"
    interval = comparison["images"]
    return f"{comparison['difference']:+.1f}" + (f" {_interval(interval)}" if interval else "")


def _interval(ends: Sequence[float]) -> str:
    return f"[{ends[0]:+.1f}, {ends[1]:+.1f}]"


def comparison_tables(record: Mapping[str, Any]) -> list[TextTable]:
    """Return a table of the paired differences to the reference, with the intervals over images and seeds.

    >>> row = {"config": "a.py", "imbalance": None, "split": "test", "epochs": 1, "loss": "mse", "values": {},
    ...        "reference": "ce", "score": "accuracy", "level": 0.95, "seeds": [1, 2, 3], "difference": -1.5,
    ...        "images": [-2.5, -0.5], "resamples": 2000, "training": [-4.0, 1.0], "p": 0.12}
    >>> comparison_tables({"comparisons": [row]})[0].rows[0][3:]
    ['-1.5', '[-2.5, -0.5]', '[-4.0, +1.0]', '3']
    """
    rows = record["comparisons"]
    if not rows:
        return []
    several = len({(row["config"], row["imbalance"], row["split"], row["epochs"]) for row in rows}) > 1
    lines = []
    for row in rows:
        where = [f"{network_of(row['config'])}, {row['imbalance'] or row['split']}, {row['epochs']} epochs"]
        lines.append(
            [
                *(where if several else []),
                row["loss"],
                row["reference"],
                {**SEG_SCORES, **SCORES}.get(row["score"], row["score"]),
                f"{row['difference']:+.1f}",
                _interval(row["images"]) if row["images"] else "no predictions",
                _interval(row["training"]) if row["training"] else "one seed",
                str(len(row["seeds"])),
            ]
        )
    level = f"{100 * rows[0]['level']:g} %"
    headings = ["loss", "reference", "score", "Δ", f"images [{level}]", f"seeds [{level}]", "seeds"]
    number = max(row["resamples"] or 0 for row in rows)
    notes = [
        f"Δ: mean difference on the same seeds and images. Images: percentile interval over {number} paired "
        "resamples of the images, for these trained networks. Seeds: paired t interval over seeds; with 2 "
        "seeds it is 12.7 standard errors wide to each side, with 3 4.3. Each interval is of one comparison: "
        f"of {len(rows)}, about {(1 - rows[0]['level']) * len(rows):.1f} miss the true difference by chance."
    ]
    return [TextTable("", [*(["run"] if several else []), *headings], lines, notes, left=4 if several else 3)]


def setting_tables(record: Mapping[str, Any]) -> list[TextTable]:
    """Return a table of what was run: network, cut, epochs, settings, seeds, time and memory of each row.

    >>> setting_tables({"runs": [], "environments": []})
    []
    """
    runs = record["runs"]
    if not runs:
        return []
    lines = []
    for run in runs:
        chosen = run["chosen"] or {"values": {}}
        others = {k: v for k, v in chosen["values"].items() if _SHORT.get(k, k) not in ("lr", "wd")}
        border = chosen.get("at_border") or []
        hours = run.get("seconds")
        lines.append(
            [
                *(run["loss"], network_text(run), _cut(run), run["split"], str(run["epochs"])),
                _setting(run, "lr"),
                weight_decay_text(run),
                values_text(others) or "-",
                ", ".join(_SHORT.get(name, name) for name in border) or "-",
                ", ".join(map(str, run["seeds"])),
                "-" if hours is None else f"{hours / 60:.1f}",
                f"{run['memory']:.1f}" if run.get("memory") else "-",
            ]
        )
    headings = ["loss", "network", "cut", "split", "epochs", "learning rate", "weight decay", "other"]
    headings += ["at the grid's border", "seeds", "minutes a run", "memory, GB"]
    return [TextTable("", headings, lines, differences(runs, record["environments"]), left=4)]


def class_tables(record: Mapping[str, Any]) -> list[TextTable]:
    """Return the recall, or IoU, of each class, for each config and cut of at most 20 classes.

    >>> class_tables({"runs": [], "checkpoint": "last"})
    []
    """
    groups: dict[Any, list[Run]] = defaultdict(list)
    for run in record["runs"]:
        groups[run["config"], run["imbalance"], run["split"]].append(run)
    tables = []
    for (config, imbalance, split), runs in groups.items():
        found = [run["per_class"].get(record["checkpoint"]) or {} for run in runs]
        name = next((name for own in found for name in own), None)
        classes = runs[0]["classes"]
        if name is None or len(classes) > _MOST_CLASSES:
            continue
        rows = []
        for run, own in zip(runs, found, strict=True):
            values = [[v for v in own.get(name, {}).get(k) or [] if v is not None] for k in classes]
            rows.append([_label(run, runs), *(f"{np.mean(v):.1f}" if v else "-" for v in values)])
        counts = runs[0]["counts"]
        if counts:
            numbers = counts.values() if isinstance(counts, Mapping) else counts
            rows.insert(0, ["training samples", *(f"{number:,}" for number in numbers)])
        title = f"{network_of(config)}, {imbalance or split}" if len(groups) > 1 else ""
        tables.append(TextTable(title, [f"{name} in per cent", *classes], rows))
    return tables


def tuning_tables(record: Mapping[str, Any]) -> list[TextTable]:
    """Return the validation scores of the tuning stage: losses in rows, learning rates in columns.

    Points of further settings have rows of their own, and so has every rung. The score chosen from is the
    mean over the tuning seeds.

    >>> point = {"config": "a.py", "imbalance": None, "loss": "ce", "rung": 0, "epochs": 5,
    ...          "metric": "mIoU", "values": {"lr": 0.1}, "scores": {"1": 40.0}}
    >>> table = tuning_tables({"tuning": [point, {**point, "values": {"lr": 1.0}, "scores": {"1": None}}]})[0]
    >>> table.headings, table.rows
    (['loss', 'epochs', 'lr 0.1', 'lr 1'], [['ce', '5', '40.0', 'diverged']])
    """
    groups: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for point in record["tuning"]:
        groups[point["config"], point["imbalance"]].append(point)
    tables = []
    for (config, imbalance), points in groups.items():
        rates = sorted({rate for rate in map(_rate, points) if rate is not None})
        rows: dict[tuple[str, int, str], dict[float | None, str]] = defaultdict(dict)
        for point in points:
            others = {k: v for k, v in point["values"].items() if _SHORT.get(k, k) != "lr"}
            scores = list(point["scores"].values())
            text = "diverged" if None in scores else spread(scores)
            rows[point["loss"], point["epochs"], values_text(others)][_rate(point)] = text
        further = any(others for _, _, others in rows)
        rates_or_none: list[float | None] = [*rates] or [None]
        lines = [
            [loss, *([others or "-"] if further else []), str(epochs)]
            + [cells.get(rate, "") for rate in rates_or_none]
            for (loss, epochs, others), cells in sorted(rows.items())
        ]
        headings = ["loss", *(["with"] if further else []), "epochs"]
        headings += [f"lr {rate:g}" for rate in rates] or [f"validation {points[0]['metric']}"]
        note = f"Validation {points[0]['metric']} in per cent, at the end of the tuning run."
        title = f"{network_of(config)}, {imbalance or 'as configured'}" if len(groups) > 1 else ""
        tables.append(TextTable(title, headings, lines, [note], left=2 if further else 1))
    return tables


def _rate(point: Mapping[str, Any]) -> float | None:
    return next((v for k, v in point["values"].items() if _SHORT.get(k, k) == "lr"), None)
