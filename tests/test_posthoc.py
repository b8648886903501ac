"""Classifiers adjusted after training, and trained in a second stage."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.distributed import run_ranks
from helpers.tiny_runner import Head, TinyModel, tiny_runner
from helpers.tool_runs import call
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner
from scipy.special import log_softmax
from torch import nn

from mmseol import experiment
from mmseol.classifiers import logit_adjustment, tau_normalized
from mmseol.classifiers.checkpoints import adjust_checkpoint, write_decision
from mmseol.classifiers.retraining import classifier_retraining, learnable_weight_scaling
from mmseol.registry import MODELS

ROOT = Path(__file__).parents[1]
COUNTS = [80, 40, 10, 0]
CE = {"type": "mmseol.CrossEntropyLoss"}


class ConvHead(nn.Module):
    """Head that classifies with a 1x1 convolution, as mmseg's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_seg = nn.Conv2d(3, 4, 1)


@MODELS.register_module()
class StagedModel(TinyModel):
    """A feature layer with statistics and dropout before a head named as mmpretrain's."""

    def __init__(self) -> None:
        super().__init__([], [])
        self.backbone = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
        self.head = Head([CE], 4)

    def forward(self, inputs: Any, label: Any, mode: str = "tensor") -> Any:
        features = self.backbone(torch.stack(list(inputs)))
        if mode != "loss":
            return self.head.fc(features)
        return self.head.loss(features, torch.stack(list(label)), "head")


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1, 1)])
def test_tau_normalisation_is_its_formula(tau: float, shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    got = tau_normalized(weight, tau)
    assert got.shape == weight.shape
    for k in range(4):
        row = weight[k].flatten().double().numpy()
        norm = np.sqrt(sum(value**2 for value in row))
        expected = row / norm**tau if norm else row
        np.testing.assert_allclose(got[k].flatten(), expected, rtol=1e-6)


@pytest.mark.parametrize("tau", [0.0, 1.0, 1.7])
def test_adjusted_logits_are_those_of_another_prior(tau: float) -> None:
    counts = np.array([80, 40, 10, 5])
    logits = np.random.default_rng(0).normal(size=(5, 4))
    posterior = np.exp(log_softmax(logits, axis=1))
    reweighted = posterior / (counts / counts.sum()) ** tau  # Bayes with the prior divided out
    reweighted /= reweighted.sum(1, keepdims=True)
    got = np.exp(log_softmax(logits + logit_adjustment(counts, tau).numpy(), axis=1))
    np.testing.assert_allclose(got, reweighted, rtol=1e-12)


def test_norms_of_half_precision_are_not_rounded() -> None:
    got = tau_normalized(torch.tensor([[6e4, 6e4], [3.0, 4.0]]).half(), 1.0)
    torch.testing.assert_close(got, torch.tensor([[0.5**0.5] * 2, [0.6, 0.8]]).half())


def test_wrong_tau_and_empty_class() -> None:
    for tau in (-1, float("inf"), True):
        with pytest.raises(ValueError, match="`tau` must be a finite number of at least 0"):
            tau_normalized(torch.ones(2, 2), tau)
        with pytest.raises(ValueError, match="`tau` must be a finite number of at least 0"):
            logit_adjustment([2, 1], tau)
    with pytest.warns(UserWarning, match="3"):
        adjustment = logit_adjustment(COUNTS, 1.0)
    np.testing.assert_allclose(adjustment[3], -np.log(1 / 131))


class DropPath(nn.Module):
    """As of mmcv and timm: no dropout class of torch, known by its attribute."""

    drop_prob = 0.5


class TwoHeaded(nn.Module):
    """A model with layers whose names begin alike."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, 3), DropPath(), nn.BatchNorm1d(3), nn.Dropout(), nn.ReLU())
        self.head = nn.ModuleDict({"fc": nn.Linear(3, 4), "fc2": nn.Linear(3, 4)})


@pytest.mark.parametrize("stage", [classifier_retraining, learnable_weight_scaling])
def test_the_second_stage_trains_one_layer_on_fixed_features(stage: Any) -> None:
    model = stage({"type": TwoHeaded}, classifier="head.fc")
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    scaled = stage is learnable_weight_scaling
    assert trained == ({"head.fc.class_scale"} if scaled else {"head.fc.weight", "head.fc.bias"})
    model.train()
    linear, drop_path, norm, dropout, relu = model.backbone
    modes = [part.training for part in (drop_path, norm, dropout, linear, relu, model)]
    assert modes == [False] * 3 + [True] * 3


class Direct(nn.Module):
    """A model with a parameter of its own, an auxiliary head before the others, and a preprocessor."""

    def __init__(self, bias: bool = True, data_preprocessor: Any = None) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(2))
        self.auxiliary_head = nn.Linear(2, 4)
        self.backbone = nn.Linear(2, 3)
        self.head = nn.ModuleDict({"fc": nn.Linear(3, 4, bias=bias)})
        self.given = data_preprocessor


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("stage", [classifier_retraining, learnable_weight_scaling])
def test_the_state_of_the_first_stage_is_loaded_into_the_second(stage: Any, bias: bool) -> None:
    torch.manual_seed(0)
    first = Direct(bias)
    nn.init.constant_(first.offset, 7.0)
    model = stage({"type": Direct, "bias": bias})
    fresh = model.head["fc"].weight.clone()
    model.load_state_dict(first.state_dict())  # strict
    assert model.offset.tolist() == [7, 7]
    assert torch.equal(model.backbone.weight, first.backbone.weight)
    kept = fresh if stage is classifier_retraining else first.head["fc"].weight
    assert torch.equal(model.head["fc"].weight, kept)
    state = model.state_dict()
    assert not any(value.requires_grad for value in state.values())
    assert torch.equal(state["head.fc.weight"], kept)
    if stage is learnable_weight_scaling:
        nn.init.constant_(model.head["fc"].class_scale, 2.0)
        again = stage({"type": Direct, "bias": bias})
        again.load_state_dict(model.state_dict())  # holds the scaled weights, and the others to go on with
        assert torch.equal(again.head["fc"].weight, kept)
    without = {name: value for name, value in first.state_dict().items() if "auxiliary" not in name}
    stage({"type": Direct, "bias": bias}).load_state_dict(without, strict=False)  # it does not predict
    del without["backbone.weight"]
    with pytest.raises(ValueError, match=r"`load_from` must be .*: backbone\.weight is missing and of shape"):
        stage({"type": Direct, "bias": bias}).load_state_dict(without, strict=False)


@pytest.mark.parametrize("stage", [classifier_retraining, learnable_weight_scaling])
def test_the_preprocessor_of_the_runner_is_passed_on(stage: Any) -> None:
    assert stage({"type": Direct}, data_preprocessor={"a": 1}).given == {"a": 1}
    assert stage({"type": Direct, "data_preprocessor": 2}, data_preprocessor={"a": 1}).given == 2


def test_layers_that_cannot_be_scaled_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be nn.Linear or nn.Conv2d, got BatchNorm1d at backbone\.2"):
        learnable_weight_scaling({"type": TwoHeaded}, classifier="backbone.2")


def write(path: Path, prefix: str = "head.fc", counts: Any = COUNTS, bias: bool = True) -> dict[str, Any]:
    torch.manual_seed(0)
    shape = (4, 3, 1, 1) if prefix.endswith("conv_seg") else (4, 3)
    head = prefix.split(".")[0]
    state = {
        "backbone.fc.weight": torch.randn(3, 3),
        f"{prefix}.weight": torch.randn(shape),
        **({f"{prefix}.bias": torch.randn(4)} if bias else {}),
        f"{head}.loss_module.class_counts": torch.tensor(counts),
    }
    torch.save({"meta": {"epoch": 3}, "state_dict": state, "optimizer": {}, "ema_state_dict": {}}, path)
    return state


def read(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("prefix", ["head.fc", "decode_head.conv_seg"])
def test_checkpoints_change_in_the_classifier_alone(tmp_path: Path, prefix: str) -> None:
    old = write(tmp_path / "a.pth", prefix, [80, 40, 10, 5])
    adjust_checkpoint(tmp_path / "a.pth", tmp_path / "tau.pth", "tau_norm", 0.7)
    adjust_checkpoint(tmp_path / "a.pth", tmp_path / "kept.pth", "tau_norm", 0.7, keep_bias=True)
    adjust_checkpoint(tmp_path / "a.pth", tmp_path / "new" / "la.pth", "logit_adjustment", 1.5)
    tau, kept, la = (read(tmp_path / name) for name in ("tau.pth", "kept.pth", "new/la.pth"))
    assert tau.keys() == {"meta", "state_dict"}  # not to be resumed
    assert tau["meta"]["epoch"] == 3
    changed = {
        name: {key for key in old if not torch.equal(old[key], new["state_dict"][key])}
        for name, new in (("tau", tau), ("kept", kept), ("la", la))
    }
    weight, bias = f"{prefix}.weight", f"{prefix}.bias"
    assert changed == {"tau": {weight, bias}, "kept": {weight}, "la": {bias}}
    assert torch.equal(tau["state_dict"][weight], tau_normalized(old[weight], 0.7))
    assert tau["state_dict"][bias].eq(0).all()
    expected = old[bias].numpy() - 1.5 * np.log(np.array([80, 40, 10, 5]) / 135)
    np.testing.assert_allclose(la["state_dict"][bias], expected, rtol=1e-6)
    with pytest.raises(ValueError, match="is adjusted already"):
        adjust_checkpoint(tmp_path / "tau.pth", tmp_path / "b.pth", "logit_adjustment", 1.0)


def test_what_cannot_be_adjusted(tmp_path: Path) -> None:
    source, out = tmp_path / "a.pth", tmp_path / "b.pth"
    write(source, bias=False)
    with pytest.raises(ValueError, match=r"bias of head\.fc, which has none"):
        adjust_checkpoint(source, out, "logit_adjustment", 1.0)
    write(source, counts=[0, 0, 0, 0])
    with pytest.raises(ValueError, match="`counts` must be given, got None"):
        adjust_checkpoint(source, out, "logit_adjustment", 1.0)
    with pytest.raises(ValueError, match="got 3 for the 4 classes"):
        adjust_checkpoint(source, out, "logit_adjustment", 1.0, counts=[3, 2, 1])
    with pytest.raises(ValueError, match="got 3 for the 4 classes"):
        adjust_checkpoint(source, out, "tau_norm", 1.0, counts=[3, 2, 1])
    with pytest.raises(ValueError, match="`method` must be one of"):
        adjust_checkpoint(source, out, "lws", 1.0)  # type: ignore[arg-type]
    with pytest.raises(FileExistsError, match="`out` must be a new file"):
        adjust_checkpoint(source, source, "tau_norm", 1.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth"]


def test_a_classifier_of_another_width_is_not_adjusted(tmp_path: Path) -> None:
    """As of a layer that does not classify."""
    source, out = tmp_path / "a.pth", tmp_path / "b.pth"
    state = write(source)
    four, three = ({"dataset_meta": {"classes": tuple("abcd"[:number])}} for number in (4, 3))
    counts = {"head.loss_module.class_counts": torch.tensor([3, 2, 1])}
    for meta, change, layer, message in (
        (three, {}, None, "got 4 outputs of head.fc, and its training data have 3 classes"),
        (four, counts, None, "got 4 outputs of head.fc, and head.loss_module.class_counts has 3 classes"),
        (four, {}, "backbone.fc", "got 3 outputs of backbone.fc, and its training data have 4 classes"),
    ):
        torch.save({"meta": meta, "state_dict": {**state, **change}}, source)
        with pytest.raises(ValueError, match=message):
            adjust_checkpoint(source, out, "tau_norm", 1.0, classifier=layer)
    assert not out.exists()


def test_factors_are_written_in_full_precision_with_and_without_a_bias(tmp_path: Path) -> None:
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    torch.save({"state_dict": {"head.fc.weight": weight}}, tmp_path / "a.pth")
    write_decision(tmp_path / "a.pth", tmp_path / "b.pth", "multiplicative", [0, 1])
    new = read(tmp_path / "b.pth")
    assert new["meta"]["adjusted_classifier"]["log_factors"] == [0, 1]
    assert new["meta"].keys() == {"adjusted_classifier"}
    expected = {"head.fc.weight": weight * torch.tensor([[1.0], [np.e]], dtype=torch.float64)}
    torch.testing.assert_close(new["state_dict"], expected, rtol=1e-14, atol=0)
    for kind, factors, message in (
        ("softmax", [0, 1], "`kind` must be one of 'multiplicative', 'additive', got 'softmax'"),
        ("multiplicative", [0, float("inf")], "`log_factors` must be one finite number for each"),
        ("multiplicative", [[0, 1]], r"for each of the 2 classes of head.fc, got shape \(1, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            write_decision(tmp_path / "a.pth", tmp_path / "c.pth", kind, factors)  # type: ignore[arg-type]


def test_checkpoints_that_could_run_code_are_read_if_that_is_asked_for(tmp_path: Path) -> None:
    state = {"head.fc.weight": torch.ones(2, 2), "head.fc.bias": torch.zeros(2)}
    torch.save({"meta": {"path": tmp_path}, "state_dict": state}, tmp_path / "a.pth")
    for number, write_file in enumerate(
        (
            lambda out, **given: adjust_checkpoint(tmp_path / "a.pth", out, "tau_norm", 1.0, **given),
            lambda out, **given: write_decision(tmp_path / "a.pth", out, "additive", [0, 1], **given),
        )
    ):
        out = tmp_path / f"{number}.pth"
        with pytest.raises(ValueError, match="--unsafe-load"):
            write_file(out)
        write_file(out, unsafe_load=True)
        assert out.exists()


def test_tool_writes_one_file_for_each_tau(tmp_path, monkeypatch, capsys) -> None:
    old = write(tmp_path / "a.pth", counts=[80, 40, 10, 5])
    arguments = (tmp_path / "a.pth", "--method", "tau_norm", "--tau", 0.5, 1, "--out", tmp_path / "out")
    call(monkeypatch, "adjust_classifier.py", *arguments)
    names = ["a_tau_norm_0.5.pth", "a_tau_norm_1.pth"]
    assert [Path(line).name for line in capsys.readouterr().out.split()] == names
    norms = read(tmp_path / "out" / names[1])["state_dict"]["head.fc.weight"].norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(4))
    with pytest.raises(SystemExit):
        call(monkeypatch, "adjust_classifier.py", *arguments)
    assert "`--out` already holds" in capsys.readouterr().err
    (tmp_path / "counts.json").write_text("[1, 1, 1, 1]")
    call(
        monkeypatch, "adjust_classifier.py", tmp_path / "a.pth", "--method", "logit_adjustment", "--tau", 1,
        "--out", tmp_path / "out", "--class-counts", tmp_path / "counts.json",
    )  # fmt: skip
    bias = read(tmp_path / "out" / "a_logit_adjustment_1.pth")["state_dict"]["head.fc.bias"]
    torch.testing.assert_close(bias, old["head.fc.bias"] + np.log(4).astype(np.float32))


def staged(kind: str | None) -> Any:
    torch.manual_seed(0)
    if kind is None:
        return MODELS.build({"type": "mmseol.StagedModel"})
    return MODELS.build({"type": f"mmseol.{kind}", "model": {"type": "mmseol.StagedModel"}})


def train(work_dir: Path, model: nn.Module, **kwargs: Any) -> Runner:
    optimizer = {"type": "SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}
    runner = tiny_runner(work_dir, model, optim_wrapper={"optimizer": optimizer}, **kwargs)
    runner._train_dataloader["sampler"] = {"type": "mmseol.ClassAwareSampler"}
    runner.train()
    return runner


@pytest.fixture(scope="module")
def stage_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of a finished run."""
    work_dir = tmp_path_factory.mktemp("stage_one")
    train(work_dir, staged(None), epochs=2)
    return work_dir / "epoch_2.pth"


def state_of(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=False)["state_dict"]


def check_features(old: dict[str, torch.Tensor], new: dict[str, torch.Tensor]) -> None:
    kept = [key for key in old if key.startswith("backbone.")]
    assert {"backbone.0.weight", "backbone.1.running_mean", "backbone.1.num_batches_tracked"} <= set(kept)
    assert old["backbone.1.num_batches_tracked"] > 0
    for key in kept:
        assert torch.equal(old[key], new[key]), key


def test_crt_trains_a_new_classifier_on_the_same_features(stage_one: Path, tmp_path: Path) -> None:
    model = staged("ClassifierRetraining")
    fresh = {key: value.clone() for key, value in model.state_dict().items()}
    nothing = {"lr": 0.0, "type": "SGD"}
    runner = tiny_runner(
        tmp_path / "still", model, load_from=str(stage_one), optim_wrapper={"optimizer": nothing}
    )
    runner.train()
    old, still = state_of(stage_one), state_of(tmp_path / "still" / "epoch_1.pth")
    assert torch.equal(still["head.fc.weight"], fresh["head.fc.weight"])  # a new one, not stage one's
    assert not torch.equal(still["head.fc.weight"], old["head.fc.weight"])
    check_features(old, still)

    runner = train(tmp_path / "run", staged("ClassifierRetraining"), load_from=str(stage_one), epochs=2)
    new = state_of(tmp_path / "run" / "epoch_2.pth")
    check_features(old, new)
    for key in ("head.fc.weight", "head.fc.bias"):
        assert not torch.equal(new[key], fresh[key])
    assert type(runner.model).__name__ == "StagedModel"
    assert new.keys() - old.keys() == {"new_classifier"}
    assert not old.keys() - new.keys()

    resumed = train(
        tmp_path / "resumed", staged("ClassifierRetraining"), epochs=2, resume=True,
        load_from=str(tmp_path / "run" / "epoch_1.pth"),
    )  # fmt: skip
    assert resumed.iter == 8
    check_features(old, state_of(tmp_path / "resumed" / "epoch_2.pth"))
    again = staged("ClassifierRetraining")
    again.load_state_dict(new)
    assert torch.equal(again.head.fc.weight, new["head.fc.weight"])


def test_lws_learns_scales_and_its_checkpoint_is_a_plain_one(stage_one: Path, tmp_path: Path) -> None:
    model = staged("LearnableWeightScaling")
    runner = train(tmp_path, model, load_from=str(stage_one), epochs=2)
    old, new = state_of(stage_one), state_of(tmp_path / "epoch_2.pth")
    check_features(old, new)
    scale = new["head.fc.class_scale"]
    assert scale.sub(1).abs().max() > 1e-3
    for name in ("weight", "bias"):
        assert torch.equal(new[f"head.fc.unscaled_{name}"], old[f"head.fc.{name}"])
        assert torch.equal(dict(model.head.fc.named_parameters())[name], old[f"head.fc.{name}"])
    np.testing.assert_allclose(new["head.fc.weight"], scale[:, None] * old["head.fc.weight"], rtol=1e-6)
    plain = staged(None).eval()
    plain.load_state_dict(new, strict=False)
    points = torch.randn(5, 3)
    inputs = dict(inputs=list(points), label=[])
    torch.testing.assert_close(plain(**inputs), runner.model.eval()(**inputs))
    slow = plain.backbone(points) @ old["head.fc.weight"].T + old["head.fc.bias"]
    torch.testing.assert_close(runner.model(**inputs), slow * scale)
    again = staged("LearnableWeightScaling")
    again.load_state_dict(new)
    assert torch.equal(again.head.fc.weight, old["head.fc.weight"])
    assert torch.equal(again.head.fc.class_scale, scale)


@pytest.mark.parametrize("kind", ["ClassifierRetraining", "LearnableWeightScaling"])
def test_features_that_nobody_trained_are_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(RuntimeError, match="no checkpoint was loaded"):
        train(tmp_path, staged(kind))


@pytest.mark.parametrize("kind", ["ClassifierRetraining", "LearnableWeightScaling"])
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda state: state.update({"head.fc.weight": torch.zeros(5, 3)}), r"head\.fc\.weight .* \(5, 3\)"),
        (lambda state: state.pop("head.fc.bias"), r"head\.fc\.bias is missing"),
        (lambda state: state.pop("backbone.0.weight"), r"backbone\.0\.weight is missing"),
    ],
    ids=["width", "bias", "backbone"],
)
def test_features_and_scaled_classifiers_are_those_of_the_checkpoint(
    stage_one: Path, tmp_path: Path, kind: str, harm: Any, message: str
) -> None:
    """mmengine logs what does not fit and trains on random features."""
    checkpoint = torch.load(stage_one, weights_only=False)
    harm(checkpoint["state_dict"])
    torch.save(checkpoint, tmp_path / "a.pth")
    if kind == "ClassifierRetraining" and "head" in message:  # its classifier is new
        train(tmp_path, staged(kind), load_from=str(tmp_path / "a.pth"))
        return
    with pytest.raises(ValueError, match=f"must be a checkpoint of this model.*{message}"):
        train(tmp_path, staged(kind), load_from=str(tmp_path / "a.pth"))


