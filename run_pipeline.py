#!/usr/bin/env python3
"""The command line of SRPO: `python run_pipeline.py --help`.

Exit codes: 0 done; 42 it cannot work as it is asked for (an option, a setting, a file): trying again will not help; 75
it was told to stop and has saved itself, another process is at work there, the disk is full, or S3, a hub, MLflow
or ZenML could not be reached: try again; anything else: it may work.
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
from pipelines.commands.runs import INTERRUPTED
from pipelines.place import here
from srpo.errors import (
    EXIT_PERMANENT,
    EXIT_RETRY,
    DiskFullError,
    KnownError,
    UnreachableError,
    causes,
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


class ToldToEnd(KeyboardInterrupt):
    """A request to end (SIGTERM, from a scheduler or a service manager): like Ctrl-C, but it is to be tried again."""


def _interrupt(*_: object) -> None:
    raise ToldToEnd


def _exit_code(ended: SystemExit) -> str | int | None:
    """That of a command which has ended, and has said why."""
    if ended.code == typer.BadParameter.exit_code:  # of every UsageError
        return EXIT_PERMANENT
    told_to_end = ended.code == INTERRUPTED and any(isinstance(each, ToldToEnd) for each in causes(ended))
    return EXIT_RETRY if told_to_end else ended.code


def _unanswering(error: Exception) -> str:
    """The server that an error says cannot be reached, or cannot answer now; empty if it says nothing of one."""
    import requests  # type: ignore[import-untyped]  # by which ZenML's client asks

    from srpo.tracking import is_unanswered

    if any(is_unanswered(each) for each in causes(error)):  # by way of requests too
        return "the MLflow server"
    away = (requests.ConnectionError, requests.Timeout, requests.exceptions.RetryError)
    return "ZenML's server" if any(isinstance(each, away) for each in causes(error)) else ""


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
        sys.exit(_exit_code(ended))
    except KnownError as error:
        _end(problems, error)
    except Exception as error:
        if said := disk_full(error):
            _end(problems, DiskFullError(f"no space left on the disk ({said}); free some, then run it again"))
        if server := _unanswering(error):
            reason = f"{server} does not answer; nothing is lost: run it again when it is back"
            _end(problems, UnreachableError(f"{reason} ({error})"))
        problems.print(f"[bold red]unexpected error:[/] {type(error).__name__}: {escape(str(error))}", soft_wrap=True)
        problems.print(_details(), soft_wrap=True, markup=False, highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
