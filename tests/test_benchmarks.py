"""The benchmarks on small inputs write complete records; no test looks at a time."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.allocation import allocate, refuse
from mmengine.optim import OptimWrapper

from mmseol.losses.base.class_loss import ClassLoss
from mmseol.registry import MODELS
from tools.benchmarks import _measure, _report, all_losses, gpu_step, psp_step, run, upsampled_loss

CASES: dict[str, tuple[dict[str, Any], int]] = {
    "upsampled_loss": (
        {
            "sizes": [
                {"outputs": (2, 5, 4, 4), "label": (16, 16), "limits": {"memory_ratio": 1e9, "copies": 0}}
            ]
        },
        1,
    ),
    "same_size_loss": ({"sizes": [{"outputs": (2, 5, 8, 8)}]}, 1),
    "all_losses": ({"outputs": (2, 11, 8, 8), "only": ["ce", "outlying_mse"]}, 2),
    "training_step": ({"batch": 2, "crop": 32}, 4),
    "psp_step": ({"batch": 2, "crop": 64, "classes": 5, "width": 4}, 3),
    "validation_pass": ({"cases": [{"classes": 5, "stride": 8, "size": (64, 80)}]}, 1),
    "decision_pass": ({"cases": [{"classes": 5, "height": 64, "width": 80}]}, 1),
    "count_labels": ({"maps": 3, "size": (48, 64)}, 4),
    "loader": ({"images": 256}, 2),
}


def in_this_process(case: Callable[..., Callable[[], Any]], small: dict[str, Any], **sizes: Any) -> int:
    """Stand in for ``extra_memory``: run the small step here, with sizes as a fresh process reads them."""
    case(**json.loads(json.dumps({**sizes, **small})))()
    return 1000


def test_every_benchmark_is_tried_here() -> None:
    assert {*CASES, "gpu_step"} == set(run.BENCHMARKS)


@pytest.mark.parametrize("name", CASES)
def test_record(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module(f"tools.benchmarks.{name}")
    measures_memory = hasattr(module, "extra_memory")
    if measures_memory:
        monkeypatch.setattr(module, "extra_memory", in_this_process)
    kwargs, rows = CASES[name]
    table = module.run(repeats=2, **kwargs)
    assert table["name"] == name
    assert len(table["rows"]) == rows
    assert {"device", "threads", "commit", "python", "versions"} <= table["environment"].keys()
    for row in table["rows"]:
        assert row["repeats"] == 2
        low, high = row["time_ratio_quartiles"]
        assert low <= row["time_ratio"] <= high
        assert row["ratio_of_medians"] == pytest.approx(row["seconds"] / row["reference_seconds"])
        if measures_memory:
            assert row["memory_mb"] == row["reference_memory_mb"] == 0.001
            assert row["memory_ratio"] == 1
    if name == "upsampled_loss":
        assert table["rows"][0]["over"] == ["copies"]
        assert table["rows"][0]["copies"] == pytest.approx(1000 / (4 * 2 * 5 * 16 * 16))
    page = _report.markdown([table])
    assert all(row["name"] in page for row in table["rows"])


def test_what_exceeds_a_limit_is_named_and_bold() -> None:
    limits = {"time_ratio": 1.5, "memory_ratio": 2.0, "copies": 3.0}
    row = _report.row("case", "1x1", [0.4], [0.2], 600, 300, logits=200, limits=limits)
    assert (row["time_ratio"], row["memory_ratio"], row["copies"]) == (2.0, 2.0, 3.0)
    assert row["over"] == ["time_ratio"]  # the limits themselves are allowed
    page = _report.markdown([_report.table("t", "T", [row])])
    (line,) = [line for line in page.splitlines() if "| 1x1 |" in line]
    assert "| **2.000** (limit 1.5) [2.000, 2.000] |" in line
    assert "| 2.000 (limit 2) | 3.00 (limit 3) / 1.50 |" in line


def test_equal_calls_are_measured_once() -> None:
    seen: list[int] = []

    def measure(size: int) -> int:
        seen.append(size)
        return 2 * size

    assert _measure.in_parallel(measure, [{"size": 3}, {"size": 4}, {"size": 3}]) == [6, 8, 6]
    assert sorted(seen) == [3, 4]


def test_limits_of_outputs_of_label_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_losses, "extra_memory", in_this_process)
    names = ["ce", "focal", "lovasz_hinge"]
    rows = all_losses.run(repeats=1, outputs=(1, 11, 4, 4), only=names)["rows"]
    assert [row["limits"]["time_ratio"] for row in rows] == [1.0, 1.5, 8]


def test_every_shape_has_a_row_of_the_softmax_family() -> None:
    shapes = {(*size["outputs"], *size["label"]) for size in upsampled_loss.SIZES}
    assert len(shapes) == 4
    for loss in ("ce", *upsampled_loss.SOFTMAX):
        measured = [size for size in upsampled_loss.SIZES if size["loss"] == loss]
        assert {(*size["outputs"], *size["label"]) for size in measured} == shapes


def test_all_losses_are_all() -> None:
    listed = {cfg["type"].removeprefix("mmseol.") for cfg in all_losses.losses().values()}
    registered = {
        n for n, c in MODELS.module_dict.items() if isinstance(c, type) and issubclass(c, ClassLoss)
    }
    assert registered
    assert registered <= listed


def test_a_loss_that_cannot_run_keeps_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    step = all_losses.step

    def refusing(loss: str, outputs: Any) -> Any:
        if loss == "mse":
            raise ValueError("`features` must be given.")
        return step(loss, outputs)

    monkeypatch.setattr(all_losses, "extra_memory", lambda *_, **__: None)
    monkeypatch.setattr(all_losses, "step", refusing)
    (row,) = all_losses.run(repeats=1, outputs=(1, 3, 4, 4), only=["mse"])["rows"]
    assert row["note"] == "not run: `features` must be given."
    assert "time_ratio" not in row


def test_steps_take_turns() -> None:
    turns: list[str] = []
    sides = {name: lambda name=name: turns.append(name) for name in "ab"}
    seconds = _measure.alternate(sides, repeats=3, warmup=2)
    assert turns == ["a", "b"] * 5
    assert [len(taken) for taken in seconds.values()] == [3, 3]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resident memory is read from Linux")
def test_memory_of_a_fresh_process() -> None:
    ballast = torch.ones(100_000_000)  # 400 MB in this process, which the measurement must not include
    measured = _measure.extra_memory(allocate, {"mb": 1}, mb=64)
    assert len(ballast)
    assert measured == pytest.approx(64e6, rel=0.2)
    with pytest.raises(RuntimeError, match="refused"):
        _measure.extra_memory(refuse, {})


def test_record_keeps_other_benchmarks(tmp_path: Path) -> None:
    tables = [
        _report.table(
            name, f"Title of {name}", [_report.row("case", "1x1", [0.2, 0.9, 0.4], [0.1, 0.3, 0.1])], "Notes."
        )
        for name in ("first", "second")
    ]
    _report.write(tmp_path, tables)
    _report.write(tmp_path, [{**tables[1], "title": "Another title"}])
    record = json.loads((tmp_path / "record.json").read_text())
    assert [made["title"] for made in record] == ["Title of first", "Another title"]
    page = (tmp_path / "README.md").read_text()
    assert "| case | 1x1 | 0.4 s | 0.1 s | 3.000 [2.000, 4.000] |" in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "record.json"]


def test_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(psp_step, "run", lambda repeats: _report.table("psp_step", "T", [], str(repeats)))
    arguments = ["run", "--only", "psp_step", "--repeats", "3", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    run.main()
    assert "3" in capsys.readouterr().out
    assert json.loads((tmp_path / "record.json").read_text())[0]["notes"] == "3"


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_steps_on_a_gpu_say_that_there_is_none() -> None:
    table = gpu_step.run()
    assert [row["note"] for row in table["rows"]] == ["not run: there is no CUDA device"] * 2
    assert "(not run: there is no CUDA device)" in _report.markdown([table])


@pytest.mark.parametrize("side", ["ours", "reference"])
def test_steps_on_a_gpu_run_here(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_step.loss_step(side, "bfloat16", batch=1, size=2)()
    if not torch.cuda.is_available():  # mmengine's wrapper for autocast starts on a GPU only
        monkeypatch.setattr(gpu_step, "AmpOptimWrapper", lambda optimizer, dtype: OptimWrapper(optimizer))
    for model in gpu_step.MODELS:
        logged = gpu_step.model_step(side, model, batch=2, crop=64)()
        assert {"decode.loss_ce", "decode.acc_seg"} <= logged.keys()


@pytest.mark.parametrize(("capacity", "least"), [(1, 1), (2, 2), (37, 35), (64, 64), (1000, 100)])
def test_largest_batch(capacity: int, least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def model_step(side: str, model: str, batch: int) -> Callable[[], None]:
        def step() -> None:
            if batch > capacity:
                raise torch.cuda.OutOfMemoryError

        return step

    monkeypatch.setattr(gpu_step, "model_step", model_step)
    assert least <= gpu_step.largest_batch("ours", "PSPNet-R50", most=100) <= min(capacity, 100)
