"""Prompt files are understood line by line, and what is wrong in them is named by its line."""

from pathlib import Path

import pytest

from srpo.config import PromptsConfig
from srpo.errors import ConfigError
from srpo.prompts import Prompt, read_both, read_prompts


def read(path: Path, max_characters: int = 100) -> list[Prompt]:
    return read_prompts(str(path), "train", max_characters)


def test_lines_are_prompts_blank_ones_are_not(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeffa cat \r\n\r\n  ein Hündchen\n", encoding="utf-8")
    assert read(path) == [Prompt("a cat"), Prompt("ein Hündchen")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'category,prompt,source\nanimals,"a cat, asleep",me\n,a red door,\n'),
        ("a.csv", '\ufeffprompt,category\r\n"a cat, asleep",animals\r\n\r\na red door\r\n'),
        ("a.jsonl", '{"prompt": "a cat, asleep", "category": "animals", "id": 7}\n\n{"prompt": " a red door "}\n'),
        ("a.JSONL", '{"prompt": "a cat, asleep", "category": "animals"}\n{"prompt": "a red door", "category": null}'),
        ("a.csv", 'Prompt,PROMPT,prompt,Category\n,,"a cat, asleep",animals\n,,a red door,\n'),
        ("a.tsv", "Prompt\tCategory\tChallenge\tNote\na cat, asleep\tanimals\tBasic\t\na red door\t\tComplex\tGLIDE\n"),
        ("a.json", '[{"prompt": "a cat, asleep", "category": "animals"}, {"prompt": "a red door", "id": 7}]'),
    ],
)
def test_tables_hold_categories(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert read(tmp_path / name) == [Prompt("a cat, asleep", "animals"), Prompt("a red door", "")]


def test_published_lists_as_they_are(tmp_path: Path) -> None:
    """Lines of PartiPrompts, where quotes are text, and the form of HPDv2's benchmark."""
    (tmp_path / "PartiPrompts.tsv").write_text(
        "Prompt\tCategory\tChallenge\tNote\n"
        "bond\tAbstract\tBasic\tBiology-inspired concepts with multiple meanings\n"
        '"G I G G L E" painted in thick colorful lettering\tWorld Knowledge\tWriting & Symbols\t\n',
        encoding="utf-8",
    )
    (tmp_path / "anime.json").write_text(
        '[\n    "A girl with green hair",\n    "two cats, asleep"\n]', encoding="utf-8"
    )
    assert read(tmp_path / "PartiPrompts.tsv") == [
        Prompt("bond", "Abstract"),
        Prompt('"G I G G L E" painted in thick colorful lettering', "World Knowledge"),
    ]
    assert read(tmp_path / "anime.json") == [Prompt("A girl with green hair"), Prompt("two cats, asleep")]


def test_a_file_of_another_kind_is_refused_and_one_without_an_ending_is_text(tmp_path: Path) -> None:
    for name in ("prompts.yaml", "prompts.parquet", "prompts.txt.bak"):
        (tmp_path / name).write_text("a cat\n")
        with pytest.raises(ConfigError, match=rf"prompts\.train: .*{name} is none of \.txt, \.csv, .*\.tsv, \.json;"):
            read(tmp_path / name)
    (tmp_path / "prompts").write_text("a cat\n")
    assert read(tmp_path / "prompts") == [Prompt("a cat")]


def test_a_quoted_prompt_of_two_lines_and_a_line_separator_inside_json(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('prompt\n"a sign\nin the fog"\n')
    (tmp_path / "a.jsonl").write_text('{"prompt": "a sign\u2028in the fog"}\n', encoding="utf-8")
    assert read(tmp_path / "a.csv") == [Prompt("a sign\nin the fog")]
    assert read(tmp_path / "a.jsonl") == [Prompt("a sign\u2028in the fog")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "holds no prompt"),
        ("a.txt", b"\n  \n", "holds no prompt"),
        ("a.txt", b"a cat\n\x00\x01", "line 2, is binary, not UTF-8 text"),
        ("a.txt", b"\xff\xfe\xfa", "line 1, is binary, not UTF-8 text"),
        ("a.csv", b"prompt\na cat\na d\xf6g\n", "line 3, is binary, not UTF-8 text"),
        ("a.txt", b"a cat\n" + b"x" * 101, "line 2: 101 characters, more than prompts.max_characters \\(100\\)"),
        ("a.txt", b"a cat\na dog\na cat\na dog\n", "line 3: the same .* as line 1; line 4: the same .* as line 2"),
        ("a.txt", b"a\n" + b"a\n" * 7, "line 6: the same prompt as line 1; and 2 more"),
        ("a.csv", b"text\na cat\n", "line 1: no column `prompt`"),
        ("a.csv", b"prompt\n", "holds no prompt"),
        ("a.csv", b"prompt,category\na cat,animals\n ,animals\n", "line 3: the prompt is empty"),
        ("a.csv", b"prompt,category\na cat, asleep, at noon\n", 'line 2: more columns .* in "quotes"'),
        ("a.csv", b'prompt\n"a cat" asleep\n', "line 2: not CSV"),
        ("a.jsonl", b'{"prompt": "a cat"}\n{"prompt": \n', "line 2: not JSON"),
        ("a.jsonl", b'{"prompt": "a cat"}\n{"text": "a dog"}\n', 'line 2: no key "prompt"'),
        ("a.jsonl", b'["a cat"]\n', 'line 1: no key "prompt"'),
        ("a.jsonl", b'{"prompt": 7}\n', "line 1: prompt and category must be texts"),
        ("a.jsonl", b'{"prompt": "\\u0020"}\n', "line 1: the prompt is empty"),
        ("a.tsv", b"Prompt\na cat\tasleep\n", "line 2: more columns .* no prompt may hold a tab"),
        ("a.json", b'["a cat",\n "a dog"\n', "line 3: not JSON"),
        ("a.json", b'{"prompt": "a cat"}', "line 1: not a list"),
        ("a.json", b'["a cat", 7, " "]', 'entry 2: no key "prompt"; entry 3: the prompt is empty'),
        ("a.json", b'["a cat", "a cat"]', "entry 2: the same prompt as entry 1"),
    ],
)
def test_bad_files_are_refused_with_the_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read(tmp_path / name)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no prompt file at .*nothing.txt"):
        read(tmp_path / "nothing.txt")
    with pytest.raises(ConfigError, match=r"no 'builtin:mars' here; choose from .*'builtin:photos'"):
        read_prompts("builtin:mars", "train", 100)


def test_held_out_prompts_may_not_be_trained_on(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a cat\na dog\n")
    (tmp_path / "b.csv").write_text("prompt\na dog\na fox\na hen\na cow\nan owl\ntwo cats\nthree mice\n")
    with pytest.raises(ConfigError, match="1 held-out prompts are also trained on, for instance 'a dog'"):
        read_both(PromptsConfig(train=str(tmp_path / "a.txt"), held_out=str(tmp_path / "b.csv")))


@pytest.mark.parametrize("count", [1, 5])
def test_too_few_held_out_prompts_for_a_verdict(tmp_path: Path, count: int) -> None:
    (tmp_path / "a.txt").write_text("a cat\na dog\n")
    (tmp_path / "b.txt").write_text("".join(f"{number} foxes\n" for number in range(count)))
    with pytest.raises(ConfigError, match=f"holds {count}, but at least 6 are needed.* 5 others .*; add more"):
        read_both(PromptsConfig(train=str(tmp_path / "a.txt"), held_out=str(tmp_path / "b.txt")))
