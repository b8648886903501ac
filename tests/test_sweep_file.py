"""Sweep files: literals that are read, names that are checked, errors that say what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmseol.sweeps.command_line import shortened
from mmseol.sweeps.sweep_file import read_sweep, with_arguments

GOOD = {
    "configs": '["quickstart/digits.py"]',
    "losses": '["ce", "outlying_mse:ties=dense"]',
    "epochs": "6",
    "metric": '"accuracy"',
}
SWEEPS = sorted((Path(__file__).parents[1] / "configs" / "sweeps").glob("*.py"))


def write(path: Path, **changes: str | None) -> Path:
    lines = {**GOOD, **changes}
    text = "".join(f"{name} = {value}\n" for name, value in lines.items() if value is not None)
    path.write_text('"""A note."""\n\n' + text)
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / "mine.py"


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_shipped_sweeps_are_valid_and_say_how_to_run_them(path):
    sweep = read_sweep(path)
    assert f"tools/sweep.py configs/sweeps/{path.name}" in sweep.note


@pytest.mark.parametrize("name", ["digits", "cifar10_subset", "camvid_r18"])
def test_comparisons_of_all_losses_tune_every_one(name):
    sweep = read_sweep(SWEEPS[0].parent / f"{name}.py")
    assert len(sweep.losses) > 20
    assert sweep.number_of_points() >= 5


def test_a_file_is_read(file):
    sweep = read_sweep(write(file, seeds="[3, 4]"))
    assert (sweep.name, sweep.note, list(sweep.seeds)) == ("mine", "A note.", [3, 4])


def test_nothing_is_executed(file, tmp_path):
    write(file, seeds=f"[open({str(tmp_path / 'made')!r}, 'w')]")
    with pytest.raises(ValueError, match=r"line 7: `seeds` must be a literal"):
        read_sweep(file)
    assert not (tmp_path / "made").exists()


BAD = {
    "unknown field": ({"lossses": "[]"}, r"`lossses` is no field of a sweep. Did you mean losses\?"),
    "field for the test split": ({"tuning_split": '"test"'}, "`tuning_split` is no field"),
    "missing field": ({"metric": None}, "`metric` must be given"),
    "unknown loss": ({"losses": '["outlyng_mse"]'}, r"got 'outlyng_mse'. Did you mean outlying_mse\?"),
    "unknown loss argument": (
        {"tune_losses": '{"ce": {"alpha": [1, 2]}}', "losses": '["ce"]'},
        "'ce:alpha=1' cannot be built",
    ),
    "unknown config": ({"configs": '["quickstart/digit.py"]'}, r"Did you mean quickstart/digits.py\?"),
    "unknown imbalance": ({"imbalances": '["long_tail:10"]'}, "`--imbalance` must be"),
    "no losses": ({"losses": "[]"}, r"`losses` must be a list with at least one entry, got \[\]"),
    "a loss twice": ({"losses": '["ce", "ce"]'}, "`losses` must hold each entry once"),
    "an empty grid": ({"tune": '{"lr": []}'}, r"`tune\['lr'\]` must be a list with at least one entry"),
    "no list of values": ({"tune": '{"lr": 0.1}'}, r"`tune\['lr'\]` must be a list"),
    "more points than a grid": (
        {"tune": '{"lr": [0.1, 1.0]}', "points": "3"},
        "`points` must be at most 2, the grid of 'ce'",
    ),
    "rungs that keep two": (
        {"tune": '{"lr": [0.1, 1.0]}', "rungs": '[{"epochs": 2, "keep": 2}]'},
        "`rungs` must keep 1 point in the end, got 2",
    ),
    "rungs that shrink": (
        {"tune": '{"lr": [1, 2]}', "rungs": '[{"epochs": 4, "keep": 2}, {"epochs": 2, "keep": 1}]'},
        "`rungs: epochs` must be a whole number of at least 4, got 2",
    ),
    "rungs without tuning": ({"rungs": '[{"epochs": 2, "keep": 1}]'}, "need something to `tune`"),
    "tuning a loss that is not there": ({"tune_losses": '{"focal": {"gamma": [1]}}'}, "got 'focal'"),
    "a split of its own": ({"split": '"train"'}, "`split` must be one of 'test', 'val'"),
    "best on a closed split": ({"split": '"val"', "best_on_test": "True"}, "`best_on_test` needs"),
    "early checkpoints that are removed": ({"keep_every": "5"}, "`keep_every` needs `keep_checkpoints"),
    "checkpoints of no epoch": (
        {"keep_every": "0", "keep_checkpoints": "True"},
        "`keep_every` must be a whole number of at least 1, got 0",
    ),
    "epochs by an option": ({"options": '["train_cfg.max_epochs=3"]'}, "set `epochs` of the sweep"),
    "what is tuned by an option": (
        {"options": '["optim_wrapper.optimizer.lr=1"]', "tune": '{"lr": [0.1, 1.0]}'},
        "`options` must not set what `tune` does",
    ),
    "no assignment": ({"seeds": "[1]\nimport os"}, "holds assignments `name = value` alone"),
    "a name twice": ({"seeds": "[1]\nseeds = [2]"}, "each name is assigned once"),
    "a syntax error": ({"seeds": "[1"}, "line 7"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_bad_files_are_refused(file, changes, message):
    write(file, **changes)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        read_sweep(file)
    assert str(file) in str(caught.value)


def test_a_sweep_has_configs_of_its_unit(file, tmp_path):
    """MMSegmentation's stock configs train by iterations, MMPretrain's by epochs."""
    config = tmp_path / "by_iterations.py"
    config.write_text("train_cfg = dict(type='IterBasedTrainLoop', max_iters=10)")
    tune = dict(tune='{"lr": [1, 2]}', rungs='[{"iterations": 2, "keep": 1}]')
    with pytest.raises(ValueError, match=r"by_iterations.py' trains by iterations. Give `iterations = ...`"):
        read_sweep(write(file, configs=f"[{str(config)!r}]"))
    with pytest.raises(
        ValueError, match=r"trains by epochs. Give `epochs = ...`, .* in place of `iterations`"
    ):
        read_sweep(write(file, epochs="None", iterations="8", **tune))
    with pytest.raises(ValueError, match=r"`rungs` must hold {\"epochs\": .., \"keep\": ..}"):
        read_sweep(write(file, **tune))
    with pytest.raises(
        ValueError, match="must be given, whichever the configs train by, and not both, got 8 and 8"
    ):
        read_sweep(write(file, epochs="8", iterations="8"))
    sweep = read_sweep(write(file, epochs="None", iterations="8", **tune), check=False)
    assert (sweep.unit, sweep.length, sweep.tuning_rungs()) == (
        "iterations",
        8,
        [{"iterations": 2, "keep": 1}],
    )
    short = shortened(sweep, None, None, 4)
    assert (short.length, short.rungs) == (4, [{"iterations": 1, "keep": 1}])
    with pytest.raises(ValueError, match="`--epochs`: the sweep trains by iterations; give `--iterations`"):
        shortened(sweep, 4, None)


def test_arguments_of_a_loss_replace_those_of_the_file():
    assert with_arguments("ldam:max_margin=0.5,scale=10", {"scale": 30}) == "ldam:max_margin=0.5,scale=30"
    assert with_arguments("ce", {}) == "ce"


def test_a_short_sweep_keeps_the_proportions_of_its_rungs(file):
    rungs = '[{"epochs": 2, "keep": 2}, {"epochs": 4, "keep": 1}]'
    sweep = read_sweep(write(file, epochs="8", tune='{"lr": [1, 2]}', rungs=rungs))
    assert [rung["epochs"] for rung in shortened(sweep, 4, None).rungs] == [1, 2]
    assert shortened(sweep, 1, [5]).seeds == [5]
