"""What `--model` names: a folder, a transformer with its base, or a registered model; found before it is loaded."""

from pathlib import Path

from srpo.config import EvaluationConfig, ModelConfig, RunConfig
from srpo.errors import ConfigError
from srpo.generate import ModelFiles
from srpo.hub import fetch, is_remote, resolve, snapshot
from srpo.models import family_of
from srpo.models.layout import compare_shapes, file_shapes, folder_shapes
from srpo.models.weights import ADAPTER
from srpo.registry import registered_files, sampling_of
from srpo.shapes import SAMPLING_STEPS, SIZE
from srpo.shapes.models import TEXT_TOKENS

FLUX_SIZE = 1024  # what FLUX.1-dev is sampled at by its own pipeline


def find_model(
    reference: str, config: RunConfig | None = None, uri: str | None = None, base: str | None = None
) -> ModelFiles:
    """The files behind a reference, hashed, before anything is loaded.

    A registered model brings its own settings. A folder is sized and sampled as `config` says. With `base`, `reference`
    is a transformer (file or folder) and the rest comes from the base's folder. `uri`: the MLflow store to look in;
    None where there is none yet.
    """
    if base is not None:
        return _transformer_with_base(Path(reference).expanduser(), base, config)
    if names_files(reference):
        folder = _folder(reference)
        settings = config or _default_config(reference, folder)
        if folder.is_file() or not (folder / "transformer").is_dir():
            raise ConfigError(f"--model {reference} is no whole diffusers folder; if it is a transformer, give --base")
        return ModelFiles(
            reference=reference,
            model=settings.model,
            base=folder,
            transformer_sha256=snapshot(folder / "transformer", reference).sha256,
            sampling=sampling_of(settings),
        )
    if uri is None:
        raise ConfigError(
            f"--model {reference} is no folder, and nothing is registered here yet; give a folder or `run`"
        )
    if config is not None:
        raise ConfigError(f"--config is for folders; the registered model {reference} brings its own settings")
    return registered_files(uri, reference)


def names_files(reference: str) -> bool:
    """Whether a reference names files, and not a registered model."""
    return is_remote(reference) or reference.startswith("builtin:") or Path(reference).expanduser().exists()


def _folder(reference: str) -> Path:
    """A model folder on this machine; what is remote is fetched."""
    return fetch(reference, "model").path if is_remote(reference) else resolve(reference, "model")


def _transformer_with_base(transformer: Path, base: str, config: RunConfig | None) -> ModelFiles:
    if not transformer.exists():
        raise ConfigError(f"--model {transformer}: nothing there; with --base, give a transformer's file or folder")
    folder = _folder(base)
    settings = config or _default_config(base, folder)
    if not (transformer / ADAPTER).is_file():
        shapes = file_shapes(transformer) if transformer.is_file() else folder_shapes(transformer)
        compare_shapes(str(transformer), folder_shapes(folder / "transformer"), shapes)
    return ModelFiles(
        reference=str(transformer),
        model=settings.model,
        base=folder,
        transformer=transformer.resolve(),
        transformer_sha256=snapshot(transformer, str(transformer)).sha256,
        sampling=sampling_of(settings),
    )


def _default_config(reference: str, folder: Path) -> RunConfig:
    """Size and sampling of a folder that comes without a run file: the defaults, or the embedded world's."""
    if not reference.startswith("builtin:"):
        family = family_of(folder) or ModelConfig().family
        return RunConfig(model=ModelConfig(family=family, source=reference, height=FLUX_SIZE, width=FLUX_SIZE))
    model = ModelConfig(source=reference, height=SIZE, width=SIZE, max_sequence_length=TEXT_TOKENS)
    return RunConfig(model=model, evaluation=EvaluationConfig(num_steps=SAMPLING_STEPS))
