"""Both metrics through mmengine's Evaluator: scores, report and errors."""

from __future__ import annotations

import csv
import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.metric_samples import NAMES, map_sample, random_maps
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import METRICS, DefaultScope
from mmseg.evaluation import IoUMetric
from PIL import Image
from sklearn.metrics import f1_score, jaccard_score

from mmseol.metrics import ClassBalanceMetric, SegClassBalanceMetric
from mmseol.metrics.class_scores import score_table, write_scores

COUNTS = [1000, 100, 20, 3]
KEYS = ["accuracy", "macro_f1", "macro_precision", "macro_recall", "balanced_accuracy", "mIoU", "g_mean"]
KEYS += ["worst_class"]


def meta(metric: Any, names: tuple[str, ...] = NAMES) -> Any:
    metric.dataset_meta = {"classes": names}
    return metric


def labels(truth: list[int], predicted: list[int]) -> list[dict[str, Any]]:
    """Return data samples as mmpretrain's heads leave them and the Evaluator passes them on."""
    return [
        {"gt_label": torch.tensor([t]), "pred_label": torch.tensor([p]), "pred_score": torch.rand(4)}
        for t, p in zip(truth, predicted, strict=True)
    ]


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that collects the metrics' log messages; pytest cannot capture mmengine's loggers."""
    texts: list[str] = []
    monkeypatch.setattr("mmseol.metrics.base.print_log", lambda text, **_: texts.append(text))
    return texts


# ------------------------------------------------------------------ one process


def test_classification_with_the_hosts_data_samples() -> None:
    structures = pytest.importorskip("mmpretrain.structures")
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 4, (2, 41))
    samples = [
        structures.DataSample().set_gt_label(int(t)).set_pred_score(torch.eye(4)[p]).set_pred_label(int(p))
        for t, p in zip(truth, predicted, strict=True)
    ]
    evaluator = Evaluator([dict(type="mmseol.ClassBalanceMetric", class_counts=COUNTS)])
    evaluator.dataset_meta = {"classes": NAMES}
    evaluator.process(samples[:32])
    evaluator.process(samples[32:])
    scores = evaluator.evaluate(41)
    assert list(scores)[:8] == KEYS
    assert scores["accuracy"] == pytest.approx(100 * (truth == predicted).mean())
    assert scores["macro_f1"] == pytest.approx(100 * f1_score(truth, predicted, average="macro"))
    assert scores["many/accuracy"] == pytest.approx(100 * (predicted[truth == 0] == 0).mean())
    assert scores["few/mIoU"] == pytest.approx(
        100 * jaccard_score(truth, predicted, average=None, labels=[3])[0]
    )
    assert {name.split("/")[0] for name in scores if "/" in name} == {"many", "medium", "few"}


def test_segmentation_sums_the_pixels_of_all_images() -> None:
    maps = random_maps(5)
    metric = meta(SegClassBalanceMetric(class_counts=COUNTS, prefix="seg"))
    evaluator = Evaluator([metric])
    evaluator.dataset_meta = {"classes": NAMES}
    evaluator.process([map_sample(*pair) for pair in maps])
    scores = evaluator.evaluate(5)
    truth, predicted = (np.concatenate([pair[i].ravel() for pair in maps]) for i in range(2))
    valid = truth != 255
    macro = {"average": "macro", "zero_division": 0}
    assert scores["seg/mIoU"] == pytest.approx(100 * jaccard_score(truth[valid], predicted[valid], **macro))
    assert scores["seg/macro_f1"] == pytest.approx(100 * f1_score(truth[valid], predicted[valid], **macro))
    assert "seg/few/accuracy" in scores


def test_segmentation_agrees_with_the_hosts_metric_where_every_class_is_hit() -> None:
    samples = [map_sample(*pair).to_dict() for pair in random_maps(3)]
    metric, host = meta(SegClassBalanceMetric()), meta(IoUMetric())
    for each in (metric, host):
        each.process({}, samples)
    ours, theirs = metric.evaluate(3), host.evaluate(3)
    pairs = [("accuracy", "aAcc"), ("mIoU", "mIoU"), ("balanced_accuracy", "mAcc")]
    for our, their in pairs:
        assert ours[our] == pytest.approx(theirs[their], abs=0.00501)  # the host rounds


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_label_maps_may_be_of_any_whole_type(dtype: torch.dtype) -> None:
    metric = meta(SegClassBalanceMetric(ignore_index=0))
    truth, predicted = torch.tensor([[0, 1, 2, 3]]).to(dtype), torch.tensor([[1, 1, 2, 2]])
    metric.process({}, [map_sample(truth, predicted).to_dict()])
    assert metric.evaluate(1)["accuracy"] == pytest.approx(200 / 3)


def test_an_image_of_void_counts_nothing() -> None:
    metric = meta(SegClassBalanceMetric())
    void = map_sample(torch.full((2, 2), 255), torch.zeros(2, 2, dtype=torch.long))
    metric.process({}, [void.to_dict(), map_sample([[1, 1]], [[1, 1]]).to_dict()])
    assert metric.evaluate(2)["accuracy"] == 100
    metric.process({}, [void.to_dict()])
    with pytest.raises(ValueError, match="at least one labelled element"):
        metric.evaluate(1)


def test_a_thousand_classes() -> None:
    names = tuple(map(str, range(1000)))
    metric = meta(ClassBalanceMetric(class_counts=range(1000)), names)
    truth = list(range(1000))
    metric.process({}, labels(truth, [*truth[:-1], 0]))
    scores = metric.evaluate(1000)
    assert scores["balanced_accuracy"] == pytest.approx(99.9)
    assert scores["many/accuracy"] == pytest.approx(100 * 898 / 899)


# ------------------------------------------------------------------ report


def test_files_hold_every_class_and_never_replace_others(tmp_path: Path, logged: list[str]) -> None:
    metric = meta(ClassBalanceMetric(class_counts=COUNTS, table_dir=tmp_path, prefix="x/y"))
    for predicted in ([0, 0, 2, 0], [0, 0, 0, 0]):
        metric.process({}, labels([0, 0, 2, 2], predicted))
        scores = metric.evaluate(4)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "class_scores_x_y.csv",
        "class_scores_x_y.json",
        "class_scores_x_y.npz",
        "class_scores_x_y_2.csv",
        "class_scores_x_y_2.json",
        "class_scores_x_y_2.npz",
    ]
    with np.load(tmp_path / "class_scores_x_y.npz", allow_pickle=False) as file:
        truth, predicted = np.nonzero(file["confusion"])
    assert (truth.tolist(), predicted.tolist()) == ([0, 2, 2], [0, 0, 2])
    second = json.loads((tmp_path / "class_scores_x_y_2.json").read_text())
    assert {f"x/y/{name}": value for name, value in second["scores"].items()} == scores
    record = json.loads((tmp_path / "class_scores_x_y.json").read_text())
    assert record["absent"] == ["road", "bicyclist"]
    assert record["groups"] == "training count above 100: many, below 20: few"
    assert record["classes"][2] == {
        "class": "pole",
        "group": "medium",
        "training": 20,
        "truth": 2,
        "predicted": 1,
        "IoU": 50.0,
        "F1": pytest.approx(200 / 3),
        "precision": 100.0,
        "recall": 50.0,
    }
    assert record["classes"][1]["F1"] is None
    with (tmp_path / "class_scores_x_y.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(NAMES)
    assert rows[1]["F1"] == ""
    assert [float(rows[2][name]) for name in ("IoU", "recall")] == [50.0, 50.0]
    text = "\n".join(logged)
    assert "left out of every mean: road, bicyclist." in text
    assert (
        "│ pole      │ medium │       20 │     2 │         1 │ 50.00 │ 66.67 │    100.00 │  50.00 │" in text
    )
    assert (
        "│ road      │ medium │      100 │     0 │         0 │     - │     - │         - │      - │" in text
    )


def test_without_counts_groups_are_left_out_with_one_warning(logged: list[str]) -> None:
    metric = meta(SegClassBalanceMetric())
    for _ in range(2):
        metric.process({}, [map_sample([[0, 1]], [[0, 0]]).to_dict()])
        assert list(metric.evaluate(1)) == KEYS
    assert "\n".join(logged).count("No training counts are known") == 1
    assert "training" not in "\n".join(logged).split("│")[1]


def test_a_table_of_many_classes_shows_the_worst(logged: list[str]) -> None:
    metric = meta(ClassBalanceMetric(class_counts=range(300)), tuple(f"class {k}" for k in range(300)))
    truth = list(range(200))
    metric.process({}, labels(truth, [*truth[:190], *[0] * 10]))
    metric.evaluate(200)
    text = "\n".join(logged)
    assert text.count("│ class ") == 50
    assert "│ class 199 " in text
    assert "all 300 are in the files" in text


def test_label_maps_are_written_under_the_images_names(tmp_path: Path) -> None:
    metric = meta(SegClassBalanceMetric(output_dir=tmp_path / "maps"))
    shifted = map_sample([[0, 1]], [[2, 1]], "b.jpg")
    shifted.set_metainfo({"reduce_zero_label": True})
    metric.process({}, [map_sample([[0, 1]], [[3, 1]]).to_dict(), shifted.to_dict()])
    maps = {path.name: np.asarray(Image.open(path)).tolist() for path in (tmp_path / "maps").iterdir()}
    assert maps == {"a.png": [[3, 1]], "b.png": [[3, 2]]}


def test_label_maps_are_written_into_the_images_subfolders(tmp_path: Path) -> None:
    """Two images of one name would replace each other."""
    metric = meta(SegClassBalanceMetric(output_dir=tmp_path, image_root="somewhere"))
    samples = [map_sample([[0, 1]], [[label, 1]], f"{label}/a.jpg").to_dict() for label in (0, 3)]
    metric.process({}, [*samples, {**samples[0], "img_path": "elsewhere/c.jpg"}])
    maps = {
        str(path.relative_to(tmp_path)): np.asarray(Image.open(path))[0, 0]
        for path in tmp_path.rglob("*.png")
    }
    assert maps == {"0/a.png": 0, "3/a.png": 3, "c.png": 0}


def test_label_maps_of_many_classes_are_written_in_16_bits(tmp_path: Path) -> None:
    metric = meta(SegClassBalanceMetric(output_dir=tmp_path), tuple(map(str, range(400))))
    for label, bits in ((255, 8), (256, 16), (399, 16)):
        metric.process({}, [map_sample([[0, 1]], [[label, 0]]).to_dict()])
        assert (tmp_path / "a.png").read_bytes()[
            24
        ] == bits  # Pillow's name of the mode depends on its version
        with Image.open(tmp_path / "a.png") as image:
            assert np.asarray(image).tolist() == [[label, 0]]


def test_data_without_truth_are_only_written(tmp_path: Path) -> None:
    metric = meta(SegClassBalanceMetric(output_dir=tmp_path, format_only=True))
    sample = map_sample([[0, 1]], [[3, 1]]).to_dict()
    del sample["gt_sem_seg"]
    metric.process({}, [sample])
    assert metric.evaluate(1) == {}
    assert (tmp_path / "a.png").exists()
    kept = meta(SegClassBalanceMetric(output_dir=tmp_path / "none", keep_results=False))
    kept.process({}, [map_sample([[0]], [[0]]).to_dict()])
    assert not (tmp_path / "none").exists()


def process(metric: Any, *samples: Any) -> None:
    meta(metric).process({}, samples)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ClassBalanceMetric(num_classes=1),
            "`num_classes` must be a whole number of at least 2, got 1",
        ),
        (lambda: ClassBalanceMetric(limits=(100, 20)), r"`limits` must be .*, got \(100, 20\)"),
        (lambda: ClassBalanceMetric(class_counts=[1, -1]), "`class_counts` must not be negative"),
        (lambda: meta(ClassBalanceMetric(class_counts=[1, 1])), "one entry per class, got 2 entries for 4"),
        (lambda: meta(ClassBalanceMetric()).set_class_counts([1, 1]), "got 2 entries for 4 classes"),
        (lambda: meta(ClassBalanceMetric(num_classes=5)), "that of the data set, 4, got 5. Leave it out"),
        (lambda: ClassBalanceMetric().process({}, labels([0], [0])), "`num_classes` must be given"),
        (
            lambda: process(ClassBalanceMetric(), *labels([4], [0])),
            "`gt_label` must be classes 0 to 3, got 4",
        ),
        (lambda: process(ClassBalanceMetric(), *labels([0], [-1])), "`pred_label` must be .*, got -1"),
        (
            lambda: process(
                ClassBalanceMetric(), {"gt_score": torch.rand(4), "pred_label": torch.tensor([1])}
            ),
            r"`gt_label` must be one class per sample, got none beside \['gt_score', .*multi-label",
        ),
        (
            lambda: process(ClassBalanceMetric(), {"gt_label": torch.tensor([0, 2])}),
            r"`gt_label` must be one class per sample, got \[0, 2\]",
        ),
        (
            lambda: SegClassBalanceMetric(format_only=True),
            "`output_dir` must be given with `format_only=True`",
        ),
        (
            lambda: process(SegClassBalanceMetric(), map_sample([[0, 9]], [[0, 0]]).to_dict()),
            "`gt_sem_seg` must be classes 0 to 3, got 9 in somewhere/a.png",
        ),
        (
            lambda: process(SegClassBalanceMetric(), map_sample([[0, 1]], [[0, 4]]).to_dict()),
            "`pred_sem_seg` must be classes 0 to 3, got 4",
        ),
        (
            lambda: process(
                SegClassBalanceMetric(), {"pred_sem_seg": {"data": torch.zeros(1, 2, 2)}, "img_path": "b.png"}
            ),
            "must have `gt_sem_seg`, got none for b.png",
        ),
        (
            lambda: process(
                SegClassBalanceMetric(),
                {**map_sample([[0, 1]], [[0, 1]]).to_dict(), "gt_sem_seg": {"data": torch.zeros(1, 2, 2)}},
            ),
            r"`pred_sem_seg` must be of shape \(2, 2\) as `gt_sem_seg`, got \(1, 2\)",
        ),
    ],
)
def test_bad_input_is_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("cls", [ClassBalanceMetric, SegClassBalanceMetric])
def test_counts_of_the_config_are_not_replaced(cls: type) -> None:
    given, told = cls(class_counts=[9, 1]), cls()
    for metric in (given, told):
        metric.set_class_counts([1, 9])
    assert given._counts.tolist() == [9, 1]
    assert told._counts.tolist() == [1, 9]


@pytest.mark.parametrize(
    ("made", "defaults"),
    [
        (ClassBalanceMetric, dict(limits=(20, 100), class_counts=None, prefix=None)),  # Liu et al., CVPR 2019
        (SegClassBalanceMetric, dict(limits=None, ignore_index=255, keep_results=True, format_only=False)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_defaults(made: Any, defaults: dict[str, Any]) -> None:
    """A config that names no value keeps its data and its results with every version."""
    parameters = inspect.signature(made).parameters
    assert {name: parameters[name].default for name in defaults} == defaults


def test_classes_without_names_are_numbered(logged: list[str]) -> None:
    metric = ClassBalanceMetric(num_classes=3)
    metric.process({}, labels([0, 1], [0, 0]))
    assert metric.evaluate(2)["accuracy"] == 50
    assert "left out of every mean: 2." in "\n".join(logged)


@pytest.mark.parametrize("host", ["mmseg", "mmpretrain"])
def test_configs_of_either_host_find_the_metrics(host: str) -> None:
    pytest.importorskip(host)
    with DefaultScope.overwrite_default_scope(host):
        assert METRICS.build(dict(type="mmseol.ClassBalanceMetric")).limits == (20, 100)
        assert METRICS.build(dict(type="mmseol.SegClassBalanceMetric")).limits is None


@pytest.mark.parametrize(
    ("stock", "ours", "key"),
    [
        (dict(type="IoUMetric", iou_metrics=["mIoU"]), "SegClassBalanceMetric", "iou_metrics"),
        (dict(type="Accuracy", topk=(1, 5)), "ClassBalanceMetric", "topk"),
    ],
)
def test_keys_of_the_hosts_metric_ask_for_delete(stock: dict[str, Any], ours: str, key: str) -> None:
    """mmengine merges `val_evaluator = dict(type=...)` into the evaluator of the base config."""
    base, change = Config(dict(val_evaluator=stock)), dict(type=f"mmseol.{ours}")
    message = rf"`{ours}` has no argument `{key}`.* merged with .* previous metric; add `_delete_=True`"
    merged = Config._merge_a_into_b(dict(val_evaluator=change), base._cfg_dict)
    with pytest.raises(TypeError, match=message):
        METRICS.build(merged["val_evaluator"])
    merged = Config._merge_a_into_b(dict(val_evaluator=dict(_delete_=True, **change)), base._cfg_dict)
    assert type(METRICS.build(merged["val_evaluator"])).__name__ == ours


# ------------------------------------------------------------------ the table and the files


def row(name: str, f1: float | None, training: int | None = 1234) -> dict[str, Any]:
    return {"class": name, "group": "few", "training": training, "F1": f1}


@pytest.mark.parametrize("classes", [100, 101])
def test_of_many_classes_the_table_shows_the_worst(classes: int) -> None:
    rows = [row(f"name{k}", float(k)) for k in range(classes)][::-1]
    rows[3]["F1"] = None
    shown = score_table("title", rows)
    names = [line.split()[1] for line in shown.splitlines() if line.startswith("│")]
    if classes == 100:
        assert names == [one["class"] for one in rows]
    else:
        assert names == [f"name{k}" for k in range(50)]
        assert "The 50 classes of the lowest F1; all 101 are in the files." in " ".join(shown.split())


def test_texts_stand_left_and_numbers_right_in_the_table() -> None:
    lines = score_table("", [row("a", 5.0), {**row("long name", None), "group": "medium"}]).splitlines()
    assert "│ a         │ few    │    1,234 │ 5.00 │" in lines
    assert "│ long name │ medium │    1,234 │    - │" in lines
    assert "training" not in score_table("", [row("a", 5.0, None)])  # a column without a value


@pytest.mark.parametrize(
    ("progress", "prefix", "name"),
    [
        (("val", 3, 30), None, "class_scores_val_epoch_3"),
        (("val", None, 30), "a/b", "class_scores_a_b_val_iter_30"),
        (("val", None, None), None, "class_scores_val"),
        (("test", 3, 30), None, "class_scores_test"),
        ((None, None, None), None, "class_scores"),
    ],
)
def test_names_of_the_files(progress: tuple[Any, ...], prefix: Any, name: str, tmp_path: Path) -> None:
    settings = dict(zip(("stage", "epoch", "iter"), progress, strict=True))
    record = {"classes": [row("a", 1.0), row("b", None)]}
    for number in ("", "_2", "_3"):
        path = write_scores(tmp_path, settings, prefix, record, np.eye(2, dtype=int))
        assert path == tmp_path / f"{name}{number}.json"
        assert json.loads(path.read_text()) == {**settings, **record}
        assert (
            path.with_suffix(".csv").read_text() == "class,group,training,F1\na,few,1234,1.0\nb,few,1234,\n"
        )
        np.testing.assert_array_equal(np.load(path.with_suffix(".npz"))["confusion"], np.eye(2))
    (tmp_path / f"{name}_4.csv").touch()
    assert write_scores(tmp_path, settings, prefix, record).name == f"{name}_5.json"
    assert not (tmp_path / f"{name}_5.npz").exists()


@pytest.mark.parametrize(
    ("limits", "fits"),
    [((1, 1), True), ((20, 100), True), ((0, 5), False), ((5, 4), False), ((1, 2, 3), False)],
)
def test_limits_ascend(limits: Any, fits: bool) -> None:
    if fits:
        assert ClassBalanceMetric(limits=limits).limits == limits
    else:
        with pytest.raises(ValueError, match="`limits` must be None or two counts"):
            ClassBalanceMetric(limits=limits)


def test_the_number_of_classes_may_be_that_of_the_counts() -> None:
    assert ClassBalanceMetric(class_counts=[3, 2]).names() == ["0", "1"]
    assert ClassBalanceMetric(num_classes=3).names() == ["0", "1", "2"]
    assert meta(ClassBalanceMetric(class_counts=COUNTS)).names() == list(NAMES)
    with pytest.raises(ValueError, match="`num_classes` must be given to ClassBalanceMetric, got None"):
        ClassBalanceMetric().names()
