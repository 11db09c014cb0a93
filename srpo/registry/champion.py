"""The champion moves: under a lease, one entry of the history, then the alias."""

from typing import TYPE_CHECKING

from srpo.errors import ConfigError
from srpo.lease import Held, lease
from srpo.registry.history import (
    CHAMPION,
    LONGEST_REASON,
    Kind,
    Move,
    checked_reason,
    read_moves,
    reign,
    that_happened,
    write_move,
)
from srpo.registry.lookup import address, lease_place, load_manifest, locate, only_model
from srpo.registry.version import Version, versions_of
from srpo.tracking import connect

if TYPE_CHECKING:
    from mlflow import MlflowClient


class Standing:
    """A registered model as it stands while its lease is held."""

    def __init__(self, client: "MlflowClient", name: str) -> None:
        model = client.get_registered_model(name)
        self.name = name
        self.champion = str(model.aliases[CHAMPION]) if CHAMPION in model.aliases else None
        self.moves = read_moves(model.tags)
        self.versions: dict[str, Version] = {entry.version: entry for entry in versions_of(client, model)}

    @property
    def champions(self) -> list[str]:
        """Every version that has been champion."""
        return [move.after for move in that_happened(self.moves, self.champion)]

    @property
    def previous(self) -> str | None:
        """The champion before the present one, of those that are still registered; None if there is none."""
        line = reign(that_happened(self.moves, self.champion))
        if self.champion in line:
            line = line[: len(line) - line[::-1].index(self.champion)]  # taken back by other means
        else:
            line.append(str(self.champion))  # the alias was moved by other means
        before = [version for version in line[:-1] if version in self.versions and version != self.champion]
        return before[-1] if before else None

    def next_move(self, kind: Kind, version: str, reason: str, run_id: str | None = None) -> Move:
        """The entry that a move to `version` would be."""
        return Move(
            model=self.name,
            number=self.moves[-1].number + 1 if self.moves else 1,
            kind=kind,
            before=self.champion,
            after=version,
            run_id=run_id,
            verdict=self.versions[version].verdict,
            gate=self.versions[version].gate_summary[:LONGEST_REASON],
            reason=reason[:LONGEST_REASON],
        )


def make(client: "MlflowClient", held: Held, move: Move) -> Move:
    """Write a move down, then make it. UnreachableError, and nothing done, if the lease was lost."""
    held.confirm()
    write_move(client, move)
    return move


def promote(uri: str, reference: str, reason: str) -> Move:
    """Make a version champion by hand, whatever its gate said; `reference` as in `load_manifest`.

    ConfigError if it is the champion already, or if its weights are neither on this machine nor in its copy.
    """
    reason, client = checked_reason(reason), connect(uri)
    name, version = locate(client, reference)
    load_manifest(uri, address(name, version)).check_transformer()
    with lease(uri, lease_place(client, name), name) as held:
        standing = Standing(client, name)
        if version not in standing.versions:
            raise ConfigError(f"version {version} of {name} has just been deleted; `status` lists what there is")
        if version == standing.champion:
            raise ConfigError(f"version {version} of {name} is the champion already")
        return make(client, held, standing.next_move("promote", version, reason))


def rollback(uri: str, name: str | None, reason: str) -> Move:
    """Give the champion back to the version that had it before; a second rollback goes one further back.

    `name`: a registered model; None for the only one. ConfigError if no earlier champion is left, or if its weights are
    neither on this machine nor in its copy.
    """
    reason, client = checked_reason(reason), connect(uri)
    name = only_model(client, name)
    with lease(uri, lease_place(client, name), name) as held:
        standing = Standing(client, name)
        if standing.previous is None:
            raise ConfigError(f"{name} has no earlier champion to go back to; `promote` makes any version champion")
        load_manifest(uri, address(name, standing.previous)).check_transformer()
        return make(client, held, standing.next_move("rollback", standing.previous, reason))
