"""Findings of checks, and the loop that runs checks so that none hides another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmseol.counting.counts import ClassCounts
from mmseol.utils.checks import choice

__all__ = ["Check", "Finding", "Subject", "Unavailable", "run_checks"]

Status = Literal["ok", "warning", "fault", "skipped"]


@dataclass(frozen=True)
class Finding:
    """What a check found, in one line.

    >>> Finding("ok", "3 losses can be built").status
    'ok'

    Attributes:
        status: ``'ok'``; ``'warning'``: training runs, but perhaps not as meant; ``'fault'``: training fails
            or its result is wrong; ``'skipped'``: what the check needs is missing.
        text: What was found and, of a warning or fault, the remedy.
        check: Name of the check.
    """

    status: Status
    text: str
    check: str = ""

    def __post_init__(self) -> None:
        choice("status", self.status, get_args(Status))
        object.__setattr__(self, "text", " ".join(self.text.split()))


class Unavailable(Exception):
    """A part of the run that a check needs could not be made; another check reports why.

    >>> raise Unavailable("the training data")
    Traceback (most recent call last):
    mmseol.experiment.diagnosis.findings.Unavailable: the training data
    """


@dataclass
class Subject:
    """What is checked, and what earlier checks made of it.

    >>> Subject(Config(dict(default_scope="mmseg"))).require("train")
    Traceback (most recent call last):
    mmseol.experiment.diagnosis.findings.Unavailable: the training data

    Attributes:
        cfg: Config with the arguments applied.
        device: Device of the model, ``'cpu'`` or ``'cuda'``.
        workers: Processes that read label maps, as in :func:`mmseol.counting.count_dataset`.
        datasets: Data sets by split.
        counts: Class counts of the training data.
        names: Names of the classes.
        losses: Losses by the name of their head.
        missing: Data loaders whose files are missing.
        model: Model with new weights, in training mode on ``device``.
    """

    cfg: Config
    device: str = "cpu"
    workers: int | None = None
    datasets: dict[str, Any] = field(default_factory=dict)
    counts: ClassCounts | None = None
    names: list[str] = field(default_factory=list)
    losses: list[tuple[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    model: Any = None

    def require(self, part: Literal["train", "val", "counts", "model"]) -> Any:
        """Return a data set by its split, the counts or the model.

        Raises:
            Unavailable: If it was not made.
        """
        texts = {"train": "the training data", "val": "the validation data", "counts": "the counts"}
        found = self.datasets.get(part) if part in ("train", "val") else getattr(self, part)
        if found is None:
            raise Unavailable(texts.get(part, f"the {part}"))
        return found


Check = Callable[[Subject], Iterable[Finding]]


def run_checks(checks: Sequence[Check], subject: Subject) -> list[Finding]:
    """Return the findings of all checks, in order; each check yields one or more.

    A check that raises is a warning, so that it hides no other; the name of a check is that of its function.

    >>> def broken(subject): raise KeyError("x")
    >>> def sound(subject): yield Finding("ok", "all is well")
    >>> for finding in run_checks([broken, sound], Subject(Config())):
    ...     print(finding.status, finding.check, finding.text)
    warning broken could not be checked: KeyError: 'x'
    ok sound all is well
    """
    findings = []
    for check in checks:
        name = check.__name__.strip("_").replace("_", " ")
        found: list[Finding] = []
        try:
            with DefaultScope.overwrite_default_scope(subject.cfg.get("default_scope")):
                found.extend(check(subject))
        except Unavailable as missing:
            found.append(Finding("skipped", f"needs {missing}"))
        except Exception as error:
            found.append(Finding("warning", f"could not be checked: {error_text(error)}"))
        findings += [Finding(one.status, one.text, name) for one in found]
    return findings


def error_text(error: BaseException) -> str:
    """Return the kind and the first lines of an error.

    >>> error_text(ValueError("no image"))
    'ValueError: no image'
    """
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 400 else text[:400] + ' ..'}"
