"""Loaders of a training, the parts of a run that hooks look up, and where a resumed run begins."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mmseol.counting.counts import ClassCounts
from mmseol.hooks.class_table import class_table, derived_columns, drawn_column
from mmseol.hooks.exact_resume import _buffers, _set_buffers, _set_seed
from mmseol.hooks.run_parts import agreed, from_heads, missing_hooks, validation_was_due
from mmseol.hooks.squared_errors import largest_curvature
from mmseol.hooks.train_loaders import EndlessBatches, LoaderWrapper, SeededLoader, WithoutFirst, inner_loader
from mmseol.losses import CrossEntropyLoss, OutlyingMSELoss


class Noise(Dataset):
    """Ten items: their number and a random number."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[int, float]:
        return index, float(torch.rand(()) + np.random.rand())  # noqa: NPY002


class Batched(Noise):
    """Items that are read as a batch, as torch's data sets may offer it."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        assert type(indices) is list
        return [(index, -1.0) for index in indices]


def loader_of(dataset: Any = None, seed: int = 0, **kwargs: Any) -> SeededLoader:
    dataset = Noise() if dataset is None else dataset
    options: dict[str, Any] = dict(sampler=DefaultSampler(dataset, seed=1), batch_size=4, collate_fn=list)
    return SeededLoader(DataLoader(dataset, **{**options, **kwargs}), seed)


def indices(batches: Any) -> list[int]:
    return [index for batch in batches for index, _ in batch]


def test_batches_follow_from_seed_and_epoch_alone() -> None:
    state = torch.get_rng_state(), np.random.get_state()[2]  # noqa: NPY002
    whole = list(loader_of())
    assert sorted(indices(whole)) == list(range(10))
    again = loader_of()
    assert list(again) == whole
    assert list(again) == whole  # the second pass of the same epoch
    again.first = 2
    assert (list(again), list(again)) == (whole[2:], whole)  # once
    again.epoch = 1
    other = list(again)
    assert indices(other) == indices(whole)  # the sampler has an epoch of its own
    drawn = [
        {value for batch in batches for _, value in batch} for batches in (whole, other, loader_of(seed=1))
    ]
    assert [len(values) for values in drawn] == [10, 10, 10]  # no two batches alike
    assert len(set.union(*drawn)) == 30
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.random.get_state()[2] == state[1]  # noqa: NPY002


def test_data_sets_that_read_whole_batches_do() -> None:
    assert [value for batch in loader_of(Batched()) for _, value in batch] == [-1.0] * 10


def test_workers_draw_the_same_numbers_and_may_stay() -> None:
    whole = list(loader_of())
    loader = loader_of(num_workers=2, persistent_workers=True)
    assert list(loader) == whole
    first = vars(loader.loader)["_iterator"]
    assert list(loader) == whole
    assert vars(loader.loader)["_iterator"] is first
    assert len(loader) == 3


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter(range(3))


def test_loaders_that_cannot_be_seeded() -> None:
    assert SeededLoader.fits(loader_of().loader)
    assert not SeededLoader.fits(DataLoader(Stream(), batch_size=2))
    assert not SeededLoader.fits(DataLoader(Noise(), batch_size=None))
    assert not SeededLoader.fits([1, 2])


def test_attributes_of_a_wrapped_loader_are_the_loaders() -> None:
    inner = DataLoader(range(6), batch_size=2)
    wrapped = WithoutFirst(WithoutFirst(inner, 1), 1)
    assert inner_loader(wrapped) is inner
    assert wrapped.batch_size == 2
    wrapped.mark = 3
    assert inner.mark == 3
    wrapped.first = 0
    assert (wrapped.first, wrapped.loader.first) == (0, 1)
    assert "first" not in vars(inner)
    assert [batch.tolist() for batch in wrapped] == [[2, 3], [4, 5]]
    assert [batch.tolist() for batch in LoaderWrapper(inner)] == [[0, 1], [2, 3], [4, 5]]
    twin = copy.copy(wrapped)
    assert (twin.first, twin.loader) == (0, wrapped.loader)
    with pytest.raises(AttributeError, match="loader"):
        _ = WithoutFirst.__new__(WithoutFirst).batch_size


@pytest.mark.parametrize("endless", [False, True])
@pytest.mark.parametrize("trained", [0, 1, 2, 3, 4, 7])
def test_passes_go_on_at_the_batch_that_follows(endless: bool, trained: int) -> None:
    """Three batches a pass; mmengine's InfiniteSampler has no passes."""

    def batches(trained: int, passed: int = 0) -> EndlessBatches:
        dataset = Noise()
        kind = InfiniteSampler if endless else DefaultSampler
        return EndlessBatches(loader_of(dataset, sampler=kind(dataset, seed=1)), trained, passed)

    state = torch.get_rng_state()
    whole = batches(0)
    assert iter(whole) is whole
    expected = [next(whole) for _ in range(10)]
    rest = batches(trained)
    rest.skip_iter(trained)
    assert [next(rest) for _ in range(10 - trained)] == expected[trained:]
    skipping = batches(trained, passed=trained)  # as mmengine up to 0.10.7 asks for them
    assert [next(skipping) for _ in range(trained)] == [None] * trained
    assert next(skipping) == expected[trained]
    if not endless:
        assert indices(expected[:3]) != indices(expected[3:6])  # the sampler knows the pass
        assert all(len(set(indices(expected[k : k + 3]))) == 10 for k in (0, 3, 6))
    assert torch.equal(torch.get_rng_state(), state)


