"""Command line: ``python -m mmseol VERB ...``; ``tools/VERB.py`` are the same commands.

Only the standard library is imported before the arguments are read, so that ``--help`` and wrong
arguments answer at once.
"""

from __future__ import annotations

import shlex
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from traceback import extract_tb
from typing import Any

from mmseol.analysis.subcommands import ANALYSES
from mmseol.utils.arguments import (
    Command,
    CommandGroup,
    add_config,
    add_data,
    add_imbalance,
    add_loss,
    add_run,
    add_settings,
    add_workers,
)

__all__ = ["main"]

_HELP = ("-h", "--help")


def main(verb: str | None = None, arguments: Sequence[str] | None = None) -> None:
    """Run a command.

    >>> main("trian")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    SystemExit: error: the command must be one of train, test, predict, ..., got 'trian'.

    Args:
        verb: Name of the command; ``None`` reads it from the arguments.
        arguments: Arguments of the command; ``None`` reads ``sys.argv``.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    program = Path(sys.argv[0]).name
    if verb is None:
        program = "python -m mmseol"
        verb, *arguments = arguments or ["--help"]
        if verb in _HELP:
            print(_overview(program, COMMANDS))
            return
        program += f" {verb}"
    command = _find(verb, COMMANDS)
    if isinstance(command, CommandGroup):
        verb, *arguments = arguments or ["--help"]
        if verb in _HELP:
            print(_overview(program, command.commands))
            return
        program += f" {verb}"
        command = _find(verb, command.commands)
    _run(verb, command, program, arguments)


def _find(verb: str, commands: Mapping[str, Any]) -> Any:
    if verb not in commands:
        raise SystemExit(f"error: the command must be one of {', '.join(commands)}, got {verb!r}.")
    return commands[verb]


def _run(verb: str, command: Command, program: str, arguments: Sequence[str]) -> None:
    parser = ArgumentParser(prog=program, description=command.help)
    command.add_arguments(parser)
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
    args = parser.parse_args(arguments)
    args.command_line = f"{program} {shlex.join(arguments)}"
    module = import_module(command.module)
    try:
        cfg = getattr(module, f"prepare_{verb.replace('-', '_')}")(args)
    except Exception as error:
        if args.traceback or not (isinstance(error, (ValueError, OSError)) or _is_expected(error)):
            raise
        parser.error(str(error))
    try:
        getattr(module, f"run_{verb.replace('-', '_')}")(cfg, args)
    except Exception as error:
        if args.traceback or not _is_expected(error):
            raise
        raise SystemExit(f"error: {_text(error)}{_place(error, cfg)}") from error


def _is_expected(error: BaseException | None) -> bool:
    """Whether the error tells a user what to do: files, packages, a full disk, and what mmseol refuses."""
    from mmseol.utils.files import disk_is_full

    hosts = ("is not in the", "unexpected keyword argument")  # a misspelt type, a misspelt key
    if isinstance(error, (FileNotFoundError, ImportError)) or any(words in str(error) for words in hosts):
        return True
    if error is not None and disk_is_full(error):
        return True
    while error is not None:  # mmengine may raise the error of a constructor anew
        frames = extract_tb(error.__traceback__)
        own = bool(frames) and Path(frames[-1].filename).is_relative_to(Path(__file__).parent)
        if own and (frames[-1].line or "").startswith("raise"):
            return True
        error = error.__cause__ or error.__context__
    return False


def _text(error: Exception) -> str:
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


def _place(error: Exception, cfg: Any) -> str:
    """Return the work directory where a host's file does not fit on the disk and the error names none."""
    from mmseol.utils.files import disk_is_full

    unnamed = disk_is_full(error) and getattr(error, "filename", None) is None
    return f" (in {cfg.work_dir})" if unnamed and cfg.get("work_dir") else ""


def _overview(program: str, commands: Mapping[str, Command | CommandGroup]) -> str:
    lines = [f"  {verb:<15}{command.help}" for verb, command in commands.items()]
    return "\n".join([f"usage: {program} COMMAND ...", "", *lines, "", f"{program} COMMAND -h says more."])


def _train(parser: ArgumentParser) -> None:
    add_config(parser)
    add_imbalance(parser)
    parser.add_argument(
        "--retrain-classifier",
        nargs=2,
        metavar=("{crt,lws}", "CHECKPOINT"),
        help="train a new classifier, or one scale per class, on the features of this finished run",
    )
    parser.add_argument("--seed", type=int, help="seed of initialisation, data order and augmentation")
    parser.add_argument("--amp", action="store_true", help="mixed precision (needs a GPU)")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="continue the run of the work directory from its last checkpoint, or from this one",
    )
    parser.add_argument(
        "--force-resume",
        action="store_true",
        help="resume with another model, loss, imbalance or data than the run had",
    )
    add_run(parser)


