"""The Lovász extension from a sort of few pixels, against that from a sort of all."""

from __future__ import annotations

import pytest
import torch

from mmseol.losses.lovasz import jaccard_gradient
from mmseol.losses.ops.jaccard import jaccard_extension


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("labelled", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_a_sort_of_all_pixels(dtype, labelled, ties, weighted):
    generator = torch.Generator().manual_seed(0)
    errors = torch.rand(1000, generator=generator, dtype=dtype)
    if ties:
        errors = (errors * 9).round() / 9  # 0 and 1 among them
    truth = torch.rand(1000, generator=generator) < labelled
    valid = torch.rand(1000, generator=generator) < 0.8
    weight = valid * (torch.rand(1000, generator=generator, dtype=torch.float64) if weighted else 1.0)
    expected = jaccard_gradient(errors.unsqueeze(0), truth.unsqueeze(0), weight.double())[0]
    value, steps = jaccard_extension(errors, truth, valid, weight if weighted else None)
    signed = torch.where(truth, -expected, expected) * (errors > 0)
    torch.testing.assert_close(steps, signed.to(dtype))
    torch.testing.assert_close(value, (errors * expected).sum())


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
@pytest.mark.parametrize("at", [0, 1])
def test_what_is_not_finite_stays_so(odd, at):
    errors, truth = torch.tensor([0.5, 0.25, 0.75]), torch.tensor([True, False, True])
    errors[at] = odd
    assert not jaccard_extension(errors, truth, truth | True)[0].isfinite()


def test_nothing_valid():
    for valid, weight in ((False, None), (True, torch.zeros(1))):
        given = torch.tensor([0.5]), torch.tensor([True]), torch.tensor([valid]), weight
        value, steps = jaccard_extension(*given)
        assert value == 0
        assert steps.tolist() == [0]
