"""Parts of a report, before they become HTML or Markdown."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from mmseol.analysis.tabulation.text_table import TextTable

__all__ = [
    "MISSING",
    "Block",
    "Code",
    "Links",
    "Note",
    "Picture",
    "Report",
    "Section",
    "drawn",
    "photograph",
    "stored",
]

MISSING = "-"
"""Cell of a table without a value."""

_WIDEST = 1400  # pixels of a photograph


@dataclass(frozen=True)
class Note:
    """A sentence; ``gap`` marks what is missing.

    >>> Note("No validation.", gap=True).gap
    True
    """

    text: str
    gap: bool = False


@dataclass(frozen=True)
class Code:
    """Lines to be shown as they are.

    >>> Code("python tools/train.py").text
    'python tools/train.py'
    """

    text: str


@dataclass(frozen=True)
class Links:
    """Names and files.

    >>> Links([("log", Path("run.log"))]).items[0][0]
    'log'
    """

    items: Sequence[tuple[str, Path]]


@dataclass(frozen=True)
class Picture:
    """An encoded picture with its description.

    >>> Picture("counts", b"", "png").mime
    'image/png'

    Attributes:
        text: What the picture shows, for those who cannot see it and as its caption.
        content: File of the picture.
        suffix: ``'png'`` or ``'jpeg'``.
        inches: Width, as of a figure with a text of 9 points; ``None``: as wide as the page.
    """

    text: str
    content: bytes
    suffix: str
    inches: float | None = None

    @property
    def broad(self) -> bool:
        """Whether the picture needs the width of the page."""
        return self.inches is None or self.inches > 6.5

    @property
    def mime(self) -> str:
        """Type of the content."""
        return f"image/{self.suffix}"


Block = TextTable | Note | Code | Links | Picture


@dataclass(frozen=True)
class Section:
    """A heading and what stands below; ``folded`` hides it until it is opened.

    >>> Section("Counts", [Note("none")]).folded
    False
    """

    title: str
    blocks: Sequence[Block]
    folded: bool = False


@dataclass(frozen=True)
class Report:
    """A page.

    >>> Report("Digits", [Section("Counts", [])]).sections[0].title
    'Counts'
    """

    title: str
    sections: Sequence[Section] = field(default_factory=list)


def drawn(figure: Any, text: str) -> Picture:
    """Return a figure as a PNG on white, legible on any page.

    >>> from mmseol.analysis.figures.style import new_figure
    >>> with new_figure(2, 1) as figure:
    ...     picture = drawn(figure, "nothing")
    >>> picture.suffix, picture.inches, picture.content[1:4]
    ('png', 2.0, b'PNG')
    """
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, facecolor="white")
    return Picture(text, file.getvalue(), "png", float(figure.get_figwidth()))


def photograph(path: str | Path, text: str) -> Picture:
    """Return a picture file as a JPEG of at most 1400 columns.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "wide.png")
    >>> Image.new("RGB", (2800, 10)).save(path)
    >>> with Image.open(io.BytesIO(photograph(path, "black").content)) as picture:
    ...     picture.size
    (1400, 5)

    Raises:
        OSError: If the file is no picture.
    """
    with Image.open(path) as image:
        picture = image.convert("RGB")
    if picture.width > _WIDEST:
        picture = picture.resize((_WIDEST, round(picture.height * _WIDEST / picture.width)))
    file = io.BytesIO()
    picture.save(file, format="jpeg", quality=85)
    return Picture(text, file.getvalue(), "jpeg", picture.width / 110)


def stored(path: str | Path, text: str) -> Picture:
    """Return a figure that is stored as PNG, as it is.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "curve.png")
    >>> Image.new("RGB", (600, 10)).save(path, dpi=(120, 120))
    >>> round(stored(path, "curve").inches)
    5

    Raises:
        OSError: If the file is no picture.
    """
    with Image.open(path) as image:
        inches = image.width / image.info.get("dpi", (120, 120))[0]
    return Picture(text, Path(path).read_bytes(), "png", inches)
