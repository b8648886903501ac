"""Decisions chosen after training: what outputs estimate, winners, tallies, bootstrap, selection."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.distributed import run_ranks
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from sklearn.metrics import confusion_matrix, jaccard_score, recall_score
from torch import nn

from mmseol.classifiers import logit_adjustment
from mmseol.classifiers.checkpoints import write_decision
from mmseol.classifiers.decisions import (
    DecisionTallies,
    ElementSample,
    Family,
    OutputReader,
    Winners,
    check_classes,
    estimated_weights,
    find_winners,
    fit_free,
    make_family,
    select,
    winners,
    winners_numba,
)
from mmseol.hooks.tuned_decision import DecisionPass, loss_of_classifier, stored_counts
from mmseol.losses import (
    BalancedSoftmaxLoss,
    CrossEntropyLoss,
    LogitAdjustedLoss,
    OneHotMSELoss,
    OutlyingMSELoss,
)
from mmseol.metrics.scores import OBJECTIVES, overall_score, score_classes, score_tallies, summarize

COUNTS = [700, 200, 90, 10]
FRACTIONS = np.array(COUNTS) / sum(COUNTS)


def reweighted() -> OneHotMSELoss:
    loss = OneHotMSELoss(class_counts=COUNTS)
    loss.set_class_weight([1.0, 2.0, 3.0, 0.5])
    return loss


LOSSES = {
    "rank": OutlyingMSELoss(alpha=3.0, class_counts=COUNTS),
    "power": OutlyingMSELoss(scheme="power", gamma=0.5, class_counts=COUNTS),
    "one-hot": OneHotMSELoss(class_counts=COUNTS),
    "one-hot, weighted": reweighted(),
    "softmax": CrossEntropyLoss(),
    "softmax, weighted": CrossEntropyLoss(class_weight=0.5, class_counts=COUNTS),
    "softmax, prior": BalancedSoftmaxLoss(class_counts=COUNTS),
    "softmax, half a prior": LogitAdjustedLoss(tau=0.5, class_counts=COUNTS),
}


@pytest.mark.parametrize("name", LOSSES)
def test_outputs_estimate_what_is_claimed_and_the_decision_undoes_it(name: str) -> None:
    """At the minimum over one point with the labels' distribution P, the gradient is 0."""
    loss, p = LOSSES[name], torch.tensor([[0.5, 0.2, 0.25, 0.05]], dtype=torch.float64)
    kind, weights = estimated_weights(loss, COUNTS)
    weighted = p * torch.from_numpy(np.exp(weights))
    if kind == "multiplicative":  # with class weights, the outputs are divided by their mean
        factor = loss.current_class_weight()
        output = weighted / (p * (torch.ones(4) if factor is None else factor)).sum()
    else:
        output = weighted.log()
    output = output.clone().requires_grad_()
    losses = loss(output.expand(4, -1), torch.arange(4), reduction_override="none")  # for each label
    (gradient,) = torch.autograd.grad((p[0] * losses).sum(), output)
    assert gradient.abs().max() < 1e-12
    decision = make_family("prior", kind, COUNTS, weights, [0.0, 1.0])
    plain, balanced = brute_force(output.detach().T, torch.from_numpy(decision.candidates()), kind)
    assert plain == p.argmax()
    assert balanced == (p / torch.tensor(COUNTS)).argmax() == 3


def test_the_prior_of_cross_entropy_is_post_hoc_logit_adjustment() -> None:
    family = make_family("prior", "additive", COUNTS, None, [0.7])
    expected = logit_adjustment(COUNTS, 0.7).numpy()
    np.testing.assert_allclose(family.candidates()[0], expected - expected.mean())


def test_ranks_are_multiplied_or_divided() -> None:
    family = make_family("targets", "multiplicative", COUNTS, None, [1, -1])
    ranks = np.array([1, 2, 3, 4])
    divided, multiplied = np.exp(family.candidates())
    np.testing.assert_allclose(divided / divided[0], 1 / ranks)
    np.testing.assert_allclose(multiplied / multiplied[0], ranks)
    assert make_family("counts", "additive", COUNTS, np.arange(4.0)).candidates()[0].tolist() == [0] * 4