@pytest.mark.parametrize("kind", ["ClassifierRetraining", "LearnableWeightScaling"])
def test_averaged_models_follow(stage_one: Path, tmp_path: Path, kind: str) -> None:
    hooks = [{"type": "EMAHook", "momentum": 0.5}]
    train(tmp_path, staged(kind), load_from=str(stage_one), custom_hooks=hooks)
    saved = torch.load(tmp_path / "epoch_1.pth", weights_only=False)
    old = state_of(stage_one)
    averaged, last = saved["state_dict"], saved["ema_state_dict"]
    for key in ("backbone.0.weight", "backbone.1.weight"):
        torch.testing.assert_close(averaged[key], old[key])
    assert not torch.equal(averaged["head.fc.weight"], last["module.head.fc.weight"])
    options = dict(epochs=2, load_from=str(tmp_path / "epoch_1.pth"), resume=True, custom_hooks=hooks)
    check_features(old, {**state_of_resumed(tmp_path / "again", kind, options)})


def state_of_resumed(work_dir: Path, kind: str, options: dict[str, Any]) -> dict[str, torch.Tensor]:
    runner = train(work_dir, staged(kind), **options)
    return runner.model.state_dict()


def test_a_convolution_is_scaled_by_class() -> None:
    @MODELS.register_module(force=True)
    class Convolutional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decode_head = ConvHead()

        def forward(self, x: torch.Tensor, mode: str = "tensor") -> torch.Tensor:
            return self.decode_head.conv_seg(x)

    model = MODELS.build(dict(type="mmseol.LearnableWeightScaling", model=dict(type="mmseol.Convolutional")))
    scale = torch.tensor([1.0, 2.0, 0.0, -1.0])
    with torch.no_grad():
        model.decode_head.conv_seg.class_scale.copy_(scale)
    x = torch.randn(2, 3, 4, 5)
    plain = Convolutional()
    plain.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(model(x), plain(x))
    assert plain(x)[:, 2].eq(0).all()
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    assert trained == ["decode_head.conv_seg.class_scale"]


