"""The command that tunes decisions, on toy road scenes and digits; the hosts' own tools score as it does."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import mmengine
import mmpretrain
import mmseg
import numpy as np
import pytest
import torch
from helpers.seg_heads import samples, segmentor
from helpers.tool_runs import call
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image
from sklearn.metrics import confusion_matrix

from mmseol.__main__ import main
from mmseol.classifiers import cosine_classifier_head, write_decision
from mmseol.classifiers.decisions import OutputReader
from mmseol.experiment.checkpoint_outputs import CheckpointOutputs, prior
from mmseol.experiment.decision_tuning import _described, _summary, parse_floor, prepare_tune_decision

CONFIGS = Path(__file__).parents[1] / "configs" / "quickstart"
SCENES, DIGITS = CONFIGS / "toy_camvid.py", CONFIGS / "digits.py"
TINY = (
    "train_dataloader.num_workers=0",
    "val_dataloader.num_workers=0",
    "test_dataloader.num_workers=0",
    "train_dataloader.batch_size=4",
    "model.data_preprocessor.size=(64,64)",
    "model.decode_head.jpu_channels=8",
    "model.decode_head.channels=8",
)
VALIDATION = (
    "test_dataloader.dataset.data_prefix.img_path=val",
    "test_dataloader.dataset.data_prefix.seg_map_path=valannot",
)
HOOK = 'custom_hooks.2.type="mmseol.TunedDecisionHook"'


def trained(work_dir: Path, config: Path, loss: str, options: Any) -> Path:
    """Return the checkpoint of a run of two epochs."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        arguments = (config, "--loss", loss, "--seed", 1, "--work-dir", work_dir, *options)
        call(monkeypatch, "train.py", *arguments, "train_cfg.max_epochs=2", "train_cfg.val_interval=2")
    return work_dir / "epoch_2.pth"


@pytest.fixture(scope="module")
def scenes(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of outlying MSE."""
    folder = tmp_path_factory.mktemp("scenes") / "run"
    options = ("--data-root", toy, "--cfg-options", *TINY, HOOK)
    return trained(folder, SCENES, "outlying_mse:alpha=2", options)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of cross entropy on digits cut by steps."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    options = ("--imbalance", "step:10", "--cfg-options", "default_hooks.checkpoint.interval=1")
    return trained(folder, DIGITS, "ce", options)


def tune(monkeypatch: pytest.MonkeyPatch, config: Path, checkpoint: Path, *arguments: object) -> None:
    call(monkeypatch, "tune_decision.py", config, checkpoint, *arguments)


def facts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "decision.json").read_text())


def host_test(monkeypatch: pytest.MonkeyPatch, host: Any, *arguments: object) -> None:
    """Run the host's own tool, as it is installed."""
    tool = Path(host.__file__).parent / ".mim" / "tools" / "test.py"
    monkeypatch.setattr(sys, "argv", [str(tool), *map(str, arguments)])
    runpy.run_path(str(tool), run_name="__main__")


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).ravel()


