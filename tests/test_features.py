"""Features of a checkpoint: the choice of elements, and their file."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mmseol.analysis.features import ClassReservoir, Features, load_features, save_features

IMAGES = [np.random.default_rng(i).choice([0, 0, 0, 0, 1, 2, -1], 30 + i) for i in range(12)]


def filled(order, size=5, seed=3, classes=4) -> ClassReservoir:
    """Return a reservoir of class and place of the elements of the images, added in an order."""
    reservoir = ClassReservoir(classes, size, seed)
    for image in order:
        reservoir.update(image, IMAGES[image], lambda chosen: {"place": chosen})
    return reservoir


def slow_sample(size: int, seed: int) -> set[tuple[int, int, int]]:
    """Return class, image and place of the elements with the least keys of each class."""
    found = []
    for image, labels in enumerate(IMAGES):
        keys = np.random.default_rng([seed, image]).random(len(labels))
        found += [(int(k), float(key), image, i) for i, (k, key) in enumerate(zip(labels, keys, strict=True))]
    kept = [sorted(one for one in found if one[0] == k)[:size] for k in range(3)]
    return {(k, image, place) for rows in kept for k, _, image, place in rows}


def elements(reservoir: ClassReservoir) -> list[tuple[int, int, int]]:
    arrays = reservoir.arrays()
    return list(zip(*(arrays[name].tolist() for name in ("label", "image", "place")), strict=True))


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_the_elements_with_the_least_keys_are_kept_in_any_order(size):
    sample = elements(filled(range(12), size))
    assert set(sample) == slow_sample(size, 3)
    assert len(set(sample)) == len(sample)
    assert sample == elements(filled([5, 11, 0, *range(1, 5), *range(6, 11)], size))
    assert [one[:2] for one in sample] == sorted(one[:2] for one in sample)
    seen = filled(range(12), size).seen.tolist()
    assert seen == [sum(int((labels == k).sum()) for labels in IMAGES) for k in range(4)]
    assert seen[3] == 0


def test_every_element_of_a_class_is_kept_equally_often():
    times = np.zeros((12, 50))
    for seed in range(100):
        for k, image, place in elements(filled(range(12), 5, seed)):
            if k == 1:
                times[image, place] += 1
    expected = 5 * 100 / sum((labels == 1).sum() for labels in IMAGES)
    ones = np.concatenate([times[i, : len(labels)][labels == 1] for i, labels in enumerate(IMAGES)])
    assert ((ones - expected) ** 2 / expected).sum() < 1.5 * len(ones)  # chi-squared: mean 1 per element
    assert len(ones) > 40


def test_the_memory_does_not_grow_and_few_elements_are_read():
    read = []

    def reading(chosen):
        read.append(len(chosen))
        return {"features": np.zeros((len(chosen), 8), np.float32)}

    reservoir = ClassReservoir(2, 10)
    for image in range(200):
        reservoir.update(image, np.arange(100) % 2, reading)
    assert read[0] == 20
    assert sum(read) < 10 * 20 * np.log(200)  # 100 * 200 elements in all
    assert sum(array.nbytes for array in reservoir.arrays().values()) == 20 * (8 * 4 + 8 + 8)


def small(**changes) -> Features:
    values = dict(
        features=np.arange(6, dtype=np.float32).reshape(3, 2),
        outputs=np.eye(3, dtype=np.float32)[[0, 2, 2]],
        label=np.array([0, 1, 2]),
        image=np.array([4, 5, 6]),
        position=np.full((3, 2), -1),
        classes=("sky", "Straße", "car"),
        counts=np.array([90, 9, 0]),
        seen=np.array([3, 2, 1]),
        meta={"config": "a.py", "seed": 1},
    )
    return Features(**{**values, **changes})


def test_files_are_read_as_they_were_written(tmp_path):
    save_features(tmp_path / "new" / "a.npz", small())
    found = load_features(tmp_path / "new" / "a.npz")
    for name, value in small()._asdict().items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(found, name), value)
    assert found.classes == ("sky", "Straße", "car")
    assert found.meta == {"format": 1, "config": "a.py", "seed": 1}
    assert found.predicted.tolist() == [0, 2, 2]
    with np.load(tmp_path / "new" / "a.npz", allow_pickle=False) as file:
        assert sorted(file) == sorted(Features._fields)
        assert json.loads(str(file["meta"]))["seed"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"features": np.full((3, 2), np.nan, np.float32)},
            "`features` of .* finite, got NaN .* 3 of 3 .*diverged",
        ),
        ({"outputs": np.full((3, 3), np.inf, np.float32)}, "`outputs` of .* finite"),
        ({"outputs": np.zeros((3, 4), np.float32)}, r"`outputs` of .* shape \(3, 3\), got \(3, 4\)"),
        ({"features": np.zeros((2, 2), np.float32)}, r"`features` of .* shape \(3, 2\), got \(2, 2\)"),
        ({"label": np.array([0, 1, 3])}, "`label` of .* must be classes 0 to 2"),
        ({"counts": np.array([1, 2])}, r"`counts` of .* shape \(3,\), got \(2,\)"),
    ],
)
def test_what_does_not_fit_is_neither_written_nor_read(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_features(tmp_path / "a.npz", small(**change))
    assert not list(tmp_path.iterdir())
    values = small(**change)._asdict()
    np.savez(tmp_path / "b.npz", **{**values, "meta": json.dumps(values["meta"])})
    with pytest.raises(ValueError, match=message):
        load_features(tmp_path / "b.npz")


def test_other_files_are_refused(tmp_path):
    np.savez(tmp_path / "other.npz", features=np.zeros(3))
    np.savez(tmp_path / "code.npz", **{name: np.array([{}]) for name in Features._fields})
    (tmp_path / "text.npz").write_text("features")
    for name in ("other", "code", "text"):
        with pytest.raises(ValueError, match="must be a file that `python -m mmseol analyze features` wrote"):
            load_features(tmp_path / f"{name}.npz")