def test_an_infinite_sampler_begins_anew_in_each_pass() -> None:
    dataset = Noise()
    loader = loader_of(dataset, sampler=InfiniteSampler(dataset, seed=1))
    first = next(iter(loader))
    assert next(iter(loader)) == first


# ------------------------------------------------------------------ parts of a run


def head(**attributes: Any) -> nn.ModuleDict:
    module = nn.ModuleDict({"losses": nn.ModuleList([nn.Identity()])})
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def test_the_nearest_module_around_a_loss_says_its_classes() -> None:
    model = nn.ModuleDict({"a": head(num_classes=4), "b": head(), "c": head(num_classes=True)})
    losses = [(f"{name}.losses.0", None) for name in "abc"]
    assert from_heads(model, losses, "num_classes") == {"a": 4}
    model.num_classes = 7
    found = from_heads(model, losses, "num_classes")
    assert found == {"a": 4, "the model": 7}
    with pytest.raises(ValueError, match=r"got 4 from a, 7 from the model\. .*num_classes=\.\.\.\)"):
        agreed("num_classes", found)
    assert agreed("num_classes", {}) is None
    assert agreed("num_classes", {"a": 4, "b": 4}) == 4


def test_hooks_are_known_by_their_class() -> None:
    losses = [("a", SimpleNamespace(required_hooks=("mmseol.X", "mmseol.Y"))), ("b", nn.Identity())]
    assert missing_hooks((name for name in ["Y"]), losses) == [("a", "mmseol.X")]
    assert missing_hooks(["X", "Y"], losses) == []


@pytest.mark.parametrize(
    ("iteration", "begin", "due"), [(2, 1, False), (3, 1, True), (6, 7, False), (9, 9, True), (10, 1, True)]
)
def test_a_validation_of_iterations_is_due(iteration: int, begin: int, due: bool) -> None:
    """Every third iteration of ten, from ``begin`` on, and the last."""
    loop = SimpleNamespace(iter=iteration, max_iters=10, val_begin=begin, val_interval=0)

    def decide() -> None:  # mmengine's dynamic intervals
        loop.val_interval = 3

    loop._decide_current_val_interval = decide
    assert validation_was_due(loop) is due


def test_buffers_of_a_checkpoint_are_copied_without_others() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.BatchNorm1d(3)))
    model.register_buffer("own", torch.zeros(1))
    model[1].register_buffer("hidden", torch.zeros(1), persistent=False)
    kept = _buffers(model)
    assert set(kept) == set(dict(model.named_buffers())) - {"1.hidden"}
    model.own.fill_(5)
    assert kept["own"].item() == 0
    _set_buffers(model, kept)
    assert model.own.item() == 0


def test_a_resumed_seed_reaches_the_samplers_that_drew_with_the_old_one() -> None:
    class Outer(torch.utils.data.Sampler):
        def __init__(self, inner: Any, seed: int) -> None:
            self.inner, self.seed, self.other = inner, seed, "seed"

    own = DefaultSampler(range(3), seed=5)
    outer = Outer(DefaultSampler(range(3), seed=4), 4)
    _set_seed(outer, 4, 9)
    assert (outer.seed, outer.inner.seed) == (9, 9)
    outer.inner = own  # that a user has chosen
    _set_seed(outer, 9, 1)
    assert (outer.seed, own.seed) == (1, 5)


def test_the_curvature_of_many_rows_is_that_of_a_part() -> None:
    """Of 4096 rows or somewhat more, evenly spaced."""
    features = torch.zeros(2 * 4096, 1)
    features[::2] = 3.0
    assert largest_curvature(features) == pytest.approx(10.0)
    assert largest_curvature(features[:4096]) < 9


# ------------------------------------------------------------------ the table


def test_equal_columns_stand_once_under_their_heading() -> None:
    first, same = (OutlyingMSELoss(class_counts=[90, 10]) for _ in range(2))
    other, plain = OutlyingMSELoss(class_counts=[90, 10], alpha=2.0), CrossEntropyLoss(class_counts=[90, 10])
    assert derived_columns([("a", first), ("b", same), ("c", plain)]) == {"target value": [1, 2]}
    assert derived_columns([("a", first), ("b", other)]) == {
        "target value (a)": [1, 2],
        "target value (b)": [2, 4],
    }


def test_columns_of_samplers_are_of_the_classes() -> None:
    assert drawn_column(SimpleNamespace(expected_counts=lambda: [5, 5]), 3) == {}
    assert drawn_column(DefaultSampler(range(3)), 3) == {}


@pytest.mark.parametrize("classes", [100, 101])
def test_the_table_of_many_classes_is_shortened(classes: int) -> None:
    samples = np.arange(classes) + 1
    counts = ClassCounts(samples * 2, samples, samples * 3)
    names = [f"name{k}" for k in range(classes)]
    lines = class_table("title", names, counts, {"x": [0.123456] * classes}).splitlines()
    assert lines[0] == "title"
    rows = [line.split()[1] for line in lines if line.startswith("│")]
    if classes == 100:
        assert rows == names
        return
    assert rows == [*names[:-26:-1], *names[24::-1]]
    assert "51 classes of medium frequency are not shown." in lines[-1]
    (row,) = [line for line in lines if " name100 " in line]
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "name100",
        "202",
        "1.96 %",
        "101",
        "0.1235",
    ]
    ends = [number for number, line in enumerate(lines) if line.startswith("├")]
    assert len(ends) == 1
    assert " name76 " in lines[ends[0] - 1]


def test_the_table_of_no_sample_has_no_fraction() -> None:
    text = class_table("", ["a"], ClassCounts([0], [0], [0]), {})
    assert "0.00 %" in text
