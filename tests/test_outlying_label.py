"""What the outlying label does: outputs that follow the formula, and those that do not, get the verdicts."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, PixelData
from mmpretrain.structures import DataSample
from sklearn.metrics import balanced_accuracy_score

from mmseol.analysis.figures import label_figures
from mmseol.analysis.outlying_label.cases import CROSS_ENTROPY, LATE, ONE_HOT, OUTLYING, Case
from mmseol.analysis.outlying_label.label_command import _with_others, compact, find_runs
from mmseol.analysis.outlying_label.label_decisions import decisions, held_out, nearest_target
from mmseol.analysis.outlying_label.label_markdown import label_markdown
from mmseol.analysis.outlying_label.target_estimates import class_means_against_labels, estimates, gradients
from mmseol.analysis.statistics.verdicts import resampled, statement, unit_sums, verdict
from mmseol.classifiers.decisions import find_winners
from mmseol.experiment.checkpoint_outputs import (
    NEAREST,
    PLAIN,
    RANK,
    CheckpointOutputs,
    decision_rows,
    prior,
    read_outputs,
)
from mmseol.losses import CrossEntropyLoss, OutlyingMSELoss

COUNTS = np.array([600, 250, 100, 50])
RANKS = np.array([1.0, 2.0, 3.0, 4.0])
K = 4


def drawn(number: int, seed: int, balanced: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities of the training data at points, and the labels of these points."""
    rng = np.random.default_rng(seed)
    fractions = np.full(K, 1 / K) if balanced else COUNTS / COUNTS.sum()
    truth = rng.choice(K, number, p=fractions)
    x = rng.normal(size=(number, K)) + 1.5 * np.eye(K)[truth]
    joint = np.exp(1.5 * x) * COUNTS  # the density of class k is proportional to exp(1.5 x_k)
    return joint / joint.sum(1, keepdims=True), truth


def outputs(a: np.ndarray, truth: np.ndarray, kind: Any, weights: np.ndarray) -> CheckpointOutputs:
    names, families = decision_rows(kind, COUNTS, weights)
    scores = torch.from_numpy(a.T)
    labels = [scores.argmax(0, keepdim=True)]
    labels += [find_winners(scores, torch.from_numpy(f.candidates()), kind).labels() for f in families]
    if NEAREST in names:
        distances = ((a[:, None] - np.diag(weights)) ** 2).sum(2)
        labels.append(torch.from_numpy(distances.argmin(1))[None])
    eye = np.eye(K, dtype=np.int64)
    predicted = eye[torch.cat(labels).numpy()].transpose(1, 0, 2)
    tallies = np.stack([predicted * eye[truth][:, None], predicted], -1)
    classes, image = np.array(list("abcd")), np.arange(len(truth))
    return CheckpointOutputs(
        kind, False, classes, COUNTS, weights, np.array(names), tallies, eye[truth], a, truth, image
    )


def run(loss: str, seed: int) -> dict[str, CheckpointOutputs]:
    """Return outputs that are exactly what the formula says."""
    splits = {}
    for number, (split, balanced) in enumerate((("train", False), ("val", True), ("held out", True))):
        p, truth = drawn(1500, 10 * seed + number, balanced)
        if loss == CROSS_ENTROPY:
            splits[split] = outputs(np.log(p) + 3, truth, "additive", np.ones(K))
        else:
            weights = 0.3 * RANKS if loss == OUTLYING else np.ones(K)
            splits[split] = outputs(weights * p, truth, "multiplicative", weights)
    return splits


@pytest.fixture(scope="module")
def case() -> Case:
    runs = {(loss, LATE): {s: run(loss, s) for s in (1, 2, 3)} for loss in (CROSS_ENTROPY, ONE_HOT, OUTLYING)}
    return Case("made", runs, balanced=True)


def verdicts(found: dict[str, Any]) -> dict[str, str]:
    return {one.text: one.verdict for one in found["statements"]}


def test_outputs_that_follow_the_formula_support_it(case: Case) -> None:
    said = verdicts(estimates(case))
    assert len(said) == 5
    assert set(said.values()) == {"supported"}
    said = verdicts(decisions(case))
    assert len(said) == 7
    assert {text: v for text, v in said.items() if " = " in text} == {
        text: "supported" for text in said if " = " in text
    }
    assert said["trained outlying MSE > trained cross entropy"] == "supported"


