"""What outputs estimate, against scikit-learn, slow loops and the gradients of the losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from mmseol.analysis.statistics.estimates import (
    brier_scores,
    class_means,
    distance_to_labels,
    fitted_targets,
    gradient_mass,
    prior_weights,
    probabilities,
    reliability,
)
from mmseol.losses import CrossEntropyLoss, OutlyingMSELoss

K = 3
COUNTS = [600, 300, 100]


def drawn(number: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    """Return true probabilities, (N, K), and labels drawn from them."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.array(COUNTS) / 200, number)
    return p, np.array([rng.choice(K, p=row) for row in p])


def test_outputs_at_the_minimum_give_the_probabilities() -> None:
    p, _ = drawn(50)
    values = OutlyingMSELoss(alpha=3.0, class_counts=COUNTS).target_values.numpy()
    np.testing.assert_allclose(probabilities(values * p, values), p)
    np.testing.assert_allclose(probabilities(np.log(p) + 7), p)
    with pytest.raises(ValueError, match=r"`targets` must be one number for each class .*got shape \(2,\)"):
        probabilities(p, [1, 2])


def test_reliability_is_scikit_learns() -> None:
    p, truth = drawn()
    found = reliability(p, truth, bins=10)
    for k in range(K):
        frequency, estimate = calibration_curve(truth == k, p[:, k], n_bins=10, strategy="quantile")
        np.testing.assert_allclose(found.estimate[k], estimate, atol=2e-3)
        np.testing.assert_allclose(found.frequency[k], frequency, atol=6e-3)
    assert (found.number == 300).all()
    assert found.error().max() < 0.04  # the labels were drawn from the estimates
    wrong = reliability(np.roll(p, 1, axis=1), truth)
    assert wrong.error().min() > 0.1
    with pytest.raises(ValueError, match="`bins` must be a whole number of at least 1 and at most 3000"):
        reliability(p, truth, bins=3001)
    with pytest.raises(ValueError, match="`truth` must be classes 0 to 2"):
        reliability(p, truth + 1)


def test_brier_scores_are_scikit_learns() -> None:
    p, truth = drawn()
    expected = [brier_score_loss(truth == k, p[:, k]) for k in range(K)]
    np.testing.assert_allclose(brier_scores(p, truth), expected)
    assert brier_scores(2 * p, truth).sum() > brier_scores(p, truth).sum()


def test_class_means_and_their_distance_to_the_labels() -> None:
    p, truth = drawn(200)
    truth[truth == 2] = 1
    means = class_means(p, truth)
    for k in range(2):
        np.testing.assert_allclose(means[k], [p[truth == k, j].mean() for j in range(K)])
    assert np.isnan(means[2]).all()
    values = np.array([2.0, 4.0, 6.0])
    assert distance_to_labels(np.diag(values), values).tolist() == [0, 0, 0]
    np.testing.assert_allclose(distance_to_labels(np.zeros((3, 3)), values), 1)


@pytest.mark.parametrize("name", ["outlying", "softmax"])
def test_gradient_mass_is_that_of_the_loss(name: str) -> None:
    _, truth = drawn(100)
    loss = OutlyingMSELoss(alpha=2.0, class_counts=COUNTS) if name == "outlying" else CrossEntropyLoss()
    outputs = torch.randn(100, K, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    outputs.requires_grad_()
    (gradient,) = torch.autograd.grad(
        loss(outputs, torch.from_numpy(truth), reduction_override="sum"), outputs
    )
    targets = loss.target_values.numpy() if name == "outlying" else None
    got = gradient_mass(outputs.detach().numpy(), truth, targets)
    slow = [gradient.abs().numpy()[truth == k].mean(0) for k in range(K)]
    np.testing.assert_allclose(got, slow)


def test_weights_are_those_of_repeated_elements() -> None:
    """Elements with whole weights count as often as they say."""
    p, truth = drawn(300)
    weights = np.random.default_rng(1).integers(0, 4, 300)
    several = np.repeat(np.arange(300), weights)
    np.testing.assert_allclose(brier_scores(p, truth, weights), brier_scores(p[several], truth[several]))
    np.testing.assert_allclose(fitted_targets(p, truth, weights), fitted_targets(p[several], truth[several]))
    found, expected = (
        reliability(p, truth, 1, weights),
        reliability(p[several], truth[several], 1),
    )
    np.testing.assert_allclose(found.estimate, expected.estimate)
    np.testing.assert_allclose(found.frequency, expected.frequency)
    with pytest.raises(ValueError, match="`weights` must be 300 numbers of at least 0"):
        brier_scores(p, truth, -weights - 1)


def test_a_balanced_sample_is_weighted_as_the_training_data() -> None:
    """Of data cut to equal classes, the weighted scores are those of the data before the cut."""
    p, truth = drawn(60_000)
    kept = np.concatenate([np.flatnonzero(truth == k)[:5000] for k in range(K)])
    weights = prior_weights(truth[kept], np.bincount(truth))
    assert weights.mean() == pytest.approx(1)
    got, wrong = brier_scores(p[kept], truth[kept], weights), brier_scores(p[kept], truth[kept])
    np.testing.assert_allclose(got, brier_scores(p, truth), rtol=0.05)
    assert np.abs(wrong / brier_scores(p, truth) - 1).max() > 0.2
    assert reliability(p[kept], truth[kept], 10, weights).error().max() < 0.03
    assert reliability(p[kept], truth[kept], 10).error().max() > 0.1


def test_the_divisors_that_fit_best_are_the_targets() -> None:
    p, truth = drawn(30_000)
    values = np.array([2.0, 4.0, 6.0])
    np.testing.assert_allclose(fitted_targets(values * p, truth), values, rtol=0.02)
    for k in range(K):  # least squares of the labels without an intercept
        expected = np.linalg.lstsq(p[:, k : k + 1], (truth == k).astype(float), rcond=None)[0][0]
        assert fitted_targets(p, truth)[k] == pytest.approx(1 / expected)
