"""Known errors: what each says to the shell and to the terminal, and how pydantic's are told."""

import json
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel, Field, ValidationError, field_validator

import run_pipeline
from srpo import errors, launch
from srpo.artifacts import TrainJob
from srpo.errors import KnownError, first_problem, problem_text
from srpo.launch import launch_training
from tests.jobs import place

KINDS = [
    (errors.ConfigError, ValueError, 42, "error"),
    (errors.TrainingStoppedError, RuntimeError, 42, "error"),
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


def test_what_is_wrong_as_a_whole_has_the_name_that_is_given_to_it() -> None:
    with pytest.raises(ValidationError) as refused:
        Colour.model_validate_json("[")
    (problem,) = refused.value.errors()
    assert problem_text(problem).startswith("Invalid JSON: ")
    assert problem_text(problem, "the file").startswith("the file: Invalid JSON: ")
