"""What the history says of itself: which moves happened, and who was champion before."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from srpo.errors import ConfigError
from srpo.registry.history import Kind, Move, checked_reason, read_moves, reign, that_happened

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def move(number: int, before: str | None, after: str, kind: Kind = "promote") -> Move:
    time = NOON + timedelta(minutes=number)
    return Move(
        model="m", number=number, time=time, kind=kind, before=before, after=after, verdict="", gate="", reason="why"
    )


def test_a_move_that_a_crash_cut_short_did_not_happen() -> None:
    """1 -> 2 was written down, then the process died; 1 -> 3 came after it."""
    moves = [move(1, None, "1"), move(2, "1", "2"), move(3, "1", "3")]
    assert [entry.number for entry in that_happened(moves, "3")] == [1, 3]
    assert [entry.number for entry in that_happened(moves[:2], "1")] == [1]
    assert [entry.number for entry in that_happened(moves[:2], "2")] == [1, 2]
    assert that_happened([], None) == []


def test_a_champion_that_was_moved_on_by_other_means_has_been_champion() -> None:
    """1 -> 2, then the alias was moved in MLflow's own page: elsewhere, or back to 1."""
    last = move(2, "1", "2")
    made = last.model_copy(update={"made": True})
    assert that_happened([last], "3") == [last]
    assert that_happened([last], "1") == [], "or else it was cut short"
    for champion in ("1", "2", "3", None):
        assert that_happened([made], champion) == [made]
    assert that_happened([made, move(3, "1", "4")], "4")[0] == made


def test_what_was_made_is_a_tag_beside_the_entry() -> None:
    tags = {
        "champion.000002.a": move(2, "1", "2").model_dump_json(),
        "champion.000003.b": move(3, "2", "3").model_dump_json(),
    }
    assert [entry.made for entry in read_moves(tags)] == [False, False], "entries of before there was such a tag"
    assert [entry.made for entry in read_moves(tags | {"champion.made.000002.2": ""})] == [True, False]


def test_of_two_writers_with_one_number_both_entries_stay() -> None:
    first, second = move(2, "1", "2"), move(2, "1", "3").model_copy(update={"time": NOON + timedelta(hours=1)})
    tags = {"champion.000002.b": second.model_dump_json(), "champion.000002.a": first.model_dump_json(), "lease": ""}
    tags["champion.since"] = "2024-05-01"  # somebody else's
    moves = read_moves(tags)
    assert [entry.after for entry in moves] == ["2", "3"]
    assert [entry.after for entry in that_happened(moves, "3")] == ["3"]


def test_rollbacks_take_moves_back_like_an_undo_does() -> None:
    """Against a list that is pushed to and popped, over random promotions and rollbacks."""
    for seed in range(50):
        draw, expected, moves = random.Random(seed), ["1"], [move(1, None, "1", "gate")]
        for number in range(2, 30):
            if len(expected) > 1 and draw.random() < 0.4:
                before = expected.pop()
                moves.append(move(number, before, expected[-1], "rollback"))
            else:
                target = draw.choice([version for version in "12345" if version != expected[-1]])
                moves.append(move(number, expected[-1], target))
                expected.append(target)
        assert reign(moves) == expected


def test_a_champion_that_was_made_by_other_means_is_one_to_go_back_to() -> None:
    assert reign([move(1, "7", "8"), move(2, "9", "10")]) == ["7", "8", "9", "10"]


@pytest.mark.parametrize("reason", ["", "  \n", "x" * 1001])
def test_a_reason_says_something_and_fits(reason: str) -> None:
    with pytest.raises(ConfigError, match="--reason must have 1 to 1000 characters"):
        checked_reason(reason)
