"""Commands that ask people: `study new` writes a page of blind pairs, `study merge` adds up what they saved."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.common import JsonOption, RegistryOption, console, registry_uri
from pipelines.place import here
from srpo.errors import ConfigError

if TYPE_CHECKING:
    from srpo.evaluation.study.pairs import Pairs
    from srpo.report.schema import Study

app = typer.Typer(no_args_is_help=True, help="Ask people, blind, which of two models they prefer.")

SourceArgument = Annotated[
    str, typer.Argument(help="A folder of `generate`, or a run, registered model or report as in `compare`.")
]


@app.command()
def new(
    reference: SourceArgument,
    candidate: SourceArgument,
    out: Annotated[Path, typer.Option(help="The page, a new file; its key is written beside it.")] = Path("study.html"),
    num_pairs: Annotated[int | None, typer.Option(min=1, help="Pairs to ask about; all if not given.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Names of the pictures; drawn anew if not given.")] = None,
    stack: RegistryOption = None,
) -> None:
    """Write one page that works offline, for any number of voters, and the key that tells which picture is whose.

    Send the page, keep the key. Of reports the pictures are thumbnails; folders of `generate` give larger ones.
    """
    if out.suffix != ".html":
        raise ConfigError(f"--out {out}: the page is one .html file")
    place = here()
    place.prepare()
    from srpo.evaluation.study import write_study

    with tempfile.TemporaryDirectory() as scratch, console.status("writing the page"):
        key, key_path = write_study(_pairs(reference, candidate, Path(scratch), stack), out, num_pairs, seed)
    console.print(f"{len(key.pairs)} pairs; send the page, keep the key: {key_path}", soft_wrap=True, highlight=False)
    typer.echo(out)


@app.command()
def merge(
    votes: Annotated[list[Path], typer.Argument(help="Files that voters saved.")],
    key: Annotated[Path, typer.Option(help="The key that `study new` wrote.")],
    report: Annotated[
        str | None, typer.Option(metavar="RUN|FOLDER", help="Put the result into this report and its page.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Even if the report holds votes of voters that these files lack.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Add up votes: how often the second model was preferred to the first, with intervals; every file is accounted for.

    The same vote in two files counts once; where a voter's files contradict each other, the later vote counts.
    """
    place = here()
    place.prepare()
    from pipelines.reports import find_entries, log_again
    from srpo.evaluation.study.merge import add_to_report
    from srpo.evaluation.study.votes import load_key, merge_votes

    opened = load_key(key)
    study = merge_votes(votes, opened)
    if report:
        with tempfile.TemporaryDirectory() as scratch:
            (entry,) = find_entries(place, [report], Path(scratch), registry_uri(place, None))
            if entry.folder.is_relative_to(scratch):
                raise ConfigError(f"--report {report} lies in MLflow; give the run's name, or the folder of its report")
        study, page = add_to_report(study, opened, entry.folder, replace)
        log_again(place, study, entry.folder)
        typer.echo(f"report: {page}", err=True)
    if as_json:
        typer.echo(study.model_dump_json(indent=1))
    else:
        _show(study)


def _pairs(reference: str, candidate: str, scratch: Path, stack: str | None) -> "Pairs":
    from pipelines.reports import find_entries
    from srpo.evaluation.study import pairs_of_entries, pairs_of_folders

    folders = [Path(reference), Path(candidate)]
    if all(folder.is_dir() and any(folder.glob("*.png")) for folder in folders):
        return pairs_of_folders(*folders)
    place = here()
    return pairs_of_entries(*find_entries(place, [reference, candidate], scratch, registry_uri(place, stack)))


def _show(study: "Study") -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("question", escape(study.reference), "neither", escape(study.candidate), "preferred", box=None)
    for row in study.preferences:
        rate = f"{row.rate:.0%} ({row.lower:.0%} to {row.upper:.0%})"
        table.add_row(row.question, str(row.for_reference), str(row.ties), str(row.for_candidate), rate)
    console.print(table)
    for ballot in study.ballots:
        note = f": {ballot.note}" if ballot.note else ""
        console.print(escape(f"{ballot.file}: {ballot.outcome}, {ballot.num_votes} votes{note}"), soft_wrap=True)
