"""Work in several processes: results as they come, errors at once, and nobody left behind."""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from srpo.errors import ConfigError
from srpo.workers import share_out

ROOT = Path(__file__).parent.parent


class OddError(Exception):
    """What cannot go to another process as it is."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} in {where}")


def work(share: str, device: torch.device) -> Iterator[str]:
    yield f"{share} begun"
    if share == "fails":
        raise ConfigError("wrong")
    if share == "odd":
        raise OddError("one", "two")
    if share == "dies":
        os._exit(3)
    if share == "sleeps":
        time.sleep(600)
    yield f"{share} done"


def process_of(share: str, device: torch.device) -> Iterator[int]:
    yield os.getpid()


def test_results_come_as_they_are_made() -> None:
    assert sorted(share_out(work, ["a", "b"])) == ["a begun", "a done", "b begun", "b done"]
    assert list(share_out(work, ["alone"])) == ["alone begun", "alone done"]
    assert list(share_out(work, [])) == []


def test_one_may_work_apart() -> None:
    (here,), (elsewhere,) = (list(share_out(process_of, [""], apart=apart)) for apart in (False, True))
    assert here == os.getpid() != elsewhere
    assert list(share_out(process_of, [], apart=True)) == []


@pytest.mark.parametrize(
    ("share", "error", "said"),
    [
        ("fails", ConfigError, "^wrong"),
        ("odd", RuntimeError, "^OddError: one in two"),
        ("dies", RuntimeError, r"one of the processes died \(exit code 3\)"),
    ],
)
def test_an_error_of_one_ends_the_others(share: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        list(share_out(work, [share, "sleeps"]))
    assert not multiprocessing.active_children()


def test_none_outlives_a_parent_that_was_killed() -> None:
    code = (
        "from tests.test_workers import *\nfor said in share_out(work, ['sleeps', 'sleeps']): print(said, flush=True)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout and [parent.stdout.readline() for _ in range(2)] == ["sleeps begun\n"] * 2
    children = psutil.Process(parent.pid).children(recursive=True)
    parent.kill()
    parent.communicate()
    assert len(children) >= 2 and not psutil.wait_procs(children, timeout=20)[1]
