"""s3:// as a source and as the store that nodes share, against a server on loopback."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from srpo.errors import ConfigError, UnreachableError
from srpo.hub import at_hand, fetch, missing, resolve, s3, survey, verify
from srpo.hub.s3 import Bucket
from tests.hub.conftest import content
from tests.hub.hub_server import HubServer, sha256
from tests.s3 import BUCKET

SOURCE = f"s3://{BUCKET}/models/flux"
FILES = {"vae/a.safetensors": content(200_000, 1), "vae/config.json": b"{}", "LICENSE": b"\nApache License\n"}


@pytest.fixture
def model(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model in the bucket, of which one file has a sha256; read in ranges of 10 kB."""
    monkeypatch.setattr(s3, "PART", 10_000)
    for path, data in FILES.items():
        checked = {"ChecksumAlgorithm": "SHA256"} if path.endswith(".safetensors") else {}
        bucket.put_object(Bucket=BUCKET, Key=f"models/flux/{path}", Body=data, **checked)
    bucket.put_object(Bucket=BUCKET, Key="models/flux-old/other", Body=b"not asked for")
    return bucket


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(key, first byte) of every object that is read."""
    seen: list[tuple[str, int]] = []
    read = Bucket.read

    def note(bucket: Bucket, key: str, size: int, etag: str, start: int) -> Iterator[bytes]:
        seen.append((key, start))
        return read(bucket, key, size, etag, start)

    monkeypatch.setattr(Bucket, "read", note)
    return seen


def test_a_prefix_arrives_whole_and_only_it(model: Any, reads: list[tuple[str, int]]) -> None:
    listing = survey(SOURCE, "model")
    assert {file.path: file.size for file in listing.files} == {path: len(data) for path, data in FILES.items()}
    assert missing(listing) == sum(map(len, FILES.values()))
    assert reads == []
    fetched = fetch(SOURCE, "model")
    assert {path: (fetched.path / path).read_bytes() for path in FILES} == FILES
    assert {file.path: file.sha256 for file in fetched.files} == {path: sha256(data) for path, data in FILES.items()}
    assert fetched.licence == "Apache License"
    reads.clear()
    assert fetch(SOURCE, "model") == fetched
    assert reads == []
    assert resolve(SOURCE, "model") == fetched.path


def test_one_object(model: Any) -> None:
    fetched = fetch(f"{SOURCE}/vae/a.safetensors", "reward")
    assert fetched.path.read_bytes() == FILES["vae/a.safetensors"]
    assert fetched.path.name == "a.safetensors"
    verify(fetched)


def test_a_broken_download_goes_on_by_ranges(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    make, broken = Bucket.__init__, {"after": 90_000}

    def unreliable(bucket: Bucket, uri: str) -> None:
        make(bucket, uri)
        get = bucket.client.get_object

        def get_object(**request: Any) -> Any:
            first = int(request.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
            if request["Key"].endswith("a.safetensors"):
                if first >= broken["after"]:
                    raise s3.BotoCoreError
                asked.append(first)
            return get(**request)

        bucket.client.get_object = get_object

    monkeypatch.setattr(Bucket, "__init__", unreliable)
    with pytest.raises(UnreachableError, match=r"vae/a\.safetensors stopped at byte 90000 of 200000"):
        fetch(SOURCE, "model")
    assert sorted(asked) == list(range(0, 90_000, 10_000))
    asked.clear()
    broken["after"] = 10**9
    fetched = fetch(SOURCE, "model")
    assert sorted(asked) == list(range(90_000, 200_000, 10_000))
    assert (fetched.path / "vae/a.safetensors").read_bytes() == FILES["vae/a.safetensors"]


def test_a_changed_object_is_fetched_again(model: Any) -> None:
    first = fetch(SOURCE, "model")
    model.put_object(Bucket=BUCKET, Key="models/flux/vae/config.json", Body=b"[]")
    assert survey(SOURCE, "model").state != ""
    second = fetch(SOURCE, "model")
    assert (second.path / "vae/config.json").read_bytes() == b"[]"
    assert (first.path / "vae/config.json").read_bytes() == b"{}"
    verify(first)


def test_a_damaged_file_is_found_and_fetched_again(model: Any, reads: list[tuple[str, int]]) -> None:
    fetched = fetch(SOURCE, "model")
    (fetched.path / "vae/config.json").resolve().write_bytes(b"no")
    with pytest.raises(ConfigError, match=r"has changed since it was recorded: vae/config\.json"):
        verify(fetched)
    reads.clear()
    verify(fetch(SOURCE, "model"))
    assert reads == [("models/flux/vae/config.json", 0)]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (f"s3://{BUCKET}/models/none", "holds nothing"),
        ("s3://no-such-bucket/x", "NoSuchBucket"),
        ("s3://", "names no bucket"),
    ],
)
def test_what_is_not_there_is_one_sentence(model: Any, source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        survey(source, "model")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("code", "status", "passes"),
    [
        ("SlowDownWrite", 503, True),
        ("XMinioServerNotInitialized", 503, True),
        ("ThrottlingException", 400, True),
        ("RequestTimeout", 400, True),
        ("503", 503, True),
        ("AccessDenied", 403, False),
        ("NoSuchBucket", 404, False),
    ],
)
def test_what_may_pass_is_told_from_what_will_not(model: Any, code: str, status: int, passes: bool) -> None:
    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    with pytest.raises(UnreachableError if passes else ConfigError, match=code), Bucket(SOURCE).explained():
        raise ClientError(answer, "PutObject")


def test_without_credentials_it_says_so(model: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="no AWS credentials"):
        survey(SOURCE, "model")


def test_settings_that_cannot_work_are_one_sentence(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigError, match=r"AWS settings .* cannot be used .*nobody"):
        survey(SOURCE, "model")


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Move to another node: an empty disk, the same shared store."""
    monkeypatch.setenv("SRPO_STORE", f"s3://{BUCKET}/store")

    def move(name: str) -> None:
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)

    return move