def test_all_tools_decide_as_the_tuned_checkpoint_was_scored(scenes, toy, monkeypatch, tmp_path, capsys):
    shared = ("--loss", "outlying_mse:alpha=2", "--data-root", toy)
    out = tmp_path / "out"
    folds = ("--folds", 2, "--allow-absent", "--family", "targets", "--value", -0.7)
    tune(monkeypatch, SCENES, scenes, *shared, *folds, "--out", out, "--cfg-options", *TINY)
    record = facts(out)
    assert record["chosen"]["kind"] == "multiplicative"
    assert sorted(path.name for path in out.iterdir()) == [
        "decision.json", "decision.png", "epoch_2_decision.pth", "logs",
    ]  # fmt: skip
    assert f"Wrote {out / 'epoch_2_decision.pth'} (targets -0.7)" in capsys.readouterr().out
    checkpoint = out / "epoch_2_decision.pth"
    names = sorted(path.name for path in (toy / "val").iterdir())
    maps = {name: tmp_path / name for name in ("ours", "predicted", "theirs")}
    arguments = (*shared, "--out", maps["ours"], "--work-dir", tmp_path / "test", "--cfg-options", *TINY)
    call(monkeypatch, "test.py", SCENES, checkpoint, *arguments)
    arguments = (toy / "val", "--out", maps["predicted"], "--cfg-options", *TINY)
    call(monkeypatch, "predict.py", SCENES, checkpoint, *arguments)
    own = scenes.parent / SCENES.name  # the config of the run, without arguments
    arguments = ("--work-dir", tmp_path / "host", "--out", maps["theirs"], "--cfg-options", *VALIDATION)
    host_test(monkeypatch, mmseg, own, checkpoint, *arguments, f"experiment_name={tmp_path.name}")
    maps["predicted"] /= "label_maps"
    truth = np.concatenate([read(toy / "valannot" / name) for name in names])
    for folder in maps.values():
        labels = np.concatenate([read(folder / name) for name in names])
        matrix = confusion_matrix(truth[truth < 11], labels[truth < 11], labels=range(11))
        np.testing.assert_array_equal(matrix, record["confirmed"]["confusion"], str(folder))
    recall = 100 * matrix.diagonal() / matrix.sum(1).clip(1)
    kept = record["confirmed"]["scores"]["per_class"]["recall"]
    np.testing.assert_allclose([value or 0 for value in kept], recall, atol=1e-3)
    state = torch.load(scenes, map_location="cpu", weights_only=False)["state_dict"]
    tuned = torch.load(checkpoint, weights_only=True)["state_dict"]
    ratio = (tuned["decode_head.conv_seg.bias"] / state["decode_head.conv_seg.bias"]).numpy()
    values = state["decode_head.loss_decode.class_counts"].numpy()
    ranks = np.empty(11)
    ranks[np.argsort(-values, kind="stable")] = np.arange(1, 12)
    np.testing.assert_allclose(ratio / ratio[0], (ranks / ranks[0]) ** -0.7, rtol=1e-5)


def test_search_scores_every_decision_and_leaves_the_classifier_alone(scenes, toy, monkeypatch, tmp_path):
    arguments = ("--loss", "outlying_mse:alpha=2", "--data-root", toy, "--folds", 2, "--allow-absent")
    families = (
        "--free",
        "--family",
        "prior",
        "targets",
        "--objective",
        "macro_f1",
        "--out",
        tmp_path / "out",
    )
    tune(monkeypatch, SCENES, scenes, *arguments, *families, "--cfg-options", *TINY)
    record = facts(tmp_path / "out")
    rows = record["decisions"]
    assert [row["family"] for row in rows] == ["plain"] + ["prior"] * 20 + ["targets"] * 21
    assert rows[0]["macro_f1"] == pytest.approx(record["plain"]["scores"]["macro_f1"], abs=1e-3)
    (zero,) = [row for row in rows if row["family"] == "targets" and row["strength"] == 0]
    (divided,) = [row for row in rows if row["family"] == "targets" and row["strength"] == -1]
    (accuracy,) = [row for row in rows if row["family"] == "prior" and row["strength"] == 0]
    assert zero["mIoU"] == rows[0]["mIoU"]  # ranks to the power of 0
    assert divided["mIoU"] == accuracy["mIoU"] != zero["mIoU"]  # outputs over their targets, twice
    selection = record["selection"]
    best = max(range(1, 42), key=lambda c: rows[c]["macro_f1"])
    assert rows[selection["tuned"]]["macro_f1"] == rows[best]["macro_f1"]
    assert record["counts"] == [
        int(c) for c in json.loads((scenes.parent / "class_counts.json").read_text())["samples"]
    ]
    assert (tmp_path / "out" / "decision.png").stat().st_size > 10_000
    free = record["free"]
    assert free["out_of_fold"][0] == pytest.approx(selection["out_of_fold"])  # shrunk to one parameter
    assert free["scores"][0] == pytest.approx(selection["scores"][selection["tuned"]])
    assert free["taken"] is None or max(free["out_of_fold"]) > free["out_of_fold"][0]
    score = rows[selection["chosen"]]["macro_f1"]
    if free["taken"] is not None:
        score = free["scores"][free["shrinkage"].index(free["taken"])]
    if record["written"]:
        assert record["confirmed"]["scores"]["macro_f1"] == pytest.approx(score, abs=0.05)


def write_images(folder: Path) -> None:
    """Write the validation images of the digits, in order."""
    folder.mkdir()
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        validation = DATASETS.build(Config.fromfile(DIGITS).val_dataloader.dataset)
    for i in range(len(validation)):
        pixels = validation[i]["inputs"].permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{i:03}.png")


