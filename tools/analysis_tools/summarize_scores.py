"""Summarise the test scores of several methods: mean and standard deviation over their runs.

    python tools/analysis_tools/summarize_scores.py --runs "cross entropy=DIR1,DIR2,DIR3" \
        "outlying MSE=DIR4,DIR5,DIR6" --out results/NAME/record.json

Each DIR is a work directory of tools/test.py that holds class_scores_test.json of mmseol.ClassBalanceMetric.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from mmseol.analysis.records.run_records import scores_record, written_scores
from mmseol.analysis.records.training_runs import tuning_rows
from mmseol.analysis.tabulation.markdown import markdown
from mmseol.utils.files import replacing


def main() -> None:
    """Read the arguments and run."""
    parser = ArgumentParser(description="Summarise test scores over seeds.")
    parser.add_argument("--runs", nargs="+", metavar="TITLE=DIR,DIR,...", required=True)
    parser.add_argument("--title", default="")
    parser.add_argument("--commands", nargs="+", default=[], help="command lines of the runs, for the record")
    parser.add_argument("--note", help="further facts for the record")
    parser.add_argument(
        "--tuning",
        nargs="+",
        metavar="LOSS=DIR,DIR,...",
        help="work dirs of tools/train.py whose learning rates and validation scores go into the record",
    )
    parser.add_argument("--out", type=Path, required=True, help="record to write (JSON)")
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f"`--out` {str(args.out)!r} exists; name another file or remove it first.")
    runs = {}
    for item in args.runs:
        title, _, folders = item.partition("=")
        runs[title] = [written_scores(Path(folder)) for folder in folders.split(",")]
    extra: dict[str, Any] = {"note": args.note} if args.note else {}
    if args.tuning:
        extra["tuning"] = tuning_rows(args.tuning)
    record = scores_record(args.title, args.commands, runs, **extra)
    with replacing(args.out, "w") as file:
        file.write(json.dumps(record, indent=1) + "\n")
    print(markdown(record))


if __name__ == "__main__":
    main()
