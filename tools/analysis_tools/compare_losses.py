"""Train a config once per loss, and write a record of scores and costs.

    python tools/analysis_tools/compare_losses.py configs/camvid/fastfcn_r18.py --losses ce dice mse \
        --data-root DIR --work-dir work_dirs/losses --out results/NAME/record.json

The checkpoint of the last epoch is scored, so that no epoch is chosen. Repeat the command to continue an
interrupted comparison: finished runs in the work directory are not repeated. One learning rate serves all
losses unless `--options-of LOSS optim_wrapper.optimizer.lr=RATE` gives a loss its own.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from itertools import product
from pathlib import Path

from mmengine.config import Config

from mmseol.analysis.markdown import markdown
from mmseol.analysis.records import SCORES, SEG_SCORES, scores_record
from mmseol.analysis.training_runs import TrainingRun, run_all
from mmseol.experiment.loss import known_losses
from mmseol.utils.files import replacing
from mmseol.utils.processes import warm_yapf

TOOLS = Path(__file__).parents[1]


def main() -> None:
    """Read the arguments and run."""
    parser = ArgumentParser(description="Compare losses on one config.")
    parser.add_argument("config", help="config file")
    parser.add_argument("--losses", nargs="+", metavar="NAME[:key=value,...]", help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--split", choices=["val", "test"], default="val", help="split to score")
    parser.add_argument("--imbalance", metavar="PROFILE:RATIO")
    parser.add_argument("--data-root", metavar="DIR")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--options-of",
        nargs="+",
        action="append",
        default=[],
        metavar=("LOSS", "KEY=VALUE"),
        help="further --cfg-options for one loss: --options-of cdb_ce train_cfg.val_interval=1",
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--title", default="")
    parser.add_argument("--note", help="further facts for the record")
    parser.add_argument("--out", type=Path, required=True, help="record to write (JSON)")
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f"`--out` {str(args.out)!r} exists; name another file or remove it first.")
    cfg = Config.fromfile(args.config)
    losses = args.losses or sorted(known_losses(cfg))

    data = ["--data-root", args.data_root] if args.data_root else []
    further = {loss: options for loss, *options in args.options_of}
    if unknown := further.keys() - set(losses):
        parser.error(f"`--options-of` must name losses that are compared, got {', '.join(sorted(unknown))}.")
    cut = ["--imbalance", args.imbalance] if args.imbalance else []
    shared = ["--cfg-options", *args.cfg_options] if args.cfg_options else []
    shown = [
        " ".join(["tools/train.py", args.config, "--loss LOSS --seed SEED --data-root DIR", *cut, *shared]),
        " ".join(["tools/test.py", args.config, "LAST_CHECKPOINT --loss LOSS --split", args.split, *shared]),
        *(f"{loss} also with {' '.join(options)}" for loss, options in further.items()),
    ]
    runs = {}
    for loss, seed in product(losses, args.seeds):
        options = [*args.cfg_options, *further.get(loss, [])]
        options = ["--cfg-options", *options] if options else []
        runs[loss, seed] = TrainingRun(
            args.work_dir / f"{loss.replace(':', '-').replace('/', '_')}_seed{seed}",
            [args.config, "--loss", loss, "--seed", str(seed), *cut, *data, *options],
            [args.config, "--loss", loss, "--split", args.split, *data, *options],
        )
    warm_yapf()
    results = dict(zip(runs, run_all(list(runs.values()), TOOLS, args.jobs), strict=True))
    failed = {f"{loss}, seed {seed}": r["failed"] for (loss, seed), r in results.items() if "failed" in r}
    rows = {
        loss: [results[loss, seed] for seed in args.seeds if "failed" not in results[loss, seed]]
        for loss in losses
    }
    extra = {"note": args.note} if args.note else {}
    extra |= {"seeds": args.seeds, "jobs": args.jobs} | ({"failed": failed} if failed else {})
    headings = SEG_SCORES if cfg.get("default_scope") == "mmseg" else SCORES
    record = scores_record(args.title, shown, rows, headings, **extra)
    with replacing(args.out, "w") as file:
        file.write(json.dumps(record, indent=1) + "\n")
    print(markdown(record))


if __name__ == "__main__":
    main()
