"""Run."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import random
import signal
import time
from pathlib import Path

from covering import Covering
from operators import Mutant, all_of

AREAS = {
    "losses": ["losses"],
    "counting": ["counting"],
    "data": ["datasets", "samplers"],
    "scores": ["metrics"],
    "hooks": ["hooks"],
    "experiment": ["experiment"],
    "classifiers": ["classifiers"],
    "tasks": ["segmentation", "classification"],
}


def candidates(root: Path) -> dict[str, list[tuple[str, Mutant]]]:
    found = {}
    for area, folders in AREAS.items():
        files = [path for folder in folders for path in sorted((root / "mmseol" / folder).rglob("*.py"))]
        found[area] = list(all_of({path.relative_to(root).as_posix(): path.read_text() for path in files}))
    return found


def sizes(found: dict[str, list], number: int, least: int) -> dict[str, int]:
    """Proportional, at least `least`, sum is number (largest remainder)."""
    total = sum(map(len, found.values()))
    share = {area: max(least, number * len(items) / total) for area, items in found.items()}
    free = {a for a in share if share[a] > least}
    left = number - least * (len(share) - len(free))
    total = sum(len(found[a]) for a in free)
    share.update({a: left * len(found[a]) / total for a in free})
    whole = {a: int(share[a]) for a in share}
    for a in sorted(share, key=lambda a: whole[a] - share[a])[: number - sum(whole.values())]:
        whole[a] += 1
    return whole


def sample(found, numbers, seed):
    rng = random.Random(seed)
    chosen = []
    for area, items in found.items():
        items = list(items)
        rng.shuffle(items)
        seen = set()
        for path, mutant in items:
            if len(seen) == numbers[area]:
                break
            if (path, mutant.function) not in seen:
                seen.add((path, mutant.function))
                chosen.append((area, path, mutant))
    return chosen


def diff(source: str, changed: str) -> list[str]:
    lines = list(difflib.unified_diff(source.splitlines(), changed.splitlines(), n=0, lineterm=""))
    return [line for line in lines[2:] if not line.startswith("@@")]


class _Chosen:
    """Run the chosen tests in their order, and note the first that fails."""

    def __init__(self, tests: list[str], out: Path) -> None:
        self.order, self.out = {test: number for number, test in enumerate(tests)}, out

    def pytest_collection_modifyitems(self, items) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self.order), key=lambda i: self.order[i.nodeid])

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed:
            message = str(getattr(report.longrepr, "reprcrash", None) and report.longrepr.reprcrash.message)[:160]
            self.out.write_text(json.dumps([report.nodeid, message.splitlines()[0] if message else ""]))

    def pytest_collectreport(self, report) -> None:
        if report.failed:
            self.out.write_text(json.dumps([report.nodeid, "collection " + str(report.longrepr)[-120:]]))


def run_tests(root: Path, tests: list[str], limit: float, scratch: Path) -> dict:
    """Run the tests until one fails, in a fork of this process."""
    import pytest

    out = scratch / "first_failure.json"
    out.unlink(missing_ok=True)
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.setpgrp()
        os.chdir(root)
        log = os.open(scratch / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        status = 99
        try:
            files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
            options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:cov", f"--basetemp={scratch / 'base'}"]
            status = int(pytest.main([*options, *files], plugins=[_Chosen(tests, out)]))
        finally:
            os._exit(status)
    status = None
    while status is None and time.monotonic() - began < limit:
        done, code = os.waitpid(child, os.WNOHANG)
        if done:
            status = os.waitstatus_to_exitcode(code)
        else:
            time.sleep(0.02)
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
    if status is None:
        os.waitpid(child, 0)
    seconds = round(time.monotonic() - began, 1)
    test, message = json.loads(out.read_text()) if out.exists() else (None, None)
    return {"status": status, "test": test, "message": message, "seconds": seconds}


def run_mutant(root: Path, path: str, mutant: Mutant, covering: Covering, scratch: Path, budget: float) -> dict:
    tests, spent = [], 0.0
    of = covering.of(path, mutant.line, mutant.scope)
    for test in of:
        spent += covering.seconds[test]
        if tests and spent > budget:
            break
        tests.append(test)
    if not tests:
        return {"outcome": "survived", "tests": 0}
    file = root / path
    source = file.read_text()
    stat = file.stat()
    try:
        file.write_text(mutant.apply(source))
        result = run_tests(root, tests, 3 * spent + 60, scratch)
    finally:
        file.write_text(source)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        for cached in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
            cached.unlink()
    outcome = "survived" if result["status"] == 0 else "killed"
    if result["status"] is None:
        outcome = "timeout"
    return {"outcome": outcome, **result, "tests": len(tests), "covering": len(of)}
