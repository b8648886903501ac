"""Which tests run a line, and how long each of them takes."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from coverage import CoverageData


class Durations:
    """Plugin of pytest that adds up the seconds of every test that passes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report) -> None:  # noqa: ANN001
        self.seconds[report.nodeid] += report.duration if report.passed else float("inf")

    def save(self, path: Path) -> None:
        known = json.loads(path.read_text()) if path.exists() else {}
        passed = {test: round(value, 3) for test, value in self.seconds.items() if value < float("inf")}
        path.write_text(json.dumps({**known, **passed}))


class Covering:
    """Tests by the lines that they run.

    Args:
        data: Files of coverage.py with the name of a test as context.
        seconds: Duration of each test; others are not used.
        root: Checkout in which the tests ran.
    """

    def __init__(self, data: Iterable[Path], seconds: dict[str, float], root: Path) -> None:
        self.seconds = seconds
        self.tests: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        for path in data:
            read = CoverageData(str(path))
            read.read()
            for file in read.measured_files():
                lines = self.tests[Path(file).relative_to(root).as_posix()]
                for line, contexts in read.contexts_by_lineno(file).items():
                    lines[line].update(context.rsplit("|", 1)[0] for context in contexts if context)

    def of(self, path: str, line: int, scope: tuple[int, int]) -> list[str]:
        """Return the tests that run the line, the shortest first.

        Those of a line that runs at import are the tests of the function; of a function that no test runs in
        its own process they are those of the file.
        """
        lines = self.tests[path]
        tests = lines[line] or self._within(lines, scope) or self._within(lines, (1, sys.maxsize))
        return sorted((test for test in tests if test in self.seconds), key=self._order)

    @staticmethod
    def _within(lines: dict[int, set[str]], scope: tuple[int, int]) -> set[str]:
        return set().union(*(tests for line, tests in list(lines.items()) if scope[0] <= line <= scope[1]))

    def _order(self, test: str) -> tuple[int, str]:
        return int(self.seconds[test] * 4).bit_length(), test  # files together among tests of one length
