"""Tensors that keep their precision when a module is converted."""

import pytest
import torch
from torch import nn

from mmseol.losses import GHMCLoss, OutlyingMSELoss
from mmseol.losses.ops.autograd import limit_half_gradients
from mmseol.utils.precision import FullPrecisionBuffers


class Scale(FullPrecisionBuffers, nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("kept", torch.tensor([2049.0, 1e6], dtype=torch.float64))
        self.register_buffer("rounded", torch.tensor([2049.0]))
        self.register_buffer("later", None)
        self.derived = torch.tensor([70_001.0])

    def full_precision_names(self):
        return ("kept", "later", "derived")


@pytest.mark.parametrize("convert", [nn.Module.half, nn.Module.bfloat16, nn.Module.float])
def test_named_tensors_keep_their_digits(convert):
    module = convert(nn.Sequential(Scale()))[0]
    assert module.kept.dtype == torch.float64
    assert module.kept.tolist() == [2049.0, 1e6]
    assert module.derived.tolist() == [70_001.0]
    assert module.later is None
    assert "kept" in dict(module.named_buffers())
    assert module.rounded.dtype == convert(torch.nn.Linear(1, 1)).weight.dtype


def test_meta_tensors_have_no_values_to_keep():
    module = Scale().to("meta")
    assert module.kept.is_meta
    assert not module.derived.is_meta
    module.to_empty(device="cpu")
    assert module.kept.shape == (2,)
    assert not module.kept.is_meta


def test_integer_counts_stay_integers():
    loss = OutlyingMSELoss(class_counts=[2049, 70_001]).type(torch.float16)
    assert loss.class_counts.tolist() == [2049, 70_001]
    assert loss.class_counts.dtype == torch.int64


def test_state_and_derived_tensors_of_a_loss_are_kept():
    loss = GHMCLoss(momentum=0.5)
    loss.bin_counts.fill_(2049.0)
    assert loss.half().bin_counts.tolist() == [2049.0] * 10
    values = OutlyingMSELoss(alpha=2049.0, class_counts=[2, 1]).half().target_values
    assert values.tolist() == [2049.0, 4098.0]


def test_a_loss_without_a_gradient_needs_no_limit():
    pred = torch.ones(2, requires_grad=True)
    limit_half_gradients(torch.tensor(3.0), (pred, torch.float16), (None, torch.float16))
    loss = 1e6 * pred.sum()
    limit_half_gradients(loss, (pred, torch.float32))
    loss.backward()
    assert pred.grad is not None
    assert pred.grad.tolist() == [1e6, 1e6]  # float32 has the range
