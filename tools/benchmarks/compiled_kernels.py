"""Registers, spills and shared memory of the Triton kernels, compiled for two GPUs without one.

python -m tools.benchmarks.compiled_kernels --out results/benchmarks
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmseol.analysis.tabulation.markdown import markdown_table
from mmseol.utils.files import replacing

__all__ = ["ARCHITECTURES", "Case", "cases", "compiled", "resources"]

ARCHITECTURES = (80, 90)  # compute capabilities of A100 and H100
SINGLE, DOUBLE, LABELS, INDEX = "*fp32", "*fp64", "*i64", "*i32"
_PREAMBLE = """# Triton kernels, compiled without a GPU

Written by `python -m tools.benchmarks.compiled_kernels`. Registers and spilled bytes are those of a
thread; shared memory is what a program asks for (sm_90 reserves another 1024 bytes). Nothing here has
run on a GPU.

"""


class Case(NamedTuple):
    """A kernel as it is launched for some outputs."""

    what: str
    """Which outputs."""
    kernel: Any
    """The function that ``triton.jit`` decorates."""
    pointers: Mapping[str, str]
    """Types of its pointers; its other arguments are int32."""
    constants: Mapping[str, Any]
    """Its ``constexpr`` arguments."""
    warps: int = 4
    """Warps of a program."""


def cases() -> Iterator[Case]:
    """Yield the kernels of the softmax for the shapes of the benchmarks, then those of the squared errors."""
    from mmseol.losses.ops import softmax_triton, squared_error_triton

    shapes = (
        ("K = 11, stride 8", 16, 8, False),
        ("K = 19 or 150, stride 8", 32, 8, False),
        ("K = 150, stride 4", 32, 4, False),
        ("K = 150, stride 8, margins", 32, 8, True),
    )
    for dtype, name in ((SINGLE, "float32"), (DOUBLE, "float64")):
        maps = dict.fromkeys(("log_sums", "entropies", "derivatives", "sums", "factors", "gradient"), dtype)
        axes = dict(row_starts=INDEX, row_weights=dtype, column_starts=INDEX, column_weights=dtype)
        softmax = dict(outputs=dtype, target=LABELS, margins=dtype) | axes | maps
        for shape, block, columns, margin in shapes:
            constants = dict(MARGIN=margin, COLUMNS=columns, BLOCK=block)
            for kernel in (softmax_triton._entropy_kernel, softmax_triton._cell_kernel):
                yield Case(f"{shape}, {name}", kernel, softmax, constants, warps=1)
        gathered = softmax | dict(gradient=dtype)
        yield Case(name, softmax_triton._gather_kernel, gathered, dict(POINTS=32, BLOCK=32))

    coupled = dict.fromkeys(("bins", "itself", "right", "below", "across"), DOUBLE)
    residual = dict(pred="*bf16", target=LABELS, weight=SINGLE, values=SINGLE, scale=SINGLE)
    taps = dict(row_first=LABELS, row_weights=DOUBLE, column_first=LABELS, column_weights=DOUBLE)
    stencil = dict(pred=SINGLE, values=DOUBLE, divisor=DOUBLE, gradient=SINGLE, sums=DOUBLE)
    for kernel, pointers, constants in (
        (
            squared_error_triton._residual_kernel,
            residual | dict(gradient=SINGLE, sums=SINGLE),
            dict(WEIGHT=2, WRITE=True),
        ),
        (
            squared_error_triton._project_kernel,
            taps | coupled | dict(target="*u8", weight=SINGLE),
            dict(WEIGHT=1),
        ),
        (squared_error_triton._stencil_kernel, coupled | stencil, dict(WRITE=True)),
    ):
        yield Case("any", kernel, pointers, constants | dict(BLOCK=squared_error_triton._BLOCK))


def compiled(case: Case, architecture: int) -> Any:
    """Return the compiled kernel; no GPU and no driver are needed."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {name: case.pointers.get(name, "i32") for name in case.kernel.arg_names}
    types |= dict.fromkeys(case.constants, "constexpr")
    source = ASTSource(fn=case.kernel, signature=types, constexprs=dict(case.constants))
    target = GPUTarget("cuda", architecture, 32)
    return triton.compile(source, target=target, options={"num_warps": case.warps})


def resources(case: Case, architecture: int) -> dict[str, Any]:
    """Return registers and spilled bytes of a thread, as the assembler counts them, and shared memory."""
    made = compiled(case, architecture)
    name = case.kernel.fn.__name__.strip("_")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.ptx")
        path.write_text(made.asm["ptx"])
        report = _assemble(path, re.search(r"\.target (\w+)", made.asm["ptx"]).group(1))  # type: ignore[union-attr]
    registers, stores, loads = (
        int(re.search(pattern, report).group(1))  # type: ignore[union-attr]
        for pattern in (r"Used (\d+) registers", r"(\d+) bytes spill stores", r"(\d+) bytes spill loads")
    )
    return {
        "kernel": name,
        "case": case.what,
        "architecture": f"sm_{architecture}",
        "warps": case.warps,
        "registers": registers,
        "spilled_bytes": stores + loads,
        "shared_bytes": made.metadata.shared,
    }


def _assemble(path: Path, architecture: str) -> str:
    """Return what the assembler of the Triton package says about a kernel."""
    import triton

    ptxas = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    command = [ptxas, "-v", f"--gpu-name={architecture}", path, "-o", path.with_suffix(".cubin")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"ptxas failed: {run.stderr.strip()[-2000:]}")
    return run.stderr + run.stdout


def main() -> None:
    """Read the arguments, compile all kernels and write ``kernels.json`` and ``KERNELS.md``."""
    parser = ArgumentParser(description="Compile the Triton kernels and record what they need.")
    parser.add_argument("--out", help="folder to write to; without it the table is printed alone")
    args = parser.parse_args()
    try:
        import triton
    except ImportError:
        sys.exit("Triton is not installed; it comes with PyTorch for CUDA.")
    rows = [resources(case, architecture) for case in cases() for architecture in ARCHITECTURES]
    columns = ("kernel", "case", "architecture", "warps", "registers", "spilled_bytes", "shared_bytes")
    heading = [name.replace("_", " ") for name in columns]
    page = markdown_table(heading, [[str(row[name]) for name in columns] for row in rows], left=(0, 1, 2))
    print(page)
    if args.out:
        with replacing(Path(args.out) / "kernels.json", "w") as file:
            json.dump({"triton": triton.__version__, "kernels": rows}, file, indent=1)
            file.write("\n")
        with replacing(Path(args.out) / "KERNELS.md", "w") as file:
            file.write(f"{_PREAMBLE}Triton {triton.__version__}.\n\n{page}\n")


if __name__ == "__main__":
    main()
