"""Commands that show what there is: `status`, `ui`, `doctor`."""

import os
import sys
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from pipelines.commands.common import JsonOption, console, registered, registry_uri
from pipelines.place import CODE, here
from srpo.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.runs import RunRecord


def status(
    as_json: JsonOption = False,
    stack: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Also what other machines have started on this stack; versions are its registry's."
        ),
    ] = None,
) -> None:
    """List runs with their state and verdict, registered models with aliases and gates, and who became champion why."""
    place = here()
    place.prepare()
    from pipelines.runs import load_runs
    from pipelines.status import show_status, status_json

    if name := registered(stack):
        from pipelines.elsewhere import adopt

        adopt(place, name)
    _ask_clusters([record for record in load_runs(place) if record.stack and record.state != "done"])
    uri = registry_uri(place, stack)  # last: it leaves the login for that registry in the environment
    if as_json:
        typer.echo(status_json(place, uri))
    else:
        show_status(console, place, uri)


def _ask_clusters(records: "list[RunRecord]") -> None:
    """Bring the records of runs on clusters up to date; where one does not answer, its runs stay as they were.

    That is said of those that are at work: a stack of old failures may be gone.
    """
    for record in records:
        from pipelines.execute import refreshed

        try:
            refreshed(here(), record)
        except Exception as error:
            if record.state != "running":
                continue
            problem = f"{type(error).__name__}: {error}"
            print(f"{record.name}: {record.stack} does not answer ({problem})", file=sys.stderr)  # noqa: T201


def ui(port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 5000) -> None:
    """Serve MLflow's page for the runs of this folder, until Ctrl-C."""
    place = here()
    if not place.mlflow_database.exists():
        raise ConfigError(f"nothing to show: no runs in {place.root} yet; start one with `run`")
    place.prepare()
    from srpo.doctor import port_is_free

    if not port_is_free(port):
        raise ConfigError(f"port {port} is in use; choose another with --port")
    console.print(f"MLflow's page: http://127.0.0.1:{port}   (Ctrl-C ends it)")
    _serve(place.mlflow_uri, place.mlflow_artifacts_uri, port)


def _serve(uri: str, artifacts_uri: str, port: int) -> NoReturn:
    """Become the server of MLflow's own page for a local store, until interrupted."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", uri, "--default-artifact-root", artifacts_uri]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}
    os.execve(sys.executable, [*command, *stores, "--uvicorn-opts", "--log-level critical"], os.environ | quiet)


def doctor() -> None:
    """Print what is installed and how this machine looks: one block to paste into a bug report."""
    here().prepare()
    from srpo.doctor import examine

    for subject, finding in examine(here().root, CODE / "constraints.txt"):
        typer.echo(f"{subject:>16}: {finding}")
