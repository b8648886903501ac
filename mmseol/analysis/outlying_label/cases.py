"""The runs that are compared: outputs by data set, loss, stage of training and seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmseol.analysis.statistics.estimates import prior_weights
from mmseol.analysis.statistics.verdicts import resampled, unit_sums
from mmseol.experiment.checkpoint_outputs import CheckpointOutputs
from mmseol.metrics.scores import overall_score, score_tallies
from mmseol.utils.arrays import FloatArray, IntArray

__all__ = [
    "BALANCED",
    "CROSS_ENTROPY",
    "EARLY",
    "LATE",
    "ONE_HOT",
    "OUTLYING",
    "TITLES",
    "VS",
    "Case",
    "paired",
    "thirds",
]

CROSS_ENTROPY, ONE_HOT, OUTLYING, BALANCED, VS = "ce", "mse", "outlying_mse", "balanced_softmax", "vs"
TITLES = {
    CROSS_ENTROPY: "cross entropy",
    ONE_HOT: "one-hot MSE",
    OUTLYING: "outlying MSE",
    BALANCED: "balanced softmax",
    VS: "VS loss",
}
"""Names of the losses in statements."""

EARLY, LATE = "early", "late"
_FRAMES = 5  # neighbouring frames of a video that are resampled together


@dataclass(frozen=True)
class Case:
    """The runs on one data set.

    >>> Case("digits", {}, balanced=True).score_name
    'balanced_accuracy'

    Attributes:
        name: Name of the data set.
        runs: Outputs by loss and stage, seed and split: ``'train'``, ``'val'``, ``'held out'``.
        balanced: Whether the held-out split has the classes in other fractions than the training data.
        segmentation: Whether elements are pixels of a video's frames.
    """

    name: str
    runs: Mapping[tuple[str, str], Mapping[int, Mapping[str, CheckpointOutputs]]]
    balanced: bool
    segmentation: bool = False

    @property
    def score_name(self) -> str:
        """Score of the decisions."""
        return "mIoU" if self.segmentation else "balanced_accuracy"

    def stages(self) -> Iterator[tuple[str, str]]:
        """Yield each stage with its title."""
        for stage in (EARLY, LATE):
            if any(own == stage for _, own in self.runs):
                yield stage, f"{self.name}, {stage}"

    def of(self, loss: str, stage: str, split: str = "held out") -> dict[int, CheckpointOutputs]:
        """Return the outputs of a loss by seed; empty without any."""
        runs = self.runs.get((loss, stage), {})
        return {seed: run[split] for seed, run in runs.items() if split in run}

    def losses(self, stage: str) -> list[str]:
        """Return the losses of a stage that are compared, in the order of :data:`TITLES`."""
        return [loss for loss in TITLES if (loss, stage) in self.runs]

    def unit(self, image: IntArray) -> IntArray:
        """Return the unit of each image that is resampled as a whole."""
        return image // _FRAMES if self.segmentation else image

    def score(self, outputs: CheckpointOutputs, decision: str) -> FloatArray:
        """Return the score of a decision: of all images, then of resampled images, (1 + R,)."""
        rows = outputs.rows(decision)
        (sums,) = resampled([unit_sums(rows, self.unit(np.arange(len(rows))))])
        hits, predicted, truth = np.moveaxis(sums.astype(np.int64), -1, 0)
        return overall_score(self.score_name, score_tallies(hits, truth, predicted))

    def weights(self, outputs: CheckpointOutputs) -> FloatArray:
        """Return the weight of each element that makes the data like the training data, (N,)."""
        if not self.balanced:
            return np.ones(len(outputs.truth))
        return prior_weights(outputs.truth, outputs.counts)


def thirds(counts: IntArray) -> tuple[IntArray, IntArray]:
    """Return the third of the classes with the most and the third with the fewest training samples.

    >>> thirds(np.array([5, 9, 1]))
    (array([1]), array([2]))
    """
    order, number = np.argsort(-np.asarray(counts), kind="stable"), max(1, len(counts) // 3)
    return order[:number], order[-number:]


def paired(first: Mapping[int, Any], second: Mapping[int, Any]) -> tuple[list[Any], list[Any]]:
    """Return what two losses have for the seeds that both have.

    >>> paired({1: "a", 2: "b"}, {2: "c", 3: "d"})
    (['b'], ['c'])
    """
    seeds = [seed for seed in first if seed in second]
    return [first[seed] for seed in seeds], [second[seed] for seed in seeds]
