"""The durable copy: one node leaves files, another with an empty disk takes them, and nobody sees half of anything."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srpo.artifacts import FileEntry, Snapshot, Trained
from srpo.config import StorageConfig, parse_config
from srpo.durable import Mirror, mirror_of
from srpo.errors import ConfigError, UnreachableError
from srpo.hub import snapshot
from tests.durable.conftest import REMOTE
from tests.s3 import BUCKET

Node = Callable[[str], Mirror]
FILES = {"a.txt": b"first", "deep/er/b.bin": bytes(range(256)) * 40, "empty": b""}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def read(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def keys(bucket: Any) -> list[str]:
    return [entry["Key"] for entry in bucket.list_objects_v2(Bucket=BUCKET).get("Contents", [])]


def test_another_node_finds_the_folder_at_its_own_place(node: Node) -> None:
    first, second = node("first"), node("second")
    sent = first.push(write(first.root / "runs" / "one", FILES))
    assert sent == sum(map(len, FILES.values()))
    there = second.local(first.root / "runs" / "one")
    assert there == second.root / "runs" / "one"
    assert second.fetch(there)
    assert read(there) == FILES


def test_a_snapshot_is_held_while_each_of_its_files_is_here_or_in_the_copy(node: Node, bucket: Any) -> None:
    first, second = node("first"), node("second")
    folder = write(first.root / "runs" / "one", FILES)
    recorded = snapshot(folder, "one")
    assert first.holds(recorded) and Mirror(None, first.root).holds(recorded)
    assert not second.holds(recorded)
    first.push(folder)
    assert second.holds(recorded) and not list(second.root.rglob("*.txt")), "nothing is brought"
    (key,) = (key for key in keys(bucket) if "/a.txt/" in key)
    bucket.delete_object(Bucket=BUCKET, Key=key)
    assert not second.holds(recorded) and first.holds(recorded)
    write(folder, {"a.txt": b"other"})
    assert not first.holds(recorded)


def test_only_what_changed_is_sent_again_and_what_it_replaced_goes(node: Node, bucket: Any) -> None:
    mirror = node("first")
    folder = write(mirror.root / "runs" / "one", FILES)
    mirror.push(folder)
    before = keys(bucket)
    assert mirror.push(folder) == 0
    assert keys(bucket) == before
    write(folder, {"a.txt": b"second!"})
    bucket.put_object(Bucket=BUCKET, Key="copy/runs/one/a.txt/0123", Body=b"of a node that was lost before")
    assert mirror.push(folder) == len(b"second!")
    gone, new = ({f"copy/runs/one/a.txt/{hashlib.sha256(text).hexdigest()}"} for text in (b"first", b"second!"))
    assert set(keys(bucket)) == set(before) - gone | new


def test_files_of_two_writers_of_a_shared_folder_add_up(node: Node) -> None:
    first, second, third = node("first"), node("second"), node("third")
    first.push(write(first.root / "embeddings", {"one": b"1"}), shared=True)
    second.push(write(second.root / "embeddings", {"two": b"2"}), shared=True)
    third.fetch(third.root / "embeddings")
    assert read(third.root / "embeddings") == {"one": b"1", "two": b"2"}


def test_a_folder_without_its_manifest_is_not_there(node: Node, bucket: Any) -> None:
    first, second = node("first"), node("second")
    folder = write(first.root / "runs" / "one", FILES)
    first.push(folder)
    assert second.folders(second.root / "runs") == ["one"]
    bucket.delete_object(Bucket=BUCKET, Key="copy/runs/one/manifest.json")
    assert second.folders(second.root / "runs") == []
    assert not second.fetch(second.root / "runs" / "one")
    assert read(second.root) == {}


def test_a_removed_folder_leaves_nothing(node: Node, bucket: Any) -> None:
    mirror = node("first")
    folder = write(mirror.root / "runs" / "one", FILES)
    mirror.push(folder)
    bucket.put_object(Bucket=BUCKET, Key="copy/runs/one/large/0123", Body=b"of an upload that never became whole")
    mirror.remove(folder)
    assert keys(bucket) == []


def test_fetching_locks_this_node_alone(node: Node, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nodes that share a store fill disks of their own, all at the same path: none waits for another."""
    monkeypatch.setenv("SRPO_STORE", str(tmp_path / "shared"))
    first, second = node("first"), node("second")
    first.push(write(first.root / "x", FILES))
    assert second.fetch(second.root / "x")
    assert not (tmp_path / "shared").exists()


