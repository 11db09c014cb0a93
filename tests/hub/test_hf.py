"""hf:// against a hub on loopback: what is fetched, how often, and what is said when it cannot be."""

import json
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest

from srpo.errors import ConfigError, UnreachableError
from srpo.hub import fetch, missing, resolve, survey, verify, without_weights
from srpo.hub.place import store_dir
from tests.hub.conftest import content
from tests.hub.hub_server import COMMIT, HubServer, blob_id, sha256

ROOT = Path(__file__).parent.parent.parent
REPO = "maker/flux"
SOURCE = f"hf://{REPO}"
PARTS = {
    "model_index.json": json.dumps({"_class_name": "FluxPipeline", "vae": ["diffusers", "AutoencoderKL"]}).encode(),
    "vae/config.json": b"{}",
    "vae/model.safetensors": content(300_000, 1),
    "LICENSE.md": b"# Maker's licence\nbe kind\n",
}
EXTRA = {
    "flux.safetensors": content(5000, 2),
    "vae/model.bin": content(5000, 3),
    "README.md": b"words",
    "demo/picture.png": b"picture",
}


@pytest.fixture
def repo(hub: HubServer) -> HubServer:
    hub.repos[REPO] = PARTS | EXTRA
    hub.licences[REPO] = {"license": "other", "license_name": "makers-licence"}
    return hub


def test_the_parts_arrive_whole_pinned_and_without_the_second_copies(repo: HubServer) -> None:
    fetched = fetch(SOURCE, "model")
    assert {file.path: file.sha256 for file in fetched.files} == {path: sha256(data) for path, data in PARTS.items()}
    assert {path: (fetched.path / path).read_bytes() for path in PARTS} == PARTS
    assert (fetched.revision, fetched.licence) == (COMMIT, "makers-licence")
    assert not set(EXTRA) & set(repo.sent)
    assert repo.tokens == {"Bearer hf_secret"}
    verify(fetched)
    assert resolve(SOURCE, "model") == fetched.path


def test_one_file_of_a_revision(repo: HubServer) -> None:
    fetched = fetch(f"{SOURCE}@{COMMIT}/vae/model.bin", "reward")
    assert fetched.path.read_bytes() == EXTRA["vae/model.bin"]
    assert [file.path for file in fetched.files] == ["model.bin"]
    verify(fetched)


def test_a_survey_knows_sizes_and_fetches_no_weights(repo: HubServer) -> None:
    listing = survey(SOURCE, "model")
    assert listing.size == missing(listing) == sum(map(len, PARTS.values()))
    assert set(repo.sent) == {"model_index.json"}
    fetch(SOURCE, "model")
    assert missing(survey(SOURCE, "model")) == 0


def test_a_plan_gets_the_files_without_weights_at_a_place_in_the_store(repo: HubServer) -> None:
    """Of a lone file, or a folder of weights alone, that place is empty; whatever lies in the current folder."""
    repo.repos["maker/bare"] = {"model.bin": EXTRA["vae/model.bin"]}
    found = without_weights(SOURCE, "model")
    assert {path for path in PARTS if (found / path).is_file()} == set(PARTS) - {"vae/model.safetensors"}
    for source in (f"{SOURCE}/vae/model.bin", "hf://maker/bare"):
        empty = without_weights(source, "reward")
        assert empty.is_relative_to(store_dir()) and not empty.exists()
    assert not [path for path in repo.sent if path.startswith(("vae/model", "model.bin"))]


def test_what_is_here_is_not_fetched_again_even_without_the_hub(repo: HubServer) -> None:
    first = fetch(SOURCE, "model")
    repo.sent.clear()
    assert fetch(SOURCE, "model") == first
    assert set(repo.sent) == {"model_index.json"}
    repo.close()
    assert fetch(SOURCE, "model") == first
    assert survey(SOURCE, "model").size == first.size


