"""The world's pictures against geometry, colour theory and counting."""

import math
from collections import Counter

import pytest
import torch

from srpo.meters import METERS, luminance, saturation
from srpo.shapes.measure import texture
from srpo.shapes.render import (
    AXES,
    COLOURS,
    CONTENTS,
    HELD_OUT,
    SEEN,
    SHAPES,
    SIZE,
    STYLES,
    TEXTURE_PERIOD,
    Content,
    blur,
    coverage,
    luma,
    parse_caption,
    pure_colour,
    render,
    styled,
    texture_pattern,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_contents_are_every_shape_and_every_pair_of_colours() -> None:
    assert len(set(CONTENTS)) == len(CONTENTS) == 5 * 6 * 5
    assert not any(content.colour == content.background for content in CONTENTS)


def test_seen_and_held_out_are_disjoint_and_cover_the_world() -> None:
    assert not set(SEEN) & set(HELD_OUT)
    assert set(SEEN) | set(HELD_OUT) == set(CONTENTS)
    assert (len(SEEN), len(HELD_OUT)) == (120, 30)


@pytest.mark.parametrize(
    ("parts", "times"),
    [
        (lambda c: c.shape, 6),
        (lambda c: c.colour, 5),
        (lambda c: c.background, 5),
        (lambda c: (c.colour, c.background), 1),
        (lambda c: (c.shape, c.colour), 1),
        (lambda c: (c.shape, c.background), 1),
    ],
)
def test_the_held_out_contents_are_balanced(parts, times) -> None:
    assert set(Counter(map(parts, HELD_OUT)).values()) == {times}
    assert set(map(parts, HELD_OUT)) == set(map(parts, CONTENTS))


@pytest.mark.parametrize("word", [None, *STYLES])
def test_captions_parse_back(word) -> None:
    assert all(parse_caption(styled(word, content.caption)) == content for content in CONTENTS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red circle",
        "a red circle on a red background",
        "a red hexagon on a blue background",
        "Shiny. a red circle on a blue background",
        "a red circle on a blue background, detailed",
    ],
)
def test_other_captions_are_refused(text) -> None:
    with pytest.raises(ValueError, match="not a caption of the Shapes world"):
        parse_caption(text)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", [7.5, 8.5, 10.0])
def test_every_shape_covers_the_area_of_its_circle(shape, radius) -> None:
    centres = torch.tensor([0.0, 0.3, -1.9])
    areas = coverage([shape] * 3, centres, -centres, torch.full((3,), radius)).sum((1, 2, 3))
    torch.testing.assert_close(areas, torch.full((3,), math.pi * radius**2), rtol=0.015, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_symmetric_and_lie_where_they_should(shape) -> None:
    covered = coverage([shape], torch.tensor([2.0]), torch.tensor([-1.0]), torch.tensor([7.0]))[0, 0]
    axis = torch.arange(SIZE) - (SIZE - 1) / 2
    assert float((covered.sum(0) * axis).sum() / covered.sum()) == pytest.approx(2.0, abs=1e-4)
    rows = (covered.amax(1) > 0.5).nonzero()
    middle = (rows.min() + rows.max()) / 2 - (SIZE - 1) / 2
    assert abs(float(middle) + 1.0) <= 0.5


def test_pure_colours_are_those_of_hsv() -> None:
    expected = [(1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 0.5, 0)]
    hues = torch.tensor([*map(float, COLOURS.values()), 30.0])
    torch.testing.assert_close(pure_colour(hues)[:, :, 0, 0], torch.tensor(expected, dtype=torch.float32))


def test_the_luma_of_white_is_one() -> None:
    torch.testing.assert_close(luma(torch.ones(1, 3, 2, 2)), torch.ones(1, 1, 2, 2))


def test_blur_keeps_constants_and_no_blur_keeps_everything() -> None:
    image = torch.rand(2, 3, SIZE, SIZE, generator=generator())
    torch.testing.assert_close(blur(image, torch.zeros(2)), image)
    torch.testing.assert_close(blur(torch.full_like(image, 0.3), torch.tensor([1.0, 2.0])), torch.full_like(image, 0.3))


def test_blur_spreads_a_point_by_sigma() -> None:
    point = torch.zeros(1, 1, SIZE, SIZE)
    point[..., 16, 16] = 1
    profile = blur(point, torch.tensor([2.0]))[0, 0].sum(0)
    axis = torch.arange(SIZE) - 16.0
    assert float((profile * axis**2).sum().sqrt()) == pytest.approx(2.0, rel=0.01)


def test_the_texture_has_its_period_and_no_mean() -> None:
    pattern = texture_pattern()
    torch.testing.assert_close(pattern.roll(TEXTURE_PERIOD, -1), pattern)
    torch.testing.assert_close(pattern.roll(TEXTURE_PERIOD // 2, -1), -pattern)
    assert abs(float(pattern.mean())) < 1e-6
    assert float(pattern[:4, :4].min()) > 0


def test_the_same_generator_makes_the_same_pictures() -> None:
    first, second = (render(SEEN[:8], [None] * 8, generator(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, render(SEEN[:8], [None] * 8, generator(4)))


@pytest.mark.parametrize("word", [None, *STYLES])
def test_pictures_are_in_range(word) -> None:
    images = render(CONTENTS, [word] * len(CONTENTS), generator())
    assert images.shape == (150, 3, SIZE, SIZE)
    assert images.dtype == torch.float32
    assert 0 <= float(images.min()) <= float(images.max()) <= 1


@pytest.mark.parametrize("axis", AXES)
def test_the_words_of_an_axis_move_its_measure_and_enclose_the_natural_pictures(axis) -> None:
    function = (METERS | {"texture": texture})[axis]
    low, high = AXES[axis]
    means = [float(function(render(CONTENTS, [word] * 150, generator())).mean()) for word in (low, None, high)]
    assert means == sorted(means)


def test_an_unclamped_picture_has_the_luminance_and_saturation_it_was_given() -> None:
    images = render(CONTENTS, ["Pale"] * 150, generator())
    unclamped = ((images > 0) & (images < 1)).flatten(1).all(1)
    saturations = saturation(images[unclamped])
    assert int(unclamped.sum()) > 75
    assert float(saturations.min()) > 0.09 and float(saturations.max()) < 0.23


def test_natural_pictures_leave_room_on_both_sides() -> None:
    bright = luminance(render(CONTENTS * 8, [None] * 1200, generator()))
    assert 0.45 < float(bright.mean()) < 0.5
    assert float(bright.std()) == pytest.approx(0.18, abs=0.02)


def test_bad_requests_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="no style word 'Shiny'"):
        render(SEEN[:1], ["Shiny"], generator())
    with pytest.raises(ValueError, match="2 contents but 1 styles"):
        render(SEEN[:2], [None], generator())


def test_a_content_says_what_it_is() -> None:
    assert Content("circle", "red", "blue").caption == "a red circle on a blue background"
