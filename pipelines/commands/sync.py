"""The command `sync`: send MLflow what it could not take while it was away."""

from typing import Annotated

import typer

from pipelines.commands.common import console
from pipelines.place import here


def sync(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="One run; all that have something left.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Wait at most so long for the server, per run.")] = 60.0,
) -> None:
    """Send MLflow, in order, what training logged while the server was away; nothing is sent twice."""
    place = here()
    place.prepare()
    from pipelines.runs import load_run, load_runs
    from pipelines.stacks import activate
    from srpo.errors import BusyError, UnreachableError
    from srpo.outbox import unsent
    from srpo.tracking import Tracker

    waiting = [record for record in ([load_run(place, run)] if run else load_runs(place)) if unsent(record.training)]
    if running := [record.name for record in waiting if record.actual_state == "running"]:
        raise BusyError(f"run {running[0]} is still running and sends its own entries; wait for it, or stop it")
    for record in waiting:
        activate(place, record.stack)  # with its server's credentials
        if left := Tracker(record.tracked, record.training).close(seconds):
            raise UnreachableError(f"MLflow has not taken the last {left} entries of {record.name}; try again later")
        console.print(f"{record.name}: MLflow has everything")
    if not waiting:
        console.print("nothing is waiting: MLflow has everything")