def _train_rank(rank: int, folder: str, stage_one: str, kind: str) -> list[float]:
    wrapper = {"type": "MMDistributedDataParallel", "device_ids": None, "broadcast_buffers": False}
    options = dict(
        load_from=stage_one, epochs=2, launcher="pytorch", cfg=ConfigDict(model_wrapper_cfg=wrapper)
    )
    runner = train(Path(folder), staged(kind), **options)
    state = runner.model.module.state_dict()
    check_features(state_of(Path(stage_one)), state)
    return state["head.fc.weight"].flatten().tolist()


@pytest.mark.parametrize("kind", ["ClassifierRetraining", "LearnableWeightScaling"])
def test_two_processes_agree(stage_one: Path, tmp_path: Path, kind: str) -> None:
    one, two = run_ranks(_train_rank, str(tmp_path), str(stage_one), kind)
    assert one == two
    assert not np.allclose(one, state_of(stage_one)["head.fc.weight"].flatten())


@pytest.mark.parametrize("kind", ["ClassifierRetraining", "LearnableWeightScaling"])
def test_models_can_be_copied_and_pickled(kind: str) -> None:
    """Pickling failed when the class that is made at run time had the name of the host's class."""
    model = staged(kind)
    model.load_state_dict(model.state_dict())
    inputs = dict(inputs=list(torch.randn(5, 3)), label=[])
    expected = model.eval()(**inputs)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(other) is type(model)
        torch.testing.assert_close(other(**inputs), expected)
        other.train()
        assert not other.backbone[1].training
        assert other.state_dict().keys() == model.state_dict().keys()


