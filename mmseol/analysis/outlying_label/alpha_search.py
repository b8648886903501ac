r"""Alpha and learning rate of outlying MSE, both free: does a learning rate make up for another alpha?

A small perceptron on scikit-learn's digits cut long-tailed at ratio 20, which trains in a second, so that the
whole grid is searched with several seeds. Validation chooses the learning rate of each alpha, test scores it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from mmseol.analysis.statistics.verdicts import spread, statement
from mmseol.camvid.layout import CAMVID_PIXELS
from mmseol.counting.counts import outlying_values
from mmseol.datasets.imbalance import class_sizes
from mmseol.losses import OutlyingMSELoss
from mmseol.utils.arrays import FloatArray, IntArray
from mmseol.utils.files import replacing

__all__ = ["alpha_grid", "alpha_measurement", "alpha_table", "auto_alphas"]

ALPHAS: tuple[float | str, ...] = ("auto", 0.3, 1.0, 3.0, 5.0, 10.0)
_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
RATES: dict[str, Sequence[float]] = {"SGD": _RATES, "Adam": _RATES[1:]}
_SEEDS = (1, 2, 3)
_PAPER, _MARGIN = 5.0, 2.0
_EPOCHS, _BATCH, _WIDTH = 40, 32, 64
_HELD_OUT, _TEST = 20, 60  # of each class


class _Data(NamedTuple):
    images: torch.Tensor
    labels: torch.Tensor
    train: IntArray
    validation: IntArray
    test: IntArray


def _digits() -> _Data:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    own = [order[labels[order] == k] for k in range(10)]
    sizes = class_sizes([100] * 10, "long_tailed", 20)
    skip = _HELD_OUT + _TEST
    parts = (
        np.concatenate([rows[skip : skip + size] for rows, size in zip(own, sizes, strict=True)]),
        np.concatenate([rows[_TEST:skip] for rows in own]),
        np.concatenate([rows[:_TEST] for rows in own]),
    )
    return _Data(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels), *parts)


def _train(data: _Data, alpha: Any, optimizer: str, rate: float, seed: int) -> tuple[float, float]:
    """Return the accuracy on validation and test data, in per cent."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Linear(64 if not layers else _WIDTH, _WIDTH), nn.BatchNorm1d(_WIDTH), nn.ReLU()]
    classifier = nn.Linear(_WIDTH, 10)
    nn.init.normal_(classifier.weight, std=0.01)  # as mmpretrain and mmseg do
    nn.init.zeros_(classifier.bias)
    net = nn.Sequential(*layers, classifier)
    counts = np.bincount(data.labels[data.train], minlength=10)
    loss = OutlyingMSELoss(alpha=alpha, class_counts=counts)
    if optimizer == "SGD":
        steps: Any = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    else:
        steps = torch.optim.Adam(net.parameters(), lr=rate)
    batches = len(data.train) // _BATCH
    schedule = torch.optim.lr_scheduler.PolynomialLR(steps, _EPOCHS * batches, power=0.9)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(_EPOCHS):
        order = torch.randperm(len(data.train), generator=generator).numpy()
        for i in range(batches):
            rows = data.train[order[i * _BATCH : (i + 1) * _BATCH]]
            steps.zero_grad()
            value = loss(net(data.images[rows]), data.labels[rows])
            if not torch.isfinite(value):
                return 10.0, 10.0  # chance
            value.backward()
            steps.step()
            schedule.step()
    net.eval()
    with torch.no_grad():
        right = net(data.images).argmax(1) == data.labels
    return tuple(100 * float(right[rows].float().mean()) for rows in (data.validation, data.test))  # type: ignore[return-value]


def alpha_grid(
    cache: str | Path,
    alphas: Sequence[float | str] = ALPHAS,
    rates: dict[str, Sequence[float]] | None = None,
    seeds: Sequence[int] = _SEEDS,
) -> list[dict[str, Any]]:
    """Return validation and test accuracy of every optimizer, alpha, learning rate and seed.

    >>> import tempfile
    >>> grid = alpha_grid(Path(tempfile.mkdtemp()) / "grid.json", ["auto"], {"SGD": [0.01]}, seeds=[1])
    >>> sorted(grid[0])
    ['alpha', 'lr', 'optimizer', 'seed', 'test', 'validation']

    Args:
        cache: File that keeps what is computed; a later call computes what is missing.
        alphas: Numbers or ``'auto'``.
        rates: Learning rates by optimizer.
        seeds: Of initialisation and order.
    """
    path = Path(cache)
    known = json.loads(path.read_text()) if path.is_file() else []
    keys = ("optimizer", "alpha", "lr", "seed")
    done = {tuple(row[key] for key in keys): row for row in known}
    data, threads = _digits(), torch.get_num_threads()
    torch.set_num_threads(1)
    found = []
    try:
        for optimizer, own in (RATES if rates is None else rates).items():
            for point in (
                (optimizer, alpha, rate, seed) for alpha in alphas for rate in own for seed in seeds
            ):
                if point not in done:
                    validation, test = _train(data, point[1], optimizer, point[2], point[3])
                    done[point] = dict(zip(keys, point, strict=True)) | {
                        "validation": validation,
                        "test": test,
                    }
                found.append(done[point])
            with replacing(path, "w") as file:
                json.dump(list(done.values()), file)
    finally:
        torch.set_num_threads(threads)
    return found


