"""Picture of the scores of many decisions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmseol.utils.files import replacing

__all__ = ["draw_decisions"]


def draw_decisions(facts: Mapping[str, Any], path: str | Path) -> None:
    """Draw the objective over the strength of each family, with its bootstrap interval, as PNG.

    >>> import tempfile
    >>> rows = [dict(family="plain", strength=None, mIoU=40.0), dict(family="prior", strength=1.0, mIoU=45.0)]
    >>> selection = dict(chosen=1, tuned=1, intervals=[[38, 42], [43, 47]], out_of_fold=44.0)
    >>> facts = dict(objective="mIoU", decisions=rows, selection=selection)
    >>> path = Path(tempfile.mkdtemp(), "decision.png")
    >>> draw_decisions(facts, path)
    >>> path.is_file()
    True

    Args:
        facts: ``objective``, ``decisions`` and ``selection`` as ``decision.json`` has them.
        path: File to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    objective, rows, selection = facts["objective"], facts["decisions"], facts["selection"]
    families = list(dict.fromkeys(row["family"] for row in rows[1:]))
    figure = Figure(figsize=(5 * max(1, len(families)), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(families), sharey=True, squeeze=False)[0]
    for panel, family in zip(panels, families, strict=True):
        own = [(i, row) for i, row in enumerate(rows) if row["family"] == family]
        strengths = [row["strength"] for _, row in own]
        low, high = zip(*(selection["intervals"][i] for i, _ in own), strict=True)
        panel.fill_between(strengths, low, high, alpha=0.2, linewidth=0, label="95 % over images")
        panel.plot(strengths, [row[objective] for _, row in own], marker=".", label=f"family {family!r}")
        panel.axhline(rows[0][objective], color="black", linestyle="--", label="argmax of the outputs")
        panel.axhline(selection["out_of_fold"], color="tab:orange", linestyle=":", label="tuned, out of fold")
        if selection["chosen"] in [i for i, _ in own]:
            panel.plot(
                [rows[selection["chosen"]]["strength"]],
                [rows[selection["chosen"]][objective]],
                "o",
                color="tab:red",
                label="written",
            )
        panel.set_xlabel("strength")
        panel.set_ylabel(f"{objective} in per cent, validation")
        panel.legend(fontsize="small")
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=120)
