"""The terminal's view of a download: one bar over all bytes on a terminal, a line per file elsewhere."""

from threading import Event
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

MEBIBYTE = 2**20


class FetchProgress:
    """Progress of fetching one source."""

    def __init__(self, source: str, size: int) -> None:
        self.console = Console(stderr=True)
        columns = (
            TextColumn("[bold]fetch[/] {task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.task = self.bar.add_task(source, total=size)
        self.stopped = Event()

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def advance(self, size: int) -> None:
        """So many more bytes are here; raises in every thread that fetches once one of them has failed."""
        if self.stopped.is_set():
            raise InterruptedError("another file failed")
        self.bar.update(self.task, advance=size)

    def done(self, path: str, size: int) -> None:
        """A file is whole."""
        if not self.console.is_terminal:
            self.console.print(f"fetched {path} ({size / MEBIBYTE:.1f} MiB)", highlight=False, soft_wrap=True)
