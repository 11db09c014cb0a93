"""The page of a study in a real browser: votes by key, resumes, saves; nothing in it tells the models apart."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from srpo.errors import ConfigError
from srpo.evaluation.entries import load_entry
from srpo.evaluation.study import StudyKey, merge_votes, pairs_of_entries, pairs_of_folders, write_study
from srpo.evaluation.study.merge import add_to_report
from srpo.evaluation.study.page import KeyPair
from srpo.pictures import save_png
from srpo.report.schema import Report, Study
from tests.browser import KEYS, Browser, browser, needs_chromium
from tests.evaluation.synthetic import make_picture, make_report, write_synthetic


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_synthetic(folder, make_report(num_prompts=5), size=24, count=30)
    return folder


def make(report: Path, folder: Path) -> tuple[StudyKey, Path]:
    found = pairs_of_entries(load_entry("the-base", report, "base"), load_entry("the-new", report))
    key, _ = write_study(found, folder / "study.html", num_pairs=3, seed=1)
    return key, folder / "study.html"


def test_prompts_are_shown_in_the_direction_of_their_script(report: Path, tmp_path: Path) -> None:
    _, page = make(report, tmp_path)
    assert '<p class="prompt" dir="auto">' in page.read_text(encoding="utf-8")


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Browser]:
    with browser(tmp_path / "profile") as driver:
        driver.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        yield driver


def saved(folder: Path, count: int) -> list[Path]:
    """The files of votes that the browser has saved, waited for."""
    for _ in range(200):
        found = sorted(folder.glob("votes-*.json"), key=lambda path: path.stat().st_mtime)
        if len(found) == count and all(path.stat().st_size for path in found):  # an empty one keeps a name at first
            return found
        time.sleep(0.05)
    raise AssertionError(f"{len(found)} files were saved, not {count}")


def other_tab(tab: Browser, session: str | None = None) -> str:
    """The driver goes over to the tab of a session, else to a new one; the session that it leaves."""
    assert tab._session
    before, tab._session = tab._session, session
    if session is None:
        target = tab.call("Target.createTarget", url="about:blank")["targetId"]
        tab._session = tab.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    tab.call("Page.bringToFront")
    return before


def hold(tab: Browser, selector: str, key: str) -> None:
    """Keep a key down on an element for a while."""
    tab.run(f"document.querySelector({selector!r}).focus()")
    pressed = {"key": key, "windowsVirtualKeyCode": KEYS[key], "text": {"Enter": "\r"}.get(key, key)}
    for repeated in (False, True, True, True):
        tab.call("Input.dispatchKeyEvent", type="keyDown", autoRepeat=repeated, **pressed)
    tab.call("Input.dispatchKeyEvent", type="keyUp", **pressed)


def answered(tab: Browser, count: int) -> None:
    """The page says so many votes, waited for."""
    tab.wait(f"document.querySelector('#count').textContent === '{count} of 12'")


def shown(tab: Browser) -> list[str]:
    return tab.run("[...document.querySelectorAll('.pictures img')].map(image => image.src)")


@needs_chromium
def test_votes_by_key_are_resumed_saved_and_merged(report: Path, tmp_path: Path, tab: Browser) -> None:
    """Someone who always prefers the candidate, whichever side it is on; the page is closed half-way."""
    key, page = make(report, tmp_path)
    data = json.loads(page.read_text().split('id="study">')[1].split("</script>")[0])
    candidates = {pair["pictures"][named.candidate] for pair, named in zip(data["pairs"], key.pairs, strict=True)}
    tab.open(page)
    sides = []
    for step in range(12):
        if step == 5:
            tab.press("s")
            saved(tmp_path, 1)[0].rename(tmp_path / "half.json")
            come_back(tab, page)
            answered(tab, 5)
        left, right = shown(tab)
        assert (left in candidates) != (right in candidates)
        sides.append(left in candidates)
        tab.press("1" if left in candidates else "2")
    assert tab.run("!document.querySelector('#done').hidden")
    tab.press("Enter")  # the button that saves has the focus
    study = merge_votes([tmp_path / "half.json", *saved(tmp_path, 1)], key)
    assert [ballot.outcome for ballot in study.ballots] == ["duplicate", "complete"]
    assert [(row.for_candidate, row.ties, row.for_reference) for row in study.preferences] == [(3, 0, 0)] * 4
    assert all(len(set(sides[start : start + 4])) == 1 for start in (0, 4, 8))  # one side per pair
    assert tab.problems == []


@needs_chromium
def test_no_difference_and_going_back(report: Path, tmp_path: Path, tab: Browser) -> None:
    key, page = make(report, tmp_path)
    tab.open(page, width=390, height=844, phone=True)
    assert tab.run(
        "document.documentElement.scrollHeight <= innerHeight && document.documentElement.scrollWidth <= innerWidth"
    )
    tab.press("0")
    tab.press("2")
    tab.press("Backspace")
    assert tab.run("document.querySelector('[data-side=\"1\"]').getAttribute('aria-pressed')") == "true"
    tab.press("0")
    tab.click("[data-side='0']")
    tab.press("s")
    study = merge_votes(saved(tmp_path, 1), key)
    assert [row.question for row in study.preferences] == ["realism", "aesthetics", "alignment"]
    assert [row.ties for row in study.preferences] == [1, 1, 0]
    assert tab.problems == []


def come_back(tab: Browser, page: Path) -> None:
    """Show the page anew; what it keeps reaches Chromium's next process a moment after it was kept."""
    time.sleep(1)
    tab.open(page)


