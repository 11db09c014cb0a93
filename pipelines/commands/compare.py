"""Commands that set models side by side which were evaluated apart: `compare`."""

import hashlib
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipelines.commands.common import RegistryOption, console, registry_uri
from pipelines.place import here
from srpo.wording import number, signed, span

if TYPE_CHECKING:
    from srpo.report.schema import Report

LONGEST = 200  # bytes of a folder's name; file systems take 255
ReportsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="A",
        help="Run names, registered models (NAME@ALIAS, models:/NAME/VERSION), MLflow run ids, report.json files; "
        "#LABEL picks a model of a report that is not the judged one (RUN#base).",
    ),
]


def compare(
    reports: ReportsArgument,
    out: Annotated[Path | None, typer.Option(help="Folder for the report; .srpo/comparisons/... if not given.")] = None,
    on: Annotated[
        Literal["common"] | None,
        typer.Option(help="With `common`: compare on the prompts and seeds that all have."),
    ] = None,
    despite: Annotated[
        list[str] | None,
        typer.Option(metavar="SETTING", help="Compare although this setting differs; may be repeated."),
    ] = None,
    stack: RegistryOption = None,
) -> None:
    """Write the report over models that were evaluated apart; the first is the one that the others are compared with.

    Refused, with what differs, if they were not drawn for the same prompts and seeds with the same settings.
    """
    place = here()
    place.prepare()
    from pipelines.reports import find_entries
    from srpo.evaluation.comparison import write_comparison

    with tempfile.TemporaryDirectory() as scratch, console.status("comparing"):
        entries = find_entries(place, reports, Path(scratch), registry_uri(place, stack))
        folder = out or place.comparisons / _folder_name([entry.name for entry in entries])
        report = write_comparison(entries, folder, on == "common", despite or ())
    _show(report)
    typer.echo(folder / "report.html")


def _folder_name(names: Sequence[str]) -> str:
    """All names as one that file systems take, `+` for `#`; where it had to be cut, a hash tells it from others."""
    name = re.sub(r"[^\w.@+-]+", "-", "--".join(names).replace("#", "+"))
    start = name.encode()[:LONGEST].decode(errors="ignore")
    return name if start == name else f"{start}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _show(report: "Report") -> None:
    from rich.markup import escape
    from rich.table import Column, Table

    for contrast in report.contrasts:
        models = [Column(escape(name), overflow="fold") for name in (contrast.reference, contrast.candidate)]
        table = Table("metric", *models, "change", "interval", box=None)
        for name, row in contrast.metrics.items():
            levels = number(row.reference), number(row.candidate)
            table.add_row(name, *levels, signed(row.change), span(row.lower, row.upper))
        console.print(table)
    console.print(escape(report.reason), soft_wrap=True, highlight=False)
