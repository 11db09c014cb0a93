"""Numbers as they are shown."""

from pathlib import Path

import pytest

from srpo.wording import capitalised, level, number, shortest_end, signed


@pytest.mark.parametrize(
    ("value", "plain", "with_sign"),
    [
        (0.1234, "0.123", "+0.123"),
        (-0.1234, "−0.123", "−0.123"),
        (0.0123, "0.012", "+0.012"),
        (0.0056, "0.0056", "+0.0056"),
        (-0.0004, "−0.00040", "−0.00040"),
        (2e-5, "2.0e−05", "+2.0e−05"),
        (-1.1e-16, "0.000", "0.000"),
        (0.0, "0.000", "0.000"),
    ],
)
def test_numbers_are_short_and_rounding_noise_is_nought(value: float, plain: str, with_sign: str) -> None:
    assert (number(value), signed(value)) == (plain, with_sign)


@pytest.mark.parametrize(("confidence", "text"), [(0.95, "95"), (0.975, "97.5"), (0.995, "99.5"), (0.9, "90")])
def test_a_level_is_the_one_that_was_used(confidence: float, text: str) -> None:
    assert level(confidence) == f"{text}\N{NO-BREAK SPACE}%"


def test_only_the_first_letter_of_a_name_is_raised() -> None:
    assert capitalised("relative/PickScore") == "Relative/PickScore"


def test_a_path_is_called_by_its_shortest_end_that_no_other_has() -> None:
    a, b, below = Path("/x/a/out"), Path("/x/b/out"), Path("/x/b/c/out")
    assert [shortest_end(path, [a, b, below]) for path in (a, b, below)] == ["a/out", "b/out", "c/out"]
    assert shortest_end(a, [a, Path("/x/new")]) == "out"
    assert shortest_end(Path("/out"), [a]) == "/out", "one is the end of the other"
