"""The command-line tools on digits: cut, train, fit the temperature, test; wrong arguments."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.payload import Payload
from helpers.small_data import write_class_folders
from helpers.tool_runs import call, state_and_difficulty
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image

from mmseol.__main__ import COMMANDS
from mmseol.analysis.subcommands import ANALYSES
from mmseol.counting.counts import ClassCounts
from mmseol.experiment.work_dir import lock_work_dir

pytest.importorskip("mmpretrain")

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "quickstart" / "digits.py"
EPOCHS = "train_cfg.max_epochs=2"
TINY = (EPOCHS, "train_cfg.val_interval=1", "default_hooks.logger.interval=1")
LOSS = ("--loss", "outlying_mse:alpha=2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the work dir of a finished run on digits cut by steps."""
    work_dir = tmp_path_factory.mktemp("digits") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        arguments = (CONFIG, *LOSS, "--imbalance", "step:10", "--seed", 1, "--work-dir", work_dir)
        call(monkeypatch, "train.py", *arguments, "--cfg-options", *TINY)
    return work_dir


def best(work_dir: Path) -> Path:
    (checkpoint,) = work_dir.glob("best_accuracy_epoch_*.pth")
    return checkpoint


def test_training_data_are_cut_and_counted(trained: Path) -> None:
    counts = ClassCounts.load(trained / "class_counts.json").samples
    assert len(set(counts[:5])) == len(set(counts[5:])) == 1
    assert counts[5] == counts[0] // 10
    state = torch.load(best(trained), map_location="cpu", weights_only=False)["state_dict"]
    assert state["head.loss_module.class_counts"].tolist() == counts.tolist()
    assert state["head.temperature"] != 1


def test_test_reproduces_the_best_validation_score(trained, monkeypatch, tmp_path) -> None:
    for split in ("val", "test"):
        arguments = (CONFIG, best(trained), *LOSS, "--split", split, "--work-dir", tmp_path / split)
        # Two runs of one process that begin in the same second would share their logger.
        call(monkeypatch, "test.py", *arguments, "--cfg-options", f"experiment_name={split}_{tmp_path.name}")
    (path,) = trained.glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    validated = [line["accuracy"] for line in lines if "accuracy" in line]
    (path,) = (tmp_path / "val").glob("*/class_scores_test.json")
    assert json.loads(path.read_text())["scores"]["accuracy"] == max(validated)
    (path,) = (tmp_path / "test").glob("*/class_scores_test.json")
    scores = json.loads(path.read_text())["scores"]
    assert {"accuracy", "macro_f1", "worst_class", "many/accuracy", "few/accuracy"} <= scores.keys()


