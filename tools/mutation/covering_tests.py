"""Which tests run a line, and how long each takes, from one run of the tests under coverage.py."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["CoveringTests", "record"]

SECONDS = "seconds.json"
# Tests that run a file in a process of their own, where coverage.py does not look.
ELSEWHERE = {
    "mmseol/losses/ops/softmax_triton.py": "tests/test_softmax_triton.py::test_in_the_interpreter",
}


class _Durations:
    """Plugin of pytest that adds up the seconds of every test that passes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] += report.duration if report.passed else float("inf")


def record(folder: Path, arguments: list[str]) -> None:
    """Run pytest with these arguments, and add the lines and the seconds of its tests to a folder.

    Several calls, as of the halves of the tests in two processes, may write to folders of their own.
    """
    import os

    import pytest

    folder.mkdir(parents=True, exist_ok=True)
    os.environ["COVERAGE_FILE"] = str(folder / "coverage.sqlite")
    durations = _Durations()
    options = ["-q", "-p", "no:cacheprovider", "--cov=mmseol", "--cov-context=test", "--cov-report="]
    pytest.main([*options, *arguments], plugins=[durations])
    passed = {test: round(value, 3) for test, value in durations.seconds.items() if value < float("inf")}
    (folder / SECONDS).write_text(json.dumps(passed, indent=0) + "\n")


class CoveringTests:
    """Tests by the lines that they run.

    Args:
        folders: Folders of :func:`record`.
        root: Checkout in which the tests ran.
    """

    def __init__(self, folders: Iterable[Path], root: Path) -> None:
        from coverage import CoverageData

        self.seconds: dict[str, float] = {}
        self.tests: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        for folder in folders:
            self.seconds |= json.loads((folder / SECONDS).read_text())
            data = CoverageData(str(folder / "coverage.sqlite"))
            data.read()
            for file in data.measured_files():
                lines = self.tests[Path(file).relative_to(root).as_posix()]
                for line, contexts in data.contexts_by_lineno(file).items():
                    lines[line].update(context.rpartition("|")[0] for context in contexts if context)

    def of(self, path: str, line: int, scope: tuple[int, int]) -> list[str]:
        """Return the tests that run a line, the shortest first.

        A line may run at import alone, as a default does. Its tests are those of its function and those with
        "default" in their name. If no test runs the function, they are the tests of the file.

        Args:
            path: File, from the root.
            line: Line, from 1.
            scope: First and last line of its function.
        """
        lines: Mapping[int, set[str]] = self.tests[path]
        tests = lines.get(line) or set()
        if not tests:
            tests = _within(lines, *scope) or _within(lines, 1, sys.maxsize)
            tests = tests | {test for test in self.seconds if "default" in test}
        tests = tests | {ELSEWHERE.get(path, "")}
        return sorted((test for test in tests if test in self.seconds), key=self._order)

    def _order(self, test: str) -> tuple[int, str]:
        """Sort by seconds; tests of about one length stay together by file."""
        return int(self.seconds[test] * 4).bit_length(), test


def _within(lines: Mapping[int, set[str]], first: int, last: int) -> set[str]:
    return set().union(*(tests for line, tests in lines.items() if first <= line <= last))