def test_outputs_that_do_not_follow_it_refute_it(case: Case) -> None:
    """One-hot targets passed for outlying ones."""
    runs = {**case.runs, (OUTLYING, LATE): {}}
    for seed, splits in case.runs[ONE_HOT, LATE].items():
        p, truth = splits["held out"].outputs, splits["held out"].truth
        runs[OUTLYING, LATE][seed] = {"held out": outputs(p, truth, "multiplicative", 0.3 * RANKS)}
    wrong = Case("made", runs, balanced=True)
    said = verdicts(estimates(wrong))
    assert said["best divisors of outlying MSE grow with rank^1"] == "refuted"
    assert said["outlying outputs over their targets are better estimates than over one number"] == "refuted"
    assert said["outlying outputs over targets estimate P as well as cross entropy"] == "refuted"


def test_scores_are_scikit_learns(case: Case) -> None:
    found = decisions(case)
    (row,) = [row for row in found["rows"] if row["loss"] == OUTLYING]
    factors = {PLAIN: RANKS, prior(0): np.ones(K), RANK: RANKS, prior(1): 1 / COUNTS}
    for name, values in factors.items():
        scores = []
        for seed in (1, 2, 3):
            p, truth = drawn(1500, 10 * seed + 2, True)
            scores.append(100 * balanced_accuracy_score(truth, (p * values).argmax(1)))
        assert row[name] == pytest.approx((np.mean(scores), np.std(scores, ddof=1)), abs=1e-6)


def test_nearest_targets_prefer_frequent_classes(case: Case) -> None:
    found = nearest_target(case)
    (row,) = found["rows"]
    assert row["equals P there"][0] == 1
    assert row["frequent third elsewhere"][0] > 0.5
    assert verdicts(found)["the argmax is better than the nearest target"] == "supported"
    p, truth = drawn(1500, 12, True)
    values = 0.3 * RANKS
    nearest = ((values * p)[:, None] - np.diag(values)) ** 2
    score = 100 * balanced_accuracy_score(truth, nearest.sum(2).argmin(1))
    assert case.score(case.of(OUTLYING, LATE)[1], NEAREST)[0] == pytest.approx(score)


def test_gradients_and_class_means(case: Case) -> None:
    found = gradients(case)
    said = verdicts(found)
    assert said["cross entropy puts no gradient on wrong outputs"] == "refuted"
    (row,) = [row for row in found["rows"] if row["loss"] == CROSS_ENTROPY]
    assert row["fraction on wrong outputs"][0] == pytest.approx(0.5)  # sum over k != y of p_k is 1 - p_y
    p, truth = drawn(1500, 10, False)
    (row,) = [row for row in found["rows"] if row["loss"] == OUTLYING]
    size = np.abs(0.3 * RANKS * p - 0.3 * RANKS * np.eye(K)[truth])
    assert row["fraction of rare classes"][0] == pytest.approx(size[truth == 3].sum() / size.sum(), abs=0.05)
    means = class_means_against_labels(case)
    (train,) = [row for row in means["rows"] if row["data"].endswith("training data")]
    own = [
        np.mean(
            [drawn(1500, 10 * s, False)[0][drawn(1500, 10 * s, False)[1] == k, k].mean() for s in (1, 2, 3)]
        )
        for k in range(K)
    ]
    np.testing.assert_allclose(train["own output over target"], own, atol=1e-4)
    text = "means of rare classes lie farther from their labels than of frequent ones, held-out data"
    assert verdicts(means)[text] == "supported"


def test_tuned_decisions_gain_on_held_out_data(case: Case) -> None:
    found = held_out(case)
    said = verdicts(found)
    for row in found["rows"]:
        if row["loss"] != OUTLYING:  # whose argmax is near the best decision
            assert row["gain by cross-validation"][0] > 2
            assert row["held out, tuned"][0] - row["held out, argmax"][0] > 2
    for loss in ("cross entropy", "one-hot MSE"):
        assert said[f"the tuned decision is better than the argmax on held-out data: {loss}"] == "supported"


