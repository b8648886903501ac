"""Print tables into log files."""

from __future__ import annotations

from io import StringIO

from rich.console import Console
from rich.table import Table

__all__ = ["table_text"]


def table_text(table: Table) -> str:
    """Return a rich table as plain text of at most 200 columns, without trailing spaces.

    >>> from rich.table import Table
    >>> table = Table("class", "pixels", box=None)
    >>> table.add_row("road", "120")
    >>> print(table_text(table))
     class  pixels
     road   120
    """
    file = StringIO()
    Console(file=file, width=200, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())
