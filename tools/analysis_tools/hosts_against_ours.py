"""Run the installed hosts' components and ours on cases of imbalanced data, and print a table.

python tools/analysis_tools/hosts_against_ours.py --out results/hosts_against_ours/record.json
"""

import json
from argparse import ArgumentParser
from pathlib import Path

from mmseol.analysis.hosts import situations_record
from mmseol.analysis.records.run_records import environment
from mmseol.analysis.tabulation.markdown import markdown
from mmseol.utils.files import replacing

COMMAND = "python tools/analysis_tools/hosts_against_ours.py --out results/hosts_against_ours/record.json"


def main() -> None:
    """Read the arguments and run."""
    parser = ArgumentParser(description="Compare the hosts' components with ours.")
    parser.add_argument("--out", type=Path, help="record to write (JSON); an existing one is replaced")
    args = parser.parse_args()
    record = situations_record(environment(), [COMMAND])
    print(markdown(record))
    if args.out is not None:
        with replacing(args.out, "w") as file:
            file.write(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