def test_records_become_tables_and_figures(case: Case) -> None:
    from dataclasses import asdict
    from json import loads

    for name, measure in (
        ("estimates", estimates),
        ("decisions", decisions),
        ("class_means", class_means_against_labels),
        ("gradients", gradients),
        ("nearest_target", nearest_target),
        ("held_out", held_out),
    ):
        found = measure(case)
        record = {**found, "statements": [asdict(one) for one in found["statements"]]}
        record = loads(compact(record))
        table = label_markdown(record, "statements").splitlines()
        assert len(table) == 2 + len(record["statements"]) > 2
        assert len(label_markdown(record, None).splitlines()) == 2 + len(record["rows"]) > 2
        assert getattr(label_figures, f"draw_{name}")(record).axes


def test_a_table_has_a_column_for_each_data_set_and_the_wider_interval() -> None:
    shared = dict(text="a is better", images=[0.5, 1.0], difference=0.75, seeds=3, verdict="undecided")
    rows = [dict(shared, data="digits, late", by_seed=[-30, 1]), dict(shared, data="b, late", by_seed=None)]
    text = label_markdown({"statements": [*rows, dict(rows[0], data="c, early")]}, "late")
    assert text.splitlines() == [
        "| statement, late in training | digits | b |",
        "|---|---|---|",
        "| a is better | **undecided** +0.8 [-30.0, +1.0] | **undecided** +0.75 [+0.50, +1.00] |",
    ]


def test_units_are_resampled_together() -> None:
    sums = unit_sums(np.arange(6.0), [0, 0, 1, 1, 1, 2])
    assert sums.tolist() == [1, 9, 5]
    first, second = resampled([sums, 2 * sums], resamples=50)
    assert first[0] == 15
    np.testing.assert_array_equal(second, 2 * first)
    assert set(np.diff(np.unique(first % 4)).tolist()) <= {0.0, 1.0, 2.0, 3.0}


@pytest.mark.parametrize(
    ("low", "high", "rule", "margin", "expected"),
    [
        (0.1, 2, "above", 0, "supported"),
        (-2, -0.1, "above", 0, "refuted"),
        (-1, 1, "above", 0, "undecided"),
        (-1, 1, "equal", 2, "supported"),
        (1, 3, "equal", 2, "undecided"),
        (2.5, 3, "equal", 2, "refuted"),
        (-1, 9, "at least", 2, "supported"),
        (-9, -3, "at least", 2, "refuted"),
    ],
)
def test_the_interval_decides(low: float, high: float, rule: str, margin: float, expected: str) -> None:
    assert verdict(low, high, rule, margin) == expected


def test_the_wider_interval_decides() -> None:
    """The units leave no doubt, the seeds do."""
    first = [np.full(100, value) for value in (1.0, 9.0, 2.0)]
    found = statement("a", "b", first, [np.zeros(100)] * 3)
    assert found.images == (4.0, 4.0)
    assert found.by_seed is not None
    assert found.by_seed[0] < 0
    assert found.verdict == "undecided"
    assert statement("a", "b", first[:1], [np.zeros(100)]).verdict == "supported"


def test_outputs_come_back_from_their_file_and_source_only(tmp_path: Path) -> None:
    made = run(OUTLYING, 1)["val"]
    made.save(tmp_path / "a.npz", "checkpoint 1")
    again = CheckpointOutputs.load(tmp_path / "a.npz", "checkpoint 1")
    assert again is not None
    np.testing.assert_array_equal(again.rows(RANK), made.rows(RANK))
    assert again.kind == "multiplicative"
    assert CheckpointOutputs.load(tmp_path / "a.npz", "checkpoint 2") is None
    (tmp_path / "a.npz").write_bytes(b"PK")
    assert CheckpointOutputs.load(tmp_path / "a.npz", "checkpoint 1") is None
    first, second = made.halves()
    assert first.rows(PLAIN).sum() + second.rows(PLAIN).sum() == made.rows(PLAIN).sum()
    assert second.image[0] == 0
    assert len(first.truth) == 750


class Segmentor(torch.nn.Module):
    """A model of one layer on images of two channels."""

    def __init__(self) -> None:
        super().__init__()
        self.decode_head = torch.nn.Module()
        self.decode_head.conv_seg = torch.nn.Conv2d(2, 3, 1)
        self.decode_head.loss_decode = OutlyingMSELoss(class_counts=[9, 5, 1])
        self.decode_head.ignore_index = 9

    def test_step(self, batch: Any) -> list[Any]:
        found = []
        for image, truth in batch:
            outputs = self.decode_head.conv_seg(image[None])[0]
            parts = {
                "seg_logits": outputs,
                "pred_sem_seg": outputs.argmax(0)[None],
                "gt_sem_seg": truth[None],
            }
            sample = BaseDataElement()
            sample.set_data({name: PixelData(data=data) for name, data in parts.items()})
            found.append(sample)
        return found


