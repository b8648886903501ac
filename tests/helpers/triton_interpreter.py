"""Where tests of Triton kernels run: on a GPU, or in Triton's interpreter in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

triton = pytest.importorskip("triton")
CUDA = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
OLD = int(triton.__version__.split(".")[0]) < 3

kernel = pytest.mark.skipif(not (CUDA or INTERPRETED), reason="runs in the interpreter's process")
starts_interpreter = pytest.mark.skipif(CUDA or INTERPRETED, reason="the kernels' tests run in this process")


def run_in_interpreter(file: str) -> None:
    """Run the tests of a file with Triton's interpreter; skip where it knows no CPU tensors.

    Without ``conftest.py``, which imports the hosts: kernels need none, and it takes seconds.
    """
    if OLD:
        pytest.skip(
            f"the interpreter of Triton {triton.__version__} knows no CPU tensors, only 3 and later do"
        )
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--noconftest", file],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "passed" in run.stdout
