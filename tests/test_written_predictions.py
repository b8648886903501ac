"""Files that predictions are written into, and the images that they are of, without a model."""

from __future__ import annotations

import copy
import json
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, TRANSFORMS, DefaultScope, Registry
from mmengine.runner import Runner
from PIL import Image
from torch import nn

from mmseol.experiment import checkpoint_pass, prediction
from mmseol.experiment.checkpoint_outputs import (
    CheckpointOutputs,
    decision_rows,
    ordered_loader,
    prior,
    run_config,
)
from mmseol.experiment.checkpoint_pass import CheckpointPass, built_model, split_config, training_counts
from mmseol.experiment.class_predictions import ClassPredictions, add_writer
from mmseol.experiment.prediction import (
    _results,
    _write_class,
    _write_label_map,
    find_images,
    prepare_predict,
    run_predict,
)
from mmseol.experiment.weights import build_model
from mmseol.losses import OutlyingMSELoss

# ------------------------------------------------------------------ images


def write_image(path: Path, color: tuple[int, int, int] = (10, 20, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), color).save(path)
    return path


def test_images_of_subfolders_are_found_by_name(tmp_path: Path) -> None:
    paths = [write_image(tmp_path / name) for name in ("b.JPG", "a/1.png", "a/2.webp")]
    (tmp_path / "notes.txt").write_text("text")
    assert find_images(str(tmp_path)) == dict(zip(("a/1", "a/2", "b"), (*paths[1:], paths[0]), strict=True))
    assert find_images(str(paths[1])) == {"1": paths[1]}
    write_image(tmp_path / "a" / "1.bmp")
    with pytest.raises(ValueError, match=r"one image per name, got '.*/1.bmp' and '.*/1.png'"):
        find_images(str(tmp_path))


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("text")
    for path in (tmp_path, tmp_path / "a.png"):
        with pytest.raises(ValueError, match=r"`image` '.*/a.png' cannot be read as an image"):
            find_images(str(path))
    (tmp_path / "none").mkdir()
    for path in (tmp_path / "none", tmp_path / "b.png"):
        with pytest.raises(
            FileNotFoundError, match=r"`image` must be an image or a folder with images \(\.bmp"
        ):
            find_images(str(path))


def predict(image: Path, **kwargs: Any) -> Namespace:
    """Return the arguments of the command after they were checked, up to the checkpoint."""
    args = Namespace(image=str(image), out=None, opacity=0.5, scores=False, checkpoint="none.pth")
    vars(args).update(unsafe_load=False, **kwargs)
    with pytest.raises(FileNotFoundError, match="`checkpoint` must be an existing file"):
        prepare_predict(args)
    return args


