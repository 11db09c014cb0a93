"""The pairs of a study: two models' pictures of the same prompt and noise, from reports or from folders of `generate`.

Of reports only the fair sample is taken: pictures that were kept for their scores would favour one side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from srpo.errors import ConfigError
from srpo.evaluation.comparison import check_settings
from srpo.evaluation.entries import Entry, Key, settings_of
from srpo.report.schema import Content, same_content
from srpo.report.thumbnails import spaced
from srpo.strict import Strict
from srpo.wording import shortest_end

IDENTITY = {"prompt", "seed", "model", "source", "transformer_sha256", "base_sha256", "prefix"}
"""Text fields of `generate`'s PNGs that name the picture or its model (a registered one brings its prefix); all others
say how it was made."""


class Side(Strict):
    """One of the two models."""

    name: str
    transformer_sha256: str
    base_sha256: str = ""
    """Empty in keys, and of pictures, of earlier versions."""

    @property
    def content(self) -> Content:
        """What it is known by."""
        return self.transformer_sha256, self.base_sha256


@dataclass(frozen=True)
class Pair:
    """What both models drew of one prompt and noise."""

    prompt: str
    seed: int
    reference: Path
    candidate: Path


Pairs = tuple[Side, Side, list[Pair]]
"""The model that is compared with, the judged one, and their pictures."""


def pairs_of_entries(reference: Entry, candidate: Entry) -> Pairs:
    """From two reports, as they kept their pictures.

    ConfigError if there are none in common, settings differ, or both are one model.
    """
    entries = [reference, candidate]
    if same_content(reference.model.content, candidate.model.content):
        raise _one_model(reference.name, candidate.name)
    check_settings(entries, [name for name, metrics in settings_of(entries).items() if metrics])
    fair = [key for key, image in reference.images.items() if "sample" in image.kept and _is_fair(candidate, key)]
    if not fair:
        raise ConfigError(f"{reference.name} and {candidate.name} kept no pictures of the same prompt and seed")
    sides = [_side(entry.name, entry.model.content) for entry in entries]
    return sides[0], sides[1], [Pair(*key, reference.picture(key), candidate.picture(key)) for key in fair]


def pairs_of_folders(reference: Path, candidate: Path) -> Pairs:
    """From two folders that `generate` wrote.

    ConfigError if prompts, seeds or settings differ, or one model with the same prefix drew both.
    """
    homes = [folder.resolve() for folder in (reference, candidate)]
    names = [shortest_end(home, homes) for home in homes]
    (side, prefix, ours), (other, other_prefix, theirs) = map(_read_folder, (reference, candidate), names)
    if same_content(side.content, other.content) and prefix == other_prefix:
        raise _one_model(side.name, other.name)
    if alone := sorted(ours.keys() ^ theirs.keys()):
        raise ConfigError(
            f"{reference} and {candidate} hold different pictures: {len(alone)} are in one alone, such as that of "
            f"{alone[0][0]!r} with seed {alone[0][1]}; generate both from the same prompts and seed"
        )
    for key, (facts, _) in ours.items():
        if other_facts := [name for name in facts if facts[name] != theirs[key][0].get(name)]:
            name = other_facts[0]
            raise ConfigError(
                f"{name} is {facts[name]} in {reference} and {theirs[key][0].get(name)} in {candidate}; "
                "generate both with the same settings"
            )
    return side, other, [Pair(*key, ours[key][1], theirs[key][1]) for key in ours]


def pick(pairs: Sequence[Pair], num_pairs: int | None) -> list[Pair]:
    """All, or so many evenly spaced ones."""
    return [pairs[place] for place in spaced(len(pairs), num_pairs or len(pairs))]


def _is_fair(entry: Entry, key: Key) -> bool:
    return key in entry.images and "sample" in entry.images[key].kept


def _one_model(reference: str, candidate: str) -> ConfigError:
    return ConfigError(f"{reference} and {candidate} are the same model; a study compares two")


def _read_folder(folder: Path, name: str) -> tuple[Side, str, dict[Key, tuple[Mapping[str, Any], Path]]]:
    """The model of a folder, called `name`, the prefix of its prompts, and (prompt, seed) -> (settings, file)."""
    found: dict[Key, tuple[Mapping[str, Any], Path]] = {}
    models: set[tuple[Content, str]] = set()
    for path in sorted(folder.glob("*.png")):
        facts = _facts(path)
        models.add(((facts["transformer_sha256"], facts.get("base_sha256", "")), facts.get("prefix", "")))
        settings = {name: value for name, value in facts.items() if name not in IDENTITY}
        found[facts["prompt"], int(facts["seed"])] = (settings, path)
    if len(models) != 1:
        raise ConfigError(f"{folder} holds PNGs of {len(models)} models; give a folder that one `generate` has written")
    content, prefix = models.pop()
    return _side(name, content), prefix, found


def _side(name: str, content: Content) -> Side:
    transformer, base = content
    return Side(name=name, transformer_sha256=transformer, base_sha256=base)


def _facts(path: Path) -> dict[str, str]:
    """The text fields of a PNG."""
    try:
        with Image.open(path) as picture:
            facts = dict(getattr(picture, "text", {}))
    except UnidentifiedImageError:
        facts = {}
    if missing := [name for name in ("prompt", "seed", "transformer_sha256") if name not in facts]:
        raise ConfigError(f"{path} does not say its {missing[0]}, so it is no picture that `generate` made")
    return facts
