"""A checkpoint in its model, and the batches of a split that it predicts."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import nn

from mmseol.analysis.pictures import input_image
from mmseol.classifiers.find import find_classifier
from mmseol.counting.counts import check_counts, load_counts
from mmseol.experiment.commands import load_config
from mmseol.experiment.data import check_files
from mmseol.experiment.evaluation import set_split
from mmseol.experiment.weights import build_model, check_classifier, check_weights
from mmseol.hooks.tuned_decision import loss_of_classifier, stored_counts
from mmseol.utils.arrays import IntArray
from mmseol.utils.unpickling import load_checkpoint

__all__ = ["CheckpointPass", "built_model", "split_config", "training_counts"]


def split_config(args: Namespace, config: str, checkpoint: str) -> tuple[Config, dict[str, Any]]:
    """Return the config, whose test reads the split of the arguments, and the checkpoint.

    >>> split_config(Namespace(unsafe_load=False), "quickstart/digits.py", "missing.pth")
    Traceback (most recent call last):
    FileNotFoundError: `checkpoint` must be an existing file, got 'missing.pth'.

    Args:
        args: Arguments of the command, of which ``split``, ``data_root``, ``loss`` and ``cfg_options`` are
            applied.
        config: Config, as a user types it.
        checkpoint: Checkpoint file.

    Raises:
        ValueError: If an argument or the checkpoint does not fit the config.
        FileNotFoundError: If there is no such config or checkpoint.
    """
    loaded = load_checkpoint(checkpoint, unsafe=args.unsafe_load)
    cfg = load_config(Namespace(**{**vars(args), "config": config, "checkpoint": checkpoint, "seed": None}))
    check_classifier(cfg, checkpoint, loaded)
    set_split(cfg, args.split)
    check_files(cfg, ("test_dataloader",))
    cfg.test_dataloader.pop("batch_sampler", None)
    cfg.test_dataloader.sampler = dict(type="DefaultSampler", shuffle=False)  # batches in the data's order
    return cfg, loaded


def built_model(cfg: Config, checkpoint: str, loaded: dict[str, Any], device: str = "cpu") -> Any:
    """Return the model of the config with the weights of a checkpoint, ready to predict.

    >>> built_model(Config({}), "a.pth", {})
    Traceback (most recent call last):
    ValueError: The config must have a `model`, got none.

    Raises:
        ValueError: If there is no model, or the checkpoint does not fit it.
    """
    if cfg.get("model") is None:
        raise ValueError("The config must have a `model`, got none.")
    init_default_scope(cfg.get("default_scope", "mmengine"))
    model = build_model(cfg)
    check_weights(model, checkpoint, loaded)
    from mmengine.runner import load_checkpoint as load_into  # imports OpenCV

    load_into(model, checkpoint, map_location="cpu", logger="silent")
    return model.to(device).eval()


class CheckpointPass(NamedTuple):
    """A model and the data that it predicts, batch by batch in the data's order.

    >>> CheckpointPass(model=nn.Identity(), loader=[], classes=("cat", "dog"), palette=None).classes
    ('cat', 'dog')

    Args:
        model: The host's model.
        loader: Data loader of the split.
        classes: Names of the classes.
        palette: RGB of each class, (K, 3); ``None`` if the data set has none.
    """

    model: Any
    loader: Any
    classes: tuple[str, ...]
    palette: Any

    @classmethod
    def of(cls, cfg: Config, checkpoint: str, loaded: dict[str, Any], device: str = "cpu") -> CheckpointPass:
        """Build model and data of a config of :func:`split_config`.

        Raises:
            ValueError: If the checkpoint does not fit the model, or the split is empty.
        """
        from mmengine.runner import Runner  # imports OpenCV

        model = built_model(cfg, checkpoint, loaded, device)
        loader = Runner.build_dataloader(cfg.test_dataloader)
        meta = getattr(loader.dataset, "metainfo", None) or {}
        if not len(loader.dataset):
            raise ValueError("The split must have at least one image, got none.")
        return cls(model, loader, tuple(map(str, meta.get("classes") or ())), meta.get("palette"))

    def batches(self, text: str | None = None) -> Iterator[tuple[Any, Sequence[Any]]]:
        """Yield each batch as it was loaded, and the samples that the model predicts.

        Args:
            text: Shown with the progress; ``None`` shows none.
        """
        console = Console(stderr=True)
        loader = self.loader if text is None else track(self.loader, text, transient=True, console=console)
        for batch in loader:
            with torch.no_grad():  # not around the yield: the caller would compute without gradients, too
                samples = self.model.test_step(batch)
            yield batch, samples

    def images(self, text: str | None = None) -> Iterator[tuple[NDArray[np.uint8], Any]]:
        """Yield the pixels of each image as the model gets them, RGB (H, W, 3), and its predicted sample."""
        for batch, samples in self.batches(text):
            for tensor, sample in zip(batch["inputs"], samples, strict=True):
                yield input_image(tensor, self.model), sample


def training_counts(
    model: nn.Module, classes: int, checkpoint: str, given: str | None = None
) -> tuple[IntArray, str] | None:
    """Return the training counts of the classes and where they come from; ``None`` if nothing says them.

    They are those of a given file, of the losses in the checkpoint, or of ``class_counts.json`` beside it.

    >>> from mmseol.losses import OutlyingMSELoss
    >>> model = nn.ModuleDict({"loss": OutlyingMSELoss(class_counts=[9, 1])})
    >>> training_counts(model, 2, "a.pth")
    (array([9, 1]), 'checkpoint')

    Args:
        model: Model with the weights of the checkpoint.
        classes: Number of classes.
        checkpoint: Checkpoint file.
        given: File of counts.

    Raises:
        ValueError: If there are other numbers of counts than classes.
    """
    if given is not None:
        return check_counts(load_counts(given), classes, "--counts"), given
    names = [name for name, _ in model.named_parameters()]
    try:
        loss = loss_of_classifier(model, find_classifier(names))
    except ValueError:  # a classifier of another name
        loss = None
    found = stored_counts(model, loss)
    if found is not None:
        return check_counts(found, classes, "class_counts"), "checkpoint"
    beside = Path(checkpoint).parent / "class_counts.json"
    if beside.is_file():
        return check_counts(load_counts(str(beside)), classes, str(beside)), str(beside)
    return None
