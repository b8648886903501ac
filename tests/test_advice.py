"""The command ``advise``: batches without a class, and advice that the records support."""

from __future__ import annotations

import json
import shlex
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.small_data import LabelDataset, seg_dataset, write_images, write_maps
from mmengine.config import Config
from scipy import stats

from mmseol.__main__ import COMMANDS, main
from mmseol.analysis.records.evidence import Comparison, RecordedRun
from mmseol.analysis.statistics.paired import SeedInterval
from mmseol.counting import count_dataset
from mmseol.counting.counts import ClassCounts
from mmseol.counting.skew import batches_without
from mmseol.experiment import LOSSES, advice
from mmseol.experiment.advice import (
    _choose,
    _command,
    _decision_advice,
    _loss_advice,
    _ordered,
    _rate_advice,
    _row,
    _sampler_advice,
    _sureness,
    _unknown,
    advise,
    run_advise,
)
from mmseol.experiment.commands import load_config
from mmseol.experiment.data import expected_without
from mmseol.samplers import ClassAwareSampler, RareClassSampler

ROOT = Path(__file__).parents[1]
RECORDS = {path.parent.name: json.loads(path.read_text()) for path in ROOT.glob("results/*/record.json")}
LABELS = [0] * 70 + [1] * 20 + [2] * 6 + [3] * 4


@pytest.mark.parametrize("batch", [1, 3, 8, 100, 1000])
def test_batches_without_a_class_are_hypergeometric(batch):
    images = np.array([0, 1, 5, 60, 100])
    expected = stats.hypergeom(100, images, min(batch, 100)).pmf(0)
    np.testing.assert_allclose(batches_without(images, 100, batch), expected, atol=1e-12)


