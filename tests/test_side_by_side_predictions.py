"""Pictures of the predictions of several checkpoints: which images they show, and what the colours mean."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.untrained import SCENE_OPTIONS, untrained
from mmengine.structures import PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample
from PIL import Image

from mmseol.__main__ import main
from mmseol.analysis.figures import side_by_side
from mmseol.analysis.figures.side_by_side import class_figure, error_map, label_map_figure
from mmseol.analysis.figures.style import class_styles, order_by_count, rgb
from mmseol.experiment import side_by_side_predictions
from mmseol.experiment.checkpoint_pass import CheckpointPass
from mmseol.experiment.side_by_side_predictions import (
    Predicted,
    _caption,
    _draw_classes,
    _draw_label_maps,
    _labels,
    _round_robin,
    _together,
    class_ious,
    difference,
    prepare_predictions,
    run_predictions,
)
from mmseol.losses import OutlyingMSELoss

CONFIGS = Path(__file__).parents[1] / "configs" / "quickstart"
SCENES, DIGITS = str(CONFIGS / "toy_camvid.py"), str(CONFIGS / "digits.py")


def test_errors_are_told_apart():
    truth = np.array([[0, 0, 0, 0, 255, 3]])
    maps = {"ce": np.array([[0, 0, 1, 1, 0, 0]]), "mse": np.array([[0, 1, 0, 1, 0, 3]])}
    picture, meaning = error_map(truth, maps, num_classes=3)
    colors = [meaning[text] for text in ("both right", "only ce right", "only mse right", "both wrong")]
    assert len(set(colors)) == 4
    assert [tuple(color) for color in picture[0]] == [*colors, (255, 255, 255), (255, 255, 255)]
    alone, meaning = error_map(truth, {"ce": maps["ce"]}, num_classes=3)
    assert [tuple(color) for color in alone[0, 1:3]] == [meaning["right"], meaning["wrong"]]
    three, meaning = error_map(truth, {**maps, "dice": maps["mse"]}, num_classes=3)
    assert [tuple(one) for one in three[0, :4]] == [
        meaning[text] for text in ("all right", "2 wrong", "1 wrong", "all wrong")
    ]


def test_iou_of_an_image_leaves_void_and_small_classes_out():
    rng = np.random.default_rng(0)
    truth, predicted = rng.choice([0, 1, 2, 255], (40, 50)), rng.integers(0, 4, (40, 50))
    truth[0, 0] = 3
    found = class_ious(truth, predicted, 4)
    valid = truth != 255
    for k in range(3):
        both = ((truth == k) & (predicted == k)).sum()
        either = (((truth == k) | (predicted == k)) & valid).sum()
        assert found[k] == pytest.approx(100 * both / either)
    assert np.isnan(found[3])  # one of 1,500 pixels


@pytest.mark.parametrize(
    ("size", "pixels", "counts"), [(1000, 1, True), (1001, 1, False), (1500, 2, True), (4, 1, True)]
)
def test_a_class_counts_from_one_pixel_in_a_thousand(size, pixels, counts):
    truth = np.full((1, size + 7), 255)
    truth[0, :size] = 0
    truth[0, :pixels] = 1
    predicted = np.where(truth == 255, 2, 0)
    both = 100 * (size - pixels) / size
    found = class_ious(truth, predicted, 3)
    np.testing.assert_array_equal(found, [both, 0 if counts else np.nan, np.nan])


def test_the_difference_is_over_wanted_classes_that_are_there():
    ious = [[10, 50, np.nan, 80], [30, 20, np.nan, 0], [20, 20, np.nan, 40]]
    assert difference(ious, [True, True, True, False]) == pytest.approx(25)
    assert difference(ious[:1], [True, True, True, False]) == pytest.approx(70)
    assert difference(ious, [False, False, True, False]) == -1


def test_rows_have_captions_and_the_legend_follows_the_order():
    label = np.repeat([[0, 1, 2]], 4, axis=0)
    figure = label_map_figure(
        [np.zeros((4, 3, 3))] * 2,
        [label] * 2,
        {"ce": [label] * 2, "mse": [label] * 2},
        ["sky", "car", "pole"],
        [[0, 0, 0], [9, 9, 9], [200, 0, 0]],
        errors=True,
        captions=["one", "two"],
        order=[2, 0, 1],
    )
    assert [axis.get_title() for axis in figure.axes[:5]] == ["image", "ground truth", "ce", "mse", "errors"]
    assert [text.get_text() for text in figure.texts] == ["one", "two"]
    texts = [[text.get_text() for text in legend.get_texts()] for legend in figure.legends]
    assert texts[0] == ["pole", "sky", "car", "void (not scored)"]
    assert texts[1][1] == "errors: only ce right"
    figure.draw_without_rendering()
    frame = figure.bbox.padded(1)
    for part in (*figure.legends, *figure.texts):  # nothing is cut off
        inner = part.get_window_extent()
        assert frame.x0 <= inner.x0 < inner.x1 <= frame.x1
        assert frame.y0 <= inner.y0 < inner.y1 <= frame.y1
    with pytest.raises(ValueError, match="'captions': 1"):
        label_map_figure([np.zeros((4, 3, 3))] * 2, [label] * 2, {}, ["a"], [[0, 0, 0]], captions=["one"])


def shown_by(monkeypatch, module, name):
    """Return a list that receives the arguments of a figure function, which draws none the less."""
    calls, draw = [], getattr(side_by_side, name)
    monkeypatch.setattr(
        module, name, lambda *args, **kwargs: calls.append((args, kwargs)) or draw(*args, **kwargs)
    )
    return calls


def error_of(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main("analyze", ["predictions", *arguments])
    assert caught.value.code not in (0, None)
    return str(caught.value) + capsys.readouterr().err


def test_label_maps_that_differ_most_are_drawn(toy, tmp_path, monkeypatch, capsys):
    pairs = []
    for seed in (1, 2):
        pairs += [SCENES, untrained(SCENES, tmp_path / f"loss{seed}", seed, *SCENE_OPTIONS)]
        (tmp_path / f"loss{seed}" / "class_counts.json").write_text(str(list(range(1100, 0, -100))))
    calls, values = shown_by(monkeypatch, side_by_side_predictions, "label_map_figure"), []

    def noted(ious, wanted):
        assert wanted.tolist() == [k >= 8 for k in range(11)]
        values.append(difference(ious, wanted))
        return values[-1]

    monkeypatch.setattr(side_by_side_predictions, "difference", noted)
    arguments = ["--data-root", str(toy), "--cfg-options", *SCENE_OPTIONS]
    out = tmp_path / "a.png"
    main("analyze", ["predictions", *pairs, "--images", "2", "--dpi", "100", "--out", str(out), *arguments])
    ((args, kwargs),) = calls
    images, truths, maps, _, palette = args
    assert list(maps) == ["loss1", "loss2"]
    assert len(images) == 2
    assert kwargs["order"] == list(range(11))
    assert len(np.unique(palette, axis=0)) == 11
    files = sorted((toy / "valannot").iterdir())
    for half, truth in enumerate(truths):
        place = [
            np.array_equal(np.asarray(Image.open(file)), np.where(truth > 10, 11, truth)) for file in files
        ]
        assert sum(place) == 1
        assert place.index(True) == 2 * half + np.argmax(values[2 * half : 2 * half + 2])
        pixels = np.asarray(Image.open(toy / "val" / files[place.index(True)].name).convert("RGB"))
        np.testing.assert_array_equal(images[half], pixels)
        assert "(loss1)" in kwargs["captions"][half]
    assert "of each of 2 equal stretches of the val split" in capsys.readouterr().out
    assert Image.open(out).size[0] == 5 * 2.4 * 100
    assert "exists" in error_of(capsys, *pairs, "--out", str(out), *arguments)
    text = error_of(capsys, *pairs, "--classes", "tram", "--out", str(tmp_path / "b.png"), *arguments)
    assert "`--classes` must be one of 'sky'" in text
    text = error_of(capsys, *pairs[:3], "--out", str(tmp_path / "b.png"), *arguments)
    assert "A config must be followed by its checkpoint" in text
    assert not (tmp_path / "b.png").exists()


def test_of_images_on_which_predictions_differ_alike_the_first_is_drawn(tmp_path, monkeypatch):
    calls = shown_by(monkeypatch, side_by_side_predictions, "label_map_figure")
    truth, wrong = np.zeros((4, 4), dtype=int), np.ones((4, 4), dtype=int)
    images = [
        Predicted(np.full((4, 4, 3), number, np.uint8), truth, [truth, wrong], f"{number}.png")
        for number in range(4)
    ]
    seen = SimpleNamespace(classes=["a", "b"], loader=SimpleNamespace(dataset=range(4)), palette=None)
    args = Namespace(
        images=2, palette=None, titles=["x", "y"], split="val", out=str(tmp_path / "a.png"), dpi=20
    )
    side_by_side_predictions._draw_label_maps(images, seen, np.array([9, 1]), np.array([True, True]), args)
    ((shown, *_), _) = calls[0]
    assert [pixels[0, 0, 0] for pixels in shown] == [0, 2]  # of each half


def test_images_on_which_losses_differ_are_drawn(tmp_path, monkeypatch, capsys):
    pairs = []
    for seed in (1, 2, 3):
        pairs += [DIGITS, untrained(DIGITS, tmp_path / f"loss{seed}", seed)]
    out = str(tmp_path / "a.png")
    assert "`--counts` must be given" in error_of(capsys, *pairs, "--out", out)
    (tmp_path / "loss2" / "class_counts.json").write_text(str(list(range(10, 110, 10))))
    calls = shown_by(monkeypatch, side_by_side_predictions, "class_figure")
    main("analyze", ["predictions", *pairs, "--images", "8", "--out", out])
    (((images, truths, predictions), kwargs),) = calls
    assert len(images) == len(truths) == 8
    right = np.array(
        [[a == b for a, b in zip(labels, truths, strict=True)] for labels in predictions.values()]
    )
    assert right.any(0).all()
    assert not right.all(0).any()
    assert [int(name) for name in truths] == sorted(int(name) for name in truths)  # rarest first
    assert "of the" in kwargs["note"]
    same = [*pairs[:2], *pairs[:2]]
    text = error_of(capsys, *same, "--titles", "a", "b", "--out", str(tmp_path / "b.png"), "--counts",
                    str(tmp_path / "loss2" / "class_counts.json"))  # fmt: skip
    assert (
        "error: The val split must have an image on which one checkpoint is right and another wrong" in text
    )
    assert "must be 2 different texts" in error_of(capsys, *same, "--out", str(tmp_path / "b.png"))
    state = torch.load(pairs[1])
    del state["state_dict"]["head.fc.weight"]
    torch.save(state, tmp_path / "part.pth")
    text = error_of(capsys, DIGITS, str(tmp_path / "part.pth"), "--out", str(tmp_path / "b.png"))
    assert "head.fc.weight is missing" in text


def test_whoever_reads_predictions_keeps_computing_gradients():
    class Model(torch.nn.Linear):
        def test_step(self, batch):
            return self(batch)

    passed = CheckpointPass(Model(2, 2), [torch.ones(1, 2)] * 2, ("cat", "dog"), None)
    for _, samples in passed.batches():
        assert not samples.requires_grad
        assert torch.is_grad_enabled()
        break
    assert torch.is_grad_enabled()


def test_a_grid_marks_right_and_wrong():
    figure = class_figure([np.zeros((8, 8, 3))] * 3, ["cat"] * 3, {"ce": ["cat", "dog", "cat"]}, columns=2)
    texts = [[(text.get_text(), text.get_color()) for text in axis.texts] for axis in figure.axes]
    assert [rows[1][0] for rows in texts] == ["✓ ce: cat", "✗ ce: dog", "✓ ce: cat"]
    assert texts[0][1][1] != texts[1][1][1]
    with pytest.raises(ValueError, match=r"equal numbers of items, got \[1, 2\]"):
        class_figure([np.zeros((8, 8, 3))], ["cat", "dog"], {})


# ------------------------------------------------------------------ without checkpoints


def test_classes_take_turns_in_their_order():
    label, order = np.array([0, 0, 0, 1, 2]), np.array([2, 0, 1])
    assert _round_robin(label, order, 4) == [4, 0, 1, 3]
    assert _round_robin(label, order, 1) == [4]
    assert _round_robin(label, order, 99) == [4, 0, 1, 2, 3]
    assert _round_robin(label[:0], order, 3) == []


def test_a_caption_names_the_two_classes_that_differ_most():
    ious = np.array([[50.0, 40.0, np.nan, 10.0], [50.4, 70.0, np.nan, 90.0]])
    classes, titles = ["a", "b", "c", "d"], ["ce", "mse"]
    text = _caption("x/1.png", ious, np.ones(4, dtype=bool), classes, titles)
    assert text == "1.png    IoU in per cent: d 10 (ce), 90 (mse);  b 40 (ce), 70 (mse)"
    text = _caption("1.png", ious, np.array([True, False, True, False]), classes, titles)
    assert text == "1.png    IoU in per cent: a 50 (ce), 50 (mse)"
    text = _caption("1.png", ious[:1], np.ones(4, dtype=bool), classes, ["ce"])
    assert text == "1.png    IoU in per cent: d 10 (ce);  b 40 (ce)"
    same = np.full((2, 4), 50.0)
    text = _caption("1.png", same, np.ones(4, dtype=bool), classes, titles)
    assert text == "1.png    IoU in per cent: a 50 (ce), 50 (mse)"  # one, though nothing differs


def source(truths, predictions, sizes=None):
    """Return a checkpoint's pass over images of these labels and predictions."""
    samples = []
    for number, (truth, predicted) in enumerate(zip(truths, predictions, strict=True)):
        sample = SegDataSample(metainfo={} if number else {"img_path": "x/0.png"})
        sample.gt_sem_seg = PixelData(data=torch.tensor(truth)[None])
        sample.pred_sem_seg = PixelData(data=torch.tensor(predicted)[None])
        samples.append(sample)
    pixels = [np.full((*size, 3), 9, np.uint8) for size in sizes or [np.shape(truth) for truth in truths]]
    loader = SimpleNamespace(dataset=range(len(samples)))
    return SimpleNamespace(loader=loader, images=lambda text: iter(zip(pixels, samples, strict=True)))


