"""Sources and snapshots."""

import hashlib
from pathlib import Path

import pytest

from srpo.artifacts import FileEntry, Weights
from srpo.errors import ConfigError
from srpo.hub import Part, fetch, resolve, verify
from srpo.weights import bring


def folder(path: Path) -> Path:
    (path / "sub").mkdir(parents=True)
    (path / "a.txt").write_text("alpha")
    (path / "sub" / "b.txt").write_text("beta")
    return path


def test_a_snapshot_names_every_file_by_content(tmp_path: Path) -> None:
    recorded = fetch(str(folder(tmp_path / "x")), "model")
    assert [(file.path, file.size) for file in recorded.files] == [("a.txt", 5), ("sub/b.txt", 4)]
    assert recorded.files[0].sha256 == hashlib.sha256(b"alpha").hexdigest()
    assert recorded.size == 9
    single = fetch(str(tmp_path / "x" / "a.txt"), "reward")
    assert single.path == tmp_path / "x" / "a.txt" and [file.path for file in single.files] == ["a.txt"]


@pytest.mark.parametrize(
    ("part", "source", "offered"),
    [
        ("model", "nowhere", "; give a path that exists, or builtin:shapes"),
        ("reward", "nowhere", "; give a path that exists, or builtin:shapes, or builtin:shapes-biased"),
        ("images", "nowhere", "; give a path that exists"),
        ("images", "builtin:shapes", "no embedded world 'builtin:shapes'; give a path"),
    ],
)
def test_what_is_not_there_is_told_with_what_could_be(part: Part, source: str, offered: str) -> None:
    with pytest.raises(ConfigError, match=f"^{part}: .*{offered}$"):
        resolve(source, part)


def test_the_hash_follows_content_and_names_not_the_place(tmp_path: Path) -> None:
    first, second = fetch(str(folder(tmp_path / "x")), "model"), fetch(str(folder(tmp_path / "y")), "model")
    assert first.sha256 == second.sha256
    (tmp_path / "y" / "a.txt").rename(tmp_path / "y" / "c.txt")
    assert fetch(str(tmp_path / "y"), "model").sha256 != first.sha256


@pytest.mark.parametrize("change", ["edit", "remove", "add"])
def test_a_change_since_the_snapshot_is_noticed(tmp_path: Path, change: str) -> None:
    place = folder(tmp_path / "x")
    recorded = fetch(str(place), "model")
    verify(recorded)
    {
        "edit": lambda: (place / "a.txt").write_text("alphA"),
        "remove": lambda: (place / "a.txt").unlink(),
        "add": lambda: (place / "c.txt").write_text("new"),
    }[change]()
    with pytest.raises(ConfigError, match="has changed since it was recorded"):
        verify(recorded)


def test_weights_used_in_place_are_those_that_were_recorded(tmp_path: Path) -> None:
    model, reward = (fetch(str(folder(tmp_path / name)), part) for name, part in (("x", "model"), ("y", "reward")))
    weights = Weights(model=model, reward=reward)
    assert bring(weights) == weights
    (tmp_path / "y" / "a.txt").write_text("alphA")
    with pytest.raises(ConfigError, match=r"y has changed since it was recorded: a\.txt; start a new run"):
        bring(weights)


def test_of_a_diffusers_folder_only_what_is_read_counts(tmp_path: Path) -> None:
    place = folder(tmp_path / "x")
    (place / "model_index.json").write_text('{"_class_name": "FluxPipeline", "sub": ["diffusers", "AutoencoderKL"]}')
    (place / "LICENSE.md").write_text("# Terms of use\n")
    (place / "sub" / "w.safetensors").write_text("weights")
    (place / "sub" / "w.bin").write_text("the same weights")
    (place / "flux.safetensors").write_text("all weights once more")
    recorded = fetch(str(place), "model")
    assert [file.path for file in recorded.files] == [
        "LICENSE.md",
        "model_index.json",
        "sub/b.txt",
        "sub/w.safetensors",
    ]
    assert recorded.licence == "Terms of use"
    (place / "flux.safetensors").unlink()
    verify(recorded)


def test_hidden_files_of_a_folder_may_change_though_earlier_runs_recorded_them(tmp_path: Path) -> None:
    place = folder(tmp_path / "x")
    (place / ".git" / "logs").mkdir(parents=True)
    names = (".git/index", ".git/logs/HEAD", ".gitattributes")
    for name in names:
        (place / name).write_text("then")
    recorded = fetch(str(place), "reward")
    assert [file.path for file in recorded.files] == ["a.txt", "sub/b.txt"]
    hidden = tuple(FileEntry(path=name, size=4, sha256=hashlib.sha256(b"then").hexdigest()) for name in names)
    earlier = recorded.model_copy(update={"files": (*hidden, *recorded.files)})
    (place / ".git" / "index").write_text("now")
    (place / ".gitattributes").unlink()
    verify(recorded)
    verify(earlier)
    (place / "a.txt").write_text("alphA")
    with pytest.raises(ConfigError, match=r"has changed since it was recorded: a\.txt"):
        verify(earlier)


def test_a_hidden_file_that_is_named_itself_may_not_change(tmp_path: Path) -> None:
    (place := tmp_path / ".head.safetensors").write_text("then")
    verify(recorded := fetch(str(place), "reward"))
    place.write_text("now")
    with pytest.raises(ConfigError, match="has changed since it was recorded"):
        verify(recorded)


@pytest.mark.parametrize("index", ["{", "[]"])
def test_an_index_that_cannot_be_read_is_refused(tmp_path: Path, index: str) -> None:
    (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(ConfigError, match=r"model_index\.json (is not valid JSON|must hold a mapping)"):
        fetch(str(tmp_path), "model")


def test_a_store_of_an_unknown_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRPO_STORE", "gs://bucket")
    with pytest.raises(ConfigError, match="SRPO_STORE is 'gs://bucket'"):
        resolve("s3://bucket/x", "model")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("builtin:cubes", "no embedded world 'builtin:cubes'"),
        ("ftp://x/y", "is not a path"),
        ("no/such/place", "nothing at .*; give a path that exists, or builtin:"),
        ("owner/name", "give a path that exists, or hf://owner/name for that repository"),
    ],
)
def test_sources_that_cannot_be_had(source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^model: .*{message}"):
        resolve(source, "model")
