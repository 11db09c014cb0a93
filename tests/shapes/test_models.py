"""Tokenizers and configurations: the world's words are whole tokens, and no text breaks them."""

from pathlib import Path

import open_clip
import pytest
import torch

from srpo.shapes import TEXT_TOKENS
from srpo.shapes.build.reward import tokenizer as reward_tokenizer
from srpo.shapes.build.text import random_text_encoders
from srpo.shapes.models import (
    BPE_NAME,
    CLIP_TOKENS,
    WORDS,
    autoencoder,
    byte_symbols,
    clip_tokenizer,
    learn_merges,
    reward_config,
    scheduler,
    t5_tokenizer,
    write_bpe,
)
from srpo.shapes.render import CONTENTS, STYLES, styled

CAPTIONS = [styled(word, content.caption) for content in CONTENTS for word in (None, *STYLES)]
STRANGE = ["", "   ", "漢字 🦊 und ähnliches", "x" * 5000, "Hyper-realistic; 8k!! <|endoftext|> </s>", "a\tb\x00c"]


def test_byte_symbols_are_those_of_open_clip() -> None:
    assert byte_symbols() == list(open_clip.tokenizer.bytes_to_unicode().values())


def test_merges_build_every_word() -> None:
    built = {"".join(pair) for pair in learn_merges(WORDS)}
    assert {f"{word}</w>" for word in WORDS if len(word) > 1} <= built


@pytest.mark.parametrize("make", [clip_tokenizer, t5_tokenizer])
def test_every_word_of_the_world_is_one_token(make) -> None:
    tokenizer = make()
    words = [caption.replace(".", " .").split() for caption in CAPTIONS]
    ids = tokenizer(CAPTIONS, add_special_tokens=False).input_ids
    assert list(map(len, ids)) == list(map(len, words))
    assert len(set(map(tuple, ids))) == len(CAPTIONS)


def test_the_longest_caption_fits() -> None:
    for tokenizer, limit in ((t5_tokenizer(), TEXT_TOKENS), (clip_tokenizer(), CLIP_TOKENS)):
        assert max(map(len, tokenizer(CAPTIONS).input_ids)) <= limit


def test_all_three_tokenizers_stand_any_text(tmp_path: Path) -> None:
    write_bpe(tmp_path / BPE_NAME)
    tokens, pooled = random_text_encoders(0).encode(STRANGE)
    assert tokens.shape == (len(STRANGE), TEXT_TOKENS, 64)
    assert bool(tokens.isfinite().all() and pooled.isfinite().all())
    assert reward_tokenizer(tmp_path)(STRANGE).shape == (len(STRANGE), CLIP_TOKENS)


def test_the_reward_and_the_base_model_spell_alike(tmp_path: Path) -> None:
    write_bpe(tmp_path / BPE_NAME)
    ids = reward_tokenizer(tmp_path)(CAPTIONS)
    theirs = clip_tokenizer()(CAPTIONS).input_ids
    assert all(row[: len(own)].tolist() == own for row, own in zip(ids, theirs, strict=True))
    assert int(ids.max()) == reward_config()["text_cfg"]["vocab_size"] - 1


def test_text_encoders_tell_all_captions_apart() -> None:
    tokens, pooled = random_text_encoders(0).encode(CAPTIONS)
    for features in (tokens.flatten(1), pooled):
        assert float(torch.cdist(features, features).fill_diagonal_(torch.inf).min()) > 0.05


def test_text_encoders_are_seeded_and_frozen() -> None:
    first, second = (random_text_encoders(1) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first.encode(CAPTIONS[:3]), second.encode(CAPTIONS[:3]), strict=True))
    assert not any(parameter.requires_grad for parameter in (*first.clip.parameters(), *first.t5.parameters()))


def test_latents_are_a_quarter_of_the_picture() -> None:
    vae = autoencoder()
    with torch.no_grad():
        latents = vae.encode(torch.zeros(1, 3, 32, 32)).latent_dist.mean
        assert latents.shape == (1, 8, 8, 8)
        assert vae.decode(latents).sample.shape == (1, 3, 32, 32)


def test_the_schedule_is_the_shift_of_equal_steps() -> None:
    schedule = scheduler()
    equal = torch.linspace(1, 0, 11)[:-1]
    schedule.set_timesteps(sigmas=equal.tolist())
    torch.testing.assert_close(schedule.sigmas[:-1], 3 * equal / (1 + 2 * equal))
