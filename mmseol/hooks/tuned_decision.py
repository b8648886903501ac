"""Score many decisions in a validation, and log the best beside the plain argmax."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.hooks import Hook
from torch import nn

from mmseol.classifiers.decisions import (
    DecisionTallies,
    ElementSample,
    Family,
    OutputReader,
    estimated_weights,
    find_winners,
    make_family,
    select,
)
from mmseol.classifiers.decisions.outputs import Observed
from mmseol.classifiers.find import find_classifier
from mmseol.metrics.scores import OBJECTIVES
from mmseol.registry import HOOKS
from mmseol.utils.arrays import FloatArray, IntArray
from mmseol.utils.checks import choice
from mmseol.utils.modules import unwrap

__all__ = ["DecisionPass", "TunedDecisionHook", "ignored_label", "loss_of_classifier", "stored_counts"]

_LOSSES = ("loss_decode", "loss_module", "loss", "losses")  # attributes of heads


def ignored_label(model: nn.Module, classifier: str) -> int:
    """Return the label that the head of a classifier ignores; 255 if it does not say.

    >>> ignored_label(nn.ModuleDict({"head": nn.Linear(2, 3)}), "head")
    255

    Args:
        model: The host's model.
        classifier: Name of the layer that classifies.
    """
    label = getattr(model.get_submodule(classifier.split(".")[0]), "ignore_index", 255)
    return label if isinstance(label, int) and not isinstance(label, bool) else 255


def loss_of_classifier(model: nn.Module, classifier: str) -> nn.Module | None:
    """Return the loss of the head with this classifier, the first one of several; ``None`` without any.

    >>> from mmseol.losses import OneHotMSELoss
    >>> head = nn.ModuleDict({"fc": nn.Linear(2, 3), "loss_module": OneHotMSELoss()})
    >>> loss_of_classifier(nn.ModuleDict({"head": head}), "head.fc")
    OneHotMSELoss()
    """
    name = classifier
    while name:
        name = name.rpartition(".")[0]
        head = dict(model.named_modules())[name]
        for attribute in _LOSSES:
            loss = getattr(head, attribute, None) or head._modules.get(attribute)
            if isinstance(loss, nn.ModuleList) and len(loss):
                loss = loss[0]
            if isinstance(loss, nn.Module):
                return loss
    return None


def stored_counts(model: nn.Module, loss: nn.Module | None) -> IntArray | None:
    """Return the class counts of the loss, else of any loss of the model; ``None`` if there are none.

    >>> from mmseol.losses import OutlyingMSELoss
    >>> stored_counts(nn.ModuleDict({"loss": OutlyingMSELoss(class_counts=[9, 1])}), None)
    array([9, 1])
    """
    for part in (loss, *model.modules()):
        counts = getattr(part, "class_counts", None)
        if isinstance(counts, torch.Tensor) and counts.any():
            return counts.cpu().numpy()
    return None


class DecisionPass:
    """Tallies of the plain decision and of families of decisions, filled batch by batch.

    >>> model = nn.ModuleDict({"fc": nn.Linear(2, 3)})
    >>> counted = DecisionPass(model, "fc", [], images=10)
    >>> counted.tallies.decisions
    1
    >>> counted.close()

    Args:
        model: The host's model, without wrappers.
        classifier: Name of its classifier.
        families: Families of decisions.
        images: Number of images.
        blocks: As of :class:`~mmseol.classifiers.decisions.DecisionTallies`; so are ``folds`` and
            ``replicates``.
        folds: Number of folds.
        replicates: Number of bootstrap replicates.
        fold_families: Further families, one for the images of each fold, of equally many strengths.
        sample: Whether to keep an :class:`~mmseol.classifiers.decisions.ElementSample`.
    """

    def __init__(
        self,
        model: nn.Module,
        classifier: str,
        families: Sequence[Family],
        images: int,
        blocks: bool = True,
        folds: int = 5,
        replicates: int = 200,
        fold_families: Sequence[Family] = (),
        sample: bool = False,
    ) -> None:
        self.reader = OutputReader(model, classifier)
        self.families = list(families)
        self.candidates = [torch.from_numpy(family.candidates()) for family in families]
        weight: Any = self.reader.layer.weight
        self.fold_families = list(fold_families)
        self.fold_candidates = [torch.from_numpy(family.candidates()) for family in fold_families]
        decisions = 1 + sum(map(len, self.candidates)) + sum(map(len, self.fold_candidates[:1]))
        ignore = ignored_label(model, classifier)
        self.tallies = DecisionTallies(len(weight), decisions, images, folds, replicates, blocks, ignore)
        self.sample = ElementSample(images, len(weight)) if sample else None
        self._rank, self._world = get_dist_info()
        self._done = 0

    def update(self, samples: Sequence[Any], model: Any = None, batch: Any = None) -> None:
        """Add the predicted samples of a batch; with ``model`` and ``batch``, check that outputs are linear.

        Raises:
            ValueError: As :class:`~mmseol.classifiers.decisions.OutputReader`.
        """
        for observed in self.reader.read(samples):
            images = [self._rank + self._world * (self._done + i) for i in range(len(samples))]
            if model is not None:
                for kind in dict.fromkeys(family.kind for family in self.families):
                    self.reader.check_linear(model, batch, kind, observed)
                model = None
            if hasattr(samples[0], "pred_sem_seg"):
                self._add(images[:1], observed)
                self._done += 1
            else:
                self._add(images, observed)
                self._done += len(samples)

    def _add(self, images: list[int], observed: Observed) -> None:
        """Add one image with many elements, or images with one element each."""
        folds = torch.tensor([self.tallies.fold_of(image) for image in images])
        if len(folds) > 1 and (self.fold_families or self.sample):
            for fold in folds.unique().tolist():
                own = (folds == fold).nonzero().squeeze(1)
                there = own.to(observed.outputs.device)
                part = Observed(observed.outputs[:, there], observed.truth[there], observed.plain[there])
                self._add_fold([images[i] for i in own.tolist()], fold, part)
        else:
            self._add_fold(images, int(folds[0]), observed)

    def _add_fold(self, images: list[int], fold: int, observed: Observed) -> None:
        outputs, truth, plain = observed
        families, candidates = [*self.families], [*self.candidates]
        if self.fold_families:
            families.append(self.fold_families[fold])
            candidates.append(self.fold_candidates[fold])
        winners = [
            find_winners(outputs, logs, family.kind)
            for family, logs in zip(families, candidates, strict=True)
        ]
        if len(truth) == len(images):
            self.tallies.add_samples(images, truth, plain, winners)
        else:
            self.tallies.add(images[0], truth, plain, winners)
        if self.sample is not None:
            outputs = outputs.flatten(1)
            for number, image in enumerate(images):
                if image < self.tallies.images:
                    own = slice(None) if len(images) == 1 else slice(number, number + 1)
                    self.sample.add(image, fold, outputs[:, own], truth[own], self.tallies.ignore_index)

    def decision(self, number: int) -> tuple[Family, float] | None:
        """Return the family and the strength of a decision; ``None`` for the plain one."""
        for family in self.families if number else ():
            if number <= len(family.strengths):
                return family, float(family.strengths[number - 1])
            number -= len(family.strengths)
        return None

    def log_factors(self, number: int) -> FloatArray:
        """Return the logarithm of the class factors of a decision, (K,)."""
        found = self.decision(number)
        return np.zeros(self.tallies.num_classes) if found is None else found[0].log_factors(found[1])

    def close(self) -> None:
        """Remove the forward hook from the classifier."""
        self.reader.close()


@HOOKS.register_module()
class TunedDecisionHook(Hook):
    r"""Log, after each validation, the score that a better decision would reach, beside the plain argmax's.

    The outputs of squared errors and softmax losses decide by :math:`w_k P(k \mid x)`, and the factor of each
    class can be changed after training: ``tools/tune_decision.py`` does so. This hook scores a family of
    decisions on the validation data while the run validates, and logs ``tuned_OBJECTIVE`` and
    ``tuned_strength``. The score is chosen on the data that it is computed on; with
    ``CheckpointHook(save_best="tuned_mIoU")`` it selects the checkpoint whose decision can then be tuned.

    >>> hook = TunedDecisionHook(objective="mIoU")
    >>> TunedDecisionHook(objective="iou")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: `objective` must be one of 'mIoU', 'macro_f1', ..., got 'iou'.

    Args:
        objective: Score to be best, one of :data:`mmseol.metrics.scores.OBJECTIVES`; ``None``: ``'mIoU'`` in
            segmentation, ``'balanced_accuracy'`` in classification.
        family: As of :func:`~mmseol.classifiers.decisions.make_family`; so are ``kind`` and ``strengths``.
        kind: ``None``: as the loss says.
        strengths: Strengths to score.
        classifier: Name of the layer that scores the classes; ``None``: as the hosts name it.

    Raises:
        ValueError: If an argument is invalid, or the model's decision cannot be changed.
        RuntimeError: If no loss of the model has class counts.
    """

    priority = "NORMAL"  # before LoggerHook and CheckpointHook

    def __init__(
        self,
        objective: str | None = None,
        family: str = "prior",
        kind: Any = None,
        strengths: Sequence[float] | None = None,
        classifier: str | None = None,
    ) -> None:
        if objective is not None:
            choice("objective", objective, OBJECTIVES)
        make_family(family, kind or "additive", [1, 1], None, strengths)
        self.objective, self.family, self.kind = objective, family, kind
        self.strengths, self.classifier = strengths, classifier
        self._pass: DecisionPass | None = None

    def before_val_epoch(self, runner: Any) -> None:
        """Make empty tallies."""
        model = unwrap(runner.model)
        classifier = find_classifier((name for name, _ in model.named_parameters()), self.classifier)
        loss = loss_of_classifier(model, classifier)
        counts = stored_counts(model, loss)
        if counts is None:
            raise RuntimeError(
                "TunedDecisionHook needs the class counts, and no loss of the model has any. Add "
                "dict(type='mmseol.ClassCountHook') to custom_hooks and train with a loss of mmseol."
            )
        kind, weights = self.kind, None
        if kind is None:
            kind, weights = estimated_weights(loss, counts)
        family = make_family(self.family, kind, counts, weights, self.strengths)
        images = len(runner.val_loop.dataloader.dataset)
        self._pass = DecisionPass(model, classifier, [family], images, folds=2, replicates=1)

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Iterable[Any] | None = None
    ) -> None:
        """Add the predictions of a batch."""
        if self._pass is not None and outputs:
            self._pass.update(list(outputs))
            self._segmentation = hasattr(next(iter(outputs)), "pred_sem_seg")

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Log the best decision of the family."""
        if self._pass is None:
            return
        counted, self._pass = self._pass, None
        counted.close()
        counted.tallies.reduce()
        objective = self.objective or ("mIoU" if self._segmentation else "balanced_accuracy")
        selection = select(counted.tallies, objective)
        found = counted.decision(selection.tuned)
        assert found is not None
        best = float(selection.scores[selection.tuned])
        values = {f"tuned_{objective}": best, "tuned_strength": found[1]}
        runner.logger.info(
            f"Decision: {objective} {selection.scores[0]:.2f} by argmax, {best:.2f} with strength "
            f"{found[1]:g} of the family {found[0].name!r}, chosen on these data. tools/tune_decision.py "
            "writes a checkpoint with it."
        )
        for name, value in values.items():
            runner.message_hub.update_scalar(f"val/{name}", value)
        if metrics is not None:
            metrics.update(values)
