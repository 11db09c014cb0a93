"""What several tests need: the Shapes config at a very small length, and one real run of the whole pipeline with it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

os.environ |= {"HF_HUB_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}

if TYPE_CHECKING:
    from pipelines.execute import Outcome
    from pipelines.place import Place

CONFIG = Path(__file__).parent.parent / "configs" / "shapes.yaml"
SHORT = (
    "train.num_updates=2",
    "train.batch_size=2",
    "train.save_every=1",
    "rollout.num_steps=2",
    "monitor.every=1",
    "monitor.num_images=4",
    "monitor.strip_images=2",
    "evaluation.num_steps=2",
    "evaluation.num_prompts=4",
    "evaluation.seeds_per_prompt=2",
    "evaluation.num_report_images=2",
    "evaluation.num_resamples=100",
)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Place]":
    """The working folder of all runs in this process: ZenML reads its settings once per process."""
    from pipelines.place import here

    before, environment = Path.cwd(), dict(os.environ)
    os.chdir(tmp_path_factory.mktemp("work"))
    place = here()
    place.prepare()
    yield place
    os.chdir(before)
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture(scope="session")
def finished(place: "Place") -> "Outcome":
    """The whole pipeline, two updates long."""
    from srpo.config import load_config
    from tests.runs import run

    return run(place, load_config(CONFIG, SHORT))
