"""Files and folders: whole or absent, for every writer."""

import os
from pathlib import Path
from threading import Thread

import pytest

from srpo.files import atomic_file, atomic_folder, link_or_copy, write_atomic, written_in


def test_a_folder_that_was_not_finished_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with atomic_folder(target) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_folder(target) as folder:
        (folder / "a").write_text("new, half")
        raise KeyboardInterrupt
    assert (target / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
    with atomic_folder(target) as folder:
        (folder / "b").write_text("new")
    assert [file.name for file in target.iterdir()] == ["b"]


def test_a_file_that_was_not_finished_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "made" / "file"
    write_atomic(path, "old")
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as staging:
        staging.write_text("new, half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_file(path) as staging:
        staging.write_text("half of ")
        other = Thread(target=write_atomic, args=(path, "the other's"))
        other.start()
        other.join()
        assert path.read_text() == "the other's"
        with staging.open("a") as file:
            file.write("mine")
    assert path.read_text() == "half of mine"


@pytest.mark.parametrize("shared", [True, False])
def test_what_a_link_leads_to_is_shared_or_copied(
    shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("another disk")

    if not shared:
        monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "content").write_text("content")
    (tmp_path / "link").symlink_to(tmp_path / "content")
    link_or_copy(tmp_path / "link", tmp_path / "target")
    assert not (tmp_path / "target").is_symlink()
    assert (tmp_path / "target").read_text() == "content"
    assert (tmp_path / "target").samefile(tmp_path / "content") == shared


def test_what_is_not_whole_counts_as_still_to_be_written(tmp_path: Path) -> None:
    for name, size in (("update-000001", 3), (".update-000002.partial", 5)):
        (folder := tmp_path / ".srpo" / "checkpoints" / name).mkdir(parents=True)
        (folder / "transformer.safetensors").write_bytes(bytes(size))
    assert written_in(tmp_path / ".srpo") == 3
