"""Find parts of a run that do not fit losses of squared errors, such as the MSE loss with outlying label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmseol.classifiers.find import head_of_loss

__all__ = ["largest_curvature", "stable_rate", "unfit_parts", "watch_first_step"]

_SAFE = 0.2  # of the largest stable rate: momentum, batches and the layers below need a margin
_ROWS = 4096  # pixels that the curvature is computed from


def unfit_parts(model: nn.Module, cfg: Any) -> list[str]:
    """Return a warning for each part of a run that takes outputs trained on squared errors for logits.

    >>> from mmseol.losses import OneHotMSELoss
    >>> cfg = dict(tta_model=dict(type="SegTTAModel"))
    >>> len(unfit_parts(nn.ModuleDict({"loss": OneHotMSELoss()}), cfg))
    1

    Args:
        model: Model, also one for test-time augmentation.
        cfg: Config of the run.
    """
    losses = [name for name, _ in _squared_errors(model)]
    if not losses:
        return []
    warnings = []
    tta = (cfg or {}).get("tta_model") or {}
    if type(model).__name__ == "SegTTAModel" or tta.get("type") in ("SegTTAModel", "mmseg.SegTTAModel"):
        warnings.append(
            "SegTTAModel averages the softmax of the outputs, which is 0 or 1 for outputs trained on squared "
            "errors, so that the views vote. Average the outputs: "
            "tta_model=dict(type='mmseol.SegScoreTTAModel')."
        )
    for name, head in model.named_modules():
        sampler: Any = getattr(head, "sampler", None)
        owns = any(loss.startswith(f"{name}." if name else "") for loss in losses)
        if owns and "OHEM" in type(sampler).__name__ and getattr(sampler, "thresh", None) is not None:
            warnings.append(
                f"{name}: {type(sampler).__name__} compares the softmax of the outputs with "
                f"thresh={sampler.thresh}, and outputs trained on squared errors are not logits. Select "
                f"pixels by their loss: sampler=dict(type='OHEMPixelSampler', min_kept={sampler.min_kept})."
            )
    return warnings


def watch_first_step(runner: Any, model: nn.Module) -> list[RemovableHandle]:
    """Warn before the first step of SGD if its learning rate is too high for squared errors.

    Half squared errors of the outputs :math:`W h + b` of a linear classifier are quadratic in W and b, with
    the curvature :func:`largest_curvature`. If the learning rate exceeds :func:`stable_rate`, each step makes
    the error larger, until the features have collapsed or the loss is not finite. The check uses the features
    of the first batch and the learning rate of the first iteration (with a warm-up: its start). Other
    optimizers and runs with clipped gradients are not checked.

    >>> from types import SimpleNamespace
    >>> from mmseol.losses import OneHotMSELoss
    >>> head = nn.ModuleDict({"fc": nn.Linear(2, 3), "loss": OneHotMSELoss()})
    >>> sgd = OptimWrapper(torch.optim.SGD(head.parameters(), lr=1.0))
    >>> runner = SimpleNamespace(optim_wrapper=sgd, cfg={}, logger=SimpleNamespace(warning=print))
    >>> handles = watch_first_step(runner, head)
    >>> _ = head["fc"](torch.ones(4, 2))  # doctest: +ELLIPSIS
    loss: the learning rate 1 of the classifier is too high for squared errors. ...

    Returns:
        Handles of the forward hooks, which remove themselves after the first batch.
    """
    wrapper = getattr(runner, "optim_wrapper", None)
    if not isinstance(wrapper, OptimWrapper) or wrapper.clip_grad_kwargs or runner.cfg.get("compile"):
        return []
    handles: list[RemovableHandle] = []
    for name, loss in _squared_errors(model):
        try:
            _, layer = head_of_loss(model, name)
        except ValueError:
            continue
        if type(layer) in (nn.Linear, nn.Conv1d, nn.Conv2d) and getattr(loss, "reduction", "mean") == "mean":
            factor = float(loss.curvature) * float(getattr(loss, "loss_weight", 1.0))
            check = _first_step_check(name, factor, wrapper.optimizer, runner.logger, handles)
            handles.append(layer.register_forward_pre_hook(check))
    return handles


def largest_curvature(features: Tensor) -> float:
    r"""Return the largest eigenvalue of :math:`E[\tilde h \tilde h^\top]` with :math:`\tilde h = (h, 1)`.

    It is the largest second derivative of the mean half squared error of :math:`W h + b` in (W, b).

    >>> largest_curvature(torch.tensor([[3.0, 0.0], [3.0, 0.0]]))
    10.0

    Args:
        features: h, (N, C) or (N, C, \*).
    """
    rows = features.detach().movedim(1, -1).flatten(0, -2).double()
    rows = rows[:: max(1, len(rows) // _ROWS)]
    rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
    return round(float(torch.linalg.eigvalsh(rows.T @ rows / len(rows))[-1]), 6)


def stable_rate(curvature: float, momentum: float = 0.0) -> float:
    r"""Return the learning rate :math:`2 (1 + \beta) / \lambda` above which SGD with momentum diverges.

    Polyak, "Some methods of speeding up the convergence of iteration methods", 1964, for a quadratic with
    the curvature :math:`\lambda`.

    >>> stable_rate(10.0), stable_rate(10.0, momentum=0.9)
    (0.2, 0.38)
    """
    return 2 * (1 + momentum) / curvature


def _squared_errors(model: nn.Module) -> list[tuple[str, Any]]:
    """Return the losses with a constant second derivative ``curvature`` in each output, by name."""
    return [(name, part) for name, part in model.named_modules() if hasattr(part, "curvature")]


def _first_step_check(
    name: str, factor: float, optimizer: Any, logger: Any, handles: list[RemovableHandle]
) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    position = len(handles)

    def check(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not layer.training:
            return
        handles[position].remove()
        group = next((g for g in optimizer.param_groups if any(p is layer.weight for p in g["params"])), None)
        if group is None or not isinstance(optimizer, torch.optim.SGD):
            return
        curvature = factor * largest_curvature(inputs[0])
        limit = stable_rate(curvature, group["momentum"])
        if group["lr"] > limit:
            logger.warning(
                f"{name}: the learning rate {group['lr']:g} of the classifier is too high for squared "
                f"errors. On the features of the first batch, SGD with momentum {group['momentum']:g} "
                f"diverges above {limit:.2g}. Try optim_wrapper.optimizer.lr={_SAFE * limit:.1g}."
            )

    return check
