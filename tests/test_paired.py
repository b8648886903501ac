"""Paired intervals: against scikit-learn, scipy and a loop."""

import numpy as np
import pytest
from helpers.payload import Payload
from helpers.sweep_records import CLASSES, SEG_TRUTH, TRUTH, predict, sklearn_scores, tallies
from scipy import stats
from sklearn.metrics import f1_score

from mmseol.analysis.statistics.paired import (
    Predictions,
    image_interval,
    load_predictions,
    resampled_scores,
    seed_interval,
)

K = len(CLASSES)


def labels(seed, wrong=0.5):
    return Predictions.of_labels(predict(TRUTH, seed, wrong), TRUTH, K)


def segmented(seed):
    return Predictions.of_tallies(tallies(SEG_TRUTH, predict(SEG_TRUTH, seed, 0.5)), K)


def test_scores_are_scikit_learns():
    for own, truth in ((labels(3), TRUTH), (segmented(3), SEG_TRUTH)):
        expected = sklearn_scores(truth, predict(truth, 3, 0.5))
        assert {
            name: pytest.approx(value) for name, value in expected.items()
        }.items() <= own.scores().items()


def test_weights_repeat_images():
    weights = np.random.default_rng(0).multinomial(len(TRUTH), np.full(len(TRUTH), 1 / len(TRUTH)), size=5)
    label = predict(TRUTH, 3, 0.5)
    own = labels(3).scores(weights.astype(float))
    expected = [sklearn_scores(np.repeat(TRUTH, row), np.repeat(label, row)) for row in weights]
    for name in expected[0]:
        np.testing.assert_allclose(own[name], [scores[name] for scores in expected])
    weights = np.random.default_rng(0).integers(0, 3, (4, len(SEG_TRUTH)))
    label = predict(SEG_TRUTH, 3, 0.5)
    own = segmented(3).scores(weights.astype(float))
    expected = [sklearn_scores(np.repeat(SEG_TRUTH, w, 0), np.repeat(label, w, 0)) for w in weights]
    for name in expected[0]:
        np.testing.assert_allclose(own[name], [scores[name] for scores in expected])


def test_a_class_in_no_resample_scores_as_in_scikit_learn():
    truth, label = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0])
    own = Predictions.of_labels(label, truth, K).scores(np.array([[2.0, 0.0, 2.0, 0.0]]))
    assert own["macro_f1"] == [100 * f1_score([0, 0, 1, 1], [0, 0, 1, 1], average="macro")]


def test_interval_is_scipys():
    """The interval of scipy's paired bootstrap, up to the chance of the resamples."""
    hits = [100.0 * (predict(TRUTH, seed, wrong) == TRUTH) for seed, wrong in ((1, 0.3), (2, 0.5))]
    runs = resampled_scores([labels(1, 0.3), labels(2, 0.5)], resamples=20_000)
    own = image_interval([runs[0]["accuracy"]], [runs[1]["accuracy"]], level=0.9)
    expected = stats.bootstrap(
        hits,
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        confidence_level=0.9,
        random_state=0,
    )
    np.testing.assert_allclose(own, expected.confidence_interval, atol=0.9)  # a step is 1 / 120
    assert own[1] - own[0] > 10


def test_runs_share_their_resamples_and_draws_are_seeded():
    run = labels(1)
    same = resampled_scores([run, run], resamples=50, seed=3)
    assert image_interval([same[0]["macro_f1"]], [same[1]["macro_f1"]]) == (0, 0)
    again = resampled_scores([run], resamples=50, seed=3)
    np.testing.assert_array_equal(same[0]["macro_f1"], again[0]["macro_f1"])
    other = resampled_scores([run], resamples=50, seed=4)
    assert (same[0]["macro_f1"] != other[0]["macro_f1"]).any()
    assert same[0]["macro_f1"].std() > 1


