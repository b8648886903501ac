"""The command ``analyze outlying-label``: runs -> outputs -> records and figures of what the label does."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from mmseol.analysis.figures import label_figures
from mmseol.analysis.figures.style import save_figure
from mmseol.analysis.outlying_label import label_decisions, target_estimates
from mmseol.analysis.outlying_label.alpha_search import alpha_grid, alpha_measurement
from mmseol.analysis.outlying_label.cases import EARLY, LATE, TITLES, Case
from mmseol.analysis.records.run_records import environment
from mmseol.analysis.statistics.verdicts import RULES
from mmseol.experiment.checkpoint_outputs import CheckpointOutputs, ordered_loader, read_outputs, run_config
from mmseol.experiment.loss import inside_cosine_head
from mmseol.experiment.runner import CommandRunner
from mmseol.utils.files import replacing
from mmseol.utils.unpickling import plain_data_only

__all__ = ["Run", "find_runs", "prepare_outlying_label"]

KIND = "outlying_label"
"""``kind`` of the records."""

_RECORDS = {
    "estimates": ("Do outputs over their targets estimate P(k | x)?", target_estimates.estimates),
    "decisions": ("Is the outlying label a decision?", label_decisions.decisions),
    "class_means": ("Do class means lie at their labels?", target_estimates.class_means_against_labels),
    "gradients": ("Where does the gradient go?", target_estimates.gradients),
    "nearest_target": ("Why is the nearest target a worse decision?", label_decisions.nearest_target),
    "held_out": ("What does a tuned decision gain on held-out data?", label_decisions.held_out),
}
_TRAIN_IMAGES = 100  # of a segmentation data set


class Run(NamedTuple):
    """A training run and one of its checkpoints.

    >>> Run(Path("run"), "ce", 1, "late", 60, Path("run/epoch_60.pth"), {"lr": 0.1}).stage
    'late'
    """

    folder: Path
    loss: str
    seed: int
    stage: str
    epoch: int
    checkpoint: Path
    settings: dict[str, Any]


def prepare_outlying_label(args: Namespace) -> dict[str, list[Path]]:
    """Return the folders of the runs on each data set.

    >>> prepare_outlying_label(Namespace(runs=["digits"], out="new"))
    Traceback (most recent call last):
    ValueError: `--runs` must be NAME=DIR[,DIR...], got 'digits'.

    Raises:
        ValueError: If an argument has another form, or the output folder holds records of another kind.
        FileNotFoundError: If there is no such folder.
    """
    found: dict[str, list[Path]] = {}
    for item in args.runs:
        name, _, folders = item.partition("=")
        if not name or not folders or name in found:
            raise ValueError(f"`--runs` must be NAME=DIR[,DIR...], got {item!r}.")
        found[name] = [Path(folder) for folder in folders.split(",")]
        for folder in found[name]:
            if not folder.is_dir():
                raise FileNotFoundError(f"`--runs` must name folders, got {str(folder)!r}.")
    for name in (*_RECORDS, "alpha"):
        path = Path(args.out) / f"{name}.json"
        if path.exists() and json.loads(path.read_text()).get("kind") != KIND:
            raise ValueError(f"`--out` must not hold results of another command, got {str(path)!r}.")
    return found


def run_outlying_label(folders: dict[str, list[Path]], args: Namespace) -> None:
    """Read the outputs of all runs, and write the records and figures.

    What an earlier call measured on other data sets stays in them.
    """
    cases, used = [], []
    for name, own in folders.items():
        runs = [run for folder in own for run in find_runs(folder)]
        if not runs:
            raise ValueError(
                f"`--runs` {name} must hold finished runs with their checkpoints, got none. tools/sweep.py "
                "keeps checkpoints with --keep-checkpoints, and early ones with --keep-every N."
            )
        case, rows = _case(name, runs, Path(args.work_dir))
        cases.append(case)
        used += rows
    environments = {case.name: environment() for case in cases}
    for name, (question, measure) in _RECORDS.items():
        parts = [measure(case) for case in cases]
        record: dict[str, Any] = {"title": question, "environments": environments, "runs": used}
        record |= {key: [row for part in parts for row in part[key]] for key in ("rows", "statements")}
        record["statements"] = [asdict(one) for one in record["statements"]]
        record["curves"] = {key: curve for part in parts for key, curve in part.get("curves", {}).items()}
        path = Path(args.out) / f"{name}.json"
        if path.exists():
            record = _with_others(record, json.loads(path.read_text()))
        sources = " ".join(f"{case}=DIR" for case in record["environments"])
        _write(Path(args.out), name, {**_shared(sources), **record})
    if args.alpha:
        found = alpha_measurement(alpha_grid(Path(args.work_dir) / "alpha_grid.json"))
        title = "Does a learning rate make up for alpha?"
        found["statements"] = [asdict(one) for one in found["statements"]]
        _write(
            Path(args.out),
            "alpha",
            {**_shared("NAME=DIR --alpha"), "environment": environment(), "title": title, **found},
        )


def _shared(sources: str) -> dict[str, Any]:
    command = f"python -m mmseol analyze outlying-label --runs {sources}"
    return {"kind": KIND, "command": command, "rules": RULES}


def _write(out: Path, name: str, record: dict[str, Any]) -> None:
    """Write a record and its figure in place of those of an earlier run."""
    with replacing(out / f"{name}.json", "w") as file:
        file.write(compact(record) + "\n")
    (out / f"{name}.png").unlink(missing_ok=True)
    if record["rows"]:
        save_figure(getattr(label_figures, f"draw_{name}")(record), out / f"{name}.png", dpi=100)
    print(f"{name}: {len(record['rows'])} rows, {len(record['statements'])} statements")


def _with_others(record: dict[str, Any], earlier: dict[str, Any]) -> dict[str, Any]:
    """Return the record with the rows of the earlier one on data sets that it lacks, in the earlier order."""
    names = [*dict.fromkeys([*earlier["environments"], *record["environments"]])]
    of = {name: record if name in record["environments"] else earlier for name in names}

    def belongs(data: str, name: str) -> bool:
        return re.split("[,:]", data)[0] == name

    merged = dict(record)
    for key in ("runs", "rows", "statements"):
        merged[key] = [row for name in names for row in of[name][key] if belongs(row["data"], name)]
    for key in ("curves", "environments"):
        merged[key] = {
            data: own for name in names for data, own in of[name][key].items() if belongs(data, name)
        }
    return merged


def compact(record: dict[str, Any]) -> str:
    """Return JSON with one line for each row and each statement.

    >>> print(compact({"title": "a", "rows": [{"b": 1.23456789}]}))
    {
     "title": "a",
     "rows": [
      {"b": 1.23457}
     ]
    }
    """

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rounded(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [rounded(item) for item in value]
        if isinstance(value, float):
            return float(f"{value:.6g}") if value == value else None
        return value

    parts = []
    for key, value in rounded(record).items():
        if isinstance(value, list) and value:
            lines = ",\n".join(f"  {json.dumps(item)}" for item in value)
            parts.append(f" {json.dumps(key)}: [\n{lines}\n ]")
        else:
            parts.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}"


def find_runs(folder: Path) -> Iterator[Run]:
    """Yield the checkpoints of a folder: a run, a folder of runs, or the final trials of a sweep.

    A run counts with its last epoch (late), and with the first checkpoint of its first half (early).

    >>> list(find_runs(Path(tempfile.mkdtemp())))
    []
    """
    if (folder / "trials").is_dir():
        trials = sorted((folder / "trials").glob("*/trial.json"))
        final = [path for path in trials if json.loads(path.read_text())["stage"] == "final"]
        places = [path.parent / "train" for path in final if (path.parent / "record.json").is_file()]
    elif (folder / "class_counts.json").is_file():
        places = [folder]
    else:
        places = sorted(path.parent for path in folder.glob("*/class_counts.json"))
    for place in places:
        epochs = {
            int(found[1]): path
            for path in place.glob("epoch_*.pth")
            if (found := re.fullmatch(r"epoch_(\d+)", path.stem))
        }
        if not epochs:
            continue
        cfg = run_config(place)
        loss, settings = _loss(cfg), _settings(cfg)
        if loss not in TITLES:
            continue
        last, seed = cfg.train_cfg.max_epochs, int((cfg.get("randomness") or {}).get("seed") or 0)
        early = [epoch for epoch in sorted(epochs) if 2 * epoch < last][:1]
        for epoch in [*early, *([last] if last in epochs else [])]:
            stage = LATE if epoch == last else EARLY
            yield Run(place, loss, seed, stage, epoch, epochs[epoch], settings)


def _head(cfg: Config) -> Any:
    head = cfg.model.get("decode_head") or cfg.model.get("head")
    head = head[-1] if isinstance(head, (list, tuple)) else head
    head = inside_cosine_head(head)
    loss = head.get("loss_decode") or head.get("loss")
    return loss[0] if isinstance(loss, (list, tuple)) else loss


def _loss(cfg: Config) -> str:
    """Return the name of the loss as of ``--loss``, or its type."""
    own = _head(cfg)
    for name, loss in (cfg.get("losses") or {}).items():
        if all(loss.get(key) == own.get(key) for key in ("type", "class_weight")):
            return str(name)
    return str(own["type"])


def _settings(cfg: Config) -> dict[str, Any]:
    optimizer = cfg.optim_wrapper.optimizer
    values = {"lr": optimizer.lr, "wd": optimizer.get("weight_decay", 0.0)}
    alpha = _head(cfg).get("alpha")
    return values if alpha is None else {**values, "alpha": alpha}


def _case(name: str, runs: list[Run], cache: Path) -> tuple[Case, list[dict[str, Any]]]:
    """Return the outputs of the runs on one data set; of equal runs the first counts."""
    found: dict[tuple[str, str], dict[int, dict[str, CheckpointOutputs]]] = {}
    rows = []
    for run in runs:
        seeds = found.setdefault((run.loss, run.stage), {})
        if run.seed in seeds:
            continue
        seeds[run.seed] = _outputs(name, run, cache)
        rows.append(
            {"data": name, **run._asdict(), "folder": run.folder.name, "checkpoint": run.checkpoint.name}
        )
        print(f"{name}: {run.loss}, seed {run.seed}, {run.stage}", file=sys.stderr)
    first = next(iter(next(iter(found.values())).values()))
    segmentation = first["val"].segmentation
    rows.sort(key=lambda row: (row["loss"], row["stage"], row["seed"]))
    ordered = {key: {seed: seeds[seed] for seed in sorted(seeds)} for key, seeds in sorted(found.items())}
    return Case(name, ordered, balanced=not segmentation, segmentation=segmentation), rows


def _outputs(name: str, run: Run, cache: Path) -> dict[str, CheckpointOutputs]:
    """Return the outputs on each split, from the cache or from the checkpoint.

    Without a test split, the second half of the validation images is held out.
    """
    stat = run.checkpoint.stat()
    source = f"{run.checkpoint.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    stem = f"{name}_{run.loss}_{run.seed}_{run.epoch}"
    outputs: dict[str, CheckpointOutputs] = {}
    runner: Any = None
    for split in ("train", "val", "test"):
        path = cache / f"{stem}_{split}.npz"
        known = CheckpointOutputs.load(path, source)
        none = cache / f"{stem}_{split}.none"
        if known is None and none.is_file() and none.read_text() == source:
            continue
        if known is None:
            runner = runner or _runner(run)
            segmentation = runner.cfg.get("default_scope") == "mmseg"
            try:
                images = _TRAIN_IMAGES if segmentation and split == "train" else None
                loader = ordered_loader(runner, split, images)
            except (FileNotFoundError, ValueError):  # copies of CamVid often lack the test split
                loader = None
            if loader is None:
                with replacing(none, "w") as file:
                    file.write(source)
                continue
            known = read_outputs(runner, run.checkpoint, loader)
            known.save(path, source)
        outputs[split] = known
    if "test" in outputs:
        outputs["held out"] = outputs.pop("test")
    else:
        outputs["val"], outputs["held out"] = outputs["val"].halves()
    return outputs


def _runner(run: Run) -> CommandRunner:
    cfg = run_config(run.folder)
    cfg.work_dir = tempfile.mkdtemp()
    cfg.load_from, cfg.resume, cfg.log_level = None, False, "ERROR"
    with plain_data_only(False):
        return CommandRunner.from_cfg(cfg)
