"""Subcommands of ``python -m mmseol analyze``: their help, arguments and modules.

Only the standard library is imported here: ``--help`` and wrong arguments answer at once.
"""

from __future__ import annotations

from mmseol.utils.arguments import Command

__all__ = ["ANALYSES"]

ANALYSES: dict[str, Command] = {}
"""Each subcommand's module has ``prepare_NAME`` and ``run_NAME``."""
