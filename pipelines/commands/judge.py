"""Commands that measure models which exist already: `evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.common import (
    BaseOption,
    ConfigOption,
    RegistryOption,
    SetOption,
    console,
    load,
    refuse_demo_settings,
    registry_uri,
)
from pipelines.place import here
from srpo.sample_size import MIN_PROMPTS
from srpo.wording import number, signed, span

if TYPE_CHECKING:
    from srpo.report.schema import Report


def evaluate(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL", help="As --model of `generate`; the first is the reference.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for report.html, report.json and pictures.")],
    base: BaseOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    prompts: Annotated[
        str | None, typer.Option(metavar="FILE", help="Prompts instead of the run file's held-out ones.")
    ] = None,
    num_prompts: Annotated[
        int | None, typer.Option(min=MIN_PROMPTS, help="Use so many of them, of each category its share.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Images per prompt.")] = None,
    stack: RegistryOption = None,
) -> None:
    """Draw the same prompts and noise with any number of models; metrics with intervals, table, report.

    Settings of evaluation, reward, prompts and image size come from the run file. What was drawn and scored before
    with the same settings is taken from .srpo/scores.
    """
    given = {"prompts.held_out": prompts, "evaluation.num_prompts": num_prompts, "evaluation.seeds_per_prompt": seeds}
    overrides = [f"{key}={value}" for key, value in given.items() if value is not None]
    settings = load(config, (*(set_ or ()), *overrides))
    place = here()
    _, *judges = settings.inputs  # not the run file's model
    place.prepare(*models, *judges, base or "")
    from srpo.alone import reading
    from srpo.evaluation.lineup import evaluate_models
    from srpo.evaluation.progress import terminal_progress
    from srpo.reference import source_of
    from srpo.report.page import check_out

    check_out(out, "evaluate")
    uri = registry_uri(place, stack)
    if not config:
        for model in models:
            if source := source_of(model, uri, base):
                refuse_demo_settings(model, source)
    with reading(place.embeddings), terminal_progress() as progress:
        report = evaluate_models(models, settings, out, place.embeddings, place.scores, uri, base, progress)
    _show(report)
    typer.echo(out / "report.html")


def _show(report: "Report") -> None:
    """Each metric of each model: its level and interval, and of all but the first also the change against that one."""
    from rich.markup import escape
    from rich.table import Table

    changes = {contrast.candidate: contrast.metrics for contrast in report.contrasts}
    table = Table("metric", "model", "level", "interval", "change", "interval", box=None)
    for name in report.models[0].metrics:
        for model in report.models:
            level, row = model.metrics[name], changes.get(model.label, {}).get(name)
            moved = (signed(row.change), span(row.lower, row.upper)) if row else ()
            cells = number(level.value), f"{number(level.lower)} to {number(level.upper)}", *moved
            table.add_row("" if row else name, escape(model.label), *cells)
    console.print(table)
    console.print(escape(report.reason), soft_wrap=True, highlight=False)
