"""Exports to a hub on loopback, written to without xet: private, whole, the card last; refusals in a sentence."""

from pathlib import Path

import huggingface_hub.constants
import pytest

from srpo.config import ModelConfig, RunConfig
from srpo.errors import ConfigError, UnreachableError
from srpo.export import export
from srpo.generate import ModelFiles
from srpo.hub import fetch
from srpo.reference import find_model
from tests.hub.hub_server import HubServer

TO = "hf://me/aligned"


@pytest.fixture
def files(flux_folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFiles:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    return find_model(str(flux_folder), RunConfig(model=ModelConfig(source=str(flux_folder), height=32, width=32)))


def test_the_hub_holds_what_a_folder_holds(files: ModelFiles, hub: HubServer, tmp_path: Path) -> None:
    export(files, str(tmp_path / "out"), "folder", [])
    export(files, TO, "folder", [])
    paths = (path for path in (tmp_path / "out").rglob("*") if path.is_file())
    written = {path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in paths}
    assert hub.repos["me/aligned"] == written | {".gitattributes": b""}
    assert hub.private == {"me/aligned"}
    assert hub.commits[-1] == ["README.md"], "the card last"
    assert hub.tokens == {"Bearer hf_secret"}
    drawn = find_model(TO, RunConfig(model=files.model))
    assert drawn.transformer_sha256 == files.transformer_sha256, "and is read from there again"


def test_a_repository_that_holds_something_is_left_alone(files: ModelFiles, hub: HubServer) -> None:
    hub.repos["me/aligned"] = {"model.safetensors": b"precious"}
    with pytest.raises(ConfigError, match=f"--to {TO} holds model.safetensors already"):
        export(files, TO, "transformer", [])
    assert hub.repos["me/aligned"] == {"model.safetensors": b"precious"}


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (401, ConfigError, "you may not write there .status 401.; set HF_TOKEN"),
        (403, ConfigError, "you may not write there .status 40[34].; set HF_TOKEN"),
        (400, ConfigError, "the hub refuses it with status 400"),
    ],
)
def test_a_refusal_is_one_sentence(
    files: ModelFiles, hub: HubServer, status: int, error: type[Exception], message: str
) -> None:
    hub.refuses_to_write = status
    with pytest.raises(error, match=message) as caught:
        export(files, TO, "transformer", [])
    assert len(str(caught.value).splitlines()) == 1
    assert "hf_secret" not in str(caught.value)


def test_a_name_that_is_none_and_a_hub_that_is_away(
    files: ModelFiles, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="name a repository, hf://OWNER/NAME"):
        export(files, "hf://me", "transformer", [])
    with monkeypatch.context() as patch, pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set; unset it"):
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        export(files, TO, "transformer", [])
    hub.close()
    with pytest.raises(UnreachableError, match="cannot be reached now"):
        export(files, TO, "transformer", [])


def test_an_adapter_on_the_hub_is_drawn_with_on_a_base_on_the_hub(files: ModelFiles, hub: HubServer) -> None:
    """A single file there, under a name of its own."""
    import torch
    from safetensors.torch import save

    layer = "transformer.transformer_blocks.0.attn.to_q"
    width = 128
    tensors = {f"{layer}.lora_A.weight": torch.randn(4, width), f"{layer}.lora_B.weight": torch.randn(width, 4)}
    hub.repos["you/style"] = {"style.safetensors": save(tensors)}
    base = {
        path.relative_to(files.base).as_posix(): path.read_bytes() for path in files.base.rglob("*") if path.is_file()
    }
    hub.repos["maker/flux"] = base
    for reference in ("hf://you/style", "hf://you/style/style.safetensors"):
        found = find_model(reference, RunConfig(model=files.model), base="hf://maker/flux")
        sampling = found.sampling.model_copy(update={"num_steps": 1})
        (styled,), (plain,) = (one.painter().draw([("a red circle", 0)], sampling) for one in (found, files))
        assert (styled - plain).abs().max() > 1e-3
    assert fetch("hf://you/style", "model").files[0].path == "style.safetensors"
    tensors[f"{layer}.lora_A.weight"] = torch.randn(4, width + 1)
    hub.repos["you/other"] = {"other.safetensors": save(tensors)}
    with pytest.raises(ConfigError, match="changes a layer of another size"):
        find_model("hf://you/other", base="hf://maker/flux")
