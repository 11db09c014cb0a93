"""Buckets by hand, and pictures whose fitted form is known."""

import random

import pytest
from PIL import Image

from srpo.images.buckets import Bucket, enlargement, fit, make_buckets, nearest


def test_buckets_of_flux_at_720_by_hand() -> None:
    """4:3 has sides 831.4 and 623.5, 3:2 881.8 and 587.9, 16:9 960 and 540; each to the nearest 16."""
    assert make_buckets(720, 720, [(1, 1), (4, 3), (3, 2), (16, 9)], 16) == [
        *((720, 720), (624, 832), (832, 624), (592, 880), (880, 592), (544, 960), (960, 544))
    ]


def test_aspects_that_round_to_one_shape_are_one_bucket() -> None:
    assert make_buckets(32, 32, [(1, 1), (4, 3), (3, 2)], 8) == [(32, 32), (24, 40), (40, 24)]
    assert make_buckets(8, 8, [(100, 1)], 8) == [(8, 80), (80, 8)], "no side is nothing"


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(500, 500, (32, 32)), (100, 120, (32, 32)), (100, 140, (24, 40)), (1, 9, (24, 40)), (140, 100, (40, 24))],
)
def test_the_nearest_by_ratio(height: int, width: int, expected: tuple[int, int]) -> None:
    """Between 1 and 5:3 the border is the root of 5/3, 1.29."""
    assert nearest(make_buckets(32, 32, [(1, 1), (5, 3)], 8), height, width) == expected


def test_enlargement_is_that_of_the_side_that_lacks_most() -> None:
    assert enlargement(Bucket(32, 40), 32, 20) == 2
    assert enlargement(Bucket(32, 40), 64, 80) == 0.5


def test_a_picture_of_the_buckets_shape_stays_as_it_is() -> None:
    noise = Image.effect_noise((40, 24), 80).convert("RGB")
    assert fit(noise, Bucket(24, 40)).tobytes() == noise.tobytes()


@pytest.mark.parametrize("upright", [False, True])
def test_what_is_cut_off_lies_at_both_ends(upright: bool) -> None:
    """White beside a black square in the middle: the square alone is left, reduced or enlarged or neither.

    A resampled pixel looks three pixels further, of the coarser picture, so that those at the border see some white.
    """
    for times in (1, 2, 3):
        side, long = 16 * times, 40 * times
        picture = Image.new("RGB", (side, long) if upright else (long, side), "white")
        corner = (long - side) // 2
        picture.paste("black", (0, corner, side, corner + side) if upright else (corner, 0, corner + side, side))
        for size in (8, 16, 32):
            fitted = fit(picture, Bucket(size, size))
            assert fitted.size == (size, size)
            border = 0 if size == side else 3 * max(1, size // side)
            assert fitted.crop((border, border, size - border, size - border)).getextrema() == ((0, 0),) * 3


def test_no_size_of_a_picture_is_refused() -> None:
    """Of a side that is kept whole, rounding may make the box an ulp longer than the picture, which Pillow refuses."""
    buckets = make_buckets(720, 720, [(1, 1), (4, 3), (3, 2), (16, 9)], 16)
    drawn = random.Random(0)
    some = [(drawn.randint(1, 300), drawn.randint(1, 300)) for _ in range(100)]
    for width, height in [(2384, 3445), (2703, 3317), (1739, 938), *some]:
        bucket = nearest(buckets, height, width)
        assert fit(Image.new("L", (width, height)), bucket).size == (bucket.width, bucket.height)
