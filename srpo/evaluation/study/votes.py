"""What voters saved: read strictly, merged without losing a vote, and told file by file.

A vote is known by voter, pair and question. The same vote in two files counts once; where votes of one voter contradict
each other, in two files or in one, the later one counts. What a file cannot have is said, and the rest of it is used.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from srpo.errors import ConfigError, first_problem
from srpo.evaluation.study.page import QUESTIONS, KeyPair, StudyKey
from srpo.evaluation.study.rates import Opinion, preference
from srpo.report.schema import Ballot, Study
from srpo.strict import Strict

CONFIDENCE = 0.95
"""Of the intervals."""


class Vote(Strict):
    """One answer."""

    pair: str
    question: str
    choice: str | None
    """Random name of the preferred picture; null for no difference."""
    at: AwareDatetime
    """When it was given, by the voter's clock, with its time zone: without one nothing says which vote is the later."""


def _vote_or_none(value: Any, validate: ValidatorFunctionWrapHandler) -> Vote | None:
    try:
        vote: Vote = validate(value)
    except ValidationError:
        return None
    return vote


class VoteFile(Strict):
    """What the page saves."""

    schema_version: Literal[1]
    study: str
    voter: str = Field(min_length=1)
    saved: datetime
    votes: list[Annotated[Vote | None, WrapValidator(_vote_or_none)]]
    """None in the place of what is no vote."""


Slot = tuple[str, str, str]
"""(voter, pair, question)."""


def load_key(path: Path) -> StudyKey:
    """The key of a study."""
    try:
        return StudyKey.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise ConfigError(f"--key {path} is no key that `study new` wrote ({_problem(error)})") from None


def merge_votes(paths: Sequence[Path], key: StudyKey) -> Study:
    """Everything that the files say together; ConfigError if none of them holds a vote of this study."""
    read = {path: _read(path, key) for path in dict.fromkeys(paths)}
    files = {path: found for path, found in read.items() if isinstance(found, VoteFile)}
    ballots = {path: found for path, found in read.items() if isinstance(found, Ballot)}
    pairs = {pair.pair: pair for pair in key.pairs}
    counted: dict[Slot, Vote] = {}
    for path, file in sorted(files.items(), key=lambda item: -len(item[1].votes)):  # a whole file before its parts
        ballots[path] = _count(path, file, pairs, counted)
    if not counted:
        reasons = "; ".join(f"{path}: {ballot.note}" for path, ballot in ballots.items())
        raise ConfigError(f"no votes to merge ({reasons})")
    return Study(
        study=key.study,
        reference=key.reference.name,
        candidate=key.candidate.name,
        confidence=CONFIDENCE,
        num_pairs=len({pair for _, pair, _ in counted}),
        num_voters=len({voter for voter, _, _ in counted}),
        preferences=[
            preference(question, opinions, CONFIDENCE)
            for question in QUESTIONS
            if (opinions := list(_opinions(counted, pairs, question)))
        ],
        ballots=[ballots[path] for path in read],
    )


def _read(path: Path, key: StudyKey) -> VoteFile | Ballot:
    """The file, or why it cannot be used."""
    try:
        file = VoteFile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        return Ballot(
            file=path.name, voter="", outcome="rejected", num_votes=0, note=f"no votes file: {_problem(error)}"
        )
    if file.study != key.study:
        return Ballot(
            file=path.name, voter=file.voter, outcome="rejected", num_votes=len(file.votes), note="of another study"
        )
    return file


def _count(path: Path, file: VoteFile, pairs: Mapping[str, KeyPair], counted: dict[Slot, Vote]) -> Ballot:
    """Add a file's votes to those counted so far."""
    votes = [vote for vote in file.votes if vote is not None]
    valid = [vote for vote in votes if _is_valid(vote, pairs)]
    own: dict[Slot, Vote] = {}
    for vote in valid:
        _take(vote, file.voter, own)
    known = {slot: counted[slot] for slot in own if slot in counted}
    contradicted = [slot for slot in known if known[slot].choice != own[slot].choice]
    for vote in own.values():
        _take(vote, file.voter, counted)
    notes = {
        "votes are malformed or without a time zone and are left out": len(file.votes) - len(votes),
        "votes on pictures or questions that this study has not are left out": len(votes) - len(valid),
        "votes are given again in this file; the later ones count": len(valid) - len(own),
        "votes differ from another file of this voter; the later ones count": len(contradicted),
    }
    return Ballot(
        file=path.name,
        voter=file.voter,
        outcome=_outcome(len(own), len(known), len(contradicted), len(pairs) * len(QUESTIONS)),
        num_votes=len(file.votes),
        note="; ".join(f"{count} {note}" for note, count in notes.items() if count),
    )


def _take(vote: Vote, voter: str, votes: dict[Slot, Vote]) -> None:
    """Add a vote, unless there is one on the same that was given as late."""
    slot = voter, vote.pair, vote.question
    if slot not in votes or vote.at > votes[slot].at:
        votes[slot] = vote


def _outcome(
    valid: int, known: int, contradicted: int, wanted: int
) -> Literal["complete", "partial", "duplicate", "rejected"]:
    if valid == 0:
        return "rejected"
    if known == valid and not contradicted:
        return "duplicate"
    return "complete" if valid == wanted else "partial"


def _is_valid(vote: Vote, pairs: Mapping[str, KeyPair]) -> bool:
    """Whether the study has asked this, and offered that answer."""
    pair = pairs.get(vote.pair)
    return pair is not None and vote.question in QUESTIONS and vote.choice in (pair.reference, pair.candidate, None)


def _opinions(counted: Mapping[Slot, Vote], pairs: Mapping[str, KeyPair], question: str) -> Iterator[Opinion]:
    for (voter, name, asked), vote in counted.items():
        if asked == question:
            pair = pairs[name]
            value = 0.5 if vote.choice is None else float(vote.choice == pair.candidate)
            yield Opinion(voter, pair.prompt, value)


def _problem(error: OSError | ValidationError) -> str:
    return first_problem(error) if isinstance(error, ValidationError) else error.strerror or str(error)
