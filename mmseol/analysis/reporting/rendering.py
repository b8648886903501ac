"""A report as one self-contained HTML page, or as Markdown with its pictures beside it."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

from mmseol.analysis.reporting.page_parts import Block, Code, Links, Note, Picture, Report
from mmseol.analysis.tabulation.text_table import TextTable
from mmseol.utils.files import replacing

__all__ = ["LARGEST", "SUFFIXES", "html_page", "markdown_page", "write_report"]

SUFFIXES = (".html", ".md")
LARGEST = 10_000_000
"""Bytes of a page at most; pictures that do not fit are left out, which the page says."""


def html_page(report: Report, folder: str | Path = ".") -> str:
    """Return a page without scripts that loads nothing; links are relative to ``folder``.

    >>> from mmseol.analysis.reporting.page_parts import Section
    >>> page = html_page(Report("Digits & more", [Section("Counts", [Note("<none>", gap=True)])]))
    >>> "Digits &amp; more" in page, "&lt;none&gt;" in page, "<script" in page
    (True, True, False)
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mmseol.analysis.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("page.html.jinja")
    kept = _within(report, LARGEST * 3 // 4 - 500_000)  # base64 needs four characters for three bytes
    return template.render(
        report=kept, grouped=_grouped, address=_address, link=lambda path: _link(path, folder)
    )


def _within(report: Report, most: int) -> Report:
    """Return the report without the pictures beyond ``most`` bytes in all, each of which becomes a note."""
    left = most
    sections = []
    for section in report.sections:
        blocks: list[Block] = []
        for block in section.blocks:
            if isinstance(block, Picture):
                if len(block.content) > left:
                    text = f"Left out, for the page would exceed {LARGEST // 10**6} MB: {block.text}"
                    blocks.append(Note(text, gap=True))
                    continue
                left -= len(block.content)
            blocks.append(block)
        sections.append(replace(section, blocks=blocks))
    return replace(report, sections=sections)


def _grouped(blocks: Sequence[Block]) -> Iterator[tuple[str, list[Block]]]:
    """Yield neighbouring blocks of one kind together, so that pictures lie side by side."""
    for kind, group in groupby(blocks, lambda block: type(block).__name__):
        yield kind, list(group)


def _address(picture: Picture) -> str:
    return f"data:{picture.mime};base64,{b64encode(picture.content).decode()}"


def _link(path: Path, folder: str | Path) -> str:
    return quote(Path(os.path.relpath(path, folder)).as_posix())


def markdown_page(report: Report, pictures: Sequence[str], folder: str | Path = ".") -> str:
    """Return the report as Markdown.

    >>> from mmseol.analysis.reporting.page_parts import Section
    >>> print(markdown_page(Report("Digits", [Section("Counts", [Note("None.")])]), []))
    # Digits
    <BLANKLINE>
    ## Counts
    <BLANKLINE>
    None.
    <BLANKLINE>

    Args:
        pictures: File name of each picture, in order.
        folder: Folder that links are relative to.
    """
    names = iter(pictures)
    parts = [f"# {report.title}"]
    for section in report.sections:
        parts.append(f"## {section.title}")
        parts += [_markdown(block, names, folder) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _markdown(block: Block, names: Iterator[str], folder: str | Path) -> str:
    if isinstance(block, TextTable):
        return block.markdown()
    if isinstance(block, Note):
        return f"> {block.text}" if block.gap else block.text
    if isinstance(block, Code):
        return f"```\n{block.text}\n```"
    if isinstance(block, Links):
        return "\n".join(f"- [{text}](<{_link(path, folder)}>)" for text, path in block.items)
    return f"![{block.text}](<{quote(next(names))}>)"


def write_report(report: Report, path: str | Path) -> Path:
    """Write the report as HTML or Markdown, by the suffix; Markdown has its pictures in a folder beside it.

    >>> import tempfile
    >>> write_report(Report("Digits"), Path(tempfile.mkdtemp()) / "report.md").read_text()
    '# Digits\\n'

    Raises:
        ValueError: If the suffix is another.
    """
    path = Path(path)
    if path.suffix == ".html":
        text = html_page(report, path.parent)
    elif path.suffix == ".md":
        pictures = [b for section in report.sections for b in section.blocks if isinstance(b, Picture)]
        names = [f"{path.stem}_pictures/{n:02}.{picture.suffix}" for n, picture in enumerate(pictures, 1)]
        for name, picture in zip(names, pictures, strict=True):
            with replacing(path.parent / name) as file:
                file.write(picture.content)
        text = markdown_page(report, names, path.parent)
    else:
        raise ValueError(f"`path` must end in {' or '.join(SUFFIXES)}, got {str(path)!r}.")
    with replacing(path) as file:
        file.write(text.encode())
    return path
