"""Write the tables of all Markdown pages from the records under results/; --check only compares them.

A table stands between ``<!-- record: PATH -->`` and ``<!-- end -->``. ``<!-- record: PATH rows: 2 5 -->``
keeps the second and fifth row; ``<!-- record: PATH part: tuning -->`` shows the learning rates tried. The
record of a sweep has the parts of ``tools/tables.py``, and ``losses: ce outlying_mse`` keeps these losses. It
must be as ``tools/tables.py`` wrote it.
"""

from __future__ import annotations

import json
import re
import sys
from argparse import ArgumentParser
from pathlib import Path

from mmseol.analysis.outlying_label.label_markdown import label_markdown
from mmseol.analysis.records.sweep_record import check_digest
from mmseol.analysis.tabulation.markdown import markdown, tuning_markdown
from mmseol.analysis.tabulation.sweep_report import sweep_markdown
from mmseol.utils.checks import choice
from mmseol.utils.files import replacing

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(
    r"(<!-- record: (?P<path>\S+)(?: part: (?P<part>\w+))?(?: losses:(?P<losses>(?: [\w:=.,]+)+))?"
    r"(?: rows:(?P<rows>[ \d]+))? -->\n)"
    r".*?(?P<end><!-- end -->)",
    re.DOTALL,
)
PARTS = {"tuning": tuning_markdown}  # of a record that is no sweep's


def pages() -> list[Path]:
    """Return README.md and the pages under results/ that have a table."""
    found = [ROOT / "README.md", *sorted((ROOT / "results").rglob("*.md"))]
    return [path for path in found if "<!-- record: " in path.read_text()]


def filled(text: str) -> str:
    """Return ``text`` with every table written from its record.

    Raises:
        ValueError: If a mark is not understood, or names a part or row that the record does not have.
    """

    def table(match: re.Match[str]) -> str:
        record = json.loads((ROOT / match["path"]).read_text())
        if isinstance(record, dict) and record.get("kind") == "sweep":
            check_digest(record, match["path"])
            text = sweep_markdown(record, match["part"], (match["losses"] or "").split())
        elif isinstance(record, dict) and record.get("kind") == "outlying_label":
            text = label_markdown(record, match["part"])
        else:
            text = PARTS[choice("part", match["part"], PARTS)](record) if match["part"] else markdown(record)
        lines = text.splitlines()
        if match["rows"]:
            wanted = [int(row) for row in match["rows"].split()]
            if not set(wanted) <= set(range(1, len(lines) - 1)):
                raise ValueError(f"`rows` must lie within 1..{len(lines) - 2}, got {wanted} in {match[1]!r}.")
            lines = [*lines[:2], *(lines[row + 1] for row in wanted)]
        return "\n".join([match[1] + lines[0], *lines[1:], match["end"]])

    done, number = BLOCK.subn(table, text)
    if number != text.count("<!-- record: "):
        raise ValueError("A mark `<!-- record: ... -->` is malformed or has no `<!-- end -->`.")
    return done


def main() -> None:
    """Read the arguments and run."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a table is out of date")
    args = parser.parse_args()
    try:
        outdated = {path: filled(path.read_text()) for path in pages()}
    except ValueError as error:
        sys.exit(f"error: {error}")
    outdated = {path: text for path, text in outdated.items() if path.read_text() != text}
    if args.check and outdated:
        names = ", ".join(str(path.relative_to(ROOT)) for path in outdated)
        sys.exit(f"error: tables differ from their records in {names}; run python tools/update_readme.py.")
    for path, text in outdated.items():
        with replacing(path, "w") as file:
            file.write(text)


if __name__ == "__main__":
    main()
