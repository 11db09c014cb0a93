"""The lines that start training on hosts: the same job file, the same exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from srpo.artifacts import TrainJob
from srpo.errors import EXIT_PERMANENT, EXIT_RETRY
from srpo.launch import write_job
from srpo.record import read_journal
from tests.infra.loopback import free_port
from tests.infra.manifests import INFRA, ROOT, run_tool
from tests.jobs import place
from tests.processes import heed_ctrl_c
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
        [str(NODE), str(folder)],
        env=os.environ | own | variables,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    )


def test_an_error_that_stays_is_42_through_torchrun(job: TrainJob, tmp_path: Path) -> None:
    write_job(place(job, tmp_path, num_processes=2))
    node = start_node(tmp_path, MAIN_PORT=free_port())
    _, errors = node.communicate()
    assert node.returncode == EXIT_PERMANENT
    assert "train.num_processes is 2, but 1 were started" in errors
    assert "make the job with train.num_processes=1, or start 2" in errors


def test_sigterm_reaches_the_training_through_torchrun(job: TrainJob, tmp_path: Path) -> None:
    write_job(place(job, tmp_path))
    node = start_node(tmp_path, MAIN_PORT=free_port())
    wait_until(lambda: bool(read_journal(tmp_path / "metrics.jsonl")), node)
    node.terminate()
    _, errors = node.communicate(timeout=60)
    assert node.returncode == EXIT_RETRY, errors
    assert json.loads((tmp_path / "error.json").read_text())["kind"] == "PreemptedError"


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something that a process does."""
    while process.poll() is None and not ready():
        time.sleep(0.02)
    assert process.poll() is None, "it ended before"


def start_with(torchrun: str, folder: Path, **variables: str) -> subprocess.Popen[str]:
    """One node with another torchrun, a shell script which finds the folder in FOLDER."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "torchrun").write_text(f"#!/bin/sh\n{torchrun}\n")
    (programs / "torchrun").chmod(0o755)
    return start_node(folder, PATH=f"{programs}{os.pathsep}{os.environ['PATH']}", FOLDER=str(folder), **variables)


@pytest.mark.parametrize("code", [EXIT_PERMANENT, EXIT_RETRY])
def test_the_exit_code_is_that_of_the_error(tmp_path: Path, code: int) -> None:
    error = json.dumps({"kind": "K", "message": 'not "exit_code": 1', "exit_code": code})
    node = start_with(f"echo '{error}' > \"$FOLDER/error.json\"; exit 1", tmp_path)
    assert node.wait(10) == code


def test_the_error_of_an_earlier_attempt_decides_nothing(tmp_path: Path) -> None:
    (tmp_path / "error.json").write_text(json.dumps({"exit_code": EXIT_PERMANENT}))
    assert start_with("exit 1", tmp_path).wait(10) == 1
    assert not (tmp_path / "error.json").exists()


@pytest.mark.parametrize(
    ("processes", "given", "quota", "threads"),
    [
        ("2", "", "max", "3"),
        ("16", "", "max", "1"),
        ("2", "5", "max", "5"),
        ("auto", "", "max", "1"),
        ("2", "", "350000", "2"),
        ("2", "", "900000", "3"),
    ],
)
def test_processes_share_the_cores(tmp_path: Path, processes: str, given: str, quota: str, threads: str) -> None:
    """Of six, or as many as the container may use; without a GPU, `auto` is a process for each."""
    (tmp_path / "bin").mkdir()
    for name, shown in (("nproc", "6"), ("find", ""), ("cat", f"{quota} 100000")):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\necho {shown}\n" if shown else "#!/bin/sh\n")
        (tmp_path / "bin" / name).chmod(0o755)
    node = start_with(
        'echo "$OMP_NUM_THREADS" > "$FOLDER/threads"', tmp_path, OMP_NUM_THREADS=given, PROCESSES_PER_NODE=processes
    )
    assert node.wait(10) == 0 and (tmp_path / "threads").read_text() == f"{threads}\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_training_end_by_itself(tmp_path: Path, number: signal.Signals) -> None:
    """Which may take its time, and whose exit code is the one that counts."""
    stop = "sleep 0.3; exit 3"
    node = start_with(f"trap '{stop}' TERM; touch $FOLDER/started; while :; do sleep 0.05; done", tmp_path)
    wait_until((tmp_path / "started").exists, node)
    node.send_signal(number)
    assert node.wait(10) == 3


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


def test_all_hosts_start_at_once(tmp_path: Path) -> None:
    """pdsh's own limit is 32, and no node goes on before the last one is there."""
    (pdsh := tmp_path / "pdsh").write_text('#!/bin/sh\necho "$@"\n')
    pdsh.chmod(0o755)
    hosts = ",".join(f"host{number}" for number in range(40))
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = [str(INFRA / "launch/ssh.sh"), "FOLDER", hosts]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert shown.startswith("-f 40 ") and f"-w {hosts} ssh" in shown and "NODES=40 NODE_RANK=%n" in shown


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
