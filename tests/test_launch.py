"""Training as processes of its own: the command people type, killed, resumed, on one and on two processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from srpo import launch
from srpo.artifacts import TrainJob
from srpo.config import TrainConfig, load_config
from srpo.errors import ConfigError, PreemptedError
from srpo.launch import launch_command, launch_environment, launch_training, prepare_job
from srpo.plan import make_plan
from srpo.record import read_journal
from tests.conftest import CONFIG, SHORT
from tests.jobs import assert_same_weights, place, run, weights_of


def start(job: TrainJob) -> subprocess.Popen[bytes]:
    """The command that people type and the pipeline starts, in a process group of its own."""
    path = Path(job.output_dir) / "job.json"
    path.write_text(job.model_dump_json())
    environment = launch_environment(job.config) | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(launch_command(job.config.train, path), env=environment, start_new_session=True)


def kill_at(job: TrainJob, update: int) -> None:
    """Start the training and `kill -9` it as soon as an update is in its journal."""
    process = start(job)
    journal = Path(job.output_dir) / "metrics.jsonl"
    while process.poll() is None and not any(entry["update"] >= update for entry in read_journal(journal)):
        time.sleep(0.02)
    assert process.poll() is None, "it ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def assert_close_weights(first: Path, second: Path, update: int, tolerance: float) -> None:
    expected, got = weights_of(first, update), weights_of(second, update)
    assert expected.keys() == got.keys()
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], atol=tolerance, rtol=0)


def assert_same_draws(first: Path, second: Path) -> None:
    """All updates of two runs trained on the same places of the sigma grid."""
    drawn = [
        [{key: entry[key] for key in entry if "/sigma_" in key} for entry in read_journal(folder / "metrics.jsonl")]
        for folder in (first, second)
    ]
    assert drawn[0] == [pytest.approx(entry, rel=1e-6) for entry in drawn[1]]


def test_kill_9_and_resume_gives_the_same_weights(
    job: TrainJob, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in mid-update, where accelerate has settings of the user's; the whole run is one of this process."""
    (settings := tmp_path / "cache/accelerate/default_config.yaml").parent.mkdir(parents=True)
    settings.write_text("compute_environment: LOCAL_MACHINE\ndistributed_type: DEEPSPEED\nnum_processes: 8\n")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    killed = place(job, tmp_path)
    kill_at(killed, 3)
    assert run(killed).num_updates == 6
    assert_same_weights(whole, tmp_path, 6)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [4.0, 7.0, 8.0, 9.0, 10.0, 11.0])
def test_kill_9_at_any_time(job: TrainJob, whole: Path, tmp_path: Path, seconds: float) -> None:
    """Wherever the clock happens to strike: start-up, rollout, checkpoint, export."""
    killed = place(job, tmp_path)
    process = start(killed)
    time.sleep(seconds)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert start(killed).wait() == 0
    assert_same_weights(whole, tmp_path, 6)


def test_the_launcher_passes_errors_on(job: TrainJob, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    with pytest.raises(ConfigError, match="was made with other settings in train.learning_rate; resume with the same"):
        launch_training(place(job, tmp_path, learning_rate=1.0))


def test_the_error_of_an_earlier_attempt_decides_nothing(
    job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "error.json").write_text(json.dumps({"kind": "ConfigError", "message": "mended since"}))
    monkeypatch.setattr(launch, "launch_command", lambda *_: [sys.executable, "-c", "raise SystemExit(1)"])
    with pytest.raises(RuntimeError, match="training ended with exit code 1; resume it"):
        launch_training(place(job, tmp_path))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "expandable_segments:True"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, "backend:native"),
        ({"PYTORCH_ALLOC_CONF": "backend:native"}, "backend:native"),
    ],
)
def test_memory_of_a_gpu_is_reserved_in_segments_that_grow_unless_somebody_says_otherwise(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: str
) -> None:
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert launch_environment(job.config)["PYTORCH_ALLOC_CONF"] == expected


