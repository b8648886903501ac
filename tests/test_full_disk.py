"""Every kind of file on a disk without space: an error that names it, and the folder as it was before."""

from __future__ import annotations

import errno
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.full_disk import filled, limited, small_disk
from helpers.metric_samples import map_sample
from helpers.small_data import LabelDataset
from helpers.tiny_runner import TinyModel, tiny_runner
from mmengine.structures import PixelData
from PIL import Image

from mmseol.analysis.figures.side_by_side import comparison_grid
from mmseol.camvid.convert import convert_color, convert_segnet
from mmseol.camvid.toy import make_toy
from mmseol.classifiers.checkpoints import adjust_checkpoint
from mmseol.counting import cache
from mmseol.counting.counts import ClassCounts
from mmseol.datasets import ImbalancedDataset
from mmseol.experiment.class_predictions import ClassPredictions
from mmseol.experiment.prediction import _write_class, _write_label_map
from mmseol.experiment.work_dir import lock_work_dir
from mmseol.metrics import SegClassBalanceMetric
from mmseol.metrics.class_scores import write_scores
from mmseol.utils.files import disk_is_full

RNG = np.random.default_rng(0)
CLASSES = tuple(f"class {k}" for k in range(3000))
NOISE = RNG.integers(0, 256, (120, 120, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 250, (120, 120))


def counts(folder: Path, source: Path) -> None:
    ClassCounts(*[RNG.integers(1, 100, 3000)] * 3).save(folder / "class_counts.json")


def kept_indices(folder: Path, source: Path) -> None:
    ImbalancedDataset(LabelDataset([0, 1, 2, 3] * 500), ratio=2, indices_file=folder / "kept.json")


def scores(folder: Path, source: Path) -> None:
    rows = [{"class": name, "recall": 50.0} for name in CLASSES]
    write_scores(folder, {"stage": "val", "epoch": 3, "iter": 30}, None, {"classes": rows})


def adjusted(folder: Path, source: Path) -> None:
    adjust_checkpoint(source / "a.pth", folder / "b.pth", "tau_norm", 1.0)


def picture(folder: Path, source: Path) -> None:
    palette = RNG.integers(0, 255, (250, 3))[:5]
    comparison_grid(folder / "grid.png", [NOISE], [LABELS % 5], {}, CLASSES[:5], palette, dpi=80)


def label_map_of_a_test(folder: Path, source: Path) -> None:
    metric = SegClassBalanceMetric(output_dir=folder / "maps")
    metric.dataset_meta = {"classes": CLASSES[:250]}
    metric.process({}, [map_sample(LABELS, LABELS).to_dict()])


def classes_of_a_test(folder: Path, source: Path) -> None:
    writer = ClassPredictions(CLASSES, str(folder), None, bgr=False)
    result = {"pred_label": torch.tensor(1), "pred_score": torch.tensor([0.25, 0.75])}
    writer.process({}, [result] * 100)
    writer.evaluate(size=100)


def picture_of_a_test(folder: Path, source: Path) -> None:
    writer = ClassPredictions(CLASSES, None, str(folder), bgr=False)
    result = {"pred_label": torch.tensor(1), "pred_score": torch.tensor([0.25, 0.75])}
    writer.process({"inputs": [torch.from_numpy(NOISE).permute(2, 0, 1)]}, [result])


def predicted_label_map(folder: Path, source: Path) -> None:
    result = SimpleNamespace(
        pred_sem_seg=PixelData(data=torch.from_numpy(LABELS)[None]),
        seg_logits=PixelData(data=torch.rand(3, 120, 120)),
    )
    meta = {"classes": CLASSES[:250], "palette": RNG.integers(0, 255, (250, 3))}
    _write_label_map("a", result, NOISE, meta, Namespace(out=str(folder), scores=True, opacity=0.5))


def predicted_scores(folder: Path, source: Path) -> None:
    result = SimpleNamespace(pred_score=torch.rand(5000), pred_label=torch.tensor(3))
    small = np.zeros((8, 8, 3), dtype=np.uint8)
    _write_class("a", result, small, {}, Namespace(out=str(folder), scores=True))


def checkpoint(folder: Path, source: Path) -> None:
    loss = {"type": "mmseol.CrossEntropyLoss"}
    hook = {"type": "mmseol.WholeCheckpointHook", "interval": 1, "out_dir": str(folder)}
    options = {"default_hooks": {"checkpoint": hook}, "custom_hooks": []}
    tiny_runner(source / f"{RNG.integers(10**9)}", TinyModel([loss], [loss]), **options).train()


def segnet(folder: Path, source: Path) -> None:
    convert_segnet(source / "CamVid", folder / "camvid", ["val"], sizes=None)


def original_colors(folder: Path, source: Path) -> None:
    convert_color(source, source, source, folder / "camvid", ["train"], sizes=None)


def toy(folder: Path, source: Path) -> None:
    make_toy(folder / "camvid", 2, 0, 0, (96, 96), 0)


# Each with the file or folder that its error names, and whether it replaces one of before.
KINDS: dict[Callable[[Path, Path], None], tuple[str, bool]] = {
    counts: ("class_counts.json", True),
    kept_indices: ("kept.json", False),
    scores: ("class_scores_val_epoch_3", False),
    adjusted: ("b.pth", False),
    picture: ("grid.png", False),
    label_map_of_a_test: ("maps/a.png", True),
    classes_of_a_test: ("predictions.json", True),
    picture_of_a_test: (".png", True),
    predicted_label_map: ("a.png", True),
    predicted_scores: ("a.", True),
    checkpoint: ("epoch_1.pth", True),
    segnet: ("camvid", False),
    original_colors: ("camvid", False),
    toy: ("camvid", False),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what is read: a checkpoint, and CamVid in both of its layouts."""
    folder = tmp_path_factory.mktemp("source")
    state = {"head.fc.weight": torch.randn(100, 50), "backbone.weight": torch.randn(2000)}
    torch.save({"meta": {}, "state_dict": state}, folder / "a.pth")
    make_toy(folder / "CamVid", 0, 2, 0, (96, 96), 0)
    for name in ("b.png", "b_L.png"):
        pixels = np.full_like(NOISE, (128, 64, 128)) if "L" in name else NOISE
        Image.fromarray(pixels).resize((240, 240), 0).save(folder / name)
    (folder / "train.txt").write_text("b")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "filler"
    }


def check(
    write: Callable[[Path, Path], None], folder: Path, source: Path, fault: Callable[[], object]
) -> None:
    name, replaces = KINDS[write]
    (folder / "other.txt").write_text("other")
    if replaces:
        write(folder, source)
    before = files(folder)
    with pytest.raises(OSError) as error, fault():  # noqa: PT011  (its number and its path are checked)
        write(folder, source)
    assert disk_is_full(error.value)
    assert str(folder) in str(error.value)
    assert name in str(error.value)
    assert ".tmp" not in str(error.value)
    after = files(folder)
    if write in (predicted_label_map, predicted_scores):  # the first of several files may be whole
        after = {**after, **{key: before[key] for key in set(after) & set(before) if "scores" not in key}}
    assert after == before
    write(folder, source)
    assert files(folder) != before or replaces


@pytest.mark.parametrize("write", KINDS, ids=lambda write: write.__name__)
@pytest.mark.parametrize("free", [0, 1])
def test_a_full_disk(write: Callable[[Path, Path], None], free: int, source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    with small_disk(folder):
        check(write, folder, source, lambda: filled(folder, free))


# A Runner writes its log, too, which the limit holds for.
@pytest.mark.parametrize("write", KINDS.keys() - {checkpoint}, ids=lambda write: write.__name__)
@pytest.mark.parametrize("free", [0, 1])
def test_a_limit_on_files(
    write: Callable[[Path, Path], None], free: int, source: Path, tmp_path: Path
) -> None:
    """The same where no file system can be mounted."""
    check(write, tmp_path, source, lambda: limited(free))


@pytest.mark.parametrize("free", [0, 1])
def test_counts_that_cannot_be_cached_are_a_warning(free: int, tmp_path: Path) -> None:
    table = np.tile(RNG.integers(1, 9, 5000)[:, None], 13) * [*[1] * 10, 100, 1, 1]
    cache.write(tmp_path / "a.npz", table)
    before = files(tmp_path)
    for name in ("a.npz", "b.npz"):
        with (
            pytest.warns(UserWarning, match=f"could not be cached in {tmp_path}"),
            limited(free),
        ):
            cache.write(tmp_path / name, table)
    assert files(tmp_path) == before
    assert np.array_equal(cache.read(tmp_path / "a.npz", 5000, 10), table)


def test_scores_are_written_in_both_formats_or_in_none(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    with small_disk(folder):
        scores(folder, tmp_path)
        size = (folder / "class_scores_val_epoch_3.json").stat().st_size
        for path in folder.iterdir():
            path.unlink()
        with pytest.raises(OSError, match=r"class_scores_val_epoch_3\.csv"), filled(folder, size // 4096 + 1):
            scores(folder, tmp_path)
        assert not list(folder.iterdir())


def test_a_work_directory_is_held_without_space(tmp_path: Path) -> None:
    with limited(0), lock_work_dir(tmp_path), pytest.raises(ValueError, match="in use by another process"):
        lock_work_dir(tmp_path).__enter__()
    with lock_work_dir(tmp_path):
        assert "process" in (tmp_path / ".run.lock").read_text()


def test_other_errors_are_no_full_disk() -> None:
    assert [disk_is_full(OSError(number, "")) for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO)] == [
        True,
        True,
        False,
    ]
