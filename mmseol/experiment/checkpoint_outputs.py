"""What the checkpoints of a run put out on a split: raw outputs, and the score of many decisions by image."""

from __future__ import annotations

import json
import zipfile
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config

from mmseol.classifiers.decisions import OutputReader, estimated_weights, find_winners, make_family
from mmseol.classifiers.find import find_classifier
from mmseol.counting.counts import outlying_values
from mmseol.experiment.checkpoint_pass import training_counts
from mmseol.experiment.commands import load_config
from mmseol.experiment.data import leaf_datasets
from mmseol.experiment.runner import CommandRunner
from mmseol.hooks.tuned_decision import ignored_label, loss_of_classifier
from mmseol.utils.arrays import FloatArray, IntArray
from mmseol.utils.files import replacing
from mmseol.utils.modules import unwrap

__all__ = [
    "NEAREST",
    "PLAIN",
    "RANK",
    "CheckpointOutputs",
    "decision_rows",
    "ordered_loader",
    "prior",
    "read_outputs",
    "run_config",
]

PLAIN, RANK, NEAREST = "argmax", "P * rank", "nearest target"
_STRENGTHS = tuple(np.arange(20) / 10)


def prior(strength: float) -> str:
    """Return the name of the decision by P(k | x) over the training frequency to this power.

    >>> prior(0), prior(1), prior(0.5)
    ('P', 'P / n', 'P / n^0.5')
    """
    return {0.0: "P", 1.0: "P / n"}.get(float(strength), f"P / n^{strength:g}")


@dataclass(frozen=True, eq=False)
class CheckpointOutputs:
    """Outputs of a checkpoint on a split, and the tallies of many decisions.

    >>> outputs = CheckpointOutputs(
    ...     "multiplicative", False, *map(np.array, (["a", "b"], [9, 1], [1.0, 2.0], ["argmax"])),
    ...     *map(np.array, ([[[[1, 1], [0, 0]]]], [[1, 0]], [[0.8, 0.4]], [0], [0])),
    ... )
    >>> outputs.rows("argmax").tolist()
    [[[1, 1, 1], [0, 0, 0]]]

    Attributes:
        kind: Whether outputs estimate :math:`w_k P(k \\mid x)` or the logarithm of it.
        segmentation: Whether elements are pixels.
        classes: Names, (K,).
        counts: Training samples of each class, (K,).
        weights: :math:`w_k` that the loss gives the outputs, (K,).
        decisions: Names, (C,).
        tallies: Hits and predictions by image, decision and class, (I, C, K, 2).
        truth_tallies: Elements of each class by image, (I, K).
        outputs: Raw outputs of all samples, or of some pixels of each image, (N, K).
        truth: Their labels, (N,).
        image: Their image, (N,).
    """

    kind: str
    segmentation: bool
    classes: Any
    counts: IntArray
    weights: FloatArray
    decisions: Any
    tallies: IntArray
    truth_tallies: IntArray
    outputs: FloatArray
    truth: IntArray
    image: IntArray

    @property
    def targets(self) -> FloatArray | None:
        """Target of each class of a squared error; ``None`` for softmax losses."""
        return self.weights if self.kind == "multiplicative" else None

    def rows(self, decision: str) -> IntArray:
        """Return right, predicted and true elements by image and class, (I, K, 3).

        Raises:
            ValueError: If the decision was not scored.
        """
        names = self.decisions.tolist()
        if decision not in names:
            raise ValueError(f"`decision` must be one of {', '.join(names)}, got {decision!r}.")
        return np.concatenate([self.tallies[:, names.index(decision)], self.truth_tallies[..., None]], axis=2)

    def halves(self) -> tuple[CheckpointOutputs, CheckpointOutputs]:
        """Return the outputs on the first and on the second half of the images."""
        half = len(self.tallies) // 2
        return self._images(0, half), self._images(half, len(self.tallies))

    def _images(self, begin: int, end: int) -> CheckpointOutputs:
        kept = (self.image >= begin) & (self.image < end)
        return replace(
            self,
            tallies=self.tallies[begin:end],
            truth_tallies=self.truth_tallies[begin:end],
            outputs=self.outputs[kept],
            truth=self.truth[kept],
            image=self.image[kept] - begin,
        )

    def save(self, path: str | Path, source: str) -> None:
        """Write a file that :meth:`load` reads."""
        with replacing(path) as file:
            np.savez_compressed(file, source=source, **asdict(self))

    @classmethod
    def load(cls, path: str | Path, source: str) -> CheckpointOutputs | None:
        """Return the outputs of a file; ``None`` if there is none of this source."""
        try:
            with np.load(path, allow_pickle=False) as file:
                if str(file["source"]) != source:
                    return None
                values = {field.name: file[field.name] for field in fields(cls)}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return cls(**{**values, "kind": str(values["kind"]), "segmentation": bool(values["segmentation"])})


