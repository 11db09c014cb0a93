"""Hashes are remembered only as long as they are true."""

import hashlib
import os
import threading
from pathlib import Path

import pytest

from srpo.hub import digests


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read."""
    seen: list[Path] = []
    read = digests._read
    monkeypatch.setattr(digests, "REMEMBERED", 1)
    monkeypatch.setattr(digests, "_read", lambda path: (seen.append(path), read(path))[1])
    return seen


def settled(path: Path, content: bytes, age: float = 60) -> Path:
    """A file that was last changed a while ago."""
    path.write_bytes(content)
    then = path.stat().st_mtime - age
    os.utime(path, (then, then))
    return path


def test_an_unchanged_file_is_read_once(tmp_path: Path, reads: list[Path]) -> None:
    path = settled(tmp_path / "a", b"alpha")
    assert {digests.sha256(path) for _ in range(3)} == {hashlib.sha256(b"alpha").hexdigest()}
    assert reads == [path]


def test_a_link_shares_what_is_known_of_its_file(tmp_path: Path, reads: list[Path]) -> None:
    path = settled(tmp_path / "a", b"alpha")
    (tmp_path / "b").symlink_to(path)
    assert digests.sha256(path) == digests.sha256(tmp_path / "b")
    assert reads == [path]


@pytest.mark.parametrize("change", ["later", "longer", "replaced"])
def test_any_change_is_seen(tmp_path: Path, reads: list[Path], change: str) -> None:
    path = settled(tmp_path / "a", b"alpha")
    digests.sha256(path)
    facts = path.stat()
    if change == "replaced":
        settled(tmp_path / "b", b"other").replace(path)
    else:
        path.write_bytes(b"other" if change == "later" else b"alphabet")
    if change != "later":
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert digests.sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_still_being_changed_is_not_believed(tmp_path: Path, reads: list[Path]) -> None:
    path = settled(tmp_path / "a", b"alpha", age=0)
    digests.sha256(path)
    facts = path.stat()
    path.write_bytes(b"other")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert digests.sha256(path) == hashlib.sha256(b"other").hexdigest()


def test_many_at_once_lose_nothing(tmp_path: Path, reads: list[Path]) -> None:
    paths = [settled(tmp_path / str(number), bytes([number])) for number in range(8)]
    threads = [threading.Thread(target=digests.sha256, args=(path,)) for path in paths]
    for step in (threading.Thread.start, threading.Thread.join):
        for thread in threads:
            step(thread)
    for path in paths:
        digests.sha256(path)
    assert sorted(reads) == sorted(paths)


def test_a_store_that_cannot_be_written_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "REMEMBERED", 1)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SRPO_STORE", str(tmp_path / "file" / "store"))
    assert digests.sha256(settled(tmp_path / "a", b"alpha")) == hashlib.sha256(b"alpha").hexdigest()
