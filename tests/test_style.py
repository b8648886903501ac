"""The style of the figures: colours, order, files."""

from __future__ import annotations

import numpy as np
import pytest

from mmseol.analysis.figures.style import (
    PALETTE,
    class_styles,
    loss_styles,
    new_figure,
    order_by_count,
    rgb,
    save_figure,
)

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
DICHROMACIES = (
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
)  # of protanopia, deuteranopia and tritanopia


def least_distance(colors: tuple[str, ...]) -> float:
    """Return the smallest CIE76 distance of two colours under normal vision and under each dichromacy."""
    encoded = rgb([{"color": color} for color in colors]) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    least = np.inf
    for matrix in (np.eye(3), *map(np.array, DICHROMACIES)):
        seen = np.clip(linear @ matrix.T, 0, 1)
        xyz = (
            seen @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T
        )
        xyz /= [0.95047, 1, 1.08883]
        cube = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
        x, y, z = cube.T
        lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
        distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
        least = min(least, distances[~np.eye(len(lab), dtype=bool)].min())
    return float(least)


def test_the_palette_is_as_safe_as_that_of_okabe_and_ito():
    assert len(set(PALETTE)) == 12
    assert least_distance(PALETTE) >= least_distance(OKABE_ITO) - 1e-9
    assert least_distance(("#FF0000", "#008000")) > least_distance(("#8B0000", "#4D4D00"))  # it measures


def test_losses_keep_their_colours_and_differ():
    alone = loss_styles(["outlying_mse"])["outlying_mse"]
    names = ["dice", "ce", "outlying_mse:alpha=1", "outlying_mse:alpha=6", *(f"x{i}" for i in range(30))]
    styles = loss_styles(names)
    assert styles["outlying_mse:alpha=1"] == alone
    assert list(styles) == names
    assert len({(style["color"], style["linestyle"]) for style in styles.values()}) == len(names)


def test_classes_are_ordered_and_coloured_by_count():
    assert order_by_count([3, 7, 3, 9]).tolist() == [3, 1, 0, 2]
    styles = class_styles([3, 7, 3, 9])
    assert [styles[k]["color"] for k in (3, 1, 0, 2)] == list(PALETTE[:4])
    many = rgb(class_styles(np.arange(100, 0, -1)))
    assert len({tuple(color) for color in many}) == 100
    assert (np.diff(many.mean(1))[::10] > 0).all()  # lighter with every ten ranks: readable in grey


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_equal_figures_give_equal_files(suffix, tmp_path):
    for name in ("a", "b"):
        with new_figure(2, 1) as figure:
            figure.subplots().plot([1, 2], label="line")
        save_figure(figure, tmp_path / f"new/{name}{suffix}")
    first, second = ((tmp_path / f"new/{name}{suffix}").read_bytes() for name in ("a", "b"))
    assert first == second
    with pytest.raises(ValueError, match=r"exists; name another file"):
        save_figure(figure, tmp_path / f"new/a{suffix}")
    assert len(list((tmp_path / "new").iterdir())) == 2


def test_another_kind_of_file_is_refused(tmp_path):
    with (
        new_figure(2, 1) as figure,
        pytest.raises(ValueError, match=r"`path` must end in \.png, \.pdf, \.svg"),
    ):
        save_figure(figure, tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())
