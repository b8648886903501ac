"""What is read from the predictions of the hosts, and what a family of decisions and its tallies refuse."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample
from torch import nn

from mmseol.classifiers.checkpoints import adjust_checkpoint, write_decision
from mmseol.classifiers.decisions import (
    DecisionTallies,
    ElementSample,
    Family,
    OutputReader,
    Winners,
    estimated_weights,
    find_winners,
    fit_free,
    make_family,
    select,
)
from mmseol.classifiers.decisions.selection import _best, _interval
from mmseol.hooks.tuned_decision import DecisionPass, ignored_label, loss_of_classifier, stored_counts
from mmseol.losses import OneHotMSELoss, OutlyingMSELoss

COUNTS = [700, 200, 90, 10]


def labelled(label: Any, predicted: int = 0) -> DataSample:
    return DataSample().set_gt_label(label).set_pred_label(predicted)


def reader_of(outputs: torch.Tensor) -> OutputReader:
    """Return a reader whose classifier has put out (N, K)."""
    model = nn.ModuleDict({"fc": nn.Identity()})
    reader = OutputReader(model, "fc")
    model["fc"](outputs)
    return reader


@pytest.mark.parametrize(
    ("samples", "other", "read"), [(4, 1, True), (4, 2, False), (3000, 3, True), (3000, 4, False)]
)
def test_ties_are_few(samples: int, other: int, read: bool) -> None:
    """One sample, or one in a thousand, may have another class than the argmax."""
    outputs = torch.eye(2)[torch.zeros(samples, dtype=torch.int64)]
    found = [labelled(1, predicted=int(i < other)) for i in range(samples)]
    reader = reader_of(outputs)
    if not read:
        with pytest.raises(ValueError, match="The head must predict the argmax of the outputs of fc"):
            next(reader.read(found))
        return
    (observed,) = reader.read(found)
    assert torch.equal(observed.outputs, outputs.T)
    assert observed.truth.tolist() == [1] * samples
    assert observed.plain.sum() == other
    assert reader.kept is None


@pytest.mark.parametrize("label", [[0, 1], None])
def test_samples_have_one_class(label: Any) -> None:
    sample = DataSample().set_pred_label(0) if label is None else labelled(label)
    with pytest.raises(ValueError, match="The validation data must have one class per image"):
        next(reader_of(torch.eye(2)[:1]).read([sample]))
    with pytest.raises(ValueError, match="The validation data must have one class per image"):
        next(reader_of(torch.eye(2)[:1]).read([DataSample().set_gt_label(0)]))  # nothing is predicted


def test_outputs_are_those_of_the_batch() -> None:
    with pytest.raises(ValueError, match=r"must be \(N, K\) for the 1 samples of a batch, got \(2, 2\)"):
        next(reader_of(torch.eye(2)).read([labelled(0)]))
    with pytest.raises(ValueError, match=r"for the 1 samples of a batch, got None"):
        next(reader_of(torch.zeros(1, 2, 1, 1)).read([labelled(0)]))


def scene(outputs: Any, truth: Any = None, **kwargs: Any) -> SegDataSample:
    sample = SegDataSample(metainfo={"img_path": "a.png"})
    sample.seg_logits = PixelData(data=outputs)
    sample.pred_sem_seg = PixelData(data=outputs.argmax(0, keepdim=True))
    if truth is not None:
        sample.gt_sem_seg = PixelData(data=truth)
    return sample


def test_label_maps_are_read_pixel_by_pixel() -> None:
    outputs, truth = torch.rand(3, 2, 4), torch.arange(8).view(1, 2, 4) % 3
    reader = reader_of(torch.zeros(1, 3))
    first, second = reader.read([scene(outputs, truth), scene(-outputs, truth)])
    for observed, own in ((first, outputs), (second, -outputs)):
        assert torch.equal(observed.outputs, own)
        assert torch.equal(observed.plain, own.argmax(0).flatten())
        assert torch.equal(observed.truth, truth.flatten())
    for sample, message in (
        (scene(outputs), "The validation data must have label maps, got none for a.png"),
        (scene(outputs[:1], truth), "fc must have one output per class, got 1: a sigmoid above a threshold"),
        (scene(outputs, truth[:, :1]), r"of the size of the predictions, \(2, 4\), got \(1, 4\) for a.png"),
        (scene(outputs, truth[..., :3]), r"of the size of the predictions, \(2, 4\), got \(2, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            next(reader.read([sample]))


class Classifies(nn.Module):
    """Model of one linear layer, with or without a bias, whose outputs may be bent."""

    def __init__(self, bias: bool, bend: Any = None) -> None:
        super().__init__()
        self.fc, self.bend = nn.Linear(3, 4, bias=bias), bend
        self.kept: Any = None

    def test_step(self, batch: torch.Tensor) -> list[Any]:
        outputs = self.fc(batch)
        if self.bend is not None:
            outputs = self.bend(outputs)
        return [scene(outputs.T[..., None])]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", ["multiplicative", "additive"])
@pytest.mark.parametrize("bend", [None, torch.tanh, lambda x: x / x.norm()])
def test_classifiers_that_carry_a_decision_are_linear(bias: bool, kind: Any, bend: Any) -> None:
    torch.manual_seed(0)
    model, batch = Classifies(bias, bend), torch.randn(5, 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    reader = OutputReader(model, "fc")
    (sample,) = model.test_step(batch)
    observed = SimpleNamespace(outputs=sample.seg_logits.data)
    message = None
    if kind == "additive" and not bias:
        message = "An additive decision goes into the bias of fc, which has none"
    elif bend is not None:
        part = "weights" if kind == "multiplicative" else "bias"
        message = rf"fc \(Linear\) must be linear and the last layer, and .* do not follow its {part}"
    if message is None:
        reader.check_linear(model, batch, kind, observed)
    else:
        with pytest.raises(ValueError, match=message):
            reader.check_linear(model, batch, kind, observed)
    with pytest.raises(ValueError, match=r"one output per class, got 4 for 3 classes|which has none"):
        reader.check_linear(model, batch, kind, SimpleNamespace(outputs=observed.outputs[:3]))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_large_negative_outputs_of_two_classes_are_linear_too() -> None:
    model, batch = Classifies(True), torch.randn(5, 3)
    with torch.no_grad():
        model.fc.weight *= 100
        model.fc.bias -= 5000
    reader = OutputReader(model, "fc")
    (sample,) = model.test_step(batch)
    reader.check_linear(model, batch, "multiplicative", SimpleNamespace(outputs=sample.seg_logits.data))
    outputs, truth = torch.rand(2, 1, 3), torch.tensor([[[0, 1, 1]]])
    (observed,) = reader.read([scene(outputs, truth)])
    assert torch.equal(observed.outputs, outputs)


@pytest.mark.parametrize("kind", ["multiplicative", "additive"])
def test_the_classifier_of_samples_is_checked_on_what_it_puts_out(kind: Any) -> None:
    class Samples(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 4)

        def test_step(self, batch: torch.Tensor) -> list[DataSample]:
            return [labelled(0, int(label)) for label in self.fc(batch).argmax(1)]

    torch.manual_seed(0)
    model, batch = Samples(), torch.randn(5, 3)
    reader = OutputReader(model, "fc")
    (observed,) = reader.read(model.test_step(batch))
    assert reader.kept is None
    reader.check_linear(model, batch, kind, observed)
    reader.close()
    assert reader.kept is None


# ------------------------------------------------------------------ families


@pytest.mark.parametrize("strengths", [[], [[0.0]], [0.0, 0.0], [1.0, 0.0], [0.0, float("inf")]])
def test_strengths_ascend(strengths: Any) -> None:
    with pytest.raises(ValueError, match="`strengths` must be finite numbers that ascend, got"):
        Family("a", "additive", np.zeros(2), np.zeros(2), strengths)


def test_the_strengths_of_each_family() -> None:
    for name, low, high, number in (("prior", 0, 1.9, 20), ("counts", 0, 1.9, 20), ("targets", -1, 1, 21)):
        family = make_family(name, "additive", COUNTS)
        np.testing.assert_allclose(family.strengths, np.linspace(low, high, number))
    family = make_family("prior", "additive", COUNTS, None, [1, 0, 1.0])
    assert family.strengths.tolist() == [0, 1]
    assert family.candidates().mean(1) == pytest.approx([0, 0])


def test_weights_of_classes_are_accounted_for_once() -> None:
    names = ("median_frequency", "enet", dict.fromkeys("abcd", 1))  # two of them of four, as the classes
    for weight in (None, *names, [1.0, 2.0]):
        kind, logs = estimated_weights(SimpleNamespace(class_loss=1, class_weight=weight), COUNTS)
        assert (kind, logs.tolist()) == ("additive", [0] * 4)
    kind, logs = estimated_weights(SimpleNamespace(class_loss=1, class_weight=[1.0, 2.0, 4.0, 0.0]), COUNTS)
    np.testing.assert_allclose(logs[:3], np.log([1, 2, 4]))
    assert np.isfinite(logs).all()
    trained = torch.tensor([1.0, 2.0, 4.0, 1.0], requires_grad=True)
    _, logs = estimated_weights(SimpleNamespace(class_loss=1, class_weight=trained), COUNTS)
    np.testing.assert_allclose(logs, np.log([1, 2, 4, 1]))
    for name, known in (("SeesawLoss", True), ("LabelSmoothLoss", True), ("BCELoss", False)):
        loss = type(name, (nn.Module,), {})()
        if known:
            assert estimated_weights(loss, COUNTS)[0] == "additive"
        else:
            with pytest.raises(ValueError, match="`--kind` must be given for outputs trained with BCELoss"):
                estimated_weights(loss, COUNTS)


# ------------------------------------------------------------------ tallies and their selection


@pytest.mark.parametrize(
    ("made", "defaults"),
    [
        (DecisionTallies, dict(folds=5, replicates=200, blocks=True, ignore_index=255, seed=0)),
        (DecisionPass, dict(folds=5, replicates=200, blocks=True, sample=False)),
        (ElementSample, dict(budget=2 * 10**6, seed=0)),
        (adjust_checkpoint, dict(classifier=None, counts=None, keep_bias=False, unsafe_load=False)),
        (write_decision, dict(classifier=None, unsafe_load=False)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_defaults(made: Any, defaults: dict[str, Any]) -> None:
    parameters = inspect.signature(made).parameters
    assert {name: parameters[name].default for name in defaults} == defaults


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(folds=1), "`folds` must be a whole number of at least 2, got 1"),
        (dict(folds=2, replicates=0), "`replicates` must be a whole number of at least 1, got 0"),
        (dict(folds=4), "`--folds` must be at most the number of validation images, got 4 for 3"),
    ],
)
def test_folds_and_replicates(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DecisionTallies(2, 1, images=3, **settings)
    DecisionTallies(2, 1, images=3, folds=3, replicates=1)


def constant(labels: list[int]) -> list[Winners]:
    return [Winners.of_labels(torch.tensor([labels]))]


def test_a_default_is_taken_where_it_is_better_than_the_plain_decision() -> None:
    """Two images of four elements; the plain decision has 2, 3 or 4 right, the others 3 and 3."""
    truth = torch.tensor([0, 0, 1, 1])
    three, other_three = [0, 0, 1, 0], [0, 1, 1, 1]
    for plain, chosen in (([0, 1, 1, 0], 2), ([1, 0, 1, 1], 0), ([0, 0, 1, 1], 0)):
        tallies = DecisionTallies(2, 3, images=2, folds=2, replicates=5)
        for image in range(2):
            found = [*constant(three), *constant(other_three)]
            tallies.add(image, truth, torch.tensor(plain), found)
        tallies.add(2, truth, torch.tensor(plain), [])  # past the last image
        assert tallies.seen == 2
        selection = select(tallies, "accuracy", default=2)
        assert (selection.tuned, selection.chosen, selection.default) == (1, chosen, 2)
        assert selection.out_of_fold == pytest.approx(75)
        below = select(tallies, "accuracy", floor={"accuracy": 74}, default=2)
        assert below.chosen == chosen
    with pytest.raises(ValueError, match="`tallies` must be of the plain and at least one other decision"):
        select(DecisionTallies(2, 1, images=2, folds=2, replicates=5), "accuracy")


def test_a_plain_decision_below_the_floor_is_not_taken() -> None:
    truth = torch.tensor([0, 0, 0, 1])
    tallies = DecisionTallies(2, 2, images=2, folds=2, replicates=5)
    for image in range(2):
        tallies.add(image, truth, torch.tensor([0, 0, 1, 1]), constant([0, 0, 0, 0]))
    for floor, chosen in (({}, 0), ({"macro_f1": 50}, 0), ({"accuracy": 75.0}, 0)):
        assert select(tallies, "balanced_accuracy", floor).chosen == chosen
    worse = DecisionTallies(2, 2, images=2, folds=2, replicates=5)
    for image in range(2):
        worse.add(image, truth, torch.tensor([0, 1, 1, 1]), constant([0, 0, 0, 0]))
    assert select(worse, "balanced_accuracy").chosen == 0
    assert select(worse, "balanced_accuracy", {"accuracy": 75.0}).chosen == 1


def test_a_selection_as_plain_data() -> None:
    tallies = DecisionTallies(2, 2, images=2, folds=2, replicates=5)
    for image in range(2):
        tallies.add(image, torch.tensor([0, 1]), torch.tensor([0, 1]), constant([0, 0]))
    made = select(tallies, "accuracy").to_dict()
    assert made["scores"] == [100, 50]
    assert (made["chosen"], made["tuned"], made["by_fold"]) == (0, 1, [1, 1])
    assert (made["gain"], made["gain_interval"]) == (-50, (-50, -50))
    assert np.shape(made["intervals"]) == (2, 2)


def test_intervals_are_percentiles_of_the_replicates() -> None:
    generator = torch.Generator().manual_seed(0)
    tallies = DecisionTallies(2, 3, images=20, folds=2, replicates=30)
    for image in range(20):
        truth, plain, one, other = torch.randint(2, (4, 12), generator=generator)
        tallies.add(image, truth, plain, [Winners.of_labels(torch.stack([one, other]))])
    scores = []
    for b in range(30):
        hits = tallies.by_replicate[0, :, b].view(3, 2).sum(1)
        scores.append((100 * hits / tallies.truth_by_replicate[:, b].sum()).numpy())
    selection = select(tallies, "accuracy", default=2)

    def interval(values: Any) -> Any:
        return pytest.approx(tuple(np.percentile(values, (2.5, 97.5), axis=0)))

    drawn = np.stack(scores)
    for c in range(3):
        assert tuple(selection.intervals[c]) == interval(drawn[:, c])
    assert selection.gain_interval == interval(drawn[:, selection.tuned] - drawn[:, 0])
    assert selection.default_gain_interval == interval(drawn[:, 2] - drawn[:, 0])
    assert select(tallies, "accuracy").default_gain_interval is None
    np.testing.assert_array_equal(selection.tuned_in_replicates, 1 + drawn[:, 1:].argmax(1))
    assert np.isnan(_interval(np.zeros(0))).all()


def test_where_no_decision_reaches_the_floor_the_best_of_all_is_tuned() -> None:
    scores, none = np.array([9.0, 1.0, 5.0, 2.0]), np.zeros(4, dtype=bool)
    assert _best(scores, none) == 2
    assert _best(scores, np.array([True, True, False, True])) == 3


@pytest.mark.parametrize(
    ("plain", "tuned", "default", "floor", "chosen"),
    [
        ([0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 1, 1], 75, 0),  # the default recalls more, below the floor
        ([1, 1, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0], 75, 2),  # the plain one recalls more, below the floor
        ([1, 1, 1, 1], [0, 0, 0, 1], [0, 0, 1, 1], 0, 1),
    ],
)
def test_what_is_chosen_without_a_search_has_to_reach_the_floor(
    plain: Any, tuned: Any, default: Any, floor: float, chosen: int
) -> None:
    tallies = DecisionTallies(2, 3, images=2, folds=2, replicates=5)
    for image in range(2):
        found = [*constant(tuned), *constant(default)]
        tallies.add(image, torch.tensor([0, 0, 0, 1]), torch.tensor(plain), found)
    assert select(tallies, "balanced_accuracy", {"accuracy": floor}, default=2).chosen == chosen


def test_sums_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "mmseol.classifiers.decisions.tallies.all_reduce", lambda tensor, operation: tensor.mul_(2)
    )
    tallies = DecisionTallies(2, 2, images=2, folds=2, replicates=5)
    tallies.add(1, torch.tensor([0, 1]), torch.tensor([1, 1]), constant([0, 1]))
    names = ("by_fold", "truth_by_fold", "by_replicate", "truth_by_replicate", "confusion")
    before = {name: getattr(tallies, name).clone() for name in names}
    tallies.reduce()
    assert tallies.seen == 2
    for name in names:
        assert torch.equal(getattr(tallies, name), 2 * before[name]), name
        assert before[name].any()


def test_images_past_the_last_one_and_empty_ones_change_no_sum() -> None:
    tallies = DecisionTallies(20, 1, images=2, folds=2, replicates=5)
    empty = torch.zeros(0, dtype=torch.int64)
    tallies.add(0, empty, empty, [])
    tallies.add_counted(2, torch.ones(2, 1, 20, dtype=torch.int64), torch.ones(20, dtype=torch.int64))
    tallies.add_samples([2, 3], torch.tensor([0, 1]), torch.tensor([0, 1]), [])
    assert (tallies.seen, tallies.truth.sum(), tallies.by_fold.sum()) == (1, 0, 0)
    tallies.add(1, torch.tensor([19, 255], dtype=torch.uint8), torch.tensor([5, 5]), [])
    assert tallies.confusion.nonzero().tolist() == [[19, 5]]


def test_a_sample_takes_each_element_once_and_none_that_is_ignored() -> None:
    outputs = torch.rand(2, 300, generator=torch.Generator().manual_seed(0))
    truth = (torch.arange(300) % 2).to(torch.uint8)
    sample = ElementSample(2, num_classes=2, budget=2 * 2 * 200)
    sample.add(0, 0, outputs, torch.full((300,), 255, dtype=torch.uint8))
    sample.add(1, 3, outputs, truth)
    taken, labels, weights, folds = sample.columns()
    assert torch.unique(taken, dim=1).shape == taken.shape == (2, 200)
    assert (labels.dtype, folds.unique().tolist(), weights.unique().tolist()) == (torch.int64, [3], [1.5])
    scarce = ElementSample(2, num_classes=2, budget=6)  # three elements for two images
    for image in range(2):
        scarce.add(image, 0, outputs[:, :1], truth[:1])
    assert scarce.columns()[2].tolist() == [1, 1]


def slow_fit(outputs: Any, truth: Any, weights: Any, kind: str, start: Any) -> Any:
    """Three rounds over the classes; each takes the step with the best recall, and none without a gain."""
    logs = np.array(start, dtype=float)

    def recall(logs: Any) -> float:
        column = logs[:, None]
        labels = (outputs * np.exp(column) if kind == "multiplicative" else outputs + column).argmax(0)
        own = [truth == k for k in range(len(logs))]
        return float(np.mean([weights[k & (labels == truth)].sum() / weights[k].sum() for k in own]))

    for _ in range(3):
        for k in range(len(logs)):
            values = {}
            for step in (0, -1, -0.5, -0.25, -0.1, 0.1, 0.25, 0.5, 1):
                trial = logs.copy()
                trial[k] += step
                values[step] = recall(trial)
            gain = max(values.values()) - values[0]
            logs[k] += 0 if gain < 1e-9 else max(values, key=values.__getitem__)
    return logs - logs.mean()


@pytest.mark.parametrize("kind", ["multiplicative", "additive"])
@pytest.mark.parametrize("far", [-4.0, 5.0])
@pytest.mark.parametrize("seed", range(4))
def test_free_factors_are_those_of_a_slow_loop(kind: Any, far: float, seed: int) -> None:
    """Every step is the best somewhere; some factors are out of the reach of three rounds."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(4), 12)
    outputs = 4 * rng.random((4, 48)) + 2 * np.eye(4)[:, truth]
    planted = rng.permutation([far, 0.6, -0.35, 0.2])
    outputs = outputs * np.exp(planted)[:, None] if kind == "multiplicative" else outputs + planted[:, None]
    weights = rng.random(48)
    tensors = torch.from_numpy(outputs), torch.from_numpy(truth), torch.from_numpy(weights)
    start = np.array([0, 1, 0, -1])
    fitted = fit_free(*tensors, kind, "balanced_accuracy", start)
    np.testing.assert_allclose(fitted, slow_fit(outputs, truth, weights, kind, start), atol=1e-9)


