"""A registered version is drawn on a machine that has neither trained it nor the package at the same place."""

from collections.abc import Callable

import pytest

from srpo.artifacts import Snapshot
from srpo.config import ModelConfig
from srpo.durable import Mirror
from srpo.errors import ConfigError
from srpo.generate import Sampling
from srpo.hub import resolve, snapshot
from srpo.registry.manifest import Manifest
from tests.durable.conftest import REMOTE
from tests.durable.test_mirror import write


def test_a_version_is_brought_to_where_it_is_wanted(
    node: Callable[[str], Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    pod, laptop = node("pod"), node("laptop")
    folder = write(pod.root / "runs" / "one" / "train" / "transformer", {"model.safetensors": b"weights"})
    pod.push(folder.parent)
    base = snapshot(resolve("builtin:shapes", "model"), "builtin:shapes")
    manifest = Manifest(
        model=ModelConfig(),
        base=base.model_copy(update={"uri": "/image/srpo/shapes/weights/flux"}),
        transformer=snapshot(folder, "one"),
        sampling=Sampling(seed=0, num_steps=1, guidance=1.0),
        remote=REMOTE,
    )
    folder.rename(folder.with_name("gone"))
    monkeypatch.chdir(laptop.root.parent)
    files = manifest.files("models:/shapes/1")
    assert (files.base, files.transformer) == (base.path, laptop.local(folder))
    assert (laptop.local(folder) / "model.safetensors").read_bytes() == b"weights"
    alone = manifest.model_copy(update={"remote": None})
    with pytest.raises((ConfigError, OSError)):
        alone.files("models:/shapes/1")
    changed = manifest.model_copy(update={"base": Snapshot(source="builtin:shapes", uri=base.uri, files=())})
    with pytest.raises(ConfigError, match="has changed since it was recorded"):
        changed.files("models:/shapes/1")
