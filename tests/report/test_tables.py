"""What a report says of its metrics."""

import pytest

from srpo.report.tables import meaning


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("reward", "agreement with the prompt, as the trained reward sees it"),
        ("reward/pick_score", "agreement with the prompt, as pick_score sees it"),
        ("relative", "wanted control words over unwanted ones, by the trained reward"),
        ("relative/pick_score", "wanted control words over unwanted ones, by pick_score"),
        ("pick_score", ""),
    ],
)
def test_a_metric_names_the_judge_that_it_is_by(name: str, said: str) -> None:
    assert meaning(name) == said


def test_a_number_of_pixels_is_no_judge() -> None:
    assert meaning("grid/8") == meaning("grid")
