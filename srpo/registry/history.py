"""Every move of the champion, written down before it is made: tags of the registered model, only ever added.

    champion.000007.<token>   one move as JSON; the token keeps a writer who lost its lease from replacing another's
    champion.made.000007.2    that this move to version 2 was made, written after its alias

A move without its second tag (its writer was killed, or knew of none) happened unless the champion afterwards is the
one it started from. So a crash between the entry and the alias leaves an entry that says of itself that it did not
happen, nothing has to be mended, and a champion that somebody takes back by other means has been champion.
"""

import getpass
import os
import re
import socket
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from srpo.errors import ConfigError
from srpo.strict import Strict

if TYPE_CHECKING:
    from mlflow import MlflowClient

Kind = Literal["gate", "promote", "rollback"]
CHAMPION, CHALLENGER = "champion", "challenger"
PREFIX = "champion."
KEY = re.compile(r"champion\.\d{6,}\.\w+")
"""Form of a move's tag; others may have tags that begin alike."""
LONGEST_REASON = 1000
"""Characters; databases behind MLflow keep 5,000 of a tag."""


class Move(Strict):
    """The champion goes from one version to another."""

    schema_version: Literal[1] = 1
    """Form of this entry."""
    model: str
    """Name of the registered model."""
    number: int
    """1 for its first move."""
    time: datetime = Field(default_factory=lambda: datetime.now(UTC))
    kind: Kind
    """Whether the gate moved it, or a person, forward or back."""
    before: str | None
    """Version that was champion; null if none was."""
    after: str
    """Version that becomes champion."""
    user: str = Field(default_factory=lambda: _user())
    host: str = Field(default_factory=socket.gethostname)
    run_id: str | None = None
    """The MLflow run whose gate decided."""
    verdict: str
    """Of the evaluation of the new champion."""
    gate: str
    """How many limits of the gate it kept."""
    reason: str
    made: bool = Field(default=False, exclude=True)
    """Whether its second tag says that it was made."""


def read_moves(tags: Mapping[str, str]) -> list[Move]:
    """All moves among the tags of a registered model, in order, those that did not happen too."""
    moves = [Move.model_validate_json(value) for key, value in tags.items() if KEY.fullmatch(key)]
    noted = [move.model_copy(update={"made": made_tag(move) in tags}) for move in moves]
    return sorted(noted, key=lambda move: (move.number, move.time))


def write_move(client: "MlflowClient", move: Move) -> None:
    """Add one entry, make its move, and note that it was made."""
    key = f"{PREFIX}{move.number:06d}.{uuid.uuid4().hex[:8]}"
    client.set_registered_model_tag(move.model, key, move.model_dump_json())
    client.set_registered_model_alias(move.model, CHAMPION, move.after)
    note_made(client, move)


def note_made(client: "MlflowClient", move: Move) -> None:
    """Add the second tag of a move."""
    client.set_registered_model_tag(move.model, made_tag(move), datetime.now(UTC).isoformat())


def settle(client: "MlflowClient", moves: Sequence[Move], champion: str | None) -> None:
    """Note that the last move was made, where its writer was killed before that."""
    if moves and not moves[-1].made and moves[-1].after == champion:
        note_made(client, moves[-1])


def made_tag(move: Move) -> str:
    """Name of the second tag of a move."""
    return f"{PREFIX}made.{move.number:06d}.{move.after}"


def that_happened(moves: Sequence[Move], champion: str | None) -> list[Move]:
    """The moves that were made; `champion`: the version that has the alias now."""
    afterwards = [*(move.before for move in moves[1:]), champion]
    return [move for move, version in zip(moves, afterwards, strict=False) if move.made or version != move.before]


def reign(moves: Sequence[Move]) -> list[str]:
    """The champions that led to the present one, which is the last; a rollback takes back all that came after."""
    stack: list[str] = []
    for move in moves:
        if move.before is not None and stack[-1:] != [move.before]:
            stack.append(move.before)  # moved by other means than these
        if move.kind == "rollback" and move.after in stack:
            while stack[-1] != move.after:
                stack.pop()
        if stack[-1:] != [move.after]:
            stack.append(move.after)
    return stack


def checked_reason(reason: str) -> str:
    """A reason that says something and fits; ConfigError for another."""
    reason = reason.strip()
    if not 0 < len(reason) <= LONGEST_REASON:
        raise ConfigError(f"--reason must have 1 to {LONGEST_REASON} characters, got {len(reason)}; say why in a line")
    return reason


def _user() -> str:
    """Who is logged in; containers may run as a number without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
