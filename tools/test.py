"""Score a checkpoint on the validation split, or on the test split when all choices are made.

python tools/test.py CONFIG CHECKPOINT --data-root DIR
python tools/test.py CONFIG CHECKPOINT --split test --data-root DIR
"""

from argparse import ArgumentParser
from pathlib import Path

from mmengine.runner import Runner

from mmseol import experiment
from mmseol.experiment.arguments import add_run_arguments, load_config, start_cpu_process_group


def main() -> None:
    """Read the arguments and run."""
    parser = ArgumentParser(description="Test a checkpoint.")
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument(
        "--split", choices=["val", "test"], default="val", help="split to score (default: val)"
    )
    parser.add_argument("--out", metavar="DIR", help="write the predicted label maps there (segmentation)")
    parser.add_argument("--show-dir", metavar="DIR", help="write pictures of the predictions there")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation")
    add_run_arguments(parser)
    args = parser.parse_args()
    try:
        if not Path(args.checkpoint).is_file():
            raise FileNotFoundError(f"`checkpoint` must be an existing file, got {args.checkpoint!r}.")
        cfg = load_config(args)
        experiment.check_classifier(cfg, args.checkpoint)
        # Not the folder of the training run: the runner writes the config it was given there.
        cfg.work_dir = args.work_dir or str(Path(args.checkpoint).parent / f"test_{args.split}")
        experiment.set_split(cfg, args.split)
        if args.tta:
            experiment.set_test_time_augmentation(cfg)
        if args.out:
            experiment.set_prediction_folder(cfg, args.out)
        if args.show_dir:
            experiment.set_show_folder(cfg, args.show_dir)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    cfg.load_from = args.checkpoint
    cfg.resume = False
    start_cpu_process_group(args.launcher)
    Runner.from_cfg(cfg).test()


if __name__ == "__main__":
    main()
