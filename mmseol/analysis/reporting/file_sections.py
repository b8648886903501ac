"""Blocks of a report from files of a run: prediction pictures, tuned decisions, links."""

from __future__ import annotations

import json
from pathlib import Path

from mmseol.analysis.reporting.page_parts import Block, Links, Note, photograph, stored
from mmseol.analysis.reporting.run_folder import RunFolder

__all__ = ["decision_blocks", "file_blocks", "picture_blocks"]

_SHOWN = 8  # pictures of a run


def picture_blocks(run: RunFolder) -> list[Block]:
    """Return the prediction pictures of a run.

    >>> from pathlib import Path
    >>> picture_blocks(RunFolder(Path("ce"), "ce"))
    []
    """
    blocks: list[Block] = []
    for path in run.pictures[:_SHOWN]:
        try:
            blocks.append(photograph(path, f"{run.name}: {path.stem.replace('_', ' ')}"))
        except OSError as error:
            blocks.append(Note(f"{path.name} is no picture: {error}", gap=True))
    if len(run.pictures) > _SHOWN:
        blocks.append(Note(f"{len(run.pictures) - _SHOWN} more pictures are in {run.pictures[0].parent}."))
    return blocks


def decision_blocks(run: RunFolder) -> list[Block]:
    """Return what ``tune-decision`` found, with its picture.

    >>> from pathlib import Path
    >>> decision_blocks(RunFolder(Path("ce"), "ce"))
    []
    """
    blocks: list[Block] = []
    for path in run.decisions:
        try:
            facts = json.loads(path.read_text())
            objective, rows, selection = facts["objective"], facts["decisions"], facts["selection"]
            best = rows[selection["tuned"]]
            text = (
                f"{run.name}, {path.parent.name}: {objective} {rows[0][objective]:.2f} with the argmax of "
                f"the outputs, {best[objective]:.2f} with the best decision on validation data, "
                f"{selection['out_of_fold']:.2f} out of fold."
            )
        except (ValueError, KeyError, IndexError, TypeError) as error:
            blocks.append(Note(f"{path} is not read: {error!r}.", gap=True))
            continue
        blocks.append(Note(text))
        picture = path.with_suffix(".png")
        if picture.is_file():
            blocks.append(stored(picture, f"{objective} over the strength of the decision"))
    return blocks


def file_blocks(run: RunFolder) -> list[Block]:
    """Return links to the config, counts, checkpoints, logs and scores of a run.

    >>> from pathlib import Path
    >>> file_blocks(RunFolder(Path("ce"), "ce"))
    []
    """
    patterns = ("*.py", "class_counts.json", "*.pth", "*/*.log", "*/class_scores_*.json", "record.json")
    found = [path for pattern in patterns for path in sorted(run.path.glob(pattern))]
    found += [path for path in (run.path.parent / "record.json",) if path.is_file()]
    items = [(f"{run.name}: {_relative(path, run.path)}", path) for path in found]
    return [Links(items)] if items else []


def _relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else path.name