def test_digits_are_decided_as_mmpretrain_does(digits, monkeypatch, tmp_path):
    out = tmp_path / "out"
    tune(monkeypatch, DIGITS, digits, "--loss", "ce", "--value", 1, "--out", out)
    record = facts(out)
    assert record["chosen"]["kind"] == "additive"
    assert record["objective"] == "balanced_accuracy"
    checkpoint = out / "epoch_2_decision.pth"
    test = ("--loss", "ce", "--work-dir", tmp_path / "test", "--out", tmp_path / "classes")
    call(monkeypatch, "test.py", DIGITS, checkpoint, *test)
    samples = json.loads((tmp_path / "classes" / "predictions.json").read_text())
    truth, labels = ([sample[key] for sample in samples] for key in ("truth", "label"))
    np.testing.assert_array_equal(confusion_matrix(truth, labels), record["confirmed"]["confusion"])
    assert record["confirmed"]["other_elements"] == 0  # as the pass over the raw outputs scored it
    write_images(tmp_path / "images")
    arguments = (tmp_path / "images", "--out", tmp_path / "predicted")
    call(monkeypatch, "predict.py", DIGITS, checkpoint, *arguments)
    predicted = json.loads((tmp_path / "predicted" / "predictions.json").read_text())
    labels = [predicted[name]["label"] for name in sorted(predicted)]
    np.testing.assert_array_equal(confusion_matrix(truth, labels), record["confirmed"]["confusion"])
    cfg = Config.fromfile(digits.parent / DIGITS.name)
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, dict(type="ConfusionMatrix")
    cfg.experiment_name = tmp_path.name
    cfg.dump(tmp_path / "host.py")
    arguments = ("--work-dir", tmp_path / "host", "--out", tmp_path / "m.pkl", "--out-item", "metrics")
    host_test(monkeypatch, mmpretrain, tmp_path / "host.py", checkpoint, *arguments)
    theirs = mmengine.load(tmp_path / "m.pkl")["confusion_matrix/result"]
    np.testing.assert_array_equal(theirs, record["confirmed"]["confusion"])
    bias = [
        torch.load(path, map_location="cpu", weights_only=False)["state_dict"]["head.fc.bias"].double()
        for path in (digits, checkpoint)
    ]
    counts = np.array(record["counts"])
    added = -np.log(counts) + np.log(counts).mean()
    np.testing.assert_allclose(bias[1] - bias[0], added, atol=1e-6)
    assert record["confirmed"]["confusion"] != record["plain"]["confusion"]


def test_outputs_of_a_run_are_scored_as_the_tuner_does(digits, monkeypatch, tmp_path, capsys):
    tune(monkeypatch, DIGITS, digits, "--loss", "ce", "--out", tmp_path / "out")
    record = facts(tmp_path / "out")
    arguments = ["outlying-label", "--runs", f"digits={digits.parent}", "--out", str(tmp_path / "label")]
    arguments += ["--work-dir", str(tmp_path / "cache")]
    main("analyze", arguments)
    (path,) = (tmp_path / "cache").glob("digits_ce_1_2_val.npz")
    stat = digits.stat()
    read = CheckpointOutputs.load(path, f"{digits.resolve()} {stat.st_size} {stat.st_mtime_ns}")
    confusion = np.array(record["plain"]["confusion"])
    rows = read.rows("argmax").sum(0)
    np.testing.assert_array_equal(rows[:, 0], confusion.diagonal())
    np.testing.assert_array_equal(rows[:, 1], confusion.sum(0))
    recall = {name: read.rows(name).sum(0)[:, 0] / rows[:, 2] for name in read.decisions if name[0] == "P"}
    for row in record["decisions"][1:]:
        expected = 100 * recall[prior(round(row["strength"], 1))].mean()
        assert row["balanced_accuracy"] == pytest.approx(expected, abs=1e-3)
    written = path.stat().st_mtime_ns
    main("analyze", arguments)  # reads nothing again
    assert path.stat().st_mtime_ns == written
    made = json.loads((tmp_path / "label" / "held_out.json").read_text())
    assert [(run["loss"], run["seed"], run["epoch"]) for run in made["runs"]] == [("ce", 1, 2)]
    assert made["rows"][0]["held out, argmax"] != made["rows"][0]["validation, argmax"]
    (tmp_path / "label" / "gradients.json").write_text('{"kind": "sweep"}')
    with pytest.raises(SystemExit):
        main("analyze", arguments)
    assert "`--out` must not hold results of another command" in capsys.readouterr().err


