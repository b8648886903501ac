"""The command ``report``: work directories -> a page."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

from mmseol.analysis.figure_commands import named_source
from mmseol.analysis.reporting.page_parts import Report
from mmseol.analysis.reporting.rendering import SUFFIXES, write_report
from mmseol.analysis.reporting.run_folder import is_sweep, read_run
from mmseol.analysis.reporting.run_sections import run_report as report_of_runs
from mmseol.analysis.reporting.sweep_sections import sweep_report

__all__ = ["report_of"]


def report_of(sources: list[str], title: str = "") -> Report:
    """Return the report of runs, of sweeps, or of one record of a sweep.

    >>> report_of(["missing"])
    Traceback (most recent call last):
    ValueError: `work_dir` must be an existing folder, got 'missing'.

    Args:
        sources: ``[NAME=]WORK_DIR`` of one or more runs; work directories of sweeps; or a record.

    Raises:
        ValueError: If one holds no run, they are of different kinds, or their classes differ.
    """
    named = [named_source(source) for source in sources]
    sweeps = [is_sweep(path) for _, path in named]
    if any(sweeps) and not all(sweeps):
        raise ValueError("`sources` must be runs or sweeps, got both. Make two reports.")
    if len(named) == 1 and named[0][1].is_file():
        return sweep_report(_record(named[0][1]), title)
    if all(sweeps):
        from mmseol.analysis.records.sweep_record import sweep_record
        from mmseol.analysis.records.trial_records import failed_trials, read_trials

        paths = [path for _, path in named]
        trials = read_trials(paths)
        if not trials:
            raise ValueError("`sources` hold no finished trial yet.")
        return sweep_report(sweep_record(trials, failed_trials(paths)), title)
    return report_of_runs([read_run(path, name) for name, path in named], title)


def _record(path: Path) -> dict[str, object]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        record = None
    if not isinstance(record, dict) or record.get("kind") != "sweep":
        raise ValueError(f"{str(path)!r} must be a work directory, or a record that `tables --record` wrote.")
    return record


def prepare_report(args: Namespace) -> Report:
    """Return the report, before anything is written.

    Raises:
        ValueError: If a file cannot be written or a source holds no run.
    """
    for name in args.out:
        path = Path(name)
        if path.suffix not in SUFFIXES:
            raise ValueError(f"`--out` must end in {' or '.join(SUFFIXES)}, got {name!r}.")
        for taken in (path, path.with_name(f"{path.stem}_pictures") if path.suffix == ".md" else path):
            if taken.exists() and not args.force:
                raise ValueError(f"`--out` {str(taken)!r} exists; name another file, or add --force.")
    return report_of(args.sources, args.title)


def run_report(report: Report, args: Namespace) -> None:
    """Write the pages."""
    for name in args.out:
        path = write_report(report, name)
        print(f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB).")