def test_small_label_maps_are_images_and_not_samples() -> None:
    """Two images of 12 pixels, fewer than are kept; the ignored label is the head's."""
    torch.manual_seed(0)
    model = Segmentor()
    truths = [torch.randint(0, 3, (3, 4)) for _ in range(2)]
    truths[1][0] = 9
    batch = [(torch.randn(2, 3, 4), truth) for truth in truths]
    dataset = SimpleNamespace(metainfo={"classes": "abc"})
    loader = type("Loader", (list,), {"dataset": dataset})([batch])
    runner: Any = SimpleNamespace(model=model, load_checkpoint=lambda path: None)
    found = read_outputs(runner, "a.pth", loader)
    assert found.segmentation
    assert found.image.tolist() == [0] * 12 + [1] * 8
    for image, ((pixels, truth), rows) in enumerate(zip(batch, found.rows("argmax"), strict=True)):
        labels = model.decode_head.conv_seg(pixels[None])[0].argmax(0)[truth != 9]
        truth = truth[truth != 9]
        for k in range(3):
            expected = [((labels == k) & (truth == k)).sum(), (labels == k).sum(), (truth == k).sum()]
            assert rows[k].tolist() == [int(count) for count in expected], image
    assert (found.kind, found.classes.tolist()) == ("multiplicative", ["a", "b", "c"])
    assert found.counts.tolist() == [9, 5, 1]
    targets = np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(found.weights / found.weights[0], targets)
    kept = [truth != 9 for truth in truths]
    expected = [model.decode_head.conv_seg(image[None])[0].flatten(1).T[own.flatten()]
                for (image, _), own in zip(batch, kept, strict=True)]  # fmt: skip
    for image, values in enumerate(expected):  # all pixels, in a random order
        own = found.outputs[found.image == image]
        np.testing.assert_allclose(np.sort(own, 0), np.sort(values.detach().numpy(), 0), rtol=1e-6)
        distances = ((values.detach().numpy()[:, None] - np.diag(found.weights)) ** 2).sum(2)
        labels = truths[image][kept[image]].numpy()
        for name, decided in (
            (NEAREST, distances.argmin(1)),
            (prior(1), (values.detach().numpy() / found.weights / [9, 5, 1]).argmax(1)),
            (RANK, (values.detach().numpy() / found.weights * targets).argmax(1)),
        ):
            cells = [[((decided == k) & (labels == k)).sum(), (decided == k).sum()] for k in range(3)]
            assert found.rows(name)[image, :, :2].tolist() == cells, name
    assert not model.training
    dataset.metainfo["classes"] = None
    few = read_outputs(runner, "a.pth", loader, pixels=5, seed=1)
    again = read_outputs(runner, "a.pth", loader, pixels=5, seed=1)
    assert few.image.tolist() == [0] * 5 + [1] * 5
    assert few.classes.tolist() == ["0", "1", "2"]
    np.testing.assert_array_equal(few.outputs, again.outputs)
    others = [read_outputs(runner, "a.pth", loader, pixels=5, seed=seed).outputs for seed in (2, 3)]
    assert any(not np.array_equal(few.outputs, other) for other in others)
    assert not model.decode_head.conv_seg._forward_hooks


class Classifier(torch.nn.Module):
    """A model of one layer, whose loss knows no counts."""

    def __init__(self, counts: Any) -> None:
        super().__init__()
        self.head = torch.nn.Module()
        self.head.fc = torch.nn.Linear(2, 3)
        self.head.loss_module = CrossEntropyLoss(class_counts=counts)

    def test_step(self, batch: Any) -> list[Any]:
        assert not torch.is_grad_enabled()
        scores = self.head.fc(torch.stack([inputs for inputs, _ in batch]))
        return [
            DataSample().set_gt_label(label).set_pred_label(int(row.argmax()))
            for row, (_, label) in zip(scores, batch, strict=True)
        ]


