"""Aspect buckets: a few shapes of about one area that images are brought to, because a batch has one shape."""

from collections.abc import Sequence
from math import log, sqrt
from typing import NamedTuple

from PIL import Image


class Bucket(NamedTuple):
    """The shape of some images, in pixels."""

    height: int
    width: int


def make_buckets(height: int, width: int, aspects: Sequence[tuple[int, int]], multiple: int) -> list[Bucket]:
    """Each aspect lying and upright, with the area of `height` x `width`, its sides rounded to `multiple` pixels."""

    def side(square: float) -> int:
        return max(1, round(sqrt(square) / multiple)) * multiple

    turned = [sides for a, b in aspects for sides in ((a, b), (b, a))]
    area = height * width
    return list(dict.fromkeys(Bucket(side(area * up / across), side(area * across / up)) for across, up in turned))


def nearest(buckets: Sequence[Bucket], height: int, width: int) -> Bucket:
    """The bucket whose aspect is closest by ratio; of equally close ones the first."""
    return min(buckets, key=lambda bucket: abs(log(bucket.width * height / (bucket.height * width))))


def enlargement(bucket: Bucket, height: int, width: int) -> float:
    """How many times an image has to be enlarged to cover the bucket; below 1 it is reduced."""
    return max(bucket.height / height, bucket.width / width)


def fit(picture: Image.Image, bucket: Bucket) -> Image.Image:
    """The picture resized to cover the bucket and cropped about its centre, in one resampling (Lanczos)."""
    scale = enlargement(bucket, picture.height, picture.width)
    left = max(0, (picture.width - bucket.width / scale) / 2)  # of a side that is kept whole: 0, or off by rounding
    top = max(0, (picture.height - bucket.height / scale) / 2)
    box = left, top, picture.width - left, picture.height - top
    return picture.resize((bucket.width, bucket.height), Image.Resampling.LANCZOS, box)
