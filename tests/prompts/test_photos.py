"""The prompts that come with the package: as many as they should be, balanced, disjoint, each of a sensible length."""

import re
from collections import Counter
from itertools import combinations

import pytest

from pipelines import fingerprint
from srpo.config import PromptsConfig
from srpo.prompts import Prompt, read_both

PHOTOS = PromptsConfig(train="builtin:photos", held_out="builtin:photos")
CATEGORIES = {"people", "animals", "landscapes", "architecture", "food"}
CATEGORIES |= {"objects", "interiors", "action", "abstract", "text"}
FILLERS = {"a", "an", "the", "of", "in", "on", "at", "by", "its", "and", "with"}


@pytest.fixture(scope="module")
def both() -> tuple[list[Prompt], list[Prompt]]:
    """Read as a run reads them, which refuses duplicates and prompts that are in both sets."""
    return read_both(PHOTOS)


def test_counts_and_categories(both: tuple[list[Prompt], list[Prompt]]) -> None:
    for prompts, of_each in zip(both, (64, 20), strict=True):
        assert Counter(prompt.category for prompt in prompts) == dict.fromkeys(CATEGORIES, of_each)
        assert {prompt.category for prompt in prompts[:10]} == CATEGORIES, "the first few are of every kind"


def test_no_two_prompts_are_nearly_the_same(both: tuple[list[Prompt], list[Prompt]]) -> None:
    """Two of them share at most two fifths of their words, fillers aside."""
    words = [set(re.findall(r"\w+", prompt.text.lower())) - FILLERS for prompts in both for prompt in prompts]
    assert max(len(one & other) / len(one | other) for one, other in combinations(words, 2)) <= 0.4


def test_each_reads_as_a_line_of_its_own(both: tuple[list[Prompt], list[Prompt]]) -> None:
    for text, category in (*both[0], *both[1]):
        assert 20 <= len(text) <= 240 and 4 <= len(text.split()) <= 40, text
        assert re.fullmatch(r"[ -~]+", text) and "  " not in text and text[-1] not in ".,;:", text
        if category == "text":
            assert '"' in text or re.search(r"\d|letters|number", text), f"no words to write in {text!r}"


def test_a_changed_file_is_another_fingerprint(both: tuple[list[Prompt], list[Prompt]]) -> None:
    prints = [fingerprint.of_prompts("builtin:photos", split) for split in ("train", "held_out")]
    assert len({*prints, fingerprint.of_prompts("builtin:shapes", "train")}) == 3
