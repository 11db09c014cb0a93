"""The page in a real browser: no complaint, no request; the slider slides, the filter filters, keys work."""

import html
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from srpo.report.page import write_report
from srpo.report.schema import Level, Report
from srpo.report.thumbnails import rank
from tests.browser import Browser, browser, needs_chromium
from tests.evaluation.synthetic import METRICS, make_report, write_synthetic

VISIBLE = "[...document.querySelectorAll('.pair:not([hidden])')]"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    report = make_report(("base", "candidate", "champion"), num_prompts=9)
    return write_synthetic(tmp_path_factory.mktemp("three"), report)


def load(page: Path) -> Report:
    return Report.model_validate_json((page.parent / "report.json").read_text(encoding="utf-8"))


def test_prompts_are_shown_in_the_direction_of_their_script(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    prompt = html.escape(load(page).images[0].prompt)
    assert f'<p dir="auto">{prompt}</p>' in text and f'<td dir="auto">{prompt}</td>' in text


def choose(tab: Browser, name: str, value: str) -> None:
    field = f"document.querySelector('[name={name}]')"
    tab.run(f"{field}.value = {value!r}, {field}.dispatchEvent(new Event('change', {{bubbles: true}}))")


def indices(tab: Browser) -> list[int]:
    return tab.run(f"{VISIBLE}.map(card => Number(card.dataset.index))")


@needs_chromium
def test_the_worst_ten_come_first_unasked_and_the_rest_on_demand(tab: Browser, page: Path) -> None:
    tab.open(page)
    worst = rank(load(page))
    assert indices(tab) == worst[:10]
    tab.click(".more")
    assert indices(tab) == worst
    tab.click(".more")
    assert indices(tab) == worst[:10]
    assert tab.problems == []


@needs_chromium
def test_the_slider_moves_by_key_and_by_mouse(tab: Browser, page: Path) -> None:
    tab.open(page)
    tab.run("document.querySelector('.pair input[type=range]').focus()")
    edge = "getComputedStyle(document.querySelector('.pair .layer.right')).clipPath"
    assert tab.run(edge) == "inset(0px 0px 0px 50%)"
    for _ in range(3):
        tab.press("ArrowRight")
    assert tab.run(edge) == "inset(0px 0px 0px 53%)"
    tab.press("ArrowLeft")
    assert tab.run(edge) == "inset(0px 0px 0px 52%)"
    tab.click(".pair .stage", across=0.25)
    assert 22 <= tab.run("Number(document.querySelector('.pair input[type=range]').value)") <= 28
    assert tab.problems == []


@needs_chromium
def test_everything_can_be_reached_with_the_tab_key(tab: Browser, page: Path) -> None:
    tab.open(page)
    tab.run("document.body.tabIndex = -1, document.body.focus()")
    reached = []
    for _ in range(24):
        tab.press("Tab")
        reached.append(
            tab.run("document.activeElement.name || document.activeElement.type || document.activeElement.tagName")
        )
    assert {"order", "metric", "category", "left", "right", "range"} <= set(reached)


@needs_chromium
def test_the_filter_shows_one_category_and_sorting_goes_by_the_metric(tab: Browser, page: Path) -> None:
    report = load(page)
    tab.open(page)
    choose(tab, "category", "animals  <&>")
    shown = indices(tab)
    assert {report.images[index].category for index in shown} == {"animals  <&>"}
    assert len(shown) == 6
    choose(tab, "category", "")
    choose(tab, "metric", "saturation")
    choose(tab, "order", "gain")

    def rise(index: int) -> float:
        scores = report.images[index].scores
        return scores["candidate"]["saturation"] - scores["base"]["saturation"]

    assert indices(tab) == sorted(range(18), key=rise, reverse=True)[:10]
    choose(tab, "order", "prompt")
    assert indices(tab) == list(range(10))


@needs_chromium
def test_any_two_of_three_models_lie_under_the_slider(tab: Browser, page: Path) -> None:
    tab.open(page)
    shown = "['left', 'right'].map(side => document.querySelector(`.pair .layer.${side}`).dataset.label)"
    assert tab.run(shown) == ["base", "candidate"]
    tab.click("input[name=left][value=champion]")
    assert tab.run(shown) == ["champion", "candidate"]
    clips = "['left', 'right'].map(side => getComputedStyle(document.querySelector(`.pair .layer.${side}`)).clipPath)"
    assert tab.run(clips) == ["inset(0px 50% 0px 0px)", "inset(0px 0px 0px 50%)"]  # champion lies above: it is cut too
    first = load(page).images[rank(load(page))[0]].scores
    change = first["candidate"]["relative"] - first["champion"]["relative"]
    text = tab.run(f"{VISIBLE}[0].querySelector('.gain').textContent")
    assert text == f"relative {change:+.3f}".replace("-", "\N{MINUS SIGN}")


@needs_chromium
def test_every_picture_is_there_once_and_the_page_fits_a_phone(tab: Browser, page: Path) -> None:
    for phone, dark in ((True, False), (True, True), (False, True)):
        tab.open(page, width=390 if phone else 1100, phone=phone, dark=dark)
        assert tab.run("document.documentElement.scrollWidth <= innerWidth")
        pictures = "[...document.querySelectorAll('.pairs img')]"
        assert tab.run(f"Promise.all({pictures}.map(image => image.decode())).then(all => all.length)") == 54
        assert tab.run(f"new Set({pictures}.map(image => image.src)).size") == 54
    assert tab.problems == []


@needs_chromium
@pytest.mark.parametrize("phone", [False, True])
def test_each_model_has_a_row_of_its_own_however_few_pictures_there_are(
    tab: Browser, tmp_path: Path, phone: bool
) -> None:
    tab.open(write_synthetic(tmp_path, make_report(num_prompts=5, num_seeds=1), size=24), width=390 if phone else 1100)
    shown = "[...document.querySelectorAll('.strip span, .strip img')].filter(part => part.offsetParent)"
    places = tab.run(f"{shown}.map(part => part.getBoundingClientRect()).map(box => [box.left, box.top, box.bottom])")
    base, candidate = places[: len(places) // 2], places[len(places) // 2 :]
    assert len(base) == len(candidate) == (5 if phone else 6)
    assert [left for left, *_ in base] == [left for left, *_ in candidate], "the same picture in each column"
    assert max(bottom for *_, bottom in base) <= min(top for _, top, _ in candidate)


@needs_chromium
def test_without_script_the_pictures_lie_side_by_side(tab: Browser, page: Path) -> None:
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.open(page)
        tops = (
            "[...document.querySelector('.pair').querySelectorAll('img')].map(image => image.getBoundingClientRect())"
        )
        boxes = tab.run(f"{tops}.map(box => [box.x, box.y, box.width])")
    finally:
        tab.call("Emulation.setScriptExecutionDisabled", value=False)
    assert len({box[0] for box in boxes}) == 3
    assert len({box[1] for box in boxes}) == 1
    assert min(box[2] for box in boxes) > 60


def test_one_model_alone_has_a_page_without_contrasts(tmp_path: Path) -> None:
    page = write_synthetic(tmp_path, make_report(("alone",), num_prompts=5)).read_text(encoding="utf-8")
    assert "against" not in page
    assert page.count('<figure class="pair card"') == 10


def test_metrics_of_the_whole_set_are_on_the_page_of_one_model(tmp_path: Path) -> None:
    report = make_report(("alone",), num_prompts=5)
    levels = {name: Level(value=0.5, lower=0.4, upper=0.6) for name in (*METRICS, "spread")}
    alone = report.models[0].model_copy(update={"metrics": levels})
    page = write_synthetic(tmp_path, report.model_copy(update={"models": [alone]})).read_text(encoding="utf-8")
    rows = page.split('<table class="levels">')[1].split("</table>")[0]
    assert re.findall('scope="row">([a-z]+)<', rows) == ["relative", "reward", "luminance", "spread", "saturation"]


def test_settings_are_shown_as_they_were_written(tmp_path: Path) -> None:
    report = make_report(num_prompts=5)
    word = "schön </script><b>"
    config = report.provenance.config | {"preference": {"positive": [word], "negative": []}}
    provenance = report.provenance.model_copy(update={"config": config})
    page = write_synthetic(tmp_path, report.model_copy(update={"provenance": provenance})).read_text(encoding="utf-8")
    assert page.count(f"&#34;{html.escape(word)}&#34;") == 2
    assert word not in page


def test_a_limit_that_was_reached_and_not_kept_had_to_be_exceeded(tmp_path: Path) -> None:
    report = make_report(num_prompts=5)
    tie = report.checks[0].model_copy(update={"value": 0.0, "held": False})
    page = write_synthetic(tmp_path, report.model_copy(update={"checks": [tie]})).read_text(encoding="utf-8")
    assert "<b>relative</b> change more than 0.000" in page


@pytest.mark.parametrize(("confidence", "differs"), [(0.99, True), (0.95, False), (None, False)])
def test_the_gates_own_level_is_named_where_it_is_another(
    confidence: float | None, differs: bool, tmp_path: Path
) -> None:
    report = make_report(num_prompts=5).model_copy(update={"gate_confidence": confidence})
    page = write_synthetic(tmp_path, report).read_text(encoding="utf-8")
    assert ("The gate's own intervals are at 99.0 %" in page) == ("own intervals" in page) == differs


PLANNED = {"planned_gpu_hours": 1.25, "planned_evaluation_gpu_hours": 0.2}


def test_the_page_says_what_it_cannot_know(tmp_path: Path) -> None:
    """A point has no detectable change, but a note; a level keeps all its digits."""
    report = make_report(num_prompts=8)
    metrics = dict(report.metrics)
    metrics["reward"] = metrics["reward"].model_copy(update={"detectable": None, "unseen": 0.369})
    contrasts = [report.contrasts[0].model_copy(update={"metrics": metrics})]
    report = report.model_copy(update={"contrasts": contrasts, "confidence": 0.975})
    text = write_synthetic(tmp_path, report).read_text(encoding="utf-8")
    assert text.count("no prompt differs; a change on 37\N{NO-BREAK SPACE}% of all may be unseen") == 1
    assert "97.5\N{NO-BREAK SPACE}% paired bootstrap intervals" in text


def test_gpu_hours_stand_beside_those_that_were_planned(tmp_path: Path) -> None:
    report = make_report(("alone",), num_prompts=5)
    curves = report.curves.model_copy(update={"gpu_hours": 2.5, **PLANNED})
    unplanned, planned = (
        write_synthetic(tmp_path / name, each).read_text(encoding="utf-8")
        for name, each in (("a", report), ("b", report.model_copy(update={"curves": curves, "seconds": 900.0})))
    )
    line = "training 2.5 with loading, 1.25 planned; evaluation 0.25, 0.2 planned; 2.75 in all."
    assert f"GPU-hours: {line}" in planned
    assert "GPU-hours" not in unplanned


def test_what_ended_training_early_stands_above_the_figures(tmp_path: Path) -> None:
    report = make_report(("alone",), num_prompts=5)
    reason = "the run has taken 3 GPU-hours, and resources.max_gpu_hours is 3"
    curves = report.curves.model_copy(update={"stopped": reason, "num_updates": 7})
    page = write_synthetic(tmp_path / "a", report.model_copy(update={"curves": curves})).read_text(encoding="utf-8")
    assert page.index(f"Training ended after update 7: {reason}.") < page.index("<main>")
    assert "Training ended" not in write_synthetic(tmp_path / "b", report).read_text(encoding="utf-8")


def test_a_measurement_that_is_not_finite_breaks_no_page(tmp_path: Path) -> None:
    held_out = [{"update": 0, "relative": 0.1}, {"update": 5, "relative": float("nan"), "violations": ["gone"]}]
    report = make_report(num_prompts=5)
    curves = report.curves.model_copy(update={"held_out": held_out, "updates": []})
    page = write_synthetic(tmp_path, report.model_copy(update={"curves": curves}))
    before = page.read_text(encoding="utf-8")
    assert before.count('<figure class="curve card"') == 1
    assert write_report(load(page), tmp_path).read_text(encoding="utf-8").count('<figure class="curve card"') == 1


def test_the_page_can_be_made_again_from_its_folder(page: Path) -> None:
    before = page.read_bytes()
    page.unlink()
    assert write_report(load(page), page.parent).read_bytes() == before


@pytest.mark.slow
@needs_chromium
def test_six_hundred_large_pictures_make_a_page_that_is_small_and_quick(tmp_path: Path, tab: Browser) -> None:
    report = make_report(("base", "candidate", "champion"), num_prompts=100)
    page = write_synthetic(tmp_path, report, size=1024, count=1000)
    assert len(list((tmp_path / "images").iterdir())) == 600
    assert page.stat().st_size < 15_000_000
    tracemalloc.start()
    write_report(load(page), tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8_000_000  # the report itself, not its pictures
    started = min(tab.open(page) for _ in range(3))  # another process may have the core for a while
    tab.wait(f"{VISIBLE}.length === 10")
    assert started < 2
    tab.click(".more")
    assert len(indices(tab)) == 200
    assert tab.problems == []
