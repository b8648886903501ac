"""The tool that changes code at random: which changes it knows, what it leaves alone, how it draws."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from tools.mutation.covering_tests import CoveringTests
from tools.mutation.mutants import Mutant, mutants
from tools.mutation.run_mutants import changed_lines, report, sample, shares


def changes(source: str) -> set[str]:
    """Return every changed version of a line."""
    return {mutant.apply(source) for mutant in mutants(source)}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("x = a <= b", {"x = a < b"}),
        ("x = a is not b", {"x = a is b"}),
        ("x = a in b", {"x = a not in b"}),
        ("x = a and b", {"x = a or b", "x = a"}),
        ("x = a - b", {"x = a + b"}),
        ("x = a ** b", {"x = a * b"}),
        ("x = -a", {"x = (a)"}),
        ("x = not a", {"x = (a)"}),
        ("x = 3", {"x = 4"}),
        ("x = 0.5", {"x = 1.0"}),
        ("x = 0.0", {"x = 0.5"}),
        ("x = True", {"x = False"}),
        ("x = f(a=b)", {"x = f()"}),
        ("x = a.b()", {"x = a"}),
        ("x = a.clamp(min=b)", {"x = a", "x = a.clamp()"}),
        ("f(a)", {"pass"}),
        ("a.b = c", {"pass"}),
        ("a += b", {"pass"}),
        ("x = a if b else c", {"x = a if (True or (b)) else c", "x = a if (False and (b)) else c"}),
        ("while a:\n    break", {"while (False and (a)):\n    break", "while a:\n    continue"}),
        ("with a:\n    b", {"if True:\n    b"}),
        ("@a\ndef f(): ...", {"\ndef f(): ..."}),
        ("def f(a=True): ...", {"def f(a=False): ..."}),
        ("x = 'ä' if a < b else c", {"x = 'ä' if a <= b else c"}),
    ],
)
def test_changes(line: str, expected: set[str]) -> None:
    found = changes(line)
    assert found >= expected
    if not line.startswith("x = 'ä'"):
        assert found == expected


@pytest.mark.parametrize(
    "text",
    [
        '"""A text with 3 words."""',
        "x: Literal[3]",
        "def f(a: int | None) -> Literal[3]: ...",
        "__all__ = ['a']",
        "assert a < 3",
        "raise ValueError(f'{a + 3}')",
        "x = f'{a + 3}'",
        "x = a.cpu()",
        "@triton.jit\ndef f(a=3): ...",
        "x = zip(a, b, strict=True)",
        "x = open(a, encoding=b)",
    ],
)
def test_what_is_left_alone(text: str) -> None:
    assert changes(text) == set()


def test_a_change_knows_its_place() -> None:
    source = "class A:\n    def f(self):\n        def g(): return 1\n        return g\n\nB = 2\n"
    inner, outer = mutants(source)
    assert (inner.function, inner.line, inner.scope) == ("A.f", 3, (2, 4))
    assert (outer.function, outer.line, outer.scope) == ("module", 6, (1, 6))
    assert changed_lines(source, outer.apply(source)) == ["-B = 2", "+B = 3"]


def test_the_shortest_tests_of_a_line_come_first() -> None:
    kernels = "mmseol/losses/ops/softmax_triton.py"
    interpreted = "tests/test_softmax_triton.py::test_in_the_interpreter"
    covering = object.__new__(CoveringTests)  # without coverage.py
    covering.tests = defaultdict(lambda: defaultdict(set))
    covering.seconds = {"a::long": 9.0, "a::short": 0.1, "a::default": 0.2, interpreted: 40.0}
    covering.tests["a.py"][5] |= {"a::long", "a::short", "a::failed"}
    covering.tests[kernels][5] |= {"a::short"}
    assert covering.of("a.py", 5, (4, 6)) == ["a::short", "a::long"]
    assert covering.of("a.py", 6, (4, 6)) == ["a::default", "a::short", "a::long"]
    assert covering.of("a.py", 8, (7, 9)) == ["a::default", "a::short", "a::long"]
    assert covering.of(kernels, 5, (4, 6)) == ["a::short", interpreted]  # in a process of its own


def test_areas_get_their_share_and_functions_one_change() -> None:
    assert sum(shares({"a": 977, "b": 31, "c": 500}, 150).values()) == 150
    found = {
        area: [(f"{area}.py", Mutant(f"f{k // 4}", "", k, (k, k), k, k + 1, "")) for k in range(number)]
        for area, number in (("a", 1200), ("b", 80))
    }
    chosen = sample(found, 40, seed=1)
    assert chosen == sample(found, 40, seed=1) != sample(found, 40, seed=2)
    assert len({(path, mutant.function) for _, path, mutant in chosen}) == len(chosen) == 40


def test_the_report_counts_what_matters() -> None:
    def row(area: str, outcome: str) -> dict[str, Any]:
        return dict(area=area, outcome=outcome, file="a.py", line=3, change=["-x", "+y"])

    rows = [row("losses", "killed"), row("losses", "survived"), row("hooks", "survived")]
    rows.append(row("hooks", "killed by time"))
    text = report(rows, {1: "the same number"})
    assert "| losses | 2 | 1 | 1 | 100 % |" in text
    assert "| hooks | 2 | 0 | 1 | 50 % |" in text
    assert "| all | 4 | 1 | 2 | 67 % |" in text
    unnoticed, equivalent = text.split("## Equivalent changes")
    assert "2. `a.py:3`\n\n```diff\n-x\n+y\n```" in unnoticed
    assert "1. `a.py:3`: the same number" in equivalent
