"""References to registered versions, and what is found behind them."""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from srpo.errors import ConfigError
from srpo.generate import ModelFiles
from srpo.lease import place_of
from srpo.registry.manifest import MANIFEST, Manifest
from srpo.report.schema import Report
from srpo.tracking import connect, is_unanswered

if TYPE_CHECKING:
    from mlflow import MlflowClient

REPORT = "evaluation/report.json"
LEASE_TAG = "lease"
"""Tag of a registered model: the config's `registry.lease` of all who write to it; empty for the store's own."""


def all_pages(search: Callable[..., Any], condition: str | None = None) -> list[Any]:
    """Everything that one of MLflow's searches finds; one call of it gives no more than the first page."""
    page = search(condition)
    found = list(page)
    while page.token:
        page = search(condition, page_token=page.token)
        found += page
    return found


def named(name: str) -> str:
    """The condition of such a search for one registered model; MLflow reads no escapes, but two kinds of quotes."""
    quote = '"' if "'" in name else "'"
    return f"name = {quote}{name}{quote}"


def load_manifest(uri: str, reference: str) -> Manifest:
    """The manifest behind `models:/name@alias`, `models:/name/version`, `name@alias`, or an alias held by one model.

    ConfigError if it is gone, or of another version of srpo.
    """
    client = connect(uri)
    name, version = locate(client, reference)
    source = client.get_model_version(name, version).source
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    try:
        with tempfile.TemporaryDirectory() as folder:
            path = download_artifacts(f"{source}/{MANIFEST}", dst_path=folder, tracking_uri=uri)
            return Manifest.model_validate_json(Path(path).read_text(encoding="utf-8"))
    except (MlflowException, ValidationError) as error:
        if is_unanswered(error):
            raise
        said = " ".join(str(error).split())
        raise ConfigError(f"the manifest of {address(name, version)} cannot be read ({said})") from None


def registered_files(uri: str, reference: str) -> ModelFiles:
    """The files of a registered version, whatever alias it was asked by; `reference` as in `load_manifest`."""
    name, version = locate(connect(uri), reference)
    return load_manifest(uri, f"{name}/{version}").files(address(name, version))


def load_report(uri: str, reference: str) -> Report | None:
    """The evaluation of the run that made a registered version, if it has one; `reference` as in `load_manifest`."""
    client = connect(uri)
    run_id = client.get_model_version(*locate(client, reference)).run_id
    if not run_id or not has_report(client, run_id):
        return None
    from mlflow.artifacts import download_artifacts

    with tempfile.TemporaryDirectory() as folder:
        path = download_artifacts(f"runs:/{run_id}/{REPORT}", dst_path=folder, tracking_uri=uri)
        return Report.model_validate_json(Path(path).read_text(encoding="utf-8"))


def has_report(client: "MlflowClient", run_id: str) -> bool:
    """Whether an MLflow run keeps the report of an evaluation."""
    return REPORT in (file.path for file in client.list_artifacts(run_id, str(Path(REPORT).parent)))


def load_evaluation(uri: str, reference: str, folder: Path) -> Path:
    """Bring the report of the run that made a registered version, and its pictures; the folder that holds them."""
    client = connect(uri)
    run_id = client.get_model_version(*locate(client, reference)).run_id
    if not run_id:
        raise ConfigError(f"{reference} was registered without a run, so it has no report; `evaluate` it")
    return run_evaluation(uri, run_id, folder)


def run_evaluation(uri: str, run_id: str, folder: Path) -> Path:
    """Bring the report of an MLflow run, and its pictures, into `folder`."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    try:
        return Path(download_artifacts(f"runs:/{run_id}/evaluation", dst_path=str(folder), tracking_uri=uri))
    except MlflowException as error:
        raise ConfigError(f"MLflow run {run_id} has no evaluation: {error.message}") from None


def address(name: str, version: str) -> str:
    """MLflow's own way to write a version."""
    return f"models:/{name}/{version}"


def locate(client: "MlflowClient", reference: str) -> tuple[str, str]:
    """(name, version) of a reference; ConfigError says what there is if it names nothing."""
    plain = reference.removeprefix("models:/")
    registered = all_pages(client.search_registered_models)
    models = {model.name: {key: str(value) for key, value in model.aliases.items()} for model in registered}
    if match := re.fullmatch(r"([^@/]+)@([^@/]+)", plain):
        name, alias = match.groups()
        candidates = [(name, models.get(name, {}).get(alias))]
    elif match := re.fullmatch(r"([^@/]+)/(\d+)", plain):
        name, number = match.groups()
        entries = all_pages(client.search_model_versions, named(name)) if name in models else []
        candidates = [(name, number) for entry in entries if str(entry.version) == number]
    else:
        candidates = [(name, aliases[plain]) for name, aliases in models.items() if plain in aliases]
    found = [(name, version) for name, version in candidates if version is not None]
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{name}@{alias}" for name, aliases in models.items() for alias in aliases) or "none yet"
    problem = "names several registered models" if found else "is no folder and names no registered model"
    raise ConfigError(f"{reference} {problem}; registered: {known}")


def only_model(client: "MlflowClient", name: str | None) -> str:
    """A registered model by its name, or the only one there is; ConfigError says what there is."""
    known = sorted(model.name for model in all_pages(client.search_registered_models))
    if name in known:
        return str(name)
    if name is None and len(known) == 1:
        return known[0]
    problem = f"no registered model is named {name!r}" if name else "several models, or none: name one"
    raise ConfigError(f"{problem}; registered: {', '.join(known) or 'none yet'}")


def lease_place(client: "MlflowClient", name: str) -> str | None:
    """The `registry.lease` that a registered model was made with."""
    return client.get_registered_model(name).tags.get(LEASE_TAG) or None


def open_model(client: "MlflowClient", uri: str, name: str, lease: str | None) -> None:
    """The registered model, made on first use; ConfigError if others write to it under another lease."""
    check_agreed(client, uri, name, lease)
    if not _exists(client, name):
        client.create_registered_model(name, tags={LEASE_TAG: lease or ""})


def check_agreed(client: "MlflowClient", uri: str, name: str, lease: str | None) -> None:
    """ConfigError if a registered model is there and its champion moves under another lease."""
    agreed = lease_place(client, name) if _exists(client, name) else lease
    if agreed != lease and place_of(uri, agreed) != place_of(uri, lease):
        raise ConfigError(
            f"the champion of {name} moves under the lease {agreed or 'of the MLflow store'}, this run says "
            f"{lease or 'null'}; set registry.lease to the same, or change the tag {LEASE_TAG!r} of the model while "
            "nobody writes to it"
        )


def _exists(client: "MlflowClient", name: str) -> bool:
    return bool(client.search_registered_models(named(name)))