def test_checkpoints_see_the_same_images():
    truth, one, other = [[[0, 1]], [[1, 1]]], [[[0, 0]], [[1, 0]]], [[[1, 1]], [[0, 0]]]
    passes = [source(truth, one, [(1, 2), (2, 4)]), source(truth, other)]
    first, second = _together(passes, ["ce", "mse"])
    assert (first.name, second.name) == ("x/0.png", "image 1")
    assert first.truth.tolist() == truth[0]
    assert [labels.tolist() for labels in second.maps] == [one[1], other[1]]
    assert second.pixels.shape == (1, 2, 3)  # of the label map's size
    with pytest.raises(ValueError, match="must read the same images, got 2, 1 images for ce, mse"):
        next(_together([passes[0], source(truth[:1], other[:1])], ["ce", "mse"]))
    with pytest.raises(ValueError, match="got other labels for image 1 with mse than with ce"):
        list(_together([source(truth, one), source([truth[0], [[0, 0]]], other)], ["ce", "mse"]))
    with pytest.raises(ValueError, match=r"must be of one shape, got \(1, 2\) and \(1, 1\) for x/0.png"):
        next(_together([source(truth[:1], [[[0]]])], ["ce"]))


def test_labels_of_either_task():
    found = _labels(DataSample().set_gt_label(3).set_pred_label(1), "a")
    assert [labels.tolist() for labels in found] == [[3], [1]]
    with pytest.raises(ValueError, match="a label map or one class per image, got neither for a"):
        _labels(DataSample().set_gt_label(3), "a")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(pairs=["a.py"]), "A config must be followed by its checkpoint, got 1 arguments: a.py"),
        (dict(out="a.txt"), r"`--out` must end in \.png"),
        (dict(dpi=19), "`--dpi` must be a whole number of at least 20, got 19"),
        (dict(images=0), "`--images` must be a whole number of at least 1, got 0"),
        (dict(titles=["a"]), "`--titles` must be 2 different texts, one for each checkpoint, got a"),
        (dict(titles=["a", "a"]), "`--titles` must be 2 different texts"),
        (dict(pairs=["a.py", "x/a.pth", "b.py", "x/b.pth"]), "`--titles` must be 2 .*, got x, x"),
    ],
)
def test_arguments_are_checked_before_anything_is_read(tmp_path, given, message):
    none = dict(pairs=["a.py", "x/a.pth", "b.py", "y/b.pth"], out=str(tmp_path / "a.png"), dpi=150)
    args = Namespace(**{**none, "images": None, "titles": None, "unsafe_load": False, **given})
    with pytest.raises(ValueError, match=message):
        prepare_predictions(args)
    if given == dict(dpi=19):
        args.dpi, args.images = 20, 1
        with pytest.raises(FileNotFoundError, match=r"`checkpoint` must be an existing file, got 'x/a.pth'"):
            prepare_predictions(args)
        assert args.titles == ["x", "y"]


