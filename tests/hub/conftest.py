"""A hub on loopback, and a store of the test's own."""

import random
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from srpo.hub import store as store_module
from tests.hub.hub_server import HubServer


def content(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The local store of a test; nothing waits, nothing is read of the user's own settings."""
    monkeypatch.setattr(store_module, "PAUSE", 0)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("SRPO_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    server = HubServer()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    yield server
    server.close()
