"""The MLflow model registry: versions by reference, with the aliases `challenger` (the newest) and `champion`.

A version is a manifest: where the base model and the aligned transformer lie, with their hashes, and how the model is
sampled. It is a thin pyfunc whose loader is this module, so no weights are copied and nothing is pickled:

    mlflow.pyfunc.load_model("models:/<name>@champion").predict(["a red circle on a blue background"])
"""

import platform
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from srpo.artifacts import Evaluated, PromptSets, Registered, Snapshot, Trained, Weights
from srpo.config import ModelConfig, RunConfig, Settings
from srpo.errors import ConfigError
from srpo.evaluation.schema import Report
from srpo.generate import ModelFiles, Sampling
from srpo.hub import at_hand, verify
from srpo.tracking import TrackedRun, code_version, data_version

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from PIL import Image

CHAMPION, CHALLENGER = "champion", "challenger"
MANIFEST = "manifest.json"
UNKNOWN_LICENCE = "not stated"
FOLDER = "model"
REPORT = "evaluation/report.json"


class Manifest(Settings):
    """Everything a registered version needs to make pictures."""

    schema_version: Literal[1] = 1
    """Form of this file."""
    model: ModelConfig
    base: Snapshot
    """Diffusers folder of the base model: VAE, text encoders, scheduler."""
    transformer: Snapshot
    """Diffusers folder of the aligned transformer."""
    sampling: Sampling

    def files(self, reference: str) -> ModelFiles:
        """The model's files on this machine; ConfigError if one of them has moved or changed."""
        base = at_hand(self.base)
        verify(base)
        verify(self.transformer)
        return ModelFiles(
            reference=reference,
            model=self.model,
            base=base.path,
            transformer=self.transformer.path,
            transformer_sha256=self.transformer.sha256,
            sampling=self.sampling,
        )


class Version(Settings):
    """One version in the registry."""

    name: str
    version: str
    aliases: tuple[str, ...]
    run_name: str
    verdict: str


class AlignedModel:
    """What `mlflow.pyfunc.load_model` wraps."""

    def __init__(self, manifest: Manifest) -> None:
        self.sampling = manifest.sampling
        self.generator = manifest.files(MANIFEST).generator()

    def predict(self, prompts: Sequence[str]) -> "list[Image.Image]":
        """One picture per prompt, as the run's evaluation sampled them."""
        return list(self.generator.images(list(prompts), self.sampling))


def _load_pyfunc(path: str) -> AlignedModel:
    """MLflow's entry point; `path` is the manifest."""
    return AlignedModel(Manifest.model_validate_json(Path(path).read_text(encoding="utf-8")))


def register(
    config: RunConfig,
    weights: Weights,
    prompts: PromptSets,
    trained: Trained,
    evaluated: Evaluated,
    tracked: TrackedRun,
) -> Registered:
    """A new version by reference: the challenger, and the champion too if it passed the gate. Repeatable."""
    client = _client(tracked.uri)
    name = config.registry.model_name
    manifest = Manifest(
        model=config.model,
        base=weights.model,
        transformer=trained.transformer,
        sampling=sampling_of(config),
    )
    _log_manifest(client, tracked, manifest)
    tags = (
        code_version()
        | data_version(weights, prompts)
        | {
            "data.transformer_sha256": trained.transformer.sha256,
            **{f"licence.{name}": files.licence or UNKNOWN_LICENCE for name, files in weights.snapshots.items()},
            "verdict": evaluated.verdict,
            "reason": evaluated.reason,
            "run_name": client.get_run(tracked.run_id).info.run_name,
        }
    )
    version = _version_of_run(client, name, tracked) or _new_version(client, name, tracked, tags)
    client.set_registered_model_alias(name, CHALLENGER, version)
    if evaluated.passed:
        client.set_registered_model_alias(name, CHAMPION, version)
    alias = CHAMPION if evaluated.passed else CHALLENGER
    return Registered(name=name, version=version, alias=alias, uri=f"models:/{name}@{alias}")


def load_manifest(uri: str, reference: str) -> Manifest:
    """The manifest behind `models:/name@alias`, `models:/name/version`, `name@alias`, or an alias held by one model."""
    client = _client(uri)
    name, version = _locate(client, reference)
    source = client.get_model_version(name, version).source
    from mlflow.artifacts import download_artifacts

    with tempfile.TemporaryDirectory() as folder:
        path = download_artifacts(f"{source}/{MANIFEST}", dst_path=folder, tracking_uri=uri)
        return Manifest.model_validate_json(Path(path).read_text(encoding="utf-8"))


