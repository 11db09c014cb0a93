"""Published figures stand beside those that were measured on the same list of prompts, and only there."""

from pathlib import Path

import pytest

from srpo.config import EvaluationConfig, ScoreConfig
from srpo.errors import ConfigError
from srpo.evaluation.published import BENCHMARKS, check_benchmark, find_published
from srpo.report.schema import Level
from tests.evaluation.synthetic import make_report, write_synthetic

SCORES = {
    "pick": ScoreConfig(family="pick_score", source="somewhere"),
    "clip": ScoreConfig(family="clip_score", source="somewhere"),
}
SETTINGS = EvaluationConfig(benchmark="hpdv2", num_prompts=3200, scores=SCORES)


def test_figures_carry_the_name_that_the_run_gives_their_score() -> None:
    published = find_published(SETTINGS)
    assert published is not None
    assert {name for row in published.figures.values() for name in row} == {"pick"}, "nobody published a CLIPScore"
    moved = {model: row["pick"] - published.figures["FLUX.1-dev"]["pick"] for model, row in published.figures.items()}
    assert max(moved, key=lambda model: moved[model]) == "SRPO"
    assert find_published(SETTINGS.model_copy(update={"benchmark": None})) is None


def test_every_model_has_every_figure() -> None:
    for benchmark in BENCHMARKS.values():
        assert all(sorted(row) == benchmark.families for row in benchmark.figures.values())


@pytest.mark.parametrize(
    ("change", "num_held_out", "words"),
    [
        ({"scores": {"clip": SCORES["clip"]}}, 3200, "evaluation.scores names none of them"),
        ({}, 3201, "has 3200 prompts, but prompts.held_out holds 3201"),
        ({}, 800, "has 3200 prompts, but prompts.held_out holds 800"),
        ({"num_prompts": 200}, 3200, "takes 200 of 3200; set evaluation.num_prompts=3200"),
    ],
)
def test_what_cannot_stand_beside_them_is_refused(change: dict[str, object], num_held_out: int, words: str) -> None:
    check_benchmark(SETTINGS, 3200)
    check_benchmark(SETTINGS.model_copy(update={**change, "benchmark": None}), num_held_out)
    with pytest.raises(ConfigError, match=words):
        check_benchmark(SETTINGS.model_copy(update=change), num_held_out)


def test_the_page_shows_both(tmp_path: Path) -> None:
    report = make_report(num_prompts=5)
    level = Level(value=21.5, lower=21.25, upper=21.75)
    models = [model.model_copy(update={"metrics": {"pick": level}}) for model in report.models]
    shown = report.model_copy(update={"models": models, "published": find_published(SETTINGS)})
    page = write_synthetic(tmp_path / "a", shown).read_text(encoding="utf-8")
    table = page[page.index("<h2>Published figures</h2>") :]
    assert "Means on the 3200 prompts of the same list, as arXiv:2509.06942 gives them" in table
    assert "Ours are of 5 of these prompts." in table
    rows = ['<th scope="row">SRPO</th><td>23.040</td>', "<b>candidate</b>, here</th><td>21.500", "(21.250 to 21.750)"]
    assert all(row in table for row in rows)
    assert "Published figures" not in write_synthetic(tmp_path / "b", report).read_text(encoding="utf-8")
