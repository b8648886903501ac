"""The report of a run, drawn when it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook

from mmseol.registry import HOOKS
from mmseol.utils.checks import KnownArguments

__all__ = ["ReportHook"]

_MARK = '<meta name="generator" content="mmseol">'


@HOOKS.register_module()
class ReportHook(KnownArguments, Hook):
    """Write ``report.html`` into the work directory at the end of a training or test.

    The main process draws it, after all other hooks. A failure is a warning in the log: the run has ended,
    and ``python -m mmseol report WORK_DIR --out FILE`` draws it again. Only a page of mmseol is replaced.

    >>> ReportHook("pages/report.html").name
    'pages/report.html'

    Args:
        name: File below the work directory, .html.

    Raises:
        ValueError: If it is another kind of file.
    """

    kind = "hook"
    priority = "LOWEST"

    def __init__(self, name: str = "report.html") -> None:
        if Path(name).suffix != ".html" or Path(name).is_absolute():
            raise ValueError(f"`name` must be a relative path that ends in .html, got {name!r}.")
        self.name = name

    @master_only
    def after_run(self, runner: Any) -> None:
        """Draw the report, or warn."""
        path = Path(runner.work_dir, self.name)
        try:
            _write(runner.work_dir, path)
        except Exception as error:  # whatever it is, the training is worth more
            runner.logger.warning(
                f"The report was not drawn: {type(error).__name__}: {error} Draw it by "
                f"python -m mmseol report {runner.work_dir} --out {path}."
            )
        else:
            runner.logger.info(f"The report is {path}.")


def _write(work_dir: str, path: Path) -> None:
    from mmseol.analysis.reporting.rendering import write_report  # need Jinja2 and matplotlib
    from mmseol.analysis.reporting.run_folder import read_run
    from mmseol.analysis.reporting.run_sections import run_report

    if path.exists() and _MARK not in path.read_text(encoding="utf-8", errors="replace")[:2000]:
        raise FileExistsError(f"`name` {str(path)!r} is a file of something else.")
    write_report(run_report([read_run(work_dir)]), path)
