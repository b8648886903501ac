"""Subcommands of ``python -m mmseol analyze``: their help, arguments and modules.

Only the standard library is imported here: ``--help`` and wrong arguments answer at once.
"""

from __future__ import annotations

from argparse import ArgumentParser

from mmseol.utils.arguments import Command, add_config, add_data, add_loss, add_settings

__all__ = ["ANALYSES"]

_SCORES = ("IoU", "F1", "precision", "recall")
_FIGURES = "mmseol.analysis.figure_commands"


def _distribution(parser: ArgumentParser) -> None:
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="[NAME=]SOURCE",
        help="class_counts.json, a work directory, or a config, whose data is counted",
    )
    parser.add_argument(
        "--split",
        nargs="+",
        choices=["train", "val", "test"],
        default=["train"],
        help="data of a config (default: train)",
    )
    parser.add_argument("--classes", nargs="+", metavar="CLASS", help="names, where no source tells them")
    parser.add_argument("--unit", help="pixels, images, ... (default: as counted)")
    _picture(parser)
    add_data(parser)


def _score_lines(parser: ArgumentParser) -> None:
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="[NAME=]SOURCE",
        help="work directories of runs, those of sweeps, or one record of results/",
    )
    parser.add_argument("--score", choices=_SCORES, help="(default: IoU of segmentation, else recall)")
    parser.add_argument(
        "--only", metavar="TEXT", help="part of config, imbalance or split, of a sweep of several"
    )
    parser.add_argument("--counts", metavar="FILE", help="class_counts.json of the training data")
    _picture(parser)


def _confusion(parser: ArgumentParser) -> None:
    parser.add_argument(
        "source", help="work directory of a test or training, trial of a sweep, or class_scores_*.json"
    )
    _picture(parser)


def _curves(parser: ArgumentParser) -> None:
    parser.add_argument("work_dir", help="work directory of a training")
    parser.add_argument("--score", choices=_SCORES, help="(default: IoU of segmentation, else recall)")
    _picture(parser)


def _picture(parser: ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="FILE", help="new picture: .png, .pdf or .svg")
    parser.add_argument("--title", default="", help="text above the figure")


def _features(parser: ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("--out", required=True, metavar="FILE.npz", help="new file of features and outputs")
    parser.add_argument(
        "--split", choices=["val", "test"], default="val", help="split to read (default: val)"
    )
    parser.add_argument(
        "--per-class",
        type=int,
        default=500,
        metavar="N",
        help="images or pixels of each class (default: 500)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of images or pixels (default: 0)")
    parser.add_argument("--counts", metavar="FILE", help="class_counts.json of the training data")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda:0, ...")
    parser.add_argument("--classifier", metavar="NAME", help="layer that classifies (default: the host's)")
    parser.add_argument("--data-root", metavar="DIR", help="read every data set from this folder")
    add_loss(parser)
    add_settings(parser)


def _tsne(parser: ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", metavar="FILE.npz", help="files of `analyze features`, one a loss"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="new picture: .png, .pdf or .svg")
    parser.add_argument("--dpi", type=int, default=150, help="pixels per inch of a .png (default: 150)")
    parser.add_argument("--titles", nargs="+", metavar="TITLE", help="of the files (default: their names)")
    parser.add_argument(
        "--method", choices=["tsne", "umap"], default="tsne", help="umap needs umap-learn (default: tsne)"
    )
    parser.add_argument("--perplexity", type=float, default=30.0, help="of t-SNE (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the embedding (default: 0)")


def _outlying_label(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--runs",
        nargs="+",
        required=True,
        metavar="NAME=DIR[,DIR...]",
        help="data set and its runs with ce, mse, outlying_mse, balanced_softmax or vs: work directories of "
        "sweeps, of trainings, or folders of these; of runs with the same loss and seed the first counts",
    )
    parser.add_argument(
        "--out",
        default="results/outlying_label",
        metavar="DIR",
        help="folder of records and figures (default: results/outlying_label)",
    )
    parser.add_argument(
        "--work-dir",
        default="work_dirs/outlying_label",
        metavar="DIR",
        help="folder of the outputs that are read only once (default: work_dirs/outlying_label)",
    )
    parser.add_argument(
        "--alpha", action="store_true", help="also search alpha and learning rate of a perceptron (minutes)"
    )


def _predictions(parser: ArgumentParser) -> None:
    parser.add_argument(
        "pairs",
        nargs="+",
        metavar="CONFIG CHECKPOINT",
        help="a config and its checkpoint for each loss; the data are those of the first config",
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="new picture: .png, .pdf or .svg")
    parser.add_argument("--dpi", type=int, default=150, help="pixels per inch of a .png (default: 150)")
    parser.add_argument(
        "--titles", nargs="+", metavar="TITLE", help="of the losses (default: folders of the checkpoints)"
    )
    parser.add_argument(
        "--split", choices=["val", "test"], default="val", help="split to read (default: val)"
    )
    parser.add_argument(
        "--classes", nargs="+", metavar="NAME", help="classes that matter (default: the rarest third)"
    )
    parser.add_argument("--images", type=int, metavar="N", help="to draw (default: 4 label maps, 18 images)")
    parser.add_argument(
        "--palette",
        choices=["safe", "data"],
        default="safe",
        help="colours that colour-blind people tell apart, or those of the data set (default: safe)",
    )
    parser.add_argument("--counts", metavar="FILE", help="class_counts.json of the training data")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda:0, ...")
    parser.add_argument("--data-root", metavar="DIR", help="read every data set from this folder")
    add_settings(parser)


ANALYSES: dict[str, Command] = {
    "features": Command(
        "Write the features and raw outputs of a checkpoint, equally many of each class.",
        _features,
        "mmseol.experiment.feature_extraction",
    ),
    "outlying-label": Command(
        "Measure on trained networks what the outlying label does.",
        _outlying_label,
        "mmseol.analysis.outlying_label.label_command",
    ),
    "tsne": Command(
        "Draw the features of several losses side by side, with numbers that say how far classes lie apart.",
        _tsne,
        "mmseol.analysis.figures.embedding",
    ),
    "distribution": Command(
        "Draw the counts of each class, of one or more data sets.", _distribution, _FIGURES
    ),
    "scores": Command("Draw the score of each class against its training count.", _score_lines, _FIGURES),
    "confusion": Command("Draw a confusion matrix in per cent of the truth.", _confusion, _FIGURES),
    "curves": Command("Draw the score of each class over the course of a training.", _curves, _FIGURES),
    "predictions": Command(
        "Draw the images whose predictions differ most on rare classes, with truth and errors.",
        _predictions,
        "mmseol.experiment.side_by_side_predictions",
    ),
}
"""Each subcommand's module has ``prepare_NAME`` and ``run_NAME``."""