def alpha_table(grid: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each alpha at the learning rate that validation chooses for it.

    >>> row = dict(optimizer="SGD", alpha=1.0, seed=1, validation=80.0, test=79.0)
    >>> alpha_table([{**row, "lr": 0.1}, {**row, "lr": 0.01, "validation": 90.0}])[0]["lr"]
    0.01
    """
    rows = []
    for optimizer in dict.fromkeys(row["optimizer"] for row in grid):
        for alpha in dict.fromkeys(row["alpha"] for row in grid):
            own = [row for row in grid if (row["optimizer"], row["alpha"]) == (optimizer, alpha)]
            rates = list(dict.fromkeys(row["lr"] for row in own))
            means = [np.mean([row["validation"] for row in own if row["lr"] == rate]) for rate in rates]
            best = rates[int(np.argmax(means))]
            mine = sorted((row for row in own if row["lr"] == best), key=lambda row: row["seed"])
            rows.append(
                {
                    "optimizer": optimizer,
                    "alpha": alpha,
                    "lr": best,
                    "at the grid's border": best in (rates[0], rates[-1]),
                    "validation": spread([row["validation"] for row in mine]),
                    "test": spread([row["test"] for row in mine]),
                    "test by seed": [row["test"] for row in mine],
                    "validation by rate": [float(mean) for mean in means],
                    "rates": rates,
                }
            )
    return rows


def auto_alphas() -> list[dict[str, Any]]:
    """Return alpha ``'auto'`` beside the paper's choice on its data sets.

    >>> [(row["data"], round(row["auto"], 2), row["paper"]) for row in auto_alphas()][-1]
    ('CamVid', 0.3, 6.0)
    """
    data: list[tuple[str, FloatArray, float]] = [
        ("CIFAR-10, ratio 100", np.array(class_sizes([4995] * 10, "long_tailed", 100)), 5.0),
        ("CIFAR-100, ratio 100", np.array(class_sizes([495] * 100, "long_tailed", 100)), 1.0),
        ("Food-101-LT", np.array(class_sizes([700] * 101, "long_tailed", 100)), 1.0),
        ("CamVid", np.array(CAMVID_PIXELS), 6.0),
    ]
    return [
        {
            "data": name,
            "classes": len(counts),
            "auto": float(outlying_values(counts, "auto").min()),
            "paper": paper,
        }
        for name, counts, paper in data
    ]


def alpha_measurement(grid: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the table of :func:`alpha_table`, and whether a learning rate makes up for another alpha.

    >>> row = dict(optimizer="SGD", lr=0.1, seed=1, validation=80.0, test=80.0)
    >>> found = alpha_measurement([{**row, "alpha": 5.0}, {**row, "alpha": "auto"}])
    >>> [one.verdict for one in found["statements"]]
    ['supported', 'supported']
    """
    rows, said = alpha_table(grid), []
    for optimizer in dict.fromkeys(row["optimizer"] for row in rows):
        own = {
            row["alpha"]: [np.full(2, v) for v in row["test by seed"]]
            for row in rows
            if row["optimizer"] == optimizer
        }
        data = f"digits, perceptron, {optimizer}"
        for alpha, scores in own.items():
            if alpha != _PAPER and _PAPER in own:
                name = alpha if isinstance(alpha, str) else f"{alpha:g}"
                text = f"at its own learning rate, alpha {name} scores as alpha {_PAPER:g}"
                said.append(statement(text, data, scores, own[_PAPER], "equal", _MARGIN))
        if "auto" in own and _PAPER in own:
            text = f"alpha auto is at least as good as alpha {_PAPER:g}"
            said.append(statement(text, data, own["auto"], own[_PAPER], "at least", _MARGIN))
    return {"rows": rows, "statements": said, "auto": auto_alphas()}