def test_samples_are_images() -> None:
    torch.manual_seed(0)
    model = Classifier([9, 5, 1])
    items = [(torch.randn(2), label) for label in (0, 2, 255, 1, 1)]
    dataset = SimpleNamespace(dataset=SimpleNamespace(metainfo={"classes": ["a", "b", "c"]}))  # a subset
    loader = type("Loader", (list,), {"dataset": dataset})([items[:2], items[2:]])
    loaded: list[str] = []
    runner: Any = SimpleNamespace(model=model, load_checkpoint=loaded.append)
    found = read_outputs(runner, Path("a.pth"), loader)
    assert loaded == ["a.pth"]
    assert (found.kind, found.segmentation, found.targets) == ("additive", False, None)
    assert found.image.tolist() == [0, 1, 2, 3]  # one is ignored
    assert found.truth.tolist() == [0, 2, 1, 1]
    valid = torch.stack([inputs for inputs, label in items if label != 255])
    outputs = model.head.fc(valid).detach().numpy()
    np.testing.assert_allclose(found.outputs, outputs, rtol=1e-6)
    for name, values in ((PLAIN, outputs), (prior(1.5), outputs - 1.5 * np.log([9, 5, 1]))):
        decided = values.argmax(1)
        expected = np.stack([np.eye(3)[decided] * np.eye(3)[found.truth], np.eye(3)[decided]], -1)
        np.testing.assert_array_equal(found.rows(name)[..., :2], expected)
        np.testing.assert_array_equal(found.rows(name)[..., 2], np.eye(3)[found.truth])
    assert NEAREST not in found.decisions
    with pytest.raises(FileNotFoundError, match="`checkpoint` must hold the training counts of its classes"):
        read_outputs(SimpleNamespace(model=Classifier(None), load_checkpoint=loaded.append), "a.pth", loader)


def test_runs_of_a_sweep_are_found_beside_those_of_other_losses(tmp_path: Path) -> None:
    train = dict(config="quickstart/digits.py", imbalance=None, data_root=None, seed=2)
    options = ["train_cfg.max_epochs=9", "test_cfg=None", "optim_wrapper.optimizer.lr=0.5"]
    for loss, stage in (
        ("ce", "final"),
        ("ldam", "final"),
        ("outlying_mse:alpha=3", "final"),
        ("mse", "tune"),
    ):
        trial = tmp_path / "trials" / loss.partition(":")[0]
        (trial / "train").mkdir(parents=True)
        request = dict(stage=stage, train=dict(train, loss=loss, cfg_options=options))
        (trial / "trial.json").write_text(json.dumps(request))
        (trial / "record.json").write_text("{}")
        for epoch in (2, 4, 6, 9):
            (trial / "train" / f"epoch_{epoch}.pth").touch()
    found = list(find_runs(tmp_path))
    rows = [(run.loss, run.stage, run.epoch, run.seed) for run in found]
    assert rows[:2] == [("ce", "early", 2, 2), ("ce", "late", 9, 2)]
    assert rows[2:] == [("outlying_mse", "early", 2, 2), ("outlying_mse", "late", 9, 2)]
    assert {run.settings["lr"] for run in found} == {0.5}
    assert [run.settings.get("alpha") for run in found] == [None, None, 3, 3]


def test_data_sets_that_are_not_measured_again_stay_in_a_record() -> None:
    def record(environments: dict[str, int], *data: str) -> dict[str, Any]:
        rows = [{"data": one, "value": environments} for one in data]
        curves = {f"{one}: ce": environments for one in data}
        return {
            "environments": environments,
            "runs": rows,
            "rows": rows,
            "statements": rows,
            "curves": curves,
        }

    earlier = record({"digits": 1, "camvid": 1}, "digits, early", "digits, late", "camvid, late", "camvid")
    new = record({"digits": 2, "cifar10": 2}, "digits, late", "cifar10, late")
    merged = _with_others(new, earlier)
    assert [*merged["environments"].items()] == [("digits", 2), ("camvid", 1), ("cifar10", 2)]
    for key in ("runs", "rows", "statements"):
        assert merged[key] == new[key][:1] + earlier[key][2:] + new[key][1:]
    assert [*merged["curves"]] == ["digits, late: ce", "camvid, late: ce", "camvid: ce", "cifar10, late: ce"]
    assert merged["curves"]["digits, late: ce"] == new["environments"]