@pytest.fixture
def bears_sigterm() -> Iterator[None]:
    """SIGTERM does not end the tests where it comes before what they test handles it."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    yield
    signal.signal(signal.SIGTERM, before)


def launched(monkeypatch: pytest.MonkeyPatch, code: str, num_processes: int = 1) -> None:
    """Launch this program instead of a training; several by torchrun."""
    command = launch_command(TrainConfig(num_processes=num_processes), Path())
    interpreter = ["--no-python", sys.executable] if num_processes > 1 else []
    command = [*command[: command.index("-m", 2 * (num_processes > 1))], *interpreter, "-c", code]
    monkeypatch.setattr(launch, "launch_command", lambda *_: command)


@pytest.mark.usefixtures("bears_sigterm")
@pytest.mark.parametrize("num_processes", [1, 2])
def test_told_to_stop_before_it_can_say_so_it_was_preempted(
    job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_processes: int
) -> None:
    """Told again and again, while it does not handle SIGTERM yet."""
    monkeypatch.setenv("TOLD", str(os.getpid()))
    launched(
        monkeypatch,
        "import os, time\nwhile True: os.kill(int(os.environ['TOLD']), 15); time.sleep(0.1)",
        num_processes,
    )
    with pytest.raises(PreemptedError, match="was told to stop, and has"):
        launch_training(place(job, tmp_path))


@pytest.mark.usefixtures("bears_sigterm")
def test_told_to_stop_when_training_has_ended_nothing_else_begins(
    job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it copies its last checkpoint and exports, which it does not leave off."""
    monkeypatch.setenv("TOLD", str(os.getpid()))
    ignoring = "import os, signal, time; signal.signal(15, signal.SIG_IGN); os.kill(int(os.environ['TOLD']), 15)"
    launched(monkeypatch, f"{ignoring}; time.sleep(0.5)")
    with pytest.raises(PreemptedError, match="told to stop when training had ended"):
        launch_training(place(job, tmp_path))


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(("grace", "interruptions"), [(1.0, 1), (600.0, 2)])
def test_an_interruption_leaves_no_process_behind(
    job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grace: float, interruptions: int
) -> None:
    """Not even such as do not heed it: torchrun kills them when their time is over, and a second one kills all."""
    storage = job.config.storage.model_copy(update={"grace_s": grace})
    job = job.model_copy(update={"config": job.config.model_copy(update={"storage": storage})})
    monkeypatch.setenv("PIDS", str(pids := tmp_path / "pids"))
    pids.mkdir()
    deaf = "signal.signal(2, signal.SIG_IGN); open(f\"{os.environ['PIDS']}/{os.getpid()}\", 'w'); time.sleep(600)"
    launched(monkeypatch, f"import os, signal, time; {deaf}", 2)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt() -> None:
        while len(list(pids.iterdir())) < 2:
            time.sleep(0.05)
        for _ in range(interruptions):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1.0)

    try:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            launch_training(place(job, tmp_path))
    finally:
        signal.signal(signal.SIGINT, before)
    until = time.monotonic() + 10  # a killed process is not gone at once
    while any(is_alive(int(path.name)) for path in pids.iterdir()):
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.usefixtures("bears_sigterm")
def test_sigterm_reaches_a_training_that_has_no_launcher(job: TrainJob, tmp_path: Path) -> None:
    def tell() -> None:
        while not read_journal(tmp_path / "metrics.jsonl"):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=tell, daemon=True).start()
    with pytest.raises(PreemptedError, match=r"told to stop \(SIGTERM\) after update \d+, which is saved"):
        launch_training(place(job, tmp_path, num_updates=100, schedule="constant"))


@pytest.mark.slow
def test_two_processes_train_as_one(job: TrainJob, tmp_path: Path) -> None:
    """The same global batch on two processes (gloo) and on one: equal to rounding."""
    one = place(job, tmp_path / "one")
    two = place(job, tmp_path / "two", num_processes=2, accumulation=1)
    assert start(one).wait() == 0 and start(two).wait() == 0
    assert_close_weights(tmp_path / "one", tmp_path / "two", 6, 1e-5)


def test_a_second_process_joins_a_run_of_one(job: TrainJob, whole: Path, tmp_path: Path) -> None:
    """From the checkpoint of update 4, which knows of one process; it draws the same as the run that stayed alone."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints" / "update-000006")
    assert start(place(job, tmp_path, num_processes=2, batch_size=1)).wait() == 0
    assert_same_draws(whole, tmp_path)
    assert_close_weights(whole, tmp_path, 6, 1e-5)


@pytest.mark.parametrize(
    ("precision", "once"),
    [
        ("fp32", True),
        pytest.param("fp32", False, marks=pytest.mark.slow),
        pytest.param("bf16", True, marks=pytest.mark.slow),
    ],
)
def test_sharded_over_two_processes_trains_as_one_which_resumes_its_checkpoint(
    job: TrainJob, tmp_path: Path, precision: str, once: bool
) -> None:
    """FSDP2 (gloo) against one process with the same global batch, then on from its checkpoint with one process.

    `once`: weights are gathered and gradients reduced once an update, of two micro-batches.
    """
    one = place(job, tmp_path / "one", num_updates=4, schedule="constant", precision=precision, accumulation=4)
    sliced = {"sharding": "fsdp2", "num_processes": 2, "accumulation": 2, "num_updates": 2}
    sliced |= {"gather": "each_update", "reduce": "each_update"} if once else {}
    two = place(one, tmp_path / "two", **sliced)
    assert start(one).wait() == 0
    assert start(two).wait() == 0
    assert_close_weights(tmp_path / "one", tmp_path / "two", 2, 1e-5 if precision == "fp32" else 5e-4)
    if precision == "fp32":
        assert start(place(one, tmp_path / "two")).wait() == 0
        assert_same_draws(tmp_path / "one", tmp_path / "two")
        assert_close_weights(tmp_path / "one", tmp_path / "two", 4, 1e-5)


def test_a_job_that_is_prepared_again_needs_no_space_for_what_it_has_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(CONFIG, SHORT)
    needed = make_plan(config, tmp_path, ("embed", "train")).disk_needed
    (tmp_path / "checkpoints").write_bytes(bytes(needed * 3 // 4))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=needed // 2))
    assert prepare_job(config, tmp_path).exists()


@pytest.mark.parametrize(
    ("setting", "problem"),
    [("monitor.watch=luminence", "no metric named 'luminence'"), ("train.start=nowhere", "nothing to start from")],
)
def test_what_is_wrong_is_told_before_prompts_are_encoded(setting: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=problem):
        prepare_job(load_config(CONFIG, (setting,)), tmp_path)
    assert not (tmp_path / "embeddings").exists()