def _test(parser: ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument(
        "--split", choices=["val", "test"], default="val", help="split to score (default: val)"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="write the predicted label maps, or predictions.json, there"
    )
    parser.add_argument("--show-dir", metavar="DIR", help="write pictures of the predictions there")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation")
    add_run(parser)


def _predict(parser: ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("image", help="image file, or folder of images")
    parser.add_argument(
        "--out",
        help="picture (.png) of one image, or new or empty folder of label maps, pictures and "
        "predictions.json (default: prediction.png, or predictions)",
    )
    parser.add_argument("--scores", action="store_true", help="also write raw outputs or scores (.npz)")
    parser.add_argument("--opacity", type=float, default=0.5, help="of the label map, 0 to 1 (default: 0.5)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda:0, ...")
    add_loss(parser)
    add_settings(parser)


def _count(parser: ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument(
        "--split",
        nargs="+",
        choices=["train", "val", "test"],
        default=["train"],
        help="data to count (default: train)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="new or empty folder: class_counts.json, class_weights.json and a picture are written there",
    )
    add_workers(parser)
    add_data(parser)


def _doctor(parser: ArgumentParser) -> None:
    parser.add_argument(
        "config", nargs="?", help="config file; without it, the installation alone is checked"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument(
        "--no-model",
        dest="model",
        action="store_false",
        help="neither build the model nor run an iteration of it",
    )
    parser.add_argument("--device", help="of the model: cpu or cuda (default: cuda where there is one)")
    add_workers(parser)
    add_loss(parser)
    add_data(parser)


def _advise(parser: ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="print counts, advice and evidence as JSON")
    add_workers(parser)
    add_data(parser)


def _sweep(parser: ArgumentParser) -> None:
    parser.add_argument("file", help="sweep file, one of mmseol such as sweeps/digits.py, or `status`")
    parser.add_argument("folder", nargs="?", help="after `status`: work directory of a sweep")
    parser.add_argument("--work-dir", help="folder of the trials (default: work_dirs/sweeps/NAME)")
    parser.add_argument("--data-root", metavar="DIR", help="read every data set from this folder")
    parser.add_argument(
        "--engine", default="local", help="local (default: processes here), ray (a cluster) or slurm"
    )
    parser.add_argument("--slots", type=int, metavar="N", help="trials at a time")
    parser.add_argument("--address", help="HOST:PORT of the ray cluster, auto (default) or local")
    parser.add_argument(
        "--engine-options", nargs="+", action="extend", metavar="KEY=VALUE", help="as gpus_per_trial=0.5"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="run these losses, configs or imbalances of the sweep"
    )
    parser.add_argument(
        "--budget", type=float, metavar="HOURS", help="start nothing that would end later than this"
    )
    parser.add_argument("--epochs", type=int, help="of the final trainings; rungs in proportion")
    parser.add_argument("--iterations", type=int, help="the same where the configs train by iterations")
    parser.add_argument("--seeds", type=int, nargs="+", help="of the final trainings")
    parser.add_argument(
        "--keep-checkpoints",
        action="store_true",
        help="keep the last and the best checkpoint of final trainings",
    )
    parser.add_argument(
        "--keep-every", type=int, metavar="N", help="keep those of every N epochs, or iterations, as well"
    )
    parser.add_argument("--dry-run", action="store_true", help="print every command and its estimated cost")
    parser.add_argument("--retry-failed", action="store_true", help="run failed trials again")
    parser.add_argument(
        "--any-version", action="store_true", help="take finished trials of other versions of the code"
    )
    parser.add_argument("--watch", action="store_true", help="with `status`: refresh until Ctrl-C")
    parser.add_argument(
        "--cfg-options", nargs="+", action="extend", metavar="KEY=VALUE", help="of every trial"
    )


def _tune_decision(parser: ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("--out", metavar="DIR", help="new or empty folder (default: CHECKPOINT_decision)")
    parser.add_argument(
        "--objective",
        metavar="NAME",
        help="score to be best: mIoU (default in segmentation), balanced_accuracy (default in "
        "classification), macro_f1, worst_class, g_mean, accuracy",
    )
    parser.add_argument("--floor", nargs="+", metavar="NAME=PERCENT", help="least values of further scores")
    parser.add_argument(
        "--family",
        nargs="+",
        choices=["prior", "counts", "targets"],
        default=["prior"],
        help="decisions to score: outputs as probabilities over counts^t, outputs over counts^t, outputs "
        "times ranks^t (default: prior)",
    )
    parser.add_argument("--strengths", nargs="+", type=float, metavar="T", help="values of t to score")
    parser.add_argument(
        "--free",
        action="store_true",
        help="also fit one factor per class, in a second pass, and take them if they gain out of fold",
    )
    parser.add_argument("--value", type=float, metavar="T", help="take this t, without a search")
    parser.add_argument(
        "--kind",
        choices=["multiplicative", "additive"],
        help="of the decision: for squared errors, or for softmax losses (default: as the loss says)",
    )
    parser.add_argument("--counts", metavar="FILE", help="class_counts.json of the training data")
    parser.add_argument("--classifier", metavar="NAME", help="layer that classifies (default: the host's)")
    parser.add_argument("--folds", type=int, default=5, help="of the cross-validation (default: 5)")
    parser.add_argument("--allow-absent", action="store_true", help="validation data may lack classes")
    parser.add_argument(
        "--validation-is-test", action="store_true", help="the config tests on its validation data"
    )
    add_run(parser)


def _tables(parser: ArgumentParser) -> None:
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="work directories of sweeps, or one record of results/"
    )
    parser.add_argument("--out", metavar="DIR", help="write tables.md, tables.tex and tables.json there")
    parser.add_argument("--record", metavar="FILE", help="write one compact record, and a page beside it")
    parser.add_argument(
        "--parts",
        nargs="+",
        metavar="PART",
        help="scores, short, comparison, runs, classes, tuning, table1 .. 7, tablelt (default: all)",
    )
    parser.add_argument(
        "--reference", metavar="LOSS", help="loss that the others are compared with (default: ce)"
    )
    parser.add_argument(
        "--checkpoint",
        choices=["last", "best_on_validation"],
        default="last",
        help="epoch whose scores are shown (default: last)",
    )
    parser.add_argument(
        "--resamples", type=int, default=2000, help="of the images, for an interval (default: 2000)"
    )
    parser.add_argument("--title", default="", help="data set, network and split")
    parser.add_argument("--note", help="further facts for the record")


def _report(parser: ArgumentParser) -> None:
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="[NAME=]WORK_DIR",
        help="of a training or test, of several to compare, or of sweeps; or one record of results/",
    )
    parser.add_argument(
        "--out", nargs="+", required=True, metavar="FILE", help="new page: .html (one file), .md, or both"
    )
    parser.add_argument("--title", default="", help="heading (default: the names)")
    parser.add_argument("--force", action="store_true", help="replace an existing page")


COMMANDS: dict[str, Command | CommandGroup] = {
    "train": Command(
        "Train a config of mmseol, MMSegmentation or MMPretrain.", _train, "mmseol.experiment.commands"
    ),
    "test": Command("Score a checkpoint.", _test, "mmseol.experiment.commands"),
    "predict": Command(
        "Predict images: label maps or classes, pictures.",
        _predict,
        "mmseol.experiment.prediction",
    ),
    "count": Command(
        "Count the classes of the data, with the class weights that follow.",
        _count,
        "mmseol.experiment.counted_classes",
    ),
    "doctor": Command(
        "Check the installation, or a config before it is trained; exit status 1 if there is a fault.",
        _doctor,
        "mmseol.experiment.diagnosis.command",
    ),
    "advise": Command(
        "Look at the data of a config, and say what recorded runs advise for such data.",
        _advise,
        "mmseol.experiment.advice",
    ),
    "sweep": Command(
        "Tune every loss by the same budget on validation data, then train and score several seeds.",
        _sweep,
        "mmseol.sweeps.command_line",
    ),
    "tables": Command(
        "Make tables of the records of sweeps.", _tables, "mmseol.analysis.tabulation.sweep_report"
    ),
    "tune-decision": Command(
        "Choose the decision of a checkpoint on validation data, after training.",
        _tune_decision,
        "mmseol.experiment.decision_tuning",
    ),
    "report": Command(
        "Write a page about runs: settings, counts, scores, curves, pictures.",
        _report,
        "mmseol.analysis.reporting.report_command",
    ),
    "analyze": CommandGroup("Draw features, predictions and scores.", ANALYSES),
}

if __name__ == "__main__":
    main()