def test_the_output_is_a_picture_of_one_image_or_a_folder(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    image = write_image(tmp_path / "in" / "a.png")
    assert predict(image).out == "prediction.png"
    assert predict(image.parent).out == "predictions"
    assert predict(image, out="new.png").out == "new.png"
    assert predict(image.parent, out="new.png", opacity=1).out == "new.png"  # of one image
    for arguments, message in (
        (dict(out=str(image)), "`--out` '.*a.png' exists"),
        (
            dict(out="new.png", scores=True),
            "`--out` must be a new or empty folder here, got the file 'new.png'",
        ),
        (dict(out="in"), "`--out` must be a new or empty folder, got 'in'"),
        (dict(opacity=1.5), "`--opacity` must be a finite number of at least 0 and at most 1, got 1.5"),
    ):
        with pytest.raises(ValueError, match=message):
            predict(image, **arguments)
    write_image(tmp_path / "in" / "b.png")
    with pytest.raises(ValueError, match="`--out` must be a new or empty folder here"):
        predict(image.parent, out="new.png")


# ------------------------------------------------------------------ label maps and classes

META = dict(classes=("a", "b", "c"), palette=[[200, 0, 0], [0, 100, 0], [0, 0, 50]])
LABELS = np.array([[0, 0, 2, 2], [0, 2, 2, 2]])


def seg_result() -> Any:
    scores = torch.arange(24.0).reshape(3, 2, 4)
    labels = SimpleNamespace(data=torch.from_numpy(LABELS)[None])
    return SimpleNamespace(pred_sem_seg=labels, seg_logits=SimpleNamespace(data=scores))


def read(path: Path) -> Any:
    with Image.open(path) as file:
        return np.asarray(file)


@pytest.mark.parametrize("scores", [False, True])
def test_files_of_a_label_map(tmp_path: Path, scores: bool) -> None:
    image = np.full((2, 4, 3), 100, np.uint8)
    args = Namespace(out=str(tmp_path), scores=scores, opacity=0.25)
    assert _write_label_map("x/a", seg_result(), image, META, args) == {"a": 37.5, "c": 62.5}
    assert read(tmp_path / "label_maps" / "x" / "a.png").tolist() == LABELS.tolist()
    mixed = 0.25 * np.array(META["palette"])[LABELS] + 75
    np.testing.assert_allclose(read(tmp_path / "overlays" / "x" / "a.png"), mixed, atol=0.5)
    assert (tmp_path / "scores").exists() == scores
    if scores:
        stored = np.load(tmp_path / "scores" / "x" / "a.npz")["scores"]
        np.testing.assert_array_equal(stored, np.arange(24).reshape(3, 2, 4))


def test_a_label_map_without_names_and_colours(tmp_path: Path) -> None:
    args = Namespace(out=str(tmp_path / "a.png"), scores=False, opacity=1.0)
    image = np.zeros((2, 4, 3), np.uint8)
    assert _write_label_map("a", seg_result(), image, {}, args) == {"0": 37.5, "2": 62.5}
    colors = read(tmp_path / "a.png")[LABELS == 0], read(tmp_path / "a.png")[LABELS == 2]
    assert len({tuple(color) for color in colors[0]}) == len({tuple(color) for color in colors[1]}) == 1
    assert colors[0][0].tolist() != colors[1][0].tolist()
    one = SimpleNamespace(pred_sem_seg=SimpleNamespace(data=torch.zeros(1, 2, 4, dtype=torch.long)))
    args.out = str(tmp_path / "b.png")
    assert _write_label_map("a", one, image, {}, args) == {"0": 100.0}


@pytest.mark.parametrize("scores", [False, True])
def test_files_of_a_class(tmp_path: Path, scores: bool) -> None:
    result = SimpleNamespace(pred_label=torch.tensor([1]), pred_score=torch.tensor([0.25, 0.75]))
    image = np.full((160, 160, 3), 77, np.uint8)
    args = Namespace(out=str(tmp_path), scores=scores)
    written = _write_class("a", result, image, {"classes": ("cat", "dog")}, args)
    assert written == {"label": 1, "class": "dog", "score": 0.75}
    picture = read(tmp_path / "pictures" / "a.png")
    assert picture.shape == (176, 160, 3)
    assert (picture[:160] == 77).all()
    assert (tmp_path / "scores").exists() == scores
    if scores:
        assert np.load(tmp_path / "scores" / "a.npz")["scores"].tolist() == [0.25, 0.75]
    args = Namespace(out=str(tmp_path / "one.png"), scores=False)
    assert _write_class("a", result, image, {}, args)["class"] == "1"
    assert (tmp_path / "one.png").is_file()


def sample(label: int, path: str = "", **kwargs: Any) -> dict[str, Any]:
    scores = torch.full((2,), 0.123456789)
    scores[label] = 0.876543211
    return {"pred_label": torch.tensor([label]), "pred_score": scores, "img_path": path, **kwargs}


def test_classes_of_a_test_are_recorded_in_order(tmp_path: Path) -> None:
    writer = ClassPredictions(["cat", "dog"], str(tmp_path), None, bgr=False)
    writer.process({}, [sample(1, "x/a.png", gt_label=torch.tensor([0])), sample(0)])
    assert writer.evaluate(size=2) == {}
    first, second = json.loads((tmp_path / "predictions.json").read_text())
    assert first == dict(image="x/a.png", label=1, score=0.876543, truth=0) | {"class": "dog"}
    assert second == dict(image="", label=0, score=0.876543) | {"class": "cat"}
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize("bgr", [False, True])
def test_pictures_of_a_test_do_not_replace_each_other(tmp_path: Path, bgr: bool) -> None:
    writer = ClassPredictions(["cat", "dog"], None, str(tmp_path), bgr)
    views = [
        torch.tensor([k, 20, 30], dtype=torch.uint8)[:, None, None].expand(3, 160, 160) for k in range(4)
    ]
    names = ["x/a.png", "x/a.jpg", "y/a.png", ""]
    writer.process({"inputs": [views, views[::-1]]}, [sample(0, name) for name in names])  # the first view
    writer.process({"inputs": torch.stack(views[:1])}, [sample(0, "x/a.bmp")])
    written = {path.name: read(path)[0, 0].tolist() for path in tmp_path.glob("*.png")}
    colors = [[k, 20, 30][:: -1 if bgr else 1] for k in range(4)]
    expected = dict(zip(("x_a.png", "x_a_1.png", "y_a.png", "000003.png"), colors, strict=True))
    assert written == {**expected, "x_a_2.png": colors[0]}
    writer.evaluate(size=5)
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("preprocessor", [None, dict(to_rgb=True), dict(to_rgb=False)])
def test_a_test_gets_a_writer_with_its_classes(preprocessor: dict[str, Any] | None) -> None:
    evaluator = SimpleNamespace(dataset_meta=None, metrics=["another"])
    runner: Any = SimpleNamespace(test_loop=SimpleNamespace(evaluator=evaluator), cfg=Config({}))
    if preprocessor is not None:
        runner.cfg.data_preprocessor = preprocessor
    add_writer(runner, "a", "b")
    other, writer = evaluator.metrics
    assert (other, writer.out, writer.show_dir) == ("another", "a", "b")
    assert writer.bgr == bool(preprocessor and preprocessor["to_rgb"])
    assert writer.names[12] == "12"


# ------------------------------------------------------------------ outputs of a checkpoint


def outputs() -> CheckpointOutputs:
    """Return outputs of three images of two classes, decided in two ways."""
    rng = np.random.default_rng(0)
    return CheckpointOutputs(
        "additive",
        True,
        np.array(["a", "b"]),
        np.array([9, 1]),
        np.array([1.0, 2.0]),
        np.array(["argmax", "P"]),
        rng.integers(0, 9, (3, 2, 2, 2)),
        rng.integers(0, 9, (3, 2)),
        rng.normal(size=(6, 2)),
        np.array([0, 1, 0, 1, 0, 1]),
        np.array([0, 1, 1, 2, 2, 2]),
    )


def test_outputs_survive_a_file_and_belong_to_their_source(tmp_path: Path) -> None:
    made = outputs()
    made.save(tmp_path / "a.npz", "run 1")
    found = CheckpointOutputs.load(tmp_path / "a.npz", "run 1")
    assert found is not None
    assert (found.kind, found.segmentation, found.targets) == ("additive", True, None)
    for name in ("classes", "counts", "weights", "decisions", "tallies", "outputs", "truth", "image"):
        np.testing.assert_array_equal(getattr(found, name), getattr(made, name))
    assert CheckpointOutputs.load(tmp_path / "a.npz", "run 2") is None
    assert CheckpointOutputs.load(tmp_path / "none.npz", "run 1") is None
    whole = (tmp_path / "a.npz").read_bytes()
    for harmed in (b"", b"text", whole[: len(whole) // 2]):
        (tmp_path / "b.npz").write_bytes(harmed)
        assert CheckpointOutputs.load(tmp_path / "b.npz", "run 1") is None


def test_halves_are_of_whole_images() -> None:
    made = outputs()
    first, second = made.halves()
    assert (len(first.tallies), len(second.tallies)) == (1, 2)
    np.testing.assert_array_equal(first.outputs, made.outputs[:1])
    np.testing.assert_array_equal(second.outputs, made.outputs[1:])
    assert (first.image.tolist(), second.image.tolist()) == ([0], [0, 0, 1, 1, 1])
    assert (first.truth.tolist(), second.truth.tolist()) == ([0], [1, 0, 1, 0, 1])
    np.testing.assert_array_equal(second.rows("P")[..., :2], made.tallies[1:, 1])
    np.testing.assert_array_equal(second.rows("P")[..., 2], made.truth_tallies[1:])
    with pytest.raises(ValueError, match="`decision` must be one of argmax, P, got 'P / n'"):
        made.rows("P / n")


def test_decisions_have_one_name_each() -> None:
    counts, weights = np.array([8, 4, 1]), np.array([1.0, 2.0, 3.0])
    for kind, further in (("additive", []), ("multiplicative", ["nearest target"])):
        names, families = decision_rows(kind, counts, weights)
        assert len(names) == len(set(names)) == 1 + sum(len(f.candidates()) for f in families) + len(further)
        assert names[:2] == ["argmax", "P"]
        assert names[11] == "P / n"
        assert names[20] == "P / n^1.9"
        assert names[21:] == ["P * rank", *further]
        plain, ranked = families[0].candidates()[0], families[1].candidates()[0]
        np.testing.assert_allclose(plain - plain[0], np.log(weights[0] / weights))  # P alone
        np.testing.assert_allclose(ranked - plain - (ranked - plain)[0], np.log([1, 2, 3]))
    assert prior(1.25) == "P / n^1.25"


@contextmanager
def registered(registry: Registry, cls: type) -> Iterator[None]:
    """Register a class while the block runs."""
    registry.register_module(module=cls)
    try:
        yield
    finally:
        del registry._module_dict[cls.__name__]


class Numbers(BaseDataset):
    """Data set of numbers."""

    def load_data_list(self) -> list[dict[str, Any]]:
        return [{"number": k} for k in range(7)]


class Add:
    def __init__(self, more: int) -> None:
        self.more = more

    def __call__(self, results: dict[str, Any]) -> int:
        return int(results["number"]) + self.more


@pytest.mark.parametrize(("images", "chosen"), [(None, range(7)), (9, range(7)), (3, (0, 3, 6)), (1, (0,))])
def test_a_split_is_read_in_order_and_the_config_stays(images: int | None, chosen: Any) -> None:
    def loader(more: int) -> dict[str, Any]:
        dataset = dict(type="Numbers", pipeline=[dict(type="Add", more=more)])
        return dict(batch_size=2, num_workers=3, persistent_workers=True, collate_fn=list, dataset=dataset)

    with registered(DATASETS, Numbers), registered(TRANSFORMS, Add):
        cfg = Config(dict(train_dataloader=loader(100), val_dataloader=loader(0)))
        before = copy.deepcopy(cfg.to_dict())
        runner: Any = SimpleNamespace(cfg=cfg, build_dataloader=Runner.build_dataloader)
        for split in ("train", "val"):  # training data without their augmentation
            made = ordered_loader(runner, split, images)
            assert [int(number) for batch in made for number in batch] == list(chosen)
            assert (made.batch_size, made.num_workers) == (2, 0)
        assert ordered_loader(runner, "test", images) is None
    assert cfg.to_dict() == before


def test_the_config_of_a_run_is_the_one_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a.py").write_text("x = 1\nmodel = dict(type='A')\n")
    assert run_config(tmp_path / "run").x == 1
    (tmp_path / "run" / "b.py").write_text("x = 2\n")
    with pytest.raises(FileNotFoundError, match=r"`folder` must hold the config of a run, or the trial"):
        run_config(tmp_path / "run")
    request = dict(config=str(tmp_path / "run" / "a.py"), cfg_options=["test_cfg.x=1", "model.y=2"])
    (tmp_path / "trial.json").write_text(json.dumps({"train": request}))
    with pytest.raises(FileNotFoundError, match="`folder` must hold"):
        run_config(tmp_path / "run")  # not the folder of a trial
    (tmp_path / "train").mkdir()
    cfg = run_config(tmp_path / "train")
    assert (cfg.x, cfg.model) == (1, dict(type="A", y=2))
    assert "test_cfg" not in cfg


def test_training_counts_come_from_the_nearest_place(tmp_path: Path) -> None:
    model = torch.nn.ModuleDict({"fc": torch.nn.Linear(2, 2)})
    checkpoint = str(tmp_path / "a.pth")
    assert training_counts(model, 2, checkpoint) is None
    beside, given = tmp_path / "class_counts.json", tmp_path / "given.json"
    for path, samples in ((beside, [5, 1]), (given, [7, 1])):
        path.write_text(json.dumps(dict(samples=samples, images=samples, totals=samples)))
    counts, source = training_counts(model, 2, checkpoint)
    assert (counts.tolist(), source) == ([5, 1], str(beside))
    model["loss"] = OutlyingMSELoss(class_counts=[9, 1])
    counts, source = training_counts(model, 2, checkpoint)
    assert (counts.tolist(), source) == ([9, 1], "checkpoint")
    counts, source = training_counts(model, 2, checkpoint, str(given))
    assert (counts.tolist(), source) == ([7, 1], str(given))
    for arguments, name in (((checkpoint,), "class_counts"), ((checkpoint, str(given)), "--counts")):
        with pytest.raises(ValueError, match=rf"`?{name}`?.* 3 "):
            training_counts(model, 3, *arguments)


# ------------------------------------------------------------------ a checkpoint and its split


def arguments(**given: Any) -> Namespace:
    none = dict.fromkeys(("loss", "data_root", "cfg_options", "launcher"))
    return Namespace(**{**none, "unsafe_load": False, "split": "val", "seed": 7, **given})


def test_a_split_is_read_in_its_order(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    dataset = dict(type="CustomDataset", data_root=str(tmp_path), data_prefix="val")
    loader = dict(
        batch_size=3, batch_sampler=dict(type="B"), sampler=dict(type="DefaultSampler", shuffle=True)
    )
    cfg = Config(dict(model=dict(type="A"), val_dataloader=dict(loader, dataset=dataset), val_evaluator=None))
    cfg.dump(tmp_path / "a.py")
    state = {"state_dict": {}, "meta": {}}
    torch.save(state, tmp_path / "a.pth")
    paths = (str(tmp_path / "a.py"), str(tmp_path / "a.pth"))
    made, loaded = split_config(arguments(), *paths)
    assert loaded == state
    sampler = dict(type="DefaultSampler", shuffle=False)
    assert made.test_dataloader.to_dict() == dict(
        batch_size=3, dataset=dataset, sampler=sampler, persistent_workers=False
    )
    assert "randomness" not in made  # the seed is that of the choice of pixels
    with pytest.raises(ValueError, match="`--split test`: the config has no test_dataloader"):
        split_config(arguments(split="test"), *paths)
    (tmp_path / "val").rmdir()
    with pytest.raises(ValueError, match="`data_prefix` of test_dataloader must be an existing folder"):
        split_config(arguments(), *paths)
    torch.save({**state, "meta": {"cfg": "mmseol.CosineClassifierHead"}}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"was trained with mmseol\.CosineClassifierHead"):
        split_config(arguments(), *paths)


def test_a_model_predicts_with_the_weights_of_its_checkpoint(tmp_path: Path) -> None:
    model = dict(
        type="ImageClassifier", backbone=dict(type="LeNet5", num_classes=3), head=dict(type="ClsHead")
    )
    cfg = Config(dict(default_scope="mmpretrain", model=model))
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        other = build_model(cfg)
        torch.save({"state_dict": other.state_dict()}, tmp_path / "a.pth")
        built = built_model(cfg, str(tmp_path / "a.pth"), torch.load(tmp_path / "a.pth"))
        assert not built.training
        for name, value in other.state_dict().items():
            assert torch.equal(built.state_dict()[name], value), name
        with pytest.raises(ValueError, match=r"`checkpoint` '.*a\.pth' does not fit the model: it has 0 of"):
            built_model(cfg, str(tmp_path / "a.pth"), {"state_dict": {}})


@pytest.mark.parametrize("meta", [None, {}, dict(classes=("a", 1), palette=[[0, 0, 0], [9, 9, 9]])])
def test_a_pass_has_the_classes_of_its_data(monkeypatch: pytest.MonkeyPatch, meta: Any) -> None:
    class Doubles(nn.Module):
        def test_step(self, batch: Any) -> Any:
            return batch["inputs"] * 2

    given: list[Any] = []
    monkeypatch.setattr(checkpoint_pass, "built_model", lambda *args: given.append(args) or Doubles())
    monkeypatch.setattr(checkpoint_pass, "input_image", lambda tensor, model: tensor.tolist())
    batches = [{"inputs": torch.tensor([1.0, 2.0])}, {"inputs": torch.tensor([3.0])}]
    loader: Any = type("Loader", (list,), {})(batches)
    loader.dataset = type("Data", (list,), {"metainfo": meta})([1, 2, 3])
    monkeypatch.setattr(Runner, "build_dataloader", staticmethod(lambda settings: {"v": loader}[settings]))
    cfg = Config(dict(test_dataloader="v"))
    passed = CheckpointPass.of(cfg, "a.pth", {"x": 1}, "meta")
    assert given == [(cfg, "a.pth", {"x": 1}, "meta")]
    assert (passed.classes, passed.palette) == ((("a", "1"), meta["palette"]) if meta else ((), None))
    for text in (None, "shown"):
        assert list(passed.images(text)) == [(1, 2), (2, 4), (3, 6)]
    found = list(passed.batches())
    assert all(batch is one for one, (batch, _) in zip(batches, found, strict=True))
    assert [samples.tolist() for _, samples in found] == [[2, 4], [6]]
    loader.dataset.clear()
    with pytest.raises(ValueError, match="The split must have at least one image, got none"):
        CheckpointPass.of(cfg, "a.pth", {})
    assert given[1][3] == "cpu"


# ------------------------------------------------------------------ from images to files


class Marks:
    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        return {**results, "loaded": True}


class LoadFile(Marks): ...


class Returns(nn.Module):
    def test_step(self, batch: Any) -> list[Any]:
        assert not torch.is_grad_enabled()
        return [batch]


@pytest.mark.parametrize("first", ["LoadFile", "Marks"])
def test_images_are_upright_and_in_rgb(tmp_path: Path, first: str) -> None:
    picture = Image.new("L", (6, 4), 50)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    picture.save(tmp_path / "a.jpg", exif=exif)
    steps = [
        dict(type=first),
        dict(type="mmseg.LoadAnnotations"),
        dict(type="LoadAnnotations"),
        dict(type="Marks"),
    ]
    dataset = dict(type="Repeat", dataset=dict(type="A", pipeline=steps))
    cfg = Config(dict(test_dataloader=dict(dataset=dataset)))
    args = Namespace(images={"a": tmp_path / "a.jpg"})
    held = {"img", "img_shape", "ori_shape"}
    with registered(TRANSFORMS, Marks), registered(TRANSFORMS, LoadFile):
        ((name, result, image),) = _results(cfg, Returns(), args)
    assert (name, image.shape, image.dtype) == ("a", (6, 4, 3), np.uint8)
    assert abs(image.astype(int) - 50).max() < 5
    assert (result["img_path"], result["loaded"]) == ([str(tmp_path / "a.jpg")], [True])
    assert result.keys() - {"img_path", "loaded"} == (set() if first == "LoadFile" else held)
    if first == "Marks":  # the data set holds its images
        np.testing.assert_array_equal(result["img"][0], image)
        for name in ("img_shape", "ori_shape"):
            assert np.ravel(result[name]).tolist() == [6, 4]
    (tmp_path / "b.png").write_text("text")
    args.images = {"b": tmp_path / "b.png"}
    with (
        registered(TRANSFORMS, Marks),
        registered(TRANSFORMS, LoadFile),
        pytest.raises(ValueError, match=r"`image` '.*b\.png' cannot be read: "),
    ):
        list(_results(cfg, Returns(), args))


@pytest.mark.parametrize("scope", ["mmseg", "mmpretrain"])
def test_predictions_are_written_with_the_classes_of_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, scope: str
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(prediction, "built_model", lambda *given: seen.append(given) or "model")
    monkeypatch.setattr(
        "mmseol.segmentation.predict_upsample_free", lambda model: seen.append("upsample-free")
    )
    results = [("a", {"pred_sem_seg": 1}, "image a"), ("b", {}, "image b")]
    monkeypatch.setattr(prediction, "_results", lambda *given: seen.append(given) or results)
    for name in ("_write_label_map", "_write_class"):
        monkeypatch.setattr(
            prediction, name, lambda *given, name=name: seen.append((name, *given[:4])) or name
        )
    dataset = dict(type="Repeat", dataset=dict(type="Numbers"))
    cfg = Config(dict(default_scope=scope, test_dataloader=dict(dataset=dataset)))
    args = Namespace(unsafe_load=False, checkpoint="a.pth", device="d", out=str(tmp_path / "out"))
    theirs, ours = {"classes": ("x",)}, {"classes": ("y",)}
    monkeypatch.setattr(Numbers, "METAINFO", ours)
    for loaded, meta in (({"meta": {"dataset_meta": theirs}}, theirs), ({"meta": {}}, ours), ({}, ours)):
        args.loaded = loaded
        seen.clear()
        with registered(DATASETS, Numbers):
            run_predict(cfg, args)
        assert seen.pop(0) == (cfg, "a.pth", loaded, "d")
        assert scope == "mmpretrain" or seen.pop(0) == "upsample-free"
        assert seen == [
            (cfg, "model", args),
            ("_write_label_map", *results[0], meta),
            ("_write_class", *results[1], meta),
        ]
    written = (tmp_path / "out" / "predictions.json").read_text()
    assert json.loads(written) == {"a": "_write_label_map", "b": "_write_class"}
    assert capsys.readouterr().out == f"Wrote {tmp_path / 'out'}.\n" * 3
    args.out = str(tmp_path / "one.png")
    with registered(DATASETS, Numbers):
        run_predict(cfg, args)
    assert not (tmp_path / "one.png").exists()  # the picture alone, which is written for the image
