"""An S3 server that neither answers nor refuses for longer than a lease lasts: training goes on, nothing is lost."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from srpo.artifacts import TrainJob
from srpo.lease.s3 import TTL
from tests.durable.nodes import RUN, curve, kept, on_node, start, wait_for_update
from tests.infra.loopback import free_port
from tests.jobs import assert_same_weights
from tests.s3 import make_bucket


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of its own, which can be stopped; with an empty bucket."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not _answers(url):
            time.sleep(0.1)
        make_bucket(url, monkeypatch)
        yield process
        process.kill()


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=5).status_code < 500
    except httpx2.HTTPError:
        return False


@pytest.mark.slow
def test_training_goes_on_while_s3_stands_still(
    job: TrainJob, server: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    folder = tmp_path / "a" / RUN
    placed = on_node(job, tmp_path / "a", num_updates=20, schedule="constant")
    process = start(placed)
    wait_for_update(process, folder, 3)
    server.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    wait_for_update(process, folder, 10)
    time.sleep(max(0.0, 1.2 * TTL - (time.monotonic() - stopped)))
    server.send_signal(signal.SIGCONT)
    assert process.wait(600) == 0
    assert "update-000020" in kept(tmp_path / "a")
    assert [update for update, *_ in curve(folder)] == list(range(1, 21))
    assert start(on_node(job, tmp_path / "b", num_updates=20, schedule="constant")).wait(600) == 0
    assert_same_weights(folder, tmp_path / "b" / RUN, 20)
    assert curve(tmp_path / "b" / RUN) == curve(folder)