def two_tabs(tab: Browser, page: Path) -> tuple[str, str]:
    """The sessions of two tabs that show the page; the driver is in the first."""
    tab.open(page)
    first = other_tab(tab)
    tab.open(page)
    return first, other_tab(tab, first)


@needs_chromium
def test_two_tabs_lose_no_vote(report: Path, tmp_path: Path, tab: Browser) -> None:
    key, page = make(report, tmp_path)
    first, second = two_tabs(tab, page)
    for _ in range(3):
        tab.press("1")
    other_tab(tab, second)
    answered(tab, 3)
    tab.press("0")  # the first question again, later
    tab.press("s")
    study = merge_votes(saved(tmp_path, 1), key)
    assert [row.ties for row in study.preferences] == [1, 0, 0]
    other_tab(tab, first)
    tab.wait("document.querySelector('.questions .done') !== null")
    for _ in range(3):
        tab.press("Backspace")
    tab.wait("document.querySelector('#tie').getAttribute('aria-pressed') === 'true'")
    tab.open(page)
    answered(tab, 3)


@needs_chromium
@pytest.mark.parametrize("key", ["Enter", " "])
def test_a_held_key_votes_once(report: Path, tmp_path: Path, tab: Browser, key: str) -> None:
    _, page = make(report, tmp_path)
    tab.open(page)
    for count in (1, 2):
        hold(tab, "[data-side='0']", key)
        answered(tab, count)
    for _ in range(9):
        tab.press("1")
    hold(tab, "[data-side='0']", key)  # the button that saves has the focus now
    answered(tab, 12)
    time.sleep(0.5)
    assert not list(tmp_path.glob("votes-*.json"))


@needs_chromium
def test_the_next_voter_begins_anew_once_the_votes_are_saved(report: Path, tmp_path: Path, tab: Browser) -> None:
    key, page = make(report, tmp_path)
    _, second = two_tabs(tab, page)
    for _ in range(12):
        tab.press("1")
    closed = "document.querySelector('#next').disabled"
    assert tab.run(closed)
    tab.press("s")
    saved(tmp_path, 1)[0].rename(tmp_path / "early.json")
    assert not tab.run(closed)
    tab.press("Backspace")
    tab.press("2")
    assert tab.run(closed), "one vote has changed since"
    tab.click("#save-all")
    saved(tmp_path, 1)
    tab.click("#next")
    answered(tab, 0)
    assert tab.run("document.querySelector('#done').hidden")
    tab.press("1")
    come_back(tab, page)
    answered(tab, 1)
    other_tab(tab, second)  # it has followed
    answered(tab, 1)
    tab.press("s")
    study = merge_votes([tmp_path / "early.json", *saved(tmp_path, 2)], key)
    assert (study.num_voters, [ballot.num_votes for ballot in study.ballots]) == (2, [12, 12, 1])
    assert tab.problems == []


@needs_chromium
def test_voters_meet_other_orders_and_sides(report: Path, tmp_path: Path, tab: Browser) -> None:
    _, page = make(report, tmp_path)
    first = []
    for _ in range(12):
        tab.open(page)
        first.append(tuple(shown(tab)))
        tab.run("localStorage.clear()")
        tab.open(tmp_path / "study-key.json")
    assert len(set(first)) > 2  # of six
    assert len({frozenset(sides) for sides in first}) > 1


def test_nothing_in_the_page_tells_the_models_apart(report: Path, tmp_path: Path) -> None:
    key, page = make(report, tmp_path)
    text = page.read_text(encoding="utf-8")
    for secret in ("the-base", "the-new", "candidate", "reference", *(64 * letter for letter in "bc"), "models:/"):
        assert secret not in text
    data = json.loads(text.split('id="study">')[1].split("</script>")[0])
    for pair, named in zip(data["pairs"], key.pairs, strict=True):
        assert list(pair["pictures"]) == sorted((named.reference, named.candidate))
    assert "&lt;b&gt;" not in text and "<b>test" not in text  # prompts are data, escaped as JSON
    again = tmp_path / "again"
    assert make(report, again) == (key, again / "study.html")


