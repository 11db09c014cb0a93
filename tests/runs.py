"""Runs of the pipeline, and of its command line, inside a test."""

import time

import pytest

import run_pipeline
from pipelines.execute import execute, new_run
from pipelines.outcome import Outcome
from pipelines.place import Place
from srpo.config import RunConfig
from srpo.plan import make_plan
from srpo.steps import STEPS


def run(place: Place, config: RunConfig, first: str = "download", last: str = "register") -> Outcome:
    """Plan and execute the steps from `first` to `last`."""
    names = list(STEPS)
    steps = tuple(names[names.index(first) : names.index(last) + 1])
    return execute(place, new_run(place, make_plan(config, place.root, steps)), time.monotonic())


def call(*arguments: str) -> int:
    """Exit code of the command line, run in this process."""
    with pytest.raises(SystemExit) as ended:
        run_pipeline.main(list(arguments))
    return int(ended.value.code or 0)
