"""The search for a decision, part by part: families, passes, free factors, and what is written."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.small_data import LabelDataset
from mmengine.config import Config
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, jaccard_score

from mmseol.experiment import decision_tuning
from mmseol.experiment.decision_tuning import (
    _confirm,
    _decisions,
    _scores,
    _Scoring,
    _tune_free,
    run_tune_decision,
)
from mmseol.experiment.runner import CommandRunner
from mmseol.losses import CrossEntropyLoss, OutlyingMSELoss


def scoring_of(loss: Any, cfg: Any = None, **given: Any) -> tuple[Any, torch.nn.Module]:
    """Return the hook of a search, and a model of three classes with a loss."""
    none = dict.fromkeys(("counts", "value", "strengths", "kind"))
    args = {**none, "family": ["targets", "prior"], "config": "a.py", "checkpoint": "a.pth", "folds": 3}
    head = torch.nn.Module()
    head.fc = torch.nn.Linear(2, 3)
    if loss is not None:
        head.loss_module = loss
    model = torch.nn.Module()
    model.head = head
    return _Scoring(Config(cfg or {}), Namespace(**{**args, "free": False, **given}), "head.fc"), model


def test_the_decision_without_a_search_is_among_the_scored() -> None:
    scoring, model = scoring_of(OutlyingMSELoss(class_counts=[9, 5, 1]))
    targets, prior_ = scoring._families(model)
    assert (targets.name, prior_.name, targets.kind) == ("targets", "prior", "multiplicative")
    assert scoring.default == 1 + len(targets.strengths) + 10
    assert prior_.strengths[10] == 1
    assert scoring.facts == {
        **{"config": "a.py", "checkpoint": "a.pth", "kind": "multiplicative", "loss": "OutlyingMSELoss"},
        "counts": [9, 5, 1],
        "estimated_weights": pytest.approx([1, 2, 3]),
    }
    for given, default, strengths in (
        (dict(strengths=[0.5, 2.0]), None, [0.5, 2.0]),
        (dict(value=1.0, strengths=[0.5]), 2, [1.0]),
        (dict(value=0.0), None, [0.0]),
    ):
        scoring, model = scoring_of(OutlyingMSELoss(class_counts=[9, 5, 1]), **given)
        families = scoring._families(model)
        assert [family.strengths.tolist() for family in families] == [strengths, strengths]
        assert scoring.default == default


def test_counts_are_given_stored_or_made(tmp_path: Path) -> None:
    data = dict(train_dataloader=dict(dataset=dict(type=LabelDataset, labels=[0, 0, 0, 1, 2, 2])))
    (tmp_path / "counts.json").write_text("[7, 2, 1]")
    given = dict(counts=str(tmp_path / "counts.json"))
    for loss, further, expected in (
        (OutlyingMSELoss(class_counts=[9, 5, 1]), {}, [9, 5, 1]),
        (OutlyingMSELoss(class_counts=[9, 5, 1]), given, [7, 2, 1]),
        (OutlyingMSELoss(), given, [7, 2, 1]),
        (OutlyingMSELoss(), {}, [3, 1, 2]),
        (CrossEntropyLoss(), {}, [3, 1, 2]),
    ):
        scoring, model = scoring_of(loss, data, **further)
        families = scoring._families(model)
        assert scoring.facts["counts"] == expected
        assert families[1].kind == ("multiplicative" if isinstance(loss, OutlyingMSELoss) else "additive")
    assert loss.class_counts is None or not loss.class_counts.any()
    uncounted = OutlyingMSELoss()
    scoring, model = scoring_of(uncounted, **given)
    scoring._families(model)
    assert uncounted.class_counts.tolist() == [7, 2, 1]  # the targets follow from them
    assert scoring.facts["estimated_weights"] == pytest.approx([1, 2, 3])
    scoring, model = scoring_of(CrossEntropyLoss())
    with pytest.raises(ValueError, match="`--counts` must be given: neither a loss in the checkpoint nor"):
        scoring._families(model)


def test_the_kind_is_that_of_the_loss_or_given() -> None:
    counts = np.array([9, 5, 1])
    squared = OutlyingMSELoss(class_counts=counts)
    for given, kind, weights in (
        (None, "multiplicative", [1, 2, 3]),
        ("multiplicative", "multiplicative", [1, 2, 3]),
        ("additive", "additive", [1, 1, 1]),
    ):
        scoring, _ = scoring_of(squared, kind=given)
        found = scoring._estimated(squared, counts)
        assert found[0] == kind
        np.testing.assert_allclose(np.exp(found[1]), weights)
    scoring, _ = scoring_of(None, kind="additive")
    assert scoring._estimated(torch.nn.BCELoss(), counts)[0] == "additive"
    scoring, _ = scoring_of(None)
    with pytest.raises(ValueError, match="`--kind` must be given for outputs trained with BCELoss"):
        scoring._estimated(torch.nn.BCELoss(), counts)


@pytest.mark.parametrize("scope", ["mmseg", "mmpretrain"])
def test_each_pass_scores_its_families(scope: str) -> None:
    scoring, model = scoring_of(
        CrossEntropyLoss(class_counts=[9, 5, 1]), dict(default_scope=scope), strengths=[0.0, 1.0], free=True
    )
    assert (scoring.segmentation, scoring.confirming) == (scope == "mmseg", False)
    runner: Any = SimpleNamespace(model=model)
    runner.test_loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=range(12)))
    scoring.before_test_epoch(runner)
    first = scoring.counted
    assert (first.tallies.decisions, first.tallies.images) == (5, 12)
    folds = [first.tallies.fold_of(image) for image in range(12)]
    assert (folds == sorted(folds), set(folds)) == (scope == "mmseg", {0, 1, 2})  # frames of a video, or not
    assert first.sample is not None
    assert first.fold_families == []
    updates: list[Any] = []

    def update(outputs: Any, model: Any, batch: Any) -> None:
        updates.append((model, batch))

    for number, sample in ((0, "image"), (1, "image")):
        first.update = update
        scoring.after_test_iter(runner, number, "batch", [sample])
    assert updates == [(model, "batch"), (None, "batch")]  # the classifier is checked once
    assert scoring.segmentation is False
    scoring.after_test_iter(runner, 1, "batch", [SimpleNamespace(pred_sem_seg=1)])
    assert scoring.segmentation is True
    reduced: list[int] = []
    first.tallies.reduce = lambda: reduced.append(1)
    scoring.after_test_epoch(runner)
    assert reduced == [1]
    scoring.further = (first.families[:1], [first.families[1]] * 3)
    scoring.before_test_epoch(runner)
    assert scoring.counted.families == first.families[:1]
    assert scoring.counted.fold_families == [first.families[1]] * 3
    assert scoring.counted.sample is None
    scoring.counted.update = update
    updates.clear()
    scoring.after_test_iter(runner, 0, "batch", ["image"])
    scoring.further, scoring.confirming = None, True
    scoring.before_test_epoch(runner)
    assert (scoring.counted.tallies.decisions, scoring.counted.sample) == (1, None)
    scoring.counted.update = update
    scoring.after_test_iter(runner, 0, "batch", ["image"])
    assert updates == [(None, "batch")] * 2
    scoring.confirming = scoring.args.free = False
    scoring.before_test_epoch(runner)
    assert scoring.counted.sample is None
    assert scoring.counted.tallies.decisions == 5


def test_a_written_decision_is_scored_once_more() -> None:
    scoring, _ = scoring_of(None)
    scoring.counted = before = SimpleNamespace(tallies="searched")
    seen: list[Any] = []

    def run() -> None:
        seen.append((scoring.confirming, scoring.counted))
        scoring.counted = SimpleNamespace(tallies="confirmed")

    loop = SimpleNamespace(run=run)
    runner = SimpleNamespace(load_checkpoint=seen.append, test_loop=loop)
    assert _confirm(runner, scoring, Path("b.pth")) == "confirmed"
    assert scoring.counted is before
    assert seen == ["b.pth", (True, None)]


def test_scores_of_decisions_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [60, 30, 10])
    decided = [np.where(rng.random(100) < right, truth, rng.integers(0, 3, 100)) for right in (0.9, 0.5, 0.2)]
    matrices = np.stack([confusion_matrix(truth, labels) for labels in decided])
    hits, predicted = matrices.diagonal(axis1=1, axis2=2), matrices.sum(1)
    tallies = SimpleNamespace(hits=hits, truth=np.array([60, 30, 10]), predicted=predicted, decisions=3)
    family = SimpleNamespace(name="prior")
    found = {0: None, 1: (family, 0.5), 2: (family, 1.0)}
    rows = _decisions(SimpleNamespace(counted=SimpleNamespace(decision=found.get)), tallies)
    assert [(row["family"], row["strength"]) for row in rows] == [
        ("plain", None),
        ("prior", 0.5),
        ("prior", 1.0),
    ]
    for row, labels in zip(rows, decided, strict=True):
        assert row["accuracy"] == pytest.approx(100 * accuracy_score(truth, labels), abs=1e-4)
        assert row["balanced_accuracy"] == pytest.approx(
            100 * balanced_accuracy_score(truth, labels), abs=1e-4
        )
        assert row["mIoU"] == pytest.approx(100 * jaccard_score(truth, labels, average="macro"), abs=1e-4)
        assert row["mIoU"] == round(row["mIoU"], 4)
    kept = _scores(np.array([50, 0, 3]), np.array([60, 0, 10]), np.array([55, 0, 15]))
    assert kept["per_class"] == {
        "iou": [round(100 * 50 / 65, 3), None, round(100 * 3 / 22, 3)],
        "recall": [round(100 * 50 / 60, 3), None, 30.0],
    }
    assert kept["accuracy"] == pytest.approx(100 * 53 / 70)


GAIN = [(5, 5), (6, 5), (8, 5), (7, 5), (6, 6)]  # right of ten of each of two classes, by shrinkage
EVEN = [(7, 7)] * 5


@pytest.mark.parametrize(
    ("held_out", "whole", "limits", "default", "floor", "taken"),
    [
        (GAIN, EVEN, (60, 55, 99), None, {}, 0.5),
        (GAIN, EVEN, (65, 55, 99), None, {}, None),  # no more than one parameter
        (GAIN, EVEN, (60, 65, 99), None, {}, None),  # than the plain decision
        (GAIN, EVEN, (60, 55, 64), 1, {}, 0.5),
        (GAIN, EVEN, (60, 55, 65), 1, {}, None),  # than the one without a search
        (GAIN[2:] + GAIN[:2], EVEN, (10, 10, 99), None, {}, None),  # shrunk to one parameter
        (GAIN, EVEN, (59, 55, 99), None, {"worst_class": 60.0}, 1.0),
        (GAIN, [*EVEN[:4], (9, 5)], (59, 55, 99), None, {"worst_class": 60.0}, None),
        (GAIN, [*EVEN[:4], (9, 6)], (59, 55, 99), None, {"worst_class": 60.0}, 1.0),
    ],
)
def test_free_factors_are_taken_where_they_gain(
    monkeypatch: pytest.MonkeyPatch,
    held_out: Any,
    whole: Any,
    limits: Any,
    default: int | None,
    floor: dict[str, float],
    taken: float | None,
) -> None:
    outputs, truth, weights = np.arange(12.0).reshape(2, 6), np.array([0, 1] * 3), np.arange(6.0)
    folds = np.array([0, 0, 1, 2, 2, 2])
    fits: list[Any] = []

    def fit(*given: Any) -> Any:
        fits.append(given)
        return given[-1] + [float(len(fits)), 0.0]

    monkeypatch.setattr("mmseol.classifiers.decisions.fit_free", fit)
    hits = np.array([(1, 1), *whole, *held_out])
    second = SimpleNamespace(hits=hits, truth=np.array([10, 10]), predicted=hits[:, ::-1] * 0 + 10)
    starts = {
        3: np.array([0.5, -0.5]),
        4: np.array([1.5, -1.5]),
        5: np.array([2.5, -2.5]),
        6: np.array([4.0, -4]),
    }
    first = SimpleNamespace(
        decision=lambda number: {6: (SimpleNamespace(kind="additive"), 1.0)}[number],
        sample=SimpleNamespace(columns=lambda: (outputs, truth, weights, folds)),
        log_factors=starts.get,
    )
    scoring: Any = SimpleNamespace(counted=first, further=None)
    passes: list[Any] = []

    def run() -> None:
        passes.append(scoring.further)
        scoring.counted = SimpleNamespace(tallies=second)

    selection = SimpleNamespace(
        tuned=6, by_fold=[3, 4, 5], out_of_fold=limits[0], scores=np.array(limits[1:]), default=default
    )
    runner = SimpleNamespace(test_loop=SimpleNamespace(run=run))
    found = _tune_free(runner, scoring, selection, "accuracy", floor)
    assert scoring.counted is first
    assert scoring.further is None
    for number, (start, own) in enumerate(zip((3, 4, 5, 6), fits, strict=True)):
        rest = folds != (number if number < 3 else -1)
        for value, expected in zip(own, (outputs[:, rest], truth[rest], weights[rest]), strict=False):
            np.testing.assert_array_equal(value, expected)
        assert own[3:5] == ("additive", "accuracy")
        np.testing.assert_array_equal(own[5], starts[start])
    ((together, by_fold),) = passes
    assert (len(together), len(by_fold)) == (1, 3)
    for number, family in enumerate([*by_fold, *together]):
        fitted = starts[number + 3] + [number + 1, 0]
        np.testing.assert_allclose(family.log_factors(0.0), starts[number + 3])
        np.testing.assert_allclose(family.log_factors(1.0), fitted - fitted.mean())
        assert family.strengths.tolist() == [0, 0.25, 0.5, 0.75, 1]
        assert (family.name, family.kind) == ("free", "additive")
    assert found.family is (None if taken is None else together[0])
    assert found.facts["taken"] == taken
    assert found.facts["shrinkage"] == [0, 0.25, 0.5, 0.75, 1]
    assert found.facts["scores"] == pytest.approx([5 * sum(pair) for pair in whole])
    assert found.facts["out_of_fold"] == pytest.approx([5 * sum(pair) for pair in held_out])
    if taken is not None:
        assert found.strength == taken
        assert found.hits.tolist() == list(whole[int(4 * taken)])


class Search:
    """Stands in for the parts of a search; notes what each is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, classes: Any, segmentation: bool) -> None:
        self.model = torch.nn.ModuleDict({"head": torch.nn.ModuleDict({"fc": torch.nn.Linear(2, 2)})})
        dataset = SimpleNamespace(metainfo=classes)
        self.test_loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset))
        self.segmentation, self.told = segmentation, list[Any]()
        self.free: Any = None
        family = SimpleNamespace(name="prior", kind="additive")
        self.counted = SimpleNamespace(
            tallies=SimpleNamespace(
                truth=np.array([6, 4]), num_classes=2, confusion=np.array([[5, 1], [1, 3]]), decisions=3,
                hits=np.array([[5, 3], [4, 3], [3, 4]]), predicted=np.array([[6, 4], [5, 5], [3, 7]]),
            ),
            decision={0: None, 1: (family, 0.5), 2: (family, 1.0)}.get,
            log_factors=lambda number: np.array([number, -number]) / 2,
        )  # fmt: skip
        self.chosen = 1
        for name in ("select", "check_classes"):
            monkeypatch.setattr(f"mmseol.classifiers.decisions.{name}", getattr(self, name))
        monkeypatch.setattr("mmseol.classifiers.checkpoints.write_decision", self.note("write_decision"))
        monkeypatch.setattr(decision_tuning, "_write", self.note("write"))
        monkeypatch.setattr(decision_tuning, "_summary", lambda facts: "in words")
        monkeypatch.setattr(
            decision_tuning, "_tune_free", lambda *given: self.note("free")(*given) or self.free
        )
        monkeypatch.setattr(
            decision_tuning, "_confirm", lambda *given: self.note("confirm")(*given) or self.again
        )
        monkeypatch.setattr(CommandRunner, "from_cfg", lambda cfg: self)
        self.again = SimpleNamespace(
            confusion=np.array([[4, 2], [1, 3]]), hits=np.array([[4, 3]]), truth=np.array([6, 4]),
            predicted=np.array([[5, 5]]),
        )  # fmt: skip

    def note(self, name: str) -> Any:
        return lambda *given: self.told.append((name, *given))

    def register_hook(self, hook: Any, priority: str) -> None:
        self.hook = hook
        assert priority == "VERY_LOW"

    def test(self) -> None:
        self.hook.counted, self.hook.segmentation, self.hook.default = self.counted, self.segmentation, 2
        self.hook.facts["kind"] = "additive"

    def check_classes(self, *given: Any) -> None:
        self.told.append(("classes", given[0].tolist(), *given[1:]))

    def select(self, tallies: Any, objective: str, floors: Any, default: int) -> Any:
        self.told.append(("select", objective, floors, default))
        assert tallies is self.counted.tallies
        return SimpleNamespace(tuned=2, chosen=self.chosen, to_dict=lambda: {"chosen": -1, "gain": 3.0})


