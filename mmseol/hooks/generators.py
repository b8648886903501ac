"""States of the random generators of a process: Python's, NumPy's and torch's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["generator_states", "kept_generators", "seed_generators", "set_generator_states"]


def generator_states() -> dict[str, Any]:
    """Return the states of ``random``, ``numpy.random`` and torch (CUDA's too if in use) as plain data.

    >>> states = generator_states()
    >>> before = torch.rand(2)
    >>> set_generator_states(states)
    >>> torch.equal(torch.rand(2), before)
    True
    """
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    states: dict[str, Any] = {
        "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
        "numpy": {
            "name": name,
            "keys": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "gauss": float(cached),
        },
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_generator_states(states: dict[str, Any]) -> None:
    """Set the states that :func:`generator_states` returned; those that are missing stay as they are.

    >>> set_generator_states({"torch": torch.Generator().manual_seed(1).get_state()})
    >>> torch.initial_seed()
    1
    """
    if "python" in states:
        python = states["python"]
        random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    if "numpy" in states:
        state = states["numpy"]
        keys = state["keys"].cpu().numpy().astype(np.uint32)
        np.random.set_state(  # noqa: NPY002
            (state["name"], keys, state["position"], state["has_gauss"], state["gauss"])
        )
    if "torch" in states:
        torch.set_rng_state(states["torch"].cpu())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())


@contextmanager
def kept_generators() -> Iterator[None]:
    """Restore the generators of the CPU when the block ends.

    >>> random.seed(0)
    >>> with kept_generators():
    ...     _ = random.random()
    >>> random.random() == random.Random(0).random()
    True
    """
    python, numpy, torchs = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(torchs)


def seed_generators(*entropy: int) -> None:
    """Seed the generators of the CPU with numbers that are independent for different ``entropy``.

    >>> seed_generators(1, 0)
    >>> first = random.random()
    >>> seed_generators(1, 1)
    >>> random.random() == first
    False
    """
    python, numpy, torchs = np.random.SeedSequence(entropy).generate_state(3, np.uint64).tolist()
    random.seed(python)
    np.random.seed([numpy >> 32, numpy & 0xFFFFFFFF])  # noqa: NPY002
    torch.default_generator.manual_seed(torchs >> 1)
