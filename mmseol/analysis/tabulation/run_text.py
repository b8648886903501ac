"""What the runs of a table were: network, settings, and what differs between them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mmseol.analysis.records.paper import network_of
from mmseol.utils.text import first_few

__all__ = [
    "SHORT_NAMES",
    "Run",
    "differences",
    "length_text",
    "network_text",
    "setting_text",
    "short_name",
    "values_text",
]

SHORT_NAMES = {"lr": "optim_wrapper.optimizer.lr", "wd": "optim_wrapper.optimizer.weight_decay"}
"""Settings of the config by the short name that sweeps and tables give them."""
_SHORT = {name: short for short, name in SHORT_NAMES.items()}
Run = Mapping[str, Any]
"""An entry of ``runs`` of a compact record."""


def short_name(name: str) -> str:
    """Return ``lr`` or ``wd`` for these settings of the optimizer, and any other name as it is.

    >>> short_name("optim_wrapper.optimizer.lr"), short_name("alpha")
    ('lr', 'alpha')
    """
    return _SHORT.get(name, name)


def values_text(values: Mapping[str, Any]) -> str:
    """Return settings as ``lr 0.1, wd 0.0005``.

    >>> values_text({"optim_wrapper.optimizer.lr": 0.1, "alpha": 6})
    'lr 0.1, alpha 6'
    """
    return ", ".join(f"{short_name(name)} {_number(value)}" for name, value in values.items())


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def setting_text(run: Run, short: str) -> str:
    """Return a setting of the optimizer: chosen on validation data, an option, or the config's.

    >>> setting_text({"chosen": {"values": {"wd": 5e-4}}, "options": [], "settings": {}}, "wd")
    '0.0005'

    Args:
        run: Entry of ``runs`` of a compact record.
        short: ``'lr'`` or ``'wd'``.
    """
    chosen = (run["chosen"] or {"values": {}})["values"]
    for name, value in chosen.items():
        if short_name(name) == short:
            return _number(value)
    for option in run["options"]:
        name, _, value = str(option).partition("=")
        if _SHORT.get(name) == short:
            return value
    value = run["settings"].get({"wd": "weight_decay"}.get(short, short))
    return "config's" if value is None else _number(value)


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


def length_text(run: Run) -> str:
    """Return the length of the trainings.

    >>> length_text({"epochs": None, "iterations": 80000}), length_text({"epochs": 20})
    ('80000 iterations', '20 epochs')
    """
    return f"{run['epochs']} epochs" if run["epochs"] else f"{run['iterations']} iterations"


def differences(runs: Sequence[Run], environments: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for everything that should be equal in a table and is not.

    >>> run = {"loss": "ce", "imbalance": None, "epochs": 20, "split": "val", "seeds": [1], "versions": ["a"],
    ...        "environments": [0], "options": [], "data": ["d"], "subset": [], "config": "a.py"}
    >>> differences([run, {**run, "loss": "mse", "epochs": 40}], [{"device": "2 CPU cores"}])
    ['Lengths differ: 20 epochs (ce), 40 epochs (mse).']
    """
    kinds: dict[str, Callable[[Run], list[Any]]] = {
        "Lengths": lambda run: [length_text(run)],
        "Splits": lambda run: [run["split"]],
        "Seeds": lambda run: [", ".join(map(str, run["seeds"]))],
        "Options": lambda run: [" ".join(map(str, run["options"])) or "none"],
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
