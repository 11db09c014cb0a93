"""The terminal's view of pictures that are drawn: one bar per model."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from srpo.evaluation.images import ReportProgress

WIDEST = 32  # characters of what is being done; paths of models are longer


@contextmanager
def terminal_progress() -> Iterator[ReportProgress]:
    """A callback that draws bars on stderr; where that is no terminal, a line says what begins."""
    columns = (
        TextColumn("[bold]{task.description}[/]"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True)) as bar:

        def report(activity: str, done: int, total: int) -> None:
            if activity not in tasks:
                shown = activity if len(activity) <= WIDEST else f"\N{HORIZONTAL ELLIPSIS}{activity[1 - WIDEST :]}"
                tasks[activity] = bar.add_task(escape(shown), total=total)
                if not bar.console.is_terminal:
                    bar.console.print(f"{escape(activity)}: {done} of {total}", highlight=False, soft_wrap=True)
            bar.update(tasks[activity], completed=done)

        yield report
