"""Commands of the command line, and the arguments that several of them have.

Only the standard library is imported here: ``--help`` and wrong arguments answer at once.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Mapping
from typing import NamedTuple

__all__ = [
    "Command",
    "CommandGroup",
    "add_config",
    "add_data",
    "add_imbalance",
    "add_loss",
    "add_run",
    "add_settings",
    "add_workers",
]


class Command(NamedTuple):
    """A verb: its help, its arguments, and its module.

    The module has ``prepare_VERB(args)``, which checks the arguments and returns what the run needs, and
    ``run_VERB(prepared, args)``; a dash in the verb is an underscore there.

    >>> Command("Train a config.", add_config, "mmseol.experiment.commands").help
    'Train a config.'
    """

    help: str
    add_arguments: Callable[[ArgumentParser], None]
    module: str


class CommandGroup(NamedTuple):
    """A verb with subcommands, each a :class:`Command`.

    >>> CommandGroup("Draw figures.", {}).commands
    {}
    """

    help: str
    commands: Mapping[str, Command]


def add_config(parser: ArgumentParser) -> None:
    """Add ``config``.

    >>> parser = ArgumentParser()
    >>> add_config(parser)
    >>> parser.parse_args(["quickstart/digits.py"]).config
    'quickstart/digits.py'
    """
    parser.add_argument("config", help="config file, or a config of mmseol such as cifar/resnet32_cifar10.py")


def add_loss(parser: ArgumentParser) -> None:
    """Add ``--loss``.

    >>> parser = ArgumentParser()
    >>> add_loss(parser)
    >>> parser.parse_args(["--loss", "focal:gamma=1"]).loss
    'focal:gamma=1'
    """
    parser.add_argument("--loss", metavar="NAME[:key=value,...]", help="loss of every head, by name")


def add_settings(parser: ArgumentParser) -> None:
    """Add the arguments of all commands that read a config: ``--unsafe-load`` and ``--cfg-options``.

    >>> parser = ArgumentParser()
    >>> add_settings(parser)
    >>> parser.parse_args(["--cfg-options", "a=1", "b=2"]).cfg_options
    ['a=1', 'b=2']
    """
    parser.add_argument(
        "--unsafe-load",
        action="store_true",
        help="read checkpoints that could run code; only from authors whom you trust",
    )
    _add_options(parser)


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action="extend",
        metavar="KEY=VALUE",
        help="change single settings of the config; applied last",
    )


def add_imbalance(parser: ArgumentParser) -> None:
    """Add ``--imbalance``.

    >>> parser = ArgumentParser()
    >>> add_imbalance(parser)
    >>> parser.parse_args(["--imbalance", "step:10"]).imbalance
    'step:10'
    """
    parser.add_argument(
        "--imbalance",
        metavar="PROFILE:RATIO[:key=value,...]",
        help="cut the training data, long_tailed:100 or step:10:seed=1,protocol=cao2019 (classification)",
    )


def add_data(parser: ArgumentParser) -> None:
    """Add the arguments of commands that look at the data of a config, and load and write no checkpoint.

    >>> parser = ArgumentParser()
    >>> add_data(parser)
    >>> sorted(vars(parser.parse_args([])))
    ['cfg_options', 'data_root', 'imbalance']
    """
    parser.add_argument("--data-root", metavar="DIR", help="read every data set from this folder")
    add_imbalance(parser)
    _add_options(parser)


def add_run(parser: ArgumentParser) -> None:
    """Add the arguments that training and testing have in common.

    >>> parser = ArgumentParser()
    >>> add_run(parser)
    >>> parser.parse_args(["--data-root", "data/camvid"]).data_root
    'data/camvid'
    """
    parser.add_argument("--work-dir", help="folder of logs and checkpoints")
    add_loss(parser)
    parser.add_argument("--data-root", metavar="DIR", help="read every data set from this folder")
    add_settings(parser)
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)  # torch.distributed.launch


def add_workers(parser: ArgumentParser) -> None:
    """Add ``--workers`` of commands that count label maps.

    >>> parser = ArgumentParser()
    >>> add_workers(parser)
    >>> parser.parse_args(["--workers", "2"]).workers
    2
    """
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes that read label maps (default: one per core)"
    )
