"""A table as text, in Markdown or LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmseol.analysis.tabulation.markdown import markdown_table

__all__ = ["TextTable", "spread"]

_LATEX = {"±": r"$\pm$", "Δ": r"$\Delta$", "\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
_LATEX |= {"^": r"\textasciicircum{}", **{character: f"\\{character}" for character in "&%$#_{}"}}


@dataclass
class TextTable:
    """A table as text, in Markdown or LaTeX.

    >>> table = TextTable("Toy", ["loss", "mIoU"], [["ce", "40.0 ± 1.0"]], notes=["One seed."])
    >>> print(table.markdown())
    **Toy**
    <BLANKLINE>
    | loss | mIoU |
    |---|---:|
    | ce | 40.0 ± 1.0 |
    <BLANKLINE>
    One seed.

    Attributes:
        left: Number of leading columns that are flush left.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = field(default_factory=list)
    left: int = 1

    def markdown(self) -> str:
        """Return the title, the table, and the notes."""
        parts = [f"**{self.title}**"] if self.title else []
        headings, *rows = ([cell.replace("|", r"\|") for cell in row] for row in (self.headings, *self.rows))
        parts.append(markdown_table(headings, rows, left=range(self.left)))
        return "\n\n".join([*parts, *([" ".join(self.notes)] if self.notes else [])])

    def latex(self) -> str:
        """Return a ``table`` environment; it needs the package booktabs."""
        columns = "l" * self.left + "r" * (len(self.headings) - self.left)
        heading, *rows = (" & ".join(map(_latex, row)) + r" \\" for row in (self.headings, *self.rows))
        caption = " ".join([*([f"{self.title}."] if self.title else []), *self.notes])
        return "\n".join(
            [
                r"\begin{table}",
                rf"\begin{{tabular}}{{{columns}}}",
                *(r"\toprule", heading, r"\midrule", *rows, r"\bottomrule"),
                r"\end{tabular}",
                rf"\caption{{{_latex(caption)}}}",
                r"\end{table}",
            ]
        )

    def data(self) -> dict[str, Any]:
        """Return the table as plain data.

        >>> TextTable("Toy", ["loss"], [["ce"]]).data()
        {'title': 'Toy', 'headings': ['loss'], 'rows': [['ce']], 'notes': []}
        """
        rows = [list(row) for row in self.rows]
        return {
            "title": self.title,
            "headings": list(self.headings),
            "rows": rows,
            "notes": list(self.notes),
        }


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Return mean and, of several values, standard deviation.

    >>> spread([40.0, 44.0]), spread([41.0], digits=2)
    ('42.0 ± 2.8', '41.00')
    """
    text = f"{np.mean(values):.{digits}f}"
    return f"{text} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else text