def drawn_without(sampler: Any, contains: np.ndarray, batch: int, epochs: int) -> np.ndarray:
    """Return the fraction of drawn batches without each class."""
    batches = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        order = np.array(list(sampler))
        rows = order[: len(order) // batch * batch].reshape(-1, batch)
        batches.append(~contains[rows].any(1))
    return np.concatenate(batches).mean(0)


def test_samplers_by_class_give_the_batches_that_are_expected(tmp_path, mmseg_scope):
    dataset = LabelDataset(LABELS)
    counts = count_dataset(dataset, 4)
    cfg = Config(dict(train_dataloader=dict(batch_size=5, sampler=dict(type="mmseol.ClassAwareSampler"))))
    contains = np.array(LABELS)[:, None] == np.arange(4)
    drawn = drawn_without(ClassAwareSampler(dataset, seed=0), contains, 5, epochs=50)
    np.testing.assert_allclose(expected_without(cfg, dataset, counts), drawn, atol=0.05)
    plain = expected_without(cfg, dataset, counts, {"type": "DefaultSampler", "shuffle": True})
    np.testing.assert_allclose(plain, batches_without(counts.images, 100, 5))

    root = write_maps(tmp_path, number=40)
    write_images(root, number=40)
    scenes = seg_dataset(root)
    counts = count_dataset(scenes, 4, cache=False)
    sampler = RareClassSampler(scenes, seed=0)
    drawn = drawn_without(sampler, sampler.contains, 4, epochs=50)
    expected = expected_without(cfg, scenes, counts, {"type": "mmseol.RareClassSampler"}) ** (4 / 5)
    np.testing.assert_allclose(expected, drawn, atol=0.08)


def advice_on(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Return what the command prints as JSON."""
    main("advise", [*arguments, "--json"])
    return json.loads(capsys.readouterr().out)


def config_of(command: str) -> Config:
    """Return the config that a command to train would use."""
    words = shlex.split(command)
    assert words[:4] == ["python", "-m", "mmseol", "train"]
    parser = ArgumentParser()
    COMMANDS["train"].add_arguments(parser)
    return load_config(parser.parse_args(words[4:]))


def test_advice_on_digits_is_what_the_sweep_found(capsys):
    report = advice_on(capsys, "quickstart/digits.py")
    runs = {run["loss"]: run for run in RECORDS["losses_digits"]["runs"]}
    means = {loss: np.mean(run["scores"]["last"]["accuracy"]) for loss, run in runs.items()}
    better = [loss for loss in sorted(means, key=means.get, reverse=True) if means[loss] > means["ce"]]
    better.remove("logit_adjusted")  # with tau 1 the same as balanced softmax
    losses = [one for one in report["advice"] if one["kind"] == "loss"]
    assert [one["text"].split()[1].split(":")[0].strip(".") for one in losses] == better[:3]
    for loss, one in zip(better, losses, strict=False):
        difference = means[loss] - means["ce"]
        assert f"{difference:+.1f}" in one["evidence"][0]
        (row,) = [
            row
            for row in RECORDS["losses_digits"]["comparisons"]
            if row["loss"] == loss and row["score"] == "accuracy" and row["reference"] == "ce"
        ]
        low, high = row["training"]
        ends, _, rest = one["evidence"][0].partition("interval over seeds [")[2].partition("]")
        assert [float(end) for end in ends.split(", ")] == pytest.approx([low, high], abs=0.06)
        assert rest.startswith(" covers 0" if low <= 0 else " does not cover 0")
        chosen = runs[loss]["chosen"]
        cfg = config_of(one["command"])
        assert cfg.optim_wrapper.optimizer.lr == chosen["values"]["lr"]
        assert cfg.optim_wrapper.optimizer.weight_decay == chosen["values"]["wd"]
        head = cfg.model.head.get("head", cfg.model.head)  # losses of cosines wrap it
        assert head.loss.get("alpha") == chosen["values"].get("alpha")
        assert ("at the border" in one["evidence"][0]) is bool(chosen["at_border"])
    nearest = np.mean(RECORDS["quickstart_digits"]["scores"]["outlying MSE, nearest target"]["accuracy"])
    (decision,) = [one for one in report["advice"] if one["kind"] == "decision"]
    assert f"nearest target: accuracy {nearest:.1f}" in decision["evidence"][0]
    assert any(line.startswith("The order of 1 to 3") for line in report["unknown"])


def test_advice_on_digits_names_a_sampler_for_the_rarest(capsys):
    report = advice_on(capsys, "quickstart/digits.py")
    (one,) = [one for one in report["advice"] if one["kind"] == "sampler"]
    cfg = config_of(one["command"])
    assert cfg.train_dataloader.sampler == dict(type="mmseol.ClassAwareSampler")
    missed = batches_without(report["counts"]["images"], 331, cfg.train_dataloader.batch_size)
    np.testing.assert_allclose(report["batches_without"], missed, atol=1e-6)
    assert f"9 {100 * missed[9]:.0f} % -> " in one["evidence"][0]
    assert one["evidence"][1] == "records of samplers: none"


def test_advice_on_toy_scenes_is_what_the_quickstart_found(toy, capsys):
    report = advice_on(capsys, "quickstart/toy_camvid.py", "--data-root", str(toy))
    (one,) = [one for one in report["advice"] if one["kind"] == "loss"]
    iou = RECORDS["quickstart"]["mean_iou"]
    assert one["text"] == "Try outlying_mse."
    assert (
        f"mIoU {iou['outlying MSE']:.1f} (lr 0.01), ce {iou['cross entropy']:.1f} (lr 1)"
        in one["evidence"][0]
    )
    assert "One seed" in one["evidence"][0]
    assert len(one["evidence"]) == 1  # CamVid is other data
    assert config_of(one["command"]).optim_wrapper.optimizer.lr == 0.01
    assert any("left out: losses_camvid, camvid_r18" in line for line in report["unknown"])
    assert not [one for one in report["advice"] if one["kind"] == "sampler"]


def test_advice_on_camvid_is_what_its_records_found(toy, capsys):
    main("advise", ["camvid/fastfcn_r18.py", "--data-root", str(toy)])
    text = capsys.readouterr().out
    runs = {run["loss"]: run for run in RECORDS["losses_camvid"]["runs"]}
    scores = {loss: np.mean(run["scores"]["last"]["mIoU"]) for loss, run in runs.items()}
    best = sorted(scores, key=scores.get, reverse=True)
    different = {scores[loss]: loss for loss in reversed(best)}  # the first of equal losses
    for place, loss in enumerate([*different.values()][:-4:-1], 1):
        assert (
            f"{place}. Try {loss}.\n   - results/losses_camvid, this config: mIoU {scores[loss]:.1f}" in text
        )
        rate = runs[loss]["chosen"]["values"]["lr"]
        assert (
            f"--loss {loss} --seed 1 --data-root {toy} --cfg-options optim_wrapper.optimizer.lr={rate}"
            in text
        )
    worse = [loss for loss in best if scores[loss] <= scores["ce"] and loss != "ce"]
    (line,) = [line for line in text.splitlines() if "not better there" in line]
    found = set(line.rstrip(".").partition(": ")[2].split(", "))
    better_in_camvid_r18 = {"outlying_mse"}
    assert found == {loss.partition(":")[0] for loss in worse} - better_in_camvid_r18
    rates = [value for row, value in RECORDS["camvid_r18"]["mean_iou"].items() if "entropy" in row]
    assert f"mIoU of ce is {min(rates):.1f} to {max(rates):.1f} by its learning rate" in text
    assert "python -m mmseol sweep sweeps/camvid_r18.py" in text


ARGS = Namespace(config="mine.py", data_root="my data", imbalance=None, cfg_options=["a.b=1"])


def sweep(scores: dict[str, list[float]], config: str = "mine.py") -> dict[str, Any]:
    """Return a record of a sweep."""
    same = dict(config=config, imbalance=None, split="test", epochs=1, task="classification", classes=["a"])
    runs = [
        dict(same, loss=loss, chosen=None, scores={"last": {"accuracy": values}})
        for loss, values in scores.items()
    ]
    return {"mine": dict(kind="sweep", title="t", checkpoint="last", runs=runs, comparisons=[])}


def told(records: dict[str, Any]) -> tuple[list[str], list[str], list[Any]]:
    """Return the texts of the losses, what is not known, and all advice."""
    dataset = LabelDataset(LABELS)
    counts = ClassCounts(*[np.bincount(LABELS)] * 3)
    cfg = Config(dict(train_dataloader=dict(batch_size=50)), cfg_text="#", filename="mine.py")
    without = expected_without(cfg, dataset, counts)
    found, unknown = advise(cfg, ARGS, dataset, list("abcd"), counts, without, records)
    return [one.text for one in found if one.kind == "loss"], unknown, found


def test_what_many_seeds_tell_is_not_called_unknown():
    scores = {"ce": [40.0, 41, 40, 41], "elm": [60.0, 61, 61, 62], "lade": [50.0, 50, 51, 52]}
    losses, unknown, found = told(sweep(scores))
    assert losses == ["Try elm.", "Try lade."]
    assert not [
        line for line in unknown if line.startswith(("Whether other seeds", "The order", "No record"))
    ]
    assert "4 seeds" in found[0].evidence[0]
    assert "does not cover 0" in found[0].evidence[0]
    assert found[0].command.endswith("--loss elm --seed 1 --data-root 'my data' --cfg-options a.b=1")


def test_what_few_or_differing_seeds_do_not_tell_is_said():
    losses, unknown, _ = told(sweep({"ce": [40.0, 44.0], "elm": [41.0, 46.0], "lade": [45.0, 41.0]}))
    assert losses == ["Try elm.", "Try lade."]
    assert "no interval over seeds excludes 0 for elm, lade" in "\n".join(unknown)
    assert "The order of 1 to 2" in "\n".join(unknown)


def test_no_loss_is_advised_that_no_record_supports():
    losses, unknown, _ = told(sweep({"ce": [40.0], "elm": [39.0], "lade": [40.0]}))
    assert losses == []
    assert "Which loss is better than cross entropy: none is in these records." in unknown
    assert any(line.endswith("not better there: lade, elm.") for line in unknown)


def test_settings_of_other_data_are_not_copied():
    records = sweep({"ce": [40.0], "outlying_mse": [42.0]}, config="theirs.py")
    records["mine"]["runs"][1]["chosen"] = {"values": {"lr": 0.5, "alpha": 0.3}}
    losses, unknown, found = told(records)
    assert losses == ["Try outlying_mse."]
    assert "lr=0.5" not in found[0].command
    assert "No record is of this config; the nearest are of other data" in unknown[0]
    records["mine"]["runs"][0]["config"] = records["mine"]["runs"][1]["config"] = "mine.py"
    losses, _, found = told(records)
    assert losses == ["Try outlying_mse:alpha=0.3."]
    assert found[0].command.endswith("a.b=1 optim_wrapper.optimizer.lr=0.5")


def test_without_records_nothing_is_claimed():
    losses, unknown, found = told({})
    assert losses == []
    assert unknown == ["There is no record of classification."]
    assert [one.kind for one in found] == ["decision"]


# ------------------------------------------------------------------ the sentences


def recorded(loss: str, scores: tuple[float, ...] = (40.0,), record: str = "r", **kwargs: Any) -> RecordedRun:
    return RecordedRun(record, "T", "classification", loss, {"accuracy": scores}, **kwargs)


def beside(run: RecordedRun, low: float | None = None, high: float | None = None) -> Comparison:
    seeds = None if low is None and high is None else SeedInterval(3, 1.0, low, high, None)
    reference = recorded("ce", values={"lr": 0.1})
    return Comparison(run, reference, run.mean("accuracy") - 40.0, seeds, 1)


def test_the_nearest_records_that_beat_cross_entropy_are_chosen():
    better = [beside(recorded(f"loss{k}", (45.0 - k,))) for k in range(6)]
    same_name, equal = beside(recorded("loss0:x=1", (50.0,))), beside(recorded("other", (45.0,)))
    worse = beside(recorded("worse", (40.0,)))
    chosen = _choose([(3, [better[0], same_name, equal, worse]), (2, better[1:])])
    assert [(rank, one.run.loss) for rank, one in chosen] == [(3, "loss0"), (2, "loss1"), (2, "loss2")]
    far = [beside(recorded("far", (60.0,)))]
    assert [one.run.loss for _, one in _choose([(2, better[:1]), (1, far)])] == ["loss0"]
    assert [one.run.loss for _, one in _choose([(2, [worse]), (1, far)])] == ["far"]
    assert [one.run.loss for _, one in _choose([(1, far), (0, better[:1])])] == ["far", "loss0"]


@pytest.mark.parametrize(
    ("run", "interval", "text"),
    [
        ({}, (None, None), "One seed: the difference may be chance; the losses were not tuned."),
        (dict(tuned=True), (0.0, 2.0), "3 seeds, interval over seeds [+0.0, +2.0] covers 0."),
        (dict(tuned=True), (-2.0, 0.0), "3 seeds, interval over seeds [-2.0, +0.0] covers 0."),
        (dict(tuned=True), (0.1, 2.0), "3 seeds, interval over seeds [+0.1, +2.0] does not cover 0."),
        (dict(tuned=True), (1.0, None), "One seed: the difference may be chance."),
        (
            dict(tuned=True, detail="lr at the border", intervals={"accuracy": (-1.0, 3.0)}),
            (None, None),
            "One seed: the difference may be chance; over images [-1.0, +3.0]; lr at the border.",
        ),
        (dict(tuned=True, detail="other"), (None, None), "One seed: the difference may be chance."),
    ],
)
def test_how_sure_a_difference_is(run, interval, text):
    assert _sureness(beside(recorded("elm", **run), *interval)) == text


def test_rows_name_scores_and_settings():
    one = beside(recorded("elm", (44.0, 46.0), values={"lr": 0.5}, tuned=True))
    assert _row(3, one).startswith(
        "results/r, this config: accuracy 45.0 ± 1.4 (lr 0.5), ce 40.0 (lr 0.1): +5.0. One seed"
    )
    one.run.scores["few/accuracy"] = (10.0, 20.0)
    assert "rare classes" not in _row(0, one)
    one.reference.scores["few/accuracy"] = (5.0,)
    assert "results/r, other data: " in _row(0, one)
    assert ": +5.0; rare classes 15.0, ce 5.0. " in _row(0, one)


def test_settings_chosen_on_these_data_are_in_the_command():
    values = {"lr": 0.5, "wd": 0.1, "alpha": 6, "ties": "dense"}
    near = beside(recorded("outlying_mse:alpha=6", (45.0,), values=values))
    other = beside(recorded("outlying_mse", (43.0,), record="s"))
    third = beside(recorded("elm", (43.0,), record="s"))
    groups = [(3, [near, third]), (1, [other])]
    args = Namespace(config="a b.py", data_root=None, imbalance="step:10", cfg_options=None)
    one = _loss_advice(args, near, 3, groups)
    assert one.text == "Try outlying_mse:alpha=6,ties=dense."
    assert len(one.evidence) == 1
    assert one.command == (
        "python -m mmseol train 'a b.py' --loss outlying_mse:alpha=6,ties=dense --seed 1 --imbalance step:10 "
        "--cfg-options optim_wrapper.optimizer.lr=0.5 optim_wrapper.optimizer.weight_decay=0.1"
    )
    assert _loss_advice(args, near, 2, groups).text == "Try outlying_mse:alpha=6."
    far = _loss_advice(args, near, 1, groups)
    assert far.text == "Try outlying_mse."  # its settings are of other data
    assert len(far.evidence) == 2
    assert _command(args, "tune-decision", ["C"], [], with_imbalance=False) == (
        "python -m mmseol tune-decision 'a b.py' C"
    )


def test_learning_rates_are_compared_within_a_loss_and_a_record():
    runs = [
        recorded("ce", (score,), values={"lr": rate}, detail=detail)
        for score, rate, detail in ((40.0, 0.1, ""), (50.0, 0.2, ""), (90.0, 0.3, "nearest target"))
    ]
    runs += [recorded("elm", (45.0,), values={"lr": 0.1}), recorded("mse", (45.0,)), recorded("mse", (46.0,))]
    tuning = [dict(loss="ce", score=30.0), dict(loss="ce", score=35.5), dict(loss="ce", score=None)]
    args = Namespace(config="no_such.py")
    one = _rate_advice(args, runs, {"r": dict(tuning=[*tuning, dict(loss="elm", score=99.0)])})
    assert one.evidence == [
        "results/r: accuracy of ce is 40.0 to 50.0 by its learning rate",
        "results/r: the validation score of ce is 30.0 to 35.5 over 2 learning rates",
    ]
    assert one.command == "python -m mmseol sweep SWEEP_FILE"
    assert _rate_advice(args, runs[:1], {"r": dict(tuning=tuning[:1])}).evidence == []
    named = _rate_advice(Namespace(config="quickstart/digits.py"), [], {})
    assert any("sweeps/digits.py" in line for line in named.evidence)
    assert named.command == "python -m mmseol sweep sweeps/digits.py"


def test_an_order_is_told_where_every_interval_says_it():
    first, second, third = ((60.0, 61.0, 62.0), (50.0, 51.0, 52.5), (40.0, 41.0, 42.0))
    runs = [
        beside(recorded(name, scores)) for name, scores in zip("abc", (first, second, third), strict=True)
    ]
    assert _ordered(runs)
    assert _ordered(runs[:1])
    assert not _ordered([runs[0], beside(recorded("d", (59.0, 62.0, 61.0)))])
    assert not _ordered([runs[0], beside(recorded("d", second, record="s"))])
    assert not _ordered([runs[0], beside(recorded("d", second[:2]))])
    assert not _ordered([beside(recorded("e", (60.0,))), beside(recorded("f", (50.0,)))])  # one seed
    assert not _ordered([runs[0], runs[1], beside(recorded("g", second))])


def never(*seen: str) -> str:
    """Return the line of the losses without a record, in the order of their table."""
    return f"Losses without a record for such data: {', '.join(k for k in LOSSES if k not in ('ce', *seen))}."


def test_what_the_records_do_not_tell():
    args = Namespace(imbalance=None)
    sure = beside(recorded("elm", (60.0, 61.0, 62.0)), 0.5, 2.0)
    also_sure = beside(recorded("lade", (50.0, 51.0, 52.5)), 0.5, 2.0)
    unsure = beside(recorded("mse", (59.0, 62.0, 61.0)), -0.5, 2.0)
    worse, equal = beside(recorded("vs", (39.0,))), beside(recorded("dice", (40.0,)))
    far = beside(recorded("iou", (45.0,), record="far"))
    assert _unknown([], [], args, "segmentation") == ["There is no record of segmentation."]
    groups = [(3, [sure, also_sure])]
    assert _unknown(groups, [(3, sure), (3, also_sure)], args, "t") == [never("elm", "lade")]
    groups = [(3, [sure, unsure, worse, equal]), (2, [also_sure]), (1, [far])]
    assert _unknown(groups, [(3, sure), (3, unsure)], args, "t") == [
        "Whether other seeds give these differences: no interval over seeds excludes 0 for mse.",
        "The order of 1 to 2: no interval over seeds separates them.",
        "Whether other settings help losses that are not better there: vs, dice.",
        "Whether records of other data hold here; left out: far.",
        never("elm", "lade", "mse", "vs", "dice"),
    ]
    assert _unknown([(1, [far]), (0, [sure])], [], args, "t") == [
        "No record is of this config; the nearest are of the same classes. What they say may not hold here.",
        "Which loss is better than cross entropy: none is in these records.",
        never("iou"),
    ]
    assert _unknown([(2, [sure]), (1, [far])], [(2, sure)], args, "t") == [
        "No record is of this config; the nearest are of the same data set. What they say may not hold here.",
        "Whether records of other data hold here; left out: far.",
        never("elm"),
    ]
    every = [beside(recorded(name, (60.0,)), 0.5, 2.0) for name in LOSSES]
    assert _unknown([(3, every)], [(3, every[0])], args, "t") == []
    cut = [beside(recorded("elm", (60.0,), imbalance=spec), 0.5, 2.0) for spec in ("step:5", "step:10", None)]
    groups = [(3, [one]) for one in cut]
    for given, line in (
        ("step:10", ["The records were cut step:5, not step:10."]),
        ("step:2", ["The records were cut step:10, step:5, not step:2."]),
        (None, []),
    ):
        assert _unknown(groups, [(3, cut[0])], Namespace(imbalance=given), "t") == [*line, never("elm")]
    assert _unknown(groups[1:], [(3, cut[1])], Namespace(imbalance="step:10"), "t") == [never("elm")]


def test_a_sampler_is_advised_where_batches_lack_a_class():
    dataset = LabelDataset([0] * 6 + [1, 1, 2, 2])
    counts = ClassCounts(*[np.array([6, 2, 2, 0])] * 3)
    cfg = Config(dict(train_dataloader=dict(batch_size=2)))
    args = Namespace(config="a.py", data_root=None, imbalance="step:3", cfg_options=["x=1"])

    def found(*without: float) -> list[Any]:
        given = (args, dataset, list("abcd"), counts, np.array(without), "classification", {"r": "a Sampler"})
        return _sampler_advice(cfg, *given)

    assert found(0.1, 0.5, 0.5, 1.0) == []  # that of a class without images is no fault of the batches
    (one,) = found(0.1, 0.62, 0.8, 1.0)
    assert (one.kind, one.text) == ("sampler", "Draw rare classes more often: mmseol.ClassAwareSampler.")
    then = round(100 * (2 / 3) ** 2)  # each of the classes with images is drawn as often
    assert one.evidence == [
        f"expected batches without the class, now -> then: c 80 % -> {then} %, b 62 % -> {then} %",
        "records of samplers: results/r",
    ]
    assert one.command == (
        "python -m mmseol train a.py --seed 1 --imbalance step:3 --cfg-options x=1 "
        "train_dataloader.sampler._delete_=True train_dataloader.sampler.type=mmseol.ClassAwareSampler"
    )


def test_decisions_are_compared_with_the_largest_output_of_their_record():
    runs = [
        recorded("mse", (45.0, 47.0), record="s"),
        recorded("elm", (43.0,)),
        recorded("mse", (44.0,)),
        recorded("mse", (50.0, 52.0), detail="nearest target"),
        RecordedRun("r", "T", "segmentation", "mse", {"mIoU": (9.0,)}, detail="nearest target"),
    ]
    args = Namespace(config="a.py", data_root="d", imbalance="step:3", cfg_options=None)
    records = {"r": {"commands": ["tune-decision"]}, "s": {}, "t": ["tune-decision"]}
    one = _decision_advice(args, runs, "classification", records)
    assert one.evidence == [
        "results/r: mse, nearest target: accuracy 51.0 ± 1.4, largest output 44.0",
        "records of tuned decisions: results/r, results/t",
    ]
    assert one.command == "python -m mmseol tune-decision a.py CHECKPOINT --data-root d"


def test_the_page_of_the_command(monkeypatch, capsys):
    class Talks(LabelDataset):
        def full_init(self) -> None:
            print("of a host")
            super().full_init()

    cfg = Config(dict(train_dataloader=dict(batch_size=5)))
    monkeypatch.setattr(advice, "build_dataset", lambda cfg, name: Talks(LABELS, lazy_init=True))
    counted: list[Any] = []

    def count(cfg: Config, dataset: Any, workers: int) -> Any:
        dataset.full_init()
        counted.append(workers)
        return list("abcd"), ClassCounts(*[np.bincount(LABELS)] * 3)

    monkeypatch.setattr(advice, "count_split", count)
    monkeypatch.setattr(
        advice, "advise", lambda *_: ([advice.Advice("loss", "Try x.", ["r"], "run x"),
                                      advice.Advice("loss", "Try y.")], ["nothing"]),
    )  # fmt: skip
    run_advise(cfg, Namespace(json=True, workers=3))
    expected = batches_without(np.bincount(LABELS), 100, 5)
    assert json.loads(capsys.readouterr().out) == {
        "classes": list("abcd"),
        "counts": ClassCounts(*[np.bincount(LABELS)] * 3).to_dict(),
        "batches_without": [round(value, 6) for value in expected],
        "advice": [
            dict(kind="loss", text="Try x.", evidence=["r"], command="run x"),
            dict(kind="loss", text="Try y.", evidence=[], command=""),
        ],
        "unknown": ["nothing"],
    }
    assert counted == [3]
    run_advise(cfg, Namespace(json=False, workers=1))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Training data"
    (row,) = [line for line in lines if line.startswith("│ d ")]
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["d", "4", "4.00 %", f"{100 * expected[3]:.1f}"]
    begin = lines.index("1. Try x.")
    assert lines[begin - 2].startswith("Imbalance ratio 17.5 (a : d)")
    assert lines[begin - 1 :] == ["", "1. Try x.", "   - r", "   run x", "", "2. Try y.", "", "Not known:",
                                  "   - nothing"]  # fmt: skip
