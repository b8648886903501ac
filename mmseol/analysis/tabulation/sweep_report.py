"""The command ``tables``: records of sweeps -> compact record -> tables and pages."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmseol.analysis.records.paper import printed_tables
from mmseol.analysis.records.sweep_record import check_digest, sweep_record
from mmseol.analysis.records.trial_records import Trial, failed_trials, read_trials
from mmseol.analysis.tabulation.paper_comparison import beside_printed, paper_table
from mmseol.analysis.tabulation.sweep_tables import (
    class_tables,
    comparison_tables,
    score_tables,
    setting_tables,
    tuning_tables,
)
from mmseol.analysis.tabulation.text_table import TextTable
from mmseol.utils.checks import choice
from mmseol.utils.files import replacing

__all__ = ["PARTS", "sweep_markdown", "sweep_page", "tables_of"]


def _paper(record: Mapping[str, Any], name: str) -> list[TextTable]:
    return [paper_table(record, name)]


PARTS: dict[str, Callable[[Mapping[str, Any]], list[TextTable]]] = {
    "scores": score_tables,
    "short": partial(score_tables, short=True),
    "comparison": comparison_tables,
    "runs": setting_tables,
    "classes": class_tables,
    "tuning": tuning_tables,
    **{f"table{name}": partial(_paper, name=name) for name in printed_tables()},
}
"""Tables of a compact record: ``table1`` .. ``table7`` are the paper's, ``tablelt`` the literature's."""

_HEADINGS = {
    "comparison": "Differences",
    "runs": "Runs",
    "classes": "Classes",
    "tuning": "Tuning",
}


def tables_of(record: Mapping[str, Any], part: str, losses: Collection[str] = ()) -> list[TextTable]:
    """Return the tables of one part of a compact record.

    >>> tables_of({"runs": [], "environments": [], "checkpoint": "last"}, "table7")[0].rows[0][:2]
    ['outlying_mse:alpha=1', 'printed']

    Args:
        record: Record of :func:`mmseol.analysis.sweep_record.sweep_record`.
        part: Name in :data:`PARTS`.
        losses: Losses to keep; all if empty.

    Raises:
        ValueError: If the part or a loss is unknown.
    """
    choice("part", part, PARTS)
    if losses:
        for loss in losses:
            choice("losses", loss, {run["loss"] for run in record["runs"]})
        kept = {
            name: [row for row in record[name] if row["loss"] in losses]
            for name in ("runs", "comparisons", "tuning")
        }
        record = {**record, **kept}
    return PARTS[part](record)


def sweep_markdown(record: Mapping[str, Any], part: str | None = None, losses: Collection[str] = ()) -> str:
    """Return the tables of one part as Markdown.

    >>> sweep_markdown({"runs": [], "comparisons": []}, "comparison")
    'no runs'
    """
    return "\n\n".join(table.markdown() for table in tables_of(record, part or "scores", losses)) or "no runs"


def _parts_with_runs(record: Mapping[str, Any]) -> list[str]:
    own = [part for part in ("scores", *_HEADINGS) if PARTS[part](record)]
    printed = [
        f"table{name}"
        for name in printed_tables()
        if any(row["ours"] for row in beside_printed(record, name))
    ]
    return own + printed


def sweep_page(record: Mapping[str, Any], path: str) -> str:
    """Return a page with empty marks for the tables of a record; ``tools/update_readme.py`` fills them.

    >>> record = {"title": "Digits", "runs": [], "comparisons": [], "tuning": [], "environments": [],
    ...           "checkpoint": "last", "note": "A note."}
    >>> print(sweep_page(record, "results/digits/record.json"))
    # Digits
    <BLANKLINE>
    A note.
    <BLANKLINE>

    Args:
        record: Compact record.
        path: Path of the record from the root of the project.
    """
    lines = [f"# {record['title'] or 'Sweep'}", ""]
    lines += [record["note"], ""] if record.get("note") else []
    for part in _parts_with_runs(record):
        title = _HEADINGS.get(part, "Beside the printed table" if part.startswith("table") else "")
        lines += [f"## {title}", ""] if title else []
        lines += [f"<!-- record: {path} part: {part} -->", sweep_markdown(record, part), "<!-- end -->", ""]
    commands = record.get("commands") or []
    if commands:
        lines += ["## Run it again", "", "```bash", *commands, "```", ""]
    return "\n".join(lines)


def prepare_tables(args: Namespace) -> dict[str, Any]:
    """Return the compact record of the command's sources.

    Raises:
        ValueError: If a record or an argument is not as it must be.
        FileNotFoundError: If a source is no work directory of a sweep.
        FileExistsError: If ``--record`` names another kind of record.
    """
    for part in args.parts or ():
        choice("--parts", part, PARTS)
    if args.record and Path(args.record).exists() and _kind(Path(args.record)) != "sweep":
        raise FileExistsError(f"`--record` {args.record!r} is another kind of record; name another file.")
    sources = [Path(source) for source in args.sources]
    if len(sources) == 1 and sources[0].is_file():
        if _kind(sources[0]) != "sweep":
            raise ValueError(f"{str(sources[0])!r} must be a record that `tables --record` wrote.")
        record = json.loads(sources[0].read_text(encoding="utf-8"))
        check_digest(record, sources[0])
        return record
    trials = read_trials(sources)
    if not trials:
        raise ValueError("`sources` hold no finished trial yet.")
    extra = {"note": args.note} if args.note else {}
    return sweep_record(
        trials,
        failed_trials(sources),
        args.title,
        args.reference,
        args.checkpoint,
        args.resamples,
        **extra,
        commands=_commands(trials, args),
    )


def _kind(path: Path) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return content.get("kind") if isinstance(content, dict) else None


def _commands(trials: Sequence[Trial], args: Namespace) -> list[str]:
    """Return the commands that make the record anew."""
    names = list(dict.fromkeys(trial["sweep"] for trial in trials))
    commands = [str(line) for trial in trials for line in trial.record.get("command") or ()]
    root = " --data-root DIR" if any("--data-root" in line for line in commands) else ""
    folders = " ".join(f"work_dirs/sweeps/{name}" for name in names)
    record = Path(os.path.relpath(args.record)).as_posix() if args.record else "results/NAME/record.json"
    options = f" --reference {args.reference}" if args.reference else ""
    options += f" --checkpoint {args.checkpoint}" if args.checkpoint != "last" else ""
    return [
        *(f"python tools/sweep.py configs/sweeps/{name}.py{root}" for name in names),
        f"python tools/tables.py {folders} --record {record}{options}",
    ]


def run_tables(record: Mapping[str, Any], args: Namespace) -> None:
    """Print the tables, or write them and the record.

    Raises:
        OSError: If a file cannot be written.
    """
    parts: Sequence[str] = args.parts or _parts_with_runs(record)
    if args.record:
        path = Path(args.record)
        with replacing(path, "w") as file:
            file.write(_lines(record))
        page = path.with_name("README.md")
        if not page.exists():
            with replacing(page, "w") as file:
                file.write(sweep_page(record, Path(os.path.relpath(path)).as_posix()))
    if args.out:
        folder = Path(args.out)
        tables = {part: tables_of(record, part) for part in parts}
        flat = [table for several in tables.values() for table in several]
        for name, text in (
            ("tables.md", "\n\n".join(table.markdown() for table in flat) + "\n"),
            (
                "tables.tex",
                "% needs \\usepackage{booktabs}\n" + "\n\n".join(table.latex() for table in flat) + "\n",
            ),
            ("tables.json", _json(record, tables)),
        ):
            with replacing(folder / name, "w") as file:
                file.write(text)
    if not (args.record or args.out):
        print("\n\n".join(sweep_markdown(record, part) for part in parts))


def _lines(record: Mapping[str, Any]) -> str:
    """Return a record as JSON with one line for each entry of its lists."""
    entries = []
    for name, value in record.items():
        text = json.dumps(value, allow_nan=False)
        if isinstance(value, list) and value:
            text = "[\n  " + ",\n  ".join(json.dumps(item, allow_nan=False) for item in value) + "\n ]"
        entries.append(f" {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(entries) + "\n}\n"


def _json(record: Mapping[str, Any], tables: Mapping[str, Sequence[TextTable]]) -> str:
    """Return the record, its tables as text, and the paper's as numbers."""
    content = {
        "record": record,
        "tables": {part: [table.data() for table in several] for part, several in tables.items()},
        "printed": {
            part: beside_printed(record, part.removeprefix("table")) for part in tables if part[:5] == "table"
        },
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"
