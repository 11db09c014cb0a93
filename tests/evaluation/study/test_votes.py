"""Files of votes: complete, partial, doubled, contradicting, damaged, foreign; no valid vote is lost or doubled."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from srpo.errors import ConfigError
from srpo.evaluation.study.page import QUESTIONS, KeyPair, StudyKey
from srpo.evaluation.study.pairs import Side
from srpo.evaluation.study.votes import load_key, merge_votes

START = datetime(2026, 1, 1, tzinfo=UTC)
PAIRS = [KeyPair(pair=f"p{i}", prompt=f"prompt {i}", seed=i, reference=f"r{i}", candidate=f"c{i}") for i in range(5)]
KEY = StudyKey(
    study="s",
    reference=Side(name="base", transformer_sha256="0" * 64),
    candidate=Side(name="new", transformer_sha256="1" * 64),
    pairs=PAIRS,
)
ALL = [(pair, question) for pair in PAIRS for question in QUESTIONS]


def vote(pair: KeyPair, question: str, choice: str = "candidate", minute: int = 0) -> dict[str, Any]:
    answer = {"candidate": pair.candidate, "reference": pair.reference, "neither": None}[choice]
    at = (START + timedelta(minutes=minute)).isoformat()
    return {"pair": pair.pair, "question": question, "choice": answer, "at": at}


def save(path: Path, votes: list[dict[str, Any]], voter: str = "ann", **changes: Any) -> Path:
    file = {"schema_version": 1, "study": "s", "voter": voter, "saved": START.isoformat(), "votes": votes}
    path.write_text(json.dumps(file | changes))
    return path


def test_complete_and_partial_files_are_counted_and_told_apart(tmp_path: Path) -> None:
    whole = save(tmp_path / "ann.json", [vote(*step) for step in ALL])
    part = save(tmp_path / "bob.json", [vote(*step, "reference") for step in ALL[:6]], voter="bob")
    study = merge_votes([part, whole], KEY)
    assert [(ballot.file, ballot.outcome, ballot.num_votes) for ballot in study.ballots] == [
        ("bob.json", "partial", 6),
        ("ann.json", "complete", 20),
    ]
    assert (study.num_voters, study.num_pairs) == (2, 5)
    realism = study.preferences[0]
    assert (realism.question, realism.for_candidate, realism.for_reference) == ("realism", 5, 2)
    assert realism.rate == pytest.approx(5 / 7)
    assert [row.question for row in study.preferences] == list(QUESTIONS)


def test_a_file_twice_and_an_earlier_save_count_once(tmp_path: Path) -> None:
    votes = [vote(*step) for step in ALL]
    files = [save(tmp_path / f"{name}.json", part) for name, part in (("early", votes[:8]), ("a", votes), ("b", votes))]
    study = merge_votes([*files, files[1]], KEY)
    assert {ballot.file: ballot.outcome for ballot in study.ballots} == {
        "early.json": "duplicate",
        "a.json": "complete",
        "b.json": "duplicate",
    }
    assert len(study.ballots) == 3
    assert sum(row.for_candidate for row in study.preferences) == 20


def test_pairs_of_one_prompt_are_worth_no_more_than_the_prompt(tmp_path: Path) -> None:
    """Ten voters who agree, on pairs of two prompts, of which one is preferred and the other is not."""
    names = ("one", "one", "one", "two", "two")
    key = KEY.model_copy(
        update={"pairs": [pair.model_copy(update={"prompt": of}) for pair, of in zip(PAIRS, names, strict=True)]}
    )
    choices = ["candidate" if prompt == "one" else "reference" for prompt in names]
    answers = [vote(pair, "overall", choice) for pair, choice in zip(PAIRS, choices, strict=True)]
    files = [save(tmp_path / f"{voter}.json", answers, str(voter)) for voter in range(10)]
    (told,), (as_if_apart,) = (merge_votes(files, of).preferences for of in (key, KEY))
    assert told.rate == as_if_apart.rate
    assert told.upper - told.lower > as_if_apart.upper - as_if_apart.lower


def test_two_halves_of_one_voter_are_all_kept(tmp_path: Path) -> None:
    files = [save(tmp_path / f"{half}.json", [vote(*step) for step in ALL[half::2]]) for half in (0, 1)]
    study = merge_votes(files, KEY)
    assert [ballot.outcome for ballot in study.ballots] == ["partial", "partial"]
    assert study.num_voters == 1
    assert sum(row.for_candidate for row in study.preferences) == 20


@pytest.mark.parametrize("swap", [False, True])
def test_of_contradicting_votes_the_later_counts_and_it_is_said(tmp_path: Path, swap: bool) -> None:
    old = save(tmp_path / "old.json", [vote(*ALL[0], "candidate"), vote(*ALL[4], "candidate", minute=9)])
    new = save(tmp_path / "new.json", [vote(*ALL[0], "neither", minute=5), vote(*ALL[4], "candidate", minute=9)])
    study = merge_votes([new, old] if swap else [old, new], KEY)
    (realism,) = study.preferences
    assert (realism.for_candidate, realism.ties) == (1, 1)
    assert sorted(ballot.note for ballot in study.ballots) == [
        "",
        "1 votes differ from another file of this voter; the later ones count",
    ]


def test_what_a_file_cannot_have_is_left_out_and_the_rest_counts(tmp_path: Path) -> None:
    foreign = vote(*ALL[0]) | {"choice": "c4"}  # a picture of another pair
    unknown = vote(*ALL[1]) | {"pair": "p99"}
    study = merge_votes([save(tmp_path / "a.json", [vote(*ALL[2]), foreign, unknown])], KEY)
    assert study.ballots[0].note == "2 votes on pictures or questions that this study has not are left out"
    assert sum(row.for_candidate for row in study.preferences) == 1


@pytest.mark.parametrize(
    "broken", [{"at": "yesterday"}, {"at": "2026-01-01T00:00:00"}, {"pair": 7}, {"because": "nicer"}]
)
def test_a_malformed_vote_does_not_take_the_valid_ones_with_it(tmp_path: Path, broken: dict[str, Any]) -> None:
    votes = [vote(*ALL[0]), vote(*ALL[1]) | broken, vote(*ALL[2])]
    study = merge_votes([save(tmp_path / "a.json", votes), save(tmp_path / "b.json", votes[:1])], KEY)
    assert study.ballots[0].note == "1 votes are malformed or without a time zone and are left out"
    assert [(ballot.outcome, ballot.num_votes) for ballot in study.ballots] == [("partial", 3), ("duplicate", 1)]
    assert sum(row.for_candidate for row in study.preferences) == 2


def test_a_file_of_malformed_votes_alone_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no votes to merge \(.*a\.json: 2 votes are malformed"):
        merge_votes([save(tmp_path / "a.json", [{}, "vote"])], KEY)  # type: ignore[list-item]


@pytest.mark.parametrize("swap", [False, True])
def test_of_votes_repeated_in_one_file_the_later_counts_and_it_is_said(tmp_path: Path, swap: bool) -> None:
    votes = [vote(*ALL[0], "candidate"), vote(*ALL[0], "reference", minute=5)]
    study = merge_votes([save(tmp_path / "a.json", votes[::-1] if swap else votes)], KEY)
    (realism,) = study.preferences
    assert (realism.for_candidate, realism.for_reference) == (0, 1)
    assert study.ballots[0].note == "1 votes are given again in this file; the later ones count"


def test_damaged_and_foreign_files_are_rejected_beside_good_ones(tmp_path: Path) -> None:
    good = save(tmp_path / "good.json", [vote(*ALL[0])])
    cut = tmp_path / "cut.json"
    cut.write_text(good.read_text()[:-20])
    other = save(tmp_path / "other.json", [vote(*ALL[0])], study="another")
    study = merge_votes([cut, good, other, tmp_path / "gone.json"], KEY)
    assert [ballot.outcome for ballot in study.ballots] == ["rejected", "partial", "rejected", "rejected"]
    assert study.ballots[2].note == "of another study"
    with pytest.raises(ConfigError, match=r"no votes to merge \(.*cut\.json: no votes file"):
        merge_votes([cut, other], KEY)


def test_a_key_that_is_none_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "votes.json", [])
    with pytest.raises(ConfigError, match="is no key that `study new` wrote"):
        load_key(path)
