"""Figures of counts, scores and confusion matrices: what they show, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from mmseol.analysis.figures.class_curves import class_curve_figure, scalar_figure
from mmseol.analysis.figures.confusion_cells import confusion_figure
from mmseol.analysis.figures.distributions import distribution_figure, imbalance_rows
from mmseol.analysis.figures.score_counts import score_count_figure
from mmseol.counting.counts import ClassCounts
from mmseol.datasets.imbalance import long_tailed_sizes

CLASSES = ["pole", "road", "car"]
PIXELS = ClassCounts([10, 900, 90], [2, 4, 3], [200, 400, 300])


def texts(axis) -> list[str]:
    return [text.get_text() for text in axis.texts]


def ticks(axis) -> list[str]:
    return [text.get_text() for text in axis.get_xticklabels()]


def lies_within(figure) -> bool:
    """Whether no text of the figure is cut off."""
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    return box.x0 > -0.02 and box.y0 > -0.02 and box.x1 < width + 0.02 and box.y1 < height + 0.02


# ------------------------------------------------------------ distribution


def test_measures_of_imbalance_by_pixel_and_by_image():
    rows = imbalance_rows({"train": PIXELS, "val": [5, 5, 0]})
    assert (rows[0]["total"], rows[0]["ratio"], rows[0]["tail"]) == (1000, 90.0, 1.0)
    differences = np.abs(np.subtract.outer(PIXELS.images, PIXELS.images)).sum()  # the definition of Gini
    assert rows[0]["gini_images"] == pytest.approx(differences / (2 * 3 * PIXELS.images.sum()))
    assert rows[1]["gini_images"] is None
    assert (rows[1]["ratio"], rows[1]["empty"]) == (np.inf, 1)


def _texts(figure: Figure) -> str:
    """Return all texts of a figure; matplotlib has ``get_supxlabel`` since 3.8."""
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def test_bars_have_the_order_of_the_first_counts_and_mark_empty_classes():
    figure = distribution_figure({"train": PIXELS, "val": [7, 5, 0]}, CLASSES, "pixels", "CamVid")
    linear, logarithmic = figure.axes
    assert [text.get_text() for text in linear.get_yticklabels()] == ["road", "car", "pole"]
    train, val = (container.datavalues.tolist() for container in logarithmic.containers)
    assert (train, val) == ([900, 90, 10], [5, 0, 7])
    assert texts(linear) == texts(logarithmic) == [" 0"]
    assert "train: ratio 90, Gini 0.59, by image 0.15" in _texts(figure)
    assert lies_within(figure)


def test_many_classes_have_curves():
    sizes = long_tailed_sizes(500, 100, 100)
    figure = distribution_figure({"a": sizes, "b": [0] * 10 + sizes[10:]}, list(map(str, range(100))))
    first, second = figure.axes[1].lines
    assert first.get_ydata().tolist() == sizes
    assert np.isnan(second.get_ydata()).sum() == 10
    assert texts(figure.axes[0]) == ["10 classes with 0"]
    assert lies_within(figure)


@pytest.mark.parametrize(
    ("sets", "message"),
    [({}, "at least one set"), ({"a": [1, 2]}, "3 classes"), ({"a": [0, 0, 0]}, "all zero")],
)
def test_distributions_refuse_other_counts(sets, message):
    with pytest.raises(ValueError, match=message):
        distribution_figure(sets, CLASSES)


# ------------------------------------------------------------------ scores


def test_lines_are_means_over_seeds_with_their_deviation():
    scores = {"ce": [[0.0, 90.0, 40.0], [4.0, 92.0, np.nan]], "mse": [1.0, 80.0, 30.0]}
    figure = score_count_figure(PIXELS.samples, scores, CLASSES, unit="pixels")
    (panel,) = figure.axes
    assert ticks(panel) == ["road (900)", "car (90)", "pole (10)"]
    lines = {
        line.get_label(): line.get_ydata().tolist() for line in panel.lines if line.get_linewidth() == 1.3
    }
    assert lines == {"ce (2 seeds)": [91.0, 40.0, 2.0], "mse": [80.0, 30.0, 1.0]}
    (bars,) = panel.containers
    deviations = [(segment[1, 1] - segment[0, 1]) / 2 for segment in bars[2][0].get_segments()]
    assert deviations == pytest.approx([np.std([90, 92], ddof=1), 0.0, np.std([0, 4], ddof=1)])
    assert lies_within(figure)


def test_a_class_without_a_score_is_marked_and_interrupts_the_line():
    figure = score_count_figure([9, 8, 7], {"ce": [50.0, None, 30.0], "mse": [40.0, None, None]}, CLASSES)
    assert texts(figure.axes[0]) == ["no score"]
    assert np.isnan(figure.axes[0].lines[0].get_ydata()).tolist() == [False, True, False]


def test_many_classes_are_averaged_in_ten_groups_of_equal_size():
    counts = np.arange(100, 0, -1)
    figure = score_count_figure(counts, {"ce": np.repeat(np.arange(10.0), 10)}, list(map(str, range(100))))
    assert figure.axes[0].lines[0].get_ydata().tolist() == list(range(10))
    assert ticks(figure.axes[0])[0] == "1 to 10 (96)"


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({}, "at least one score"),
        ({"ce": [np.nan] * 3}, "at least one score"),
        ({"ce": [1.0, 2.0]}, r"scores\['ce'\]"),
        ({"ce": [1.0, 2.0, np.inf]}, "infinite"),
        ({"ce": ["a", 2.0, 3.0]}, "one number or None per class"),
    ],
)
def test_scores_that_do_not_fit(scores, message):
    with pytest.raises(ValueError, match=message):
        score_count_figure([3, 2, 1], scores, CLASSES)


# --------------------------------------------------------------- confusion


def test_rows_are_per_cent_of_the_truth_in_the_order_of_the_counts():
    confusion = [[0, 0, 0], [1, 8, 1], [0, 999, 1]]
    figure = confusion_figure(confusion, CLASSES, PIXELS.samples, "validation")
    panel = figure.axes[0]
    assert ticks(panel) == ["road", "car", "pole"]
    cells = panel.images[0].get_array()
    assert cells[:2].tolist() == [[80.0, 10.0, 10.0], [99.9, 0.1, 0.0]]
    assert np.ma.getmaskarray(cells)[2].all() or np.isnan(cells[2]).all()
    assert texts(panel) == ["80", "10", "10", "100", "<1", "0", "not in the truth"]
    assert lies_within(figure)


@pytest.mark.parametrize("confusion", [[[1, 2], [3, 4]], np.ones((3, 3)), [[1, 2, 3]]])
def test_confusion_that_does_not_fit(confusion):
    with pytest.raises(ValueError, match="`confusion` must be"):
        confusion_figure(confusion, CLASSES)


# ------------------------------------------------------------------ curves


def test_curves_of_classes_are_named_in_the_order_of_the_counts():
    scores = [[1.0, 80.0, None], [2.0, None, None]]
    figure = class_curve_figure([1, 3], scores, CLASSES, PIXELS.samples)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["road", "car (no score)", "pole"]
    first, _, last = figure.axes[0].lines
    assert np.isnan(first.get_ydata()).tolist() == [False, True]
    assert last.get_ydata().tolist() == [1.0, 2.0]
    assert lies_within(figure)


def test_curves_of_many_classes_have_the_means_of_thirds():
    scores = np.tile(np.repeat([60.0, 30.0, np.nan], 10), (2, 1))
    figure = class_curve_figure([1, 2], scores, list(map(str, range(30))), np.arange(30, 0, -1))
    means = {line.get_label(): line.get_ydata()[0] for line in figure.axes[0].lines[30:]}
    assert means == {
        "many, mean of 10": 60.0,
        "medium, mean of 10": 30.0,
        "few, mean of 10": pytest.approx(np.nan, nan_ok=True),
    }


def test_curves_refuse_nothing_to_draw():
    with pytest.raises(ValueError, match="at least one validation"):
        class_curve_figure([], [], CLASSES)
    with pytest.raises(ValueError, match="must have a value of 'loss'"):
        scalar_figure({"ce": ([], [])}, "loss")
