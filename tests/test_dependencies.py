"""The lower bounds of our dependencies are the versions that the tests run with."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def lines(path: Path) -> list[Requirement]:
    return [Requirement(line) for line in path.read_text().splitlines() if not line.startswith("#")]


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what ``setup.py`` gives to setuptools."""
    given: dict[str, Any] = {}
    monkeypatch.setattr("setuptools.setup", given.update)
    runpy.run_path(str(ROOT / "setup.py"))
    return given


def test_the_tests_run_with_the_lower_bounds(declared: dict[str, Any]) -> None:
    bounds = {}
    for text in [*declared["install_requires"], *declared["extras_require"]["test"]]:
        requirement = Requirement(text)
        (bound,) = requirement.specifier
        assert bound.operator == ">="
        bounds[requirement.name] = Version(bound.version)
    pinned = {}
    for requirement in lines(ROOT / ".ci" / "lower_bounds.txt"):
        (bound,) = requirement.specifier
        assert bound.operator == "=="
        pinned[requirement.name] = Version(bound.version)
    assert pinned == bounds
    assert len(pinned) > 8
    assert "--constraint .ci/lower_bounds.txt" in (ROOT / ".ci" / "install_originals").read_text()
