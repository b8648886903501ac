"""Measure time and memory of steps so that two steps can be compared on a machine with other load.

A step is a function without arguments. Times are taken in turns (A B A B ..) in one process. Memory is the
peak above the memory before the step: gradients count, inputs do not. On a CPU that is resident memory
of a fresh process, with glibc told to give freed blocks back; on a GPU what torch allocated.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import torch

__all__ = ["alternate", "bandwidth_note", "device", "extra_memory", "fill", "in_parallel"]

Step = Callable[[], Any]
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # of malloc.h


def device() -> str:
    """Return where steps run: ``'cuda'`` or ``'cpu'``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def alternate(sides: Mapping[str, Step], repeats: int = 20, warmup: int = 2) -> dict[str, list[float]]:
    """Return the seconds of each side's steps, which take turns; the first ``warmup`` turns are dropped."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    gc.collect()
    for turn in range(warmup + repeats):
        for name, step in sides.items():
            _wait()
            start = time.perf_counter()
            step()
            _wait()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def extra_memory(case: Callable[..., Step], small: Mapping[str, Any], **sizes: Any) -> int | None:
    """Return the peak memory of a step in bytes, without its inputs.

    Args:
        case: Function of a module; called with ``sizes``, it makes the inputs and returns the step.
        small: Sizes of a first step, which loads code and starts threads.
        sizes: Numbers, strings, lists.

    Returns:
        Bytes; ``None`` where the system does not tell (no Linux).

    Raises:
        RuntimeError: If the fresh process fails, with the end of its error output.
    """
    if device() == "cuda":
        return _cuda_memory(case, small, sizes)
    if not _STATUS.exists():
        return None
    name = f"{case.__module__}:{case.__qualname__}"
    request = {"case": name, "small": dict(small), "sizes": sizes, "threads": torch.get_num_threads()}
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", __name__],
        input=json.dumps(request),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
    )
    if child.returncode:
        raise RuntimeError(f"{name} with {sizes} failed: {child.stderr.strip()[-2000:]}")
    return int(child.stdout.split()[-1])


def in_parallel(measure: Callable[..., Any], calls: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return ``measure(**call)`` of each call, two at once on a CPU, and equal calls once; not for times."""
    texts = [json.dumps(call, sort_keys=True) for call in calls]
    different = dict(zip(texts, calls, strict=True))
    with ThreadPoolExecutor(1 if device() == "cuda" else 2) as pool:
        results = dict(
            zip(different, pool.map(lambda call: measure(**call), different.values()), strict=True)
        )
    return [results[text] for text in texts]


def bandwidth_note(traffic: int, seconds: list[float], numbers: int = 1 << 28) -> str:
    """Return the bandwidth of a GPU step beside that of a copy of float32 numbers, as text; empty on a CPU.

    Args:
        traffic: Bytes that the step must at least read and write.
        seconds: Seconds of the steps.
        numbers: Size of the copy.
    """
    if device() == "cpu":
        return ""
    source = torch.ones(numbers, device=device())
    target = torch.empty_like(source)
    ceiling = 8 * numbers / median(alternate({"copy": lambda: target.copy_(source)}, 10)["copy"])
    reached = traffic / median(seconds)
    return f"{reached / 1e9:.0f} GB/s of needed traffic, {reached / ceiling:.0%} of a copy's"


def fill(shape: tuple[int, ...], classes: int, ignored: float, label: int = 255) -> torch.Tensor:
    """Return random labels of that shape, the share ``ignored`` of them ``label``; the same at every call."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, shape, generator=generator)
    labels[torch.rand(shape, generator=generator) < ignored] = label
    return labels.to(device())


def _wait() -> None:
    if device() == "cuda":
        torch.cuda.synchronize()


def _build(case: str) -> Callable[..., Step]:
    module, function = case.split(":")
    return getattr(import_module(module), function)


def _cuda_memory(case: Callable[..., Step], small: Mapping[str, Any], sizes: Mapping[str, Any]) -> int:
    case(**{**sizes, **small})()
    step = case(**sizes)
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    _wait()
    return torch.cuda.max_memory_allocated() - before


def _resident(key: str) -> int:
    (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def _fresh_process() -> None:
    """Measure the step that standard input describes, and print its bytes."""
    request = json.load(sys.stdin)
    libc = ctypes.CDLL(None)
    glibc = hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim")
    if glibc:  # freed blocks of 64 kB and more go back at once, and nothing hides in arenas of other threads
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 16)
        libc.mallopt(_M_ARENA_MAX, 1)
    torch.set_num_threads(request["threads"])
    build = _build(request["case"])
    build(**{**request["sizes"], **request["small"]})()
    step = build(**request["sizes"])
    gc.collect()
    if glibc:
        libc.malloc_trim(0)
    with suppress(OSError):  # not permitted: the peak may then include the making of the inputs
        _CLEAR.write_text("5")  # VmHWM starts again at what is resident now
    before = _resident("VmRSS")
    step()
    print(_resident("VmHWM") - before)


if __name__ == "__main__":
    _fresh_process()
