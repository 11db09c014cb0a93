"""Prompts and control words in a bucket, as pods that share no disk read them: as in a file, and always new."""

from pathlib import Path
from typing import Any

import pytest

from pipelines import fingerprint
from pipelines.cluster.remote import for_pods
from srpo.config import PreferenceConfig, load_config
from srpo.control_words import control_words
from srpo.errors import ConfigError
from srpo.generate import read_texts
from srpo.plan import make_plan
from srpo.prompts import read_prompts
from srpo.shapes import heldout_captions, seen_captions
from tests.conftest import CONFIG, SHORT
from tests.s3 import BUCKET

TRAIN, WORDS = f"s3://{BUCKET}/data/train.csv", f"s3://{BUCKET}/data/words.csv"
CAPTIONS = list(seen_captions())[:20]


def put(bucket: Any, source: str, lines: list[str]) -> None:
    bucket.put_object(Bucket=BUCKET, Key=source.removeprefix(f"s3://{BUCKET}/"), Body="\n".join(lines).encode())


def read() -> list[str]:
    return [prompt.text for prompt in read_prompts(TRAIN, "train", 200)]


@pytest.fixture
def prompts(bucket: Any) -> Any:
    """The bucket, with a file of prompts."""
    put(bucket, TRAIN, ["prompt", *CAPTIONS])
    return bucket


def test_new_prompts_in_the_bucket_are_read_and_known_as_new(prompts: Any) -> None:
    assert read() == CAPTIONS
    before = fingerprint.of_prompts(TRAIN, "train")
    assert fingerprint.of_prompts(TRAIN, "train") == before
    put(prompts, TRAIN, ["prompt", *CAPTIONS[:5]])
    assert read() == CAPTIONS[:5]
    assert fingerprint.of_prompts(TRAIN, "train") != before


def test_pictures_can_be_made_from_them(prompts: Any) -> None:
    assert read_texts(TRAIN) == CAPTIONS
    assert read_texts("builtin:shapes") == list(heldout_captions())
    assert read_texts("a poster that says s3://bucket") == ["a poster that says s3://bucket"]
    with pytest.raises(ConfigError, match="nowhere"):
        read_texts(f"s3://{BUCKET}/nowhere.txt")


def test_what_was_read_before_answers_while_the_bucket_does_not(prompts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read() == CAPTIONS
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert read() == CAPTIONS


def test_a_run_in_pods_can_be_planned_with_them(prompts: Any, tmp_path: Path) -> None:
    put(prompts, WORDS, ["prompt,positive", f"{CAPTIONS[0]},Bright"])
    config = load_config(CONFIG, (*SHORT, f"prompts.train={TRAIN}", f"preference.words_file={WORDS}"))
    assert for_pods(config, f"s3://{BUCKET}/storage").prompts == config.prompts
    found = {check.subject: check.finding for check in make_plan(config, tmp_path).checks}
    assert "20" in found["prompts"] and "1 prompts and 0 ranges differ" in found["words"]
    assert control_words(config.preference).of(CAPTIONS[0], 1) == (("Bright",), ("Dark",))


@pytest.mark.usefixtures("bucket")
def test_what_is_not_there_is_told_by_its_address() -> None:
    with pytest.raises(ConfigError, match=f"{TRAIN} holds nothing"):
        read()
    with pytest.raises(ConfigError, match=f"{WORDS} holds nothing"):
        control_words(PreferenceConfig(words_file=WORDS))
    with pytest.raises(ConfigError, match=r"prompts: 'ftp://x/y.txt' is not a path"):
        read_prompts("ftp://x/y.txt", "train", 200)