def test_free_factors_of_samples_are_cross_validated(digits, monkeypatch, tmp_path):
    tune(monkeypatch, DIGITS, digits, "--loss", "ce", "--free", "--out", tmp_path / "out")
    record = facts(tmp_path / "out")
    free, selection = record["free"], record["selection"]
    assert free["out_of_fold"][0] == pytest.approx(selection["out_of_fold"])
    assert free["scores"][0] == pytest.approx(selection["scores"][selection["tuned"]])
    assert max(free["scores"]) > free["scores"][0]  # on the data that it was fitted to
    if record["written"]:
        assert record["confirmed"]["other_elements"] == 0


def refused(monkeypatch: pytest.MonkeyPatch, capsys: Any, *arguments: object) -> str:
    with pytest.raises(SystemExit) as error:
        tune(monkeypatch, *arguments)  # type: ignore[arg-type]
    return str(error.value) + capsys.readouterr().err


def test_what_cannot_be_tuned_is_refused(digits, monkeypatch, tmp_path, capsys):
    def message(*arguments: object, checkpoint: Path = digits) -> str:
        given = ("--out", tmp_path / "out", *arguments)
        return refused(monkeypatch, capsys, DIGITS, checkpoint, "--loss", "ce", *given)

    (tmp_path / "nine.json").write_text("[9, 8, 7, 6, 5, 4, 3, 2, 1]")
    assert "`--counts` must have one entry per class, got 9 entries for 10 classes" in message(
        "--counts", tmp_path / "nine.json"
    )
    assert (
        "`--floor` must be reached by a decision, got accuracy=100; alone, the best of them reach"
        in message("--floor", "accuracy=100")
    )
    assert "head.fc.weight is of shape (10, 32) there and (9, 32)" in message(
        "--cfg-options", "model.head.num_classes=9"
    )
    assert "`--objective` must be one of 'mIoU'" in message("--objective", "iou")
    assert "`--floor` must be NAME=PERCENT, got 'accuracy=high'" in message("--floor", "accuracy=high")
    assert "`--value` is one strength of one family" in message("--value", "1", "--strengths", "2")
    same = Config.fromfile(DIGITS)
    same.val_dataloader = same.test_dataloader
    same.dump(tmp_path / "same.py")
    text = refused(monkeypatch, capsys, tmp_path / "same.py", digits, "--out", tmp_path / "out")
    assert "`val_dataloader` of the config reads the data of `test_dataloader`" in text
    state = torch.load(digits, map_location="cpu", weights_only=False)
    counts = [name for name in state["state_dict"] if name.endswith("class_counts")]
    for name in counts:
        del state["state_dict"][name]
    torch.save(state, tmp_path / "uncounted.pth")
    without = Config.fromfile(DIGITS)
    for key in ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler"):
        without.pop(key, None)
    without.dump(tmp_path / "without.py")
    text = refused(
        monkeypatch, capsys, tmp_path / "without.py", tmp_path / "uncounted.pth", "--out", tmp_path / "out"
    )
    assert "`--counts` must be given: neither a loss in the checkpoint nor a train_dataloader" in text
    write_decision(digits, tmp_path / "tuned.pth", "additive", np.zeros(10))
    assert "is adjusted already" in message("--value", "1", checkpoint=tmp_path / "tuned.pth")
    assert not list((tmp_path / "out").glob("*.pth"))


def test_a_class_without_validation_data_is_refused(scenes, toy, monkeypatch, tmp_path, capsys):
    shutil.copytree(toy, tmp_path / "toy")
    for path in (tmp_path / "toy" / "valannot").iterdir():
        labels = np.asarray(Image.open(path))
        Image.fromarray(np.where(labels == 2, 11, labels).astype(np.uint8)).save(path)
    arguments = ("--loss", "outlying_mse:alpha=2", "--data-root", tmp_path / "toy", "--folds", 2)
    output = ("--out", tmp_path / "out", "--cfg-options", *TINY)
    text = refused(monkeypatch, capsys, SCENES, scenes, *arguments, *output)
    assert "The validation data must have every class, and have none of pole" in text


