"""Hooks that show a run while it trains: a real run of two processes, and what may go wrong."""

from __future__ import annotations

import json
import logging
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.forked_runs import start, status_of
from helpers.tiny_runner import TinyModel, log_of, outlying, tiny_runner
from mmengine.structures import BaseDataElement, PixelData

from mmseol.__main__ import main
from mmseol.analysis.live import (
    ClassScalarsHook,
    PredictionPicturesHook,
    ReportHook,
    class_scalars,
    report_hook,
)
from mmseol.analysis.live.class_scalars import scalar_names
from mmseol.analysis.live.prediction_pictures import picture_of

CONFIG = """_base_ = ["quickstart/digits.py", "_base_/live.py"]
default_hooks = {{_base_.live_hooks}}
visualizer = dict(vis_backends=[{{_base_.live_backends.local}}, {{_base_.live_backends.tensorboard}}])
"""


def train(rank: int, port: int, config: Path, work_dir: Path) -> None:
    """Run the command as one of two processes, without its output."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    with open(work_dir.with_suffix(f".{rank}.log"), "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    visualizers = pytest.importorskip("mmpretrain.visualization").UniversalVisualizer
    visualizers._instance_dict.clear()  # mmengine takes that of an earlier run of this process again
    options = ["--seed", "1", "--launcher", "pytorch", "--work-dir", str(work_dir)]
    options += ["--cfg-options", "train_cfg.max_epochs=2", "train_cfg.val_interval=1"]
    main("train", [str(config), *options])


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory) -> Path:
    """Return the work directory of a run of two processes."""
    pytest.importorskip("mmpretrain")
    folder = tmp_path_factory.mktemp("live")
    (folder / "leaf.py").write_text(CONFIG)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    ranks = [start(train, rank, port, folder / "leaf.py", folder / "run") for rank in range(2)]
    logs = [folder / f"run.{rank}.log" for rank in range(2)]
    for rank, log in zip(ranks, logs, strict=True):
        assert status_of(rank, timeout=240) == 0, log.read_text()[-3000:]
    return folder / "run"


def events(work_dir: Path) -> Any:
    """Return TensorBoard's reader of the only event file."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (path,) = work_dir.rglob("events.out.tfevents.*")
    reader = EventAccumulator(str(path), size_guidance={"images": 0, "scalars": 0})
    return reader.Reload()


def test_two_processes_write_one_set_of_scalars(work_dir):
    reader = events(work_dir)
    evaluations = {
        record["epoch"]: record
        for path in work_dir.glob("*/class_scores_val_*.json")
        for record in [json.loads(path.read_text())]
    }
    assert sorted(evaluations) == [1, 2]
    written = set(reader.Tags()["scalars"])
    rows = evaluations[2]["classes"]
    assert {f"{score}.{row['class']}" for row in rows for score in ("IoU", "recall")} <= written
    assert {"few/accuracy", "many/accuracy", "accuracy"} <= written
    for place, row in enumerate(rows):
        scalars = [(event.step, event.value) for event in reader.Scalars(f"recall.{row['class']}")]
        assert [step for step, _ in scalars] == [1, 2]
        for step, value in scalars:
            assert value == pytest.approx(evaluations[step]["classes"][place]["recall"])


def test_two_processes_write_one_set_of_pictures_of_the_same_images(work_dir):
    reader = events(work_dir)
    tags = reader.Tags()["images"]
    assert len(tags) == 4
    assert all(tag.startswith("prediction_") for tag in tags)
    assert [[event.step for event in reader.Images(tag)] for tag in tags] == [[1, 2]] * 4
    files = sorted(path.name for path in work_dir.glob("*/vis_data/vis_image/*"))
    assert files == sorted(f"{tag}_{step}.png" for tag in tags for step in (1, 2))


def test_the_report_is_drawn_at_the_end(work_dir):
    page = (work_dir / "report.html").read_text()
    assert page.count("prediction") >= 4
    assert "test_live" not in page
    facts = json.loads(next(work_dir.glob("*/command.json")).read_text())
    assert "--seed 1 --launcher pytorch" in facts["command"]
    assert facts["environment"]["versions"]["torch"]


# ------------------------------------------------------------------ report


def test_a_report_that_fails_does_not_lose_the_training(tmp_path, monkeypatch):
    def fail(*_: Any) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr(report_hook, "_write", fail)
    runner = tiny_runner(tmp_path, TinyModel([outlying()], [outlying()]))
    runner.register_hook(ReportHook())
    runner.train()
    assert "The report was not drawn: RuntimeError: no font" in log_of(runner)
    assert (tmp_path / "epoch_1.pth").is_file()


def test_a_run_without_validation_has_a_report_and_a_page_of_others_is_kept(tmp_path):
    runner = tiny_runner(tmp_path, TinyModel([outlying()], [outlying()]))
    runner.register_hook(ReportHook())
    runner.register_hook(ReportHook("mine.html"))
    (tmp_path / "mine.html").write_text("mine")
    runner.train()
    assert "There are no scores of classes" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "mine.html").read_text() == "mine"
    assert "is a file of something else" in log_of(runner)
    ReportHook().after_run(runner)  # its own page is replaced
    with pytest.raises(ValueError, match=r"ends in \.html"):
        ReportHook("report.pdf")


# ----------------------------------------------------------------- scalars


