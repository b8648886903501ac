"""The command ``advise``: the data of a config, and what records of runs say for such data."""

from __future__ import annotations

import json
import shlex
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from sys import stderr
from typing import Any

import numpy as np
from mmengine.config import Config

from mmseol.analysis.records.evidence import Comparison, RecordedRun, evidence, read_records, recorded_runs
from mmseol.analysis.statistics.paired import seed_interval
from mmseol.analysis.tabulation.run_text import SHORT_NAMES, values_text
from mmseol.analysis.tabulation.text_table import spread
from mmseol.counting.counts import ClassCounts
from mmseol.experiment.commands import load_config
from mmseol.experiment.config_files import sweeps_of
from mmseol.experiment.counted_classes import count_split, skew_text
from mmseol.experiment.data import build_dataset, check_files, expected_without
from mmseol.experiment.loss import LOSSES
from mmseol.hooks.class_table import class_table
from mmseol.utils.arrays import FloatArray
from mmseol.utils.text import first_few

__all__ = ["Advice", "advise", "prepare_advise"]

_LISTED = 3  # losses
_OFTEN = 0.5  # batches without a class, from which a sampler is worth a try
_SAMPLERS = {
    "segmentation": "mmseol.RareClassSampler",
    "classification": "mmseol.ClassAwareSampler",
}
_NEAR = ("other data", "the same classes", "the same data set", "this config")


@dataclass
class Advice:
    """One thing to try.

    >>> Advice("loss", "Train with elm.", ["results/x: ..."], "train a.py --loss elm").kind
    'loss'

    Attributes:
        kind: ``'loss'``, ``'sampler'``, ``'learning rate'`` or ``'decision'``.
        text: What to do.
        evidence: Rows of records, or numbers of the data, behind it.
        command: Command to try it.
    """

    kind: str
    text: str
    evidence: list[str] = field(default_factory=list)
    command: str = ""


def prepare_advise(args: Namespace) -> Config:
    """Return the config with the arguments applied.

    >>> prepare_advise(Namespace(config="missing.py"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    FileNotFoundError: `config` must be a config file or a config of mmseol (...), got 'missing.py'...

    Raises:
        ValueError: If an argument does not fit the config, or a file of its training data is missing.
        FileNotFoundError: If there is no such config.
    """
    cfg = load_config(args)
    check_files(cfg, ["train_dataloader"])
    return cfg


def run_advise(cfg: Config, args: Namespace) -> None:
    """Print the counts, the advice and what is not known."""
    with redirect_stdout(stderr):  # the hosts print
        dataset = build_dataset(cfg, "train_dataloader")
        names, counts = count_split(cfg, dataset=dataset, workers=args.workers)
        without = expected_without(cfg, dataset, counts)
        found, unknown = advise(cfg, args, dataset, names, counts, without)
    if args.json:
        report = {
            "classes": names,
            "counts": counts.to_dict(),
            "batches_without": [round(float(value), 6) for value in without],
            "advice": [asdict(one) for one in found],
            "unknown": unknown,
        }
        print(json.dumps(report, indent=1))
        return
    column = {"batches without, %": [round(100 * float(value), 1) for value in without]}
    print(class_table("Training data", names, counts, column))
    print(f"{skew_text(names, counts)}\n")
    for number, one in enumerate(found, 1):
        print(f"{number}. {one.text}")
        for line in one.evidence:
            print(f"   - {line}")
        print(f"   {one.command}\n" if one.command else "")
    print("Not known:")
    for line in unknown:
        print(f"   - {line}")


def advise(
    cfg: Config,
    args: Namespace,
    dataset: Any,
    names: Sequence[str],
    counts: ClassCounts,
    without: FloatArray,
    records: Mapping[str, Any] | None = None,
) -> tuple[list[Advice], list[str]]:
    """Return advice with its evidence, and what the records do not tell.

    >>> args = Namespace(config="a.py", data_root=None, imbalance=None, cfg_options=None)
    >>> cfg = Config(dict(train_dataloader=dict(batch_size=5)))
    >>> counts = ClassCounts([7, 3], [7, 3], [7, 3])
    >>> found, unknown = advise(cfg, args, dataset, ["cat", "dog"], counts, np.array([0.0, 0.08]), {})
    >>> found[-1].kind, unknown[0]
    ('decision', 'There is no record of classification.')

    Args:
        cfg: Config.
        args: Arguments of the command, which commands to try repeat.
        dataset: Training data.
        names: Names of the classes.
        counts: Their counts.
        without: Fraction of batches without each class.
        records: Records by name; ``None``: those of the package.
    """
    records = read_records() if records is None else records
    task = "classification" if np.array_equal(counts.samples, counts.images) else "segmentation"
    runs = recorded_runs(records)
    groups = evidence(runs, task, cfg.filename, names)
    chosen = _choose(groups)
    found = [_loss_advice(args, one, rank, groups) for rank, one in chosen]
    if groups:
        found.append(_rate_advice(args, [run for run in runs if run.task == task], records))
    found += _sampler_advice(cfg, args, dataset, names, counts, without, task, records)
    found.append(_decision_advice(args, runs, task, records))
    return found, _unknown(groups, chosen, args, task)


