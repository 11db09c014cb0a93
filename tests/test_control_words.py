"""Words files: what each row means, and that every bad line is named."""

from pathlib import Path

import pytest

from srpo.config import PreferenceConfig
from srpo.control_words import ControlWords, check_prompts, control_words
from srpo.errors import ConfigError

RUN = (("Real",), ("Flat", "Oil"))
CSV = """prompt,first_update,last_update,positive,negative
"a castle, at night",,,Moonlit|Dark,Bright
,3,10,Warm,
a dog,,,,Cat
,11,11,,Cold
"""
JSONL = """{"prompt": "a castle, at night", "positive": ["Moonlit", "Dark"], "negative": ["Bright"]}

{"first_update": 3, "last_update": 10, "positive": ["Warm"]}
{"prompt": "a dog", "negative": "Cat"}
{"first_update": 11, "last_update": 11, "negative": ["Cold"]}
"""


def read(folder: Path, name: str, text: str) -> ControlWords:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return control_words(PreferenceConfig(positive=RUN[0], negative=RUN[1], words_file=str(path)))


@pytest.mark.parametrize(("name", "text"), [("words.csv", CSV), ("words.jsonl", JSONL)])
def test_a_prompts_words_come_before_a_ranges_and_a_ranges_before_the_runs(
    name: str, text: str, tmp_path: Path
) -> None:
    words = read(tmp_path, name, text)
    assert words.of("a castle, at night", 5) == (("Moonlit", "Dark"), ("Bright",))
    assert words.of("a dog", 5) == (("Warm",), ("Cat",))
    assert words.of("a cat", 2) == RUN
    assert words.of("a cat", 3) == words.of("a cat", 10) == (("Warm",), RUN[1])
    assert words.of("a cat", 11) == (RUN[0], ("Cold",))


def test_without_a_file_every_prompt_has_the_runs_words() -> None:
    words = control_words(PreferenceConfig(positive=RUN[0], negative=RUN[1]))
    assert words.of("a cat", 7) == RUN
    assert words.digest is None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("w.csv", "prompt,positive\na cat,Real\na dog,\n", r"w.csv, line 3: give positive or negative words"),
        ("w.csv", "prompt,positiv\na cat,Real\n", r"line 2: positiv: Extra inputs"),
        ("w.csv", "prompt,positive\na cat, asleep,Real\n", r'line 2: more columns .* put a prompt .* in "quotes"'),
        ("w.csv", "prompt,positive\na cat,Real|\n", r"line 2: positive.1"),
        ("w.csv", "positive\nReal\n", r"line 2: give either a prompt or first_update"),
        ("w.csv", "first_update,last_update,positive\n9,3,Real\n", r"line 2: .* rising range, got 9 to 3"),
        ("w.csv", "first_update,last_update,positive\n0,3,Real\n", r"line 2: first_update"),
        ("w.csv", "first_update,positive\n4,Real\n", r"rising range, got 4 to None"),
        ("w.csv", "prompt,positive\na,X\nb,Y\na,Z\n", r"line 4: the same prompt as line 2"),
        ("w.csv", "first_update,last_update,positive\n5,9,X\n1,5,Y\n", r"line 2: update 5 is also in .* line 3"),
        ("w.csv", "prompt,positive\n", r"holds no row"),
        ("w.jsonl", '{"prompt": "a", "positive": []}\n{"prompt"\n', r"w.jsonl, line 2: not valid JSON"),
        ("w.jsonl", '{"prompt": "a", "positive": []}\n5\n', r"line 1: positive(.|\n)*line 2: "),
        ("w.txt", "Real", r"w.txt must end in .csv or .jsonl"),
    ],
)
def test_bad_lines_are_named_by_their_number(name: str, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, name, text)


def test_a_file_that_is_missing_or_no_text_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        control_words(PreferenceConfig(words_file=str(tmp_path / "gone.csv")))
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        control_words(PreferenceConfig(words_file=str(tmp_path / "binary.csv")))


def test_a_prompt_may_hold_what_some_call_the_end_of_a_line(tmp_path: Path) -> None:
    words = read(tmp_path, "words.jsonl", '{"prompt": "a cat\u2028at night", "positive": ["Dark"]}\n')
    assert words.of("a cat\u2028at night", 1) == (("Dark",), RUN[1])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("w.csv", "prompt,first_update,positive\n a cat ,  , Dark \n"),
        ("w.jsonl", '{"prompt": " a cat ", "positive": " Dark "}\n'),
    ],
)
def test_spaces_around_a_prompt_are_no_part_of_it_as_in_prompt_files(name: str, text: str, tmp_path: Path) -> None:
    words = read(tmp_path, name, text)
    check_prompts(words, ["a cat"])
    assert words.of("a cat", 1) == (("Dark",), RUN[1])


def test_words_for_a_prompt_that_is_not_trained_on_are_refused(tmp_path: Path) -> None:
    words = read(tmp_path, "words.csv", CSV)
    check_prompts(words, ["a dog", "a castle, at night", "a cat"])
    with pytest.raises(ConfigError, match="1 of its prompts are not in prompts.train, for instance 'a dog'"):
        check_prompts(words, ["a castle, at night"])
