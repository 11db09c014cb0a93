#!/usr/bin/env python3
"""The command line of SRPO: `python run_pipeline.py --help`.

Exit codes: 0 done; 42 it cannot work as it is asked for (an option, a setting, a file): trying again will not help; 75
it was told to stop and has saved itself, another process is at work there, the disk is full, or S3, a hub or MLflow
could not be reached: try again; anything else: it may work.
"""

import signal
import sys
import traceback
from datetime import UTC, datetime
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from pipelines.commands import app
from pipelines.place import here
from srpo.errors import (
    EXIT_PERMANENT,
    EXIT_RETRY,
    DiskFullError,
    KnownError,
    UnreachableError,
    disk_full,
    memory_needed,
)


def _details() -> str:
    """Where the details of an unexpected error are: a file of their own; themselves where none can be written."""
    folder, details = here().logs, traceback.format_exc()
    path = folder / f"error-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}.txt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(details, encoding="utf-8")
    except OSError as error:
        return f"the details are here, because {folder} cannot be written ({error.strerror}):\n{details}"
    return f"the details are in {path}"


def _interrupt(*_: object) -> None:
    """A request to end (SIGTERM, from a scheduler or a service manager) is treated like Ctrl-C."""
    raise KeyboardInterrupt


def _end(problems: Console, error: KnownError) -> NoReturn:
    """Say it in one sentence, and end with the exit code."""
    colour = "yellow" if error.exit_code == EXIT_RETRY else "red"
    problems.print(f"[bold {colour}]{error.word}:[/]", escape(str(error)), highlight=False, soft_wrap=True)
    sys.exit(error.exit_code)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors become one clear sentence and an exit code."""
    problems = Console(stderr=True)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with memory_needed():
            app(arguments)
    except SystemExit as ended:
        misused = ended.code == typer.BadParameter.exit_code  # of every UsageError, which has been told
        sys.exit(EXIT_PERMANENT if misused else ended.code)
    except KnownError as error:
        _end(problems, error)
    except Exception as error:
        if said := disk_full(error):
            _end(problems, DiskFullError(f"no space left on the disk ({said}); free some, then run it again"))
        from srpo.tracking import is_unanswered

        if is_unanswered(error):
            reason = "the MLflow server does not answer; nothing is lost: run it again when it is back"
            _end(problems, UnreachableError(f"{reason} ({error})"))
        problems.print(f"[bold red]unexpected error:[/] {type(error).__name__}: {escape(str(error))}", soft_wrap=True)
        problems.print(_details(), soft_wrap=True, markup=False, highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
