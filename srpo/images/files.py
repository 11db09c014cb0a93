"""Image files with captions in, pictures to train on out; all that is wrong is named at once, before any work.

    a folder         every image below it, each with its caption in a text file beside it: cat.jpg, cat.txt
    a table          .csv, .tsv, .jsonl or .json: columns or keys `path`, relative to the file, and `caption`

Images are turned upright by their EXIF tag and laid on white where they are transparent. Other files are left alone.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import ExifTags, Image, ImageOps

from srpo.errors import ConfigError
from srpo.images.buckets import Bucket, enlargement, nearest
from srpo.prompts.files import text_problem
from srpo.tables import TABLES, read_text

SETTING = "images.source"
SUFFIXES = {".avif", ".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".jxl", ".png", ".tif", ".tiff", ".webp"}
"""What counts as an image of a folder, readable or not."""
MODES = {"1", "CMYK", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr"}
"""Pillow's modes of 8 bits a channel, which it converts to RGB as they are meant."""
TURNED = {5, 6, 7, 8}
"""EXIF orientations that swap width and height."""
PROBLEMS_SHOWN = 50


class ListedImage(NamedTuple):
    """What a source says of one image."""

    name: str
    path: Path | None
    """None where it does not say."""
    caption: str
    problem: str = ""


class Facts(NamedTuple):
    """What an image file says of itself; height and width upright, in pixels."""

    height: int
    width: int
    transparent: bool


@dataclass(frozen=True)
class Picture:
    """An image that can be trained on."""

    path: Path
    caption: str
    bucket: Bucket
    transparent: bool
    """Somewhere; it is laid on white."""

    def open(self) -> Image.Image:
        """Upright, in RGB."""
        with Image.open(self.path) as file:
            upright = ImageOps.exif_transpose(file)
            if not upright.has_transparency_data:
                return upright.convert("RGB")
            white = Image.new("RGBA", upright.size, "white")
            return Image.alpha_composite(white, upright.convert("RGBA")).convert("RGB")


@dataclass(frozen=True)
class Rules:
    """What images are brought to, and which are refused."""

    buckets: Sequence[Bucket]
    max_upscale: float
    max_characters: int
    """Of a caption."""


def read_pictures(source: Path, rules: Rules) -> list[Picture]:
    """All images of a source, in its order; ConfigError names every one that cannot be used, and why."""
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
        read = list(pool.map(lambda entry: _read(entry, rules), find(source)))
    problems = [line for line in read if isinstance(line, str)]
    if problems:
        more = f"\n  and {len(problems) - PROBLEMS_SHOWN} more" if len(problems) > PROBLEMS_SHOWN else ""
        shown = "".join(f"\n  {line}" for line in problems[:PROBLEMS_SHOWN])
        raise ConfigError(f"{SETTING}: {len(problems)} of {len(read)} images in {source} cannot be used:{shown}{more}")
    if not read:
        raise ConfigError(f"{SETTING}: {source} holds no image; give a folder of images, or a table of paths")
    return [picture for picture in read if isinstance(picture, Picture)]


def find(source: Path) -> Iterator[ListedImage]:
    """The images that a source names, unopened, in a fixed order."""
    if source.is_dir():
        files = (file for file in sorted(source.rglob("*")) if file.suffix.lower() in SUFFIXES and file.is_file())
        return (_beside(file, source) for file in files if not file.name.startswith("."))
    if source.suffix.lower() not in TABLES:
        raise ConfigError(f"{SETTING}: {source} is neither a folder nor one of {', '.join(TABLES)}")
    return _listed(source)


def _beside(file: Path, folder: Path) -> ListedImage:
    """An image with the text file of the same name."""
    name, sidecar = file.relative_to(folder).as_posix(), file.with_suffix(".txt")
    try:
        return ListedImage(name, file, sidecar.read_text(encoding="utf-8-sig").strip())
    except FileNotFoundError:
        return ListedImage(name, file, "", f"no caption; write one into {sidecar.name} beside it")
    except UnicodeDecodeError:
        return ListedImage(name, file, "", f"{sidecar.name} is not UTF-8 text")
    except OSError as error:
        return ListedImage(name, file, "", f"{sidecar.name} cannot be read ({error.strerror})")


def _listed(table: Path) -> Iterator[ListedImage]:
    """The rows of a table."""
    for place, fields in TABLES[table.suffix.lower()](read_text(table, SETTING), ["path", "caption"]):
        if isinstance(fields, str):
            yield ListedImage(place, None, "", fields)
        else:
            yield ListedImage(f"{place}, {fields['path']}", table.parent / fields["path"], fields["caption"])


def _read(entry: ListedImage, rules: Rules) -> Picture | str:
    """A picture, or all that is wrong with it."""
    problems = [entry.problem or text_problem(entry.caption, rules.max_characters, "caption")]
    if entry.path is None:
        return f"{entry.name}: {entry.problem}"
    facts = look(entry.path)
    if isinstance(facts, Facts):
        bucket = nearest(rules.buckets, facts.height, facts.width)
        problems.append(_too_small(facts, bucket, rules.max_upscale))
        if not any(problems):
            return Picture(entry.path, entry.caption, bucket, facts.transparent)
    else:
        problems.append(facts)
    return f"{entry.name}: {'; '.join(filter(None, problems))}"


def _too_small(facts: Facts, bucket: Bucket, max_upscale: float) -> str:
    times = enlargement(bucket, facts.height, facts.width)
    if times <= max_upscale:
        return ""
    return (
        f"{facts.width}x{facts.height} would be enlarged {times:.2f} times to cover {bucket.width}x{bucket.height}, "
        f"more than images.max_upscale ({max_upscale:g})"
    )


def look(path: Path) -> Facts | str:
    """What an image file is, read to its end, or why it cannot be used."""
    try:
        state = path.stat()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return _look(path, state.st_size, state.st_mtime_ns)


@cache
def _look(path: Path, size: int, changed: int) -> Facts | str:
    """Remembered while the file stays as it is: a run looks when it is planned and when it encodes."""
    try:
        with Image.open(path) as image:
            if getattr(image, "is_animated", False) and image.format != "MPO":  # a camera's, with a preview behind it
                return f"has {image.n_frames} frames, but a still image is needed"  # type: ignore[attr-defined]
            if image.mode not in MODES:
                return f"cannot be shown in RGB (its mode is {image.mode}); save it with 8 bits a channel"
            height, width = image.height, image.width
            turned = image.getexif().get(ExifTags.Base.Orientation) in TURNED
            transparent = _transparent(image)
    except Exception as error:  # broken files fail in many ways, each with a type of its own
        return f"cannot be read ({error or type(error).__name__})"
    return Facts(width, height, transparent) if turned else Facts(height, width, transparent)


def _transparent(image: Image.Image) -> bool:
    """Whether any of it is; decodes the image, coarsely where its format can."""
    image.draft("RGB", (image.width // 8, image.height // 8))
    image.load()
    return image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] != 255
