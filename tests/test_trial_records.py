"""Records of trials: what is refused, with its path."""

import json

import pytest
from helpers.sweep_records import write_trial

from mmseol.analysis.records.trial_records import failed_trials, read_trial, read_trials


def rewrite(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_records_are_read(tmp_path):
    path = write_trial(tmp_path, "outlying_mse:alpha=5", seed=2, values={"lr": 0.03})
    tuned = write_trial(tmp_path, "ce", stage="tune", values={"lr": 0.1})
    trials = read_trials([tmp_path])
    assert [trial.path for trial in trials] == [tuned, path]
    assert (trials[1]["loss"], trials[1]["seed"], trials[1].values) == (
        "outlying_mse:alpha=5",
        2,
        {"lr": 0.03},
    )
    assert [trial.split for trial in trials] == ["val", "test"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "`format` must be 1, got 2"),
        ({"stage": "best"}, "`stage` must be 'tune' or 'final', got 'best'"),
        ({"seed": True}, "`seed` must be a whole number, got True"),
        ({"epochs": 0}, "`epochs` or `iterations` must be a whole number of at least 1, got \\[0\\]"),
        ({"data": {}}, "`data` must be an object with `digest`"),
        ({"environment": {"versions": ["2.1"]}}, "`environment` must be an object with `versions`"),
        ({"memory": "much"}, "`memory` must be a finite number or null, got 'much'"),
        ({"imbalance": 100}, "`imbalance` must be text or null, got 100"),
        ({"id": "other"}, "its `id` is 'other', and its folder"),
        ({"scores": {}}, r"it has no `scores\.last`"),
        ({"scores": {"last": {"split": "train"}}}, "`split` 'val' or 'test'"),
        ({"scores": {"last": {"split": "test", "scores": {"accuracy": None}}}}, "must be finite numbers"),
        (
            {"scores": {"last": {"split": "test", "scores": {"a": 1.0}, "per_class": {"yak": {}}}}},
            "must have the names of `classes`",
        ),
        ({"chosen": {"on": "test", "values": {"lr": 1.0}}}, "must be chosen on 'val', got 'test'"),
        ({"chosen": ["lr"]}, "`chosen` must be null or an object with `values`"),
        ({"stage": "tune"}, r"in tuning of 'val', got \['test'\]"),
    ],
)
def test_malformed_records_are_refused(tmp_path, changes, message):
    path = write_trial(tmp_path)
    rewrite(path, **changes)
    with pytest.raises(
        ValueError, match=rf"record\.json' is not the record of a finished trial: .*{message}"
    ) as error:
        read_trials([tmp_path])
    assert str(path) in str(error.value)


@pytest.mark.parametrize("text", ['{"format": 1, "id": "a', "", "[1]", '{"seed": NaN}', "__import__('os')"])
def test_half_files_and_other_content_are_refused(tmp_path, text):
    path = write_trial(tmp_path)
    path.write_text(text)
    with pytest.raises(ValueError, match=r"record\.json' (is not JSON|must hold a JSON object)"):
        read_trial(path)


def test_foreign_and_duplicate_records_are_refused(tmp_path):
    path = write_trial(tmp_path / "a")
    write_trial(tmp_path / "b")
    with pytest.raises(
        ValueError, match=r"a/trials.*b/trials.*record the same run \(code versions 'v1' and 'v1'"
    ):
        read_trials([tmp_path / "a", tmp_path / "b"])
    other = write_trial(tmp_path / "a", seed=2, sweep="foreign")
    with pytest.raises(ValueError, match=r"must hold one sweep") as error:
        read_trials([tmp_path / "a"])
    assert str(path) in str(error.value)
    assert str(other) in str(error.value)
    with pytest.raises(FileNotFoundError, match="with a folder `trials`"):
        read_trials([tmp_path])


def test_diverged_and_failed_trials(tmp_path):
    path = write_trial(tmp_path, stage="tune", diverged="loss is nan")
    rewrite(path, scores={"last": None}, classes=[])
    assert read_trial(path).split == "val"
    failed = tmp_path / "trials" / "f1"
    failed.mkdir()
    (failed / "failed.json").write_text('{"reason": "train: out of memory"}')
    (failed / "trial.json").write_text('{"loss": "mse", "stage": "final"}')
    path.with_name("failed.json").write_text('{"reason": "before it was run again"}')
    (found,) = failed_trials([tmp_path])
    assert (found.request["loss"], found.reason) == ("mse", "train: out of memory")
    assert len(read_trials([tmp_path])) == 1
