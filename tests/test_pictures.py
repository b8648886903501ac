"""Overlays and comparison grids."""

import numpy as np
import pytest
from PIL import Image

from mmseol.analysis.figures.side_by_side import comparison_grid
from mmseol.analysis.pictures import NEUTRAL, overlay

PALETTE = [[255, 0, 0], [0, 255, 0], [0, 0, 200]]
NAMES = ["alpha", "beta", "gamma"]
IMAGE = np.full((20, 30, 3), 100, np.uint8)
LABEL = np.repeat(np.arange(3, dtype=np.uint8), 10)[None].repeat(20, 0)


def test_overlay_mixes_and_shows_void_neutral():
    label = np.array([[0, 1, 2], [3, 11, 255]], np.uint8)
    image = np.full((2, 3, 3), 100, np.uint8)
    alone = overlay(image, label, PALETTE)
    assert alone.dtype == np.uint8
    assert alone.tolist() == [PALETTE, [list(NEUTRAL)] * 3]
    half = overlay(image, label, PALETTE, alpha=0.5)
    np.testing.assert_allclose(half, (alone.astype(float) + 100) / 2, atol=0.51)
    np.testing.assert_array_equal(overlay(image, label, PALETTE, alpha=0.0), image)
    assert overlay(image, label.astype(np.int64) - 1, PALETTE)[0, 0].tolist() == list(NEUTRAL)  # -1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 1.5}, "`alpha` must be a finite number of at least 0 and at most 1, got 1.5"),
        ({"label_map": LABEL[:5]}, r"got \(20, 30, 3\) and \(5, 30\)"),
        ({"image": IMAGE[..., 0]}, "`image` must be of shape"),
        ({"palette": [[0, 0, 300]]}, "`palette`"),
        ({"palette": [0, 0, 0]}, "`palette`"),
    ],
)
def test_overlay_errors(change, message):
    with pytest.raises(ValueError, match=message):
        overlay(**{"image": IMAGE, "label_map": LABEL, "palette": PALETTE, **change})


def test_grid_shows_every_picture_and_colour(tmp_path):
    flipped = LABEL[:, ::-1]
    path = comparison_grid(
        tmp_path / "new/grid.png", [IMAGE] * 2, [LABEL] * 2, {"ours": [flipped] * 2}, NAMES, PALETTE, dpi=80
    )
    assert [file.name for file in path.parent.iterdir()] == ["grid.png"]
    picture = np.asarray(Image.open(path).convert("RGB"))
    height, width = picture.shape[:2]
    assert width == int(3 * 2.4 * 80)
    middle = picture[height // 4]
    third = width // 3
    for color, truth, ours in zip(PALETTE, (0.17, 0.5, 0.83), (0.83, 0.5, 0.17), strict=True):
        assert middle[int(third * (1 + truth))].tolist() == color
        assert middle[int(third * (2 + ours))].tolist() == color
    assert middle[third // 2].tolist() == [100, 100, 100]
    legend = picture[int(height * 0.9) :].reshape(-1, 3)
    assert all((legend == color).all(1).sum() > 20 for color in PALETTE)


def test_grid_takes_images_of_several_sizes(tmp_path):
    small = IMAGE[:10, :10]
    path = comparison_grid(
        tmp_path / "grid.png", [IMAGE, small], [LABEL, LABEL[:10, :10]], {}, NAMES, PALETTE, alpha=0.5, dpi=50
    )
    assert Image.open(path).size[0] == 2 * 2.4 * 50


def test_grid_errors_and_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "grid.png"
    with pytest.raises(
        ValueError, match=r"equal numbers of items, got .*'images': 1.*\"predictions\['ours'\]\": 2"
    ):
        comparison_grid(path, [IMAGE], [LABEL], {"ours": [LABEL] * 2}, NAMES, PALETTE)
    with pytest.raises(ValueError, match="equal numbers of items"):
        comparison_grid(path, [], [], {}, NAMES, PALETTE)
    with pytest.raises(ValueError, match="`palette` must have 2 colours"):
        comparison_grid(path, [IMAGE], [LABEL], {}, NAMES[:2], PALETTE)
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda *_, **__: (_ for _ in ()).throw(OSError("full"))
    )
    with pytest.raises(OSError, match="full"):
        comparison_grid(path, [IMAGE], [LABEL], {}, NAMES, PALETTE)
    assert not list(tmp_path.iterdir())
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="exists"):
        comparison_grid(path, [IMAGE], [LABEL], {}, NAMES, PALETTE)
    assert path.read_text() == "mine"
