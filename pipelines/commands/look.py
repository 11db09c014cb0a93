"""Commands that show what there is: `status`, `ui`, `doctor`."""

from typing import Annotated

import typer

from pipelines.commands.app import ROOT, JsonOption, console
from pipelines.place import here
from srpo.errors import ConfigError


def status(as_json: JsonOption = False) -> None:
    """List runs with their state and verdict, registered models with aliases and gates, and who became champion why."""
    place = here()
    place.prepare()
    from pipelines.status import show_status, status_json

    if as_json:
        typer.echo(status_json(place))
    else:
        show_status(console, place)


def ui(port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 5000) -> None:
    """Serve MLflow's page for the runs of this folder, until Ctrl-C."""
    place = here()
    if not place.mlflow_database.exists():
        raise ConfigError(f"nothing to show: no runs in {place.root} yet; start one with `run`")
    place.prepare()
    from srpo.doctor import port_is_free
    from srpo.tracking import serve_page

    if not port_is_free(port):
        raise ConfigError(f"port {port} is in use; choose another with --port")
    console.print(f"MLflow's page: http://127.0.0.1:{port}   (Ctrl-C ends it)")
    serve_page(place.mlflow_uri, place.mlflow_artifacts_uri, port)


def doctor() -> None:
    """Print what is installed and how this machine looks: one block to paste into a bug report."""
    here().prepare()
    from srpo.doctor import examine

    for subject, finding in examine(here().root, ROOT / "constraints.txt"):
        typer.echo(f"{subject:>16}: {finding}")