def test_families_refuse_what_they_cannot_be() -> None:
    with pytest.raises(ValueError, match="`family` must be one of 'prior', 'counts', 'targets', got 'free'"):
        make_family("free", "additive", COUNTS)
    with pytest.raises(ValueError, match="`strengths` must be a finite number, got nan"):
        make_family("prior", "additive", COUNTS, None, [float("nan")])
    with pytest.raises(ValueError, match=r"`strengths` must be finite numbers that ascend, got \[1.0, 0.0\]"):
        Family("a", "additive", np.zeros(2), np.zeros(2), [1.0, 0.0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`kind` must be one of"):
        make_family("prior", "softmax", COUNTS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`--kind` must be given for outputs trained with BCELoss"):
        estimated_weights(nn.BCELoss(), COUNTS)


def combined(outputs: torch.Tensor, logs: torch.Tensor, kind: str) -> torch.Tensor:
    return outputs * logs.exp()[:, None] if kind == "multiplicative" else outputs + logs[:, None]


def brute_force(outputs: torch.Tensor, candidates: torch.Tensor, kind: str) -> torch.Tensor:
    return torch.stack([combined(outputs, logs, kind).argmax(0) for logs in candidates])


@pytest.fixture
def without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winners, "has_numba", lambda: False)


@pytest.mark.parametrize("kind", ["multiplicative", "additive"])
@pytest.mark.parametrize("classes", [2, 7, 150])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("numba", [True, False])
def test_winners_are_those_of_every_decision_on_its_own(
    kind: Any, classes: int, dtype: torch.dtype, numba: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winners, "has_numba", lambda: numba)
    monkeypatch.setattr(winners_numba, "_LABELS", 20 * 70)  # several parts
    monkeypatch.setitem(winners._STRIP, "cpu", 128 * classes)
    monkeypatch.setitem(winners._SCORES, "cpu", 20 * 16)
    generator = torch.Generator().manual_seed(classes)
    outputs = torch.randn(classes, 300, generator=generator, dtype=dtype)
    outputs[:, 100:200] -= outputs[:, 100:200].max() + 0.1  # no positive output
    outputs[:, 5] = 0.0
    counts = np.geomspace(10**4, 3, classes).astype(int)
    family = make_family("prior", kind, counts, np.linspace(0, 2, classes))
    candidates = torch.from_numpy(family.candidates())
    expected = brute_force(outputs, candidates.to(dtype), kind)
    found = find_winners(outputs, candidates, kind)
    assert torch.equal(found.labels(), expected)
    assert len(found.elements) == (expected[1:] != expected[:-1]).sum() > 0  # nothing is changed back
    assert torch.equal(find_winners(outputs.view(classes, 12, 25), candidates, kind).labels(), expected)
    one = find_winners(outputs, candidates[3:4], kind)
    assert torch.equal(one.labels(), expected[3:4])
    across = outputs.T.contiguous().T  # channels last
    assert torch.equal(find_winners(across, candidates, kind).labels(), expected)


@pytest.mark.parametrize("kind", ["multiplicative", "additive"])
@pytest.mark.parametrize("size", [(29, 43), (8, 16), (3, 5)])
def test_winners_of_smooth_label_maps(
    kind: Any, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most classes win nowhere in a tile, and outputs of few values tie where they could."""
    compared = []
    argmax = winners._argmax
    monkeypatch.setattr(winners, "_argmax", lambda o, *rest: compared.append(o[0].shape) or argmax(o, *rest))
    monkeypatch.setitem(winners._SCORES, "cpu", 20 * 64 * 2)
    generator = torch.Generator().manual_seed(0)
    small = torch.randint(-2, 9, (1, 40, 3, 4), generator=generator) / 4.0
    outputs = nn.functional.interpolate(small, size, mode="bilinear")[0]
    outputs = (outputs * 16).round() / 16
    counts = np.repeat([1000, 100, 10], [20, 10, 10])  # equal factors keep ties
    candidates = torch.from_numpy(make_family("prior", kind, counts).candidates())
    expected = brute_force(outputs.flatten(1), candidates.float(), kind)
    assert torch.equal(find_winners(outputs, candidates, kind).labels(), expected)
    monkeypatch.setattr(winners, "has_numba", lambda: False)
    assert torch.equal(find_winners(outputs, candidates, kind).labels(), expected)
    assert sum(np.prod(shape) for shape in compared) == outputs[0].numel()  # each pixel once


@pytest.mark.usefixtures("without_numba")
def test_classes_far_below_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = torch.zeros(50, 16, 16)
    outputs[7], outputs[30, :, 8:] = 1.0, 2.0
    numbers = []
    argmax = winners._argmax
    monkeypatch.setattr(winners, "_argmax", lambda o, *rest: numbers.append(len(o)) or argmax(o, *rest))
    candidates = torch.zeros(2, 50)
    candidates[1, 30] = -1.0
    labels = find_winners(outputs, candidates, "multiplicative").labels().view(2, 16, 16)
    assert numbers == [2]
    assert labels[:, :, :8].unique().tolist() == [7]
    assert labels[0, :, 8:].unique().tolist() == [30]
    assert labels[1, :, 8:].unique().tolist() == [7]


def test_half_precision_is_lifted() -> None:
    outputs = torch.randn(5, 400, generator=torch.Generator().manual_seed(0)).half()
    candidates = torch.from_numpy(make_family("prior", "multiplicative", [9, 5, 3, 2, 1]).candidates())
    expected = find_winners(outputs.float(), candidates, "multiplicative").labels()
    assert torch.equal(find_winners(outputs, candidates, "multiplicative").labels(), expected)
    empty = find_winners(outputs[:, :0], candidates, "multiplicative")
    assert empty.labels().shape == (20, 0)


def images(number: int, pixels: int = 60) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return outputs (4, P) and labels of images; outputs that favour class 0."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for _ in range(number):
        truth = torch.multinomial(torch.tensor(FRACTIONS), pixels, True, generator=generator)
        outputs = torch.randn(4, pixels, generator=generator, dtype=torch.float64)
        outputs += 1.5 * nn.functional.one_hot(truth, 4).T + torch.from_numpy(np.log(FRACTIONS))[:, None]
        truth[torch.rand(pixels, generator=generator) < 0.1] = 255
        made.append((outputs, truth))
    return made


FAMILY = make_family("prior", "additive", COUNTS)
CANDIDATES = torch.from_numpy(FAMILY.candidates())


def tallied(made: Any, numbers: Any = None, **kwargs: Any) -> DecisionTallies:
    settings = {"images": len(made), "folds": 3, "replicates": 50, **kwargs}
    tallies = DecisionTallies(4, 1 + len(CANDIDATES), **settings)
    for i in range(len(made)) if numbers is None else numbers:
        outputs, truth = made[i]
        found = find_winners(outputs, CANDIDATES, "additive")
        tallies.add(i, truth, outputs.argmax(0), [found])
    return tallies


def test_tallies_are_those_of_confusion_matrices() -> None:
    made = images(7)
    tallies = tallied(made)
    every = torch.cat([torch.zeros(1, 4, dtype=torch.float64), CANDIDATES])
    labels = [brute_force(outputs, every, "additive") for outputs, _ in made]
    truth = torch.cat([truth for _, truth in made])
    kept = truth != 255
    for c, row in enumerate(torch.cat(labels, dim=1)):
        matrix = confusion_matrix(truth[kept], row[kept], labels=range(4))
        np.testing.assert_array_equal(tallies.hits[c], np.diag(matrix))
        np.testing.assert_array_equal(tallies.predicted[c], matrix.sum(0))
        np.testing.assert_array_equal(tallies.truth, matrix.sum(1))
        if c == 0:
            np.testing.assert_array_equal(tallies.confusion, matrix)
    for fold, own in enumerate([range(3), range(3, 5), range(5, 7)]):  # blocks of neighbours
        alone = tallied(made, own)
        assert torch.equal(tallies.by_fold[fold], alone.by_fold.sum(0))
        assert torch.equal(tallies.truth_by_fold[fold], alone.truth_by_fold.sum(0))
    total = torch.zeros_like(tallies.by_replicate)
    for i in range(7):
        _, weights = tallies._draw(i)
        total += tallied(made, [i]).by_fold.sum(0).flatten(1)[..., None] * weights
    assert torch.equal(tallies.by_replicate, total)
    predicted = tallies.by_replicate[1].view(21, 4, -1)  # every decision labels every element
    assert torch.equal(predicted.sum(1), tallies.truth_by_replicate.sum(0).expand(21, -1))


def test_replicates_draw_each_image_once_on_average() -> None:
    tallies = DecisionTallies(2, 1, images=400, folds=2, replicates=500)
    draws = torch.stack([tallies._draw(i)[1] for i in range(400)])
    assert draws.mean() == pytest.approx(1, abs=0.01)
    assert draws.var() == pytest.approx(1, abs=0.02)
    correlation = np.corrcoef(draws[:20])
    assert np.abs(correlation - np.eye(20)).max() < 0.25


def test_samples_are_images_of_one_element() -> None:
    outputs, truth = images(1, pixels=90)[0]
    outputs, truth = outputs[:, truth != 255], truth[truth != 255]
    size = len(truth)
    settings: dict[str, Any] = dict(images=size - 2, folds=4, replicates=20, blocks=False)
    one, many = (DecisionTallies(4, 1 + len(CANDIDATES), **settings) for _ in range(2))
    for i in range(size):
        part = outputs[:, i : i + 1]
        one.add(i, truth[i : i + 1], part.argmax(0), [find_winners(part, CANDIDATES, "additive")])
    for start in range(0, size, 32):  # the last two are repetitions past the end of the data set
        own = slice(start, start + 32)
        found = find_winners(outputs[:, own], CANDIDATES, "additive")
        many.add_samples(range(size)[own], truth[own], outputs[:, own].argmax(0), [found])
    assert one.seen == many.seen == size - 2
    for name in ("by_fold", "truth_by_fold", "by_replicate", "truth_by_replicate", "confusion"):
        assert torch.equal(getattr(one, name), getattr(many, name)), name
    assert (one.truth_by_fold.sum(1) > 5).all()  # not in blocks


def _rank(rank: int) -> tuple[list[float], int]:
    tallies = tallied(images(5), range(rank, 5, 2))
    outputs, truth = images(5)[0]
    tallies.add(5, truth, outputs.argmax(0), [])  # the sampler repeats an image to make the ranks even
    tallies.reduce()
    return tallies.by_replicate.flatten().tolist(), tallies.seen


def test_two_processes_count_as_one() -> None:
    expected = tallied(images(5)).by_replicate.flatten().tolist()
    assert run_ranks(_rank) == [(expected, 5)] * 2


def test_labels_of_other_classes_are_refused() -> None:
    tallies = DecisionTallies(4, 1, images=2, folds=2)
    for add in (tallies.add, lambda i, *rest: tallies.add_samples([i], *rest)):
        with pytest.raises(ValueError, match="`label` must be classes 0 to 3, got 4 in the validation data"):
            add(0, torch.tensor([4]), torch.tensor([0]), [])
    with pytest.raises(ValueError, match=r"`--folds` must be at most .* images, got 5 for 2"):
        DecisionTallies(4, 1, images=2)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_overall_scores_are_those_of_the_metrics(objective: str) -> None:
    matrices = np.random.default_rng(0).integers(0, 50, (3, 4, 4))
    matrices[1, 2] = 0  # not in the truth
    matrices[2, :, 3] = matrices[2, 3] = 0  # neither in the truth nor predicted
    tallies = (matrices.diagonal(axis1=1, axis2=2), matrices.sum(2), matrices.sum(1))
    got = overall_score(objective, score_tallies(*tallies))
    expected = [summarize(score_classes(matrix))[objective] for matrix in matrices]
    np.testing.assert_allclose(got, expected)
    assert np.isnan(overall_score(objective, score_tallies([0, 0], [0, 0], [0, 0])))


def test_an_unknown_score_is_named() -> None:
    with pytest.raises(ValueError, match=r"`objective` must be one of .*, got 'miou'"):
        overall_score("miou", score_tallies([1, 0], [1, 1], [1, 1]))


def test_the_tuned_decision_and_its_cross_validation_against_slow_loops() -> None:
    made = images(9)
    tallies = tallied(made)
    selection = select(tallies, "mIoU", default=11)

    every = torch.cat([torch.zeros(1, 4, dtype=torch.float64), CANDIDATES])

    def jaccard(pairs: list[tuple[int, int]]) -> float:
        truth = torch.cat([made[i][1] for i, _ in pairs])
        predicted = torch.cat([(made[i][0] + every[c][:, None]).argmax(0) for i, c in pairs])
        return 100 * jaccard_score(truth[truth != 255], predicted[truth != 255], average="macro")

    scores = [jaccard([(i, c) for i in range(9)]) for c in range(21)]
    np.testing.assert_allclose(selection.scores, scores)
    assert selection.tuned == 1 + int(np.argmax(scores[1:]))
    pooled = []
    for f, fold in enumerate([range(3), range(3, 6), range(6, 9)]):
        rest = [i for i in range(9) if i not in fold]
        best = 1 + int(np.argmax([jaccard([(i, c) for i in rest]) for c in range(1, 21)]))
        assert selection.by_fold[f] == best
        pooled += [(i, best) for i in fold]
    assert selection.out_of_fold == pytest.approx(jaccard(pooled))
    low, high = selection.gain_interval
    assert low < selection.gain < high
    assert selection.gain > 1
    assert selection.default == 11
    assert selection.scores[11] == pytest.approx(scores[11])  # of strength 1


def test_a_decision_that_gains_only_on_the_images_that_chose_it_is_not_taken() -> None:
    """Each image asks for another decision; the plain one is right on average."""
    tallies = DecisionTallies(2, 3, images=2, folds=2, replicates=10)
    truth = torch.tensor([0, 0, 0, 1, 1, 1])

    def constant(*rows: list[int]) -> list[Winners]:
        return [Winners.of_labels(torch.tensor(rows))]

    good, bad, plain = [0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1], torch.tensor([0, 0, 1, 0, 1, 1])
    tallies.add(0, truth, plain, constant(good, bad))
    tallies.add(1, truth, plain, constant(bad, [0, 0, 0, 1, 1, 0]))
    selection = select(tallies, "accuracy")
    assert selection.scores.tolist() == pytest.approx([100 * 8 / 12, 75, 100 * 8 / 12])
    assert selection.tuned == 1
    assert selection.out_of_fold == pytest.approx(50)  # each image gets the decision of the other
    assert selection.chosen == 0
    assert select(tallies, "accuracy", default=1).chosen == 1


def test_a_floor_holds_and_may_be_out_of_reach() -> None:
    tallies = tallied(images(9))
    free = select(tallies, "balanced_accuracy")
    accuracies = overall_score("accuracy", score_tallies(tallies.hits, tallies.truth, tallies.predicted))
    floor = float(accuracies[free.tuned]) + 1
    held = select(tallies, "balanced_accuracy", {"accuracy": floor})
    assert accuracies[held.tuned] >= floor
    assert held.scores[held.tuned] == max(held.scores[1:][accuracies[1:] >= floor])
    best = f"reach accuracy={accuracies.max():.4g}"
    with pytest.raises(
        ValueError, match=rf"`--floor` must be reached by a decision, got accuracy=99.9; alone.* {best}\."
    ):
        select(tallies, "mIoU", {"accuracy": 99.9})
    with pytest.raises(ValueError, match="`objective` must be one of"):
        select(tallies, "iou")


def test_a_class_without_validation_data_is_named() -> None:
    with pytest.raises(ValueError, match=r"none of c: .* add --allow-absent"):
        check_classes(np.array([3, 1, 0]), ["a", "b", "c"], allow_absent=False)
    check_classes(np.array([3, 1, 0]), ["a", "b", "c"], allow_absent=True)
    with pytest.raises(ValueError, match="none of a, b"):
        check_classes(np.array([0, 0]), ["a", "b"], allow_absent=True)


@pytest.mark.parametrize("prefix", ["head.fc", "decode_head.conv_seg"])
@pytest.mark.parametrize("kind", ["multiplicative", "additive"])
def test_written_classifiers_carry_the_decision(prefix: str, kind: Any, tmp_path: Any) -> None:
    torch.manual_seed(0)
    layer: nn.Module = nn.Linear(5, 4) if prefix.endswith("fc") else nn.Conv2d(5, 4, 1)
    state = {f"{prefix}.{name}": value.detach().clone() for name, value in layer.state_dict().items()}
    torch.save({"meta": {"epoch": 2}, "state_dict": state, "optimizer": {}}, tmp_path / "a.pth")
    log_factors = np.log([0.5, 1.0, 2.0, 3.7])
    write_decision(tmp_path / "a.pth", tmp_path / "b.pth", kind, log_factors)
    new = torch.load(tmp_path / "b.pth", weights_only=True)
    assert new["meta"]["adjusted_classifier"]["kind"] == kind
    x = torch.randn(3, 5) if prefix.endswith("fc") else torch.randn(3, 5, 6, 7)
    outputs = layer(x)
    layer.load_state_dict({name.split(".")[-1]: value for name, value in new["state_dict"].items()})
    c = torch.tensor(log_factors, dtype=torch.float32).view(-1, *[1] * (outputs.dim() - 2))
    torch.testing.assert_close(layer(x), outputs * c.exp() if kind == "multiplicative" else outputs + c)
    with pytest.raises(ValueError, match="is adjusted already"):
        write_decision(tmp_path / "b.pth", tmp_path / "c.pth", kind, log_factors)
    with pytest.raises(ValueError, match="`log_factors` must be one finite number for each of the 4 classes"):
        write_decision(tmp_path / "a.pth", tmp_path / "c.pth", kind, log_factors[:3])
    del state[f"{prefix}.bias"]
    torch.save({"meta": {}, "state_dict": state}, tmp_path / "no_bias.pth")
    if kind == "additive":
        with pytest.raises(ValueError, match=rf"goes into the bias of {prefix}, which has none"):
            write_decision(tmp_path / "no_bias.pth", tmp_path / "c.pth", kind, log_factors)
    assert not (tmp_path / "c.pth").exists()


def test_losses_and_counts_of_a_classifier_are_found() -> None:
    model = nn.Module()
    model.head, model.auxiliary_head = nn.Module(), nn.Module()
    model.head.fc = nn.Linear(2, 4)
    model.head.loss_decode = nn.ModuleList([CrossEntropyLoss(), OneHotMSELoss()])
    model.auxiliary_head.loss_decode = OutlyingMSELoss(class_counts=COUNTS)
    loss = loss_of_classifier(model, "head.fc")
    assert isinstance(loss, CrossEntropyLoss)
    assert stored_counts(model, loss).tolist() == COUNTS  # of another head
    assert loss_of_classifier(nn.ModuleDict({"fc": nn.Linear(2, 3)}), "fc") is None


def test_a_small_sample_has_one_element_of_each_class() -> None:
    sample = ElementSample(1, num_classes=2, budget=4)
    sample.add(0, 0, torch.rand(2, 9), torch.tensor([0] * 6 + [1] * 3))
    _, truth, weights, _ = sample.columns()
    assert truth.tolist() == [0, 1]
    assert weights.tolist() == [6, 3]


def test_a_sample_stands_for_all_elements_in_bounded_memory() -> None:
    made = images(40, pixels=500)
    sample = ElementSample(40, num_classes=4, budget=4 * 40 * 50)
    for i, (outputs, truth) in enumerate(made):
        sample.add(i, i % 3, outputs, truth)
    outputs, truth, weights, folds = sample.columns()
    assert outputs.shape[1] <= 40 * 50
    whole = torch.cat([truth for _, truth in made])
    counts = torch.bincount(whole[whole != 255], minlength=4)
    torch.testing.assert_close(torch.bincount(truth, weights, minlength=4), counts.double())
    assert torch.bincount(folds, minlength=3).min() > 0
    every = torch.cat([outputs for outputs, _ in made], dim=1).float()
    assert all((every == column[:, None]).all(0).any() for column in outputs.T[:20])
    some = ElementSample(4000, num_classes=4, budget=4 * 1000)  # a quarter of 4000 images of one element
    for i in range(4000):
        some.add(i, 0, made[0][0][:, :1], torch.tensor([i % 4]))
    _, truth, weights, _ = some.columns()
    assert len(truth) == pytest.approx(1000, rel=0.1)
    assert weights.unique().tolist() == [4.0]


@pytest.mark.parametrize("kind", ["multiplicative", "additive"])
def test_free_factors_undo_those_that_were_planted(kind: Any) -> None:
    generator = torch.Generator().manual_seed(2)
    truth = torch.randint(4, (4000,), generator=generator)
    clean = torch.rand(4, 4000, generator=generator, dtype=torch.float64)
    clean += 0.7 * nn.functional.one_hot(truth, 4).T
    planted = torch.tensor([0.6, -1.1, 0.9, -0.4], dtype=torch.float64)
    outputs = combined(clean, planted, kind)

    def accuracy(logs: Any) -> float:
        labels = combined(outputs, torch.as_tensor(logs), kind).argmax(0)
        return float(recall_score(truth, labels, average="macro"))

    fitted = fit_free(outputs, truth, torch.ones(4000), kind, "balanced_accuracy", np.zeros(4))
    assert accuracy(fitted) > accuracy(-planted) - 0.005 > accuracy(np.zeros(4)) + 0.1
    assert fitted.mean() == pytest.approx(0)
    np.testing.assert_allclose(fitted, -planted + planted.mean(), atol=0.25)
    weights = torch.where(truth == 0, 1e-3, 1.0)  # almost none of class 0
    rare = fit_free(outputs, truth, weights, kind, "accuracy", np.zeros(4))
    assert (rare - fitted)[0] < -0.2


def test_each_image_meets_the_families_of_its_fold() -> None:
    model = nn.ModuleDict({"fc": nn.Linear(2, 4)})
    strengths = np.array([0.0, 2.0])
    families = [Family("free", "additive", np.zeros(4), np.eye(4)[f], strengths) for f in range(3)]
    made = images(6)
    counted = DecisionPass(model, "fc", [FAMILY], 6, folds=3, fold_families=families)
    slow = np.zeros(4, dtype=int)
    for i, (outputs, truth) in enumerate(made):
        sample = SegDataSample(metainfo=dict(img_path="a.png"))
        sample.seg_logits = PixelData(data=outputs[:, None])
        sample.pred_sem_seg = PixelData(data=outputs.argmax(0)[None, None])
        sample.gt_sem_seg = PixelData(data=truth[None, None])
        counted.update([sample])
        labels = (outputs + 2 * torch.eye(4)[i // 2][:, None]).argmax(0)
        slow += np.bincount(truth[labels == truth], minlength=4)
    assert counted.tallies.decisions == 1 + 20 + 2
    np.testing.assert_array_equal(counted.tallies.hits[21], counted.tallies.hits[0])
    np.testing.assert_array_equal(counted.tallies.hits[22], slow)


def test_the_forward_hook_is_removed() -> None:
    model = nn.ModuleDict({"fc": nn.Linear(2, 3)})
    counted = DecisionPass(model, "fc", [], images=10)
    assert len(model["fc"]._forward_hooks) == 1
    counted.close()
    assert not model["fc"]._forward_hooks
    reader = OutputReader(model, "fc")
    with pytest.raises(ValueError, match=r"must be \(N, K\) for the 2 samples of a batch, got None"):
        next(reader.read([nn.Module(), nn.Module()]))


def test_recall_of_the_balanced_objective_is_scikit_learns() -> None:
    made = images(4)
    tallies = tallied(made)
    outputs, truth = torch.cat([o for o, _ in made], 1), torch.cat([t for _, t in made])
    kept = truth != 255
    got = overall_score("balanced_accuracy", score_tallies(tallies.hits, tallies.truth, tallies.predicted))
    expected = recall_score(truth[kept], outputs.argmax(0)[kept], average="macro")
    assert got[0] == pytest.approx(100 * expected)