def test_offline_mode_is_the_users_to_end_and_leaves_what_is_here(
    repo: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trying again would not help, so it is no UnreachableError; a plan goes on to its other problems."""
    first = fetch(SOURCE, "model")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert fetch(SOURCE, "model") == first
    assert survey(SOURCE, "model").size == first.size
    for attempt in (survey, fetch):
        with pytest.raises(ConfigError, match="because HF_HUB_OFFLINE is set; unset it"):
            attempt("hf://maker/other", "model")


def test_a_broken_download_goes_on_where_it_broke(repo: HubServer) -> None:
    large, size = "vae/model.safetensors", len(PARTS["vae/model.safetensors"])
    repo.breaks_at[large] = 100_000
    with pytest.raises(UnreachableError, match="stopped at byte 100000 of 300000"):
        fetch(SOURCE, "model")
    assert repo.sent[large] == 100_000
    del repo.breaks_at[large]
    fetched = fetch(SOURCE, "model")
    assert repo.sent[large] == size
    assert repo.sent["vae/config.json"] == len(PARTS["vae/config.json"])
    assert (fetched.path / large).read_bytes() == PARTS[large]


@pytest.mark.parametrize("path", ["vae/model.safetensors", "vae/config.json"])
def test_what_arrives_damaged_is_not_kept(repo: HubServer, path: str) -> None:
    repo.garbled.add(path)
    with pytest.raises(UnreachableError, match=f"{path} arrived damaged"):
        fetch(SOURCE, "model")
    repo.garbled.clear()
    assert (fetch(SOURCE, "model").path / path).read_bytes() == PARTS[path]


@pytest.mark.parametrize("path", ["vae/model.safetensors", "vae/config.json"])
def test_a_file_damaged_in_the_store_is_found_and_fetched_again(repo: HubServer, path: str) -> None:
    fetched = fetch(SOURCE, "model")
    (fetched.path / path).resolve().write_bytes(bytes(len(PARTS[path])))
    with pytest.raises(ConfigError, match=f"has changed since it was recorded: {path}"):
        verify(fetched)
    repo.sent.clear()
    verify(fetch(SOURCE, "model"))
    assert repo.sent[path] == len(PARTS[path])
    assert set(repo.sent) <= {path, "model_index.json"}


def test_the_hugging_face_cache_is_used_where_it_lies(
    repo: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    cache = tmp_path / "hub" / "models--maker--flux"
    for path, data in PARTS.items():
        blob, link = cache / "blobs" / blob_id(data), cache / "snapshots" / COMMIT / path
        for file in (blob, link):
            file.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        link.symlink_to(blob)
    blob.write_bytes(bytes(len(data)))  # one of them is damaged
    fetched = fetch(SOURCE, "model")
    assert set(repo.sent) == {"model_index.json", "LICENSE.md"}
    large = (fetched.path / "vae/model.safetensors").resolve()
    assert large == cache / "blobs" / blob_id(PARTS["vae/model.safetensors"])
    verify(fetched)


def test_processes_that_want_the_same_fetch_every_file_once(repo: HubServer, store: Path) -> None:
    code = (
        "import huggingface_hub.constants as c; c.HF_HUB_OFFLINE = False\n"
        "import sys; from srpo.hub import fetch, verify; verify(fetch(sys.argv[1], 'model'))"
    )
    names = (SOURCE, SOURCE, f"{SOURCE}@main")
    processes = [subprocess.Popen([sys.executable, "-c", code, name], cwd=ROOT) for name in names]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert {path: repo.sent[path] for path in PARTS if path != "model_index.json"} == {
        path: len(data) for path, data in PARTS.items() if path != "model_index.json"
    }
    assert not [file for file in (store / "partial").iterdir() if file.is_file()]


def test_a_gated_repository_names_the_page_of_its_licence(repo: HubServer) -> None:
    repo.gated.add(REPO)
    for attempt in (survey, fetch):
        with pytest.raises(ConfigError, match=f"is gated: accept its licence at {repo.url}/{REPO}") as caught:
            attempt(SOURCE, "model")
        assert "hf_secret" not in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf://maker/nothing", "no repository that this token may read"),
        (f"{SOURCE}@v9", "has no revision 'v9'"),
        (f"{SOURCE}/gone.safetensors", "has no file gone.safetensors"),
        ("hf://maker", "write hf://owner/name"),
    ],
)
def test_what_is_not_there_is_one_sentence(repo: HubServer, source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        survey(source, "model")
    assert len(str(caught.value).splitlines()) == 1


def test_a_hub_that_cannot_be_reached_may_be_tried_again(repo: HubServer) -> None:
    repo.close()
    with pytest.raises(UnreachableError, match="cannot be reached now"):
        survey(SOURCE, "model")


def test_a_name_that_leads_out_of_its_folder_is_refused(repo: HubServer) -> None:
    repo.repos["maker/evil"] = {"../outside": b"x"}
    with pytest.raises(ConfigError, match="outside its folder"):
        fetch("hf://maker/evil", "model")