# ------------------------------------------------------------------ what is drawn of predictions

DRAWN = dict(titles=["ce", "mse"], classes=None, images=2, split="val", palette="rarity", out="a.png", dpi=90)


def drawn(monkeypatch, name):
    """Return a list that receives the arguments of a figure function and of what saves the figure."""
    calls = []
    module = side_by_side_predictions
    monkeypatch.setattr(module, name, lambda *args, **kwargs: calls.append((args, kwargs)) or "figure")
    monkeypatch.setattr(module, "save_figure", lambda *args: calls.append(args))
    return calls


def test_the_first_of_the_images_that_differ_most_is_drawn(monkeypatch, capsys):
    truth, worse = np.array([[0, 1], [1, 1]]), np.array([[0, 0], [1, 1]])  # IoU of b: 100 and 67
    none = np.zeros((2, 2), np.int64)
    maps = [[truth, worse], [worse, truth], [none, none], [truth, truth]]
    images = [
        Predicted(np.full((2, 2, 3), k, np.uint8), none if k == 2 else truth, maps[k], f"x/{k}.png")
        for k in range(4)
    ]
    palette = [[1, 2, 3], [4, 5, 6]]
    loader = SimpleNamespace(dataset=range(4))
    passed = SimpleNamespace(classes=("a", "b"), loader=loader, palette=palette)
    counts, wanted, args = np.array([1, 9]), np.array([False, True]), Namespace(**DRAWN)
    calls = drawn(monkeypatch, "label_map_figure")
    _draw_label_maps(images, passed, counts, wanted, args)
    (given, kwargs), saved = calls
    assert saved == ("figure", "a.png", 90)
    assert [int(pixels[0, 0, 0]) for pixels in given[0]] == [0, 3]
    assert given[1] == [truth, truth]
    assert given[2] == {"ce": [truth, truth], "mse": [worse, truth]}
    assert given[3] == ("a", "b")
    np.testing.assert_array_equal(given[4], rgb(class_styles(counts)))
    captions = [
        "0.png    IoU in per cent: b 100 (ce), 67 (mse)",
        "3.png    IoU in per cent: b 100 (ce), 100 (mse)",
    ]
    assert kwargs == dict(errors=True, captions=captions, order=order_by_count(counts).tolist())
    assert capsys.readouterr().out.splitlines() == [
        *captions,
        "Wrote a.png: of each of 2 equal stretches of the val split, the image whose predictions differ most "
        "on b.",
    ]
    calls.clear()
    _draw_label_maps(
        images, passed, counts, wanted, Namespace(**{**DRAWN, "images": None, "palette": "data"})
    )
    assert [int(pixels[0, 0, 0]) for pixels in calls[0][0][0]] == [0, 1, 3]  # of each of four
    assert calls[0][0][4] == palette
    with pytest.raises(
        ValueError, match="The val split must have an image with enough pixels of b, got none"
    ):
        _draw_label_maps(images[2:3], passed, counts, wanted, args)
    passed.palette, args.palette = None, "data"
    with pytest.raises(ValueError, match="`--palette data` needs a data set with a palette, got one without"):
        _draw_label_maps(images, passed, counts, wanted, args)