@pytest.mark.parametrize("image", [0, 60, len(TRUTH) - 1])
def test_every_image_is_drawn_equally_often(image):
    label = (TRUTH + 1) % K
    label[image] = TRUTH[image]
    accuracies = resampled_scores([Predictions.of_labels(label, TRUTH, K)], resamples=4000)[0]["accuracy"]
    drawn = accuracies / 100 * len(TRUTH)  # times, a binomial number of mean 1 and variance 1
    assert drawn.mean() == pytest.approx(1, abs=5 / np.sqrt(4000))
    assert drawn.var() == pytest.approx(1, abs=0.15)


def test_batches_of_resamples_do_not_change_their_number(monkeypatch):
    monkeypatch.setattr("mmseol.analysis.statistics.paired._BATCH", 7 * len(TRUTH))
    assert resampled_scores([labels(1)], resamples=50)[0]["accuracy"].shape == (50,)


def test_the_interval_of_a_mean_over_seeds_is_narrower_than_that_of_one_seed():
    firsts = resampled_scores([labels(seed) for seed in range(20)], resamples=500)
    ones = [run["accuracy"] for run in firsts]
    zeros = [np.zeros(500)] * 20
    low, high = image_interval(ones[:1], zeros[:1])
    mean_low, mean_high = image_interval(ones, zeros)
    assert mean_high - mean_low < high - low


def test_other_images_are_refused():
    other = Predictions.of_labels(TRUTH, TRUTH[::-1], K)
    with pytest.raises(ValueError, match="the same images in the same order"):
        resampled_scores([labels(1), other])


def test_seed_interval_is_scipys_and_says_what_few_seeds_allow():
    first, second = [41.0, 45.0, 43.5], [40.0, 41.0, 42.0]
    own = seed_interval(first, second, level=0.9)
    differences = np.subtract(first, second)
    expected = stats.t.interval(0.9, 2, differences.mean(), stats.sem(differences))
    np.testing.assert_allclose([own.low, own.high], expected)
    assert own.p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    assert seed_interval([41.0], [40.0]) == (1, 1.0, None, None, None)
    assert seed_interval([41.0, 42.0], [40.0, 41.0]) == (2, 1.0, 1.0, 1.0, None)
    with pytest.raises(ValueError, match="got 2 and 1"):
        seed_interval([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"label": [0, 3], "truth": [0, 1]}, r"`label` must lie within 0\.\.2, got 3"),
        ({"label": [0, 1], "truth": [0]}, r"`label` must be of shape \(1,\) as `truth`, got \(2,\)"),
        ({"label": [0.5], "truth": [0]}, "`label` must be whole numbers"),
        ({"label": [0]}, "must hold `label` and `truth`, or `tallies`, got label"),
        ({"tallies": np.zeros((2, 4, 3), int)}, r"of shape \(images, 3, 3\)"),
        ({"tallies": np.tile([2, 1, 3], (1, 3, 1))}, "right pixels of at most"),
        ({"tallies": np.tile([-1, 1, 3], (1, 3, 1))}, "right pixels of at most"),
    ],
)
def test_bad_predictions_are_named(tmp_path, arrays, message):
    np.savez(tmp_path / "predictions.npz", **arrays)
    with pytest.raises(ValueError, match=rf"predictions\.npz.*{message}"):
        load_predictions(tmp_path / "predictions.npz", K)


def test_predictions_are_not_unpickled(tmp_path):
    payload = Payload(tmp_path / "ran")
    np.savez(tmp_path / "predictions.npz", label=np.array([payload], dtype=object), truth=[0])
    with pytest.raises(ValueError, match="must be a file of predictions"):
        load_predictions(tmp_path / "predictions.npz", K)
    assert not (tmp_path / "ran").exists()
    (tmp_path / "half.npz").write_bytes((tmp_path / "predictions.npz").read_bytes()[:40])
    with pytest.raises(ValueError, match=r"half\.npz"):
        load_predictions(tmp_path / "half.npz", K)
