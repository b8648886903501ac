"""Class sizes against the totals of the literature, kept indices against the code of LDAM-DRW."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmseol.datasets.imbalance import KeptIndices, check_sizes, class_sizes, digest, kept_indices

# Totals of LDAM-DRW's and Cui et al.'s code.
TOTALS = {
    (10, 5000, "long_tailed"): {5: 25423, 10: 20431, 50: 13996, 100: 12406},
    (100, 500, "long_tailed"): {5: 24856, 10: 19573, 50: 12608, 100: 10847},
    (10, 5000, "step"): {5: 30000, 10: 27500, 50: 25500, 100: 25250},
    (100, 500, "step"): {5: 30000, 10: 27500, 50: 25500, 100: 25250},
}


@pytest.mark.parametrize(("case", "totals"), TOTALS.items())
def test_totals_of_the_literature(case: tuple[int, int, str], totals: dict[int, int]) -> None:
    num_classes, n_max, profile = case
    available = [n_max] * num_classes
    assert {ratio: class_sizes(available, profile, ratio).sum() for ratio in totals} == totals


@pytest.mark.parametrize("ratio", [5, 10, 50, 100])
@pytest.mark.parametrize(("num_classes", "n_max"), [(10, 5000), (10, 4995), (100, 500), (100, 495)])
def test_every_size_is_that_of_the_copied_code(num_classes: int, n_max: int, ratio: int) -> None:
    # As in get_img_num_per_cls of LDAM-DRW.
    long_tailed, step, factor = [], [], {5: 0.2, 10: 0.1, 50: 0.02, 100: 0.01}[ratio]
    for i in range(num_classes):
        long_tailed.append(int(float(n_max) * (factor ** (i / (num_classes - 1.0)))))
        step.append(int(float(n_max)) if i < num_classes // 2 else int(float(n_max) * factor))
    available = [n_max] * num_classes
    assert class_sizes(available, "long_tailed", ratio).tolist() == long_tailed
    assert class_sizes(available, "step", ratio).tolist() == step


def test_food_101_lt() -> None:
    sizes = class_sizes([700] * 101, "long_tailed", 100)
    assert sizes.sum() == 15359
    assert (sizes[0], sizes[-1]) == (700, 7)


def test_step_of_an_odd_number_keeps_the_last_class() -> None:
    assert class_sizes([49] * 5, "step", 49).tolist() == [49, 49, 1, 1, 1]


def test_class_order_says_who_is_frequent() -> None:
    assert class_sizes([100] * 3, "long_tailed", 100, class_order=[2, 0, 1]).tolist() == [10, 1, 100]


@given(
    st.lists(st.integers(20, 400), min_size=2, max_size=8),
    st.sampled_from(["long_tailed", "step"]),
    st.floats(1, 20),
)
def test_the_default_n_max_is_the_largest_that_fits(have: list[int], profile: str, ratio: float) -> None:
    n_max = int(class_sizes(have, profile, ratio)[0])
    assert (class_sizes(have, profile, ratio, n_max) <= have).all()
    with pytest.raises(ValueError, match="must not ask for more"):
        class_sizes(have, profile, ratio, n_max + 1)


@pytest.mark.parametrize("ratio", [0.5, 0, -1, float("nan"), float("inf"), "100", True, None])
def test_ratio_out_of_range(ratio: object) -> None:
    with pytest.raises(ValueError, match="`ratio` must be"):
        class_sizes([10, 10], ratio=ratio)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            dict(available=[5000] * 10, profile="exp"),
            "`profile` must be one of 'long_tailed', 'step', got 'exp'",
        ),
        (dict(available=[10]), "at least 2 classes"),
        (dict(available=[5, 5], ratio=100), r"at least one item, got 0 for class 1 \(dog\), which has 5"),
        (dict(available=[0, 5]), r"at least one item, got 0 for class 0 \(cat\), which has 0"),
        (dict(available=[9, 3], ratio=2, n_max=9), r"got 4 wanted of class 1 \(dog\), which has 3"),
        (dict(available=[9, 9], n_max=0), "`n_max` must be"),
        (dict(available=[9, 9], n_max=2.5), "`n_max` must be"),
        (dict(available=[9, 9], ratio=1, class_order=[0, 0]), "`class_order` must name each class"),
        (dict(available=[9, 9], ratio=1, class_order=[1]), "`class_order` must name each class"),
        (dict(available=[9, 9], ratio=1, class_order=[1.0, 0.0]), "`class_order` must name each class"),
    ],
)
def test_bad_sizes(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_sizes(**arguments, names=["cat", "dog"])


def test_explicit_sizes_are_checked() -> None:
    assert check_sizes([3, 1], [3, 3]).tolist() == [3, 1]
    with pytest.raises(ValueError, match="got 3 entries for 2 classes"):
        check_sizes([1, 1, 1], [3, 3])
    with pytest.raises(ValueError, match="got 0 for class 1"):
        check_sizes([1, 0], [3, 3])


def copied_code(labels: np.ndarray, sizes: np.ndarray, seed: int) -> list[int]:
    """Return the indices as gen_imbalanced_data of LDAM-DRW selects them."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    targets_np = np.array(labels.tolist(), dtype=np.int64)
    selected: list[int] = []
    for the_class, the_img_num in zip(np.unique(targets_np), sizes, strict=True):
        idx = np.where(targets_np == the_class)[0]
        np.random.shuffle(idx)  # noqa: NPY002
        selected.extend(idx[:the_img_num].tolist())
    np.random.set_state(state)  # noqa: NPY002
    return selected