def test_images_that_are_right_and_wrong_are_drawn_rarest_first(monkeypatch, capsys):
    def predicted(number, truth, *labels):
        pixels = np.full((2, 2, 3), number, np.uint8)
        return Predicted(pixels, np.array([truth]), [np.array([label]) for label in labels], str(number))

    rows = [(0, 0, 1), (0, 0, 0), (2, 1, 2), (1, 1, 0), (2, 2, 0)]
    images = [predicted(number, *row) for number, row in enumerate(rows)]
    counts, nothing = np.array([9, 5, 1]), np.zeros(3, dtype=bool)
    calls = drawn(monkeypatch, "class_figure")
    args = Namespace(**{**DRAWN, "images": 3})
    _draw_classes(images, ("a", "b", "c"), counts, nothing, args)  # of all classes
    ((pixels, truths, labels), kwargs), saved = calls
    assert saved == ("figure", "a.png", 90)
    assert [int(one[0, 0, 0]) for one in pixels] == [2, 3, 0]
    assert (truths, labels) == (
        ["c", "b", "a"],
        {"ce": ["b", "b", "a"], "mse": ["c", "a", "b"]},
    )
    note = "3 of the 4 images where a loss is wrong and another right, rarest classes first"
    assert kwargs == {"note": note}
    assert capsys.readouterr().out == f"Wrote a.png: {note}; 5 images were read.\n"
    calls.clear()
    args = Namespace(**{**DRAWN, "classes": ["a"]})
    _draw_classes(images, ("a", "b", "c"), counts, np.array([True, False, False]), args)
    assert calls[0][0][1] == ["a"]
    with pytest.raises(ValueError, match=r"is right and another wrong, got none among its 2 images\."):
        _draw_classes(images[1:2] * 2, ("a", "b", "c"), counts, nothing, Namespace(**DRAWN))
    calls.clear()
    alone = [predicted(number, 0, number % 21 > 0) for number in range(21)]
    args = Namespace(**{**DRAWN, "titles": ["ce"], "images": None})
    _draw_classes(alone, ("a", "b", "c"), counts, nothing, args)
    assert len(calls[0][0][0]) == 18
    assert calls[0][1]["note"].startswith("18 of the 20 images where it is wrong, ")


