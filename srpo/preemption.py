"""SIGTERM, which a scheduler sends before it takes the machine away: noticed between batches, by all processes.

The handler only notes the time; what has begun of an update is dropped, and done again when the run goes on.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator


@contextmanager
def on_sigterm(handler: Callable[..., None]) -> Iterator[None]:
    """Handle SIGTERM so meanwhile; elsewhere than in the main thread, which alone may, it acts as before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Preemption:
    """Whether this training was told to stop."""

    def __init__(self) -> None:
        self.since: float | None = None
        """When it, or first heard that another process, was (`time.monotonic`)."""

    @contextmanager
    def noticed(self) -> Iterator[None]:
        """Notice SIGTERM meanwhile."""
        with on_sigterm(self._note):
            yield

    def requested(self, accelerator: Accelerator) -> bool:
        """Whether any process was told to; the same on all."""
        told = self.since is not None
        if accelerator.num_processes > 1:
            votes = torch.tensor([float(told)], device=accelerator.device)
            told = bool(accelerator.reduce(votes, "sum").item())
        if told:
            self._note()
        return told

    def seconds_left(self, grace: float) -> float:
        """Of the time between SIGTERM, which was noticed, and the kill."""
        assert self.since is not None
        return max(0.0, grace - (time.monotonic() - self.since))

    def _note(self, *_: object) -> None:
        self.since = self.since or time.monotonic()
