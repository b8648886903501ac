"""Write the tables of README.md anew from the records under results/; --check only says whether they are.

A table stands between ``<!-- record: PATH -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import json
import re
import sys
from argparse import ArgumentParser
from pathlib import Path

from mmseol.analysis.markdown import markdown
from mmseol.utils.files import replacing

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(<!-- record: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """Return ``text`` with every table written from its record."""

    def table(match: re.Match[str]) -> str:
        return match[1] + markdown(json.loads((ROOT / match[2]).read_text())) + "\n" + match[3]

    return BLOCK.sub(table, text)


def main() -> None:
    """Read the arguments and run."""
    parser = ArgumentParser(description="Write the README's tables from the records.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a table is out of date")
    args = parser.parse_args()
    path = ROOT / "README.md"
    text = path.read_text()
    if filled(text) == text:
        return
    if args.check:
        sys.exit("The README's tables are not those of the records; run python tools/update_readme.py.")
    with replacing(path, "w") as file:
        file.write(filled(text))


if __name__ == "__main__":
    main()
