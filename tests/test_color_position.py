"""The colour-and-position baseline, against scikit-learn's metrics and data whose answer is known."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, jaccard_score
from sklearn.preprocessing import StandardScaler

from mmseol.analysis.color_position import (
    color_position_baseline,
    confusion_of,
    fit_pixels,
    pixel_features,
    sample_pixels,
)
from mmseol.metrics.scores import score_classes

TOOL = Path(__file__).parents[1] / "tools/analysis_tools/color_position_baseline.py"


def random_samples(number, seed=0, classes=4):
    """Images whose class is mostly a matter of red and the row; label 11 is void."""
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(number):
        image = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        score = image[..., 0] / 128 + np.linspace(0, 2, 12)[:, None] + rng.normal(0, 0.3, (12, 16))
        label = np.clip(score, 0, classes - 1).astype(np.uint8)
        label[rng.random((12, 16)) < 0.1] = 11
        samples.append((image, label))
    return samples


def test_features():
    image = np.zeros((2, 4, 3), np.uint8)
    image[1, 3] = 255, 51, 0
    features = pixel_features(image)
    assert features.shape == (2, 4, 5)
    np.testing.assert_allclose(features[1, 3], [1, 0.2, 0, 0.75, 0.875])
    np.testing.assert_allclose(features[0, 0], [0, 0, 0, 0.25, 0.125])


def test_scores_agree_with_scikit_learn():
    train, val = random_samples(6), random_samples(3, seed=1)
    score = color_position_baseline(train, val, 4, pixels_per_image=80)
    model = fit_pixels(*sample_pixels(train, 4, 80))
    truth = np.concatenate([label.ravel() for _, label in val])
    predicted = np.concatenate([model.predict(pixel_features(image).reshape(-1, 5)) for image, _ in val])
    valid = truth < 4
    np.testing.assert_array_equal(
        score.confusion, confusion_matrix(truth[valid], predicted[valid], labels=range(4))
    )
    expected = jaccard_score(truth[valid], predicted[valid], average=None, labels=range(4))
    np.testing.assert_allclose(score.iou, expected)
    assert score.mean_iou == pytest.approx(expected.mean())
    assert score.accuracy == pytest.approx((truth == predicted)[valid].mean())
    assert score.mean_iou > 0.3


def test_degree_1_is_plain_logistic_regression():
    features, classes = sample_pixels(random_samples(4), 4, 100)
    scaler = StandardScaler().fit(features.astype(np.float64))
    scaled = scaler.transform(features.astype(np.float64))
    expected = LogisticRegression(max_iter=2000).fit(scaled, classes).predict(scaled)
    np.testing.assert_array_equal(fit_pixels(features, classes, degree=1).predict(features), expected)
    with pytest.raises(ValueError, match=r"`degree` must be a whole number .* at most 2, got 3"):
        fit_pixels(features, classes, degree=3)


def test_iou_rule_for_absent_classes():
    """A class missed entirely or predicted where it is absent scores 0; one absent from both is left out."""
    confusion = np.array([[5, 1, 0, 0], [0, 0, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]])
    iou = score_classes(confusion).iou
    np.testing.assert_allclose(iou, [5 / 8, 0, 0, np.nan])
    truth, predicted = [0] * 6 + [2] * 2, [0] * 5 + [1] + [0] * 2
    np.testing.assert_allclose(
        np.nanmean(iou), jaccard_score(truth, predicted, average="macro", labels=[0, 1, 2], zero_division=0)
    )


def test_sampling_is_seeded_without_replacement_and_avoids_void():
    samples = random_samples(3)
    one, again = sample_pixels(samples, 4, 50, seed=1), sample_pixels(samples, 4, 50, seed=1)
    other = sample_pixels(samples, 4, 50, seed=2)
    np.testing.assert_array_equal(one[0], again[0])
    assert not np.array_equal(one[0], other[0])
    assert len(one[1]) == 150
    assert one[1].max() < 4
    every = sample_pixels(samples, 4, 10_000)
    assert len(every[1]) == sum((label < 4).sum() for _, label in samples)
    assert len(np.unique(every[0][: (samples[0][1] < 4).sum(), 3:], axis=0)) == (samples[0][1] < 4).sum()


def test_crop_limits_where_pixels_come_from_and_keeps_their_position():
    features, _ = sample_pixels(random_samples(1), 4, 10_000, crop=(4, 6))
    rows, columns = np.unique(features[:, 3]), np.unique(features[:, 4])
    assert len(rows) <= 4
    assert len(columns) <= 6
    assert rows.max() - rows.min() < 4 / 12
    full = pixel_features(random_samples(1)[0][0]).reshape(-1, 5)
    assert {tuple(row) for row in features.tolist()} <= {tuple(row) for row in full.tolist()}


def test_classes_never_drawn_are_never_predicted():
    samples = [(image, np.where(label == 3, 11, label)) for image, label in random_samples(4)]
    model = fit_pixels(*sample_pixels(samples, 4, 50))
    confusion = confusion_of(model, random_samples(1, seed=5), 4)
    assert confusion[:, 3].sum() == 0
    assert confusion.shape == (4, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels_per_image": 0}, "`pixels_per_image` must be a whole number of at least 1, got 0"),
        ({"num_classes": 1}, "`num_classes` must be a whole number of at least 2"),
        ({"crop": (13, 4)}, r"`crop` must lie within the image, got \(13, 4\) for \(12, 16\)"),
        ({"crop": (0, 4)}, "`crop`"),
        ({"samples": []}, "at least two classes"),
        ({"samples": [(np.zeros((4, 4, 3)), np.zeros((4, 5)))]}, r"got \(4, 4, 3\) .* and \(4, 5\)"),
        ({"samples": [(np.zeros((4, 4, 3)), np.full((4, 4), 11))]}, "at least two classes"),
    ],
)
def test_errors(change, message):
    with pytest.raises(ValueError, match=message):
        sample_pixels(**{"samples": random_samples(2), "num_classes": 4, **change})


def test_validation_without_labels():
    image, label = random_samples(1)[0]
    with pytest.raises(ValueError, match="`val` must have labelled pixels"):
        color_position_baseline(random_samples(2), [(image, np.full_like(label, 255))], 4)


def test_command_line(tmp_path):
    for split, seed in (("train", 0), ("val", 1)):
        for folder in (split, f"{split}annot"):
            (tmp_path / folder).mkdir()
        for i, (image, label) in enumerate(random_samples(3, seed)):
            Image.fromarray(image).save(tmp_path / split / f"{i}.png")
            Image.fromarray(label).save(tmp_path / f"{split}annot" / f"{i}.png")
    out = tmp_path / "results/baseline.json"
    command = [sys.executable, str(TOOL), "--data-root", str(tmp_path), "--pixels-per-image", "80"]
    command += ["--crop", "10", "10", "--seed", "2", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    record = json.loads(out.read_text())
    expected = color_position_baseline(random_samples(3, 0), random_samples(3, 1), 11, 80, 2, (10, 10))
    assert record["mIoU"] == pytest.approx(expected.mean_iou)
    assert record["iou"]["bicyclist"] is None
    assert f"{100 * expected.mean_iou:.2f}" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode != 0
    assert "exists" in again.stderr