def test_winners_among_more_classes_than_a_byte_counts() -> None:
    outputs = torch.randn(300, 4, 6, generator=torch.Generator().manual_seed(0))
    candidates = torch.zeros(3, 300)
    candidates[1, 290:], candidates[2, :9] = 2.0, 2.0
    expected = torch.stack([(outputs + row[:, None, None]).argmax(0).flatten() for row in candidates])
    assert expected.max() > 255
    assert torch.equal(find_winners(outputs, candidates, "additive").labels(), expected)


# ------------------------------------------------------------------ parts of a model


@pytest.mark.parametrize(("label", "expected"), [(3, 3), (None, 255), (True, 255), (0, 0), ("3", 255)])
def test_the_ignored_label_is_the_heads(label: Any, expected: int) -> None:
    model = nn.ModuleDict({"head": nn.ModuleDict({"fc": nn.Linear(2, 3)})})
    model["head"].ignore_index = label
    assert ignored_label(model, "head.fc") == expected


def test_counts_are_those_of_the_classifiers_loss_first() -> None:
    own, other = OutlyingMSELoss(class_counts=[9, 1]), OutlyingMSELoss(class_counts=[5, 5])
    model = nn.ModuleDict({"a": other, "b": own})
    assert stored_counts(model, own).tolist() == [9, 1]
    assert stored_counts(model, None).tolist() == [5, 5]
    assert stored_counts(model, OneHotMSELoss()).tolist() == [5, 5]
    empty = OutlyingMSELoss()
    empty.allocate_class_counts(2)  # zeros, until they are counted
    assert stored_counts(nn.ModuleDict({"a": empty}), empty) is None


