"""Embeddings of features, how far classes lie apart, and the pictures of them."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import silhouette_score
from sklearn.neighbors import KNeighborsClassifier

from mmseol.__main__ import main
from mmseol.analysis.features import Features, save_features
from mmseol.analysis.figures.embedding import embed, separation
from mmseol.analysis.figures.scatter import Panel, embedding_figure

NAMES = ("sky", "car", "pole", "sign")


def cloud(per_class=12, apart=4.0, seed=0, classes=4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(classes), per_class)
    return rng.normal(size=(len(label), 6)) + apart * np.eye(6)[label], label


def test_separation_agrees_with_scikit_learn():
    values, label = cloud(apart=1.5)
    found = separation(values, label, counts=[10, 90, 20, 5])
    assert found.silhouette == pytest.approx(silhouette_score(values, label))
    right = []
    for i in range(len(label)):  # leave one out
        rest = np.arange(len(label)) != i
        fitted = KNeighborsClassifier(15).fit(values[rest], label[rest])
        right.append(fitted.predict(values[i : i + 1])[0] == label[i])
    by_class = [100 * np.mean(np.array(right)[label == k]) for k in range(4)]
    np.testing.assert_allclose(found.by_class, by_class)
    assert 0 < found.knn < 100
    assert found.knn == pytest.approx(np.mean(by_class))
    assert found.knn_few == pytest.approx(by_class[3])


def test_neighbours_are_of_other_images():
    """Two images with one place for each class, the other way round in the second."""
    places = np.array([[0.0], [9.0], [9.0], [0.0]])
    values = np.repeat(places, 20, axis=0) + np.random.default_rng(0).normal(size=(80, 1)) / 10
    label, image = np.repeat([0, 1, 0, 1], 20), np.repeat([0, 0, 1, 1], 20)
    assert separation(values, label, [2, 1], image).knn == 0
    assert separation(values, label, [2, 1]).knn > 30
    alone = separation(values[:40], label[:40], [2, 1], image[:40])
    assert alone.knn is None
    assert alone.silhouette > 0.9


def test_separation_leaves_out_classes_with_one_sample_or_none():
    values, label = cloud(apart=9.0)
    keep = (label < 2) | (np.arange(len(label)) == 24)  # one of class 2, none of class 3
    found = separation(values[keep], label[keep], counts=[4, 3, 2, 1])
    assert found.by_class[:2].tolist() == [100, 100]
    assert np.isnan(found.by_class[2:]).all()
    assert found.knn == 100
    assert found.knn_few is None
    alone = separation(values[:12], label[:12], counts=[4, 3, 2, 1])
    assert (alone.silhouette, alone.knn, alone.knn_few) == (None, None, None)


def test_embedding_is_seeded_and_keeps_neighbours():
    values, label = cloud(apart=9.0)
    first, program = embed(values, seed=1)
    assert "t-SNE" in program
    np.testing.assert_array_equal(first, embed(values, seed=1)[0])
    assert separation(first, label, counts=[4, 3, 2, 1]).knn == 100


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((30, 4)), "at least 8 different rows, got 1 of 30"),
        (np.eye(5), "at least 8 different rows, got 5 of 5"),
        (np.full((30, 4), np.nan), "`features` must be finite"),
    ],
)
def test_features_that_cannot_be_embedded_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        embed(values)


def write(path, values, label, classes=NAMES, **changes) -> str:
    """Write features of four classes, of which the first is rarest."""
    number = len(label)
    arrays = dict(
        features=values.astype(np.float32),
        outputs=np.zeros((number, len(classes)), np.float32),
        label=label,
        image=np.arange(number),
        position=np.full((number, 2), -1),
        counts=np.arange(1, len(classes) + 1),
        seen=np.arange(1, len(classes) + 1),
    )
    meta = {"task": "classification", "counts_from": "checkpoint"}
    save_features(path, Features(**{**arrays, **changes}, classes=classes, meta=meta))
    return str(path)


def test_the_command_draws_losses_side_by_side(tmp_path, capsys):
    values, label = cloud()
    keep = label != 3
    files = [
        write(tmp_path / f"{name}.npz", values[keep] * i, label[keep]) for i, name in ((1, "ce"), (2, "mse"))
    ]
    main("analyze", ["tsne", *files, "--out", str(tmp_path / "a.png")])
    text = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    assert [row[0] for row in rows[:4]] == ["sign", "pole", "car", "sky"]
    assert rows[0][2:] == ["-", "-"]
    assert rows[1][2] == rows[1][3] != "-"  # distances twice as long have the same neighbours
    assert "different" not in text
    width, height = Image.open(tmp_path / "a.png").size
    assert width > 2 * 3.2 * 150 > height
    before = (tmp_path / "a.png").read_bytes()
    main("analyze", ["tsne", *files, "--out", str(tmp_path / "b.png")])
    assert (tmp_path / "b.png").read_bytes() == before
    other = write(tmp_path / "other.npz", values[keep], label[keep], image=np.arange(36) + 1)
    main("analyze", ["tsne", files[0], other, "--out", str(tmp_path / "c.svg")])
    assert "The panels show different images" in capsys.readouterr().out
    drawn = (tmp_path / "c.svg").read_text()
    assert "sign  4  (none drawn)" in drawn
    assert drawn.index("sign  4") < drawn.index("pole  3") < drawn.index("sky  1")


def test_what_cannot_be_drawn_ends_with_an_error(tmp_path, capsys, monkeypatch):
    values, label = cloud()
    file = write(tmp_path / "ce.npz", values, label)
    other = write(tmp_path / "other.npz", values, label, classes=("a", "b", "c", "d"))
    equal = write(tmp_path / "equal.npz", np.ones((48, 2)), label)
    out = str(tmp_path / "a.png")

    def error_of(*arguments: str) -> str:
        with pytest.raises(SystemExit) as caught:
            main("analyze", ["tsne", *arguments])
        return str(caught.value) + capsys.readouterr().err

    assert "must be of the same classes, got sky, car" in error_of(file, other, "--out", out)
    assert "`--titles` must be one for each file" in error_of(file, "--titles", "a", "b", "--out", out)
    assert "`--out` must end in .png" in error_of(file, "--out", "a.jpg")
    assert "error: `features` must have at least 8 different rows" in error_of(equal, "--out", out)
    monkeypatch.setitem(sys.modules, "umap", None)
    assert "needs the package umap-learn" in error_of(file, "--method", "umap", "--out", out)
    assert "`features` must be an existing file" in error_of("none.npz", "--out", out)
    assert not (tmp_path / "a.png").exists()


def test_the_legend_of_many_classes_shows_some(tmp_path):
    label = np.arange(100)
    panel = Panel("ce", np.random.default_rng(0).normal(size=(100, 2)), label, None)
    figure = embedding_figure([panel] * 4, [f"class {k}" for k in label], 1000 - label)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert (len(texts), texts[0], texts[-1]) == (9, "class 0  1,000", "class 99  901")
    assert sum(axis.axison for axis in figure.axes) == 4
