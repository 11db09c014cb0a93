"""Around a step's one call into srpo: say that it started, note its time, end so that a scheduler understands."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile

from rich.console import Console
from zenml import get_step_context, log_metadata
from zenml.client import Client
from zenml.enums import ExecutionStatus

from srpo.errors import EXIT_PERMANENT, KnownError, memory_needed
from srpo.steps import STEPS

SECONDS = "seconds"
ERROR = "error: "
"""What the line of a pod's log begins with that says why it ended."""
console = Console()


@contextmanager
def own_call(step: str) -> Iterator[None]:
    """Announce the step; log its seconds as ZenML metadata when it succeeds.

    In a pod, what trying again cannot mend ends it with the exit code that says so.
    """
    for earlier in _reused_before(step):
        console.print(f"{_title(earlier)}\n    [green]reused[/] from an earlier run")
    console.print(_title(step))
    started = time.monotonic()
    remote = _on_a_cluster()
    try:
        with memory_needed():
            yield
    except KnownError as error:
        if not remote or error.exit_code != EXIT_PERMANENT:
            raise
        say(error)
        sys.exit(error.exit_code)
    seconds = time.monotonic() - started
    log_metadata({SECONDS: seconds})
    console.print(f"    [green]done[/] in {seconds:.1f} s")


def say(error: KnownError) -> None:
    """Whole, on one line, for whoever reads the pod's log."""
    print(f"{ERROR}{error}", flush=True)  # noqa: T201


def _on_a_cluster() -> bool:
    """Whether this step has a pod of its own, which then gets the credentials of the stack's MLflow."""
    stack = Client().active_stack
    if stack.orchestrator.config.is_remote and stack.experiment_tracker:
        stack.experiment_tracker.configure_mlflow()
    return bool(stack.orchestrator.config.is_remote)


def _title(step: str) -> str:
    number = list(STEPS).index(step) + 1
    return f"[bold cyan]{number}/{len(STEPS)} {step}[/]  [dim]{STEPS[step].does}[/]"


def _reused_before(step: str) -> list[str]:
    """The steps right before this one that ZenML took from its cache; they announce nothing themselves."""
    runs = get_step_context().pipeline_run.steps
    cached = {name for name, run in runs.items() if run.status == ExecutionStatus.CACHED}
    before = list(STEPS)[: list(STEPS).index(step)]
    return list(takewhile(cached.__contains__, reversed(before)))[::-1]
