"""Rows of measurements, and the record and the page written from them."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

from mmseol.analysis.records.run_records import environment
from mmseol.analysis.tabulation.markdown import markdown_table
from mmseol.utils.files import replacing
from tools.benchmarks._measure import device

__all__ = ["markdown", "row", "table", "write"]

_HEADINGS = (
    "case",
    "sizes",
    "ours",
    "reference",
    "time ratio",
    "extra memory",
    "reference",
    "ratio",
    "copies",
)

_PREAMBLE = """# Benchmarks

Written by `python -m tools.benchmarks.run`; `record.json` has the numbers. Steps took turns
with the reference's: seconds are medians, the ratio is the median over the pairs, with its quartiles in
brackets. Extra memory is the peak above the inputs, gradients included on both sides; copies are those of the
outputs at label size, ours / the reference's. **Bold** is over the limit that we set ourselves.
Variants that were tried are in `NOTES.md`, what the Triton kernels need in `KERNELS.md`.
"""


def row(
    name: str,
    sizes: str,
    ours: Sequence[float] = (),
    reference: Sequence[float] = (),
    memory: int | None = None,
    reference_memory: int | None = None,
    logits: int | None = None,
    limits: Mapping[str, float] | None = None,
    note: str = "",
) -> dict[str, Any]:
    """Return the row of one comparison with a reference.

    Args:
        name: Name of the step.
        sizes: Its sizes, as text.
        ours: Seconds of each step, in turns with ``reference``.
        reference: Seconds of each step of the reference.
        memory: Bytes above the inputs, and those of the reference.
        reference_memory: See ``memory``.
        logits: Bytes of the outputs at label size; memory is then also given in copies of them.
        limits: Largest accepted ``time_ratio``, ``memory_ratio`` and ``copies``.
        note: Remark, or the reason why there are no numbers.
    """
    made: dict[str, Any] = {"name": name, "sizes": sizes, "repeats": len(ours)}
    if ours:
        ratios = [a / b for a, b in zip(ours, reference, strict=True)]
        made["seconds"], made["reference_seconds"] = median(ours), median(reference)
        made["ratio_of_medians"] = made["seconds"] / made["reference_seconds"]
        made["time_ratio"] = median(ratios)  # of neighbouring steps: the load of the machine may drift
        made["time_ratio_quartiles"] = quantiles(ratios, n=4)[::2] if len(ratios) > 1 else ratios * 2
    if memory is not None:
        made["memory_mb"] = memory / 1e6
        if logits:
            made["copies"] = memory / logits
    if reference_memory is not None:
        made["reference_memory_mb"] = reference_memory / 1e6
        if memory is not None and reference_memory > 0:
            made["memory_ratio"] = memory / reference_memory
        if logits:
            made["reference_copies"] = reference_memory / logits
    made["limits"] = dict(limits or {})
    made["over"] = [key for key, limit in made["limits"].items() if made.get(key, 0) > limit]
    if note:
        made["note"] = note
    return made


def table(name: str, title: str, rows: Sequence[Mapping[str, Any]], notes: str = "") -> dict[str, Any]:
    """Return the rows of one benchmark with the machine and the versions."""
    where = environment()
    if device() == "cpu":
        where["device"] = _cpu()  # the model says more about times than the number of cores
    where["threads"] = torch.get_num_threads()
    return {"name": name, "title": title, "notes": notes, "environment": where, "rows": list(rows)}


def write(folder: str | Path, tables: Sequence[Mapping[str, Any]]) -> None:
    """Write ``record.json`` and ``README.md``; keep the tables of other benchmarks there."""
    path = Path(folder) / "record.json"
    record = {made["name"]: made for made in json.loads(path.read_text())} if path.exists() else {}
    record.update({made["name"]: made for made in tables})
    with replacing(path, "w") as file:
        json.dump(list(record.values()), file, indent=1)
        file.write("\n")
    with replacing(Path(folder) / "README.md", "w") as file:
        file.write(markdown(list(record.values())))


def markdown(tables: Sequence[Mapping[str, Any]]) -> str:
    """Return the page of all tables."""
    parts = [_PREAMBLE]
    for made in tables:
        where = made["environment"]
        torch_version = where["versions"].get("torch") or torch.__version__
        parts.append(
            f"\n## {made['title']}\n\n{made['notes'] + chr(10) * 2 if made['notes'] else ''}"
            f"{where['device']}, {where['threads']} thread(s), torch {torch_version}, "
            f"Python {where['python']}, commit {where['commit']}.\n"
        )
        parts.append(markdown_table(_HEADINGS, map(_cells, made["rows"]), left=(0, 1)))
    return "\n".join(parts) + "\n"


def _cells(one: Mapping[str, Any]) -> list[str]:
    def cell(key: str, form: str, unit: str = "") -> str:
        if key not in one:
            return ""
        text = f"{one[key]:{form}}{unit}"
        limit = f" (limit {one['limits'][key]:g})" if key in one["limits"] else ""
        return f"**{text}**{limit}" if key in one["over"] else text + limit

    spread = one.get("time_ratio_quartiles")
    copies = cell("copies", ".2f")
    if "reference_copies" in one:
        copies += f" / {one['reference_copies']:.2f}"
    return [
        one["name"] + (f" ({one['note']})" if one.get("note") else ""),
        one["sizes"],
        cell("seconds", ".4g", " s"),
        cell("reference_seconds", ".4g", " s"),
        cell("time_ratio", ".3f") + (f" [{spread[0]:.3f}, {spread[1]:.3f}]" if spread else ""),
        cell("memory_mb", ".1f", " MB"),
        cell("reference_memory_mb", ".1f", " MB"),
        cell("memory_ratio", ".3f"),
        copies,
    ]


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {len(names) or '?'} core(s)"
