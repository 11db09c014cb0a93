"""Known errors: what each says to the shell and to the terminal, and how pydantic's are told."""

import errno
import json
import sqlite3
import sys
from pathlib import Path

import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from pydantic import BaseModel, Field, ValidationError, field_validator
from torch.multiprocessing import ProcessRaisedException

import run_pipeline
from srpo import errors, launch
from srpo.artifacts import TrainJob
from srpo.errors import GpuMemoryError, KnownError, first_problem, memory_needed, problem_text
from srpo.launch import launch_training
from steps import own_call
from tests.jobs import place
from tests.runs import call

KINDS = [
    (errors.ConfigError, ValueError, 42, "error"),
    (errors.TrainingStoppedError, RuntimeError, 42, "error"),
    (errors.GpuMemoryError, RuntimeError, 42, "error"),
    (errors.UnreachableError, ConnectionError, 75, "unreachable"),
    (errors.OutOfSightError, errors.UnreachableError, 75, "unreachable"),
    (errors.RemoteRunError, RuntimeError, 1, "failed"),
    (errors.PreemptedError, RuntimeError, 75, "stopped"),
    (errors.BusyError, RuntimeError, 75, "busy"),
    (errors.DiskFullError, OSError, 75, "stopped"),
]


@pytest.mark.parametrize(("kind", "builtin", "code", "word"), KINDS)
def test_a_known_error_ends_the_command_line_with_its_word_and_its_exit_code(
    kind: type[KnownError],
    builtin: type[Exception],
    code: int,
    word: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_: object) -> None:
        raise kind("the [cable] was cut")

    monkeypatch.setattr(run_pipeline, "app", fail)
    with pytest.raises(SystemExit) as ended:
        run_pipeline.main([])
    assert ended.value.code == code and issubclass(kind, builtin)
    assert capsys.readouterr().err == f"{word}: the [cable] was cut\n"


def wrapped(error: Exception, wrapper: Exception) -> Exception:
    wrapper.__context__ = error
    return wrapper


TOO_LARGE = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ..."
FULL = sqlite3.OperationalError("database or disk is full")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(TOO_LARGE),
        wrapped(torch.OutOfMemoryError(TOO_LARGE), RuntimeError("the step failed")),
        ProcessRaisedException(f"Process 1:\nTraceback: ...\ntorch.OutOfMemoryError: {TOO_LARGE}", 1, 4711),
    ],
)
def test_a_gpu_that_is_too_small_is_told_with_advice_by_the_command_line_and_in_a_pod(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        raise error

    told = "the GPU's memory does not suffice (CUDA out of memory. Tried to allocate 2.00 GiB); "
    monkeypatch.setattr(run_pipeline, "app", fail)
    assert call() == 42
    assert capsys.readouterr().err == f"error: {told}take a GPU with more\n"
    monkeypatch.setattr(own_call, "_reused_before", lambda _: [])
    monkeypatch.setattr(own_call, "_on_a_cluster", lambda: True)
    with pytest.raises(SystemExit, match="42"), own_call.own_call("embed"):
        fail(None)
    assert f"error: {told}take" in capsys.readouterr().out
    with pytest.raises(GpuMemoryError, match="; draw less$"), memory_needed("draw more"), memory_needed("draw less"):
        fail(None)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), "[Errno 28] No space left on device: 'a.png'"),
        (wrapped(FULL, RuntimeError("the step failed")), "database or disk is full"),
        (MlflowException(FULL, TEMPORARILY_UNAVAILABLE), "database or disk is full"),
        (
            RuntimeError(f"(OperationalError) {FULL}\n[SQL: INSERT ...]\n[parameters: ...]"),
            f"(OperationalError) {FULL}",
        ),
        (
            ProcessRaisedException("Process 1:\nTraceback: ...\nOSError: No space left on device: 'a.png'\n", 1, 4711),
            "OSError: No space left on device: 'a.png'",
        ),
    ],
)
def test_a_full_disk_is_told_by_any_command_which_may_be_tried_again(
    error: Exception, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(run_pipeline, "app", fail)
    assert call() == 75
    assert capsys.readouterr().err == f"stopped: no space left on the disk ({told}); free some, then run it again\n"


def test_where_no_log_can_be_written_the_traceback_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("the cable was cut")

    (tmp_path / ".srpo").write_text("a file is in the way")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_pipeline, "app", fail)
    assert call() == 1
    shown = capsys.readouterr().err
    assert shown.startswith("unexpected error: RuntimeError: the cable was cut\nthe details are here, because")
    assert 'raise RuntimeError("the cable was cut")' in shown


@pytest.mark.parametrize("kind", [kind for kind, *_ in KINDS])
def test_a_known_error_comes_out_of_a_training_as_it_was_raised(
    kind: type[KnownError], job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = json.dumps({"kind": kind.__name__, "message": "the cable was cut"})
    code = f"from pathlib import Path; Path({str(tmp_path / 'error.json')!r}).write_text({said!r}); raise SystemExit(1)"
    monkeypatch.setattr(launch, "launch_command", lambda *_: [sys.executable, "-c", code])
    with pytest.raises(KnownError, match="^the cable was cut$") as raised:
        launch_training(place(job, tmp_path))
    assert type(raised.value) is kind


class Colour(BaseModel):
    name: str
    parts: list[int] = Field(default=[])

    @field_validator("name")
    @classmethod
    def is_known(cls, name: str) -> str:
        if name != "red":
            raise ValueError("no such colour")
        return name


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"name": "blue"}, "name: no such colour"),
        ({"name": "red", "parts": [1, "x"]}, "parts.1: Input should be a valid integer, "),
        ({}, "name: Field required"),
    ],
)
def test_what_is_wrong_is_told_by_its_key_without_pydantics_own_words(given: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Colour.model_validate(given)
    assert first_problem(refused.value).startswith(told)


def test_what_is_wrong_as_a_whole_has_no_key() -> None:
    with pytest.raises(ValidationError) as refused:
        Colour.model_validate_json("[")
    (problem,) = refused.value.errors()
    assert problem_text(problem).startswith("Invalid JSON: ")
