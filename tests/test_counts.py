"""Ranks and weights against scipy, scikit-learn and the numbers of the literature."""

import io
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata
from sklearn.utils.class_weight import compute_class_weight

from mmseol.camvid.layout import CAMVID_PIXELS
from mmseol.counting import counts as C
from mmseol.counting.skew import batches_without, tail_fraction
from mmseol.datasets.imbalance import class_sizes

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
    counts, totals = [10, 5, 1], [20, 8, 9]
    expected = {
        "median_frequency": C.median_frequency_weights(counts, totals),
        "inverse_frequency": C.inverse_frequency_weights(counts),
        "effective_number": C.effective_number_weights(counts, 0.5),
        "enet": C.enet_weights(counts),
    }
    assert expected.keys() == set(C.CLASS_WEIGHTS)
    for name, weights in expected.items():
        np.testing.assert_array_equal(C.class_weights(name, counts, totals, 0.5), weights)
    with pytest.raises(ValueError, match=r"`class_weight` must be one of .*, got 'none'"):
        C.class_weights("none", [10, 5, 1])


@given(some_counts, st.floats(0, 3))
@pytest.mark.filterwarnings("ignore:Classes")
def test_power_targets_lie_between_equal_and_reciprocal_ones(values, gamma):
    samples = [max(n, 1) for n in values]
    slow = [2.0 * (max(samples) / n) ** gamma for n in samples]
    np.testing.assert_allclose(C.outlying_values(values, 2.0, "power", gamma=gamma), slow)
    equal, one = (C.outlying_values(values, 2.0, "power", gamma=g) for g in (0, 1))
    assert equal.tolist() == [2.0] * len(values)
    np.testing.assert_array_equal(one, C.outlying_values(values, 2.0, "reciprocal"))


@pytest.mark.parametrize("scheme", ["rank", "reciprocal", "power"])
def test_auto_alpha_gives_targets_of_unit_mean_square_over_the_samples(scheme):
    counts = [700, 50, 250]
    drawn = np.repeat(C.outlying_values(counts, "auto", scheme, gamma=0.5), counts)
    assert np.mean(drawn**2) == pytest.approx(1)
    proportional = drawn[0] / C.outlying_values(counts, 1.0, scheme, gamma=0.5)[0]
    np.testing.assert_allclose(
        C.outlying_values(counts, "auto", scheme, gamma=0.5),
        proportional * C.outlying_values(counts, 1.0, scheme, gamma=0.5),
    )


@pytest.mark.parametrize(
    ("counts", "papers"),
    [
        *((class_sizes([4995] * 10, "long_tailed", ratio), 5) for ratio in (5, 10, 50, 100)),
        *((class_sizes([495] * 100, "long_tailed", ratio), 1) for ratio in (5, 10, 50, 100)),
        (class_sizes([700] * 101, "long_tailed", 100), 1),
        (CAMVID_PIXELS, 6),
    ],
)
def test_auto_alpha_is_smaller_than_the_choices_of_the_paper(counts, papers):
    """On CIFAR-10, CIFAR-100, Food-101-LT and CamVid, as the docstring says."""
    assert 15 <= papers / C.outlying_values(counts, "auto").min() <= 47


def test_gamma_belongs_to_power_targets_alone():
    assert C.outlying_values([8, 2], scheme="power").tolist() == [1, 4]
    assert C.outlying_values([8, 2], scheme="reciprocal", gamma=0.5).tolist() == [1, 4]


def test_equal_counts_keep_class_order_among_many():
    ranks = C.outlying_values([5, 7] * 200).astype(int)
    assert ranks[1::2].tolist() == list(range(1, 201))
    assert ranks[::2].tolist() == list(range(201, 401))


def test_counts_of_small_types_are_summed_in_int64():
    small, totals = np.array([200, 100, 30], dtype=np.uint8), np.array([250] * 3, dtype=np.uint8)
    for arguments in ((small,), (small, totals)):
        np.testing.assert_array_equal(
            C.median_frequency_weights(*arguments),
            C.median_frequency_weights(*(array.tolist() for array in arguments)),
        )
    ranks = np.array([1, 20], dtype=np.uint8)
    assert C.unit_alpha([9, 1], ranks) == C.unit_alpha([9, 1], [1, 20])