def run_config(folder: str | Path) -> Config:
    """Return the config of a training run, from its work directory or from a trial of a sweep.

    >>> import tempfile
    >>> run_config(tempfile.mkdtemp())  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    FileNotFoundError: `folder` must hold the config of a run, or the trial.json of a sweep, got ...

    Raises:
        FileNotFoundError: If it is neither.
    """
    folder = Path(folder)
    trial = folder.parent / "trial.json"
    if folder.name == "train" and trial.is_file():
        request = json.loads(trial.read_text())["train"]
        options = [option for option in request["cfg_options"] if not option.startswith("test_")]
        return load_config(Namespace(**{**request, "cfg_options": options}))
    configs = sorted(folder.glob("*.py"))
    if len(configs) != 1:
        raise FileNotFoundError(
            f"`folder` must hold the config of a run, or the trial.json of a sweep, got {str(folder)!r}."
        )
    return load_config(Namespace(config=str(configs[0])))


def decision_rows(kind: Any, counts: IntArray, weights: FloatArray) -> tuple[list[str], list[Any]]:
    r"""Return the names of the decisions that are scored, and the families that make them.

    >>> decision_rows("additive", np.array([9, 1]), np.ones(2))[0][:4]
    ['argmax', 'P', 'P / n^0.1', 'P / n^0.2']

    Args:
        kind: ``'multiplicative'`` or ``'additive'``.
        counts: Training samples of each class, (K,).
        weights: :math:`w_k`, (K,).
    """
    logs = np.log(weights)
    families = [make_family("prior", kind, counts, logs, _STRENGTHS)]
    ranked = make_family("prior", kind, counts, logs - np.log(outlying_values(counts)), [0.0])
    names = [PLAIN, *map(prior, _STRENGTHS), RANK]
    return names + ([NEAREST] if kind == "multiplicative" else []), [*families, ranked]


def read_outputs(
    runner: CommandRunner, checkpoint: str | Path, loader: Any, pixels: int = 2000, seed: int = 0
) -> CheckpointOutputs:
    """Return the outputs of a checkpoint on the data of a loader, which gives the images in order.

    >>> from inspect import signature
    >>> list(signature(read_outputs).parameters)
    ['runner', 'checkpoint', 'loader', 'pixels', 'seed']

    Args:
        runner: Runner with the model.
        checkpoint: Checkpoint file.
        loader: Data loader of the host.
        pixels: Pixels of each label map to keep.
        seed: Of the choice of these pixels.
    """
    runner.load_checkpoint(str(checkpoint))
    model = unwrap(runner.model).eval()
    classifier = find_classifier((name for name, _ in model.named_parameters()), None)
    loss = loss_of_classifier(model, classifier)
    layer: Any = model.get_submodule(classifier)
    known = training_counts(model, len(layer.weight), str(checkpoint))
    if known is None:
        raise FileNotFoundError(
            "`checkpoint` must hold the training counts of its classes, or have class_counts.json beside "
            f"it, got {str(checkpoint)!r}."
        )
    counts, ignored = known[0], ignored_label(model, classifier)
    kind, logs = estimated_weights(loss, counts)
    names, families = decision_rows(kind, counts, np.exp(logs))
    rng = np.random.default_rng(seed)
    parts: list[tuple[Any, ...]] = []
    segmentation = False
    reader = OutputReader(model, classifier)
    try:
        for outputs, truth, plain, segmentation in _observed(model, reader, loader):
            labels = [plain[None]]
            labels += [
                find_winners(outputs, torch.from_numpy(f.candidates()), kind).labels() for f in families
            ]
            outputs = outputs.flatten(1)
            if kind == "multiplicative":
                values = torch.from_numpy(np.exp(logs)).to(outputs)[:, None]
                labels.append((outputs * values - values**2 / 2).argmax(0, keepdim=True))
            valid = truth != ignored
            chosen, own = torch.cat(labels)[:, valid].numpy(), outputs[:, valid].numpy()
            if segmentation:
                parts.append(_of_pixels(chosen, own, truth[valid].numpy(), pixels, rng))
            else:
                parts.append(_of_samples(chosen, own, truth[valid].numpy()))
    finally:
        reader.close()
    tallies, truths, kept, labels_kept = ([part[i] for part in parts] for i in range(4))
    if segmentation:
        image = np.repeat(np.arange(len(parts)), [len(part) for part in labels_kept])
    else:
        image = np.arange(sum(map(len, labels_kept)))
    metainfo = getattr(loader.dataset, "metainfo", None) or loader.dataset.dataset.metainfo
    return CheckpointOutputs(
        kind,
        segmentation,
        np.array([str(name) for name in metainfo.get("classes") or range(len(counts))]),
        np.asarray(counts),
        np.exp(logs),
        np.array(names),
        np.concatenate(tallies),
        np.concatenate(truths),
        np.concatenate(kept),
        np.concatenate(labels_kept),
        image,
    )


