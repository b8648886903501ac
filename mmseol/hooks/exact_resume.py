"""Resume a run so that it equals the uninterrupted one to the last digit."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch import Tensor
from torch.utils.data import Sampler

from mmseol.hooks.generators import generator_states, set_generator_states
from mmseol.hooks.run_parts import validation_was_due
from mmseol.hooks.train_loaders import EndlessBatches, SeededLoader
from mmseol.registry import HOOKS
from mmseol.utils.modules import unwrap

__all__ = ["ExactResumeHook"]

_SAVED_AS = "rank_states"


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Keep random states in checkpoints, so that a resumed run equals the uninterrupted one bit by bit.

    - The states of Python's ``random``, NumPy and torch (CPU, and the rank's CUDA device) of every rank are
      saved and restored, and the buffers in which ranks differ, such as running means of BatchNorm.
    - Every batch is loaded with a seed of its own, from the seed of the run, rank, epoch and number of the
      batch. mmengine seeds workers alike whenever they start: without ``persistent_workers``, all epochs have
      the same augmentations. Here they differ, and do not depend on the number of workers.
    - A resumed run begins at the next batch, in the middle of an epoch, too (:class:`StopSignalHook`), and in
      iteration-based runs; the batches before are not loaded again. A run without a given seed continues with
      the seed that it was started with.
    - Validation leaves the states as they were. If a run was interrupted between a checkpoint and the
      validation that follows it, the resumed run validates first, so that no score and no best checkpoint
      is missing.

    The hook works in any config with ``EpochBasedTrainLoop`` or ``IterBasedTrainLoop``; the same seed twice
    then gives the same digits on a CPU. On a GPU, this holds as far as torch's operations are deterministic;
    ``randomness=dict(deterministic=True)`` chooses the deterministic ones, and raises an error where there is
    none::

        custom_hooks = [dict(type="mmseol.ExactResumeHook")]

    Not exact are: transforms and data sets that keep a generator or a cache of samples of their own (seed
    them per call from NumPy or torch), and an ``IterableDataset`` or loader without batches, which a run
    resumed in the middle of an epoch reads from its beginning. Gradients that are accumulated and not yet
    applied are in no checkpoint; ``accumulative_counts`` must divide the iterations between checkpoints.
    A checkpoint without states, or of another number of processes, is resumed with a warning.

    Between ``before_train`` and ``after_train`` the train loop's ``dataloader`` is a wrapper with the same
    attributes. The ``dataloader_iterator`` of iteration-based loops stays replaced.

    >>> hook = ExactResumeHook()
    """

    priority = "LOW"  # before the checkpoints are saved

    def __init__(self) -> None:
        self._seed: int | None = None
        self._loaded: list[dict[str, Any]] | None = None
        self._gathered: tuple[int | None, list[dict[str, Any]]] = (None, [])
        self._before_validation: dict[str, Any] | None = None
        self._resumed_at: int | None = None  # iterations, as is the next
        self._validated_at: int | None = None

    def before_run(self, runner: Any) -> None:
        """Note the seed that the samplers are built with; resuming may change that of the run."""
        self._seed = runner.seed

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Read the states."""
        self._loaded = checkpoint.get(_SAVED_AS)

    def before_train(self, runner: Any) -> None:
        """Load batches by seeds, and restore the states of a resumed run."""
        self._gathered, self._before_validation = (None, []), None
        loaded, self._loaded = self._loaded, None
        resumed = runner.iter > 0  # a checkpoint that is only loaded leaves 0
        self._resumed_at, self._validated_at = runner.iter if resumed else None, None
        if resumed and runner.seed != self._seed:
            _set_seed(runner.train_loop.dataloader.sampler, self._seed, runner.seed)
        _seed_batches(runner)
        if not resumed:
            return
        if loaded is None:
            runner.logger.warning(
                "The checkpoint has no random states: it was saved without ExactResumeHook. The resumed run "
                "draws other random numbers than the uninterrupted one."
            )
        elif len(loaded) != get_world_size():
            runner.logger.warning(
                f"The checkpoint has the random states of {len(loaded)} processes, and the run has "
                f"{get_world_size()}. The resumed run draws other random numbers than the uninterrupted one."
            )
        else:
            state = loaded[get_rank()]
            _set_buffers(runner.model, state.get("buffers", {}))
            set_generator_states(state)

    def before_train_epoch(self, runner: Any) -> None:
        """Set the epoch of the loader's seeds, and do a validation that the interrupted run did not reach."""
        self._validate(runner)
        loader = runner.train_loop.dataloader
        if isinstance(loader, SeededLoader) and isinstance(runner.train_loop, EpochBasedTrainLoop):
            loader.epoch = runner.epoch

    def before_val(self, runner: Any) -> None:
        """Keep the states."""
        self._validated_at = runner.iter
        self._before_validation = generator_states()

    def after_val(self, runner: Any) -> None:
        """Restore the states."""
        if self._before_validation is not None:
            set_generator_states(self._before_validation)
        self._before_validation = None

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Gather the states of all ranks if a checkpoint is due."""
        if get_world_size() > 1 and any(_is_due(hook, runner) for hook in runner.hooks):
            self.gather(runner, runner.iter + 1)

    def after_train_epoch(self, runner: Any) -> None:
        """Gather the states of all ranks."""
        if get_world_size() > 1:
            self.gather(runner, runner.iter)

    def gather(self, runner: Any, iteration: int) -> None:
        """Collect the states of all ranks for a checkpoint of this iteration; every rank must call it."""
        states = all_gather_object({**generator_states(), "buffers": _buffers(runner.model)})
        own = states[0]["buffers"]  # those are saved with the model
        for state in states:
            state["buffers"] = {
                name: value for name, value in state["buffers"].items() if not torch.equal(value, own[name])
            }
        self._gathered = (iteration, states)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Save the states; this process alone is asked, so that the others' were gathered before."""
        iteration, states = self._gathered
        if iteration != checkpoint["meta"]["iter"]:
            states = [self._before_validation or generator_states()]
        checkpoint[_SAVED_AS] = states

    def after_train(self, runner: Any) -> None:
        """Give the loop its loader back."""
        self._validate(runner)  # of a run that was interrupted after its last iteration
        _remove_seeds(runner.train_loop)

    def _validate(self, runner: Any) -> None:
        resumed_now = runner.iter == self._resumed_at and runner.iter != self._validated_at
        if resumed_now and runner.val_loop is not None and validation_was_due(runner.train_loop):
            runner.logger.info("The checkpoint was saved before a scheduled validation; validating now.")
            runner.val_loop.run()


