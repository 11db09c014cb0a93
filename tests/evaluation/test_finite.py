"""Scores that are not finite: the judged model's prompts are left out, a third model whole; the base's are refused."""

from pathlib import Path

import numpy as np
import pytest

from srpo.errors import ConfigError
from srpo.evaluation.finite import Finite, leave_out
from srpo.evaluation.images import Cell, Gallery
from srpo.evaluation.measure import Measured


def measured(num_prompts: int = 6) -> Measured:
    """Two images of each prompt by two models, in two metrics."""
    design = [
        Cell(place, f"prompt {place}", "", number, 10 * place + number)
        for place in range(num_prompts)
        for number in range(2)
    ]
    scores = {
        label: {name: np.arange(2.0 * num_prompts) for name in ("relative", "luminance")}
        for label in ("base", "candidate")
    }
    return Measured(design, {label: Gallery(Path(label)) for label in scores}, scores)


def test_finite_scores_stay_as_they_are() -> None:
    whole = measured()
    assert leave_out(whole, "candidate") == Finite(whole, [], {})


def test_the_judged_models_broken_prompts_are_left_out_for_all_and_named() -> None:
    whole = measured()
    whole.scores["candidate"]["relative"][3] = np.nan
    whole.scores["candidate"]["luminance"][2] = np.inf
    finite = leave_out(whole, "candidate")
    left = finite.measured
    assert finite.damage == [
        "2 of 12 images of candidate have scores that are not finite "
        "(relative, luminance; the first: 'prompt 1', seed 10); their prompts are left out here"
    ]
    assert [cell.prompt_index for cell in left.design] == [0, 0, 2, 2, 3, 3, 4, 4, 5, 5]
    for label in ("base", "candidate"):
        assert left.scores[label]["relative"].tolist() == [0, 1, *range(4, 12)]
    assert len(left.categories) == 5


@pytest.mark.parametrize("judged", ["candidate", ""])
def test_of_what_all_are_compared_with_they_are_refused(judged: str) -> None:
    whole = measured()
    whole.scores["base"]["relative"][5] = -np.inf
    with pytest.raises(
        ConfigError, match=r"1 of 12 images of base have .* \(relative; the first: 'prompt 2', seed 21\)"
    ):
        leave_out(whole, judged)


def test_a_third_model_of_such_scores_is_left_out_alone() -> None:
    whole = measured()
    whole.scores["champion"] = {name: row.copy() for name, row in whole.scores["base"].items()}
    whole.scores["champion"]["relative"][:] = np.nan
    whole.scores["candidate"]["luminance"][0] = np.nan
    finite = leave_out(whole, "candidate")
    assert list(finite.measured.scores) == ["base", "candidate"]
    assert len(finite.measured.categories) == 5 and len(finite.damage) == 1
    assert finite.left_out["champion"].startswith("12 of 12 images of champion have scores that are not finite")


def test_a_model_of_which_too_little_is_left_has_collapsed() -> None:
    whole = measured()
    whole.scores["candidate"]["relative"][:3] = np.nan
    with pytest.raises(ConfigError, match="leaves fewer than 5 prompts to compare on; the model has collapsed"):
        leave_out(whole, "candidate")
