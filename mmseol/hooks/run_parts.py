"""Find the parts of a run that hooks work on: losses and metrics by their methods, and the training data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.runner import EpochBasedTrainLoop
from torch import nn

from mmseol.utils.modules import averaged_copies

__all__ = [
    "agreed",
    "averaged_losses",
    "counting_losses",
    "counting_metrics",
    "dependent_losses",
    "from_heads",
    "losses_with",
    "missing_hooks",
    "progress",
    "train_dataset",
    "train_sampler",
    "validation_was_due",
]


def losses_with(model: nn.Module, method: str) -> list[tuple[str, Any]]:
    """Return the modules that have the method, with their names.

    >>> from mmseol.losses import CDBLoss
    >>> losses_with(nn.ModuleDict({"head": nn.ModuleDict({"loss": CDBLoss()})}), "set_class_difficulty")
    [('head.loss', CDBLoss())]
    """
    return [(name, part) for name, part in model.named_modules() if callable(getattr(part, method, None))]


def counting_losses(model: nn.Module) -> list[tuple[str, Any]]:
    """Return the modules that have ``set_class_counts``, with their names.

    >>> from mmseol.losses import OutlyingMSELoss
    >>> model = nn.ModuleDict({"backbone": nn.Identity(), "loss": OutlyingMSELoss()})
    >>> [name for name, _ in counting_losses(model)]
    ['loss']
    """
    return losses_with(model, "set_class_counts")


def averaged_losses(runner: Any, method: str = "set_class_counts") -> list[Any]:
    """Return the modules with the method in the averaged models of the run (``EMAHook``).

    >>> from types import SimpleNamespace
    >>> from mmseol.losses import OutlyingMSELoss
    >>> hook = SimpleNamespace(ema_model=nn.ModuleDict({"loss": OutlyingMSELoss()}))
    >>> [type(loss).__name__ for loss in averaged_losses(SimpleNamespace(hooks=[hook]))]
    ['OutlyingMSELoss']
    """
    return [loss for copy in averaged_copies(runner) for _, loss in losses_with(copy, method)]


def dependent_losses(losses: Iterable[tuple[str, Any]]) -> list[str]:
    """Return the names of the losses that need class counts and were not given any.

    >>> from mmseol.losses import CrossEntropyLoss, OutlyingMSELoss
    >>> losses = [OutlyingMSELoss(), CrossEntropyLoss(), OutlyingMSELoss(class_counts=[9, 1])]
    >>> dependent_losses(zip("abc", losses))
    ['a']
    """
    return [
        name
        for name, loss in losses
        if getattr(loss, "needs_counts", True) and getattr(loss, "given_counts", None) is None
    ]


def missing_hooks(types: Iterable[str], losses: Iterable[tuple[str, Any]]) -> list[tuple[str, str]]:
    """Return the name of each loss and the type of each of its ``required_hooks`` that the run lacks.

    >>> from mmseol.losses import CDBLoss
    >>> missing_hooks(["ClassCountHook"], [("head.loss", CDBLoss())])
    [('head.loss', 'mmseol.ClassDifficultyHook')]

    Args:
        types: Names of the classes of the run's hooks.
        losses: Losses with their names.
    """
    types = set(types)
    return [
        (name, required)
        for name, loss in losses
        for required in getattr(loss, "required_hooks", ())
        if required.rpartition(".")[-1] not in types
    ]


def counting_metrics(loop: Any) -> list[Any]:
    """Return the metrics with ``set_class_counts`` of a validation or test loop.

    The list is empty if the loop is not built yet or the run has none.

    >>> from types import SimpleNamespace
    >>> from mmseol.metrics import ClassBalanceMetric
    >>> evaluator = SimpleNamespace(metrics=[ClassBalanceMetric(), "another"])
    >>> [type(metric).__name__ for metric in counting_metrics(SimpleNamespace(evaluator=evaluator))]
    ['ClassBalanceMetric']
    """
    metrics = getattr(getattr(loop, "evaluator", None), "metrics", None) or ()
    return [metric for metric in metrics if callable(getattr(metric, "set_class_counts", None))]


def train_dataset(runner: Any) -> Any:
    """Return the training data set, or ``None``; does not build the train loop.

    >>> from types import SimpleNamespace
    >>> loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset))
    >>> train_dataset(SimpleNamespace(_train_loop=loop)) is dataset
    True
    >>> train_dataset(SimpleNamespace(_train_loop=dict(type="EpochBasedTrainLoop"))) is None
    True
    """
    loader = getattr(runner._train_loop, "dataloader", None)
    return getattr(loader, "dataset", None)


def train_sampler(runner: Any) -> Any:
    """Return the sampler of the training data, or ``None``.

    >>> from types import SimpleNamespace
    >>> from torch.utils.data import DataLoader
    >>> loop = SimpleNamespace(dataloader=DataLoader(dataset))
    >>> type(train_sampler(SimpleNamespace(_train_loop=loop))).__name__
    'SequentialSampler'
    """
    return getattr(getattr(runner._train_loop, "dataloader", None), "sampler", None)


def from_heads(model: nn.Module, losses: Iterable[tuple[str, Any]], attribute: str) -> dict[str, int]:
    """Return the integer attribute of the nearest module around each loss that has it, by that module's name.

    >>> head = nn.ModuleDict({"loss": nn.Identity()})
    >>> head.num_classes = 4
    >>> from_heads(nn.ModuleDict({"head": head}), [("head.loss", None)], "num_classes")
    {'head': 4}
    """
    found = {}
    for name, _ in losses:
        while name:
            name = name.rpartition(".")[0]
            value = getattr(model.get_submodule(name), attribute, None)
            if isinstance(value, int) and not isinstance(value, bool):
                found[name or "the model"] = value
                break
    return found


def agreed(attribute: str, stated: Mapping[str, int]) -> int | None:
    """Return the one value that the parts of a run state, or ``None`` if none does.

    >>> agreed("num_classes", {"decode_head": 11, "auxiliary_head": 11})
    11

    Raises:
        ValueError: If they state several.
    """
    if len(set(stated.values())) > 1:
        raise ValueError(
            f"`{attribute}` must be the same for all losses that share class counts, got "
            f"{', '.join(f'{value} from {owner}' for owner, value in stated.items())}. Correct the config "
            f"or give it to the hook: dict(type='mmseol.ClassCountHook', {attribute}=...)."
        )
    return next(iter(stated.values()), None)


def progress(runner: Any, by_epoch: bool) -> int:
    """Return the epoch or iteration that is trained now or comes next, counted from 0.

    >>> from types import SimpleNamespace
    >>> runner = SimpleNamespace(epoch=2, iter=500)
    >>> progress(runner, by_epoch=True), progress(runner, by_epoch=False)
    (2, 500)
    """
    return runner.epoch if by_epoch else runner.iter


def validation_was_due(loop: Any) -> bool:
    """Return whether a run that was not interrupted would have validated after the last trained iteration.

    >>> from types import SimpleNamespace
    >>> loop = SimpleNamespace(iter=6, max_iters=9, val_begin=1, val_interval=3)
    >>> loop._decide_current_val_interval = lambda: None
    >>> validation_was_due(loop)
    True
    """
    loop._decide_current_val_interval()
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    done, last = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
    if by_epoch and loop.iter != loop.epoch * len(loop.dataloader):
        return False  # stopped within the epoch, after that validation
    return done >= loop.val_begin and (done % loop.val_interval == 0 or done == last)