def test_arguments_out_of_range_are_named():
    for message, call in {
        "`totals` must be of shape (2,) as the counts, got (3,)": lambda: C.median_frequency_weights(
            [2, 1], [4, 4, 4]
        ),
        "`ties` must be one of 'ordinal', 'dense', 'average', got 'min'": lambda: C.outlying_values(
            [2, 1], ties="min"
        ),
        "`scheme` must be one of 'rank', 'reciprocal', 'power', got 'log'": lambda: C.outlying_values(
            [2, 1], scheme="log"
        ),
        "`beta` must be a finite number of at least 0 and below 1, got -0.1": lambda: (
            C.effective_number_weights([2, 1], -0.1)
        ),
        "and below 1, got 1": lambda: C.effective_number_weights([2, 1], 1),
        "`c` must be a finite number above 1, got 1": lambda: C.enet_weights([2, 1], 1),
    }.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            call()
    with pytest.warns(UserWarning, match=r"Classes \[1\] .* ranked last"):
        C.outlying_values([4, 0])
    assert C.load_weights([0, 2]).tolist() == [0, 2]


def test_wrong_alpha_and_gamma():
    for alpha in ("six", 0, float("nan"), None):
        with pytest.raises(ValueError, match="`alpha` must be a finite number above 0"):
            C.outlying_values([2, 1], alpha)
    with pytest.raises(ValueError, match="`gamma` must be a finite number of at least 0, got -1"):
        C.outlying_values([2, 1], gamma=-1)
    with pytest.raises(ValueError, match="`power` must be a finite number of at least 0, got -1"):
        C.class_weights(-1, [2, 1])


def test_enet_and_power_weights_against_their_formulas():
    counts = [99, 1, 0]
    np.testing.assert_allclose(
        C.class_weights("enet", counts), [1 / np.log(1.02 + n / 100) for n in counts], rtol=1e-12
    )
    slow = np.array([99**-0.5, 1, 1])
    with pytest.warns(UserWarning, match="Classes"):
        np.testing.assert_allclose(C.class_weights(0.5, counts), slow / slow.sum() * 3)
    np.testing.assert_allclose(C.power_weights([30, 10], 1), C.inverse_frequency_weights([30, 10]))
    assert C.power_weights([30, 10], 0).tolist() == [1, 1]


def test_class_counts_add_scale_and_round_trip(tmp_path):
    one = C.ClassCounts([1, 2], [1, 1], [5, 5])
    total = one + one * 3
    assert total == C.ClassCounts([4, 8], [4, 4], [20, 20])
    assert total != one
    assert total != [4, 8]
    small = C.ClassCounts(*[np.array([200, 7], dtype=np.uint8)] * 3)
    assert (small + small).samples.tolist() == [400, 14]  # in the type of no argument
    total.save(tmp_path / "deep" / "counts.json")
    assert C.ClassCounts.load(tmp_path / "deep" / "counts.json") == total
    assert C.load_counts(tmp_path / "deep" / "counts.json").tolist() == [4, 8]
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["counts.json"]
    for arrays in (([1, 2], [1], [5, 5]), [[[1, 2]]] * 3):
        with pytest.raises(ValueError, match="must be of one shape"):
            C.ClassCounts(*arrays)


def test_a_broken_row_of_a_file_of_counts_is_named(tmp_path):
    (tmp_path / "a.json").write_text('{"samples": [3, 1], "images": [2, -1], "totals": [9, 9]}')
    with pytest.raises(ValueError, match=r"a\.json: `images` must not be negative, got \[2, -1\]"):
        C.ClassCounts.load(tmp_path / "a.json")


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def numpy_file(array, **settings):
    file = io.BytesIO()
    np.save(file, array, **settings)
    return file.getvalue()


def numpy_archive():
    file = io.BytesIO()
    np.savez(file, a=[1, 2], b=[1, 2])
    return file.getvalue()


BROKEN = {
    "no json": ("a.json", b"[3, 1", "cannot be read: Expecting"),
    "no text": ("a.json", b"\xff\xfe\x00", "cannot be read"),
    "deep": ("a.json", b"[" * 100_000, "cannot be read"),
    "strings": ("a.json", b'["3", "1"]', "must be a sequence of at least two numbers"),
    "nan": ("a.json", b"[3, NaN]", "must be finite whole numbers, got"),
    "infinite": ("a.json", b"[3, Infinity]", "must be finite whole numbers, got"),
    "fraction": ("a.json", b"[3, 1.5]", "must be finite whole numbers, got"),
    "too large": ("a.json", b"[3, 1e300]", "must be finite whole numbers, got"),
    "beyond int64": ("a.json", b"[3, 9223372036854775808]", "must be finite whole numbers, got"),
    "below int64": ("a.json", b"[3, -9223372036854775808.0]", "must be finite whole numbers, got"),
    "far beyond": ("a.json", b"[3, 1" + b"0" * 30 + b"]", "must be a sequence"),
    "negative": ("a.json", b"[3, -1]", "must not be negative"),
    "nested": ("a.json", b"[[3, 1], [2, 2]]", "must be a sequence"),
    "ragged": ("a.json", b"[[3, 1], 2]", "must be a sequence"),
    "null": ("a.json", b"[3, null]", "must be a sequence"),
    "booleans": ("a.json", b"[true, false]", "must be a sequence"),
    "zero": ("a.json", b"[0, 0]", "must not be all zero"),
    "other keys": ("a.json", b'{"counts": [3, 1]}', "no key 'samples'"),
    "empty": ("a.npy", b"", "cannot be read"),
    "half": ("a.npy", numpy_file(np.arange(9))[:-4], "cannot be read"),
    "archive": ("a.npy", numpy_archive(), "of several"),
    "float array": ("a.npy", numpy_file(np.array([0.5, 1])), "must be finite whole numbers"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named(name, tmp_path):
    file, content, message = BROKEN[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        C.load_counts(tmp_path / file)
    assert str(tmp_path / file) in str(caught.value)
    assert "`class_counts`" in str(caught.value)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / file))):
        C.ClassCounts.load(tmp_path / file)


