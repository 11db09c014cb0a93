"""What a version is made of: a manifest that names files by place and content, and the pyfunc that draws with them."""

import platform
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from srpo.artifacts import Snapshot
from srpo.config import ModelConfig, RunConfig, StorageConfig
from srpo.durable import mirror_of
from srpo.errors import ConfigError
from srpo.generate import ModelFiles, Sampling
from srpo.hub import at_hand, resolve, verify
from srpo.strict import Strict
from srpo.tracking import TrackedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from PIL import Image

MANIFEST = "manifest.json"
FOLDER = "model"
"""Where the manifest lies among the artifacts of its run."""
LOADER = "srpo.registry"
"""The module that registered versions name as their loader; it must go on having `_load_pyfunc`."""


class Manifest(Strict):
    """Everything a registered version needs to make pictures."""

    schema_version: Literal[1] = 1
    """Form of this file."""
    model: ModelConfig
    base: Snapshot
    """Diffusers folder of the base model: VAE, text encoders, scheduler."""
    transformer: Snapshot
    """Folder of the aligned transformer, or of its adapter."""
    sampling: Sampling
    remote: str | None = None
    """`storage.remote` of its run, which keeps a copy of the transformer; None: its files lie on one machine alone."""

    def files(self, reference: str) -> ModelFiles:
        """The model's files, on this machine from now on; ConfigError if one of them has moved or changed."""
        base, transformer = self._base_here(), self.transformer_here()
        verify(base)
        return ModelFiles(
            reference=reference,
            model=self.model,
            base=base.path,
            base_sha256=base.sha256,
            transformer=transformer.path,
            transformer_sha256=transformer.sha256,
            sampling=self.sampling,
        )

    def transformer_here(self) -> Snapshot:
        """The transformer, or the adapter, on this machine from now on; ConfigError if it has moved or changed."""
        transformer = mirror_of(StorageConfig(remote=self.remote)).here(self.transformer)
        verify(transformer)
        return transformer

    def check_transformer(self) -> None:
        """ConfigError unless the transformer is on this machine or in the copy, as it was recorded; nothing moves."""
        if not mirror_of(StorageConfig(remote=self.remote)).holds(self.transformer):
            where = f" and not in {self.remote}" if self.remote else ""
            raise ConfigError(
                f"the weights in {self.transformer.uri} have changed or are not on this machine{where}, and a version "
                "without them could make no picture; train again, or register and promote where they are"
            )

    def _base_here(self) -> Snapshot:
        """The base on this machine; what comes with the package lies elsewhere in a pod."""
        if not self.base.source.startswith("builtin:"):
            return at_hand(self.base)
        return self.base.model_copy(update={"uri": str(resolve(self.base.source, "model"))})


class AlignedModel:
    """What `mlflow.pyfunc.load_model` wraps."""

    def __init__(self, manifest: Manifest) -> None:
        self.sampling = manifest.sampling
        self.painter = manifest.files(MANIFEST).painter()

    def predict(self, prompts: str | Iterable[str]) -> "list[Image.Image]":
        """One picture per prompt, with the run's steps and guidance, and the prefix that its preference asks for.

        Picture i depends on its prompt and seed + i. A text is one prompt, a table of one column has one in each row;
        ConfigError for anything else.
        """
        return list(self.painter.images(_texts(prompts), self.sampling))


def _texts(prompts: Any) -> list[str]:
    """What MLflow hands on, as prompts."""
    if isinstance(prompts, str):
        return [prompts]
    columns = list(getattr(prompts, "columns", ()))
    texts = list(prompts[columns[0]] if len(columns) == 1 else prompts)
    if len(columns) > 1 or isinstance(prompts, Mapping) or not all(isinstance(text, str) for text in texts):
        raise ConfigError("prompts must be a text, a list of texts, or a table whose only column holds texts")
    return texts


def _load_pyfunc(path: str) -> AlignedModel:
    """MLflow's entry point; `path` is the manifest."""
    return AlignedModel(Manifest.model_validate_json(Path(path).read_text(encoding="utf-8")))


def sampling_of(config: RunConfig) -> Sampling:
    """Pictures as the run's evaluation samples them, with the prefix that its preference asks for."""
    return Sampling(
        seed=config.seed,
        num_steps=config.evaluation.num_steps,
        guidance=config.evaluation.guidance,
        prefix=config.preference.prefix,
    )


def log_manifest(client: "MlflowClient", tracked: TrackedRun, manifest: Manifest) -> None:
    """The two small files of the pyfunc, as artifacts of the run."""
    from mlflow.models import Model

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MANIFEST).write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
        model = Model(artifact_path=FOLDER, run_id=tracked.run_id)
        model.add_flavor(
            "python_function",
            loader_module=LOADER,
            data=MANIFEST,
            env={},
            python_version=platform.python_version(),
        )
        model.save(str(Path(folder) / "MLmodel"))
        client.log_artifacts(tracked.run_id, folder, FOLDER)
