"""ClassCountHook in real Runners."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.distributed import run_ranks
from helpers.tiny_runner import LABELS, TinyDataset, TinyModel, log_of, one_point, outlying, tiny_runner
from mmengine.config import ConfigDict
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from PIL import Image

from mmseol.counting.counts import ClassCounts, outlying_values
from mmseol.hooks import ClassCountHook
from mmseol.hooks.class_count import resolve_counts
from mmseol.hooks.class_table import class_table
from mmseol.registry import HOOKS

COUNTS = np.bincount(LABELS).tolist()
OTHER = [0] * 3 + [1] * 3 + [2] * 6 + [3] * 4


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMSEOL_CACHE", str(tmp_path / "cache"))


def model(**kwargs: Any) -> TinyModel:
    return TinyModel([outlying(**kwargs)], [outlying(alpha=2.0, **kwargs)])


def told(net: Any) -> list[list[int]]:
    return [head.losses[0].class_counts.tolist() for head in (net.decode_head, net.auxiliary_head)]


def last_checkpoint(work_dir: Path) -> str:
    return (work_dir / "last_checkpoint").read_text().strip()


def test_every_head_is_told_and_the_log_shows_one_table(tmp_path: Path) -> None:
    net = model()
    runner = tiny_runner(tmp_path, net)
    runner.train()
    assert told(net) == [COUNTS, COUNTS]
    assert net.decode_head.losses[0].target_values.tolist() == [1, 2, 3, 4]
    log = log_of(runner)
    assert log.count("counted in") == 1
    assert "target value (decode_head.losses.0)" in log
    assert "target value (auxiliary_head.losses.0)" in log
    row = next(line for line in log.splitlines() if " d " in line and "│" in line)
    assert [cell.strip() for cell in row.strip("│ \n").split("│")] == ["d", "1", "6.25 %", "4", "8"]
    assert ClassCounts.load(tmp_path / "class_counts.json").samples.tolist() == COUNTS
    assert json.loads((tmp_path / "class_counts.json").read_text())["samples"] == COUNTS


def test_the_file_it_writes_is_a_config_value(tmp_path: Path) -> None:
    tiny_runner(tmp_path / "first", model()).train()
    net = model(class_counts=str(tmp_path / "first" / "class_counts.json"))
    assert told(net) == [COUNTS, COUNTS]


def test_classes_without_the_hook_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"mmseol\.ClassCountHook"):
        tiny_runner(tmp_path, model(), custom_hooks=[]).train()


@pytest.mark.parametrize(
    ("loss", "hooks", "named"),
    [
        ("CDBLoss", [], True),
        ("InfluenceBalancedLoss", [dict(type="mmseol.ClassifierFeatureHook", classifier=("fc",))], False),
        ("CrossEntropyLoss", [], False),
    ],
)
def test_a_loss_without_the_hook_that_feeds_it_is_named(
    loss: str, hooks: list[dict[str, Any]], named: bool, tmp_path: Path
) -> None:
    net = TinyModel([{"type": f"mmseol.{loss}"}], [outlying()])
    runner = tiny_runner(tmp_path, net, custom_hooks=[dict(type="mmseol.ClassCountHook"), *hooks])
    runner.train()
    message = "decode_head.losses.0 works as described only with mmseol.ClassDifficultyHook"
    assert (message in log_of(runner)) == named
    assert ("works as described only with" in log_of(runner)) == named


def test_losses_that_need_no_counts_are_told_too_if_there_are_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(name: str) -> tuple[TinyModel, str]:
        net = TinyModel([{"type": "mmseol.CrossEntropyLoss"}], [{"type": "mmseol.OneHotMSELoss"}])
        runner = tiny_runner(tmp_path / name, net)
        runner.train()
        return net, log_of(runner)

    net, _ = train("counted")
    assert told(net) == [COUNTS, COUNTS]
    monkeypatch.setattr(TinyDataset, "load_data_list", lambda self: [{"other": 0}] * 4)
    monkeypatch.setattr(TinyDataset, "prepare_data", one_point)
    net, log = train("uncountable")
    assert net.decode_head.losses[0].counted is False
    assert "The training data cannot be counted; no loss of this run depends on it." in log
    with pytest.raises(TypeError, match="`gt_label`"):
        tiny_runner(tmp_path / "needed", model()).train()


def test_given_counts_stay_and_the_difference_is_said(tmp_path: Path) -> None:
    given = [1, 2, 3, 40]
    net = TinyModel([outlying(class_counts=given)], [outlying()])
    runner = tiny_runner(tmp_path, net)
    runner.train()
    assert told(net) == [given, COUNTS]
    (warning,) = [
        line for line in log_of(runner).splitlines() if "WARNING" in line and "class_counts" in line
    ]
    assert "decode_head.losses.0" in warning
    assert "a 1 (data: 8), b 2 (data: 4), d 40 (data: 1)" in warning


def test_given_counts_survive_a_loaded_checkpoint(tmp_path: Path) -> None:
    tiny_runner(tmp_path / "first", model()).train()
    net = model(class_counts=[9, 8, 7, 6])
    tiny_runner(tmp_path / "second", net, load_from=last_checkpoint(tmp_path / "first")).train()
    assert told(net) == [[9, 8, 7, 6]] * 2


def test_given_counts_of_another_length_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 entries for 4 classes"):
        tiny_runner(tmp_path, model(class_counts=[1, 2, 3])).train()


def test_given_counts_need_no_countable_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TinyDataset, "load_data_list", lambda self: [{"other": 0}] * 4)
    monkeypatch.setattr(TinyDataset, "prepare_data", one_point)
    net = model(class_counts=[4, 3, 2, 1])
    tiny_runner(tmp_path, net).train()
    assert told(net) == [[4, 3, 2, 1]] * 2


def test_labels_that_are_no_class_stop_even_those_that_need_no_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TinyDataset, "load_data_list", lambda self: [{"gt_label": 7}] * 4)
    monkeypatch.setattr(TinyDataset, "prepare_data", one_point)
    for losses in ([outlying(class_counts=[4, 3, 2, 1])], [{"type": "mmseol.CrossEntropyLoss"}]):
        with pytest.raises(ValueError, match="has the label 7"):
            tiny_runner(tmp_path, TinyModel(losses, [])).train()


def test_resumed_run_keeps_its_counts(tmp_path: Path) -> None:
    tiny_runner(tmp_path, model()).train()
    net = model()
    runner = tiny_runner(tmp_path, net, labels=OTHER, epochs=2, resume=True)
    runner.train()
    assert runner.epoch == 2
    assert told(net) == [COUNTS, COUNTS]
    log = log_of(runner)
    assert log.count("keeps them") == 2
    assert "a 8 (data: 3), b 4 (data: 3), c 3 (data: 6), d 1 (data: 4)" in log
    assert ClassCounts.load(tmp_path / "class_counts.json").samples.tolist() == COUNTS


def test_a_new_run_in_the_folder_of_another_writes_its_own_counts(tmp_path: Path) -> None:
    tiny_runner(tmp_path, model()).train()
    tiny_runner(tmp_path, model(), labels=OTHER).train()
    assert ClassCounts.load(tmp_path / "class_counts.json").samples.tolist() == np.bincount(OTHER).tolist()


def test_resumed_run_with_the_same_data_says_nothing(tmp_path: Path) -> None:
    tiny_runner(tmp_path, model()).train()
    runner = tiny_runner(tmp_path, model(), epochs=2, resume=True)
    runner.train()
    assert [line for line in log_of(runner).splitlines() if "Classes that differ" in line] == []


def test_fine_tuning_counts_the_new_data(tmp_path: Path) -> None:
    tiny_runner(tmp_path / "first", model()).train()
    net = model()
    runner = tiny_runner(
        tmp_path / "second", net, labels=OTHER, load_from=last_checkpoint(tmp_path / "first")
    )
    runner.train()
    assert told(net) == [np.bincount(OTHER).tolist()] * 2
    assert log_of(runner).count("replace those of the loaded checkpoint") == 2


class LookAtCopy(Hook):
    """Remember whether EMAHook's copy had room for the counts when it was made."""

    def before_run(self, runner: Any) -> None:
        (ema,) = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
        self.found = told(ema.ema_model.module)


