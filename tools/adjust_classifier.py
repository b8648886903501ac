"""Adjust the classifier of a finished checkpoint against class imbalance, without training.

    python tools/adjust_classifier.py CHECKPOINT --method tau_norm --tau 0.5 0.7 1 --out DIR
    python tools/adjust_classifier.py CHECKPOINT --method logit_adjustment --tau 1 --out DIR

tau_norm (Kang et al., ICLR 2020) divides the weights of each class by their norm to the power of tau;
logit_adjustment (Menon et al., ICLR 2021) subtracts tau * log(share of the class in the training data), for
losses on a softmax. Each tau gives one file, which any test tool takes. Choose tau by the scores on the
validation split, then open the test split once.
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from typing import get_args

from mmseol.classifiers.checkpoints import Method, adjust_checkpoint
from mmseol.counting.counts import load_counts


def main() -> None:
    """Read the arguments and write the checkpoints."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="checkpoint file")
    parser.add_argument("--method", choices=get_args(Method), required=True)
    parser.add_argument("--tau", type=float, nargs="+", required=True, help="strength; 0 changes no weight")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the new files")
    parser.add_argument(
        "--class-counts", metavar="FILE", help="class_counts.json (default: the checkpoint's)"
    )
    parser.add_argument("--classifier", metavar="NAME", help="layer that classifies (default: the host's)")
    parser.add_argument("--keep-bias", action="store_true", help="tau_norm: do not set the bias to 0")
    parser.add_argument("--unsafe-load", action="store_true", help="read a checkpoint that could run code")
    args = parser.parse_args()
    try:
        if not args.checkpoint.is_file():
            raise FileNotFoundError(f"`checkpoint` must be an existing file, got {str(args.checkpoint)!r}.")
        counts = None if args.class_counts is None else load_counts(args.class_counts)
        files = {args.out / f"{args.checkpoint.stem}_{args.method}_{tau:g}.pth": tau for tau in args.tau}
        for out in files:
            if out.exists():
                raise FileExistsError(f"`--out` already holds {str(out)!r}; name another folder.")
        for out, tau in files.items():
            options = (args.classifier, counts, args.keep_bias, args.unsafe_load)
            adjust_checkpoint(args.checkpoint, out, args.method, tau, *options)
            print(out)
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
