"""Leases between real processes: exclusion, death, standing still."""

import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from srpo.config import RegistryConfig
from srpo.errors import ConfigError, UnreachableError
from srpo.lease import lease, place_of, s3

fork = multiprocessing.get_context("fork")
STORE = "sqlite:////nowhere/mlflow.db"
NUM_PROCESSES, ROUNDS = 3, 4


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PAUSE", 0.02)


@pytest.fixture
def short_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead holder is noticed after two seconds; the processes are forked, so they know it too."""
    monkeypatch.setattr(s3, "TTL", 2.0)


def count_up(place: str, counter: Path) -> None:
    """Read, pause, write: without a lease, steps get lost."""
    for _ in range(ROUNDS):
        with lease(STORE, place, "shapes", wait=60) as held:
            value = int(counter.read_text())
            time.sleep(0.01)
            held.confirm()
            counter.write_text(str(value + 1))


def hold(place: str, taken: Path, then: Callable[[], None]) -> None:
    with lease(STORE, place, "shapes", wait=60):
        taken.touch()
        then()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_process_at_a_time(lease_place: str, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    processes = [fork.Process(target=count_up, args=(lease_place, counter)) for _ in range(NUM_PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * NUM_PROCESSES
    assert int(counter.read_text()) == NUM_PROCESSES * ROUNDS


@pytest.mark.usefixtures("short_lives")
def test_a_killed_holder_does_not_block_the_next(lease_place: str, tmp_path: Path) -> None:
    process = fork.Process(target=hold, args=(lease_place, tmp_path / "taken", lambda: time.sleep(60)))
    process.start()
    wait_for(tmp_path / "taken")
    process.kill()
    process.join()
    with lease(STORE, lease_place, "shapes", wait=10) as held:
        held.confirm()


@pytest.mark.usefixtures("short_lives")
def test_a_living_holder_is_waited_for_in_vain(lease_place: str, tmp_path: Path) -> None:
    """Longer than it would live without renewing itself."""
    process = fork.Process(target=hold, args=(lease_place, tmp_path / "taken", lambda: time.sleep(60)))
    process.start()
    wait_for(tmp_path / "taken")
    with pytest.raises(UnreachableError, match="held"), lease(STORE, lease_place, "shapes", wait=4):
        pass
    with lease(STORE, lease_place, "another model", wait=3):
        pass
    process.kill()
    process.join()


def confirm_late(place: str, taken: Path, answer: Path, go_on: Path) -> None:
    with lease(STORE, place, "shapes", wait=60) as held:
        taken.touch()
        wait_for(go_on)
        try:
            held.confirm()
            answer.write_text("held")
        except UnreachableError as error:
            answer.write_text(str(error))


@pytest.mark.usefixtures("short_lives")
def test_a_holder_that_stood_still_learns_that_it_lost_the_lease(bucket: str, tmp_path: Path) -> None:
    taken, answer, go_on = (tmp_path / part for part in ("taken", "answer", "go on"))
    process = fork.Process(target=confirm_late, args=(bucket, taken, answer, go_on))
    process.start()
    wait_for(taken)
    os.kill(process.pid or 0, signal.SIGSTOP)
    with lease(STORE, bucket, "shapes", wait=30) as held:
        os.kill(process.pid or 0, signal.SIGCONT)
        go_on.touch()
        process.join(30)
        held.confirm()
    assert "was taken over" in answer.read_text()
    with lease(STORE, bucket, "shapes", wait=0.5):
        pass  # the loser has not let go what was no longer its own


def test_a_bucket_that_ignores_conditions_is_refused(careless_bucket: str) -> None:
    with pytest.raises(ConfigError, match="ignores conditional writes"), lease(STORE, careless_bucket, "shapes"):
        pass


@pytest.mark.parametrize(
    ("store", "place", "where"),
    [
        ("sqlite:////work/.srpo/mlflow.db", None, "/work/.srpo/leases"),
        ("sqlite:////work/.srpo/mlflow.db", "/shared/leases", "/shared/leases"),
        ("file:/data/ml%20runs", None, "/data/ml runs/.leases"),
        ("file:///data/mlruns", None, "/data/mlruns/.leases"),
        ("/data/mlruns", None, "/data/mlruns/.leases"),
        ("https://mlflow.example", "file:///shared/leases", "/shared/leases"),
        ("https://mlflow.example", "s3://bucket/prefix", "s3://bucket/prefix"),
        ("postgresql://srpo@db.example/mlflow", None, "postgresql://srpo@db.example/mlflow"),
    ],
)
def test_where_a_lease_is_kept(store: str, place: str | None, where: str) -> None:
    assert place_of(store, place) == where


def test_a_server_without_a_lock_needs_a_place_and_its_password_is_not_shown() -> None:
    with pytest.raises(ConfigError, match=r"https://mlflow.example offers no lock.*registry.lease") as error:
        place_of("https://me:secret@mlflow.example", None)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("leases", "absolute path"),
        ("redis://host", "no lease can be kept at redis://"),
        ("postgresql://me:secret@host/db", "holds a password"),
        ("postgresql://host/db?password=secret", "holds a password"),
    ],
)
def test_a_place_that_cannot_work_is_refused_with_the_config(place: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RegistryConfig(lease=place)


POSTGRES = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture
def database() -> Iterator[str]:
    """A PostgreSQL server of the test's own, where both it and a driver are installed."""
    pytest.importorskip("psycopg2")
    if not shutil.which("initdb", path=str(POSTGRES)):
        pytest.skip("no PostgreSQL server is installed")
    user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.getuid() == 0 else []
    folder = Path(tempfile.mkdtemp())  # pytest's own folders are closed to the server's user
    if user:
        shutil.chown(folder, "nobody")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    subprocess.run([*user, POSTGRES / "initdb", "-D", folder, "-U", "srpo", "--auth=trust"], check=True, cwd="/")
    start = [*user, POSTGRES / "pg_ctl", "-D", folder, "-o", options, "-l", folder / "log", "-w", "start"]
    subprocess.run(start, check=True, cwd="/")
    yield f"postgresql://srpo@127.0.0.1:{port}/postgres"
    subprocess.run([*user, POSTGRES / "pg_ctl", "-D", folder, "-m", "immediate", "stop"], check=True, cwd="/")
    shutil.rmtree(folder)


def test_a_lock_of_the_database_excludes_and_ends_with_its_holder(database: str, tmp_path: Path) -> None:
    test_one_process_at_a_time(database, tmp_path)
    test_a_killed_holder_does_not_block_the_next(database, tmp_path)


def test_without_a_driver_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)  # as where it is not installed
    with pytest.raises(ConfigError, match="install psycopg2-binary"), lease("postgresql://host/db", None, "shapes"):
        pass