@pytest.mark.parametrize("update_buffers", [False, True])
def test_averaged_model_has_the_counts_too(tmp_path: Path, update_buffers: bool) -> None:
    ema = {"type": "EMAHook", "update_buffers": update_buffers, "momentum": 0.5}
    look = LookAtCopy()
    hooks = [ema, look, {"type": "mmseol.ClassCountHook"}]  # EMAHook would come first
    net = model()
    runner = tiny_runner(tmp_path, net, custom_hooks=hooks, epochs=2)
    runner.train()
    assert look.found == [[0] * 4] * 2
    (hook,) = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
    assert told(hook.ema_model.module) == told(net) == [COUNTS, COUNTS]
    checkpoint = torch.load(last_checkpoint(tmp_path), map_location="cpu", weights_only=False)
    for state, prefix in ((checkpoint["state_dict"], ""), (checkpoint["ema_state_dict"], "module.")):
        assert state[f"{prefix}decode_head.losses.0.class_counts"].tolist() == COUNTS
        assert state[f"{prefix}decode_head.losses.0.class_counts"].dtype == torch.int64
    other = model()
    resumed = tiny_runner(tmp_path, other, labels=OTHER, custom_hooks=hooks, epochs=3, resume=True)
    resumed.train()
    (hook,) = [hook for hook in resumed.hooks if isinstance(hook, EMAHook)]
    assert told(hook.ema_model.module) == told(other) == [COUNTS, COUNTS]


