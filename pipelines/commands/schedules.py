"""Commands for scheduled retraining: `schedule create`, `list`, `pause`, `resume`, `delete`, `run-now`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from pipelines.commands.common import DEFAULT_CONFIG, ConfigOption, SetOption, console, load, registered, zenml_client
from srpo.errors import ConfigError

if TYPE_CHECKING:
    from zenml.client import Client

app = typer.Typer(
    no_args_is_help=True,
    help="Retraining at set times: a run that starts from the champion, and only where there is new data.",
)
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="`schedule list` shows them.")]


@app.command()
def create(
    cron: Annotated[str, typer.Option(help="Minute, hour, day of month, month, day of week: '0 3 * * 0'.")],
    config: ConfigOption = None,
    set_: SetOption = None,
    stack: Annotated[str | None, typer.Option(help="A stack of infra/stacks that `stack up` registered.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the schedule.", show_default="the experiment's")] = None,
) -> None:
    """Look for new data at these times, and train where there is some; a local stack gets a crontab line."""
    from pipelines.cron import checked_cron

    cron, settings = checked_cron(cron), load(config, tuple(set_ or ()))
    name_there, client = registered(stack), zenml_client()
    if name_there is None or not _can_schedule(client, name_there):
        console.print(
            "a local stack has no scheduler; let cron run it: put this line into `crontab -e`", soft_wrap=True
        )
        typer.echo(_crontab(cron, config, set_, stack))
        return
    from pipelines.new_data import from_champion
    from pipelines.schedules import create as create_schedule

    made = create_schedule(client, name or settings.name, cron, from_champion(settings), name_there)
    console.print(f"schedule [bold]{made.name}[/]: {made.cron_expression} (UTC) on {name_there}", highlight=False)


@app.command("list")
def list_() -> None:
    """Show all schedules."""
    client = zenml_client()
    from pipelines.schedules import planned, schedules

    for schedule in schedules(client):
        state = "active" if schedule.active else "paused"
        try:
            config, stack = planned(client, schedule)
            runs = f"on {stack}, trains {config.registry.model_name}"
        except ConfigError as error:
            runs = escape(str(error))
        text = f"{schedule.cron_expression}, {state}, {runs}"
        console.print(f"[bold]{schedule.name}[/]: {text}", soft_wrap=True, highlight=False)


@app.command()
def pause(name: NameArgument) -> None:
    """Start no more runs until `resume`; one that is running goes on."""
    client = zenml_client()
    from pipelines.schedules import set_active

    set_active(client, name, False)


@app.command()
def resume(name: NameArgument) -> None:
    """Start runs again."""
    client = zenml_client()
    from pipelines.schedules import set_active

    set_active(client, name, True)


@app.command()
def delete(name: NameArgument) -> None:
    """Remove a schedule; its runs and versions stay."""
    client = zenml_client()
    from pipelines.schedules import delete as delete_schedule

    delete_schedule(client, name)


@app.command("run-now")
def run_now(name: NameArgument) -> None:
    """Do at once what the schedule does at its times."""
    client = zenml_client()
    from pipelines.schedules import run_now as run_schedule_now

    run_schedule_now(client, name)


def _can_schedule(client: "Client", stack: str) -> bool:
    from pipelines.schedules import active

    with active(client, stack):
        return bool(client.active_stack.orchestrator.config.is_schedulable)


def _crontab(cron: str, config: list[Path] | None, set_: list[str] | None, stack: str | None) -> str:
    """The line that does the same where ZenML has no scheduler."""
    from pipelines.cron import crontab_line
    from steps.retrain import retraining_command

    files = [option for path in config or [DEFAULT_CONFIG] for option in ("--config", str(Path(path).resolve()))]
    changes = [option for change in set_ or () for option in ("--set", change)]
    return crontab_line(cron, Path.cwd().resolve(), retraining_command(stack, *files, *changes))
