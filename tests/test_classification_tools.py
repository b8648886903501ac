"""The command-line tools on digits: cut, train, fit the temperature, test; wrong arguments."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.tool_runs import call, state_and_difficulty

from mmseol.counting.counts import ClassCounts

pytest.importorskip("mmpretrain")

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "quickstart" / "digits.py"
TINY = ("train_cfg.max_epochs=2", "train_cfg.val_interval=1", "default_hooks.logger.interval=1")
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
        ValueError, match=r"`num_classes` must be the same.*11 from head.*10 from the data set"
    ):
        call(monkeypatch, "train.py", *arguments, "model.head.num_classes=11")


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
