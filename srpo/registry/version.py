"""What the registry holds, as `status` shows it."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from srpo.registry.history import CHAMPION, Move, read_moves
from srpo.registry.lookup import address, all_pages, locate, named
from srpo.report.schema import GateCheck
from srpo.strict import Strict
from srpo.tracking import connect

if TYPE_CHECKING:
    from mlflow import MlflowClient

GATE_TAG, HASH_TAG, SIZE_TAG = "gate", "data.transformer_sha256", "data.transformer_bytes"
LICENCE_TAG = "licence."
DATA_TAG, WORDS_TAG = "data_hash", "words_hash"
"""What a version was trained on, as `run --if-new-data` compares it."""


class GateResult(GateCheck):
    """One limit of the gate, as a version remembers it."""

    @property
    def margin(self) -> float | None:
        """How far the value is on the right side of the threshold; 0 may be too little, as of the wanted metric."""
        if self.value is None:
            return None
        return self.value - self.threshold if self.limit.startswith("min") else self.threshold - self.value

    def __str__(self) -> str:
        return f"{self.metric} against {self.against}: {self.limit} {self.threshold:g}, {self._reached}"

    @property
    def _reached(self) -> str:
        if self.margin is None:
            return "no ratio"
        if self.held:
            return f"spare {self.margin:.3g}"
        return f"short by {-self.margin:.3g}" if self.margin else "reached, but not exceeded"


class Version(Strict):
    """One version in the registry."""

    name: str
    version: str
    aliases: tuple[str, ...]
    created: datetime
    """UTC."""
    run_name: str
    run_id: str
    verdict: str
    reason: str
    gate: tuple[GateResult, ...]
    licences: dict[str, str]
    """What is licensed (model, reward, ...) -> terms, as far as its source states them."""
    size: int
    """Bytes of the transformer."""
    data_hash: str = ""
    """State of the prompt files and images it was trained on; empty if it was registered without."""
    words_hash: str = ""
    """Of the control words it was trained with, likewise."""
    ours: bool
    """Whether srpo registered it; a shared server holds models of others too."""

    @property
    def reference(self) -> str:
        """`name/version`."""
        return f"{self.name}/{self.version}"

    @property
    def uri(self) -> str:
        """`models:/name/version`."""
        return address(self.name, self.version)

    @property
    def gate_summary(self) -> str:
        """How many limits were kept."""
        return count_held(self.gate)


def count_held(gate: Sequence[GateResult]) -> str:
    """How many limits of a gate were kept, and by how much each of the others was broken."""
    broken = "".join(f"; {result}" for result in gate if not result.held)
    return f"{sum(result.held for result in gate)} of {len(gate)} held{broken}" if gate else "no limits"


def gate_tag(checks: Sequence[GateCheck]) -> str:
    """The checks of a report as the value of a version's tag."""
    return json.dumps([check.model_dump(mode="json") for check in checks])


def versions(uri: str) -> list[Version]:
    """All registered versions, newest first within each model."""
    client = connect(uri)
    found = [entry for model in all_pages(client.search_registered_models) for entry in versions_of(client, model)]
    return sorted(found, key=lambda entry: (entry.name, -int(entry.version)))


def versions_of(client: "MlflowClient", model: Any) -> list[Version]:
    """All versions of one of MLflow's registered models."""
    names: dict[str, list[str]] = {}
    for alias, version in model.aliases.items():
        names.setdefault(str(version), []).append(alias)
    entries = all_pages(client.search_model_versions, named(model.name))
    return [_version(entry, tuple(sorted(names.get(str(entry.version), [])))) for entry in entries]


def find_version(uri: str, reference: str) -> Version:
    """The version behind a reference; `reference` as in `load_manifest`."""
    client = connect(uri)
    name, number = locate(client, reference)
    return next(entry for entry in versions_of(client, client.get_registered_model(name)) if entry.version == number)


def holder(uri: str, name: str, alias: str) -> Version | None:
    """The version of a registered model that has an alias; None if nobody has it, or there is no such model."""
    client = connect(uri)
    models = client.search_registered_models(named(name))
    return next((entry for model in models for entry in versions_of(client, model) if alias in entry.aliases), None)


def champion_moves(uri: str) -> dict[str, tuple[list[Move], str | None]]:
    """Model -> all moves of its champion, in order, those that did not happen too; the champion."""
    found = {}
    for model in all_pages(connect(uri).search_registered_models):
        champion = model.aliases.get(CHAMPION)
        found[model.name] = read_moves(model.tags), None if champion is None else str(champion)
    return found


def _version(entry: Any, aliases: tuple[str, ...]) -> Version:
    """A version of MLflow's; of one that is not ours, which may have tags of the same names, no more than its text."""
    tags: dict[str, str] = entry.tags
    ours = HASH_TAG in tags
    return Version(
        name=entry.name,
        version=str(entry.version),
        aliases=aliases,
        created=datetime.fromtimestamp(entry.creation_timestamp / 1000, UTC),
        run_name=tags.get("run_name", ""),
        run_id=entry.run_id or "",
        verdict=tags.get("verdict", ""),
        reason=tags.get("reason", ""),
        gate=tuple(
            GateResult.model_validate(result) for result in json.loads(tags.get(GATE_TAG, "[]") if ours else "[]")
        ),
        licences={key.removeprefix(LICENCE_TAG): text for key, text in tags.items() if key.startswith(LICENCE_TAG)},
        size=int(tags.get(SIZE_TAG, "0")),
        data_hash=tags.get(DATA_TAG, ""),
        words_hash=tags.get(WORDS_TAG, ""),
        ours=ours,
    )
