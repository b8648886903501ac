"""Scores of a confusion matrix, against scikit-learn and against a slow loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from mmseol.metrics.scores import (
    confusion_matrix,
    groups_by_limits,
    groups_by_terciles,
    score_classes,
    summarize,
)

CASES = {  # truth, predicted, K
    "perfect": ([0, 1, 2, 2], [0, 1, 2, 2], 3),
    "never predicted": ([0, 0, 1, 2], [0, 1, 1, 1], 3),
    "predicted, not in the truth": ([0, 0, 1, 1], [0, 2, 1, 1], 3),
    "on neither side": ([0, 0, 3, 3], [0, 3, 3, 3], 6),
    "one class": ([1, 1, 1], [1, 1, 1], 3),
    "nothing right": ([0, 1, 2], [1, 2, 0], 3),
    "one position": ([4], [0], 5),
}


def slow(truth, predicted, num_classes):
    """Return IoU, F1, precision and recall per class by counting one position after the other."""
    rows = []
    for k in range(num_classes):
        tp = fp = fn = 0
        for t, p in zip(truth, predicted, strict=True):
            tp += t == k and p == k
            fp += t != k and p == k
            fn += t == k and p != k
        nan = float("nan")
        if tp + fp + fn == 0:
            rows.append((nan, nan, nan, nan))
            continue
        precision = tp / (tp + fp) if tp + fp else 0.0
        recall = tp / (tp + fn) if tp + fn else nan
        rows.append((tp / (tp + fp + fn), 2 * tp / (2 * tp + fp + fn), precision, recall))
    return np.array(rows).T


def sklearn_summary(truth, predicted):
    seen = np.union1d(truth, predicted)
    with_labels = dict(labels=seen, average="macro", zero_division=0)
    present = dict(labels=np.unique(truth), zero_division=0)
    recalls = sk.recall_score(truth, predicted, average=None, **present)
    return {
        "accuracy": sk.accuracy_score(truth, predicted),
        "macro_f1": sk.f1_score(truth, predicted, **with_labels),
        "macro_precision": sk.precision_score(truth, predicted, **with_labels),
        "macro_recall": sk.recall_score(truth, predicted, average="macro", **present),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, predicted),
        "mIoU": sk.jaccard_score(truth, predicted, **with_labels),
        "g_mean": float(np.prod(recalls)) ** (1 / recalls.size),
        "worst_class": recalls.min(),
    }


def check(truth, predicted, num_classes):
    confusion = confusion_matrix(truth, predicted, num_classes)
    assert confusion.dtype == np.int64
    assert (confusion == sk.confusion_matrix(truth, predicted, labels=range(num_classes))).all()
    scores = score_classes(confusion)
    got = np.array([scores.iou, scores.f1, scores.precision, scores.recall])
    np.testing.assert_allclose(got, slow(truth, predicted, num_classes), rtol=1e-13)
    summary = summarize(scores)
    expected = {name: 100 * float(value) for name, value in sklearn_summary(truth, predicted).items()}
    assert summary == pytest.approx(expected, rel=1e-9)
    assert list(summary) == list(expected)
    assert all(type(value) is float for value in summary.values())


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_scikit_learn_where_classes_are_missing(case):
    check(*CASES[case])


labels = st.integers(1, 6).flatmap(
    lambda k: st.tuples(
        st.lists(st.tuples(st.integers(0, k - 1), st.integers(0, k - 1)), min_size=1, max_size=30),
        st.integers(k, k + 2),
    )
)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
@settings(max_examples=150, deadline=None)
@given(labels)
def test_agrees_with_scikit_learn(drawn):
    pairs, num_classes = drawn
    check(*zip(*pairs, strict=True), num_classes)


def test_a_class_that_is_never_hit_makes_the_geometric_mean_zero_without_a_warning():
    summary = summarize(score_classes(np.array([[9, 0], [1, 0]])))
    assert summary["g_mean"] == 0
    assert summary["worst_class"] == 0
    assert summary["macro_f1"] == pytest.approx(100 * (18 / 19) / 2)


def test_counts_beyond_float_are_exact():
    confusion = np.diag([2**60, 1, 1])
    assert score_classes(confusion).truth.tolist() == [2**60, 1, 1]


def test_groups_by_limits_keep_the_limits_in_the_middle():
    assert groups_by_limits([101, 100, 20, 19, 0]).tolist() == ["many", "medium", "medium", "few", "few"]
    assert groups_by_limits([5, 4, 3], (4, 4)).tolist() == ["many", "medium", "few"]


def test_terciles_cut_the_classes_by_count():
    assert groups_by_terciles([5, 900, 70, 70, 1]).tolist() == ["medium", "many", "many", "medium", "few"]
    sizes = [[(groups_by_terciles(range(k)) == g).sum() for g in ("many", "medium", "few")] for k in (2, 11)]
    assert sizes == [[1, 1, 0], [4, 4, 3]]


def test_a_group_is_the_mean_of_its_classes():
    truth, predicted = [0, 0, 0, 0, 1, 1, 2, 2, 3], [0, 0, 0, 1, 1, 1, 2, 0, 0]
    scores = score_classes(confusion_matrix(truth, predicted, 6))
    groups = np.array(["many", "many", "few", "few", "few", "medium"])  # 4 and 5 are on neither side
    summary = summarize(scores, groups)
    grouped = {name: value for name, value in summary.items() if "/" in name}
    assert grouped == pytest.approx(
        {
            "many/accuracy": 100 * (3 / 4 + 1) / 2,
            "many/macro_f1": 100 * (6 / 9 + 4 / 5) / 2,
            "many/mIoU": 100 * (3 / 6 + 2 / 3) / 2,
            "few/accuracy": 100 * (1 / 2 + 0) / 2,
            "few/macro_f1": 100 * (2 / 3 + 0) / 2,
            "few/mIoU": 100 * (1 / 2 + 0) / 2,
        }
    )


def test_a_group_of_classes_that_are_only_predicted_has_no_accuracy():
    summary = summarize(score_classes(np.array([[1, 1], [0, 0]])), ["many", "few"])
    assert {name for name in summary if name.startswith("few")} == {"few/macro_f1", "few/mIoU"}
    assert summary["few/mIoU"] == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: confusion_matrix([0, 3], [0, 1], 3), "`truth` must be classes 0 to 2, got 3"),
        (lambda: confusion_matrix([0, 1], [0, -1], 3), "`predicted` must be classes 0 to 2, got -1"),
        (
            lambda: confusion_matrix([0, 1], [0], 3),
            r"`predicted` must be of shape \(2,\) as `truth`, got \(1,\)",
        ),
        (lambda: score_classes(np.ones((2, 3), int)), r"`confusion` must be whole numbers of shape \(K, K\)"),
        (lambda: score_classes(np.eye(2)), "whole numbers .* got float64"),
        (lambda: score_classes(np.array([[1, -1], [0, 1]])), "`confusion` must not be negative, got -1"),
        (lambda: summarize(score_classes(np.zeros((2, 2), int))), "at least one labelled element"),
        (
            lambda: summarize(score_classes(np.eye(2, dtype=int)), ["few"]),
            r"`groups` must be of shape \(2,\)",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
