"""The command `sync`: send MLflow what it could not take while it was away."""

from typing import Annotated

import typer

from pipelines.commands.common import console
from pipelines.place import here


def sync(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="One run; all that have something left.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Wait at most so long for the server, per run.")] = 60.0,
) -> None:
    """Send MLflow, in order, what training logged here while the server was away; nothing is sent twice.

    What pods of a cluster could not send lies in their durable copy, where their evaluation looks for it.
    """
    place = here()
    place.prepare()
    from pipelines.runs import load_run, load_runs
    from pipelines.stacks import activate
    from srpo.errors import BusyError, UnreachableError
    from srpo.outbox import unsent
    from srpo.tracking import Tracker

    records = [load_run(place, run)] if run else load_runs(place)
    waiting = [record for record in records if unsent(record.training)]
    if running := [record.name for record in waiting if record.actual_state == "running"]:
        raise BusyError(f"run {running[0]} is still running and sends its own entries; wait for it, or stop it")
    for record in waiting:
        activate(place, record.stack)  # with its server's credentials
        if left := Tracker(record.tracked, record.training).close(seconds):
            raise UnreachableError(f"MLflow has not taken the last {left} entries of {record.name}; try again later")
        console.print(f"{record.name}: MLflow has everything")
    if not waiting:
        console.print("nothing is waiting here: MLflow has everything")
    if far := [record.name for record in records if record.stack and not record.training.exists()]:
        console.print(f"not looked at, because pods have written them: {', '.join(far)}", soft_wrap=True)
