"""Runs of the pipeline inside a test."""

import time

from pipelines.execute import execute, new_run
from pipelines.outcome import Outcome
from pipelines.place import Place
from srpo.config import RunConfig
from srpo.plan import STEPS, make_plan


def run(place: Place, config: RunConfig, first: str = "download", last: str = "register") -> Outcome:
    """Plan and execute the steps from `first` to `last`."""
    names = list(STEPS)
    steps = tuple(names[names.index(first) : names.index(last) + 1])
    return execute(place, new_run(place, make_plan(config, place.root, steps)), time.monotonic())
