"""The planner of sweeps: equal budgets, halving, choices, and what it waits for."""

from __future__ import annotations

from math import inf

import pytest

from mmseol.sweeps.planner import Trial, choose, later, plan, points
from mmseol.sweeps.sweep_file import Sweep

CONFIG = "quickstart/digits.py"


def sweep(**changes) -> Sweep:
    settings = dict(
        name="s",
        configs=[CONFIG],
        losses=["ce", "outlying_mse"],
        epochs=40,
        metric="accuracy",
        seeds=[1, 2],
        tune={"lr": [0.01, 0.1, 1.0], "wd": [0.0, 1e-4]},
        tune_losses={"outlying_mse": {"alpha": [1, 5, 25]}},
        rungs=[{"epochs": 10, "keep": 2}, {"epochs": 20, "keep": 1}],
    )
    return Sweep(**{**settings, **changes})


def run_all(one: Sweep, score) -> tuple[dict[Trial, float], list[list[Trial]]]:
    """Run what the planner asks for until it asks for nothing; return results and rounds."""
    results: dict[Trial, float] = {}
    rounds = []
    while todo := plan(one, results):
        rounds.append(todo)
        results.update({trial: score(trial) for trial in todo})
    return results, rounds


def by_loss(trials: list[Trial], loss: str, stage: str) -> list[Trial]:
    return [trial for trial in trials if (trial.loss, trial.stage) == (loss, stage)]


def test_every_loss_has_the_same_budget_whatever_its_grid():
    results, _ = run_all(sweep(), lambda trial: trial.values["lr"])
    spent = {
        loss: sorted((trial.stage, trial.length) for trial in results if trial.loss == loss)
        for loss in ("ce", "outlying_mse")
    }
    assert spent["ce"] == spent["outlying_mse"]
    assert spent["ce"] == [("final", 40)] * 2 + [("tune", 10)] * 6 + [("tune", 20)] * 2


def test_points_are_joint_draws_that_a_seed_repeats():
    drawn = points(sweep(), "outlying_mse")
    assert len(drawn) == len(set(drawn)) == 6
    assert {name for point in drawn for name, _ in point} == {"lr", "wd", "alpha"}
    assert len({dict(point)["alpha"] for point in drawn}) > 1
    assert drawn == points(sweep(), "outlying_mse")
    assert drawn != points(sweep(draw_seed=1), "outlying_mse")
    assert points(sweep(), "ce") == [tuple(point.items()) for point in sweep().grid("ce")]


def test_the_best_points_go_on_and_the_best_of_those_is_trained():
    def score(trial: Trial) -> float:  # the best after 10 epochs is the second best after 20
        best = {10: 0.1, 20: 1.0}.get(trial.length, 0.0)
        return 50.0 if trial.values["lr"] == best else trial.values["lr"] - trial.values["wd"]

    one = sweep(losses=["ce"], tune_losses={})
    results, rounds = run_all(one, score)
    assert [len(trials) for trials in rounds] == [6, 2, 2]
    assert {trial.values["lr"] for trial in rounds[1]} == {0.1}  # both weight decays of it score 50
    assert {trial.seed for trial in rounds[2]} == {1, 2}
    choice = choose(one, CONFIG, None, "ce", results)
    assert dict(choice.point) == rounds[2][0].values
    assert len(choice.trials) == 8


def test_nothing_is_chosen_before_a_rung_is_complete():
    one = sweep(losses=["ce"], tune_losses={})
    first = plan(one, {})
    results = dict.fromkeys(first[:-1], 40.0)
    assert plan(one, results) == first[-1:]
    assert choose(one, CONFIG, None, "ce", results) is None
    assert [(group.stage, group.length, group.number) for group in later(one, results)] == [
        ("tune", 20, 2),
        ("final", 40, 2),
    ]


def test_a_diverged_point_loses_and_a_loss_whose_points_all_diverged_ends():
    one = sweep(losses=["ce"], tune_losses={}, rungs=[])
    results, _ = run_all(one, lambda trial: -inf if trial.values["lr"] > 0.01 else 3.0)
    assert choose(one, CONFIG, None, "ce", results).point == (("lr", 0.01), ("wd", 0.0))
    results, rounds = run_all(one, lambda trial: -inf)
    assert [trial.stage for trials in rounds for trial in trials] == ["tune"] * 6
    assert choose(one, CONFIG, None, "ce", results) is None
    assert later(one, results) == []


def test_of_equal_scores_the_lowest_rate_is_chosen_and_borders_are_named():
    one = sweep(losses=["ce"], tune={"lr": [1.0, 0.01, 0.1], "wd": [1e-4]}, tune_losses={}, rungs=[])
    results, _ = run_all(one, lambda trial: 5.0)
    choice = choose(one, CONFIG, None, "ce", results)
    assert choice.point == (("lr", 0.01), ("wd", 1e-4))
    assert choice.at_border == ("lr",)  # a grid of one value has no border
    results, _ = run_all(one, lambda trial: 5.0 + (trial.values["lr"] == 0.1))
    assert choose(one, CONFIG, None, "ce", results).at_border == ()


def test_the_score_of_a_point_is_the_mean_over_the_tuning_seeds():
    one = sweep(losses=["ce"], tune={"lr": [0.01, 0.1]}, tune_losses={}, rungs=[], tuning_seeds=[7, 8])
    scores = {(0.01, 7): 50.0, (0.01, 8): 40.0, (0.1, 7): 10.0, (0.1, 8): 60.0}
    results, _ = run_all(one, lambda trial: scores.get((trial.values["lr"], trial.seed), 0.0))
    choice = choose(one, CONFIG, None, "ce", results)
    assert (dict(choice.point)["lr"], choice.score) == (0.01, 45.0)


def test_without_tuning_the_final_trainings_run_at_once():
    one = sweep(tune={}, tune_losses={}, rungs=[], imbalances=[None, "step:10"])
    trials = plan(one, {})
    assert [trial.seed for trial in trials] == [1] * 4 + [2] * 4
    assert {trial.stage for trial in trials} == {"final"}


@pytest.mark.parametrize("imbalances", [["step:10"], ["step:10", "step:100"]])
def test_each_cut_of_the_data_has_its_own_choice(imbalances):
    one = sweep(losses=["ce"], tune_losses={}, rungs=[], imbalances=imbalances)
    best = dict(zip(imbalances, [0.01, 1.0], strict=False))
    results, _ = run_all(one, lambda trial: float(trial.values["lr"] == best[trial.imbalance]))
    for imbalance in imbalances:
        assert dict(choose(one, CONFIG, imbalance, "ce", results).point)["lr"] == best[imbalance]