def test_training_logs_the_tuned_score_beside_the_plain_one(scenes):
    (log,) = scenes.parent.glob("*/*.log")
    (line,) = [line for line in log.read_text().splitlines() if "Epoch(val)" in line and "tuned_mIoU" in line]
    values = {name: float(value) for name, value in re.findall(r" (\w+): ([-0-9.]+)", line)}
    assert 0 <= values["tuned_strength"] <= 1.9
    assert values["tuned_mIoU"] > values["mIoU"]


@pytest.mark.parametrize("kind", ["multiplicative", "additive"])
def test_outputs_that_do_not_follow_the_classifier_are_refused(kind, mmseg_scope):
    """Cosines do not change with the size of the weights; a plain classifier passes, unchanged."""
    model = segmentor("outlying").eval()
    batch = dict(inputs=[torch.randint(256, (3, 32, 32), dtype=torch.uint8)], data_samples=samples()[:1])
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def check() -> None:
        reader = OutputReader(model, "decode_head.conv_seg")
        (observed,) = reader.read(model.test_step(batch))
        reader.check_linear(model, batch, kind, observed)

    check()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    cosine_classifier_head(model.decode_head)
    message = r"goes into the bias of decode_head\.conv_seg, which has none"
    if kind == "multiplicative":
        message = r"decode_head\.conv_seg \(CosineConv2d\) must be linear"
    with pytest.raises(ValueError, match=message):
        check()


def test_floors_are_read() -> None:
    assert parse_floor(["accuracy=90", "worst_class=1.5"]) == {"accuracy": 90.0, "worst_class": 1.5}
    with pytest.raises(ValueError, match="`--floor` must be NAME=PERCENT, got 'accuracy=101'"):
        parse_floor(["accuracy=101"])
    with pytest.raises(ValueError, match="`--floor` must be one of"):
        parse_floor(["acc=90"])


# ------------------------------------------------------------------ without a model


def prepared(tmp_path: Path, **given: Any) -> Config:
    """Return the config that the command makes of a small one and a checkpoint of ``run/a.pth``."""
    run = tmp_path / "run"
    run.mkdir(exist_ok=True)
    torch.save({"meta": {}, "state_dict": {}}, run / "a.pth")

    def loader(split: str) -> dict[str, Any]:
        (tmp_path / split).mkdir(exist_ok=True)
        pipeline = [dict(type="Load", split=split)]
        dataset = dict(type="CustomDataset", data_root=str(tmp_path), data_prefix=split, pipeline=pipeline)
        return dict(dataset=dataset)

    cfg = Config(dict(model=dict(type="A"), val_dataloader=loader("val"), test_dataloader=loader("test")))
    cfg.val_evaluator = cfg.test_evaluator = dict(type="Accuracy")
    for name, value in given.pop("config", {}).items():
        cfg.merge_from_dict({name: value})
    cfg.dump(tmp_path / "small.py")
    none = dict.fromkeys(("objective", "floor", "strengths", "value", "out", "work_dir"))
    args = Namespace(
        **{
            **none,
            **dict(config=str(tmp_path / "small.py"), checkpoint=str(run / "a.pth"), family=["prior"]),
            **dict(folds=2, free=False, launcher="none", unsafe_load=False, validation_is_test=False),
            **given,
        }
    )
    made = prepare_tune_decision(args)
    made.args = vars(args) | {"loaded": None}
    return made


