"""Versions of registered models that weigh nothing, and the report that one needs."""

from collections.abc import Sequence
from pathlib import Path

from mlflow import MlflowClient

from srpo.artifacts import Evaluated, FileEntry, Snapshot
from srpo.config import ModelConfig, RunConfig
from srpo.registry.lookup import open_model
from srpo.registry.manifest import MANIFEST, Manifest, sampling_of
from srpo.report.schema import Curves, GateCheck, Provenance, Report
from srpo.tracking import connect


def weightless(transformer: Sequence[FileEntry] = (), folder: str = "/nowhere") -> Manifest:
    """A manifest whose files, unless some are given, are none, so that none is missing."""
    base = Snapshot(source="nowhere", uri="/nowhere", files=())
    weights = Snapshot(source="nowhere", uri=folder, files=tuple(transformer))
    return Manifest(model=ModelConfig(), base=base, transformer=weights, sampling=sampling_of(RunConfig()))


def fill(store: str, name: str, count: int) -> MlflowClient:
    """A registered model with some versions."""
    client = connect(store)
    open_model(client, store, name, None)
    source = Path(store.removeprefix("sqlite:///")).with_name("weightless")
    source.mkdir(exist_ok=True)
    (source / MANIFEST).write_text(weightless().model_dump_json())
    tags = {"verdict": "keep", "reason": "why not", "data.transformer_sha256": "0"}
    for _ in range(count):
        client.create_model_version(name, str(source), run_id="0" * 32, tags=tags)
    return client


def champion(client: MlflowClient, name: str) -> str:
    return str(client.get_model_version_by_alias(name, "champion").version)


def write_report(path: Path, config: RunConfig, champion: str | None) -> Evaluated:
    """A report that passed, with one limit of the gate."""
    check = GateCheck(metric="relative", against="base", limit="min_change", threshold=0.0, value=0.1, held=True)
    report = Report(
        name=config.name,
        created="2026-01-01T12:00:00+00:00",
        seconds=1,
        verdict="promote",
        reason="It rose.",
        damage=[],
        wanted="relative",
        confidence=0.95,
        num_prompts=2,
        seeds_per_prompt=1,
        models=[],
        contrasts=[],
        champion=champion,
        checks=[check],
        curves=Curves(updates=[], held_out=[], best_update=1, num_updates=1, seconds=1),
        images=[],
        provenance=Provenance(code={}, packages={}, device="cpu", hashes={}, sources={}, config={}),
    )
    path.write_text(report.model_dump_json())
    return Evaluated(report_json=str(path), report_html="", passed=True, verdict=report.verdict, reason=report.reason)
