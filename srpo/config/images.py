"""Real images to train on, instead of rollouts."""

from typing import Self

from pydantic import Field, model_validator

from srpo.config.base import Settings
from srpo.tables import TABLES


class ImagesConfig(Settings):
    """Real images with captions: their latents take the place of rollouts (the paper's offline mode)."""

    source: str
    """A folder, or s3://bucket/prefix, where each image has its caption beside it (`cat.jpg`, `cat.txt`); or a .csv,
    .tsv, .jsonl or .json file with `path` (relative to the file) and `caption`."""
    until_update: int | None = Field(default=None, gt=0)
    """Updates up to this one take images, later ones roll out; null: all take images, and `prompts.train` and
    `rollout` are not read."""
    aspects: tuple[tuple[int, int], ...] = Field(default=((1, 1), (4, 3), (3, 2), (16, 9)), min_length=1)
    """Shapes that images are brought to (two sides' ratio, lying and upright), each with the area of
    `model.height` x `model.width`; an image goes to the nearest: resized to cover it, cropped about its centre."""
    max_upscale: float = Field(default=1.0, ge=1)
    """How many times an image may be enlarged; a smaller one is refused."""

    @model_validator(mode="after")
    def can_be_read(self) -> Self:
        """Say which sources and shapes there are."""
        remote = "://" in self.source
        if remote and not self.source.startswith("s3://"):
            raise ValueError(f"source {self.source!r} is neither a path nor s3://bucket/prefix; fetch it first")
        if remote and self.source.lower().endswith(tuple(TABLES)):
            raise ValueError(f"source {self.source!r}: a table must lie beside its images; give a prefix, or fetch it")
        if wrong := [aspect for aspect in self.aspects if min(aspect) < 1]:
            raise ValueError(f"aspects {wrong} must be pairs of positive sides, such as [4, 3]")
        return self