@pytest.mark.parametrize("seed", [0, 3])
def test_cao2019_is_the_copied_code(seed: int) -> None:
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(10), 500))
    sizes = class_sizes([500] * 10, "long_tailed", 100)
    kept = kept_indices(labels, sizes, seed, protocol="cao2019")
    assert kept.tolist() == copied_code(labels, sizes, seed)


@given(st.lists(st.integers(0, 3), min_size=40, max_size=80), st.integers(0, 2**31), st.booleans())
def test_kept_indices_are_distinct_and_of_the_sizes(labels: list[int], seed: int, old: bool) -> None:
    available = np.bincount(labels, minlength=4)
    sizes = (available + 1) // 2
    if not sizes.all():
        return
    protocol = "cao2019" if old else None
    kept = kept_indices(labels, sizes, seed, protocol)
    assert len(set(kept.tolist())) == len(kept)
    assert np.bincount(np.array(labels)[kept], minlength=4).tolist() == sizes.tolist()
    assert kept_indices(labels, sizes, seed, protocol).tolist() == kept.tolist()
    smaller = kept_indices(labels, np.maximum(sizes // 2, 1), seed, protocol)
    assert set(smaller.tolist()) <= set(kept.tolist())
    if not old:
        assert (np.diff(kept) > 0).all()


def test_seeds_differ_and_leave_the_global_state_alone() -> None:
    labels = np.repeat(np.arange(2), 100)
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    first, other = (kept_indices(labels, [50, 5], seed) for seed in (0, 1))
    old = kept_indices(labels, [50, 5], 0, "cao2019")
    assert set(first.tolist()) != set(other.tolist()) != set(old.tolist())
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_every_item_is_as_likely_as_the_others() -> None:
    kept = np.concatenate([kept_indices([0] * 20 + [1] * 20, [10, 5], seed) for seed in range(2000)])
    times = np.bincount(kept, minlength=40)
    for share, part in ((0.5, times[:20]), (0.25, times[20:])):
        spread = np.sqrt(2000 * share * (1 - share))
        assert np.abs(part - 2000 * share).max() < 5 * spread


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(sizes=[2, 4]), "got 4 wanted of class 1, which has 3"),
        (dict(sizes=[2, 0]), "got 0 for class 1"),
        (dict(sizes=[2, 1], protocol="cao"), "`protocol` must be one of 'cao2019', got 'cao'"),
    ],
)
def test_bad_cuts(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kept_indices([0, 0, 1, 1, 1], **arguments)


def test_digest_is_the_hash_of_little_endian_int64() -> None:
    expected = hashlib.sha256(struct.pack("<3q", 5, -1, 2**40)).hexdigest()
    assert digest([5, -1, 2**40]) == expected
    assert digest(np.array([5, -1, 2**40], dtype=">i8")) == expected
    assert digest([-1, 5, 2**40]) != expected


LABELS = np.array([0, 0, 0, 1, 1, 1])


def kept(indices: list[int], ratio: float = 3) -> KeptIndices:
    return KeptIndices(np.array(indices), LABELS, {"ratio": ratio, "class_order": (0, 1)})


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "kept.json"
    kept([2, 0, 1, 4]).save(path)
    # The file decides: other indices, of the same class sizes, than these settings give.
    assert kept([0, 1, 2, 3]).load(path).indices.tolist() == [2, 0, 1, 4]
    content = json.loads(path.read_text())
    assert content["class_counts"] == [3, 1]
    assert content["sha256"] == hashlib.sha256(struct.pack("<4q", 2, 0, 1, 4)).hexdigest()


def test_a_file_that_does_not_belong_here_stops_the_run(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    kept([0, 1, 2, 3]).save(path)
    with pytest.raises(ValueError, match=r"got settings .*'ratio': 3.*'ratio': 4"):
        kept([0, 1, 2, 3], ratio=4).load(path)
    with pytest.raises(ValueError, match="labels_sha256"):
        KeptIndices(np.array([0]), LABELS[::-1].copy(), kept([0]).settings).load(path)
    with pytest.raises(ValueError, match="length 6 in the file and 5 here"):
        KeptIndices(np.array([0]), LABELS[:5], kept([0]).settings).load(path)
    with pytest.raises(ValueError, match=r"\[2, 2\] items per class"):
        kept([0, 1, 3, 4]).load(path)


def test_a_changed_file_stops_the_run(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    kept([0, 1, 2, 3]).save(path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "indices": [0, 1, 2, 4]}))
    with pytest.raises(ValueError, match=r"must hold the indices of its digest .* Delete .*kept\.json"):
        kept([0, 1, 2, 3]).load(path)
    for indices in ([0, 1, 1, 3], [0, 1, 2, 6], [0, 1, 2, -1]):
        path.write_text(json.dumps({**content, "indices": indices, "sha256": digest(indices)}))
        with pytest.raises(ValueError, match="distinct positions"):
            kept([0, 1, 2, 3]).load(path)
    for text in ("", "[]", "{}", json.dumps({**content, "indices": "all"})):
        path.write_text(text)
        with pytest.raises(ValueError, match="must be a file of kept indices"):
            kept([0, 1, 2, 3]).load(path)
