"""The driver of sweeps, with trials that take no time: budgets, versions, failures, several drivers."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from helpers.instant_trials import Instant, PlainRequests

from mmseol.sweeps.driver import Driver
from mmseol.sweeps.status import status
from mmseol.sweeps.sweep_file import Sweep
from mmseol.sweeps.trial import fail
from mmseol.sweeps.work_folder import WorkFolder
from mmseol.utils.files import write_json


def sweep(**changes) -> Sweep:
    settings = dict(name="s", configs=["a.py"], losses=["ce", "mse"], epochs=6, metric="mIoU", seeds=[1, 2])
    settings |= dict(tune={"lr": [0.1, 1.0, 10.0]}, rungs=[{"epochs": 2, "keep": 1}])
    return Sweep(**{**settings, **changes})


def driver(folder: Path, one: Sweep | None = None, **arguments) -> Driver:
    requests = PlainRequests(arguments.pop("version", "1"))
    WorkFolder(folder).claim("s")
    return Driver(one or sweep(), WorkFolder(folder), requests, say=lambda text: None, **arguments)


def test_final_trials_know_what_was_chosen_on_which_data(tmp_path):
    engine = Instant()
    assert driver(tmp_path).run(engine) == {}
    assert engine.closed
    stages = [request["stage"] for request in engine.started]
    assert stages == ["tune"] * 6 + ["final"] * 4
    final = [request for request in engine.started if request["stage"] == "final"]
    assert {request["values"]["lr"] for request in final} == {10.0}
    chosen = final[0]["chosen"]
    tuned = [request["id"] for request in engine.started if request["stage"] == "tune"]
    assert (chosen["on"], chosen["values"], chosen["score"]) == ("val", {"lr": 10.0}, 10.0)
    assert chosen["at_border"] == ["lr"]
    of_loss = {request["id"] for request in engine.started if request["loss"] == final[0]["loss"]}
    assert set(chosen["trials"]) == of_loss & set(tuned)


def test_what_is_done_is_not_started_again(tmp_path):
    driver(tmp_path).run(Instant())
    again = Instant()
    assert driver(tmp_path).run(again) == {}
    assert again.started == []
    more = Instant()
    driver(tmp_path, sweep(seeds=[1, 2, 3])).run(more)
    assert [request["seed"] for request in more.started] == [3, 3]


def test_another_version_runs_again_unless_any_version_counts(tmp_path):
    driver(tmp_path).run(Instant())
    edited = driver(tmp_path, version="2")
    edited.look()
    assert edited.other_versions() == 6
    taken = Instant()
    assert driver(tmp_path, version="2", any_version=True).run(taken) == {}
    assert taken.started == []
    again = Instant()
    edited.run(again)
    assert len(again.started) == 10
    assert status(tmp_path)["other_versions"] == 10


def test_a_failed_tuning_trial_stops_its_loss_alone(tmp_path):
    def outcome(folder: Path, request: dict) -> bool:
        if request["loss"] == "mse" and request["values"]["lr"] == 1.0:
            fail(folder, "out of memory")
            return True
        return False

    one = driver(tmp_path)
    left = one.run(Instant(outcome=outcome))
    assert list(left.values()) == ["failed"]
    assert list(one.failed.values()) == ["out of memory"]
    found = status(tmp_path)
    assert found["rows"][("a.py", None, "ce")]["done"] == 5
    assert found["rows"][("a.py", None, "mse")] == {
        **dict.fromkeys(("running", "interrupted", "waiting"), 0),
        "done": 2,
        "failed": 1,
    }
    assert driver(tmp_path).run(engine := Instant()) != {}
    assert engine.started == []
    WorkFolder(tmp_path).retry_failed()
    assert driver(tmp_path).run(engine) == {}
    assert [request["stage"] for request in engine.started] == ["tune", "final", "final"]


def test_a_diverged_point_is_no_failure(tmp_path):
    def outcome(folder: Path, request: dict) -> bool:
        if request["values"]["lr"] < 10.0:
            return False
        record = {**request, "metric": "mIoU", "diverged": "The loss is not finite", "seconds": 1}
        write_json(folder / "record.json", record)
        return True

    engine = Instant(outcome=outcome)
    assert driver(tmp_path).run(engine) == {}
    assert {request["values"]["lr"] for request in engine.started if request["stage"] == "final"} == {1.0}


def test_a_trial_that_ends_without_a_trace_fails_in_the_end(tmp_path):
    engine = Instant(outcome=lambda folder, request: request["values"]["lr"] == 1.0)
    one = driver(tmp_path, sweep(losses=["ce"]))
    one.run(engine)
    assert [request["values"]["lr"] for request in engine.started].count(1.0) == 3
    assert "ended 3 times without a record" in next(iter(one.failed.values()))


def test_a_budget_starts_nothing_that_would_end_later(tmp_path):
    one = sweep(seconds_per_epoch=10.0)  # 20 s a tuning trial, 60 s a final one
    engine = Instant(slots=1)
    left = driver(tmp_path, one).run(engine, budget=40 / 3600)
    assert {request["stage"] for request in engine.started} == {"tune"}
    assert [trial.stage for trial in left] == ["final"] * 4
    assert driver(tmp_path / "other", one).run(Instant(), budget=10 / 3600) != {}


def test_estimates_come_from_finished_trials(tmp_path):
    one = driver(tmp_path)
    assert one.remaining(one.look()) == (10, None)
    one.run(
        Instant(
            outcome=lambda folder, request: (
                (request["stage"] == "final" and bool(fail(folder, "x"))) or request["stage"] == "final"
            )
        )
    )
    one = driver(tmp_path, sweep(seeds=[1, 2, 5]))
    assert one.remaining(one.look()) == (2, 2 * 60.0)  # 10 s an epoch; the failed ones are not counted


@pytest.mark.parametrize(
    ("only", "started"), [(["mse"], {"mse"}), (["mse", "a.py"], {"mse"}), ([], {"ce", "mse"})]
)
def test_only_some_losses(tmp_path, only, started):
    engine = Instant()
    driver(tmp_path, only=only).run(engine)
    assert {request["loss"] for request in engine.started} == started


def test_two_drivers_share_the_work(tmp_path):
    one = sweep(losses=[f"focal:gamma={n}" for n in range(1, 9)])
    lock = threading.Lock()

    class Careful(Instant):
        def start(self, folder: Path) -> None:
            with lock:
                if not (folder / "record.json").exists():
                    super().start(folder)
                else:
                    self.ended.append(folder)

    engines = [Careful(), Careful()]
    drivers = [driver(tmp_path, one) for _ in engines]
    threads = [
        threading.Thread(target=a.run, args=(engine,)) for a, engine in zip(drivers, engines, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    names = [request["id"] for engine in engines for request in engine.started]
    assert len(names) == len(set(names)) == 8 * 5


def fail_(folder: Path) -> bool:
    fail(folder, "out of memory")
    return True


def test_a_metric_that_validation_lacks_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"`metric` must be a score of the validation \(mIoU\)"):
        driver(tmp_path).run(Instant(outcome=wrong_metric))


def wrong_metric(folder: Path, request: dict) -> bool:
    scores = {"last": {"scores": {"mIoU": 1.0}}}
    write_json(folder / "record.json", {**request, "metric": "mIuO", "scores": scores, "seconds": 1})
    return True


def test_the_engine_is_closed_when_it_fails(tmp_path):
    class Gone(Instant):
        def start(self, folder: Path) -> None:
            raise RuntimeError("The cluster is gone.")

    engine = Gone()
    with pytest.raises(RuntimeError, match="The cluster is gone"):
        driver(tmp_path).run(engine)
    assert engine.closed


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "photo.png").touch()
    with pytest.raises(ValueError, match="holds something else than a sweep"):
        WorkFolder(tmp_path).claim("digits")
