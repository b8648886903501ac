"""Unknown arguments of losses and metrics, and what the check must leave alone."""

import copy
import pickle

import pytest
import torch
from mmengine.config import Config

from mmseol.losses import CrossEntropyLoss, OutlyingMSELoss
from mmseol.metrics import ClassBalanceMetric, SegClassBalanceMetric
from mmseol.registry import METRICS, MODELS


class Custom(CrossEntropyLoss):
    """A user's loss that handles a keyword of its own."""

    def __init__(self, **kwargs) -> None:
        self.power = kwargs.pop("power", 1)
        super().__init__(**kwargs)


def test_nearest_spelling_and_all_arguments_are_named():
    message = r"`OutlyingMSELoss` has no argument `alhpa`\. Did you mean `alpha`\? Its arguments are alpha"
    with pytest.raises(TypeError, match=message + ".*class_counts, ignore_index, .*sync_avg_factor") as error:
        OutlyingMSELoss(alhpa=6)
    assert "_delete_" not in str(error.value)


def test_arguments_of_the_previous_loss_are_told_from_typing_errors():
    stock = Config(
        dict(head=dict(loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, avg_non_ignore=True)))
    )
    lines = dict(head=dict(loss_decode=dict(type="mmseol.OutlyingMSELoss", alpha=6)))
    stock.merge_from_dict(lines)
    message = (
        r"`OutlyingMSELoss` has no arguments `use_sigmoid`, `avg_non_ignore`\. Perhaps merged with the "
        r"config's previous loss; add `_delete_=True`: dict\(_delete_=True, type='mmseol\.OutlyingMSELoss'"
    )
    with pytest.raises(TypeError, match=message):
        MODELS.build(stock.head.loss_decode)
    stock.merge_from_dict(dict(head=dict(loss_decode=dict(_delete_=True, **lines["head"]["loss_decode"]))))
    assert MODELS.build(stock.head.loss_decode).alpha == 6


@pytest.mark.parametrize("name", ["ClassBalanceMetric", "SegClassBalanceMetric"])
def test_arguments_of_the_previous_metric_are_named(name):
    message = (
        rf"`{name}` has no argument `iou_metrics`\. Perhaps merged with the config's previous metric; "
        r"add `_delete_=True`.* Its arguments are .*class_counts"
    )
    with pytest.raises(TypeError, match=message):
        METRICS.build(dict(type=f"mmseol.{name}", iou_metrics=["mIoU"]))
    assert ClassBalanceMetric(num_classes=3).num_classes == SegClassBalanceMetric(num_classes=3).num_classes


def test_a_subclass_handles_its_own_keywords():
    assert Custom(power=3, ignore_index=7).power == 3
    with pytest.raises(TypeError, match="alhpa"):
        Custom(alhpa=6)


def test_copies_and_pickles_pass_no_arguments():
    loss = Custom(power=2, class_weight=[1.0, 3.0])
    pred, target = torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert other.power == 2
        torch.testing.assert_close(other(pred, target), loss(pred, target), rtol=0, atol=0)
