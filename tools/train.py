"""Train a config of mmseol, MMSegmentation or MMPretrain.

python tools/train.py CONFIG --loss outlying_mse:alpha=6 --seed 1 --data-root DIR
python tools/train.py CONFIG --loss ce --imbalance long_tailed:100 --seed 1 --data-root DIR
"""

from argparse import ArgumentParser
from urllib.error import URLError

from mmengine.runner import Runner

from mmseol import experiment
from mmseol.experiment.arguments import (
    add_run_arguments,
    default_work_dir,
    is_main,
    load_config,
    start_cpu_process_group,
)


def main() -> None:
    """Read the arguments and run."""
    parser = ArgumentParser(description="Train a model.")
    parser.add_argument("config", help="config file")
    parser.add_argument(
        "--imbalance",
        metavar="PROFILE:RATIO[:key=value,...]",
        help="cut the training data, long_tailed:100 or step:10:seed=1,protocol=cao2019 (classification)",
    )
    parser.add_argument(
        "--retrain-classifier",
        nargs=2,
        metavar=("{crt,lws}", "CHECKPOINT"),
        help="train a new classifier, or one scale a class, on the features of this finished run",
    )
    parser.add_argument("--seed", type=int, help="seed of initialisation, data order and augmentation")
    parser.add_argument("--amp", action="store_true", help="mixed precision (needs a GPU)")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="continue the run of the work dir from its last checkpoint, or from this one",
    )
    add_run_arguments(parser)
    args = parser.parse_args()
    try:
        cfg = load_config(args)
        cfg.work_dir = args.work_dir or cfg.get("work_dir") or default_work_dir(args)
        if args.amp:
            experiment.set_amp(cfg)
        if args.resume:
            cfg.resume = True
            cfg.load_from = None if args.resume == "auto" else args.resume
        if is_main():
            experiment.check_work_dir(cfg, resume=cfg.get("resume", False))
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    start_cpu_process_group(args.launcher)
    runner = Runner.from_cfg(cfg)
    try:
        runner.train()
    except URLError as error:
        raise SystemExit(experiment.explain_download(cfg, error)) from error


if __name__ == "__main__":
    main()
