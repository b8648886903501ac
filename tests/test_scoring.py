"""Kept predictions: the scores of each class that they give are those of the metrics."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.metric_samples import NAMES, map_sample, random_maps
from mmengine.evaluator import Evaluator

from mmseol.metrics import ClassBalanceMetric, SegClassBalanceMetric
from mmseol.metrics.class_scores import class_rows
from mmseol.metrics.scores import score_classes
from mmseol.sweeps.scoring import keep_predictions

SCORES = ("IoU", "F1", "precision", "recall")


def evaluated(metric, samples):
    """Return the kept predictions and the scores of an evaluation in two batches."""
    evaluator = Evaluator([metric])
    evaluator.dataset_meta = {"classes": NAMES}
    keeper = keep_predictions(evaluator)
    for batch in filter(None, (samples[:3], samples[3:])):
        evaluator.process(data_samples=batch)
    scores = evaluator.evaluate(len(samples))
    return keeper.taken(), scores


def test_tallies_of_label_maps_are_those_of_each_image():
    maps = random_maps(7)
    samples = [map_sample(truth, predicted, f"{i}.png") for i, (truth, predicted) in enumerate(maps)]
    kept, scores = evaluated(SegClassBalanceMetric(ignore_index=255), samples)
    tallies = kept.arrays()["tallies"]
    assert tallies.shape == (7, 4, 3)
    for (truth, predicted), one in zip(maps, tallies, strict=True):
        valid = truth != 255
        for k in range(4):
            is_truth, is_predicted = (truth == k) & valid, (predicted == k) & valid
            expected = [(is_truth & is_predicted).sum(), is_predicted.sum(), is_truth.sum()]
            np.testing.assert_array_equal(one[k], expected)
    means = np.mean([row["IoU"] for row in kept.per_class().values()])
    assert means == pytest.approx(scores["mIoU"], abs=1e-3)


def test_an_ignored_label_of_the_metric_is_ignored():
    truth, predicted = np.array([[0, 1, 2, 2]]), np.array([[0, 0, 3, 3]])
    kept, _ = evaluated(SegClassBalanceMetric(ignore_index=2), [map_sample(truth, predicted)])
    assert kept.arrays()["tallies"][0].tolist() == [[1, 2, 1], [0, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_classes_of_samples_keep_their_order(tmp_path):
    rng = np.random.default_rng(0)
    truth, label = rng.integers(0, 4, 50), rng.integers(0, 4, 50)
    samples = [
        {"gt_label": torch.tensor([t]), "pred_label": torch.tensor([p])}
        for t, p in zip(truth.tolist(), label.tolist(), strict=True)
    ]
    kept, scores = evaluated(ClassBalanceMetric(), samples)
    kept.save(tmp_path / "predictions.npz")
    with np.load(tmp_path / "predictions.npz", allow_pickle=False) as stored:
        np.testing.assert_array_equal(stored["truth"], truth)
        np.testing.assert_array_equal(stored["label"], label)
    assert 100 * (truth == label).mean() == pytest.approx(scores["accuracy"])
    confusion = np.zeros((4, 4), np.int64)
    np.add.at(confusion, (truth, label), 1)
    rows = class_rows(NAMES, score_classes(confusion))
    for row in rows:
        assert kept.per_class()[row["class"]] == pytest.approx({s: row[s] for s in SCORES}, abs=1e-4)


def test_a_class_that_is_nowhere_has_no_scores():
    samples = [{"gt_label": torch.tensor([0]), "pred_label": torch.tensor([1])}]
    kept, _ = evaluated(ClassBalanceMetric(), samples)
    assert kept.per_class()["bicyclist"] == dict.fromkeys(SCORES)


def test_data_without_names_of_classes_are_refused():
    with pytest.raises(ValueError, match="must name its classes"):
        keep_predictions(SimpleNamespace(dataset_meta={}, metrics=[]))
