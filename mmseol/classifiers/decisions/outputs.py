"""Raw outputs and labels from the predictions of either host's model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmseol.classifiers.decisions.families import Kind

__all__ = ["Observed", "OutputReader"]

_UNEQUAL = 1e-3  # fraction of samples whose class is another than the argmax: ties of a saturated softmax


class Observed(NamedTuple):
    """Raw outputs, labels of P elements and the classes that the host predicts, (P,).

    The outputs are those of samples, (K, P), or of a label map, (K, H, W).

    >>> Observed(torch.zeros(2, 1), torch.tensor([1]), torch.tensor([0])).truth
    tensor([1])
    """

    outputs: Tensor
    truth: Tensor
    plain: Tensor


class OutputReader:
    """Read the raw outputs behind the predictions of a model, at full resolution.

    mmseg returns the outputs of each image at its own size (``seg_logits``). mmpretrain returns a softmax;
    the outputs are then those of the classifier, kept by a forward hook that :meth:`close` removes.

    >>> model = nn.ModuleDict({"fc": nn.Linear(2, 3)})
    >>> reader = OutputReader(model, "fc")
    >>> _ = model["fc"](torch.ones(4, 2))
    >>> reader.kept.shape
    torch.Size([4, 3])
    >>> reader.close()

    Args:
        model: The host's model, without wrappers.
        classifier: Name of the layer that scores the classes, which must have one output per class.
    """

    def __init__(self, model: nn.Module, classifier: str) -> None:
        self.name, self.layer = classifier, model.get_submodule(classifier)
        self.kept: Tensor | None = None
        self._handle = self.layer.register_forward_hook(self._keep)

    def close(self) -> None:
        """Remove the forward hook."""
        self._handle.remove()
        self.kept = None

    def _keep(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        self.kept = output.detach() if isinstance(output, Tensor) and output.dim() == 2 else None

    def read(self, samples: Sequence[Any]) -> Iterator[Observed]:
        """Yield the elements of the predicted samples of a batch: image by image, or all samples at once.

        Raises:
            ValueError: If a sample has no single label, or the prediction is not the argmax of the outputs.
        """
        if hasattr(samples[0], "pred_sem_seg"):
            for sample in samples:
                yield self._read_label_map(sample)
        else:
            yield self._read_labels(samples)

    def _read_label_map(self, sample: Any) -> Observed:
        outputs, plain = sample.seg_logits.data, sample.pred_sem_seg.data
        path = sample.metainfo.get("img_path", "an image")
        if "gt_sem_seg" not in sample:
            raise ValueError(f"The validation data must have label maps, got none for {path}.")
        truth = sample.gt_sem_seg.data
        if len(outputs) < 2:
            raise ValueError(
                f"{self.name} must have one output per class, got 1: a sigmoid above a threshold decides "
                "there. Train with out_channels=2."
            )
        if truth.shape[-2:] != plain.shape[-2:]:
            raise ValueError(
                f"Label maps must be of the size of the predictions, {tuple(plain.shape[-2:])}, got "
                f"{tuple(truth.shape[-2:])} for {path}."
            )
        return Observed(outputs, truth.flatten().to(outputs.device), plain.flatten())

    def _read_labels(self, samples: Sequence[Any]) -> Observed:
        outputs, self.kept = self.kept, None
        if outputs is None or len(outputs) != len(samples):
            raise ValueError(
                f"The outputs of {self.name} must be (N, K) for the {len(samples)} samples of a batch, got "
                f"{None if outputs is None else tuple(outputs.shape)}. Name the layer that scores the "
                "classes: --classifier."
            )
        for sample in samples:
            if "gt_label" not in sample or sample.gt_label.numel() != 1 or "pred_label" not in sample:
                raise ValueError("The validation data must have one class per image, got another label.")
        truth = torch.cat([sample.gt_label.flatten() for sample in samples]).to(outputs.device)
        plain = torch.cat([sample.pred_label.flatten() for sample in samples]).to(outputs.device)
        if (outputs.argmax(1) != plain).sum() > max(1, _UNEQUAL * len(samples)):
            raise ValueError(
                f"The head must predict the argmax of the outputs of {self.name}, and predicts other "
                "classes (decision='nearest', distilled heads): its weights cannot carry a decision."
            )
        return Observed(outputs.T, truth, plain)

    @torch.no_grad()
    def check_linear(self, model: Any, batch: Any, kind: Kind, observed: Observed) -> None:
        """Check on a batch that the outputs follow the weights and the bias of the classifier.

        Args:
            model: The model, which predicts the batch again with other weights.
            batch: Batch as the data loader gave it.
            kind: ``'multiplicative'`` or ``'additive'``.
            observed: What was read from its first image, or from the batch.

        Raises:
            ValueError: If they do not, or the decision is additive and the classifier has no bias.
        """
        weight: Any = self.layer.weight
        bias: Any = getattr(self.layer, "bias", None)
        if kind == "additive" and bias is None:
            raise ValueError(
                f"An additive decision goes into the bias of {self.name}, which has none. Train with a bias, "
                "or give --kind multiplicative for outputs trained on squared errors."
            )
        classes = len(weight)
        if classes != len(observed.outputs):
            raise ValueError(
                f"{self.name} must have one output per class, got {classes} for {len(observed.outputs)} "
                "classes."
            )
        values = torch.linspace(0.5, 2.0, classes, dtype=weight.dtype, device=weight.device)
        before = [weight.clone(), None if bias is None else bias.clone()]
        try:
            if kind == "multiplicative":
                weight.mul_(values.view(-1, *[1] * (weight.dim() - 1)))
                if bias is not None:
                    bias.mul_(values)
            else:
                bias.add_(values)
            changed = next(iter(self._raw(model.test_step(batch))))
        finally:
            weight.copy_(before[0])
            if bias is not None:
                bias.copy_(before[1])
        column = values.view(-1, *[1] * (observed.outputs.dim() - 1)).to(observed.outputs)
        expected = observed.outputs * column if kind == "multiplicative" else observed.outputs + column
        size = expected.abs().max().clamp(min=1e-6)
        if changed.shape != expected.shape or (changed - expected).abs().max() > 1e-3 * size:
            changes = "weights" if kind == "multiplicative" else "bias"
            raise ValueError(
                f"The classifier {self.name} ({type(self.layer).__name__}) must be linear and the last "
                f"layer, and the outputs do not follow its {changes}: no checkpoint can carry a decision. "
                "Cosine classifiers and outputs of several layers are of this kind. If another layer scores "
                "the classes, name it with --classifier."
            )

    def _raw(self, samples: Sequence[Any]) -> Iterator[Tensor]:
        if hasattr(samples[0], "pred_sem_seg"):
            yield samples[0].seg_logits.data
        elif self.kept is not None:
            yield self.kept.T