def test_test_only_runs_leave_the_training_data_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_runner(tmp_path / "first", model()).train()
    monkeypatch.setattr(TinyDataset, "get_data_info", lambda *_: pytest.fail("counted"))
    monkeypatch.setattr(TinyDataset, "prepare_data", one_point)
    net = model()
    loader = {"batch_size": 4, "sampler": {"type": "DefaultSampler"}, "dataset": TinyDataset([0] * 4)}
    runner = tiny_runner(
        tmp_path / "second",
        net,
        load_from=last_checkpoint(tmp_path / "first"),
        test_dataloader=loader,
        test_cfg={},
        test_evaluator=[],
    )
    train_loop = runner._train_loop
    monkeypatch.setattr(TinyModel, "test_step", lambda self, data: [0])
    runner.test()
    assert runner._train_loop is train_loop  # still the config
    assert told(net) == [COUNTS, COUNTS]


def test_number_of_classes_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="4 from decode_head, 5 from auxiliary_head"):
        tiny_runner(tmp_path, TinyModel([outlying()], [outlying()], (4, 5))).train()
    with pytest.raises(ValueError, match=r"5 from decode_head, .*4 from the data set's metainfo"):
        tiny_runner(tmp_path, TinyModel([outlying()], [outlying()], (5, 5))).train()
    net = TinyModel([outlying()], [outlying()], (5, 5))
    told_hook = [{"type": "mmseol.ClassCountHook", "num_classes": 5}]
    with pytest.warns(UserWarning, match="no training sample"):
        tiny_runner(tmp_path, net, custom_hooks=told_hook).train()
    assert told(net) == [[*COUNTS, 0]] * 2
    # A head with other classes and no loss of ours does not matter.
    net = TinyModel([outlying()], [], (4, 2))
    tiny_runner(tmp_path, net).train()
    assert net.decode_head.losses[0].counted


def test_named_weights_get_their_column_and_use_global_frequency(tmp_path: Path) -> None:
    loss = {"type": "mmseol.CrossEntropyLoss", "class_weight": "median_frequency"}
    net = TinyModel([loss], [loss])
    runner = tiny_runner(tmp_path, net)
    runner.train()
    assert net.decode_head.losses[0].class_weight.tolist() == pytest.approx([3.5 / n for n in COUNTS])
    log = log_of(runner)
    assert "class weight" in log
    assert "class weight (" not in log  # both heads have the same


class ForeignLoss(torch.nn.Module):
    """A loss of somebody else, known by its one method."""

    loss_name = "loss_foreign"

    def set_class_counts(self, counts: Any, totals: Any = None) -> None:
        self.told = counts