def test_argument_makes_the_config_of_the_second_stage(tmp_path: Path) -> None:
    checkpoint = tmp_path / "a.pth"
    checkpoint.touch()
    for leaf, sampler in (
        ("cifar/resnet32_cifar10.py", "ClassAwareSampler"),
        ("camvid/fastfcn_r18.py", "RareClassSampler"),
    ):
        for method, kind, epochs in (
            ("crt", "ClassifierRetraining", 10),
            ("lws", "LearnableWeightScaling", 5),
        ):
            cfg = Config.fromfile(ROOT / "configs" / leaf)
            model = cfg.model
            experiment.set_classifier_retraining(cfg, method, str(checkpoint))
            assert (cfg.model.type, cfg.model.model) == (f"mmseol.{kind}", model)
            assert cfg.train_dataloader.sampler.type == f"mmseol.{sampler}"
            assert cfg.train_cfg.max_epochs == epochs
            assert cfg.load_from == str(checkpoint)
    with pytest.raises(ValueError, match=r"must be one of 'crt', 'lws', got 'ncm'"):
        experiment.set_classifier_retraining(cfg, "ncm", str(checkpoint))
    with pytest.raises(ValueError, match=r"needs an existing checkpoint, got 'none\.pth'"):
        experiment.set_classifier_retraining(cfg, "crt", "none.pth")