@torch.no_grad()
def _observed(model: Any, reader: OutputReader, loader: Any) -> Iterator[tuple[Any, Any, Any, bool]]:
    """Yield outputs, labels, predictions, and whether they are those of pixels."""
    for batch in loader:
        samples = model.test_step(batch)
        segmentation = hasattr(samples[0], "pred_sem_seg")
        for outputs, truth, plain in reader.read(samples):
            yield outputs.cpu(), truth.cpu(), plain.cpu(), segmentation


def _of_samples(labels: IntArray, outputs: FloatArray, truth: IntArray) -> tuple[Any, ...]:
    """Return tallies and elements of each class by sample, and the outputs and labels."""
    eye = np.eye(len(outputs), dtype=np.int32)
    predicted = eye[labels].transpose(1, 0, 2)  # (N, C, K)
    hits = predicted * eye[truth][:, None]
    return np.stack([hits, predicted], -1), eye[truth], outputs.T, truth


def _of_pixels(
    labels: IntArray, outputs: FloatArray, truth: IntArray, pixels: int, rng: Any
) -> tuple[Any, ...]:
    """Return tallies and elements of each class of an image, and outputs and labels of some pixels."""
    classes, rows = len(outputs), []
    for row in labels:
        hits = np.bincount(truth[row == truth], minlength=classes)
        rows.append(np.stack([hits, np.bincount(row, minlength=classes)], -1))
    own = rng.choice(len(truth), min(pixels, len(truth)), replace=False)
    counted = np.bincount(truth, minlength=classes)[None].astype(np.int32)
    return np.stack(rows)[None].astype(np.int32), counted, outputs[:, own].T, truth[own]


def ordered_loader(runner: CommandRunner, split: str, images: int | None = None) -> Any:
    """Return a loader of a split in order, without augmentation; ``None`` if the config has no such split.

    >>> from inspect import signature
    >>> list(signature(ordered_loader).parameters)
    ['runner', 'split', 'images']

    Args:
        runner: Runner whose config has the data.
        split: ``'train'``, ``'val'`` or ``'test'``; ``'train'`` is loaded as ``'val'``.
        images: Number of images, evenly spaced; ``None``: all.
    """
    own = runner.cfg.get(f"{split}_dataloader")
    if own is None:
        return None
    dataset = own.to_dict()["dataset"]
    settings = (runner.cfg.val_dataloader if split == "train" else own).to_dict()
    if split == "train":
        pipelines = [leaf["pipeline"] for leaf in leaf_datasets(settings["dataset"])]
        for leaf in leaf_datasets(dataset):
            leaf["pipeline"] = pipelines[0]
    sampler = dict(type="DefaultSampler", shuffle=False)
    settings |= dict(dataset=dataset, sampler=sampler, num_workers=0, persistent_workers=False)
    loader = runner.build_dataloader(settings, seed=0)
    if images is None or images >= len(loader.dataset):
        return loader
    from torch.utils.data import DataLoader, Subset

    chosen = np.linspace(0, len(loader.dataset) - 1, images).astype(int).tolist()
    return DataLoader(Subset(loader.dataset, chosen), loader.batch_size, collate_fn=loader.collate_fn)