def test_a_foreign_loss_is_served_and_counts_as_dependent(tmp_path: Path) -> None:
    net = TinyModel([outlying()], [])
    net.decode_head.foreign = ForeignLoss()
    tiny_runner(tmp_path / "a", net).train()
    assert net.decode_head.foreign.told.tolist() == COUNTS
    head = torch.nn.Module()
    head.loss, head.num_classes = ForeignLoss(), 4
    runner = SimpleNamespace(model=head, _train_loop=None, _val_loop=None, iter=0)
    with pytest.raises(RuntimeError, match=r"\['loss'\] need class counts, but this run has no `train"):
        ClassCountHook().before_train(runner)


def test_averaged_models_know_the_counts_before_their_first_update(tmp_path: Path) -> None:
    class Look(Hook):
        def before_train_epoch(self, runner: Any) -> None:
            (ema,) = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
            self.found = told(ema.ema_model.module)

    look = Look()
    hooks = [{"type": "EMAHook", "begin_iter": 3}, look, {"type": "mmseol.ClassCountHook"}]
    tiny_runner(tmp_path, model(), custom_hooks=hooks).train()
    assert look.found == [COUNTS, COUNTS]


def test_one_process_alone_writes_the_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmseol.hooks.class_count.is_main_process", lambda: False)
    net = model()
    runner = tiny_runner(tmp_path, net)
    runner.train()
    assert told(net) == [COUNTS, COUNTS]
    assert not (tmp_path / "class_counts.json").exists()
    assert "counted in" not in log_of(runner)


@pytest.mark.parametrize(
    ("head", "hook", "ignored"), [(None, None, None), (2, None, 2), (None, 1, 1), (2, 1, 1)]
)
def test_the_ignored_label_is_the_hooks_or_the_heads(
    tmp_path: Path, head: int | None, hook: int | None, ignored: int | None
) -> None:
    net = TinyModel([{"type": "mmseol.CrossEntropyLoss"}], [])
    if head is not None:
        net.decode_head.ignore_index = head
    count = {"type": "mmseol.ClassCountHook", "ignore_index": hook}
    tiny_runner(tmp_path, net, custom_hooks=[count]).train()
    expected = [0 if label == ignored else number for label, number in enumerate(COUNTS)]
    assert net.decode_head.losses[0].class_counts.tolist() == expected


GIVEN, KNOWN, DATA = [9, 1], [8, 2], [7, 3]


@pytest.mark.parametrize("names", [None, ["sky", "pole"]])
@pytest.mark.parametrize(
    ("given", "known", "resumed", "chosen", "message"),
    [
        (None, None, False, DATA, None),
        (None, None, True, DATA, None),  # a checkpoint of a loss without counts
        (None, KNOWN, False, DATA, "replace those of the loaded checkpoint. Classes that differ: {0} 8"),
        (None, KNOWN, True, KNOWN, "and keeps them. Start a new run"),
        (GIVEN, None, False, GIVEN, "though the data differs. Classes that differ: {0} 9 (data: 7)"),
        (GIVEN, None, True, GIVEN, "though the data differs. Classes that differ: {0} 9 (data: 7)"),
        (GIVEN, KNOWN, False, GIVEN, "of the config are used"),
        (GIVEN, KNOWN, True, GIVEN, "of the config are used"),
        (None, KNOWN, True, KNOWN, "{0} 8 (data: 7), {1} 2 (data: 3)."),
        (DATA, KNOWN, False, DATA, None),
        (DATA, KNOWN, True, DATA, None),
        (GIVEN, DATA, True, GIVEN, "of the config are used"),
        (None, DATA, False, DATA, None),
        (None, [1, 2, 3], True, [1, 2, 3], "They have 3 classes, the data has 2."),
    ],
)
def test_which_counts_are_used(
    given: Any, known: Any, resumed: bool, chosen: list[int], message: str | None, names: list[str] | None
) -> None:
    arrays = [None if counts is None else np.array(counts) for counts in (given, known, DATA)]
    counts, said = resolve_counts(*arrays, resumed, names)
    assert counts.tolist() == chosen
    if message is None:
        assert said is None
    else:
        assert message.format(*(names or ["0", "1"])) in said


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="`count` must be one of 'samples', 'images', got 'pixels'"):
        HOOKS.build({"type": "mmseol.ClassCountHook", "count": "pixels"})


