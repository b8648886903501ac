"""The folder of a sweep: which sweep it holds, its trials, and the plan of the last driver."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from math import inf
from pathlib import Path
from typing import Any

from mmseol.sweeps.trial import state
from mmseol.utils.files import read_json, write_json
from mmseol.utils.processes import end_of_log

__all__ = ["WorkFolder", "preload_of", "score_of"]

_HOSTS = {
    "mmseg": ("mmseg.models", "mmseg.datasets", "mmseg.engine", "mmseg.visualization", "mmseol.segmentation"),
    "mmpretrain": (
        *("mmpretrain.models", "mmpretrain.datasets", "mmpretrain.engine", "mmpretrain.visualization"),
        *("mmpretrain.evaluation", "mmseol.classification", "sklearn.datasets", "sklearn.model_selection"),
    ),
}
_ALL = (
    *("mmseol.losses", "mmseol.hooks", "mmseol.metrics", "mmseol.datasets", "mmseol.samplers"),
    *("mmseol.sweeps.trial_record", "matplotlib.figure", "matplotlib.backends.backend_agg", "scipy.optimize"),
    "yapf.yapflib.yapf_api",
)


class WorkFolder:
    """The folder of a sweep.

    >>> import tempfile
    >>> folder = WorkFolder(tempfile.mkdtemp())
    >>> folder.claim("digits")
    >>> folder.claim("camvid")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: `--work-dir` '...' holds the sweep 'digits', not 'camvid'. Give another --work-dir.

    Args:
        path: The folder; made when something is written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def claim(self, name: str) -> None:
        """Make the folder that of a sweep.

        Raises:
            ValueError: If it is that of another sweep, or holds something else.
        """
        known = read_json(self.path / "sweep.json")
        if known is not None and known.get("sweep") != name:
            raise ValueError(
                f"`--work-dir` {str(self.path)!r} holds the sweep {known.get('sweep')!r}, not {name!r}. "
                "Give another --work-dir."
            )
        if known is None:
            if self.path.exists() and (self.path.is_file() or any(self.path.iterdir())):
                raise ValueError(
                    f"`--work-dir` {str(self.path)!r} holds something else than a sweep. "
                    "Give another --work-dir."
                )
            write_json(self.path / "sweep.json", {"format": 1, "sweep": name, "begun": time.time()})

    def trial(self, name: str) -> Path:
        """Return the folder of the trial with this id."""
        return self.path / "trials" / name

    def trials(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yield folder and request of every trial."""
        for folder in sorted((self.path / "trials").glob("*")):
            request = read_json(folder / "trial.json")
            if request is not None:
                yield folder, request

    def prepare(self, request: Mapping[str, Any]) -> Path:
        """Write the request of a trial, if it is not there; return its folder."""
        folder = self.trial(request["id"])
        if not (folder / "trial.json").is_file():
            write_json(folder / "trial.json", request)
        return folder

    def retry_failed(self) -> int:
        """Let the failed trials run again; return their number."""
        number = 0
        for folder, _ in self.trials():
            if state(folder) == "failed":
                attempts = read_json(folder / "attempts.json") or []
                write_json(folder / "attempts.json", [{**attempt, "kills": 0} for attempt in attempts])
                (folder / "failed.json").unlink()
                number += 1
        return number

    def save_file(self, path: Path) -> None:
        """Keep a copy of the sweep file."""
        shutil.copyfile(path, self.path / path.name)


def score_of(record: Mapping[str, Any], choose_by: str) -> float:
    """Return the score of a finished trial that the planner compares; ``-inf`` where it diverged.

    >>> score_of({"metric": "mIoU", "diverged": "The loss is not finite"}, "last")
    -inf

    Raises:
        ValueError: If the validation has no such score.
    """
    if record.get("diverged"):
        return -inf
    scores = (record["scores"][choose_by] or {}).get("scores", {})
    if record["metric"] not in scores:
        raise ValueError(
            f"`metric` must be a score of the validation ({', '.join(scores)}), got {record['metric']!r}."
        )
    score = scores[record["metric"]]
    return -inf if score is None else float(score)


def preload_of(scope: str | None) -> list[str]:
    """Return the modules that every trial of a config imports, for engines that fork.

    >>> "mmseg.models" in preload_of("mmseg")
    True
    """
    return [*_ALL, *_HOSTS.get(scope or "", ())]


def reason_of(folder: Path) -> str:
    """Return why a trial failed or ended without a record.

    >>> reason_of(Path("no_such_trial"))
    'no output'
    """
    failed = read_json(folder / "failed.json")
    if failed is not None:
        return str(failed["reason"])
    for name in ("trial.log", "score.log", "train.log"):
        if (folder / name).is_file() and (text := end_of_log(folder / name, lines=1)):
            return text
    return "no output"
