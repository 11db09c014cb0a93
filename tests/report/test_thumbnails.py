"""Which pictures a report keeps, and that they stay small whatever was drawn."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from srpo.report.thumbnails import choose, encode, gain, keep_pictures, picture_path, rank, ranking, spaced
from tests.evaluation.synthetic import make_picture, make_report


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_the_worst_ten_the_best_and_an_even_sample_are_chosen() -> None:
    report = make_report(num_prompts=40, num_seeds=5)
    gains = np.array([gain(report, index, "relative") for index in range(200)])
    chosen = choose(report, 60)
    assert len(chosen) <= 60
    by_reason = {
        why: [place for place, reasons in chosen.items() if why in reasons] for why in ("worst", "best", "sample")
    }
    assert sorted(by_reason["worst"]) == sorted(np.argsort(gains)[:10])
    assert sorted(by_reason["best"]) == sorted(np.argsort(gains)[-10:])
    assert by_reason["sample"] == spaced(200, 40)
    assert rank(report) == list(np.argsort(gains))


@pytest.mark.parametrize("binary", [False, True])
def test_what_the_gate_guards_ranks_first_only_where_it_leaves_ties(binary: bool) -> None:
    """`relative` is guarded, and the wanted metric would never be asked after one that no two images share."""
    report = make_report().model_copy(update={"wanted": "reward"})
    if binary:
        for scores in (scores for image in report.images for scores in image.scores.values()):
            scores["relative"] = float(scores["relative"] > 0)
    assert ranking(report) == (["relative", "reward"] if binary else ["reward"])


@pytest.mark.parametrize("count", [1, 2, 3, 24, 1000])
def test_no_more_are_chosen_than_asked_for_and_the_worst_is_always_there(count: int) -> None:
    report = make_report(num_prompts=10, num_seeds=3)
    chosen = choose(report, count)
    assert len(chosen) <= min(count, 30)
    assert "worst" in chosen[rank(report)[0]]


def test_small_pictures_are_kept_to_the_last_pixel() -> None:
    picture = make_picture(32, 3, "base")
    assert opened(encode(picture, 512, 60_000)).convert("RGB").tobytes() == picture.tobytes()


@pytest.mark.parametrize("max_bytes", [40_000, 8_000, 1_000])
def test_a_picture_keeps_its_budget_and_its_shape(max_bytes: int) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 1200, 3), dtype=np.uint8))
    content = encode(noise, 512, max_bytes)
    assert len(content) <= max_bytes
    width, height = opened(content).size
    assert width <= 512
    assert width / height == pytest.approx(2, abs=0.1)


def test_thumbnails_carry_no_metadata(tmp_path: Path) -> None:
    """A PNG of `generate` names its model in a text field, which a blind study must not show."""
    picture = make_picture(200, 0, "base")
    picture.info["comment"] = "models:/shapes/1"
    content = encode(picture, 512, 60_000)
    assert b"models:/shapes" not in content
    assert set(opened(content).info) <= {"loop", "background", "timestamp", "duration"}


def test_every_model_of_a_kept_set_has_its_own_picture(tmp_path: Path) -> None:
    report = make_report(("a/b", "c@champion", "d"), num_prompts=5)

    def draw(index: int, label: str) -> Path:
        path = tmp_path / "drawn.png"
        make_picture(24, index, label).save(path)
        return path

    kept = keep_pictures(report, draw, tmp_path, choose(report, 5))
    places = [index for index, record in enumerate(kept.images) if record.kept]
    assert 3 <= len(places) <= 5
    assert len(list((tmp_path / "images").iterdir())) == 3 * len(places)
    for index in places:
        for label in ("a/b", "c@champion", "d"):
            found = Image.open(picture_path(tmp_path / "images", kept, index, label)).convert("RGB")
            assert found.tobytes() == make_picture(24, index, label).tobytes()