def test_hidden_files_and_those_left_out_stay_here(node: Node) -> None:
    mirror = node("first")
    folder = write(mirror.root / "x", {"kept": b"1", ".kept.partial": b"2", "lock": b"", "checkpoints/deep/a": b"3"})
    mirror.push(folder, left_out=("lock", "checkpoints"))
    found = mirror.manifest(folder)
    assert found and [entry.path for entry in found.files] == ["kept"]


def test_a_step_manifest_arrives_with_paths_and_files_of_this_node(node: Node) -> None:
    first, second = node("first"), node("second")
    output = write(first.root / "runs" / "one" / "train", {"transformer/weights": b"w" * 1000})
    first.push(output)
    entry = FileEntry(path="weights", size=1000, sha256=hashlib.sha256(b"w" * 1000).hexdigest())
    made = Snapshot(source="update 2 of train", uri=str(output / "transformer"), files=(entry,))
    trained = Trained(output_dir=str(output), transformer=made, best_update=2, num_updates=2, seconds=1.0)
    here = second.here(trained)
    assert here.output_dir == str(second.root / "runs" / "one" / "train")
    assert (here.transformer.path / "weights").read_bytes() == b"w" * 1000
    assert here.transformer.sha256 == trained.transformer.sha256
    assert here.model_copy(update={"output_dir": "", "transformer": None}) == trained.model_copy(
        update={"output_dir": "", "transformer": None}
    )


def test_a_file_that_differs_here_gives_way(node: Node) -> None:
    first, second = node("first"), node("second")
    first.push(write(first.root / "runs" / "one", FILES))
    there = write(second.root / "runs" / "one", {"a.txt": b"stale", "own": b"kept"})
    second.fetch(there)
    assert read(there) == FILES | {"own": b"kept"}


def test_content_that_is_not_what_the_manifest_says_is_refused(node: Node, bucket: Any) -> None:
    first, second = node("first"), node("second")
    first.push(write(first.root / "runs" / "one", {"a.txt": b"first"}))
    key = next(key for key in keys(bucket) if "/a.txt/" in key)
    bucket.put_object(Bucket=BUCKET, Key=key, Body=b"frist")
    with pytest.raises(UnreachableError, match=r"a\.txt arrived damaged"):
        second.fetch(second.root / "runs" / "one")
    assert read(second.root / "runs") == {}


def test_a_folder_outside_a_working_folder_is_refused(node: Node, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not lie below a folder \.srpo"):
        node("first").push(write(tmp_path / "elsewhere", FILES))


def test_without_a_remote_nothing_happens(tmp_path: Path, node: Node, bucket: Any) -> None:
    mirror = mirror_of(StorageConfig())
    folder = write(tmp_path / "elsewhere" / ".srpo" / "x", FILES)
    assert mirror.local(folder) == folder
    assert (mirror.push(folder), mirror.fetch(folder)) == (0, False)
    assert keys(bucket) == []


@pytest.mark.parametrize("remote", ["bucket/prefix", "s3://", "hf://x/y", "s3://key:secret@bucket/x"])
def test_a_remote_that_is_no_prefix_is_refused_by_name(remote: str) -> None:
    with pytest.raises(ConfigError, match=r"storage\.remote"):
        parse_config({"storage": {"remote": remote}}, "test")


def test_the_address_of_a_refusal_holds_no_key(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = node("first")
    folder = write(mirror.root / "runs" / "one", FILES)
    assert mirror.bucket
    mirror.bucket.bucket = "no-such-bucket"
    with pytest.raises(ConfigError, match="NoSuchBucket") as refused:
        mirror.push(folder)
    assert REMOTE in str(refused.value)
    assert "very-secret" not in str(refused.value)