def test_another_node_takes_the_files_from_the_shared_store(
    hub: HubServer, bucket: Any, node: Callable[[str], None], tmp_path: Path
) -> None:
    hub.repos["maker/clip"] = {"config.json": b"{}", "model.safetensors": content(50_000, 4)}
    node("first")
    recorded = fetch("hf://maker/clip", "reward")
    assert at_hand(recorded) == recorded
    hub.close()
    shutil.rmtree(tmp_path / "first")
    node("second")
    moved = at_hand(recorded)
    assert moved.path.is_relative_to(tmp_path / "second")
    assert moved.sha256 == recorded.sha256
    verify(moved)
    node("third")
    assert fetch("hf://maker/clip", "reward").sha256 == recorded.sha256


def test_what_a_shared_store_holds_is_not_sent_again(
    model: Any, node: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    node("first")
    fetch(SOURCE, "model")
    keys = {entry["Key"] for entry in model.list_objects_v2(Bucket=BUCKET, Prefix="store/files/")["Contents"]}
    assert keys == {f"store/files/{sha256(data)}" for data in FILES.values()}
    monkeypatch.setattr(Bucket, "upload", lambda *_: pytest.fail("sent again"))
    node("second")
    fetch(SOURCE, "model")


def test_files_that_no_store_has_are_named(model: Any, node: Callable[[str], None], tmp_path: Path) -> None:
    node("first")
    recorded = fetch(SOURCE, "model")
    shutil.rmtree(tmp_path / "first")
    for entry in model.list_objects_v2(Bucket=BUCKET, Prefix="store/")["Contents"]:
        model.delete_object(Bucket=BUCKET, Key=entry["Key"])
    node("second")
    with pytest.raises(ConfigError, match=r"lacks LICENSE, and the store does not have it"):
        at_hand(recorded)
