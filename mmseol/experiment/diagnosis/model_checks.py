"""Checks that build the model and run one iteration of it."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import FUNCTIONS, PARAM_SCHEDULERS
from torch import nn

from mmseol.experiment.diagnosis.findings import Check, Finding, Subject, error_text
from mmseol.experiment.loss import set_loss
from mmseol.experiment.weights import build_model
from mmseol.hooks import feed_features
from mmseol.hooks.class_count import set_counts
from mmseol.hooks.run_parts import counting_losses
from mmseol.hooks.squared_errors import unfit_parts, watch_first_step

__all__ = ["MODEL"]

_CPU_IMAGES = 2  # batch normalisation needs two


def model(subject: Subject) -> Iterator[Finding]:
    """Build the model, with new weights."""
    try:
        built = build_model(subject.cfg).to(subject.device).train()
    except Exception as error:
        yield Finding("fault", f"the model cannot be built: {error_text(error)}")
        return
    subject.model = built
    parameters = sum(parameter.numel() for parameter in built.parameters())
    yield Finding("ok", f"{type(built).__name__} with {parameters / 1e6:.1f} million parameters")


def softmax_of_squared_errors(subject: Subject) -> Iterator[Finding]:
    """Look for parts that take outputs trained on squared errors for logits."""
    warnings = unfit_parts(subject.require("model"), subject.cfg)
    for text in warnings:
        yield Finding("warning", text)
    if not warnings:
        yield Finding("ok", "no part takes outputs trained on squared errors for logits")


def first_iteration(subject: Subject) -> Iterator[Finding]:
    """Train one iteration without a step; compare its gradient and learning rate with the loss."""
    built, dataset, counts = (subject.require(part) for part in ("model", "train", "counts"))
    wanted = subject.cfg.train_dataloader.get("batch_size", 1)
    number = min(wanted, len(dataset), wanted if subject.device != "cpu" else _CPU_IMAGES)
    hook = _hook(subject.cfg, "ClassCountHook")
    for _, loss in counting_losses(built):
        set_counts(loss, counts, hook.get("count", "samples"))
    warnings: list[str] = []
    try:
        batch = _batch(subject.cfg, dataset, number)
        rate = _watch(subject.cfg, built, warnings)
        start = time.perf_counter()
        value, norm = _gradient(built, batch)
        seconds = time.perf_counter() - start
    except Exception as error:
        yield Finding("fault", f"the first iteration fails: {error_text(error)}{_remedy(error)}")
        return
    if not np.isfinite([value, norm]).all():
        yield Finding(
            "fault",
            f"the loss of the first batch is {value:g}, its gradient {norm:g}. Lower alpha, or check "
            "the images for values that are not finite.",
        )
        return
    part = f" of {wanted}" if number < wanted else ""
    yield Finding(
        "ok", f"{number}{part} images of a batch take {seconds:.2g} s on {subject.device}, loss {value:.3g}"
    )
    for text in warnings:
        yield Finding("warning", text)
    beside = _cross_entropy(subject, batch)
    if beside:
        yield Finding(
            "ok",
            f"the gradient has the norm {norm:.3g}, {norm / beside:.3g} times that of cross entropy on this "
            f"batch ({beside:.3g}), at the learning rate {rate}",
        )


def _batch(cfg: Config, dataset: Any, number: int) -> Any:
    """Return the first images of a random order, as the data loader collates them."""
    order = np.random.default_rng(0).permutation(len(dataset))[:number]
    settings = dict(cfg.train_dataloader.get("collate_fn") or {"type": "pseudo_collate"})
    collate: Any = FUNCTIONS.get(settings.pop("type"))
    return partial(collate, **settings)([dataset[int(i)] for i in order])


def _gradient(model: Any, batch: Any) -> tuple[float, float]:
    """Return the loss of a batch and the norm of its gradient."""
    handles = feed_features(model)
    try:
        data = model.data_preprocessor(copy.deepcopy(batch), training=True)
        inputs = data if isinstance(data, dict) else dict(zip(("inputs", "data_samples"), data, strict=True))
        total, _ = model.parse_losses(model(**inputs, mode="loss"))
        model.zero_grad()
        total.backward()
    finally:
        for handle in handles:
            handle.remove()
    gradients = [p.grad.double().norm() for p in model.parameters() if p.grad is not None]
    return float(total.detach()), float(torch.stack(gradients).norm())


def _watch(cfg: Config, model: nn.Module, warnings: list[str]) -> str:
    """Let the count hook's check look at the first step; return the learning rate as text."""
    from mmengine.optim import build_optim_wrapper

    settings = copy.deepcopy(cfg.get("optim_wrapper"))
    if not settings:
        return "of no optimizer"
    if "Amp" in str(settings.get("type")) and not torch.cuda.is_available():
        settings = Config(dict(optim_wrapper=dict(optimizer=settings["optimizer"]))).optim_wrapper
    wrapper = build_optim_wrapper(model, settings)
    schedulers = cfg.get("param_scheduler") or []
    for scheduler in [schedulers] if isinstance(schedulers, dict) else schedulers:
        if scheduler.get("begin", 0) == 0:
            PARAM_SCHEDULERS.build(
                {**{k: v for k, v in scheduler.items() if k != "convert_to_iter_based"}, "optimizer": wrapper}
            )
    logger = SimpleNamespace(warning=warnings.append)
    watch_first_step(SimpleNamespace(optim_wrapper=wrapper, cfg=cfg, logger=logger), model)
    rates = sorted({group["lr"] for group in wrapper.optimizer.param_groups})
    return " to ".join(dict.fromkeys(f"{rate:g}" for rate in (rates[0], rates[-1])))


def _cross_entropy(subject: Subject, batch: Any) -> float | None:
    """Return the norm of the gradient with cross entropy in every head, or ``None`` if there is none."""
    cfg = Config(copy.deepcopy(subject.cfg._cfg_dict))
    try:
        set_loss(cfg, "ce")
        other = build_model(cfg).to(subject.device).train()
    except ValueError:  # heads that score masks
        return None
    if cfg.model == subject.cfg.model:
        return None
    other.load_state_dict(subject.model.state_dict(), strict=False)
    return _gradient(other, batch)[1]


def _hook(cfg: Config, name: str) -> Any:
    hooks = cfg.get("custom_hooks") or []
    return next((hook for hook in hooks if str(hook.get("type")).rpartition(".")[-1] == name), {})


def _remedy(error: Exception) -> str:
    if "Expected more than 1 value per channel" in str(error):
        return ". Set train_dataloader.batch_size to at least 2."
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return ". Lower train_dataloader.batch_size or the crop."
    return ""


MODEL: list[Check] = [model, softmax_of_squared_errors, first_iteration]
