"""The Triton kernels compile for CUDA without a GPU: the interpreter accepts what the compiler refuses."""

from __future__ import annotations

import re
import sys

import pytest

from tools.benchmarks import compiled_kernels
from tools.benchmarks.compiled_kernels import ARCHITECTURES, Case, cases, compiled, resources

triton = pytest.importorskip("triton", reason="Triton comes with PyTorch for CUDA")
if int(triton.__version__.split(".")[0]) < 3:
    pytest.skip(
        f"Triton {triton.__version__} compiles only where there is a CUDA driver", allow_module_level=True
    )

# Pointers to what may have more than 2^31 elements; the squared errors' sums are one for each program.
LARGE = {"outputs", "target", "log_sums", "entropies", "derivatives", "sums", "gradient", "pred", "bins"}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def distinct() -> list[Case]:
    """Return one case of every kernel, with margins where it has any."""
    return list({case.kernel.fn.__name__: case for case in cases()}.values())


def test_every_kernel_has_a_case():
    from mmseol.losses.ops import softmax_triton, squared_error_triton

    named = {case.kernel.fn.__name__ for case in cases()}
    kernels = {
        name
        for module in (softmax_triton, squared_error_triton)
        for name in vars(module)
        if "_kernel" in name
    }
    assert named == kernels
    assert len(named) == 6


@pytest.mark.parametrize("case", distinct(), ids=lambda case: case.kernel.fn.__name__)
def test_resources_and_offsets(case):
    row = resources(case, ARCHITECTURES[0])
    assert 16 <= row["registers"] <= 255
    assert row["spilled_bytes"] == 0
    # What is added to the pointer of a large array first: the offset of an image, a cell or a pixel.
    lines = compiled(case, ARCHITECTURES[0]).asm["ttir"].splitlines()
    names: dict[str, str] = {}
    seen = set()
    for line in lines:
        if match := re.search(r"(%\w+) = tt\.splat (%\w+) ", line):
            names[match[1]] = names.get(match[2], match[2])
        if match := re.search(r"tt\.addptr (%\w+), %\w+ : [^,]+(?:, #\S+)?, (?:tensor<[\dx]*)?(i\d+)", line):
            pointer = names.get(match[1], match[1]).removeprefix("%")
            if pointer in LARGE - ({"sums"} if "pred" in case.kernel.arg_names else set()):
                seen.add(pointer)
                assert match[2] == "i64", line
    assert seen


def test_command_line(monkeypatch, tmp_path, capsys):
    (case, *_) = cases()
    monkeypatch.setattr(compiled_kernels, "cases", lambda: [case])
    monkeypatch.setattr(sys, "argv", ["compiled_kernels", "--out", str(tmp_path)])
    compiled_kernels.main()
    page = (tmp_path / "KERNELS.md").read_text()
    assert "| entropy_kernel | K = 11, stride 8, float32 | sm_90 | 1 |" in page
    assert capsys.readouterr().out.strip() in page
    assert (tmp_path / "kernels.json").read_text().count('"registers"') == 2
