"""On a real cluster, the one of KUBECONFIG: the stack `kubernetes`, registered there, with the site's variables.

It was never run against one yet. It needs what infra/README.md asks for before `stack up kubernetes`, and a login at
ZenML's server (ZENML_STORE_URL, ZENML_STORE_API_KEY).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cluster.stack_files import read_stack
from tests.conftest import SHORT

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("KUBECONFIG" not in os.environ, reason="KUBECONFIG names no cluster"),
]
SETTINGS = [part for override in SHORT for part in ("--set", override)]


def call(folder: Path, *arguments: str) -> str:
    """Output of `run_pipeline.py` in a folder of its own; it has to succeed."""
    command = [sys.executable, str(ROOT / "run_pipeline.py"), *arguments]
    ended = subprocess.run(
        command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


@pytest.fixture(scope="module")
def stack_up(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What registering the stack says, which asks every component."""
    return call(tmp_path_factory.mktemp("stack"), "stack", "up", "kubernetes")


def test_the_components_of_the_stack_are_well(stack_up: str) -> None:
    assert stack_up.count(": well") == len(read_stack("kubernetes").components)


def test_the_five_steps_run_in_pods_and_a_version_is_registered(stack_up: str, tmp_path: Path) -> None:
    output = call(tmp_path, "run", "--config", str(ROOT / "configs/shapes.yaml"), *SETTINGS, "--stack", "kubernetes")
    assert "register completed" in output and "registered" in output
    assert "done" in call(tmp_path, "status")
    assert list(tmp_path.glob(".srpo/runs/*/evaluation/report.html")), "brought from the pod's disk"
