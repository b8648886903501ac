"""Change the code at random places, one at a time, and count the changes that the tests notice.

python -m tools.mutation.run_mutants record work_dirs/tests tests mmseol
python -m tools.mutation.run_mutants run work_dirs/mutants --recorded work_dirs/tests --seed 1
python -m tools.mutation.run_mutants report work_dirs/mutants --equivalent reasons.json --out tests/MUTANTS.md

``record`` runs the tests once under coverage.py (``pip install ".[dev]"``); it takes options of pytest, too,
and can be split over several processes and folders. ``run`` draws changes (:mod:`tools.mutation.mutants`), at
most one of a function, in proportion to the code of each area. It runs the tests that run the changed line,
the shortest first, until one fails, in a fork of a process that has the hosts imported, on a copy of the
checkout. A change is killed if a test fails or the tests take three times as long as before, and a minute
more. A second call goes on where the first was stopped.
``report`` writes the table; reasons.json holds the reason why a change is equivalent by its number.
"""

from __future__ import annotations

import difflib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from argparse import REMAINDER, ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from tools.mutation.covering_tests import CoveringTests, record
from tools.mutation.mutants import Mutant, mutants

ROOT = Path(__file__).parents[2]
AREAS = {
    "losses": ("losses",),
    "counting": ("counting",),
    "data": ("datasets", "samplers"),
    "scores": ("metrics",),
    "hooks": ("hooks",),
    "experiment": ("experiment",),
    "classifiers": ("classifiers",),
    "tasks": ("segmentation", "classification"),
}
NO_TESTS = ("losses/ops/squared_error_triton.py",)  # needs a GPU
IMPORTED = (
    "cv2", "hypothesis", "matplotlib", "mmcv", "mmengine.runner", "mmpretrain.apis", "mmpretrain.datasets",
    "mmpretrain.evaluation", "mmpretrain.models", "mmseg.apis", "mmseg.datasets", "mmseg.evaluation",
    "mmseg.models", "pytest", "rich.table", "scipy.stats", "sklearn.metrics", "torch._dynamo",
)  # fmt: skip
LEAST = 9  # changes of an area
FIRST = 50  # tests that are run before the others

Place = tuple[str, str, Mutant]  # area, file, change


def places(root: Path) -> dict[str, list[tuple[str, Mutant]]]:
    """Return every change of each area, with its file."""
    found: dict[str, list[tuple[str, Mutant]]] = {}
    for area, folders in AREAS.items():
        files = [path for folder in folders for path in sorted((root / "mmseol" / folder).rglob("*.py"))]
        found[area] = [
            (path.relative_to(root).as_posix(), mutant)
            for path in files
            if not path.as_posix().endswith(NO_TESTS)
            for mutant in mutants(path.read_text(encoding="utf-8"))
        ]
    return found


def shares(sizes: dict[str, int], number: int, least: int = LEAST) -> dict[str, int]:
    """Return how many changes each area gets: in proportion to its size, but at least so many.

    >>> shares({"a": 700, "b": 300, "c": 1}, number=30, least=5)
    {'a': 18, 'b': 7, 'c': 5}
    """
    small = {area for area, size in sizes.items() if number * size / sum(sizes.values()) <= least}
    left, total = number - least * len(small), sum(sizes[area] for area in sizes.keys() - small)
    exact = {area: least if area in small else left * size / total for area, size in sizes.items()}
    whole = {area: int(value) for area, value in exact.items()}
    for area in sorted(exact, key=lambda area: whole[area] - exact[area])[: number - sum(whole.values())]:
        whole[area] += 1
    return whole


def sample(found: dict[str, list[tuple[str, Mutant]]], number: int, seed: int) -> list[Place]:
    """Draw changes, at most one of a function."""
    rng, chosen = random.Random(seed), list[Place]()
    wanted = shares({area: len(items) for area, items in found.items()}, number)
    for area, items in found.items():
        items, functions = list(items), set[tuple[str, str]]()
        rng.shuffle(items)
        for path, mutant in items:
            if len(functions) < wanted[area] and (path, mutant.function) not in functions:
                functions.add((path, mutant.function))
                chosen.append((area, path, mutant))
    return chosen


