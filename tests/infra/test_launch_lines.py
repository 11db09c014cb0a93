"""The lines that start training on hosts: the same job file, the same exit codes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from srpo.artifacts import TrainJob
from srpo.errors import EXIT_PERMANENT
from srpo.launch import write_job
from tests.infra.loopback import free_port
from tests.infra.manifests import INFRA, ROOT, run_tool
from tests.jobs import place
from tests.test_launch import assert_close_weights

NODE = INFRA / "launch/node.sh"
SCRIPTS = sorted(path for path in (INFRA / "launch").iterdir())


def start_node(folder: Path, **variables: str) -> subprocess.Popen[str]:
    """One node, on processors, with this environment's torchrun."""
    own = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PROCESSES_PER_NODE": "1",
    }
    return subprocess.Popen(
        [str(NODE), str(folder)], env=os.environ | own | variables, stderr=subprocess.PIPE, text=True
    )


def test_an_error_that_stays_is_42_through_torchrun(job: TrainJob, tmp_path: Path) -> None:
    write_job(place(job, tmp_path, num_processes=2))
    node = start_node(tmp_path, MAIN_PORT=free_port())
    _, errors = node.communicate()
    assert node.returncode == EXIT_PERMANENT
    assert "train.num_processes is 2, but 1 were started" in errors


@pytest.mark.slow
def test_another_error_may_be_tried_again(tmp_path: Path) -> None:
    node = start_node(tmp_path / "nothing-here", MAIN_PORT=free_port())
    node.communicate()
    assert node.returncode not in (0, EXIT_PERMANENT)


@pytest.mark.slow
def test_two_nodes_train_as_one_process(job: TrainJob, whole: Path, tmp_path: Path) -> None:
    """As Slurm would start them, on loopback: equal to rounding."""
    write_job(place(job, tmp_path, num_processes=2, accumulation=1))
    port = free_port()
    nodes = [start_node(tmp_path, SLURM_JOB_NUM_NODES="2", SLURM_NODEID=str(rank), MAIN_PORT=port) for rank in range(2)]
    assert [node.communicate() and node.returncode for node in nodes] == [0, 0]
    assert_close_weights(whole, tmp_path, 6, 1e-5)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(script: Path) -> None:
    """Plain sh, executable, and stopping with a word about usage where the folder is missing."""
    assert os.access(script, os.X_OK) and script.read_text().startswith("#!/bin/sh\n")
    run_tool("sh", "-n", str(script))
    ended = subprocess.run([str(script)], capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and "usage: " in ended.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    run_tool("shellcheck", str(script))
