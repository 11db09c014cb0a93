"""Around a step's one call into srpo: say that it started, note how long it took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile

from rich.console import Console
from zenml import get_step_context, log_metadata
from zenml.enums import ExecutionStatus

from srpo.plan import STEPS

SECONDS = "seconds"
console = Console()


@contextmanager
def own_call(step: str) -> Iterator[None]:
    """Announce the step; log its seconds as ZenML metadata when it succeeds."""
    for earlier in _reused_before(step):
        console.print(f"{_title(earlier)}\n    [green]reused[/] from an earlier run")
    console.print(_title(step))
    started = time.monotonic()
    yield
    seconds = time.monotonic() - started
    log_metadata({SECONDS: seconds})
    console.print(f"    [green]done[/] in {seconds:.1f} s")


def _title(step: str) -> str:
    number = list(STEPS).index(step) + 1
    return f"[bold cyan]{number}/{len(STEPS)} {step}[/]  [dim]{STEPS[step]}[/]"


def _reused_before(step: str) -> list[str]:
    """The steps right before this one that ZenML took from its cache; they announce nothing themselves."""
    runs = get_step_context().pipeline_run.steps
    cached = {name for name, run in runs.items() if run.status == ExecutionStatus.CACHED}
    before = list(STEPS)[: list(STEPS).index(step)]
    return list(takewhile(cached.__contains__, reversed(before)))[::-1]