@pytest.mark.parametrize("load", [C.load_counts, C.load_weights, C.ClassCounts.load])
def test_pickles_are_never_loaded(load, tmp_path):
    ran = tmp_path / "ran"
    (tmp_path / "array.npy").write_bytes(numpy_file(np.array([Payload(ran), 1]), allow_pickle=True))
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Payload(ran)))
    for name in ("array.npy", "pickle.npy"):
        with pytest.raises(ValueError, match=f"{name}', which cannot be read.*pickle"):
            load(tmp_path / name)
    assert not ran.exists()
    pickle.loads(pickle.dumps(Payload(ran)))
    assert ran.exists()  # the payload works


def test_weights_of_a_broken_file_are_named(tmp_path):
    for content in ("[1", '["a", 1]', "[[1, 2], 3]", "[1, NaN]"):
        (tmp_path / "w.json").write_text(content)
        with pytest.raises(ValueError, match=r"`class_weight` must be .*") as caught:
            C.load_weights(tmp_path / "w.json")
        assert str(tmp_path / "w.json") in str(caught.value)


def test_long_lists_are_shortened():
    for classes, text in ((20, r"got \[-2, 1.*1\]\.$"), (21, r"got -2 for class 0\.$")):
        with pytest.raises(ValueError, match=text):
            C.check_counts([-2] + [1] * (classes - 1))
    counts = np.ones(139, dtype=np.int64)
    with pytest.raises(ValueError, match=r"negative, got -2 for class 130\.$"):
        C.check_counts(np.where(np.arange(139) == 130, -2, counts))
    with pytest.raises(ValueError, match=r"got nan for class 5, nan for class 6, .*\(134 in all\)\.$"):
        C.check_counts(np.where(np.arange(139) > 4, np.nan, counts))
    with pytest.warns(
        UserWarning, match=r"Classes \[1, 2, .*\(138 in all\)\] have no training sample"
    ) as caught:
        C.inverse_frequency_weights([5] + [0] * 138)
    assert len(str(caught[0].message)) < 200
    for text in ("a" * 198, "a" * 199):  # with its quotes, 200 and 201 characters
        with pytest.raises(ValueError, match="at least two numbers") as error:
            C.check_counts(text)
        shown = repr(text) if len(text) == 198 else repr(text)[:-1] + ".."
        assert f"got {shown}. Give" in str(error.value)


def test_median_frequency_of_a_class_that_fills_its_images():
    """f = 1, 0.2, 0.1: the median over them."""
    np.testing.assert_allclose(C.median_frequency_weights([4, 2, 1], [4, 10, 10]), [0.2, 1, 2])


def test_the_tail_is_a_third_of_the_classes():
    assert tail_fraction([50, 1, 20, 9, 3, 17]) == 0.04
    assert tail_fraction([6, 2]) == 0.25


def test_batches_of_numbers_out_of_range_are_named():
    assert batches_without([1], total=1, batch_size=1).tolist() == [0]
    for arguments, message in {
        (0, 0, 1): "`total` must be a whole number of at least 1, got 0",
        (0, 1, 0): "`batch_size` must be a whole number of at least 1, got 0",
        (3, 2, 1): r"`images` must be at most `total` \(2\), got 3",
    }.items():
        with pytest.raises(ValueError, match=message):
            batches_without([arguments[0]], *arguments[1:])


@pytest.mark.parametrize("load", [C.load_counts, C.load_weights])
def test_files_of_other_kinds_are_refused(load, tmp_path):
    (tmp_path / "counts.txt").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"must be a sequence or a \.json or \.npy file, got .*counts\.txt"):
        load(tmp_path / "counts.txt")