def _seed_batches(runner: Any) -> None:
    loop = runner.train_loop
    _remove_seeds(loop)  # of a training that raised
    epochs, iterations = isinstance(loop, EpochBasedTrainLoop), isinstance(loop, IterBasedTrainLoop)
    if not SeededLoader.fits(loop.dataloader) or not (epochs or iterations):
        runner.logger.warning(
            f"ExactResumeHook cannot seed the batches of {type(loop).__name__} with "
            f"{type(loop.dataloader).__name__}; a run resumed within an epoch is not exact."
        )
        return
    loop.dataloader = SeededLoader(loop.dataloader, runner.seed)
    if iterations:
        skips = hasattr(loop.dataloader_iterator, "skip_iter")
        loop.dataloader_iterator = EndlessBatches(loop.dataloader, loop.iter, 0 if skips else loop.iter)


def _remove_seeds(loop: Any) -> None:
    if isinstance(loop.dataloader, SeededLoader):
        loop.dataloader = loop.dataloader.loader


def _buffers(model: Any) -> dict[str, Tensor]:
    """Return copies of the buffers that a checkpoint has."""
    return {
        f"{prefix}.{name}" if prefix else name: buffer.detach().cpu().clone()
        for prefix, module in unwrap(model).named_modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set
    }


def _set_buffers(model: Any, values: dict[str, Tensor]) -> None:
    buffers = dict(unwrap(model).named_buffers())
    for name, value in values.items():
        buffers[name].copy_(value)


def _set_seed(sampler: Any, old: int | None, new: int) -> None:
    """Give a sampler, and those that it draws from, the seed of the resumed run."""
    if getattr(sampler, "seed", None) == old:
        sampler.seed = new
    for part in vars(sampler).values():
        if isinstance(part, Sampler):
            _set_seed(part, old, new)


def _is_due(hook: Hook, runner: Any) -> bool:
    """Whether the hook saves a checkpoint after this iteration."""
    if not isinstance(hook, CheckpointHook) or hook.by_epoch:
        return False
    return hook.every_n_train_iters(runner, hook.interval, hook.save_begin) or (
        hook.save_last and hook.is_last_train_iter(runner)
    )