def test_the_validation_data_are_what_is_tested(tmp_path: Path) -> None:
    cfg = prepared(tmp_path, floor=["accuracy=90"])
    assert cfg.test_dataloader.dataset.data_prefix == "val"
    assert cfg.test_evaluator == []
    assert cfg.args["out"] == str(tmp_path / "run" / "a_decision")
    assert cfg.work_dir == str(tmp_path / "run" / "a_decision" / "logs")
    assert (cfg.load_from, cfg.resume) == (str(tmp_path / "run" / "a.pth"), False)
    assert cfg.args["floors"] == {"accuracy": 90}
    out, logs = str(tmp_path / "out"), str(tmp_path / "logs")
    cfg = prepared(tmp_path, out=out, work_dir=logs, value=0.5)
    assert (cfg.args["out"], cfg.work_dir) == (out, logs)
    (tmp_path / "out" / "logs").mkdir(parents=True)  # of a run that was refused
    prepared(tmp_path, out=out, strengths=[0, 1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(folds=1), "`--folds` must be a whole number of at least 2, got 1"),
        (dict(strengths=[0.0, float("nan")]), "`--strengths` must be a finite number, got nan"),
        (dict(value=float("inf")), "`--value` must be a finite number, got inf"),
        (dict(free=True, value=1.0), "`--free` needs a search in one process"),
        (dict(free=True, launcher="pytorch"), "`--free` needs a search in one process"),
        (dict(value=1.0, family=["prior", "counts"]), "`--value` is one strength of one family"),
        (
            dict(config={"val_dataloader.dataset.data_prefix": "none"}),
            "`data_prefix` of test_dataloader must",
        ),
        (dict(config={"val_dataloader.dataset.data_prefix": "test"}), "reads the data of `test_dataloader`"),
        (dict(out="small.py"), "`--out` must be a new or empty folder, got"),
        (dict(out="run"), "`--out` must be a new or empty folder, got"),
    ],
)
def test_arguments_are_checked_before_the_model_is_built(
    tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    if "out" in given:
        prepared(tmp_path)
        given = {"out": str(tmp_path / given["out"])}
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path, **given)


def test_validation_data_that_are_the_test_data_may_be_meant(tmp_path: Path) -> None:
    same = {"val_dataloader.dataset.data_prefix": "test"}
    cfg = prepared(tmp_path, validation_is_test=True, config=same)
    assert cfg.test_dataloader.dataset.data_prefix == "test"
    prepared(tmp_path, config={"test_dataloader": None})  # nothing to be the same as


def test_the_sentence_of_the_result() -> None:
    rows = [
        {"family": "plain", "strength": None, "mIoU": 50.0, "accuracy": 90.0},
        {"family": "prior", "strength": 0.5, "mIoU": 60.0, "accuracy": 80.0},
        {"family": "prior", "strength": 1.0, "mIoU": 55.0, "accuracy": 70.0},
    ]
    selection = dict(
        default=2, tuned=1, intervals=[[49.0, 51.0], [58.0, 62.0], [54.0, 56.0]], gain=10.0,
        gain_interval=[8.0, 12.0], out_of_fold=57.0, scores=[50.0, 60.0, 55.0],
    )  # fmt: skip
    facts_: dict[str, Any] = dict(selection=selection, decisions=rows, objective="mIoU", written=None)
    text = " ".join(_summary(facts_).split())
    assert "argmax │ - │ 50.00 │ 49.00 to 51.00 │ 90.00" in text
    assert "without a search │ prior 1 │ 55.00 │ 54.00 to 56.00 │ 70.00" in text
    assert "tuned │ prior 0.5 │ 60.00 │ 58.00 to 62.00 │ 80.00" in text
    assert "Tuned decision: +10.00 mIoU on the data that chose it (95 % interval over images +8.00" in text
    assert "to +12.00), +7.00 on images that did not choose it." in text
    assert text.endswith("No decision beats the argmax on images that did not choose it: none is written.")
    chosen = {"family": "prior", "strength": 0.5}
    facts_ |= dict(written="b.pth", chosen=chosen, confirmed={"scores": {"mIoU": 59.5}})
    selection["default"] = None
    text = " ".join(_summary(facts_).split())
    assert "without a search" not in text
    assert text.endswith("Wrote b.pth (prior 0.5), which scores 59.50.")
    for taken, word in ((None, "not taken"), (0.5, "taken")):
        facts_["free"] = dict(out_of_fold=[57.0, 58.0, 59.0], taken=taken)
        text = " ".join(_summary(facts_).split())
        assert (
            f"Free factors: +2.00 mIoU against one parameter on images that did not choose them; {word}."
            in text
        )


def test_a_decision_in_words() -> None:
    found = _described("prior", "multiplicative", 0.5, ["a", "b"], np.log([0.5, 2.0]))
    assert found == {
        "family": "prior",
        "kind": "multiplicative",
        "strength": 0.5,
        "factors of the outputs": {"a": 0.5, "b": 2.0},
    }
    found = _described("prior", "additive", 0.5, ["a", "b"], np.array([-1.0, 1 / 3]))
    assert found["summands of the outputs"] == {"a": -1.0, "b": 0.333333}
