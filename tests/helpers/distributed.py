"""Run a function in two gloo processes on the CPU."""

from __future__ import annotations

import os
import pickle
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.multiprocessing as mp


def _main(rank: int, world: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world)
    )
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    result = function(rank, *args)
    Path(folder, f"{rank}.pkl").write_bytes(pickle.dumps(result))
    dist.barrier()
    os._exit(0)  # gloo of torch 2.1 may hang in destroy_process_group once the other rank is gone


def run_ranks(function: Callable[..., Any], *args: Any, world: int = 2, timeout: float = 60) -> list[Any]:
    """Return ``function(rank, *args)`` of every rank; a rank that raises or hangs fails the test."""
    with tempfile.TemporaryDirectory() as folder:
        # fork: the hosts are imported already, a fresh process would need seconds for them.
        context = mp.start_processes(
            _main, (world, folder, function, args), nprocs=world, join=False, start_method="fork"
        )
        try:
            deadline = time.monotonic() + timeout
            while not context.join(1):  # one that raised raises here
                assert time.monotonic() < deadline, f"the ranks still run after {timeout} s"
        finally:
            for process in context.processes:
                process.kill()
        return [pickle.loads(Path(folder, f"{rank}.pkl").read_bytes()) for rank in range(world)]
