"""The terminal's view of training: a live bar where there is a terminal, a line per measurement everywhere."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from srpo.config import RunConfig

SHOWN = ("relative", "reward", "content", "luminance", "saturation", "spread")


class TrainingProgress:
    """Progress of one training run."""

    def __init__(self, config: RunConfig, resume_at: int) -> None:
        columns = (
            TextColumn("[bold]train[/]"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("updates"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self.bar = Progress(*columns, console=Console(stderr=True))
        self.task = self.bar.add_task("train", total=config.train.num_updates, completed=resume_at, note="")
        if resume_at:
            self.bar.console.print(f"resuming after update {resume_at}")
        self.bar.start()

    def update(self, update: int, metrics: Mapping[str, float]) -> None:
        """One update is done."""
        note = f"loss {metrics['loss']:.3f}  {metrics['images_per_second']:.1f} images/s"
        self.bar.update(self.task, completed=update, note=note)

    def measurement(self, entry: Mapping[str, Any]) -> None:
        """Held-out scores, as the journal has them, and what is wrong with them."""
        what = f"the {entry['of']}   " if "of" in entry else f"update {entry['update']:>4}"
        scores = "  ".join(f"{name} {entry[name]:.3f}" for name in SHOWN if name in entry)
        warning = f"  [yellow]{'; '.join(entry['violations'])}[/]" if entry["violations"] else ""
        self.bar.console.print(f"{what}  {scores}{warning}", highlight=False, soft_wrap=True)

    def stopped(self, reason: str) -> None:
        """Training ends before its last update."""
        self.bar.console.print(f"[yellow]stopped:[/] {reason}", highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Stop the live bar."""
        self.bar.stop()
