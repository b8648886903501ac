"""Ranks and weights against scipy, scikit-learn and the numbers of the literature."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata
from sklearn.utils.class_weight import compute_class_weight

from mmseol.counting import counts as C

some_counts = st.lists(st.integers(0, 10**9), min_size=2, max_size=30).filter(any)


@given(some_counts)
@pytest.mark.filterwarnings("ignore:Classes")
def test_ordinal_ranks_are_a_stable_descending_sort(values):
    order = sorted(range(len(values)), key=lambda c: -values[c])  # stable: equal counts keep class order
    expected = np.empty(len(values))
    expected[order] = np.arange(1, len(values) + 1)
    np.testing.assert_array_equal(C.outlying_values(values), expected)
    np.testing.assert_allclose(C.outlying_values(values, alpha=6), 6 * expected)


@given(some_counts, st.sampled_from(["dense", "average"]))
@pytest.mark.filterwarnings("ignore:Classes")
def test_shared_ranks_are_scipys(values, ties):
    np.testing.assert_array_equal(
        C.outlying_values(values, ties=ties), rankdata(-np.array(values), method=ties)
    )


def test_step_imbalance_ranks_by_class_order_within_each_half():
    assert C.outlying_values([5000, 5000, 50, 50]).tolist() == [1, 2, 3, 4]
    assert C.outlying_values([50, 50, 5000, 5000]).tolist() == [3, 4, 1, 2]


def test_zero_count_class_is_last_and_named():
    with pytest.warns(UserWarning, match=r"Classes \[1\] have no training sample and are ranked last"):
        assert C.outlying_values([5, 0, 9]).tolist() == [2, 3, 1]
    with pytest.warns(UserWarning, match=r"Classes \[1\].*count enters as 1 in inverse-frequency"):
        np.testing.assert_allclose(C.inverse_frequency_weights([2, 0, 1]), [0.6, 1.2, 1.2])
    with pytest.warns(UserWarning, match=r"Classes \[0, 1\]"):
        assert C.outlying_values([0, 0, 9], scheme="reciprocal").tolist() == [9, 9, 1]


@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=20))
def test_inverse_frequency_is_scikit_learns_balanced_up_to_scale(values):
    ours = C.inverse_frequency_weights(values)
    labels = np.arange(len(values))
    # scikit-learn wants labels, not counts: capped, so that there are not too many.
    balanced = compute_class_weight("balanced", classes=labels, y=np.repeat(labels, np.minimum(values, 50)))
    capped = C.inverse_frequency_weights(np.minimum(values, 50))
    np.testing.assert_allclose(capped / capped[0], balanced / balanced[0])
    assert ours.sum() == pytest.approx(len(values))


def test_effective_number_limits():
    n = [5000, 500, 50, 5]
    np.testing.assert_allclose(C.effective_number_weights(n, beta=0.0), 1)
    np.testing.assert_allclose(
        C.effective_number_weights(n, beta=1 - 1e-12), C.inverse_frequency_weights(n), rtol=1e-6
    )
    slow = np.array([(1 - 0.9999) / (1 - 0.9999**count) for count in n])
    np.testing.assert_allclose(C.effective_number_weights(n), slow / slow.sum() * 4, rtol=1e-9)


def test_median_frequency_is_the_median_over_the_share_in_images_with_the_class():
    samples = [60, 30, 10, 0]
    with pytest.warns(UserWarning, match=r"Classes \[3\]"):
        weights = C.median_frequency_weights(samples, totals=[100, 100, 40, 0])
    frequency = np.array([0.6, 0.3, 0.25, 1 / 101])
    np.testing.assert_allclose(weights, np.median(frequency) / frequency)


def test_weights_by_name_cover_the_list():
    for name in C.CLASS_WEIGHTS:
        assert C.class_weights(name, [10, 5, 1]).shape == (3,)
    with pytest.raises(ValueError, match=r"`class_weight` must be one of .*, got 'none'"):
        C.class_weights("none", [10, 5, 1])


def test_class_counts_add_scale_and_round_trip(tmp_path):
    one = C.ClassCounts([1, 2], [1, 1], [5, 5])
    total = one + one * 3
    assert total == C.ClassCounts([4, 8], [4, 4], [20, 20])
    assert total != one
    total.save(tmp_path / "deep" / "counts.json")
    assert C.ClassCounts.load(tmp_path / "deep" / "counts.json") == total
    assert C.load_counts(tmp_path / "deep" / "counts.json").tolist() == [4, 8]
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["counts.json"]
    with pytest.raises(ValueError, match="must be of one shape"):
        C.ClassCounts([1, 2], [1], [5, 5])
