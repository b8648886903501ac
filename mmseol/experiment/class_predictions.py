"""Predicted classes and pictures of a classification test, written beside its scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from PIL import Image
from torch import Tensor

from mmseol.analysis.pictures import captioned
from mmseol.utils.files import replacing

__all__ = ["ClassPredictions", "add_writer"]


class ClassPredictions(BaseMetric):
    """Write the classes of all samples to ``predictions.json``, and pictures of them.

    >>> import tempfile
    >>> from torch import tensor
    >>> writer = ClassPredictions(["cat", "dog"], tempfile.mkdtemp(), show_dir=None, bgr=False)
    >>> writer.process({}, [dict(pred_label=tensor(1), pred_score=tensor([0.25, 0.75]))])
    >>> _ = writer.evaluate(size=1)
    >>> json.loads(Path(writer.out, "predictions.json").read_text())
    [{'image': '', 'label': 1, 'class': 'dog', 'score': 0.75}]

    Args:
        names: Names of the classes.
        out: Folder of ``predictions.json``; ``None`` writes none.
        show_dir: Folder of the pictures; ``None`` writes none.
        bgr: Whether the images of a batch are BGR.
    """

    default_prefix = "predictions"

    def __init__(self, names: Sequence[str], out: str | None, show_dir: str | None, bgr: bool) -> None:
        super().__init__()
        self.names, self.out, self.show_dir, self.bgr = names, out, show_dir, bgr
        self._seen: dict[str, int] = {}

    def process(self, data_batch: Mapping[str, Any], data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep the classes of a batch and write its pictures."""
        for i, sample in enumerate(data_samples):
            label, scores = int(sample["pred_label"]), sample["pred_score"]
            record = {"image": str(sample.get("img_path", "")), "label": label, "class": self.names[label]}
            record["score"] = round(float(scores[label]), 6)
            if "gt_label" in sample:
                record["truth"] = sample["gt_label"].squeeze().tolist()
            self.results.append(record)
            if self.show_dir is not None:
                self._draw(data_batch["inputs"], i, record)

    def _draw(self, inputs: Any, i: int, record: dict[str, Any]) -> None:
        images = inputs if isinstance(inputs[0], Tensor) else inputs[0]  # of the first view with --tta
        pixels = images[i].permute(1, 2, 0).cpu().numpy().astype(np.uint8)
        path = Path(record["image"])
        stem = f"{path.parent.name}_{path.stem}" if record["image"] else f"{len(self.results) - 1:06}"
        self._seen[stem] = self._seen.get(stem, -1) + 1
        name = f"{stem}_{self._seen[stem]}" if self._seen[stem] else stem
        caption = f"{record['class']} {record['score']:.2f}"
        with replacing(Path(str(self.show_dir), f"{name}.png")) as file:
            picture = captioned(pixels[..., ::-1] if self.bgr else pixels, caption)
            Image.fromarray(picture).save(file, format="png")

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Write the records of all processes; there is no score."""
        if self.out is not None:
            with replacing(Path(self.out) / "predictions.json", "w") as file:
                file.write(json.dumps(results, indent=1) + "\n")
        return {}


def add_writer(runner: Any, out: str | None, show_dir: str | None) -> None:
    """Let the test of a ``Runner`` also write its predictions into ``out`` and pictures into ``show_dir``.

    >>> from types import SimpleNamespace
    >>> evaluator = SimpleNamespace(dataset_meta={"classes": ["cat", "dog"]}, metrics=[])
    >>> runner = SimpleNamespace(test_loop=SimpleNamespace(evaluator=evaluator), cfg={})
    >>> add_writer(runner, out="predictions", show_dir=None)
    >>> [type(metric).__name__ for metric in evaluator.metrics]
    ['ClassPredictions']
    """
    evaluator = runner.test_loop.evaluator
    names = (evaluator.dataset_meta or {}).get("classes") or [str(k) for k in range(10**4)]
    bgr = bool((runner.cfg.get("data_preprocessor") or {}).get("to_rgb"))
    writer = ClassPredictions(names, out, show_dir, bgr)
    writer.dataset_meta = evaluator.dataset_meta
    evaluator.metrics.append(writer)
