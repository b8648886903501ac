"""Schedules of the learning rate."""

from __future__ import annotations

from mmengine.optim import BaseOptimWrapper, PolyLR
from torch.optim import Optimizer

from mmseol.registry import PARAM_SCHEDULERS
from mmseol.utils.checks import number

__all__ = ["PolynomialLR"]


@PARAM_SCHEDULERS.register_module()
class PolynomialLR(PolyLR):
    r"""Decay the learning rate as a power of the epochs or iterations that are left.

    .. math:: \eta(t) = (\eta_0 - \eta_{min}) \, (1 - t / T)^p + \eta_{min}, \quad t = 0, \dots, T - 1

    with epoch or iteration t counted from ``begin``, T = ``end`` - ``begin``, p ``power``, :math:`\eta_{min}`
    ``eta_min`` and the optimizer's learning rate :math:`\eta_0`. This is Eq. (6) of arXiv 2107.02393 and
    torch's ``PolynomialLR``. mmengine's ``PolyLR`` divides by T - 1: it is ``eta_min`` throughout the last
    epoch. ::

        param_scheduler = [dict(type="mmseol.PolynomialLR", power=0.9)]  # to train_cfg's last epoch
        param_scheduler = [dict(type="mmseol.PolynomialLR", power=0.9, convert_to_iter_based=True)]

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    >>> schedule, rates = PolynomialLR(optimizer, power=1.0, end=4), []
    >>> for epoch in range(4):
    ...     rates.append(round(optimizer.param_groups[0]["lr"], 4))
    ...     optimizer.step(); schedule.step()
    >>> rates
    [0.1, 0.075, 0.05, 0.025]

    Args:
        optimizer: Optimizer or its wrapper; the Runner gives it.
        power: Exponent, above 0.
        eta_min: Learning rate that is reached after the last step.
        begin: Epoch or iteration where the decay begins, counted from 0.
        end: Epoch or iteration where it ends; the Runner gives the length of the training.
        last_step: Last step that was done, to continue without a state; -1: none.
        by_epoch: Whether a step is an epoch (``True``) or an iteration.
        verbose: Whether to print each learning rate.

    Raises:
        ValueError: If ``power`` is not above 0, or ``end`` is not above ``begin``.
    """

    def __init__(
        self,
        optimizer: Optimizer | BaseOptimWrapper,
        power: float = 0.9,
        eta_min: float = 0.0,
        begin: int = 0,
        end: int = 10**9,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        power = number("power", power, above=0)
        if end <= begin:
            raise ValueError(f"`end` must be above `begin` ({begin}), got {end}.")
        super().__init__(
            optimizer,
            power=power,
            eta_min=eta_min,
            begin=begin,
            end=end,
            last_step=last_step,
            by_epoch=by_epoch,
            verbose=verbose,
        )
        self.total_iters = end - begin  # the first step, done by now, changes nothing
