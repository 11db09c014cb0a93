"""Every finished run becomes a version; one that passed the gate against the reigning champion takes its place."""

from pathlib import Path
from typing import TYPE_CHECKING

from srpo.artifacts import Evaluated, PromptSets, Registered, Trained, Weights
from srpo.config import RegistryConfig, RunConfig
from srpo.control_words import words_hash
from srpo.lease import Held, lease
from srpo.provenance import code_version, data_version
from srpo.registry.champion import Standing, make
from srpo.registry.history import CHALLENGER, CHAMPION, settle
from srpo.registry.lookup import REPORT, address, all_pages, check_agreed, has_report, named, open_model
from srpo.registry.manifest import FOLDER, Manifest, log_manifest, sampling_of
from srpo.registry.version import DATA_TAG, GATE_TAG, HASH_TAG, LICENCE_TAG, SIZE_TAG, WORDS_TAG, gate_tag
from srpo.report.page import REPORT_HTML
from srpo.report.schema import Report
from srpo.report.thumbnails import IMAGES
from srpo.tracking import TrackedRun, Tracker, connect

if TYPE_CHECKING:
    from mlflow import MlflowClient

UNKNOWN_LICENCE = "not stated"


def register(
    config: RunConfig,
    weights: Weights,
    prompts: PromptSets,
    trained: Trained,
    evaluated: Evaluated,
    tracked: TrackedRun,
) -> Registered:
    """A new version by reference: the challenger, and the champion too if it passed the gate. Repeatable.

    ConfigError if the weights are gone, or if the MLflow store offers no lock and `registry.lease` names none.
    """
    client, name = connect(tracked.uri), config.registry.model_name
    report = Report.model_validate_json(Path(evaluated.report_json).read_text(encoding="utf-8"))
    manifest = Manifest(
        model=config.model,
        base=weights.model,
        transformer=trained.transformer,
        sampling=sampling_of(config),
        remote=config.storage.remote,
    )
    manifest.check_transformer()
    log_manifest(client, tracked, manifest)
    _log_report(client, tracked, Path(evaluated.report_json))
    licences = _licences(weights)
    tags = (
        code_version()
        | data_version(weights, prompts)
        | {f"{LICENCE_TAG}{subject}": terms for subject, terms in licences.items()}
        | {
            HASH_TAG: trained.transformer.sha256,
            SIZE_TAG: str(trained.transformer.size),
            DATA_TAG: prompts.data_hash,
            WORDS_TAG: words_hash(config),
            GATE_TAG: gate_tag(report.checks),
            "verdict": evaluated.verdict,
            "reason": evaluated.reason,
            "run_name": client.get_run(tracked.run_id).info.run_name,
        }
    )
    with lease(tracked.uri, config.registry.lease, name) as held:
        open_model(client, tracked.uri, name, config.registry.lease)
        version = _version_of_run(client, name, tracked) or _new_version(client, name, tracked, tags)
        _challenge(client, name, version)
        standing = Standing(client, name)
        settle(client, standing.moves, standing.champion)
        outcome = _contend(client, held, standing, version, evaluated, report, tracked)
        aliases = Standing(client, name).versions[version].aliases
    alias = next((alias for alias in (CHAMPION, CHALLENGER) if alias in aliases), "")
    uri = address(name, version)
    return Registered(name=name, version=version, alias=alias, uri=uri, outcome=outcome, licences=licences)


def _log_report(client: "MlflowClient", tracked: TrackedRun, report: Path) -> None:
    """Give the run the report that it has not made itself: it took it from an earlier run (`run --from register`)."""
    if has_report(client, tracked.run_id):
        return
    tracker, folder = Tracker(tracked), str(Path(REPORT).parent)
    for path in (report.with_name(IMAGES), report.with_name(REPORT_HTML), report):  # last, what says that all is there
        if path.exists():
            tracker.log_artifact(path, f"{folder}/{IMAGES}" if path.is_dir() else folder)


def check_lease(uri: str, config: RegistryConfig) -> None:
    """Take the lease and let it go; ConfigError, before any work, where `register` could not take it in the end."""
    with lease(uri, config.lease, config.model_name):
        check_agreed(connect(uri), uri, config.model_name, config.lease)


def _licences(weights: Weights) -> dict[str, str]:
    """What is licensed -> terms."""
    return {name: files.licence or UNKNOWN_LICENCE for name, files in weights.snapshots.items()}


def _contend(
    client: "MlflowClient",
    held: Held,
    standing: Standing,
    version: str,
    evaluated: Evaluated,
    report: Report,
    tracked: TrackedRun,
) -> str:
    """Move the champion if the gate says so of the reigning one; what became of it, in one sentence.

    A version that has been champion before, because its run was interrupted after that, is not promoted again: somebody
    may have had a reason to take it back, with `rollback` or in MLflow's own page.
    """
    champion = standing.champion and address(standing.name, standing.champion)
    if version in standing.champions:
        return "champion" if standing.champion == version else "was champion before"
    if not evaluated.passed:
        return f"challenger only; the gate: {standing.versions[version].gate_summary}"
    if champion != report.champion:
        return f"challenger only: it passed, but {_not_compared(champion, report)}"
    make(client, held, standing.next_move("gate", version, evaluated.reason, tracked.run_id))
    return f"champion, in place of {champion or 'none'}"


def _not_compared(champion: str | None, report: Report) -> str:
    """Why the evaluation says nothing of the reigning champion, and what can be done."""
    if report.undrawn and report.undrawn.reference == champion:
        return f"the champion {champion} was left out: {report.undrawn.problem}; `promote` decides by hand"
    return (
        f"was compared with {report.champion or 'no champion'}, and the champion is now {champion or 'none'}; evaluate "
        "again against it (`run --from evaluate`), or promote by hand"
    )


def _challenge(client: "MlflowClient", name: str, version: str) -> None:
    """The newest version is the challenger."""
    holder = client.get_registered_model(name).aliases.get(CHALLENGER)
    if holder is None or int(holder) < int(version):
        client.set_registered_model_alias(name, CHALLENGER, version)


def _version_of_run(client: "MlflowClient", name: str, tracked: TrackedRun) -> str | None:
    """The version this run has registered already, if it was interrupted after that."""
    entries = all_pages(client.search_model_versions, named(name))
    found = [entry for entry in entries if entry.run_id == tracked.run_id]
    return str(found[0].version) if found else None


def _new_version(client: "MlflowClient", name: str, tracked: TrackedRun, tags: dict[str, str]) -> str:
    source = f"runs:/{tracked.run_id}/{FOLDER}"
    return str(client.create_model_version(name, source=source, run_id=tracked.run_id, tags=tags).version)