@pytest.mark.parametrize("kept", ["study.html", "study-key.json"])
def test_an_earlier_study_is_not_written_over(report: Path, tmp_path: Path, kept: str) -> None:
    make(report, tmp_path)
    for path in tmp_path.iterdir():
        if path.name != kept:
            path.unlink()
    before = (tmp_path / kept).read_bytes()
    with pytest.raises(ConfigError, match=rf"{kept} exists.*; give another --out"):
        make(report, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [kept]
    assert (tmp_path / kept).read_bytes() == before


def test_a_model_is_not_compared_with_itself_unless_with_another_prefix(report: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one and other are the same model"):
        pairs_of_entries(load_entry("one", report), load_entry("other", report))
    one, other = (generated(tmp_path / name, "a") for name in ("one", "other"))
    for again in (one, other):
        with pytest.raises(ConfigError, match="are the same model; a study compares two"):
            pairs_of_folders(one, again)
    *_, pairs = pairs_of_folders(one, generated(tmp_path / "dark", "a", prefix="Dark. "))
    assert len(pairs) == 3


def test_the_same_seed_names_alike_only_what_is_alike(tmp_path: Path) -> None:
    """Else the votes of one study could be merged into another."""
    sides = [generated(tmp_path / name, model) for name, model in (("base", "a"), ("one", "b"), ("two", "c"))]
    found = pairs_of_folders(*sides[:2])
    key, again, other = (
        write_study(pairs, tmp_path / f"{name}.html", seed=0)[0]
        for name, pairs in {"first": found, "again": found, "other": pairs_of_folders(sides[0], sides[2])}.items()
    )
    assert again == key
    assert (tmp_path / "again.html").read_bytes() == (tmp_path / "first.html").read_bytes()
    make_picture(32, 9, "b").save(found[2][0].candidate)
    redrawn, _ = write_study(found, tmp_path / "redrawn.html", seed=0)
    names = [{one.study, *(name for pair in one.pairs for name in names_of(pair))} for one in (key, other, redrawn)]
    assert not names[0] & names[1] and not names[0] & names[2]


def names_of(pair: KeyPair) -> tuple[str, str, str]:
    return pair.pair, pair.reference, pair.candidate


def test_of_a_report_only_the_fair_sample_is_asked_about(tmp_path: Path) -> None:
    write_synthetic(tmp_path, make_report(num_prompts=20), size=16, count=12)
    images = Report.model_validate_json((tmp_path / "report.json").read_text()).images
    *_, pairs = pairs_of_entries(load_entry("a", tmp_path, "base"), load_entry("b", tmp_path))
    assert {(pair.prompt, pair.seed) for pair in pairs} == {(i.prompt, i.seed) for i in images if "sample" in i.kept}
    assert len(pairs) < sum(bool(image.kept) for image in images)


def generated(folder: Path, model: str, **changes: str) -> Path:
    """What `generate` writes."""
    folder.mkdir()
    for index in range(3):
        facts = {"prompt": f"a ring {index}", "seed": str(index), "num_steps": "10", "model": model}
        facts |= {"source": model, "base_sha256": 64 * model[0], "transformer_sha256": 64 * model[0]} | changes
        save_png(make_picture(32, index, model), facts, folder / f"{index:04d}.png")
    return folder


def test_folders_of_generate_are_matched_by_prompt_and_seed(tmp_path: Path) -> None:
    base, new = generated(tmp_path / "base", "a"), generated(tmp_path / "new", "b")
    (new / "0000.png").rename(new / "9999.png")
    reference, candidate, pairs = pairs_of_folders(base, new)
    assert (reference.name, candidate.name, candidate.transformer_sha256) == ("base", "new", 64 * "b")
    for pair in pairs:
        for path in (pair.reference, pair.candidate):
            assert Image.open(path).text["prompt"] == pair.prompt
    assert len(pairs) == 3


def test_folders_of_the_same_name_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for parent in "ab":
        (tmp_path / parent).mkdir()
    base, new = generated(tmp_path / "a" / "out", "a"), generated(tmp_path / "b" / "out", "b")
    assert [side.name for side in pairs_of_folders(base, new)[:2]] == ["a/out", "b/out"]
    monkeypatch.chdir(new)
    assert [side.name for side in pairs_of_folders(base, Path())[:2]] == ["a/out", "b/out"], "a folder called `.` too"


def test_folders_that_do_not_match_are_refused(tmp_path: Path) -> None:
    base = generated(tmp_path / "base", "a")
    with pytest.raises(ConfigError, match="num_steps is 10 in .*base and 20 in .*steps"):
        pairs_of_folders(base, generated(tmp_path / "steps", "b", num_steps="20"))
    with pytest.raises(ConfigError, match="3 are in one alone|6 are in one alone"):
        pairs_of_folders(base, generated(tmp_path / "seeds", "b", seed="77"))
    make_picture(32, 0, "x").save(base / "plain.png")
    with pytest.raises(ConfigError, match=r"plain\.png does not say its prompt"):
        pairs_of_folders(base, base)


def voted(key: StudyKey, voter: str, folder: Path) -> Path:
    """The file of a voter who always prefers the candidate."""
    votes = [
        {"pair": pair.pair, "question": "overall", "choice": pair.candidate, "at": "2026-01-01T00:00:00Z"}
        for pair in key.pairs
    ]
    file = {"schema_version": 1, "study": key.study, "voter": voter, "saved": "2026-01-01T00:00:00Z", "votes": votes}
    path = folder / f"{voter}.json"
    path.write_text(json.dumps(file))
    return path


def test_no_voter_is_lost_unasked(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write_synthetic(folder, make_report(num_prompts=5), size=24, count=30)
    key, _ = make(folder, tmp_path)
    first, second, third = (voted(key, name, tmp_path) for name in "abc")

    def merge(*files: Path, by: StudyKey = key, replace: bool = False) -> Study | None:
        add_to_report(merge_votes(files, by), by, folder, replace)
        return Report.model_validate_json((folder / "report.json").read_text()).study

    merge(first, second)
    with pytest.raises(ConfigError, match="holds the votes of 2 voters, and these files lack 1 of them; .* --replace"):
        merge(second, third)
    more = merge(third, second, first)
    assert more and (more.num_voters, more.study, more.voters) == (3, key.study, {"a", "b", "c"})
    (tmp_path / "more").mkdir()
    other = key.model_copy(update={"study": "another"})
    with pytest.raises(ConfigError, match=rf"of another page \({key.study}\), and these files lack 3"):
        merge(voted(other, "d", tmp_path / "more"), by=other)
    replaced = merge(third, replace=True)
    assert replaced and replaced.voters == {"c"}


def test_the_result_enters_the_report_of_the_same_models(report: Path, tmp_path: Path) -> None:
    key, _ = make(report, tmp_path)
    study, page = add_to_report(merge_votes([voted(key, "v", tmp_path)], key), key, report)
    assert (study.reference, study.candidate) == ("base", "candidate")
    assert "What people said" in page.read_text()
    assert Report.model_validate_json((report / "report.json").read_text()).study == study
    assert add_to_report(study, key, report)[0] == study
    turned = key.model_copy(update={"reference": key.candidate, "candidate": key.reference})
    with pytest.raises(ConfigError, match="holds the study of candidate against base, and this one is of base against"):
        add_to_report(study, turned, report)
    other = key.model_copy(update={"candidate": key.candidate.model_copy(update={"transformer_sha256": 64 * "f"})})
    with pytest.raises(ConfigError, match="about the-new, whose weights no model of the report has"):
        add_to_report(study, other, report)


def test_one_adapter_on_two_bases_is_two_models(tmp_path: Path) -> None:
    """Of reports and of pictures; what an earlier version wrote names no base, and two models that it means are one."""
    made = make_report(num_prompts=5)
    bases = {"base": 64 * "1", "candidate": 64 * "2"}
    same = {"transformer_sha256": 64 * "a"}
    models = [model.model_copy(update=same | {"base_sha256": bases[model.label]}) for model in made.models]
    write_synthetic(folder := tmp_path / "run", made.model_copy(update={"models": models}), size=24, count=30)
    drawn = [generated(tmp_path / label, label, base_sha256=base, **same) for label, base in bases.items()]
    of_reports = make(folder, tmp_path)[0]
    of_folders, _ = write_study(pairs_of_folders(*drawn), tmp_path / "folders.html")
    for key in (of_reports, of_folders):
        (votes := tmp_path / key.study).mkdir()
        study, _ = add_to_report(merge_votes([voted(key, "v", votes)], key), key, folder, replace=True)
        assert (study.reference, study.candidate) == ("base", "candidate")
    nameless = [side.model_copy(update={"base_sha256": ""}) for side in (of_reports.reference, of_reports.candidate)]
    before = of_reports.model_copy(update={"reference": nameless[0], "candidate": nameless[1]})
    with pytest.raises(ConfigError, match="does not tell the-base and the-new apart: both are its base"):
        add_to_report(study, before, folder, replace=True)
