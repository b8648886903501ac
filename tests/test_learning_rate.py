"""The schedule of Eq. (6), in real Runners and by its name in the configs of both hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_runner import TinyModel, outlying, tiny_runner
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope

from mmseol.hooks import PolynomialLR

POLY = Path(__file__).parents[1] / "configs" / "_base_" / "schedules" / "poly.py"
EPOCHS, LENGTH, RATE = 5, 4, 1e-3  # of tiny_runner


class Rates(Hook):
    """Keep the learning rate of every iteration."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.seen.append(runner.optim_wrapper.param_groups[0]["lr"])


def rates(work_dir: Path, **kwargs: Any) -> list[float]:
    watch = Rates()
    hooks = [watch, {"type": "mmseol.ClassCountHook"}]
    tiny_runner(work_dir, TinyModel([outlying()], []), custom_hooks=hooks, **kwargs).train()
    return watch.seen


def eq_6(steps: int) -> list[float]:
    return [RATE * (1 - t / steps) ** 0.9 for t in range(steps)]


def test_rate_of_every_epoch_is_eq_6(tmp_path: Path) -> None:
    scheduler = Config.fromfile(POLY).param_scheduler
    seen = rates(tmp_path, epochs=EPOCHS, param_scheduler=scheduler)
    assert seen == pytest.approx([rate for rate in eq_6(EPOCHS) for _ in range(LENGTH)], rel=1e-12)
    assert min(seen) > 0


def test_rate_of_every_iteration_is_eq_6(tmp_path: Path) -> None:
    converted = [dict(type="mmseol.PolynomialLR", convert_to_iter_based=True)]
    seen = rates(tmp_path / "converted", epochs=EPOCHS, param_scheduler=converted)
    assert seen == pytest.approx(eq_6(EPOCHS * LENGTH), rel=1e-12)
    by_iter = {
        "train_cfg": dict(by_epoch=False, max_iters=7),
        "param_scheduler": [dict(type="mmseol.PolynomialLR", by_epoch=False)],
        "default_hooks": dict(checkpoint=dict(type="CheckpointHook", by_epoch=False)),
        "log_processor": dict(by_epoch=False),
    }
    assert rates(tmp_path / "by_iter", **by_iter) == pytest.approx(eq_6(7), rel=1e-12)


@pytest.mark.parametrize("host", ["mmseg", "mmpretrain"])
def test_rates_after_warm_up_by_its_name_in_a_config_of_a_host(host: str) -> None:
    registry = __import__(f"{host}.registry", fromlist=["PARAM_SCHEDULERS"]).PARAM_SCHEDULERS
    optimizer = torch.optim.SGD(
        [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (0.1, 1.0)]
    )
    with DefaultScope.overwrite_default_scope(host):
        schedulers = [
            build({**settings, "optimizer": optimizer})
            for build, settings in (
                (registry.build, dict(type="LinearLR", start_factor=0.25, begin=0, end=3)),
                (PARAM_SCHEDULERS.build, dict(type="mmseol.PolynomialLR", begin=3, end=13, eta_min=0.05)),
            )
        ]
    seen = []
    for _ in range(13):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    for group, base in enumerate((0.1, 1.0)):
        expected = [0.05 + (base - 0.05) * (1 - t / 10) ** 0.9 for t in range(10)]
        assert [rate[group] for rate in seen[3:]] == pytest.approx(expected, rel=1e-12)


def test_bad_arguments_are_named() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(ValueError, match=r"`power` must be a finite number above 0, got 0\."):
        PolynomialLR(optimizer, power=0)
    with pytest.raises(ValueError, match=r"`end` must be above `begin` \(3\), got 3\."):
        PolynomialLR(optimizer, begin=3, end=3)


def test_all_arguments_arrive() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    plain = PolynomialLR(optimizer)
    assert (plain.power, plain.eta_min, plain.begin, plain.end) == (0.9, 0.0, 0, 10**9)
    assert (plain.last_step, plain.by_epoch, plain.verbose) == (0, True, False)
    given = PolynomialLR(optimizer, 2.0, 0.01, 3, 9, last_step=4, by_epoch=False, verbose=True)
    assert (given.power, given.eta_min, given.begin, given.end, given.total_iters) == (2.0, 0.01, 3, 9, 6)
    assert (given.last_step, given.by_epoch, given.verbose) == (4, False, True)