def searched(tmp_path: Path, search: Search, **given: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the facts that are written, and the names of the parts that were called."""
    none = dict(objective=None, value=None, free=False, classifier=None, allow_absent=[], unsafe_load=False)
    args = Namespace(config="a.py", checkpoint="run/a.pth", out=str(tmp_path), floors={"accuracy": 9}, **none)
    vars(args).update({"loaded": {"state_dict": search.model.state_dict()}, **given})
    search.told.clear()
    run_tune_decision(Config(dict(launcher="none")), args)
    facts_ = [told[2] for told in search.told if told[0] == "write"]
    return facts_[0] if facts_ else {}, [told[0] for told in search.told]


def test_a_decision_is_chosen_written_and_scored_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    search = Search(monkeypatch, {"classes": ("a", "b")}, segmentation=False)
    found, parts = searched(tmp_path, search)
    assert parts == ["classes", "select", "write_decision", "confirm", "write"]
    assert search.told[0] == ("classes", [6, 4], ["a", "b"], [])
    assert search.told[1] == ("select", "balanced_accuracy", {"accuracy": 9}, 2)
    path = tmp_path / "a_decision.pth"
    _, source, out, kind, factors, *rest = search.told[2]
    assert (source, out, kind, factors.tolist(), rest) == (
        "run/a.pth",
        path,
        "additive",
        [0.5, -0.5],
        ["head.fc", False],
    )
    assert search.told[3] == ("confirm", search, search.hook, path)
    assert search.told[4][1] == tmp_path
    described = {"family": "prior", "kind": "additive", "strength": 0.5}
    assert found["chosen"] == {**described, "summands of the outputs": {"a": 0.5, "b": -0.5}}
    assert found["confirmed"]["confusion"] == [[4, 2], [1, 3]]
    assert found["confirmed"]["other_elements"] == 0
    assert found["confirmed"]["scores"]["accuracy"] == pytest.approx(70)
    assert found["plain"]["confusion"] == [[5, 1], [1, 3]]
    assert found["plain"]["scores"]["accuracy"] == pytest.approx(80)
    assert [row["strength"] for row in found["decisions"]] == [None, 0.5, 1.0]
    assert found["selection"] == {"chosen": 1, "gain": 3.0}
    assert (found["objective"], found["floor"], found["classes"]) == (
        "balanced_accuracy",
        {"accuracy": 9},
        ["a", "b"],
    )
    assert (found["written"], found["kind"]) == (str(path), "additive")
    assert capsys.readouterr().out == "in words\n"
    search.segmentation, search.test_loop.dataloader.dataset.metainfo = True, None
    found, _ = searched(tmp_path, search, value=1.0)  # the one that was asked for, if better or not
    assert (found["classes"], found["objective"]) == (["0", "1"], "mIoU")
    assert found["selection"]["chosen"] == 2
    assert found["chosen"]["strength"] == 1.0
    assert found["confirmed"]["other_elements"] == 2
    search.chosen = 0
    found, parts = searched(tmp_path, search, objective="macro_f1")
    assert parts == ["classes", "select", "write"]
    assert (found["written"], found["objective"]) == (None, "macro_f1")
    assert not {"chosen", "confirmed", "free"} & found.keys()
    for family, expected in ((None, None), (SimpleNamespace(name="free", kind="additive"), 0.25)):
        if family is not None:
            family.log_factors = lambda strength: np.array([strength, -strength])
        search.free = SimpleNamespace(
            facts={"taken": expected}, family=family, strength=0.25, hits=np.array([5, 1])
        )
        found, _ = searched(tmp_path, search, free=True)
        assert found["free"] == {"taken": expected}
        assert found.get("chosen", {}).get("strength") == expected
    assert found["confirmed"]["other_elements"] == 3
    search.chosen = 1
    monkeypatch.setenv("RANK", "1")
    found, parts = searched(tmp_path, search)
    assert parts == ["classes", "select", "confirm"]  # every process scores, the first one writes
    assert capsys.readouterr().out.count("in words") == 4
    state = {"head.fc.bias": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"'run/a\.pth' does not fit the model: head\.fc\.weight is missing"):
        searched(tmp_path, search, loaded=state)
    search.model["tail"] = torch.nn.Linear(2, 2)
    searched(tmp_path, search, loaded=search.model.state_dict(), classifier="tail")  # weights alone
    state = search.model.state_dict()
    del state["tail.weight"]
    with pytest.raises(ValueError, match=r"'run/a\.pth' has no weights of the classifier tail\."):
        searched(tmp_path, search, loaded=state, classifier="tail")
