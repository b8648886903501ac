"""The command ``sweep``: dry runs, states, and errors that end with one line; commands with subcommands."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmseol.__main__ import main
from mmseol.analysis.subcommands import ANALYSES
from mmseol.sweeps.trial import fail
from mmseol.sweeps.work_folder import WorkFolder
from mmseol.utils.files import read_json, write_json

SWEEP = """
configs = ["quickstart/digits.py"]
losses = ["ce", "focal"]
tune = {"lr": [0.001, 0.01], "wd": [0.0, 0.0001]}
tune_losses = {"focal": {"gamma": [1.0, 2.0]}}
rungs = [{"epochs": 2, "keep": 1}]
epochs = 4
metric = "accuracy"
seconds_per_epoch = 60.0
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SWEEP)
    return path


def error_of(capsys, *arguments: object) -> str:
    """Return the error that the command ends with, without a traceback."""
    with pytest.raises(SystemExit) as caught:
        main("sweep", [str(argument) for argument in arguments])
    assert caught.value.code not in (0, None)
    text = capsys.readouterr().err or str(caught.value)
    assert "Traceback" not in text
    return text


def test_a_dry_run_prints_commands_and_costs_and_writes_nothing(file, tmp_path, capsys):
    work_dir = tmp_path / "work"
    main("sweep", [str(file), "--work-dir", str(work_dir), "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    commands = [line for line in lines if line.startswith("tools/train.py quickstart/digits.py --loss")]
    assert len(commands) == 8
    assert all("test_dataloader=None" in command and "--seed 0" in command for command in commands)
    assert sum("--loss focal:gamma=" in command for command in commands) == 4
    assert sum("waiting, about 2 min" in line for line in lines) == 8
    assert "# later: 1 x final focal  4 epochs, about 4 min" in lines
    assert lines[-1] == "# 0 trials done, 10 left: about 24 min on one slot"
    assert not work_dir.exists()


def test_early_checkpoints_are_kept_on_request(tmp_path, capsys):
    untuned = tmp_path / "untuned.py"
    settings = ['configs = ["quickstart/digits.py"]', 'losses = ["ce"]', "epochs = 4", 'metric = "accuracy"']
    untuned.write_text("\n".join(settings))
    main("sweep", [str(untuned), "--work-dir", str(tmp_path / "work"), "--dry-run", "--keep-every", "2"])
    text = capsys.readouterr().out
    assert "default_hooks.checkpoint.interval=2 default_hooks.checkpoint.max_keep_ckpts=-1" in text
    main("sweep", [str(untuned), "--work-dir", str(tmp_path / "work"), "--dry-run", "--keep-checkpoints"])
    assert "checkpoint.interval=1 default_hooks.checkpoint.max_keep_ckpts=1" in capsys.readouterr().out


def test_the_state_of_a_sweep(tmp_path, capsys):
    write_json(tmp_path / "sweep.json", {"format": 1, "sweep": "mine"})
    request = {"key": "k", "version": "1", "config": "a.py", "imbalance": None, "loss": "ce"}
    for name, seed in (("one", 1), ("two", 2), ("three", 3)):
        trial = {**request, "id": name, "stage": "final", "seed": seed}
        write_json(tmp_path / "trials" / name / "trial.json", trial)
    write_json(tmp_path / "trials" / "one" / "record.json", {})
    fail(tmp_path / "trials" / "two", "train: out of memory")
    write_json(tmp_path / "plan.json", {"version": "1", "left": 1, "seconds_left": 600.0})
    main("sweep", ["status", str(tmp_path)])
    text = capsys.readouterr().out
    row = next(line for line in text.splitlines() if "│ ce" in line)
    assert [cell.strip() for cell in row.split("│")[2:-1]] == ["1", "1", "1"]
    assert "1 trials left, about 10 min." in text
    assert "two (ce): train: out of memory" in text
    write_json(tmp_path / "plan.json", {"version": "2", "left": 3, "seconds_left": None})
    main("sweep", ["status", str(tmp_path)])
    assert "3 trials are of other versions of the code than 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such.py"], "`file` must be a sweep file or one of mmseol"),
        (["sweeps/digit.py"], "Did you mean sweeps/digits.py?"),
        (["status", "no_such_folder"], "`folder` must be the work directory of a sweep"),
        (["status"], "`status` needs the work directory"),
        (["FILE", "--only", "fokal"], "Did you mean focal?"),
        (["FILE", "--budget", "0"], "`--budget` must be a finite number above 0"),
        (["FILE", "--epochs", "0"], "`epochs` must be a whole number of at least 1, got 0"),
        (["FILE", "more"], "`more` is one argument too many"),
        (["FILE", "--cfg-options", "train_cfg.max_epochs=2"], "set `epochs` of the sweep"),
        (["FILE", "--engine", "condor"], "`--engine` must be one of 'local', 'ray', 'slurm', got 'condor'"),
        (["FILE", "--slots", "0"], "`--slots` must be a whole number of at least 1, got 0"),
        (["FILE", "--engine-options", "thread=2"], "Did you mean `threads`?"),
        (
            ["FILE", "--cfg-options", "val_dataloader.dataset.dataset.split=test"],
            "`val_dataloader` reads the test split",
        ),
    ],
)
def test_errors_are_one_line(file, tmp_path, capsys, arguments, message):
    given = [str(file) if argument == "FILE" else argument for argument in arguments]
    if "FILE" in arguments:
        given += ["--work-dir", str(tmp_path / "work")]
    assert message in error_of(capsys, *given)


def test_a_full_disk_ends_with_one_line_and_no_half_file(file, tmp_path, capsys, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    arguments = [file, "--work-dir", tmp_path / "work", "--only", "ce"]
    WorkFolder(tmp_path / "work").claim("mine")
    monkeypatch.setattr("mmseol.utils.files.os.fsync", full)
    text = error_of(capsys, *arguments)
    assert "No space left on device" in text
    assert text.rstrip().endswith("The same command continues.")
    assert {path.name for path in (tmp_path / "work").rglob("*")} <= {"sweep.json", "mine.py", "trials"}


def test_the_folder_of_another_sweep_is_refused(file, tmp_path, capsys):
    work_dir = tmp_path / "work"
    write_json(work_dir / "sweep.json", {"format": 1, "sweep": "other"})
    assert "holds the sweep 'other', not 'mine'" in error_of(capsys, file, "--work-dir", work_dir)
    assert read_json(work_dir / "sweep.json")["sweep"] == "other"


def test_the_shipped_sweeps_are_found_by_name(tmp_path, capsys):
    arguments = ["--work-dir", str(tmp_path / "work"), "--dry-run", "--only", "ce", "--epochs", "4"]
    main("sweep", ["sweeps/digits.py", *arguments])
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("tools/train.py") for line in lines) == 12
    assert sum("train_cfg.max_epochs=1 " in line for line in lines) == 12
    assert not Path(tmp_path / "work").exists()


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_a_command_lists_its_subcommands(arguments, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["mmseol", "analyze", *arguments])
    main()
    text = capsys.readouterr().out
    assert text.startswith("usage: python -m mmseol analyze COMMAND")
    assert all(command.help in text for command in ANALYSES.values())


def test_an_unknown_subcommand_is_refused():
    with pytest.raises(SystemExit, match=r"^error: the command must be one of .*, got 'feature'"):
        main("analyze", ["feature"])