def test_checkpoints_share_classes_and_counts(monkeypatch):
    truth, label = [[[0, 1]]], [[[0, 0]]]

    def passed(classes, counts=None):
        model = torch.nn.ModuleDict()
        if counts is not None:
            model["loss"] = OutlyingMSELoss(class_counts=counts)
        return SimpleNamespace(**vars(source(truth, label)), classes=classes, model=model)

    made, calls, names = {}, [], ("a", "b", "c")
    monkeypatch.setattr(
        CheckpointPass, "of", staticmethod(lambda cfg, path, loaded, device: made[path, cfg, loaded, device])
    )
    monkeypatch.setattr(side_by_side_predictions, "_draw_label_maps", lambda *args: calls.append(args))
    monkeypatch.setattr(side_by_side_predictions, "_draw_classes", lambda *args: calls.append(args))

    def run(first, second, **given):
        made.update({("a.pth", 1, 3, "cpu"): first, ("b.pth", 2, 4, "cpu"): second})
        args = Namespace(**DRAWN, pairs=["a.py", "a.pth", "b.py", "b.pth"], loaded=[3, 4], unsafe_load=False)
        vars(args).update(device="cpu", counts=None, **given)
        run_predictions([1, 2], args)
        (found,) = calls
        calls.clear()
        return found

    images, first, counts, wanted, args = run(passed(names), passed(names, [9, 5, 1]))
    assert [one.name for one in images] == ["x/0.png"]
    assert first is made["a.pth", 1, 3, "cpu"]
    assert (counts.tolist(), wanted.tolist()) == ([9, 5, 1], [False, False, True])
    assert not hasattr(args, "loaded")
    _, _, counts, wanted, _ = run(passed(names, [3, 1, 2]), passed(names, [9, 5, 1]), classes=["c", "a"])
    assert (counts.tolist(), wanted.tolist()) == ([3, 1, 2], [True, False, True])
    sample = DataSample().set_gt_label(1).set_pred_label(0)
    image = (np.zeros((2, 2, 3), np.uint8), sample)
    classified = [passed(names, [9, 5, 1]) for _ in range(2)]
    for one in classified:
        one.images = lambda text: iter([image])
    images, own, *_ = run(*classified)
    assert [one.truth.tolist() for one in images] == [[1]]
    assert own == names
    for second, given, message in (
        (passed(("a", "b", "d")), {}, "same classes, got a, b, c for ce and a, b, d for mse"),
        (passed(names), dict(classes=["a", "d"]), "`--classes` must be one of 'a', 'b', 'c', got 'd'"),
        (passed(names), {}, "`--counts` must be given: neither the checkpoints nor class_counts.json"),
    ):
        with pytest.raises(ValueError, match=message):
            run(passed(names), second, **given)
    with pytest.raises(ValueError, match="same classes, got none for ce"):
        run(passed(()), passed(()))
