"""The command-line tools on toy data: train, test, predict, resume, several processes, wrong arguments."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import forked_runs
from helpers.tool_runs import TOOLS, call, state_and_difficulty
from mmengine.runner import EpochBasedTrainLoop
from PIL import Image

from mmseol.counting.counts import ClassCounts
from mmseol.segmentation import CamVidDataset

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "quickstart" / "toy_camvid.py"
WORKERS = tuple(f"{split}_dataloader.num_workers=0" for split in ("train", "val", "test"))
NARROW = (
    "model.data_preprocessor.size=(64,64)",
    "model.backbone.stem_channels=8",
    "model.backbone.base_channels=8",
    "model.decode_head.in_channels=(16,32,64)",
    "model.decode_head.jpu_channels=8",
    "model.decode_head.channels=8",
    "model.auxiliary_head.in_channels=32",
)
TINY = (
    "train_cfg.max_epochs=2",
    "train_cfg.val_interval=1",
    "train_dataloader.batch_size=4",
    *WORKERS,
    *NARROW,
    "default_hooks.logger.interval=1",
)


def mean_ious(folder: Path, stage: str) -> list[float]:
    """Return the mIoU of every validation or test in the logs of the runs in ``folder``."""
    text = "".join(path.read_text() for path in sorted(folder.glob("*/*.log")))
    return [float(value) for value in re.findall(rf"Epoch\({stage}\).* mIoU: ([0-9.]+)", text)]


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory):
    """Return the work dir of a finished run."""
    work_dir = tmp_path_factory.mktemp("run") / "outlying"
    with pytest.MonkeyPatch.context() as monkeypatch:
        arguments = (CONFIG, "--loss", "outlying_mse:alpha=2", "--seed", 1, "--data-root", toy)
        call(monkeypatch, "train.py", *arguments, "--work-dir", work_dir, "--cfg-options", *TINY)
    return work_dir


def test_losses_that_follow_the_training_run_with_their_hooks(toy, monkeypatch, tmp_path):
    for loss in ("cdb_ce", "influence_balanced:start_epoch=1,scale=1"):
        work_dir = tmp_path / loss[:3]
        arguments = (CONFIG, "--loss", loss, "--data-root", toy, "--work-dir", work_dir)
        call(monkeypatch, "train.py", *arguments, "--cfg-options", *TINY, f"experiment_name={work_dir}")
    state = torch.load(tmp_path / "inf" / "epoch_2.pth", map_location="cpu", weights_only=False)["state_dict"]
    assert state["decode_head.conv_seg.weight"].isfinite().all()
    state, expected = state_and_difficulty(tmp_path / "cdb")
    for head in ("decode_head", "auxiliary_head"):
        assert state[f"{head}.loss_decode.class_difficulty"].tolist() == pytest.approx(expected)


def best(work_dir: Path) -> Path:
    (checkpoint,) = work_dir.glob("best_mIoU_epoch_*.pth")
    return checkpoint


def test_training_leaves_checkpoints_with_the_counts_of_the_data(trained, toy):
    labels = [np.asarray(Image.open(path)) for path in sorted((toy / "trainannot").iterdir())]
    expected = [sum(int((label == k).sum()) for label in labels) for k in range(11)]
    assert ClassCounts.load(trained / "class_counts.json").samples.tolist() == expected
    state = torch.load(trained / "epoch_2.pth", map_location="cpu", weights_only=False)["state_dict"]
    for head in ("decode_head", "auxiliary_head"):
        assert state[f"{head}.loss_decode.class_counts"].tolist() == expected
        assert state[f"{head}.loss_decode.class_totals"].sum() > 0


def test_test_reproduces_the_best_validation_score(trained, toy, monkeypatch, tmp_path):
    scores = mean_ious(trained, "val")
    assert len(scores) == 2
    arguments = (CONFIG, best(trained), "--data-root", toy, "--loss", "outlying_mse:alpha=2")
    before = sorted(path.name for path in trained.glob("*.p*"))
    call(
        monkeypatch, "test.py", *arguments, "--work-dir", tmp_path / "val", "--cfg-options", *WORKERS, *NARROW
    )
    assert mean_ious(tmp_path / "val", "test") == [max(scores)]
    assert sorted(path.name for path in trained.glob("*.p*")) == before

    outputs = ("--out", tmp_path / "maps", "--work-dir", tmp_path / "test", "--split", "test", "--tta")
    call(monkeypatch, "test.py", *arguments, *outputs, "--cfg-options", *WORKERS, *NARROW)
    (score,) = mean_ious(tmp_path / "test", "test")
    assert score > 0
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {p.name for p in (toy / "test").iterdir()}
    with pytest.raises(SystemExit):
        call(monkeypatch, "test.py", *arguments, *outputs, "--cfg-options", *WORKERS, *NARROW)


def test_predict_draws_over_the_image(trained, toy, monkeypatch, tmp_path, capsys):
    image = sorted((toy / "test").iterdir())[0]
    arguments = (CONFIG, best(trained), image, "--out", tmp_path / "picture.png")
    call(monkeypatch, "predict.py", *arguments, "--cfg-options", *NARROW)
    picture = np.asarray(Image.open(tmp_path / "picture.png"))
    assert picture.shape == (64, 80, 3)
    assert (picture != np.asarray(Image.open(image))).any()
    with pytest.raises(SystemExit):
        call(monkeypatch, "predict.py", *arguments, "--cfg-options", *NARROW)
    assert "exists; name another file" in capsys.readouterr().err


def test_predict_writes_the_label_maps_of_a_test(trained, toy, monkeypatch, tmp_path):
    options = ("--loss", "outlying_mse:alpha=2", "--data-root", toy)
    maps = ("--split", "test", "--out", tmp_path / "maps", "--work-dir", tmp_path / "test")
    tiny = (*WORKERS, *NARROW, f"experiment_name={tmp_path.name}")
    call(monkeypatch, "test.py", CONFIG, best(trained), *options, *maps, "--cfg-options", *tiny)
    out = tmp_path / "predicted"
    shutil.copytree(toy / "test", tmp_path / "images" / "nested")
    arguments = (tmp_path / "images", "--out", out, "--scores", "--cfg-options", *NARROW)
    call(monkeypatch, "predict.py", CONFIG, best(trained), *arguments)
    names = sorted(path.stem for path in (toy / "test").iterdir())
    shares = json.loads((out / "predictions.json").read_text())
    assert sorted(shares) == [f"nested/{name}" for name in names]
    for name in names:
        labels = np.asarray(Image.open(out / "label_maps" / "nested" / f"{name}.png"))
        assert (labels == np.asarray(Image.open(tmp_path / "maps" / f"{name}.png"))).all()
        with np.load(out / "scores" / "nested" / f"{name}.npz") as file:
            assert (file["scores"].argmax(0) == labels).all()
        assert np.asarray(Image.open(out / "overlays" / "nested" / f"{name}.png")).shape == (64, 80, 3)
        assert sum(shares[f"nested/{name}"].values()) == pytest.approx(100, abs=0.1)
    (tmp_path / "images" / "nested" / "broken.png").write_bytes(b"no image")
    with pytest.raises(SystemExit):
        call(monkeypatch, "predict.py", CONFIG, best(trained), tmp_path / "images", "--out", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_weights_of_another_program_are_predicted_with_the_classes_of_the_data_set(
    trained, toy, monkeypatch, tmp_path
):
    state = torch.load(best(trained), map_location="cpu", weights_only=False)["state_dict"]
    torch.save(state, tmp_path / "weights.pth")
    image = sorted((toy / "test").iterdir())[0]
    arguments = (
        CONFIG,
        tmp_path / "weights.pth",
        image,
        "--out",
        tmp_path / "new",
        "--cfg-options",
        *NARROW,
    )
    call(monkeypatch, "predict.py", *arguments)
    (shares,) = json.loads((tmp_path / "new" / "predictions.json").read_text()).values()
    assert shares
    assert set(shares) <= set(CamVidDataset.METAINFO["classes"])


def test_a_checkpoint_of_cosines_is_not_predicted_with_a_plain_classifier(toy, monkeypatch, tmp_path, capsys):
    arguments = (CONFIG, "--loss", "ldam", "--data-root", toy, "--work-dir", tmp_path / "run")
    wrapped = [option.replace("_head.", "_head.head.") for option in NARROW]  # by --loss ldam
    tiny = (*TINY[:6], *wrapped, "train_cfg.max_epochs=1", f"experiment_name={tmp_path.name}")
    call(monkeypatch, "train.py", *arguments, "--cfg-options", *tiny)
    image = sorted((toy / "test").iterdir())[0]
    arguments = (CONFIG, tmp_path / "run" / "epoch_1.pth", image, "--out", tmp_path / "a.png")
    with pytest.raises(SystemExit):
        call(monkeypatch, "predict.py", *arguments, "--cfg-options", *NARROW)
    assert "was trained with mmseol.CosineClassifierHead" in capsys.readouterr().err
    call(monkeypatch, "predict.py", *arguments, "--loss", "ldam", "--cfg-options", *wrapped)
    assert (tmp_path / "a.png").is_file()


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_work_dir_with_a_run_is_left_alone(trained, toy, monkeypatch, capsys):
    before = files(trained)
    arguments = (CONFIG, "--data-root", toy, "--work-dir", trained, "--cfg-options", *TINY)
    with pytest.raises(SystemExit):
        call(monkeypatch, "train.py", *arguments)
    assert "already holds a run" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        call(monkeypatch, "train.py", "--loss", "ce", *arguments, "--resume")
    assert "holds a run of another model, loss, imbalance or data" in capsys.readouterr().err
    assert files(trained) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--loss", "mes"], "`--loss` must name one of "),
        (["--loss", "outlying_mse:alpha=-1"], "`alpha` must be a finite number above 0, got -1"),
        (["--data-root", "nowhere"], "`--data-root` must be an existing folder, got 'nowhere'"),
        (["--amp"], "`--amp` needs a GPU"),
    ],
)
def test_wrong_arguments_end_at_the_door(arguments, message, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as error:
        call(monkeypatch, "train.py", CONFIG, *arguments, "--work-dir", tmp_path / "new")
    assert error.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_missing_data_is_named(monkeypatch, tmp_path):
    (tmp_path / "empty").mkdir()
    arguments = ("--data-root", tmp_path / "empty", "--work-dir", tmp_path / "new", "--cfg-options", *TINY)
    with pytest.raises(SystemExit, match=r"^error: .*empty.*train"):
        call(monkeypatch, "train.py", CONFIG, *arguments)


def test_label_out_of_range_names_its_file(monkeypatch, toy, tmp_path):
    shutil.copytree(toy, tmp_path / "toy")
    bad = sorted((tmp_path / "toy" / "trainannot").iterdir())[3]
    label = np.asarray(Image.open(bad)).copy()
    label[5, 5] = 12
    Image.fromarray(label).save(bad)
    arguments = ("--data-root", tmp_path / "toy", "--work-dir", tmp_path / "new", "--cfg-options", *TINY)
    named = rf"{re.escape(bad.name)}.*12|12.*{re.escape(bad.name)}"
    with pytest.raises(SystemExit, match=rf"^error: .*({named})"):
        call(monkeypatch, "train.py", CONFIG, *arguments)


def test_a_failed_download_names_the_weights(monkeypatch, toy, tmp_path):
    pretrained = "model.pretrained=http://127.0.0.1:9/none.pth"
    arguments = ("--data-root", toy, "--work-dir", tmp_path / "new", "--cfg-options", *TINY, pretrained)
    with pytest.raises(
        SystemExit, match=r"could not download http://127.0.0.1:9/none.pth.*\n.*pretrained=None"
    ):
        call(monkeypatch, "train.py", CONFIG, *arguments)


def train_until_killed(monkeypatch, *arguments):
    """Train, and kill the process in the middle of the second epoch of six iterations."""
    run_iter = EpochBasedTrainLoop.run_iter

    def killed(loop, *args):
        if loop.iter == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        run_iter(loop, *args)

    monkeypatch.setattr(EpochBasedTrainLoop, "run_iter", killed)
    call(monkeypatch, "train.py", *arguments)


def test_a_killed_run_resumes_with_its_counts_and_finishes(toy, monkeypatch, tmp_path):
    work_dir = tmp_path / "run"
    arguments = (CONFIG, "--loss", "outlying_mse", "--seed", 1, "--data-root", toy, "--work-dir", work_dir)
    options = (*TINY, "train_dataloader.batch_size=2", "train_cfg.max_epochs=3")
    options = ("--cfg-options", *options, f"experiment_name={tmp_path.name}")
    process = forked_runs.start(train_until_killed, monkeypatch, *arguments, *options)
    assert forked_runs.status_of(process, 120) == -signal.SIGKILL
    assert (work_dir / "epoch_1.pth").exists()
    assert not (work_dir / "epoch_2.pth").exists()

    call(monkeypatch, "train.py", *arguments, "--resume", *options)
    assert "resumed epoch: 1" in "".join(path.read_text() for path in work_dir.glob("*/*.log"))
    counts = [torch.load(work_dir / f"epoch_{k}.pth", weights_only=False)["state_dict"] for k in (2, 3)]
    expected = ClassCounts.load(work_dir / "class_counts.json").samples.tolist()
    for state in counts:
        assert state["decode_head.loss_decode.class_counts"].tolist() == expected


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_two_processes_count_train_and_test_as_one(trained, toy, tmp_path):
    def run(*command: object) -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            environ = {**environment(), "PORT": str(free.getsockname()[1])}
        result = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, env=environ, timeout=240
        )
        assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
        return result.stdout + result.stderr

    shared = ("--data-root", toy, "--loss", "outlying_mse:alpha=2")
    work_dir = tmp_path / "two"
    run(
        "bash",
        TOOLS / "dist_train.sh",
        CONFIG,
        2,
        *shared,
        "--work-dir",
        work_dir,
        "--seed",
        1,
        "--cfg-options",
        *TINY,
    )
    assert ClassCounts.load(work_dir / "class_counts.json") == ClassCounts.load(trained / "class_counts.json")
    arguments = ("--work-dir", tmp_path / "test", "--cfg-options", *WORKERS, *NARROW)
    run("bash", TOOLS / "dist_test.sh", CONFIG, best(trained), 2, *shared, *arguments)
    assert mean_ious(tmp_path / "test", "test") == [max(mean_ious(trained, "val"))]