@pytest.mark.parametrize("attribute", ["loss_decode", "loss_module", "loss", "losses"])
def test_the_loss_of_a_head_by_every_name(attribute: str) -> None:
    loss, later = OneHotMSELoss(), OutlyingMSELoss()
    head = nn.ModuleDict({"layers": nn.ModuleDict({"fc": nn.Linear(2, 3)}), attribute: loss})
    model = nn.ModuleDict({"head": head})
    assert loss_of_classifier(model, "head.layers.fc") is loss
    head[attribute] = nn.ModuleList([loss, later])
    assert loss_of_classifier(model, "head.layers.fc") is loss


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("method", ["tau_norm", "logit_adjustment"])
def test_the_bias_of_an_adjusted_classifier(tmp_path: Path, method: Any, keep: bool) -> None:
    state = {"head.fc.weight": torch.ones(2, 4), "head.fc.bias": torch.tensor([1.0, 2.0])}
    torch.save({"meta": {"epoch": 3}, "state_dict": state}, tmp_path / "a.pth")
    adjust_checkpoint(tmp_path / "a.pth", tmp_path / "b.pth", method, 1.0, counts=[9, 1], keep_bias=keep)
    new = torch.load(tmp_path / "b.pth", weights_only=True)
    expected = {"method": method, "tau": 1.0, "classifier": "head.fc"}
    assert new["meta"] == {"epoch": 3, "adjusted_classifier": expected}
    bias = torch.tensor([1.0, 2.0])
    if method == "logit_adjustment":
        bias = bias - torch.tensor([0.9, 0.1]).log()
    elif not keep:
        bias = torch.zeros(2)
    torch.testing.assert_close(new["state_dict"]["head.fc.bias"], bias)
    with pytest.raises(FileExistsError, match="`out` must be a new file"):
        adjust_checkpoint(tmp_path / "a.pth", tmp_path / "b.pth", method, 1.0, counts=[9, 1])
    with pytest.raises(ValueError, match="`counts` must have one entry per class, got 3 for the 2 classes"):
        adjust_checkpoint(tmp_path / "a.pth", tmp_path / "c.pth", method, 1.0, counts=[9, 1, 1])
    torch.save({"weights": state}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="`source` must be a checkpoint with a 'state_dict'"):
        adjust_checkpoint(tmp_path / "other.pth", tmp_path / "c.pth", method, 1.0)


def test_folds_are_blocks_of_neighbours_or_drawn() -> None:
    made = [
        DecisionTallies(2, 1, images=60, folds=3, replicates=1, blocks=blocks) for blocks in (True, False)
    ]
    blocks, drawn = ([tallies.fold_of(i) for i in range(60)] for tallies in made)
    assert blocks == sorted(blocks) == [i // 20 for i in range(60)]
    assert drawn != sorted(drawn)
    assert set(drawn) == {0, 1, 2}


def test_outputs_are_kept_without_their_graph() -> None:
    model = nn.ModuleDict({"fc": nn.Linear(2, 3)})
    reader = OutputReader(model, "fc")
    model["fc"](torch.ones(1, 2))
    assert reader.kept is not None
    assert not reader.kept.requires_grad
