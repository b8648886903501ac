"""Training runs that compare losses: scores and costs, failures, continuing after an interruption."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmseol.analysis.markdown import markdown
from mmseol.analysis.records import scores_record
from mmseol.analysis.training_runs import TrainingRun, run_all

# Stand-ins for tools/train.py and tools/test.py that write what these write, and take 300 MB.
TRAIN = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--work-dir") + 1])
if "bad" in sys.argv:
    sys.exit("ValueError: the loss is not finite")
block = bytearray(b"x") * 300_000_000
(folder / "now" / "vis_data").mkdir(parents=True)
lines = [{"loss": 1.0, "time": t} for t in (9.0, 1.0, 2.0)] + [{"mIoU": 3.0, "time": 50.0}]
(folder / "now" / "vis_data" / "scalars.json").write_text("\\n".join(map(json.dumps, lines)))
(folder / "last_checkpoint").write_text("epoch_3.pth")
time.sleep(0.5)
"""
TEST = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--work-dir") + 1])
assert sys.argv[1:3] == ["config.py", "epoch_3.pth"], sys.argv
(folder / "now").mkdir(parents=True)
(folder / "now" / "class_scores_test.json").write_text(json.dumps({"scores": {"accuracy": 40.0}}))
with open("tested.txt", "a") as file:
    file.write("once\\n")
"""


@pytest.fixture
def tools(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "test.py").write_text(TEST)
    return tmp_path


def test_scores_and_costs_of_good_and_bad_runs(tools):
    good = TrainingRun(tools / "good", ["config.py"], ["config.py"])
    bad = TrainingRun(tools / "bad", ["config.py", "bad"], ["config.py"])
    results = run_all([good, bad], tools, jobs=2)
    assert results[0]["accuracy"] == 40.0
    assert results[0]["seconds"] == 2.0  # of training alone
    assert 0.3 < results[0]["memory"] < 0.4
    assert results[1] == {"failed": "ValueError: the loss is not finite"}
    record = scores_record("t", [], {"good": results[:1], "bad": []})
    assert markdown(record).splitlines()[2:] == [
        "| good | 40.0 | 2.00 | 0.31 |",
        "| bad | failed | failed | failed |",
    ]


def test_finished_runs_are_read_and_cut_off_runs_repeated(tools):
    run = TrainingRun(tools / "run", ["config.py"], ["config.py"])
    first = run_all([run], tools, jobs=1)
    assert run_all([run], tools, jobs=1) == first
    assert Path("tested.txt").read_text() == "once\n"
    (run.folder / "run.json").unlink()
    assert run_all([run], tools, jobs=1)[0]["accuracy"] == 40.0
    assert Path("tested.txt").read_text() == "once\n" * 2


def test_other_results_are_left_alone(tools):
    run_all([TrainingRun(tools / "run", ["config.py"], ["config.py"])], tools, jobs=1)
    before = (tools / "run" / "run.json").read_text()
    with pytest.raises(FileExistsError, match=r"'.*run' holds something else than this run. Remove it"):
        run_all([TrainingRun(tools / "run", ["config.py", "--seed", "2"], ["config.py"])], tools, jobs=1)
    assert (tools / "run" / "run.json").read_text() == before
    (tools / "mine").mkdir()
    (tools / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="Remove it"):
        run_all([TrainingRun(tools / "mine", ["config.py"], ["config.py"])], tools, jobs=1)
    assert (tools / "mine" / "thesis.txt").read_text() == "years of work"
