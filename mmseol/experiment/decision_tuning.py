"""The command ``tune-decision``: a checkpoint -> one pass over validation data -> a better decision."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.hooks import Hook
from rich.table import Table

from mmseol.experiment.commands import is_main, load_config, start_cpu_process_group
from mmseol.experiment.data import check_files
from mmseol.experiment.evaluation import set_split
from mmseol.experiment.weights import check_classifier, check_weights
from mmseol.metrics.scores import OBJECTIVES
from mmseol.utils.checks import choice, number, whole_number
from mmseol.utils.files import replacing
from mmseol.utils.text import table_text
from mmseol.utils.unpickling import load_checkpoint, plain_data_only

__all__ = ["parse_floor", "prepare_tune_decision"]

_SHRINKAGE = (0.0, 0.25, 0.5, 0.75, 1.0)  # of free factors: 0 is the one-parameter family
_LOGS = "logs"  # in the output folder; what a refused run leaves


def prepare_tune_decision(args: Namespace) -> Config:
    """Return the config of a test on the validation data.

    >>> prepare_tune_decision(Namespace(objective="iou"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: `--objective` must be one of 'mIoU', 'macro_f1', ..., got 'iou'.

    Raises:
        ValueError: If an argument or the checkpoint does not fit the config, or the validation data are the
            test data.
        FileNotFoundError: If there is no such config or checkpoint.
    """
    if args.objective is not None:
        choice("--objective", args.objective, OBJECTIVES)
    args.floors = parse_floor(args.floor or [])
    whole_number("--folds", args.folds, at_least=2)
    for value in [*(args.strengths or []), *([] if args.value is None else [args.value])]:
        number("--value" if args.value is not None else "--strengths", value)
    if args.free and (args.value is not None or args.launcher != "none"):
        raise ValueError("`--free` needs a search in one process; leave out --value and --launcher.")
    if args.value is not None and (args.strengths is not None or len(args.family) > 1):
        raise ValueError("`--value` is one strength of one family; leave out --strengths and other families.")
    out = Path(args.out or Path(args.checkpoint).with_suffix("").as_posix() + "_decision")
    args.out = str(out)
    if out.is_file() or (out.is_dir() and any(path.name != _LOGS for path in out.iterdir())):
        raise ValueError(f"`--out` must be a new or empty folder, got {args.out!r}.")
    args.loaded = load_checkpoint(args.checkpoint, unsafe=args.unsafe_load)
    cfg = load_config(args)
    check_classifier(cfg, args.checkpoint, args.loaded)
    if not args.validation_is_test and _same_data(cfg):
        raise ValueError(
            "`val_dataloader` of the config reads the data of `test_dataloader`, and a decision chosen on "
            "test data has no fair test score. Validate on held-out training data (mmseol.HoldOut), or add "
            "--validation-is-test where no test score is wanted."
        )
    set_split(cfg, "val")
    check_files(cfg, ("test_dataloader",))
    cfg.test_evaluator = []
    cfg.work_dir = args.work_dir or str(out / _LOGS)
    cfg.load_from = args.checkpoint
    cfg.resume = False
    return cfg


def parse_floor(items: Sequence[str]) -> dict[str, float]:
    """Return the least values of ``NAME=PERCENT`` items.

    >>> parse_floor(["accuracy=90"])
    {'accuracy': 90.0}

    Raises:
        ValueError: If an item has another form, or names no score.
    """
    floors = {}
    for item in items:
        name, _, value = item.partition("=")
        choice("--floor", name, OBJECTIVES)
        try:
            floors[name] = number("--floor", float(value), at_least=0, at_most=100)
        except ValueError:
            raise ValueError(f"`--floor` must be NAME=PERCENT, got {item!r}.") from None
    return floors


def _same_data(cfg: Config) -> bool:
    """Whether validation and test read the same data set."""
    val, test = ((cfg.get(f"{split}_dataloader") or {}).get("dataset") for split in ("val", "test"))
    return val is not None and test is not None and _without_pipelines(val) == _without_pipelines(test)


def _without_pipelines(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_pipelines(value) for key, value in node.items() if key != "pipeline"}
    return [_without_pipelines(item) for item in node] if isinstance(node, (list, tuple)) else node


def run_tune_decision(cfg: Config, args: Namespace) -> None:
    """Score the decisions, choose one, write the checkpoint and score it.

    Raises:
        ValueError: If the checkpoint does not fit the model, the classes cannot be counted, the classifier
            cannot carry a decision, or no decision reaches the floor.
    """
    from mmseol.classifiers.checkpoints import write_decision
    from mmseol.classifiers.decisions import check_classes, select
    from mmseol.classifiers.find import find_classifier
    from mmseol.experiment.runner import CommandRunner  # imports OpenCV
    from mmseol.utils.modules import unwrap

    with plain_data_only(args.unsafe_load):
        start_cpu_process_group(cfg.launcher)
        runner = CommandRunner.from_cfg(cfg)
        check_weights(runner.model, args.checkpoint, args.loaded)
        state = args.loaded.get("state_dict", args.loaded)
        del args.loaded
        model = unwrap(runner.model)
        classifier = find_classifier((name for name, _ in model.named_parameters()), args.classifier)
        if f"{classifier}.weight" not in state:
            raise ValueError(
                f"`checkpoint` {args.checkpoint!r} has no weights of the classifier {classifier}."
            )
        scoring = _Scoring(cfg, args, classifier)
        runner.register_hook(scoring, "VERY_LOW")
        runner.test()
        tallies, facts = scoring.counted.tallies, scoring.facts
        names = list((runner.test_loop.dataloader.dataset.metainfo or {}).get("classes") or ())
        names = [str(name) for name in names] or [str(k) for k in range(tallies.num_classes)]
        check_classes(tallies.truth, names, args.allow_absent)
        objective = args.objective or ("mIoU" if scoring.segmentation else "balanced_accuracy")
        selection = select(tallies, objective, args.floors, scoring.default)
        chosen = selection.tuned if args.value is not None else selection.chosen
        found, log_factors = scoring.counted.decision(chosen), scoring.counted.log_factors(chosen)
        expected, path = tallies.hits[chosen], None
        if args.free:
            free = _tune_free(runner, scoring, selection, objective, args.floors)
            facts["free"] = free.facts
            if free.family is not None:
                found, log_factors = (free.family, free.strength), free.family.log_factors(free.strength)
                expected = free.hits
        if found is not None:
            path = Path(args.out) / f"{Path(args.checkpoint).stem}_decision.pth"
            if is_main():
                options = (found[0].kind, log_factors, classifier, args.unsafe_load)
                write_decision(args.checkpoint, path, *options)
            facts["chosen"] = _described(found[0].name, found[0].kind, found[1], names, log_factors)
            confirmed = _confirm(runner, scoring, path)
            facts["confirmed"] = {
                "confusion": confirmed.confusion.tolist(),
                "scores": _scores(confirmed.hits[0], confirmed.truth, confirmed.predicted[0]),
                "other_elements": int(np.abs(confirmed.hits[0] - expected).sum()),
            }
    if is_main():
        facts |= {
            "objective": objective,
            "floor": args.floors,
            "classes": names,
            "written": None if path is None else str(path),
            "plain": {
                "confusion": tallies.confusion.tolist(),
                "scores": _scores(tallies.hits[0], tallies.truth, tallies.predicted[0]),
            },
            "decisions": _decisions(scoring, tallies),
            "selection": {**selection.to_dict(), "chosen": chosen},
        }
        _write(Path(args.out), facts)
        print(_summary(facts))


class _Scoring(Hook):
    """Score the families of decisions, or with no family the decision of the weights, in a test loop."""

    def __init__(self, cfg: Config, args: Namespace, classifier: str) -> None:
        self.cfg, self.args, self.classifier = cfg, args, classifier
        self.segmentation = cfg.get("default_scope") != "mmpretrain"
        self.confirming = False
        self.facts: dict[str, Any] = {"config": args.config, "checkpoint": args.checkpoint}
        self.default: int | None = None
        self.further: tuple[list[Any], list[Any]] | None = None  # families of a second pass
        self.counted: Any = None

    def before_test_epoch(self, runner: Any) -> None:
        from mmseol.hooks.tuned_decision import DecisionPass
        from mmseol.utils.modules import unwrap

        model = unwrap(runner.model)
        families: list[Any] = []
        folds_own: list[Any] = []
        if self.further is not None:
            families, folds_own = self.further
        elif not self.confirming:
            families = self._families(model)
        images = len(runner.test_loop.dataloader.dataset)
        folds = self.args.folds
        self.counted = DecisionPass(
            model,
            self.classifier,
            families,
            images,
            self.segmentation,
            folds,
            fold_families=folds_own,
            sample=self.args.free and bool(families) and self.further is None,
        )

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        first = batch_idx == 0 and not self.confirming and self.further is None
        self.segmentation = hasattr(outputs[0], "pred_sem_seg")
        self.counted.update(outputs, runner.model if first else None, data_batch)

    def after_test_epoch(self, runner: Any, metrics: Any = None) -> None:
        self.counted.close()
        self.counted.tallies.reduce()

    def _families(self, model: Any) -> list[Any]:
        from mmseol.classifiers.decisions import make_family
        from mmseol.counting.counts import check_counts, load_counts
        from mmseol.hooks.tuned_decision import loss_of_classifier, stored_counts

        layer: Any = model.get_submodule(self.classifier)
        classes = len(layer.weight)
        loss: Any = loss_of_classifier(model, self.classifier)
        found = stored_counts(model, loss) if self.args.counts is None else load_counts(self.args.counts)
        counts = check_counts(self._count(classes) if found is None else found, classes, "--counts")
        needs = getattr(loss, "needs_counts", False) and not getattr(loss, "counted", True)
        if loss is not None and needs and hasattr(loss, "set_class_counts"):
            loss.set_class_counts(counts)
        kind, weights = self._estimated(loss, counts)
        strengths = [self.args.value] if self.args.value is not None else self.args.strengths
        families = [make_family(name, kind, counts, weights, strengths) for name in self.args.family]
        before = 1
        for family in families:
            if family.name == "prior" and 1.0 in family.strengths:
                self.default = before + int(np.flatnonzero(family.strengths == 1.0)[0])
            before += len(family.strengths)
        self.facts |= {"kind": kind, "loss": type(loss).__name__, "counts": counts.tolist()}
        self.facts["estimated_weights"] = np.exp(weights).tolist()
        return families

    def _estimated(self, loss: Any, counts: Any) -> tuple[Any, Any]:
        """Return the kind of the decision, and the logarithm of the class weights in the outputs."""
        from mmseol.classifiers.decisions import estimated_weights

        given, nothing = self.args.kind, np.zeros(len(counts))
        try:
            kind, weights = estimated_weights(loss, counts)
        except ValueError:
            if given is None:
                raise
            return given, nothing
        return (kind, weights) if given in (None, kind) else (given, nothing)

    def _count(self, classes: int) -> Any:
        from mmengine.registry import DATASETS

        from mmseol.counting import count_dataset

        data = (self.cfg.get("train_dataloader") or {}).get("dataset")
        if data is None:
            raise ValueError(
                "`--counts` must be given: neither a loss in the checkpoint nor a train_dataloader in the "
                "config says how many training samples each class has. Give the class_counts.json of the "
                "training run's work directory."
            )
        return count_dataset(DATASETS.build(data), classes).samples


class _Free(NamedTuple):
    """Result of the search with one free factor per class: a family and its strength, or ``None``."""

    family: Any
    strength: float
    hits: Any
    facts: dict[str, Any]


def _tune_free(runner: Any, scoring: _Scoring, selection: Any, objective: str, floor: Any) -> _Free:
    """Fit free factors without each fold, and shrink them to the one-parameter family by their scores there.

    They are taken if they gain on images that did not choose them.
    """
    from mmseol.classifiers.decisions import Family, fit_free
    from mmseol.metrics.scores import overall_score, score_tallies

    first = scoring.counted
    kind = first.decision(selection.tuned)[0].kind
    outputs, truth, weights, folds = first.sample.columns()
    families: list[Any] = []
    for fold, start in [*enumerate(selection.by_fold), (-1, selection.tuned)]:
        rest = folds != fold
        logs = first.log_factors(int(start))
        fitted = fit_free(outputs[:, rest], truth[rest], weights[rest], kind, objective, logs)
        families.append(Family("free", kind, logs, fitted - logs, np.array(_SHRINKAGE)))
    scoring.further = ([families[-1]], families[:-1])
    runner.test_loop.run()
    second, scoring.counted, scoring.further = scoring.counted.tallies, first, None
    scores = score_tallies(second.hits, second.truth, second.predicted)
    values = overall_score(objective, scores)
    reaches = np.ones(len(values), dtype=bool)
    for name, least in floor.items():
        reaches &= overall_score(name, scores) >= least
    number = len(_SHRINKAGE)
    held_out = np.where(reaches, values, -np.inf)[1 + number :]
    best = int(np.argmax(held_out))
    limits = [selection.out_of_fold, selection.scores[0]]
    limits += [] if selection.default is None else [selection.scores[selection.default]]
    taken = best > 0 and held_out[best] > max(limits) and reaches[1 + best]
    facts = {
        "shrinkage": list(_SHRINKAGE),
        "scores": values[1 : 1 + number].tolist(),
        "out_of_fold": values[1 + number :].tolist(),
        "taken": float(_SHRINKAGE[best]) if taken else None,
    }
    return _Free(families[-1] if taken else None, _SHRINKAGE[best], second.hits[1 + best], facts)


def _confirm(runner: Any, scoring: _Scoring, path: Path) -> Any:
    """Score the written checkpoint by the host's own decision."""
    scoring.confirming = True
    kept, scoring.counted = scoring.counted, None
    runner.load_checkpoint(str(path))
    runner.test_loop.run()
    confirmed, scoring.counted = scoring.counted.tallies, kept
    return confirmed


def _described(name: str, kind: str, strength: float, names: list[str], log_factors: Any) -> dict[str, Any]:
    factors = np.exp(log_factors) if kind == "multiplicative" else log_factors
    what = "factors of the outputs" if kind == "multiplicative" else "summands of the outputs"
    values = dict(zip(names, np.round(factors, 6).tolist(), strict=True))
    return {"family": name, "kind": kind, "strength": strength, what: values}


def _scores(hits: Any, truth: Any, predicted: Any) -> dict[str, Any]:
    from mmseol.metrics.scores import score_tallies, summarize

    scores = score_tallies(hits, truth, predicted)
    rows = {"iou": scores.iou, "recall": scores.recall}
    per_class = {
        name: [None if np.isnan(v) else round(100 * float(v), 3) for v in values]
        for name, values in rows.items()
    }
    return {**summarize(scores), "per_class": per_class}


def _decisions(scoring: _Scoring, tallies: Any) -> list[dict[str, Any]]:
    from mmseol.metrics.scores import overall_score, score_tallies

    scores = score_tallies(tallies.hits, tallies.truth, tallies.predicted)
    values = {name: overall_score(name, scores) for name in OBJECTIVES}
    rows = []
    for number_ in range(tallies.decisions):
        found = scoring.counted.decision(number_)
        row = (
            {"family": found[0].name, "strength": found[1]}
            if found
            else {"family": "plain", "strength": None}
        )
        rows.append({**row, **{name: round(float(column[number_]), 4) for name, column in values.items()}})
    return rows


def _write(out: Path, facts: dict[str, Any]) -> None:
    from mmseol.analysis.figures.decision_curve import draw_decisions

    with replacing(out / "decision.json", "w") as file:
        json.dump(facts, file, indent=1)
    draw_decisions(facts, out / "decision.png")


def _summary(facts: dict[str, Any]) -> str:
    """Return the result as a table and a sentence."""
    selection, rows, objective = facts["selection"], facts["decisions"], facts["objective"]
    table = Table("decision", "strength", objective, "95 % interval", "accuracy")
    wanted = {"argmax": 0, "without a search": selection["default"], "tuned": selection["tuned"]}
    for name, index in wanted.items():
        if index is None:
            continue
        row, (low, high) = rows[index], selection["intervals"][index]
        strength = "-" if row["strength"] is None else f"{row['family']} {row['strength']:g}"
        interval = f"{low:.2f} to {high:.2f}"
        table.add_row(name, strength, f"{row[objective]:.2f}", interval, f"{row['accuracy']:.2f}")
    low, high = selection["gain_interval"]
    text = table_text(table) + (
        f"\nTuned decision: {selection['gain']:+.2f} {objective} on the data that chose it (95 % interval "
        f"over images {low:+.2f} to {high:+.2f}), "
        f"{selection['out_of_fold'] - selection['scores'][0]:+.2f} on images that did not choose it.\n"
    )
    if facts["written"] is None:
        return text + "No decision beats the argmax on images that did not choose it: none is written."
    free = facts.get("free")
    if free is not None:
        gain = max(free["out_of_fold"][1:]) - free["out_of_fold"][0]
        text += (
            f"Free factors: {gain:+.2f} {objective} against one parameter on images that did not choose "
            f"them; {'not taken' if free['taken'] is None else 'taken'}.\n"
        )
    chosen, score = facts["chosen"], facts["confirmed"]["scores"][objective]
    return text + (
        f"Wrote {facts['written']} ({chosen['family']} {chosen['strength']:g}), which scores {score:.2f}."
    )
