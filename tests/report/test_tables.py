"""What a report says of its metrics."""

import pytest

from srpo.report.tables import draw_curves, meaning
from tests.evaluation.synthetic import make_report


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


@pytest.mark.parametrize("bounds", [["grid/8", "relative"], [], None])
def test_what_the_monitor_bounds_has_a_curve(bounds: list[str] | None) -> None:
    report = make_report(num_prompts=5)
    monitor = {} if bounds is None else {"monitor": {"bounds": [{"metric": name} for name in bounds]}}
    curves = report.curves.model_copy(
        update={"held_out": [{"update": update, "relative": 0.1, "grid/8": 0.2} for update in (0, 5)]}
    )
    provenance = report.provenance.model_copy(update={"config": monitor})
    report = report.model_copy(update={"curves": curves, "provenance": provenance})
    titles = [chart.title for chart in draw_curves(report)]
    assert titles == ["relative", *(["grid/8"] if bounds else []), "loss (training)"]