class Backend:
    """Backend that keeps what it is given."""

    def __init__(self) -> None:
        self.images: list[tuple[str, int]] = []

    def add_image(self, name: str, image: Any, step: int) -> None:
        self.images.append((name, step))


class MLflowVisBackend(Backend):
    """Stands in for mmengine's."""


def loop(metric: Any) -> Any:
    return SimpleNamespace(evaluator=SimpleNamespace(metrics=[metric]))


def test_scalars_leave_out_missing_scores_and_are_of_the_rarest_classes():
    scores = {"road": (900, 90.0), "bus/tram": (9, 8.0), "car": (90, None), "pole": (99, 7.0)}
    rows = [{"class": name, "training": count, "IoU": score} for name, (count, score) in scores.items()]
    kept: list[Any] = []
    visualizer = SimpleNamespace(add_scalars=lambda scalars, step: kept.append((scalars, step)))
    metric = SimpleNamespace(class_rows=rows, prefix="x")
    runner = SimpleNamespace(val_loop=loop(metric), visualizer=visualizer, _train_loop={}, hooks=[])
    ClassScalarsHook(scores=["IoU"], at_most=3).after_val_epoch(runner)
    ClassScalarsHook(scores=["IoU"], separator="/").after_val_epoch(runner)
    assert kept[0] == ({"x/IoU.bus_tram": 8.0, "x/IoU.pole": 7.0}, 0)
    assert list(kept[1][0]) == ["x/IoU/road", "x/IoU/bus_tram", "x/IoU/pole"]


def test_other_metrics_have_no_scalars_and_one_warning(monkeypatch):
    said: list[tuple[str, int]] = []
    monkeypatch.setattr(class_scalars, "print_log", lambda text, logger, level: said.append((text, level)))
    hook = ClassScalarsHook()
    for _ in range(2):
        hook.after_val_epoch(SimpleNamespace(val_loop=loop(SimpleNamespace(prefix=None))))
    assert said == [(class_scalars._NO_ROWS, logging.WARNING)]
    with pytest.raises(ValueError, match="`scores` must be one of"):
        ClassScalarsHook(scores=["Iou"])


def test_names_of_scalars_are_what_mlflow_takes():
    names = scalar_names(["Straße", "a:b", "a;b", "x" * 3, "été (1)"])
    assert len(set(names)) == 5
    assert all(name.replace("_", "").replace("-", "").replace(".", "").isascii() for name in names)
    assert names[1:3] == ["a_b", "a_b_2"]


# ---------------------------------------------------------------- pictures


def segmented(path: str, truth: bool = True) -> BaseDataElement:
    labels = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 255]]])
    maps = {"pred_sem_seg": PixelData(data=torch.zeros_like(labels))}
    maps |= {"gt_sem_seg": PixelData(data=labels)} if truth else {}
    return BaseDataElement(metainfo={"img_path": path}, **maps)


def test_a_picture_has_the_image_the_truth_and_the_prediction():
    meta = {"classes": ["road", "car"], "palette": [[200, 0, 0], [0, 200, 0]]}
    picture = picture_of(np.zeros((4, 8, 3), np.uint8), segmented("a.png"), meta)
    factor = -(-160 // 20)  # three panels of 4 and two gaps of 4 columns, enlarged to 160
    small = picture[: 2 * factor : factor, ::factor]
    assert small[0, :4].tolist() == [[0, 0, 0]] * 4
    assert small[0, 8:12].tolist() == [[150, 0, 0]] * 2 + [[0, 150, 0]] * 2
    assert small[1, 11].tolist() == [191, 191, 191]  # void
    assert small[0, 16:].tolist() == [[150, 0, 0]] * 4
    alone = picture_of(np.zeros((2, 4, 3), np.uint8), segmented("a.png", truth=False), {})
    assert alone is not None
    assert picture_of(np.zeros((2, 4, 3), np.uint8), BaseDataElement(), {}) is None


def test_pictures_are_of_the_chosen_images_in_the_channels_of_rgb():
    infos = [{"img_path": f"{i}.png"} for i in range(9)]

    class Images:
        get_data_info = staticmethod(infos.__getitem__)

        def __len__(self) -> int:
            return 9

    backends = {"a": Backend(), "b": MLflowVisBackend()}
    visualizer = SimpleNamespace(_vis_backends=backends, dataset_meta={"classes": ["road", "car"]})
    model = SimpleNamespace(data_preprocessor=SimpleNamespace(channel_conversion=True))
    loader = SimpleNamespace(dataset=Images())
    runner = SimpleNamespace(
        val_dataloader=loader, visualizer=visualizer, model=model, _train_loop={}, hooks=[]
    )
    hook = PredictionPicturesHook(number=3, interval=2)
    blue = torch.zeros(3, 2, 4, dtype=torch.uint8)
    blue[0] = 200  # BGR
    for _ in range(2):
        hook.before_val_epoch(runner)
        for i in range(9):
            hook.after_val_iter(runner, i, {"inputs": [blue]}, [segmented(f"{i}.png")])
        if hook._drawn:
            assert hook._drawn[0][1][0, 0].tolist() == [0, 0, 200]
        hook.after_val_epoch(runner)
    assert backends["a"].images == [("prediction_0", 0), ("prediction_4", 0), ("prediction_8", 0)]
    assert backends["b"].images == [(f"prediction_{i}_0.png", 0) for i in (0, 4, 8)]
    with pytest.raises(ValueError, match="indices below 9"):
        PredictionPicturesHook(images=[9]).before_val_epoch(runner)
