"""Tables and lists as plain text, for logs and errors."""

from __future__ import annotations

from collections.abc import Iterable
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["first_few", "table_text"]


def first_few(items: Iterable[Any], shown: int = 5) -> str:
    """Return the first items as text, and the number of all if there are more.

    >>> first_few(["sky", "road", "car"], shown=2)
    'sky, road, .. (3 in all)'
    """
    texts = [str(item) for item in items]
    more = f", .. ({len(texts)} in all)" if len(texts) > shown else ""
    return ", ".join(texts[:shown]) + more


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
