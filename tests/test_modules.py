"""Classes that are inserted into built modules and taken out again."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.model import ExponentialMovingAverage
from torch import nn

from mmseol.utils.modules import averaged_copies, insert_class, remove_class


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 3)

    def steps(self) -> list[str]:
        return ["base"]


class Head(Base):
    def steps(self) -> list[str]:
        return ["head", *super().steps()]


class First(nn.Module):
    def steps(self) -> list[str]:
        return ["first", *super().steps()]  # type: ignore[misc]


class Second(First):
    def steps(self) -> list[str]:
        return ["second", *super().steps()]


class Below(Base):
    def steps(self) -> list[str]:
        return ["below", *super().steps()]


def test_a_class_goes_before_or_below_the_hosts() -> None:
    head = Head()
    keys = list(head.state_dict())
    insert_class(head, Below, below=True)
    assert head.steps() == ["head", "below", "base"]
    insert_class(head, First)
    assert head.steps() == ["first", "head", "below", "base"]
    insert_class(head, First)
    assert head.steps() == ["first", "head", "below", "base"]
    assert (type(head).__name__, type(head).__module__) == ("Head", __name__)
    assert isinstance(head, Head)
    assert list(head.state_dict()) == keys


@pytest.mark.parametrize(
    ("removed", "rest"),
    [(First, ["head", "below", "base"]), (Below, ["first", "head", "base"]), (Second, None)],
)
def test_each_class_is_taken_out_alone(removed: type, rest: list[str] | None) -> None:
    head = Head()
    insert_class(head, Below, below=True)
    insert_class(head, First)
    before = head.steps()
    remove_class(head, removed)
    assert head.steps() == (rest or before)
    for cls in (First, Below):
        remove_class(head, cls)
    assert type(head) is Head


def test_copies_and_pickles_have_the_class_and_the_weights() -> None:
    head = Head()
    insert_class(head, Below, below=True)
    insert_class(head, Second)
    for other in (copy.deepcopy(head), copy.copy(head), pickle.loads(pickle.dumps(head))):
        assert type(other) is type(head)
        assert other.steps() == ["second", "first", "head", "below", "base"]
        assert torch.equal(other.fc.weight, head.fc.weight)
    remove_class(head, Second)
    remove_class(head, Below)
    assert type(pickle.loads(pickle.dumps(head))) is Head


def test_one_class_for_all_modules_of_a_kind() -> None:
    one, two = Head(), Head()
    insert_class(one, First)
    insert_class(two, First)
    assert type(one) is type(two)


def test_averaged_copies_of_a_run() -> None:
    hook = EMAHook()
    assert averaged_copies(SimpleNamespace(hooks=[hook])) == []  # before the run
    hook.ema_model = ExponentialMovingAverage(Head())
    assert averaged_copies(SimpleNamespace(hooks=[object(), hook])) == [hook.ema_model]