def _choose(groups: Sequence[tuple[int, list[Comparison]]]) -> list[tuple[int, Comparison]]:
    """Return the losses that beat cross entropy, from the nearest records on, each once."""
    chosen: list[tuple[int, Comparison]] = []
    for rank, comparisons in groups:
        if chosen and rank < 2 <= chosen[0][0]:
            break  # other data say little beside records of these
        for one in comparisons:
            same = any(one.run.name == other.run.name for _, other in chosen)
            equal = any(one.run.scores == other.run.scores for _, other in chosen)
            if one.difference > 0 and not same and not equal and len(chosen) < _LISTED:
                chosen.append((rank, one))
    return chosen


def _loss_advice(
    args: Namespace, one: Comparison, rank: int, groups: Sequence[tuple[int, list[Comparison]]]
) -> Advice:
    spec, options = (one.run.loss if rank >= 2 else one.run.name), []
    for name, value in one.run.values.items() if rank == 3 else ():  # chosen on these data alone
        if name in SHORT_NAMES:
            options.append(f"{SHORT_NAMES[name]}={value}")
        elif f"{name}=" not in spec:
            spec += f"{',' if ':' in spec else ':'}{name}={value}"
    rows = [
        _row(near, other)
        for near, comparisons in groups
        for other in comparisons
        if other.run.name == one.run.name and (near >= 2 or rank < 2)
    ]
    return Advice("loss", f"Try {spec}.", rows, _command(args, "train", ["--loss", spec], options))


def _row(rank: int, one: Comparison) -> str:
    """Return a row of evidence: the scores beside those of cross entropy, and how sure the difference is."""
    run, reference = one.run, one.reference
    text = (
        f"results/{run.record}, {_NEAR[rank]}: {_score(run)}, ce {_score(reference)}: {one.difference:+.1f}"
    )
    if run.scores.get(run.tail) and reference.scores.get(run.tail):
        text += f"; rare classes {run.mean(run.tail):.1f}, ce {reference.mean(run.tail):.1f}"
    return f"{text}. {_sureness(one)}"


def _score(run: RecordedRun) -> str:
    values = f" ({values_text(run.values)})" if run.values else ""
    name = f"{run.headline} " if run.name != "ce" else ""
    return f"{name}{spread(run.scores[run.headline])}{values}"


def _sureness(one: Comparison) -> str:
    parts = []
    if one.seeds is None or one.seeds.low is None or one.seeds.high is None:
        parts.append("One seed: the difference may be chance")
    else:
        low, high = one.seeds.low, one.seeds.high
        covers = "covers 0" if low <= 0 <= high else "does not cover 0"
        parts.append(f"{one.seeds.seeds} seeds, interval over seeds [{low:+.1f}, {high:+.1f}] {covers}")
    if one.run.headline in one.run.intervals:
        low, high = one.run.intervals[one.run.headline]
        parts.append(f"over images [{low:+.1f}, {high:+.1f}]")
    parts += [one.run.detail] if "border" in one.run.detail else []
    parts += [] if one.run.tuned else ["the losses were not tuned"]
    return "; ".join(parts) + "."


def _rate_advice(args: Namespace, runs: Iterable[RecordedRun], records: Mapping[str, Any]) -> Advice:
    """Say how much a learning rate changes a score, as the records show."""
    rows = []
    by_loss: dict[tuple[str, str], list[RecordedRun]] = {}
    names = set()
    for run in runs:
        names.add(run.record)
        if "lr" in run.values and "nearest" not in run.detail:
            by_loss.setdefault((run.record, run.name), []).append(run)
    for (record, loss), same in by_loss.items():
        if len(same) > 1:
            scores = [run.mean(run.headline) for run in same]
            ends = f"{min(scores):.1f} to {max(scores):.1f}"
            rows.append(f"results/{record}: {same[0].headline} of {loss} is {ends} by its learning rate")
    for name in sorted(names):
        tuning = records[name].get("tuning") or []
        scores = [one["score"] for one in tuning if one.get("loss") == "ce" and one.get("score") is not None]
        if len(scores) > 1:
            rows.append(
                f"results/{name}: the validation score of ce is {min(scores):.1f} to {max(scores):.1f} over "
                f"{len(scores)} learning rates"
            )
    sweeps = sweeps_of(args.config)
    more = [f"sweep files of this config: {', '.join(sweeps)}"] if sweeps else []
    return Advice(
        "learning rate",
        "Search the learning rate of each loss on validation data before comparing.",
        [*rows, *more],
        shlex.join(["python", "-m", "mmseol", "sweep", sweeps[0] if sweeps else "SWEEP_FILE"]),
    )