def test_no_training_data_is_explained() -> None:
    class Bare:
        model = TinyModel([outlying()], [])
        _train_loop = None

    with pytest.raises(RuntimeError, match=r"decode_head\.losses\.0.*no\s+`train_dataloader`"):
        ClassCountHook().before_train(Bare())


def test_table_of_many_classes_shows_both_ends() -> None:
    counts = ClassCounts(*[np.arange(300)] * 3)
    table = class_table("title", [f"class {c}" for c in range(300)], counts, {"target value": [1.0] * 300})
    assert table.count("│ class") == 50
    assert "class 299 " in table
    assert "class 150 " not in table
    assert "250 classes" in table


def _train_on(rank: int, folder: Path) -> tuple[list[list[int]], bool]:
    net = model()
    wrapper = {"type": "MMDistributedDataParallel", "device_ids": None, "broadcast_buffers": False}
    cfg = ConfigDict(model_wrapper_cfg=wrapper)
    backend = {"dist_cfg": {"backend": "gloo"}}
    runner = tiny_runner(folder, net, cfg=cfg, launcher="pytorch", env_cfg=backend)
    runner.train()
    return told(net), runner.model is not net


def test_two_wrapped_ranks(tmp_path: Path) -> None:
    (first, wrapped), second = run_ranks(_train_on, tmp_path)
    assert (first, wrapped) == second == ([COUNTS, COUNTS], True)
    assert ClassCounts.load(tmp_path / "class_counts.json").samples.tolist() == COUNTS


# ------------------------------------------------------------------ mmseg


def seg_runner(root: Path, work_dir: Path, val: Path | None = None, **hook: Any) -> Runner:
    """Return a Runner of a small EncoderDecoder with two heads and three losses; ``val``: validation data."""
    import mmseg.models  # noqa: F401
    from helpers.small_data import seg_dataset

    head = {"type": "FCNHead", "in_channels": 16, "channels": 8, "num_convs": 1, "num_classes": 4}
    losses = [
        outlying(alpha=6.0),
        {"type": "mmseol.CrossEntropyLoss", "class_weight": "median_frequency", "loss_weight": 0.5},
    ]
    net = {
        "type": "EncoderDecoder",
        "data_preprocessor": {"type": "SegDataPreProcessor", "size": (8, 10)},
        "backbone": {"type": "ResNet", "depth": 18, "base_channels": 8, "num_stages": 2,
                     "out_indices": (0, 1), "strides": (1, 2), "dilations": (1, 1)},
        "decode_head": {**head, "in_index": 1, "loss_decode": losses},
        "auxiliary_head": {**head, "in_channels": 8, "in_index": 0, "loss_decode": losses[0]},
    }  # fmt: skip
    pipeline = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}, {"type": "PackSegInputs"}]
    validation: dict[str, Any] = {}
    if val is not None:
        loader = {"sampler": {"type": "DefaultSampler"}, "dataset": seg_dataset(val, pipeline=pipeline)}
        validation = {"val_dataloader": loader, "val_cfg": {}, "val_evaluator": {"type": "IoUMetric"}}
    return Runner(
        model=net,
        work_dir=str(work_dir),
        train_dataloader={
            "batch_size": 4,
            "sampler": {"type": "DefaultSampler", "shuffle": True},
            "dataset": seg_dataset(root, pipeline=pipeline),
        },
        train_cfg={"by_epoch": False, "max_iters": 2},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 1e-4}},
        custom_hooks=[{"type": "mmseol.ClassCountHook", **hook}],
        default_scope="mmseg",
        experiment_name=work_dir.name,
        **validation,
    )


def write_pairs(root: Path) -> Path:
    from helpers.small_data import write_images, write_maps

    write_maps(root)
    write_images(root)
    return root