def registered_files(uri: str, reference: str) -> ModelFiles:
    """The files of a registered version, whatever alias it was asked by; `reference` as in `load_manifest`."""
    name, version = _locate(_client(uri), reference)
    return load_manifest(uri, f"{name}/{version}").files(f"models:/{name}/{version}")


def load_report(uri: str, reference: str) -> Report | None:
    """The evaluation of the run that made a registered version, if it has one; `reference` as in `load_manifest`."""
    client = _client(uri)
    run_id = client.get_model_version(*_locate(client, reference)).run_id
    if not run_id or REPORT not in (file.path for file in client.list_artifacts(run_id, str(Path(REPORT).parent))):
        return None
    from mlflow.artifacts import download_artifacts

    with tempfile.TemporaryDirectory() as folder:
        path = download_artifacts(f"runs:/{run_id}/{REPORT}", dst_path=folder, tracking_uri=uri)
        return Report.model_validate_json(Path(path).read_text(encoding="utf-8"))


def sampling_of(config: RunConfig) -> Sampling:
    """Pictures as the run's evaluation samples them, with the prefix that its preference asks for."""
    return Sampling(
        seed=config.seed,
        num_steps=config.evaluation.num_steps,
        guidance=config.evaluation.guidance,
        prefix=config.preference.prefix,
    )


def versions(uri: str) -> list[Version]:
    """All registered versions, newest first within each model."""
    client = _client(uri)
    found = []
    for model in client.search_registered_models():
        names: dict[str, list[str]] = {}
        for alias, version in model.aliases.items():
            names.setdefault(str(version), []).append(alias)
        for entry in client.search_model_versions(f"name = '{model.name}'"):
            found.append(
                Version(
                    name=model.name,
                    version=str(entry.version),
                    aliases=tuple(sorted(names.get(str(entry.version), []))),
                    run_name=entry.tags.get("run_name", ""),
                    verdict=entry.tags.get("verdict", ""),
                )
            )
    return sorted(found, key=lambda entry: (entry.name, -int(entry.version)))


def _log_manifest(client: "MlflowClient", tracked: TrackedRun, manifest: Manifest) -> None:
    """The two small files of the pyfunc, as artifacts of the run."""
    from mlflow.models import Model

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MANIFEST).write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
        model = Model(artifact_path=FOLDER, run_id=tracked.run_id)
        model.add_flavor(
            "python_function",
            loader_module=__name__,
            data=MANIFEST,
            env={},
            python_version=platform.python_version(),
        )
        model.save(str(Path(folder) / "MLmodel"))
        client.log_artifacts(tracked.run_id, folder, FOLDER)


def _version_of_run(client: "MlflowClient", name: str, tracked: TrackedRun) -> str | None:
    """The version this run has registered already, if it was interrupted after that."""
    found = [entry for entry in client.search_model_versions(f"name = '{name}'") if entry.run_id == tracked.run_id]
    return str(found[0].version) if found else None


def _new_version(client: "MlflowClient", name: str, tracked: TrackedRun, tags: dict[str, str]) -> str:
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    source = f"runs:/{tracked.run_id}/{FOLDER}"
    return str(client.create_model_version(name, source=source, run_id=tracked.run_id, tags=tags).version)


def _locate(client: "MlflowClient", reference: str) -> tuple[str, str]:
    """(name, version) of a reference; ConfigError says what there is if it names nothing."""
    plain = reference.removeprefix("models:/")
    registered = client.search_registered_models()
    models = {model.name: {key: str(value) for key, value in model.aliases.items()} for model in registered}
    if match := re.fullmatch(r"([^@/]+)@([^@/]+)", plain):
        name, alias = match.groups()
        candidates = [(name, models.get(name, {}).get(alias))]
    elif match := re.fullmatch(r"([^@/]+)/(\d+)", plain):
        name, number = match.groups()
        numbers = {str(entry.version) for entry in client.search_model_versions(f"name = '{name}'")}
        candidates = [(name, number if number in numbers else None)]
    else:
        candidates = [(name, aliases[plain]) for name, aliases in models.items() if plain in aliases]
    found = [(name, version) for name, version in candidates if version is not None]
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{name}@{alias}" for name, aliases in models.items() for alias in aliases) or "none yet"
    problem = "names several registered models" if found else "is no folder and names no registered model"
    raise ConfigError(f"--model {reference} {problem}; registered: {known}")


def _client(uri: str) -> "MlflowClient":
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)