@pytest.mark.parametrize("method", ["crt", "lws"])
def test_second_stage_trains_the_classifier_alone(method, trained, monkeypatch, tmp_path) -> None:
    options = ("train_cfg.max_epochs=1", "train_cfg.val_interval=1", "default_hooks.checkpoint.interval=1")
    arguments = (CONFIG, *LOSS, "--imbalance", "step:10", "--seed", 1, "--work-dir", tmp_path / "stage_two")
    stage_two = ("--retrain-classifier", method, best(trained))
    name = f"experiment_name={method}_{tmp_path.name}"
    call(monkeypatch, "train.py", *arguments, *stage_two, "--cfg-options", *options, name)
    paths = (best(trained), tmp_path / "stage_two" / "epoch_1.pth")
    old, new = (torch.load(path, map_location="cpu", weights_only=False)["state_dict"] for path in paths)
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed - {"head.temperature"} == {"head.fc.weight", "head.fc.bias"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--imbalance", "stairs:10"], "`profile` must be one of 'long_tailed', 'step', got 'stairs'"),
        (["--imbalance", "step"], "`--imbalance` must be PROFILE:RATIO[:key=value,...], got 'step'"),
        (
            ["--retrain-classifier", "ncm", "a.pth"],
            "`--retrain-classifier` must be one of 'crt', 'lws', got 'ncm'",
        ),
        (["--loss", "outlying_mse:alpha=0"], "`alpha` must be a finite number above 0, got 0"),
    ],
)
def test_wrong_arguments_end_at_the_door(arguments, message, monkeypatch, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as error:
        call(monkeypatch, "train.py", CONFIG, *arguments, "--work-dir", tmp_path / "new")
    assert error.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_head_with_other_classes_than_the_data_is_refused(monkeypatch, tmp_path) -> None:
    arguments = (CONFIG, "--loss", "ce", "--work-dir", tmp_path / "new", "--cfg-options", *TINY)
    with pytest.raises(
        SystemExit, match=r"^error: .*`num_classes` must be the same.*11 from head.*10 from the data set"
    ):
        call(monkeypatch, "train.py", *arguments, "model.head.num_classes=11")


def planted(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the checkpoint with code in it."""
    checkpoint = torch.load(best(trained), map_location="cpu", weights_only=False)
    checkpoint["meta"]["payload"] = Payload(tmp_path / "planted")
    torch.save(checkpoint, tmp_path / "evil.pth")
    return tmp_path / "evil.pth"


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("test.py", [CONFIG, "EVIL", *LOSS, "--work-dir", "WORK"]),
        ("predict.py", [CONFIG, "EVIL", "IMAGE", "--out", "WORK/a.png"]),
        ("tune_decision.py", [CONFIG, "EVIL", *LOSS, "--out", "WORK"]),
        ("adjust_classifier.py", ["EVIL", "--method", "tau_norm", "--tau", "1", "--out", "WORK"]),
        ("train.py", [CONFIG, *LOSS, "--retrain-classifier", "crt", "EVIL", "--work-dir", "WORK"]),
        ("train.py", [CONFIG, *LOSS, "--work-dir", "WORK", "--cfg-options", *TINY, "load_from=EVIL"]),
        ("train.py", [CONFIG, *LOSS, "--work-dir", "WORK", "--resume", "EVIL", "--cfg-options", *TINY]),
    ],
    ids=["test", "predict", "tune", "adjust", "retrain", "load_from", "resume"],
)
def test_no_tool_runs_code_of_a_checkpoint(tool, arguments, trained, monkeypatch, tmp_path, capsys) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    words = {"EVIL": planted(trained, tmp_path), "WORK": tmp_path / "work", "IMAGE": tmp_path / "image.png"}
    filled = []
    for argument in map(str, arguments):
        for word, path in words.items():
            argument = argument.replace(word, str(path))
        filled.append(argument)
    with pytest.raises(SystemExit) as error:
        call(monkeypatch, tool, *filled)
    assert "--unsafe-load" in str(error.value) + capsys.readouterr().err
    assert not (tmp_path / "planted").exists()
    if tool in ("predict.py", "adjust_classifier.py"):
        call(monkeypatch, tool, *filled, "--unsafe-load")
        assert (tmp_path / "planted").exists()


@pytest.mark.parametrize("tool", ["test.py", "predict.py"])
def test_a_checkpoint_with_other_classes_is_refused(tool, trained, monkeypatch, tmp_path) -> None:
    """mmengine logs a size mismatch and goes on with a random classifier."""
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    further = ["--work-dir", tmp_path / "new"] if tool == "test.py" else [tmp_path / "image.png"]
    with pytest.raises(
        SystemExit, match=r"^error: .*head.fc.weight is of shape \(10, 32\) there and \(9, 32\)"
    ):
        call(monkeypatch, tool, CONFIG, best(trained), *further, "--cfg-options", "model.head.num_classes=9")


def seven_classes(folder: Path) -> Path:
    """Write class folders, and return a config that trains the model of :data:`CONFIG` on them."""
    images = write_class_folders(folder / "images", 7)
    loader = dict(
        batch_size=7,
        num_workers=0,
        sampler=dict(type="DefaultSampler", shuffle=True),
        dataset=dict(
            type="CustomDataset",
            data_root=str(images),
            pipeline=[dict(type="LoadImageFromFile"), dict(type="PackInputs")],
        ),
    )
    (folder / "seven.py").write_text(
        f"_base_ = [{str(CONFIG)!r}]\nmodel = dict(head=dict(num_classes=7))\n"
        f"train_dataloader = dict(_delete_=True, **{loader})\n"
        "val_dataloader = val_evaluator = val_cfg = None\n"
        "default_hooks = dict(checkpoint=dict(_delete_=True, type='CheckpointHook'))\n"
        "custom_hooks = [dict(type='mmseol.ClassCountHook')]\n"
    )
    return folder / "seven.py"


@pytest.mark.parametrize("further", [("--retrain-classifier", "lws"), ("--resume",)], ids=["lws", "resume"])
def test_training_does_not_go_on_with_other_classes(further, trained, monkeypatch, tmp_path) -> None:
    arguments = (*further, trained / "epoch_2.pth", "--work-dir", tmp_path / "run", "--cfg-options", EPOCHS)
    seven = seven_classes(tmp_path)
    with pytest.raises(
        SystemExit, match=r"^error: .*head\.fc\.weight .*\(10, 32\) there and .*\(7, 32\) here"
    ):
        call(monkeypatch, "train.py", seven, *LOSS, *arguments)


def test_fine_tuning_to_other_classes_is_logged(trained, monkeypatch, tmp_path) -> None:
    seven = seven_classes(tmp_path)
    arguments = (seven, *LOSS, "--work-dir", tmp_path / "run", "--cfg-options", EPOCHS)
    call(monkeypatch, "train.py", *arguments, f"load_from={trained / 'epoch_2.pth'}")
    log = "".join(path.read_text() for path in (tmp_path / "run").glob("*/*.log"))
    assert re.search(
        r"WARNING - `load_from` .* the classifier head\.fc starts from new weights\. .*\(10, 32\)", log
    )
    state = torch.load(tmp_path / "run" / "epoch_2.pth", map_location="cpu", weights_only=False)["state_dict"]
    assert len(state["head.fc.weight"]) == len(state["head.loss_module.class_counts"]) == 7
    torch.save({"state_dict": {"other.weight": torch.ones(2)}}, tmp_path / "other.pth")
    arguments = (seven, *LOSS, "--work-dir", tmp_path / "other", "--cfg-options", EPOCHS)
    arguments = (*arguments, f"experiment_name={tmp_path.name}_other", f"load_from={tmp_path / 'other.pth'}")
    with pytest.raises(SystemExit, match=r"^error: `load_from` .* has none of the model's weights"):
        call(monkeypatch, "train.py", *arguments)


def test_test_and_predict_write_classes_and_pictures(trained, monkeypatch, tmp_path) -> None:
    out, show = tmp_path / "out", tmp_path / "show"
    arguments = ("--work-dir", tmp_path / "test", "--out", out, "--show-dir", show)
    name = f"experiment_name={tmp_path.name}"
    call(monkeypatch, "test.py", CONFIG, best(trained), *LOSS, *arguments, "--cfg-options", name)
    records = json.loads((out / "predictions.json").read_text())
    assert len(records) == len(list(show.iterdir())) == 200
    (path,) = (tmp_path / "test").glob("*/class_scores_test.json")
    accuracy = json.loads(path.read_text())["scores"]["accuracy"]
    assert sum(one["label"] == one["truth"] for one in records) / 2 == pytest.approx(accuracy)

    cfg = Config.fromfile(CONFIG)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        validation = DATASETS.build(cfg.val_dataloader.dataset)
    for i in range(12):
        pixels = validation[i]["inputs"].permute(1, 2, 0).numpy()
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i:02}.png")
    arguments = (tmp_path / "images", "--out", tmp_path / "predicted", "--scores")
    call(monkeypatch, "predict.py", CONFIG, best(trained), *arguments)
    predicted = json.loads((tmp_path / "predicted" / "predictions.json").read_text())
    assert [one["label"] for one in predicted.values()] == [one["label"] for one in records[:12]]
    for one, other in zip(predicted.values(), records, strict=False):
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
    assert len(list((tmp_path / "predicted" / "pictures").iterdir())) == 12


def test_a_resumed_run_keeps_its_config_and_shows_what_differs(
    trained, monkeypatch, tmp_path, capsys
) -> None:
    work_dir = tmp_path / "run"
    shutil.copytree(trained, work_dir)
    first = (work_dir / "digits.py").read_bytes()
    shared = ("--seed", 1, "--work-dir", work_dir, "--resume")
    options = ("--cfg-options", *TINY, "train_cfg.max_epochs=3", "train_dataloader.batch_size=16")
    imbalance = (*LOSS, "--imbalance", "step:10")
    for changed in (
        (*LOSS, "--imbalance", "step:5"),
        ("--loss", "ce", "--imbalance", "step:10"),
        (*LOSS, "--imbalance", "step:10:seed=3"),
    ):
        with pytest.raises(SystemExit):
            call(monkeypatch, "train.py", CONFIG, *changed, *shared, *options)
        text = capsys.readouterr().err
        assert "add --force-resume" in text
        assert re.search(r"train_dataloader.dataset.ratio .* 10 .* 5|model.head.loss.type|dataset.seed", text)
    call(monkeypatch, "train.py", CONFIG, *imbalance, *shared, *options, f"experiment_name={tmp_path.name}")
    log = "".join(path.read_text() for path in work_dir.glob("*/*.log"))
    assert re.search(r"train_dataloader.batch_size +│ 32 +│ 16", log)
    assert re.search(r"train_cfg.max_epochs +│ 2 +│ 3", log)
    assert (work_dir / "digits.py").read_bytes() == first
    assert Config.fromfile(work_dir / "digits_resumed_1.py").train_dataloader.batch_size == 16
    other = (*LOSS, "--imbalance", "step:5", "--force-resume")
    more = ("train_cfg.max_epochs=4", f"experiment_name={tmp_path.name}_forced")
    call(monkeypatch, "train.py", CONFIG, *other, *shared, *options, *more)
    assert (work_dir / "epoch_4.pth").is_file()
    assert Config.fromfile(work_dir / "digits_resumed_2.py").train_dataloader.dataset.ratio == 5


def test_runs_keep_their_logs_without_a_clock(trained, monkeypatch, tmp_path) -> None:
    """mmengine names log folders by the second; a clock may be set back during a run, or stand."""
    back = itertools.count(1.6e9, -0.1)
    monkeypatch.setattr("time.time", lambda: next(back))
    options = ("--work-dir", tmp_path / "run", "--cfg-options", "train_cfg.max_epochs=1")
    call(monkeypatch, "train.py", CONFIG, *LOSS, *options)
    assert (tmp_path / "run" / "epoch_1.pth").is_file()
    monkeypatch.setattr("time.time", lambda: 1.6e9)
    for _ in range(2):
        call(monkeypatch, "test.py", CONFIG, trained / "epoch_2.pth", *LOSS, "--work-dir", tmp_path / "test")
    logs = [path.read_text() for path in (tmp_path / "test").glob("*/*.log")]
    assert [len(re.findall(r"Epoch\(test\) .* accuracy: ", log)) for log in logs] == [1, 1]
    assert len(list((tmp_path / "test").glob("*/class_scores_test.json"))) == 2


def test_two_runs_do_not_share_a_work_dir(trained, monkeypatch, tmp_path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    arguments = (CONFIG, *LOSS, "--imbalance", "step:10", "--resume", "--work-dir", tmp_path / "run")
    holder = "from mmseol.experiment.work_dir import lock_work_dir\nimport sys, time\n"
    holder += "with lock_work_dir(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(60)\n"
    command = [sys.executable, "-c", holder, str(tmp_path / "run")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "held\n":
            assert process.poll() is None
        holding = f"is in use by process {process.pid} on {socket.gethostname()} since"
        with pytest.raises(SystemExit, match=rf"^error: .*{holding}"):
            call(monkeypatch, "train.py", *arguments)
        process.kill()
    with lock_work_dir(tmp_path / "run"):  # released with the killed process
        assert str(os.getpid()) in (tmp_path / "run" / ".run.lock").read_text()


@pytest.mark.parametrize(
    ("verb", "arguments", "unused"),
    [
        *((verb, ["--help"], ("torch", "mmengine", "mmseg", "mmpretrain", "cv2")) for verb in COMMANDS),
        *(("analyze", [name, "--help"], ("torch", "mmengine", "matplotlib")) for name in ANALYSES),
        ("train", [str(CONFIG), "--loss", "mes"], ("mmseol.losses", "mmseg", "mmpretrain", "cv2")),
        ("test", [str(CONFIG), "nowhere.pth"], ("mmseol.losses", "mmseg", "mmpretrain", "cv2")),
    ],
)
def test_help_and_refusals_import_little(verb, arguments, unused) -> None:
    code = f"import sys, mmseol.__main__ as m\ntry:\n    m.main({verb!r}, {arguments})\nexcept SystemExit:\n"
    code += f"    pass\nprint('imported', *(name for name in {unused} if name in sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "imported"


def test_default_work_dirs_differ_by_imbalance() -> None:
    from argparse import Namespace

    from mmseol.experiment.commands import default_work_dir

    args = Namespace(config="configs/a.py", loss="ce", imbalance="step:10", seed=1)
    assert default_work_dir(args) == str(Path("work_dirs", "a", "ce_step-10_seed1"))
    args.retrain_classifier = ["crt", "epoch_1.pth"]
    assert default_work_dir(args) == str(Path("work_dirs", "a", "ce_step-10_crt_seed1"))


def test_losses_that_follow_the_training_run_with_their_hooks(trained, monkeypatch, tmp_path) -> None:
    assert trained.is_dir()  # runs of one process share a visualizer and its folder
    for loss in ("cdb_ce", "influence_balanced:start_epoch=1"):
        work_dir = tmp_path / loss[:3]
        arguments = (CONFIG, "--loss", loss, "--work-dir", work_dir)
        call(monkeypatch, "train.py", *arguments, "--cfg-options", *TINY, f"experiment_name={work_dir}")
    state = torch.load(tmp_path / "inf" / "epoch_2.pth", map_location="cpu", weights_only=False)["state_dict"]
    assert state["head.fc.weight"].isfinite().all()
    state, expected = state_and_difficulty(tmp_path / "cdb")
    assert state["head.loss_module.class_difficulty"].tolist() == pytest.approx(expected)