@pytest.mark.usefixtures("mmseg_scope")
@pytest.mark.parametrize("part", ["train", "val"])
def test_label_maps_of_another_size_than_their_image_stop_the_run(tmp_path: Path, part: str) -> None:
    """mmseg crops the two of them apart and trains on misaligned labels."""
    roots = {name: write_pairs(tmp_path / name) for name in ("train", "val")}
    path = roots[part] / "ann" / "003.png"
    Image.fromarray(np.zeros((4, 5), dtype=np.uint8)).save(path)
    runner = seg_runner(roots["train"], tmp_path / "work", roots["val"])
    message = rf"{path} \(item 3\) must have the size of its image .*8x10 \(HxW\), got 4x5"
    where = "Validation data: " if part == "val" else ""
    with pytest.raises(ValueError, match=rf"^{where}The label map {message}"):
        runner.train()
    hook = ClassCountHook(check_labels=False)
    hook.before_train(runner)  # as before: counts without a word
    assert runner.model.decode_head.loss_decode[0].counted


@pytest.mark.usefixtures("mmseg_scope")
@pytest.mark.parametrize("check", [True, False])
def test_labels_of_the_validation_data_are_checked_before_training(tmp_path: Path, check: bool) -> None:
    roots = {name: write_pairs(tmp_path / name) for name in ("train", "val")}
    Image.fromarray(np.full((8, 10), 77, dtype=np.uint8)).save(roots["val"] / "ann" / "005.png")
    runner = seg_runner(roots["train"], tmp_path / "work", roots["val"], check_labels=check)
    if not check:
        runner.train_loop.val_begin = 9
        runner.train()
        assert runner.iter == 2
        return
    with pytest.raises(ValueError, match=r"^Validation data: .*005\.png .* holds the label 77"):
        runner.train()
    assert runner.iter == 0


def test_validation_data_without_labels_are_left_alone(tmp_path: Path) -> None:
    class Unlabelled(TinyDataset):
        def load_data_list(self) -> list[dict[str, Any]]:
            return [{"other": 0}] * 4

    loader = {"batch_size": 4, "sampler": {"type": "DefaultSampler"}, "dataset": Unlabelled([])}
    runner = tiny_runner(tmp_path, model(), val_dataloader=loader, val_cfg={}, val_evaluator=[])
    runner.train_loop.val_begin = 9
    runner.train()
    assert "The labels of the validation data are not checked." in log_of(runner)


@pytest.mark.usefixtures("mmseg_scope")
@pytest.mark.parametrize("count", ["samples", "images"])
def test_mmseg_model_with_two_heads(tmp_path: Path, count: str) -> None:
    from mmseol.counting import count_dataset

    root = write_pairs(tmp_path / "data")
    runner = seg_runner(root, tmp_path / f"work_{count}", count=count)
    runner.train()
    expected = count_dataset(runner.train_dataloader.dataset, 4)
    data = getattr(expected, count).tolist()
    main, weighted = runner.model.decode_head.loss_decode
    for loss in (main, weighted, runner.model.auxiliary_head.loss_decode):
        assert loss.class_counts.tolist() == data
        assert loss.class_totals.tolist() == (expected.totals.tolist() if count == "samples" else [0] * 4)
    assert main.target_values.tolist() == outlying_values(data, 6.0).tolist()
    log = log_of(runner)
    assert "target value" in log
    assert "class weight" in log
    assert ClassCounts.load(tmp_path / f"work_{count}" / "class_counts.json") == expected


def test_table_shows_what_a_sampler_draws(tmp_path: Path) -> None:
    runner = tiny_runner(tmp_path, model())
    runner._train_dataloader["sampler"] = {"type": "mmseol.ClassAwareSampler", "power": 0.5}
    runner.train()
    roots = [count**0.5 for count in COUNTS]
    log = log_of(runner)
    assert "drawn an epoch" in log
    for name, count, root in zip("abcd", COUNTS, roots, strict=True):
        (line,) = [line for line in log.splitlines() if line.startswith(f"│ {name} ")]
        assert f"{sum(COUNTS) * root / sum(roots):.4g} │" in line, (count, line)