def changed_lines(source: str, changed: str) -> list[str]:
    """Return the lines that differ, with ``-`` and ``+``."""
    lines = list(difflib.unified_diff(source.splitlines(), changed.splitlines(), n=0, lineterm=""))
    return [line for line in lines[2:] if not line.startswith("@@")]


class _Chosen:
    """Plugin of pytest that runs the chosen tests in their order, and notes the first that fails.

    Each test begins in mmengine's scope of the first: a Runner leaves its own behind, and in this order
    another test may meet it.
    """

    def __init__(self, tests: Sequence[str], out: Path) -> None:
        self.order, self.out = {test: number for number, test in enumerate(tests)}, out
        self.scopes: dict[str, Any] = {}

    def pytest_runtest_setup(self) -> None:
        from mmengine.registry import DefaultScope

        known = DefaultScope._instance_dict
        self.scopes = self.scopes or dict(known)
        known.clear()
        known.update(self.scopes)

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        kept = [item for item in items if item.nodeid in self.order]
        items[:] = sorted(kept, key=lambda item: self.order[item.nodeid])

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.out.write_text(report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.out.write_text(report.nodeid or "collection")


def run_tests(root: Path, tests: Sequence[str], limit: float, scratch: Path) -> tuple[str, str | None]:
    """Run tests until one fails, in a fork; return the outcome, and the test that failed."""
    import pytest

    out = scratch / "failed"
    out.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        status = 99
        try:
            os.setpgrp()
            os.chdir(root)
            log = os.open(scratch / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for number, file in enumerate((os.open(os.devnull, os.O_RDONLY), log, log)):
                os.dup2(file, number)
            files = dict.fromkeys(test.partition("::")[0] for test in tests)
            options = ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={scratch / 'tmp'}"]
            status = int(pytest.main([*options, *files], plugins=[_Chosen(tests, out)]))
        finally:
            os._exit(status)
    deadline, ended = time.monotonic() + limit, (0, 0)
    while not ended[0] and time.monotonic() < deadline:
        ended = os.waitpid(child, os.WNOHANG)
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if not ended[0]:
        os.waitpid(child, 0)
        return "killed by time", None
    outcome = "survived" if os.waitstatus_to_exitcode(ended[1]) == 0 else "killed"
    return outcome, out.read_text() if out.exists() else None


@contextmanager
def mutated(file: Path, mutant: Mutant) -> Iterator[None]:
    """Change a file while the block runs."""
    source, times = file.read_text(encoding="utf-8"), file.stat()
    try:
        file.write_text(mutant.apply(source), encoding="utf-8")
        yield
    finally:
        file.write_text(source, encoding="utf-8")
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
            compiled.unlink()


def run_mutant(
    root: Path, place: Place, tests: CoveringTests, scratch: Path, budget: float
) -> dict[str, Any]:
    """Return what happened to a change: the outcome, and the test that noticed it."""
    area, path, mutant = place
    covering, spent, chosen = tests.of(path, mutant.line, mutant.scope), 0.0, list[str]()
    for test in covering:
        spent += tests.seconds[test]
        if chosen and spent > budget:
            break
        chosen.append(test)
    source = (root / path).read_text(encoding="utf-8")
    outcome, failed = "survived", None
    with mutated(root / path, mutant):
        for part in (chosen[:FIRST], chosen[FIRST:]):  # few files have to be imported for the first
            if part and outcome == "survived":
                outcome, failed = run_tests(root, part, 3 * spent + 60, scratch)
    return {
        "area": area,
        "file": path,
        "line": mutant.line,
        "function": mutant.function,
        "kind": mutant.kind,
        "change": changed_lines(source, mutant.apply(source)),
        "outcome": outcome,
        "test": failed,
        "tests": len(chosen),
        "covering": len(covering),
    }


def run(out: Path, recorded: Sequence[Path], seed: int, number: int, budget: float) -> None:
    """Draw changes, run the tests on each, and write what happened."""
    out.mkdir(parents=True, exist_ok=True)
    results = out / "mutants.jsonl"
    known = results.read_text().splitlines() if results.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        copy, scratch = Path(folder, "checkout"), Path(folder)
        ignored = shutil.ignore_patterns(".git", "__pycache__", "work_dirs", "data", out.name)
        shutil.copytree(ROOT, copy, ignore=ignored)
        os.environ["PYTHONPATH"] = sys.path[0] = str(copy)
        tests = CoveringTests(recorded, ROOT)
        for name in IMPORTED:
            import_module(name)
        assert not any(name.partition(".")[0] == "mmseol" for name in sys.modules)  # a child imports the copy
        chosen = sample(places(copy), number, seed)
        for place in chosen[len(known) :]:
            found = run_mutant(copy, place, tests, scratch, budget)
            print(found["outcome"], f"{found['file']}:{found['line']}", found["test"] or "", flush=True)
            with results.open("a") as file:
                file.write(json.dumps({"seed": seed, **found}) + "\n")


def report(rows: Sequence[dict[str, Any]], reasons: dict[int, str]) -> str:
    """Return the page of a sample: a table by area, and every change that no test noticed."""
    lines = ["| area | changes | equivalent | killed | of those that matter |", "|---|---|---|---|---|"]
    for area in (*dict.fromkeys(row["area"] for row in rows), "all"):
        own = [(number, row) for number, row in enumerate(rows) if area in (row["area"], "all")]
        equal = sum(number in reasons for number, _ in own)
        killed = sum(row["outcome"] != "survived" for _, row in own)
        share = 100 * killed / (len(own) - equal)
        lines.append(f"| {area} | {len(own)} | {equal} | {killed} | {share:.0f} % |")
    for title, equivalent in (("Changes that no test notices", False), ("Equivalent changes", True)):
        lines += ["", f"## {title}", ""]
        for number, row in enumerate(rows):
            if row["outcome"] == "survived" and (number in reasons) == equivalent:
                reason = f": {reasons[number]}" if equivalent else ""
                lines += [
                    f"{number}. `{row['file']}:{row['line']}`{reason}",
                    "",
                    "```diff",
                    *row["change"],
                    "```",
                    "",
                ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Read the arguments and run."""
    parser = ArgumentParser(description="Count the random changes of the code that the tests notice.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("record", help="run the tests under coverage.py")
    one.add_argument("folder", type=Path)
    one.add_argument("arguments", nargs=REMAINDER, help="arguments of pytest")
    one = commands.add_parser("run", help="change the code and run the tests")
    one.add_argument("folder", type=Path)
    one.add_argument("--recorded", nargs="+", type=Path, required=True, help="folders of record")
    one.add_argument("--seed", type=int, required=True)
    one.add_argument("--number", type=int, default=150, help="of changes")
    one.add_argument("--budget", type=float, default=60.0, help="seconds of tests, as recorded, for a change")
    one = commands.add_parser("report", help="write the table of a run")
    one.add_argument("folder", type=Path)
    one.add_argument("--equivalent", type=Path, help="JSON file of reasons by the number of the change")
    one.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.command == "record":
        record(args.folder, args.arguments)
    elif args.command == "run":
        run(args.folder, args.recorded, args.seed, args.number, args.budget)
    else:
        rows = [json.loads(line) for line in (args.folder / "mutants.jsonl").read_text().splitlines()]
        found = json.loads(args.equivalent.read_text()) if args.equivalent else {}
        title = f"# Random changes of the code that the tests notice\n\nSeed {rows[0]['seed']}.\n\n"
        args.out.write_text(title + report(rows, {int(number): reason for number, reason in found.items()}))


if __name__ == "__main__":
    main()
