"""Prompt files in, embeddings out."""

from pathlib import Path

import pytest
import torch

from srpo.artifacts import Weights
from srpo.config import ModelConfig, PromptsConfig
from srpo.errors import ConfigError
from srpo.hub import fetch
from srpo.models import load_text_encoder
from srpo.prompts import embed_prompts, load_prompt_set, read_both, read_prompts, select


def read(path: Path, max_characters: int = 100) -> list[str]:
    return read_prompts(str(path), "train", max_characters)


def test_lines_are_prompts_blank_ones_are_not(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeffa cat \r\n\r\n  ein Hündchen\n", encoding="utf-8")
    assert read(path) == ["a cat", "ein Hündchen"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no prompt"),
        (b"\n  \n", "holds no prompt"),
        (b"a cat\n\x00\x01", "is binary, not UTF-8 text"),
        (b"\xff\xfe\xfa", "is binary, not UTF-8 text"),
        (b"a cat\n" + b"x" * 101, "line 2: 101 characters, more than prompts.max_characters \\(100\\)"),
        (b"a cat\na dog\na cat\n", "the same prompt on lines 1, 3"),
    ],
)
def test_bad_files_are_refused_with_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no prompt file at .*nothing.txt"):
        read(tmp_path / "nothing.txt")


def test_held_out_prompts_may_not_be_trained_on(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a cat\na dog\n")
    (tmp_path / "b.txt").write_text("a dog\na fox\n")
    with pytest.raises(ConfigError, match="1 held-out prompts are also trained on, for instance 'a dog'"):
        read_both(PromptsConfig(train=str(tmp_path / "a.txt"), held_out=str(tmp_path / "b.txt")))


def test_one_held_out_prompt_is_too_few(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a cat\na dog\n")
    (tmp_path / "b.txt").write_text("a fox\n")
    with pytest.raises(ConfigError, match="holds one prompt; intervals need at least two"):
        read_both(PromptsConfig(train=str(tmp_path / "a.txt"), held_out=str(tmp_path / "b.txt")))


def test_embeddings_are_the_encoders_in_the_order_of_the_file(flux_folder: Path, tmp_path: Path) -> None:
    lines = [f"prompt number {i}, with words the world has never seen" for i in range(70)]
    (tmp_path / "train.txt").write_text("\n".join(lines))
    (tmp_path / "held_out.txt").write_text("something else\nand more")
    model = ModelConfig(source=str(flux_folder), height=32, width=32, max_sequence_length=12)
    prompts = PromptsConfig(train=str(tmp_path / "train.txt"), held_out=str(tmp_path / "held_out.txt"))
    snapshot = fetch(str(flux_folder), "model")
    sets = embed_prompts(model, prompts, Weights(model=snapshot, reward=snapshot), tmp_path / "embeddings")
    assert (sets.train.num_prompts, sets.held_out.num_prompts) == (70, 2)
    texts, embeddings = load_prompt_set(sets.train)
    assert texts == lines
    encoder = load_text_encoder(model, flux_folder)
    for row in (0, 33, 69):
        alone = encoder.encode_prompts([lines[row]], 12)
        for name, tensor in select(embeddings, [row]).items():
            torch.testing.assert_close(tensor, alone[name])