def _sampler_advice(
    cfg: Config,
    args: Namespace,
    dataset: Any,
    names: Sequence[str],
    counts: ClassCounts,
    without: FloatArray,
    task: str,
    records: Mapping[str, Any],
) -> list[Advice]:
    rare = [k for k in np.argsort(-without) if without[k] > _OFTEN and counts.images[k] > 0]
    if not rare:
        return []
    sampler = {"type": _SAMPLERS[task]}
    then = expected_without(cfg, dataset, counts, sampler)
    listed = first_few(f"{names[k]} {100 * without[k]:.0f} % -> {100 * then[k]:.0f} %" for k in rare)
    rows = [f"expected batches without the class, now -> then: {listed}"]
    rows.append(_recorded("samplers", "Sampler", records))
    options = [f"train_dataloader.sampler.{key}" for key in ("_delete_=True", f"type={sampler['type']}")]
    return [
        Advice(
            "sampler",
            f"Draw rare classes more often: {sampler['type']}.",
            rows,
            _command(args, "train", [], options),
        )
    ]


def _decision_advice(
    args: Namespace, runs: Iterable[RecordedRun], task: str, records: Mapping[str, Any]
) -> Advice:
    rows = []
    for run in runs:
        if run.task == task and "nearest" in run.detail:
            plain = next(other for other in runs if other.record == run.record and other.loss == run.loss)
            rows.append(
                f"results/{run.record}: {run.loss}, {run.detail}: {run.headline} "
                f"{spread(run.scores[run.headline])}, largest output {spread(plain.scores[run.headline])}"
            )
    rows.append(_recorded("tuned decisions", "tune-decision", records))
    return Advice(
        "decision",
        "After training, tune the decision on validation data; it needs no new training.",
        rows,
        _command(args, "tune-decision", ["CHECKPOINT"], [], with_imbalance=False),
    )


def _recorded(what: str, word: str, records: Mapping[str, Any]) -> str:
    named = [name for name, record in records.items() if word in json.dumps(record)]
    return f"records of {what}: {', '.join(f'results/{name}' for name in named) or 'none'}"


def _unknown(
    groups: Sequence[tuple[int, list[Comparison]]],
    chosen: Sequence[tuple[int, Comparison]],
    args: Namespace,
    task: str,
) -> list[str]:
    if not groups:
        return [f"There is no record of {task}."]
    lines = []
    best = groups[0][0]
    if best < 3:
        lines.append(
            f"No record is of this config; the nearest are of {_NEAR[best]}. What they say may not hold here."
        )
    near = [(rank, found) for rank, found in groups if rank == best]
    cuts = {found[0].run.imbalance for _, found in near} - {None, getattr(args, "imbalance", None)}
    if getattr(args, "imbalance", None) and cuts:
        lines.append(f"The records were cut {', '.join(sorted(map(str, cuts)))}, not {args.imbalance}.")
    sure = {one.run.name for _, found in near for one in found if one.certain}
    unsure = [one.run.name for _, one in chosen if one.run.name not in sure]
    if unsure:
        lines.append(
            "Whether other seeds give these differences: no interval over seeds excludes 0 for "
            f"{', '.join(unsure)}."
        )
    if len(chosen) > 1 and not _ordered([one for _, one in chosen]):
        lines.append(f"The order of 1 to {len(chosen)}: no interval over seeds separates them.")
    if not chosen:
        lines.append("Which loss is better than cross entropy: none is in these records.")
    better = {one.run.name for _, found in near for one in found if one.difference > 0}
    worse = dict.fromkeys(one.run.name for _, found in near for one in found if one.run.name not in better)
    if worse:
        lines.append(f"Whether other settings help losses that are not better there: {', '.join(worse)}.")
    further = [found[0].run.record for rank, found in groups if rank < 2 <= best]
    if further:
        lines.append(f"Whether records of other data hold here; left out: {', '.join(further)}.")
    seen = {one.run.name for rank, found in groups if rank >= min(best, 2) for one in found} | {"ce"}
    never = [name for name in LOSSES if name not in seen]
    if never:
        lines.append(f"Losses without a record for such data: {', '.join(never)}.")
    return lines


def _ordered(chosen: Sequence[Comparison]) -> bool:
    """Whether an interval over seeds separates each loss from the next."""
    for first, second in pairwise(chosen):
        a, b = (one.run.scores[one.run.headline] for one in (first, second))
        if first.run.record != second.run.record or len(a) != len(b):
            return False
        low = seed_interval(a, b).low
        if low is None or low <= 0:
            return False
    return True


def _command(
    args: Namespace,
    verb: str,
    arguments: Sequence[str],
    options: Sequence[str],
    with_imbalance: bool = True,
) -> str:
    words = ["python", "-m", "mmseol", verb, args.config, *arguments]
    words += ["--seed", "1"] if verb == "train" else []
    if args.data_root:
        words += ["--data-root", args.data_root]
    if with_imbalance and args.imbalance:
        words += ["--imbalance", args.imbalance]
    options = [*(args.cfg_options or []), *options]
    return shlex.join([*words, *(["--cfg-options", *options] if options else [])])
