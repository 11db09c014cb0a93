"""What a command takes as a model: a folder, a part with its base, or a registered one; found before it is loaded."""

from pathlib import Path

from srpo.config import EvaluationConfig, ModelConfig, RunConfig
from srpo.errors import ConfigError
from srpo.generate import ModelFiles, Sampling
from srpo.hub import fetch, is_remote, resolve, snapshot, survey
from srpo.models import family_of, find_family
from srpo.models.weights import check_transformer
from srpo.registry import load_manifest, registered_files, sampling_of
from srpo.shapes import SAMPLING_STEPS, SIZE, TEXT_TOKENS

FLUX_SIZE = 1024  # what FLUX.1-dev is sampled at by its own pipeline


def find_model(
    reference: str, config: RunConfig | None = None, uri: str | None = None, base: str | None = None
) -> ModelFiles:
    """The files behind a reference, hashed, before anything is loaded.

    A registered model brings its own settings. A folder is sized and sampled as `config` says. With `base`, `reference`
    is a transformer or an adapter (file, folder, hf://, s3://) and the rest is the base's. `uri`: the MLflow store to
    look in; None where there is none yet.
    """
    if base is not None:
        return _transformer_with_base(reference, base, config)
    if names_files(reference):
        if not is_whole(reference):
            raise ConfigError(f"{reference} is no whole diffusers folder; if it is a part of one, give --base")
        folder = _local(reference)
        model, sampling = _how(reference, folder, config)
        whole = snapshot(folder, reference)
        return ModelFiles(
            reference=reference,
            model=model,
            base=folder,
            base_sha256=whole.sha256,
            transformer_sha256=whole.part("transformer").sha256,
            sampling=sampling,
        )
    if uri is None:
        raise ConfigError(f"{reference} is no folder, and nothing is registered here yet; give a folder, or `run`")
    if config is not None:
        raise ConfigError(f"--config is for folders; the registered model {reference} brings its own settings")
    return registered_files(uri, reference)


def names_files(reference: str) -> bool:
    """Whether a reference names files, and not a registered model."""
    return is_remote(reference) or reference.startswith("builtin:") or Path(reference).expanduser().exists()


def is_whole(reference: str) -> bool:
    """Whether a source holds a whole model, and not a part of one; of a remote one nothing is fetched."""
    if is_remote(reference):
        listing = survey(reference, "model")
        return not listing.single and any(file.path.startswith("transformer/") for file in listing.files)
    return (resolve(reference, "model") / "transformer").is_dir()


def source_of(reference: str, uri: str | None = None, base: str | None = None) -> str | None:
    """Where the whole model behind a reference comes from, base or trained from it; None where nothing is registered.

    Arguments as of `find_model`, but nothing is hashed, or fetched.
    """
    if names_files(reference):
        return reference if base is None or is_whole(reference) else base
    return load_manifest(uri, reference).model.source if uri else None


def _local(reference: str) -> Path:
    """A file or folder on this machine; what is remote is fetched."""
    return fetch(reference, "model").path if is_remote(reference) else resolve(reference, "model")


def _transformer_with_base(reference: str, base: str, config: RunConfig | None) -> ModelFiles:
    """A transformer, or an adapter of the base's; refused, by its header, if it does not fit."""
    if not is_remote(reference) and not Path(reference).expanduser().exists():
        raise ConfigError(f"{reference}: nothing there; with --base, give a transformer or an adapter")
    transformer, folder = _local(reference), _local(base)
    check_transformer(transformer, folder)
    model, sampling = _how(base, folder, config)
    return ModelFiles(
        reference=reference,
        model=model,
        base=folder,
        base_sha256=snapshot(folder, base).sha256,
        transformer=transformer,
        transformer_sha256=snapshot(transformer, reference).sha256,
        sampling=sampling,
    )


def _how(reference: str, folder: Path, config: RunConfig | None) -> tuple[ModelConfig, Sampling]:
    """How a folder's model is sized, kept and sampled: by a run file; without one as published, or as its world is."""
    if config is not None:
        return config.model.model_copy(update={"source": reference}), sampling_of(config)
    if reference.startswith("builtin:"):
        world = RunConfig(evaluation=EvaluationConfig(num_steps=SAMPLING_STEPS))
        size = {"height": SIZE, "width": SIZE, "max_sequence_length": TEXT_TOKENS}
        return ModelConfig(source=reference, **size), sampling_of(world)
    family = family_of(folder) or ModelConfig().family
    model = ModelConfig(family=family, source=reference, weights="bf16", height=FLUX_SIZE, width=FLUX_SIZE)
    return model, sampling_of(RunConfig()).model_copy(update={"guidance": find_family(family).guidance(folder)})
