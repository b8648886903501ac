"""Random calls of every loss: finite inputs give finite values and gradients, or one of our errors.

``FUZZ=20000 python -m pytest tests/test_fuzz_losses.py`` runs that many calls instead of 2,000.
"""

import os
import re
import traceback
import warnings

import numpy as np
import pytest
import torch

from mmseol.experiment.loss import LOSSES
from mmseol.registry import MODELS

CALLS = int(os.environ.get("FUZZ", 2000))
PART = 200  # calls of one test
IGNORE = 255
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Errors that a call may end with: those of this package name an argument in backticks.
OURS = re.compile(r"`(target|pred|avg_factor|weight|classes)`")
OUR_FILES = re.compile(r"mmseol/(losses|counting|utils)/")


class Case:
    """One random call; its description alone reproduces it."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed)

        def pick(*values):
            return values[rng.integers(len(values))]

        self.name = pick(*sorted(LOSSES))
        self.dtype, self.classes = pick(*DTYPES), int(pick(2, 3, 11, 150))
        sizes = pick((), (), (1,), (7,), (4, 5), (9, 1), (2, 3, 4))
        shape = (int(pick(1, 2, 5)), *sizes)
        if not sizes:
            shape = (int(pick(1, 2, 33)),)
        self.scale = float(pick(0.0, 1e-3, 1.0, 30.0, 1e3, 1e4))
        self.pred = (torch.randn(shape[0], self.classes, *shape[1:]) * self.scale).clamp(-1e4, 1e4)
        self.pred = self.pred.to(self.dtype).requires_grad_()
        self.counts = self.random_counts(rng, pick)
        self.target = torch.randint(
            0, int(pick(1, self.classes)), shape, dtype=pick(torch.int64, torch.uint8)
        )
        if pick(True, False):
            self.target[torch.rand(shape) < pick(0.1, 0.9, 1.1)] = IGNORE
        self.soft = pick(True, False, False, False)
        if self.soft:
            labels = torch.randn(self.pred.shape) * float(pick(1, 30))
            self.target = labels.softmax(1).to(pick(self.dtype, torch.float32))
        weight = pick(None, torch.rand(shape) * 2, torch.rand(shape[0]), torch.zeros(shape))
        self.call = dict(weight=weight, reduction_override=pick("mean", "mean", "sum", "none", None))
        if self.call["reduction_override"] == "mean":
            self.call["avg_factor"] = pick(None, None, 1.0, 1000)
        self.class_weight = torch.rand(self.classes) * 3 + 0.01 if pick(True, False, False) else None
        self.training, self.features_scale = pick(True, False), float(pick(0.0, 1e-2, 1.0, 100.0))

    def random_counts(self, rng, pick):
        kind = pick("equal", "long tail", "with zeros", "extreme")
        if kind == "equal":
            return np.full(self.classes, 100)
        if kind == "extreme":
            return np.where(np.arange(self.classes) == 0, 10**12, 1)
        counts = np.ceil(1e6 * 1000.0 ** (-np.arange(self.classes) / self.classes)).astype(np.int64)
        counts = rng.permutation(counts)
        if kind == "with zeros":
            counts[1:][rng.random(self.classes - 1) < 0.5] = 0
        return counts

    def run(self) -> None:
        """Evaluate; raise AssertionError unless value and gradients are finite."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # classes without a sample
            loss = MODELS.build(dict(LOSSES[self.name], class_counts=self.counts, ignore_index=IGNORE))
        loss.train(self.training)
        inputs = [self.pred]
        if hasattr(loss, "set_features"):
            loss.set_epoch(100)
            features = torch.randn(len(self.pred), 8, *self.pred.shape[2:]) * self.features_scale
            inputs.append(features.to(self.dtype).requires_grad_())
            loss.set_features(inputs[1])
        if self.class_weight is not None and self.name != "cdb_ce":
            loss.set_class_weight(self.class_weight)
        self.check(loss(self.pred, self.target, **self.call), inputs)
        if hasattr(loss, "forward_upsampled") and self.pred.dim() == 4 and not self.soft:
            size = self.target.shape[1] * 2, self.target.shape[2] * 3
            target = self.target.repeat_interleave(2, 1).repeat_interleave(3, 2)
            if (weight := self.call["weight"]) is not None and weight.dim() > 1:
                weight = torch.rand(len(target), *size)
            call = self.call | {"weight": weight}
            if hasattr(loss, "set_features"):  # they are released after each evaluation
                loss.set_features(inputs[1])
            self.check(loss.forward_upsampled(self.pred, target, **call), inputs)

    def check(self, value: torch.Tensor, inputs: list[torch.Tensor]) -> None:
        """Assert that the value and its gradients are finite."""
        assert value.isfinite().all(), f"value {value}"
        gradients = torch.autograd.grad(value.sum(), inputs, allow_unused=True)
        for gradient in gradients:
            assert gradient is None or gradient.isfinite().all(), f"gradient {gradient}"

    def __str__(self) -> str:
        call = {key: None if value is None else str(value)[:60] for key, value in self.call.items()}
        return (
            f"{self.name} {self.dtype} {tuple(self.pred.shape)} scale {self.scale} soft {self.soft} "
            f"counts {self.counts[:5]} class weights {self.class_weight is not None} {call} "
            f"features {self.features_scale}"
        )


def is_ours(error: Exception) -> bool:
    """Whether the error is one of this package that names an argument."""
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    return isinstance(error, ValueError) and bool(OURS.search(str(error))) and bool(OUR_FILES.search(last))


@pytest.mark.parametrize("part", range(-(-CALLS // PART)))
def test_random_calls_are_finite_or_refused(part):
    failures, refused, evaluated = [], 0, 0
    for seed in range(part * PART, (part + 1) * PART):
        case = Case(seed)
        try:
            case.run()
            evaluated += 1
        except Exception as error:
            if is_ours(error):
                refused += 1
            else:
                failures.append(f"seed {seed}: {case}\n    {type(error).__name__}: {str(error)[:300]}")
    assert not failures, f"{len(failures)} of {PART}:\n" + "\n".join(failures)
    assert evaluated > PART / 2
    assert refused < PART / 4
